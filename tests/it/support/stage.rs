//! A scripted model server in this process and a service that talks to it, in a process of its own or in this one.

use deia::{
    app::{App, AppError},
    config::Config,
    sim::{Sim, SimConfig},
};
use deia_actors::controller::Controller;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Api, Database, Deia, Home, Socket, eventually, soon};

/// How long a turn waits for the model server. It runs on the thread of the test, and where the machine is too busy for an
/// answer to a probe it counts as away for a moment: no turn is to fail of that.
const OFFLINE_WAIT_S: &str = "600";

/// What `sim:tokens=N` answers.
pub fn numbered(tokens: usize) -> String {
    (0..tokens).map(|n| format!("{n:04} ")).collect()
}

/// A model server and the home of a service that uses it.
pub struct Stage {
    pub sim: Sim,
    pub home: Home,
}

impl Stage {
    /// With as many slots as any test needs, so that only what a test asks for waits.
    pub async fn new() -> Self {
        Self::with(&[]).await
    }

    /// With these variables over it.
    pub async fn with(variables: &[(&str, &str)]) -> Self {
        Self::at(Home::new(), variables).await
    }

    /// In this home, with these variables over it.
    pub async fn at(home: Home, variables: &[(&str, &str)]) -> Self {
        let sim = Sim::start(SimConfig::default()).await.expect("the model server starts");
        let mut home = home
            .env("DEIA_INFERENCE__SERVERS", sim.url())
            .env("DEIA_INFERENCE__SLOTS", "32")
            .env("DEIA_INFERENCE__OFFLINE_WAIT_S", OFFLINE_WAIT_S)
            .env("DEIA_SERVER__DRAIN_S", "1");
        for (name, value) in variables {
            home = home.env(name, *value);
        }
        Self { sim, home }
    }

    /// Starts the service.
    pub async fn start(&self) -> Deia {
        self.home.start().await
    }

    /// Waits until no call of a model is open.
    pub async fn all_closed(&self) {
        eventually("every call of the model server is over", async || {
            (self.sim.stats().open == 0).then_some(())
        })
        .await;
    }
}

/// A service in this process, whose actors can be killed.
pub struct InProcess {
    pub controller: Controller,
    pub url: String,
    folder: TempDir,
    stop: CancellationToken,
    running: JoinHandle<Result<(), AppError>>,
    database: Database,
}

impl InProcess {
    /// On the simulator, with these keys over the defaults.
    pub async fn start(sim: &Sim, keys: &[(&str, &str)]) -> Self {
        let folder = TempDir::with_prefix("deia-it-").expect("a folder for the test");
        let data = folder.path().to_string_lossy().into_owned();
        let url = sim.url();
        let database = Database::asked_for();
        let settings = database.settings();
        let mut values: Vec<_> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
        values.extend([
            ("server.listen", "127.0.0.1:0"),
            ("data_dir", &data),
            ("inference.servers", &url),
            ("inference.slots", "32"),
            ("inference.offline_wait_s", OFFLINE_WAIT_S),
            ("server.drain_s", "1"),
            ("storage.acquire_timeout_s", super::DATABASE_S),
        ]);
        values.extend(keys);
        let config = Config::with(values).expect("a configuration");
        let app = App::build(&config).await.expect("the service starts");
        let (controller, url) = (app.controller(), format!("http://{}", app.address()));
        let stop = CancellationToken::new();
        let running = tokio::spawn(app.run_until_stopped(stop.clone()));
        Self { controller, url, folder, stop, running, database }
    }

    pub fn api(&self) -> Api {
        Api::new(&self.url)
    }

    pub async fn socket(&self) -> Socket {
        Socket::connect(&self.url).await
    }

    /// Waits until every actor is up again.
    pub async fn ready(&self) {
        eventually("every actor is up", async || self.controller.ready().await.ok()).await;
    }

    /// Stops it in good order; answers how it ended.
    pub async fn stop(self) -> Result<(), AppError> {
        self.stop.cancel();
        self.ended().await
    }

    /// Waits for its end.
    pub async fn ended(self) -> Result<(), AppError> {
        soon("the service ends", self.running).await.expect("the service does not panic")
    }
}
