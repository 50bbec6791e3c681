//! HTTP, events and sockets: extract, call one method of the façade, convert. No logic of its own.
//!
//! A connection (`server`) hands each request to the edge (`edge`: request id, hosts and origins, the alias
//! `/api/v1`, panics), which hands it to the routes (`route`). Handlers give a response or a
//! [`Problem`](deia_actors::domain::problem::Problem); the edge writes problems as `application/problem+json`.
//!
//! | file | routes |
//! |---|---|
//! | `chat.rs`, `chat/` | `/api/chat/…` |
//! | `turns.rs` | `/api/turn/…` |
//! | `bots.rs` | `/api/bot/…`, `/api/bots` |
//! | `models.rs`, `models/` | `/api/models…` |
//! | `system.rs` | `/api/commands`, `/api/tree`, `/api/config` |
//! | `servers.rs` | `/api/servers`, `/api/server/…` |
//! | `health.rs` | `/health…`, `/ready` |
//! | `metrics.rs` | `/metrics` |
//! | `ws.rs`, `ws/` | `/ws` |
//! | `assets.rs` | `/`, pages, `/assets/…` |

mod accept;
mod assets;
mod bots;
mod chat;
mod decode;
mod edge;
mod envelope;
mod extract;
mod health;
mod hosts;
mod metrics;
mod models;
mod problem;
mod query;
mod render;
mod route;
mod server;
mod servers;
mod spool;
mod sse;
mod system;
mod turns;
mod ws;

use std::{path::PathBuf, sync::Arc, time::Duration};

use deia_actors::controller::Controller;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use route::Route;
pub use server::{Bound, Server};

/// Largest body where nothing else is configured, in bytes.
pub const MAX_BODY_BYTES: usize = 2 * 1024 * 1024;

/// Largest file that can be imported where nothing else is configured, in bytes.
pub const MAX_IMPORT_BYTES: u64 = 1 << 30;
/// Files that may be imported at once.
const IMPORTS: usize = 2;

/// What the routes need.
#[derive(Clone)]
pub struct Api {
    /// The tree.
    pub controller: Controller,
    /// Largest body of a request, in bytes.
    pub max_body_bytes: usize,
    /// Largest file that can be imported, in bytes.
    pub max_import_bytes: u64,
    /// Folder in which such a file lies, without a name, while it is read.
    pub spool: PathBuf,
    /// Files that may be imported at once: each takes disk and a writer's time.
    pub imports: Arc<Semaphore>,
    /// Whether bots may be crashed on purpose.
    pub allow_kill: bool,
    /// Effective configuration with sources, secrets redacted: the answer to `GET /api/config`.
    pub config_view: Arc<dyn Fn() -> Value + Send + Sync>,
    /// The metrics of the process in Prometheus' text format: the answer to `GET /metrics`. None where nothing records them.
    pub metrics: Option<Arc<dyn Fn() -> String + Send + Sync>>,
    /// Cancelled when the process begins to end: `/ready` says so from then on.
    pub stopping: CancellationToken,
    /// Cancelled when the tree has ended its turns: streams end and sockets close, with a code that means reconnect.
    pub closing: CancellationToken,
    /// Version of the program.
    pub version: &'static str,
}

impl Api {
    /// With the defaults: 2 MiB bodies, no kill, an empty configuration.
    #[must_use]
    pub fn new(controller: Controller) -> Self {
        Self {
            controller,
            max_body_bytes: MAX_BODY_BYTES,
            max_import_bytes: MAX_IMPORT_BYTES,
            spool: std::env::temp_dir(),
            imports: Arc::new(Semaphore::new(IMPORTS)),
            allow_kill: false,
            config_view: Arc::new(|| Value::Object(serde_json::Map::new())),
            metrics: None,
            stopping: CancellationToken::new(),
            closing: CancellationToken::new(),
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

/// Silence on an event stream after which a comment is sent.
const SSE_HEARTBEAT: Duration = Duration::from_secs(15);

/// All routes as one filter that always answers: to be served by [`Server`].
#[must_use]
pub fn routes(api: &Api) -> Route {
    // The hot ones first: the search is linear.
    let mut endpoints = chat::endpoints(api);
    endpoints.extend(turns::endpoints(api));
    endpoints.extend(health::endpoints(api));
    endpoints.extend(metrics::endpoints(api));
    endpoints.extend(ws::endpoints(api));
    endpoints.extend(bots::endpoints(api));
    endpoints.extend(models::endpoints(api));
    endpoints.extend(system::endpoints(api));
    endpoints.extend(servers::endpoints(api));
    endpoints.extend(assets::endpoints());
    route::combine(endpoints)
}
