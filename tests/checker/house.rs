//! The service of one history, behind a door whose address stays the same however often it is started.

use std::{net::SocketAddr, sync::Arc};

use deia::sim::Sim;

use crate::{
    clients::Stage,
    place::{Place, Record, Servers},
    plan::{Fault, Plan},
    proxy::Proxy,
    shared::support::{Database, Deia, Home, InProcess, Signal},
};

/// Budgets that no history exhausts, so that it is always healed; and waits.
const KEYS: [(&str, &str); 5] = [
    ("supervision.root_restarts", "1000"),
    ("supervision.bot_restarts", "1000"),
    ("supervision.allow_kill", "true"),
    ("bots.conversation_queue", "64"),
    // Less than the patience of clients, so that they are told of a database that is frozen.
    ("storage.acquire_timeout_s", "5"),
];

enum Service {
    Here(InProcess),
    There(Option<Deia>),
}

/// The service, its data and its door.
pub struct House {
    place: Place,
    home: Option<Home>,
    service: Service,
    door: Proxy,
}

fn address(url: &str) -> SocketAddr {
    url.trim_start_matches("http://").parse().expect("an address")
}

impl House {
    /// Starts the service that the plan wants.
    pub async fn start(plan: &Plan, sim: &Sim, servers: &Arc<Servers>) -> Self {
        let place = Place::new(plan.database, servers).await;
        let settings = place.settings();
        let mut keys: Vec<_> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
        keys.extend(KEYS);
        let door = Proxy::start().await;
        let (home, service) = if plan.binary {
            let mut home = Home::with(Database::Sqlite)
                .env("DEIA_INFERENCE__SERVERS", sim.url())
                .env("DEIA_INFERENCE__SLOTS", "32")
                .env("DEIA_SERVER__DRAIN_S", "1");
            for (key, value) in keys {
                home = home.env(&format!("DEIA_{}", key.replace('.', "__").to_uppercase()), value);
            }
            let deia = home.start().await;
            door.lead_to(Some(address(deia.url())));
            (Some(home), Service::There(Some(deia)))
        } else {
            let here = InProcess::start(sim, &keys).await;
            door.lead_to(Some(address(&here.url)));
            (None, Service::Here(here))
        };
        Self { place, home, service, door }
    }

    /// Where clients find it.
    pub fn url(&self) -> String {
        format!("http://{}", self.door.address())
    }

    /// Does what is planned to go wrong. Returns when the service is there again.
    pub async fn suffer(&mut self, fault: Fault, stage: &Stage) {
        match fault {
            Fault::CutClients => self.door.cut(),
            Fault::Bot { bot, how } => {
                let path = format!("{}/api/bot/{}/kill", stage.url, stage.bots[bot].id);
                let http = reqwest::Client::builder().no_proxy().build().expect("a client");
                // Refused while the bot is being restarted; then it is down already.
                let _ = http.post(path).json(&serde_json::json!({"how": how})).send().await;
            }
            Fault::Actor(name) => {
                let Service::Here(here) = &self.service else { return };
                let name = match name {
                    "server" => here.controller.servers()[0].name.clone(),
                    other => other.to_owned(),
                };
                // False where it is down already.
                here.controller.kill_actor(&name);
            }
            Fault::Kill | Fault::Terminate => self.restart(fault == Fault::Kill, stage).await,
            Fault::CutDatabase | Fault::CutAfterCommit | Fault::KillDatabase | Fault::FreezeDatabase(_) => {
                self.place.suffer(fault).await
            }
        }
    }

    async fn restart(&mut self, kill: bool, stage: &Stage) {
        let (Service::There(deia), Some(home)) = (&mut self.service, &self.home) else { return };
        let Some(old) = deia.take() else { return };
        stage.up.send_replace(false);
        if kill {
            stage.notes.lock().process_died = true;
            old.kill().await;
        } else {
            old.signal(Signal::Terminate);
            let status = old.ended().await;
            assert!(status.success(), "SIGTERM ended it with {status}");
        }
        self.door.lead_to(None);
        let new = home.start().await;
        self.door.lead_to(Some(address(new.url())));
        *deia = Some(new);
        stage.up.send_replace(true);
    }

    /// Waits until every actor is up.
    pub async fn heal(&self) {
        if let Service::Here(here) = &self.service {
            here.ready().await;
        }
    }

    /// How often an answer of the database to a client's message was kept back.
    pub fn cut_commits(&self) -> usize {
        self.place.cut_commits()
    }

    /// Stops the service in good order and opens its record.
    pub async fn close(self) -> Record {
        match self.service {
            Service::Here(here) => here.stop().await.expect("a good end"),
            Service::There(deia) => {
                let status = deia.expect("the service runs").terminate().await;
                assert!(status.success(), "SIGTERM ended it with {status}");
            }
        }
        self.place.open().await
    }
}
