//! The façade: models on their servers. Lists, pulls, preloading, unloading, deleting.

use serde_json::Map;

use super::*;
use crate::{
    domain::{
        event::{EventBody, NewEvent, Topic},
        ids::PullId,
        model::{Model, OrderDone, ServerFailed},
        model_name::ModelName,
        problem::FieldError,
        pull::{Pull, PullState},
    },
    inference::{Gate, model_problem, probe},
    ports::chat_model::{LoadedModel, ModelDetails, ModelError},
    tasks::{PullMessage, PullWatch},
};

/// How long the end of a cancelled pull is awaited.
const CANCEL: Duration = Duration::from_secs(5);
/// How long an unloaded model is looked for in the memory of its server, and how often.
const UNLOAD: Duration = Duration::from_secs(1);
const UNLOAD_AGAIN: Duration = Duration::from_millis(20);
/// Bots that a problem names.
const BOTS_NAMED: usize = 100;
/// Those of them that its text names.
const BOTS_IN_WORDS: usize = 5;

impl Controller {
    /// Models over all servers that answer, by name; asks servers whose lists are older than a second.
    ///
    /// # Errors
    /// None today; a server that does not answer has no models.
    pub async fn models(&self) -> Result<Vec<Model>, ControllerError> {
        let inference = &self.inner.inference;
        inference.refresh().await;
        inference.learn().await;
        Ok(inference.models())
    }

    /// Server name and model, for every model in memory.
    ///
    /// # Errors
    /// None today; a server that does not answer has none loaded.
    pub async fn loaded_models(&self) -> Result<Vec<(String, LoadedModel)>, ControllerError> {
        self.inner.inference.refresh().await;
        Ok(self.inner.inference.loaded())
    }

    /// Details of a model.
    ///
    /// # Errors
    /// `model_not_found`, `ollama_offline`, or what the server answered.
    pub async fn show_model(&self, model: &str) -> Result<ModelDetails, ControllerError> {
        self.inner.inference.show(model).await
    }

    /// Pulls a model to a server (none = the first that answers, a real one before a scripted one) and watches it. A
    /// pull of the same model to the same server that runs already is watched instead. Audited. It goes on when nobody
    /// watches it.
    ///
    /// # Errors
    /// `server_not_found`, `ollama_offline`, `too_many_pulls`. What goes wrong later is the end of the pull.
    pub async fn pull_model(
        &self,
        name: &ModelName,
        server: Option<&str>,
    ) -> Result<PullWatch, ControllerError> {
        self.open()?;
        let gate = match self.place_to_pull(server) {
            // The service may have started just now, or the server.
            Err(problem) if problem.code == Code::OllamaOffline => {
                self.inner.inference.refresh().await;
                self.place_to_pull(server)?
            }
            known => known?,
        };
        let audit = on_server("model.pull", name, &gate.spec.name);
        let (pull, new) = self.inner.pulls.join(name, &gate, audit)?;
        let watch = pull.watch();
        if new {
            // An actor that is down takes it up when it is back.
            let _ = self.inner.slots.pulls.cast(PullMessage::Begin(pull));
        }
        Ok(watch)
    }

    /// The pulls that run, and those that ended within the last hour; the newest first.
    #[must_use]
    pub fn pulls(&self) -> Vec<Pull> {
        self.inner.pulls.list()
    }

    /// Ends a pull, for all who watch it. Audited. The connection to the server is closed when this returns. What is there of
    /// the model stays for another pull. One that has ended stays as it is.
    ///
    /// # Errors
    /// `pull_not_found`, `unavailable` where it did not end in time.
    pub async fn cancel_pull(&self, id: PullId) -> Result<Pull, ControllerError> {
        let pull = self.inner.pulls.get(id).ok_or_else(|| {
            let detail = format!(
                "There is no pull {id}, or it ended more than an hour ago. GET /api/models/pulls lists them."
            );
            Problem::new(Code::PullNotFound, detail)
        })?;
        let (mut watch, seen) = (pull.watch(), pull.shown());
        if seen.state == PullState::Running {
            // Not waited for: a pull can be ended while the database is away.
            let audit = Some(on_server("model.pull_cancel", &seen.model, &seen.server));
            self.inner.history.note(Fact { change: Change::None, events: vec![], audit });
            pull.cancel();
        }
        let ended = async {
            while let Some(seen) = watch.next().await {
                if seen.state != PullState::Running {
                    return;
                }
            }
        };
        if tokio::time::timeout(CANCEL, ended).await.is_err() {
            return Err(not_answered(SlotError::Timeout));
        }
        drop(watch);
        Ok(pull.shown())
    }

    /// Brings a model into the memory of a server (none = one that has it, the least busy first); answers where it is
    /// when it is there, which may take minutes.
    ///
    /// # Errors
    /// `server_not_found`, `ollama_offline`, `model_not_found`, `model_capability`, `upstream_error`,
    /// `upstream_timeout`.
    pub async fn preload_model(
        &self,
        name: &ModelName,
        server: Option<&str>,
    ) -> Result<OrderDone, ControllerError> {
        self.open()?;
        let places = self.places(name, server).await?;
        let least = places.into_iter().min_by(|a, b| load(&a.gate).total_cmp(&load(&b.gate)));
        // Dropped with its caller: then nobody waits for the model any more.
        each(Deed::Load, least.as_slice()).await
    }

    /// Takes a model out of the memory of a server (none = of all that have it); answers which did so and which failed. Audited.
    ///
    /// # Errors
    /// Where none did so: `server_not_found`, `ollama_offline`, `model_not_found`, `storage_unavailable`, `upstream_error`.
    pub async fn unload_model(
        &self,
        name: &ModelName,
        server: Option<&str>,
    ) -> Result<OrderDone, ControllerError> {
        self.open()?;
        let (me, name, places) = (self.clone(), name.clone(), self.places(name, server).await?);
        self.carry_out(async move {
            me.audit_each("model.unload", &name, &places).await?;
            each(Deed::Unload, &places).await
        })
        .await
    }

    /// Deletes a model from a server (none = from all that have it); answers which did so and which failed. Audited. With
    /// `force` also one that bots use.
    ///
    /// # Errors
    /// Where none did so: `server_not_found`, `ollama_offline`, `model_not_found`, `model_in_use` with the bots, `storage_unavailable`,
    /// `upstream_error`.
    pub async fn delete_model(
        &self,
        name: &ModelName,
        server: Option<&str>,
        force: bool,
    ) -> Result<OrderDone, ControllerError> {
        self.open()?;
        let places = self.places(name, server).await?;
        let users = self.bots_with(name);
        if !force && !users.is_empty() {
            return Err(in_use(name, &users));
        }
        let (me, name) = (self.clone(), name.clone());
        self.carry_out(async move {
            me.audit_each("model.delete", &name, &places).await?;
            let done = each(Deed::Delete, &places).await?;
            let body = EventBody::ModelDeleted { model: name, servers: done.servers.clone() };
            let event = NewEvent::new(vec![Topic::Models], &body);
            me.inner.history.append(Fact::new(Change::None, vec![event])).await?;
            Ok(done)
        })
        .await
    }

    /// Bots that name the model, as their own or as a fallback.
    fn bots_with(&self, name: &ModelName) -> Vec<BotId> {
        let uses = |entry: &Arc<BotEntry>| {
            let config = &entry.record().config;
            name.is(&config.model) || config.fallback.iter().any(|model| name.is(model))
        };
        self.inner.roster.all().iter().filter(|entry| uses(entry)).map(|entry| entry.id()).collect()
    }

    fn place_to_pull(&self, server: Option<&str>) -> Result<Arc<Gate>, Problem> {
        let gates = self.inner.inference.gates();
        let up = || gates.iter().filter(|g| g.is_up());
        let first = || up().find(|g| !g.spec.simulated).or_else(|| up().next());
        server.map_or_else(|| first().cloned().ok_or_else(none_answers), |server| self.server_up(server))
    }

    fn server_up(&self, server: &str) -> Result<Arc<Gate>, Problem> {
        let gates = self.inner.inference.gates();
        let Some(gate) = gates.iter().find(|g| g.spec.name == server) else {
            let asked: String = server.chars().take(64).collect();
            let near = gates
                .iter()
                .map(|g| &g.spec.name)
                .max_by(|a, b| strsim::jaro_winkler(&asked, a).total_cmp(&strsim::jaro_winkler(&asked, b)));
            let near = near.map_or_else(String::new, |name| format!(" Did you mean {name}?"));
            return Err(Problem::new(
                Code::ServerNotFound,
                format!("There is no model server {asked}.{near}"),
            ));
        };
        if !gate.is_up() {
            let detail =
                format!("The model server {server} does not answer. Start Ollama there, then try again.");
            return Err(Problem::new(Code::OllamaOffline, detail));
        }
        Ok(gate.clone())
    }

    /// Where a model is: on the server that was named, which then knows best itself, or on all that list it.
    async fn places(&self, name: &ModelName, server: Option<&str>) -> Result<Vec<Place>, Problem> {
        let inference = &self.inner.inference;
        inference.refresh().await;
        let listed = |gate: &Gate| gate.models().into_iter().find(|m| name.is(&m.name)).map(|m| m.name);
        if let Some(server) = server {
            let gate = self.server_up(server)?;
            let listed = listed(&gate).unwrap_or_else(|| name.to_string());
            return Ok(vec![Place { gate, listed }]);
        }
        let up: Vec<Arc<Gate>> = inference.gates().iter().filter(|g| g.is_up()).cloned().collect();
        if up.is_empty() {
            return Err(none_answers());
        }
        let place = |gate: Arc<Gate>| listed(&gate).map(|listed| Place { gate, listed });
        let places: Vec<Place> = up.into_iter().filter_map(place).collect();
        if places.is_empty() {
            let detail = format!("No server that answers has {name}. GET /api/models lists what there is.");
            return Err(Problem::new(Code::ModelNotFound, detail));
        }
        Ok(places)
    }

    /// Nothing is done that is not in the audit log.
    async fn audit_each(&self, action: &str, name: &ModelName, places: &[Place]) -> Result<(), Problem> {
        for place in places {
            let audit = Some(on_server(action, name, &place.gate.spec.name));
            self.inner.history.append(Fact { change: Change::None, events: vec![], audit }).await?;
        }
        Ok(())
    }
}

/// A model on a server, under the name by which the server lists it.
struct Place {
    gate: Arc<Gate>,
    listed: String,
}

/// What is done with a model where it is.
#[derive(Clone, Copy)]
enum Deed {
    Load,
    Unload,
    Delete,
}

/// Does it at each place in turn, also where it failed at one before, and looks at what the server shows afterwards.
///
/// # Errors
/// Where no server did it: the first problem, with those of all servers in `errors` if there are several.
async fn each(deed: Deed, places: &[Place]) -> Result<OrderDone, Problem> {
    let mut all = OrderDone::default();
    for Place { gate, listed } in places {
        let model = &gate.spec.model;
        let done = match deed {
            Deed::Load => model.load(listed).await,
            Deed::Unload => model.unload(listed).await,
            Deed::Delete => model.delete(listed).await,
        };
        if matches!(done, Err(ModelError::Unreachable(_))) {
            probe(gate).await;
        }
        let server = gate.spec.name.clone();
        match done {
            Ok(()) => {
                settle(deed, gate, listed).await;
                all.servers.push(server);
            }
            Err(error) => {
                let problem = model_problem(&error, listed, &server);
                all.failed.push(ServerFailed { server, problem });
            }
        }
    }
    match all.failed.first().filter(|_| all.servers.is_empty()) {
        Some(first) => Err(nowhere(first.problem.clone(), &all.failed)),
        None => Ok(all),
    }
}

/// The problem of an order that no server carried out.
fn nowhere(first: Problem, failed: &[ServerFailed]) -> Problem {
    let error = |f: &ServerFailed| FieldError {
        field: format!("server:{}", f.server),
        reason: f.problem.detail.clone(),
    };
    let errors = if failed.len() > 1 { failed.iter().map(error).collect() } else { vec![] };
    Problem { errors, ..first }
}

/// Turns that run and wait at a server, per slot.
fn load(gate: &Gate) -> f64 {
    let server = gate.server();
    f64::from(server.slots.busy + server.queue.depth) / f64::from(server.slots.total.max(1))
}

/// Looks at what a server shows now. One that unloads answers a moment before it has done so.
async fn settle(deed: Deed, gate: &Arc<Gate>, listed: &str) {
    let shown = async {
        loop {
            probe(gate).await;
            if !matches!(deed, Deed::Unload) || gate.loaded().iter().all(|m| m.name != listed) {
                return;
            }
            tokio::time::sleep(UNLOAD_AGAIN).await;
        }
    };
    // A turn that uses it keeps it there: then it goes afterwards.
    let _ = tokio::time::timeout(UNLOAD, shown).await;
}

fn on_server(action: &str, name: &ModelName, server: &str) -> crate::domain::bot::AuditEntry {
    let detail = Map::from_iter([("server".to_owned(), server.into())]);
    bots::audit(action, format!("model:{name}"), None, detail)
}

fn none_answers() -> Problem {
    Problem::new(Code::OllamaOffline, "No model server answers. Start Ollama (ollama serve), then try again.")
}

fn in_use(name: &ModelName, users: &[BotId]) -> Problem {
    let named = users.iter().take(BOTS_IN_WORDS).map(BotId::as_str).collect::<Vec<_>>().join(", ");
    let more = match users.len().saturating_sub(BOTS_IN_WORDS) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let detail = format!(
        "{name} is the model of {named}{more}. Give them another one first, or delete it all the same with ?force=true."
    );
    let user = |id: &BotId| FieldError { field: format!("bot:{id}"), reason: "uses this model".into() };
    Problem {
        errors: users.iter().take(BOTS_NAMED).map(user).collect(),
        ..Problem::new(Code::ModelInUse, detail)
    }
}
