//! The composition root: the one place that names concrete adapters. Builds storage, model servers, the
//! tree and the front end from a configuration, runs them, and ends them in reverse order.

mod archive;
mod storage;

use std::{
    io::{self, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use deia_actors::{
    controller::{Controller, InferenceLimits, RetentionRules, ServerSpec, Settings},
    domain::problem::Problem,
    ports::{chat_model::ChatModel, tool_runner::ToolRunner},
    supervision::RestartRules,
};
use tokio_util::sync::CancellationToken;

use self::storage::Database;
use crate::{
    adapters::{
        ollama::{self, Limits, Ollama, OllamaServers},
        scratch::ScratchFolder,
        tools::BuiltInTools,
    },
    cli::{EXIT_CONFIGURATION, EXIT_GAVE_UP, EXIT_PENDING},
    config::{Config, ModelServer, Simulated},
    http,
    sim::{Sim, SimConfig},
    telemetry::metrics::Recorder,
};

pub use archive::{ExportAsked, export, import};

/// How long a model server may take to answer when the service starts.
const FIRST_LOOK: Duration = Duration::from_millis(500);
/// How often the service looks whether it is ready, until it is.
const READY_AGAIN: Duration = Duration::from_millis(5);
/// How long the database may take to be closed.
const CLOSE: Duration = Duration::from_secs(5);
/// Name of the built-in scripted server and of its model.
const SIMULATED: &str = "simulated";
/// Answers that the scripted server makes at once.
const SIMULATED_SLOTS: u32 = 4;

/// Why the service did not start, or why it ended.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The database can't be opened.
    #[error("can't open the database {database}: {source}")]
    Storage {
        /// Which one, without its password.
        database: String,
        /// Why, and what to do where that is known.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Nobody can sign in yet, so nobody but this machine may reach it.
    #[error(
        "server.listen: {0} can be reached from other machines, and this version has no sign-in; use 127.0.0.1 and a tunnel"
    )]
    Exposed(SocketAddr),
    /// The database can't be opened for an export or import.
    #[error("{0}. If deia is running it holds the database; ask it instead: {1}")]
    Held(Box<AppError>, String),
    /// An export or import was refused.
    #[error("{}", .0.detail)]
    Archive(Problem),
    /// An export was written, but not all of it could be read.
    #[error(
        "the export is written but not complete: {0} rows can't be read and are left out; the log names them"
    )]
    Incomplete(u64),
    /// A file can't be read or written.
    #[error("{path}: {source}")]
    File {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The address can't be listened on.
    #[error("can't listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The built-in scripted server did not start.
    #[error("can't start the scripted model server: {0}")]
    Simulator(io::Error),
    /// The HTTP client can't be made.
    #[error("can't make the client for the model servers: {0}")]
    Client(reqwest::Error),
    /// The actors did not start.
    #[error("the actors did not start: {}", .0.detail)]
    Tree(Problem),
    /// The ready file can't be written.
    #[error("can't write {path}: {source}")]
    ReadyFile {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The root supervisor gave up.
    #[error("the supervision tree gave up; the log says why")]
    GaveUp,
    /// `deia check` found something.
    #[error("{0} of the checks failed")]
    Checks(usize),
    /// `deia migrate` found migrations that the database does not have.
    #[error("migrations are missing ({0}); deia migrate up applies them, and so does the next start")]
    Pending(usize),
    /// `deia migrate` found a database of a newer version.
    #[error(
        "the database has the schema {0}, which this version of deia does not know; use the version that wrote it"
    )]
    Newer(i64),
}

impl AppError {
    /// Exit code of the process.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::GaveUp => EXIT_GAVE_UP,
            Self::Exposed(_) => EXIT_CONFIGURATION,
            Self::Pending(_) => EXIT_PENDING,
            _ => 1,
        }
    }
}

/// A built service that does not serve yet.
pub struct App {
    controller: Controller,
    database: Database,
    simulator: Option<Sim>,
    bound: http::Bound,
    api: http::Api,
    drain: Duration,
}

fn limits(config: &Config) -> Limits {
    Limits { first_byte: config.inference.first_byte, idle: config.inference.idle, ..Limits::default() }
}

fn spec(server: &ModelServer, limits: Limits) -> Result<ServerSpec, AppError> {
    Ok(ServerSpec {
        name: server.name.clone(),
        url: server.shown_url(),
        slots: u32::try_from(server.slots).unwrap_or(u32::MAX),
        simulated: false,
        model: Arc::new(Ollama::new(&server.url, limits).map_err(AppError::Client)?),
    })
}

async fn answers(model: &dyn ChatModel) -> bool {
    matches!(tokio::time::timeout(FIRST_LOOK, model.version()).await, Ok(Ok(_)))
}

/// The configured servers, and the scripted one where it is wanted: always, or when none of the others answers.
async fn model_servers(config: &Config) -> Result<(Vec<ServerSpec>, Option<Sim>), AppError> {
    let limits = limits(config);
    let servers: Result<Vec<_>, _> = config.inference.servers.iter().map(|s| spec(s, limits)).collect();
    let mut servers = servers?;
    let wanted = match config.inference.simulated {
        Simulated::On => true,
        Simulated::Off => false,
        Simulated::Auto => {
            let looks = servers.iter().map(|s| answers(&*s.model));
            !futures_util::future::join_all(looks).await.contains(&true)
        }
    };
    if !wanted {
        return Ok((servers, None));
    }
    let sim = Sim::start(SimConfig::default()).await.map_err(AppError::Simulator)?;
    let url = ollama::parse_address(&sim.url())
        .map_err(|e| AppError::Simulator(io::Error::other(e.to_string())))?;
    servers.push(ServerSpec {
        name: SIMULATED.into(),
        url: sim.url(),
        slots: SIMULATED_SLOTS,
        simulated: true,
        model: Arc::new(Ollama::new(&url, limits).map_err(AppError::Client)?),
    });
    Ok((servers, Some(sim)))
}

fn settings(config: &Config) -> Settings {
    Settings {
        max_running: config.bots.max_running,
        default_model: config.bots.default_model.clone(),
        conversation_queue: config.bots.conversation_queue,
        requeue_max_age: config.bots.requeue_max_age,
        bot_rules: RestartRules::new(config.supervision.bot_restarts, config.supervision.bot_within),
        root_restarts: config.supervision.root_restarts,
        root_within: config.supervision.root_within,
        inference: InferenceLimits {
            queue_limit: config.inference.queue_limit,
            offline_wait: config.inference.offline_wait,
            queue_wait: config.inference.queue_wait,
        },
        storage_timeout: config.storage.acquire_timeout,
        retention: RetentionRules {
            chat: config.retention.chat,
            audit: config.retention.audit,
            status: config.retention.status,
            events: config.retention.outbox,
            events_per_topic: config.retention.outbox_events,
            interval: config.retention.interval,
        },
        ..Settings::default()
    }
}

impl App {
    /// Builds everything and binds the address.
    ///
    /// # Errors
    /// See [`AppError`].
    pub async fn build(config: &Config) -> Result<Self, AppError> {
        Self::build_with(config, Arc::new(BuiltInTools)).await
    }

    /// As [`App::build`], with a host's own tools instead of the built-in ones.
    ///
    /// # Errors
    /// See [`AppError`].
    pub async fn build_with(config: &Config, tools: Arc<dyn ToolRunner>) -> Result<Self, AppError> {
        let listen = config.server.listen;
        if !listen.ip().is_loopback() {
            return Err(AppError::Exposed(listen));
        }
        // Bound first: a second instance must not touch the database of the one that runs.
        let bound = http::Server::bind(listen)
            .await
            .map_err(|source| AppError::Listen { address: listen, source })?;
        let database = Database::open(&config.storage).await?;
        let (servers, simulator) = model_servers(config).await?;
        let mut builder = Controller::builder(database.storage())
            .settings(settings(config))
            .tools(tools)
            .scratch(Arc::new(ScratchFolder(config.data_dir.clone())))
            .server_factory(Arc::new(OllamaServers {
                limits: limits(config),
                slots: u32::try_from(config.inference.slots).unwrap_or(u32::MAX),
                own: bound.address(),
            }));
        for server in servers {
            builder = builder.server(server);
        }
        let controller = builder.start().await.map_err(AppError::Tree)?;
        let mut api = http::Api::new(controller.clone());
        api.max_body_bytes = config.server.max_body_bytes;
        api.max_import_bytes = config.server.max_import_bytes;
        api.spool.clone_from(&config.data_dir);
        api.allow_kill = config.supervision.allow_kill;
        let view = serde_json::json!({ "items": config.items() });
        api.config_view = Arc::new(move || view.clone());
        Ok(Self { controller, database, simulator, bound, api, drain: config.server.drain })
    }

    /// With these metrics as the answer to `GET /metrics`; without them it says that there are none.
    #[must_use]
    pub fn metrics(mut self, metrics: Arc<dyn Fn() -> String + Send + Sync>) -> Self {
        self.api.metrics = Some(metrics);
        self
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.bound.address()
    }

    /// The façade, for a host that also wants to talk to the tree directly.
    #[must_use]
    pub fn controller(&self) -> Controller {
        self.controller.clone()
    }

    /// Serves until `stop` is cancelled or the root gives up, then ends everything in reverse order.
    ///
    /// # Errors
    /// [`AppError::GaveUp`].
    pub async fn run_until_stopped(self, stop: CancellationToken) -> Result<(), AppError> {
        let Self { controller, database, simulator, bound, api, drain } = self;
        let (stopping, closing) = (api.stopping.clone(), api.closing.clone());
        let serving = tokio::spawn(bound.serve(api, drain));
        let gave_up = tokio::select! {
            () = stop.cancelled() => false,
            gave_up = controller.ended() => gave_up,
        };
        stopping.cancel();
        if !gave_up {
            // Turns end while their readers are still there; then the readers are sent away.
            controller.shutdown(drain).await;
        }
        closing.cancel();
        if serving.await.is_err() {
            tracing::error!("the front end ended abnormally");
        }
        // A database that is silent now has been told of since the drain began.
        if tokio::time::timeout(CLOSE, database.close()).await.is_err() {
            tracing::warn!("the database did not close in time");
        }
        if let Some(simulator) = simulator {
            simulator.stop().await;
        }
        tracing::info!("stopped");
        if gave_up { Err(AppError::GaveUp) } else { Ok(()) }
    }
}

/// Waits until the service is ready and says so in a file, all of it or nothing.
async fn announce(controller: &Controller, path: &Path, address: SocketAddr) -> Result<(), AppError> {
    while controller.ready().await.is_err() {
        tokio::time::sleep(READY_AGAIN).await;
    }
    let failed = |source| AppError::ReadyFile { path: path.to_owned(), source };
    let beside = path.with_extension("part");
    tokio::fs::write(&beside, format!("http://{address}\n")).await.map_err(failed)?;
    tokio::fs::rename(&beside, path).await.map_err(failed)
}

/// `deia serve`: builds the service and runs it until it is asked to stop.
///
/// # Errors
/// See [`AppError`].
pub async fn serve(
    config: Config,
    ready_file: Option<PathBuf>,
    recorder: &Recorder,
    stop: CancellationToken,
) -> Result<(), AppError> {
    let app = tokio::select! {
        built = App::build(&config) => built?.metrics(recorder.page()),
        // A database that is waited for must not hold up the end.
        () = stop.cancelled() => return Ok(()),
    };
    let (address, controller) = (app.address(), app.controller());
    tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "listening");
    let mut out = io::stdout();
    // A closed standard output is no reason not to serve.
    let _ = writeln!(out, "listening on http://{address}").and_then(|()| out.flush());
    let running = app.run_until_stopped(stop.clone());
    tokio::pin!(running);
    if let Some(path) = ready_file {
        tokio::select! {
            announced = announce(&controller, &path, address) => {
                if let Err(error) = announced {
                    stop.cancel();
                    running.await?;
                    return Err(error);
                }
            }
            ended = &mut running => return ended,
        }
    }
    running.await
}

/// One line of `deia check`.
fn say(good: bool, what: &str, words: &str) -> usize {
    let mut out = io::stdout();
    let mark = if good { "ok  " } else { "FAIL" };
    // A closed standard output changes nothing about the result.
    let _ = writeln!(out, "{mark}  {what:<14} {words}");
    usize::from(!good)
}

/// `deia check`: tries everything that the service depends on and says what to do.
///
/// # Errors
/// [`AppError::Checks`] with the number of checks that failed.
pub async fn check(config: Config) -> Result<(), AppError> {
    let mut failed = say(true, "configuration", "every key is understood");
    let listen = config.server.listen;
    failed += if listen.ip().is_loopback() {
        match http::Server::bind(listen).await {
            Ok(bound) => say(true, "address", &format!("{} is free", bound.address())),
            Err(error) => say(
                false,
                "address",
                &format!("can't listen on {listen}: {error}. Stop what uses it, or set server.listen."),
            ),
        }
    } else {
        say(false, "address", &AppError::Exposed(listen).to_string())
    };
    failed += match storage::check(&config.storage).await {
        Ok(words) => say(true, "database", &words),
        Err(words) => say(false, "database", &words),
    };
    let mut answered = false;
    for server in &config.inference.servers {
        let spec = spec(server, limits(&config))?;
        match spec.model.models().await {
            Ok(models) => {
                answered = true;
                let words = match models.len() {
                    0 => format!("{} answers but has no model. Run: ollama pull llama3.2", spec.url),
                    n => format!("{} has {n} models", spec.url),
                };
                failed += say(true, &server.name, &words);
            }
            Err(error) => {
                let tolerated = config.inference.simulated != Simulated::Off;
                let advice = if tolerated {
                    "The scripted model is offered until it answers"
                } else {
                    "Start it with: ollama serve"
                };
                failed += say(tolerated, &server.name, &format!("{error}. {advice}."));
            }
        }
    }
    if !answered && config.inference.simulated == Simulated::Off {
        failed += say(false, "models", "no model server answers and inference.simulated is off");
    }
    if failed == 0 { Ok(()) } else { Err(AppError::Checks(failed)) }
}

/// `deia migrate`: says which migrations the database has, after it was brought to this version if `up`.
///
/// # Errors
/// [`AppError::Storage`]; without `up` also [`AppError::Newer`] and [`AppError::Pending`].
pub async fn migrate(config: &Config, up: bool) -> Result<(), AppError> {
    let states = storage::migrate(&config.storage, up).await?;
    let mut out = io::stdout();
    // A closed standard output changes nothing about the result.
    let _ = writeln!(out, "{}", config.storage.url);
    for state in &states {
        let word = match (state.known, state.applied) {
            (false, _) => "newer",
            (true, true) => "applied",
            (true, false) => "pending",
        };
        let _ = writeln!(out, "{word:<8} {:04}  {}", state.version, state.name);
    }
    if let Some(newer) = states.iter().rfind(|state| !state.known) {
        return Err(AppError::Newer(newer.version));
    }
    match states.iter().filter(|state| !state.applied).count() {
        0 => Ok(()),
        pending => Err(AppError::Pending(pending)),
    }
}
