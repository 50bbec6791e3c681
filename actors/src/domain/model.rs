//! Models and model servers as shown outside.

use serde::{Deserialize, Serialize};

use super::{problem::Problem, time::Timestamp};

/// A model over all servers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// Name with tag.
    pub name: String,
    /// Bytes on disk.
    pub size: u64,
    /// Content digest.
    pub digest: String,
    /// Family.
    pub family: String,
    /// Parameters, as the server writes them.
    pub parameter_size: String,
    /// Quantisation.
    pub quantization: String,
    /// What it can do.
    pub capabilities: Vec<String>,
    /// Largest context in tokens, where known.
    pub context_length: Option<u32>,
    /// True for scripted models.
    pub simulated: bool,
    /// Where it is.
    pub servers: Vec<ModelPlace>,
}

/// A model on one server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelPlace {
    /// Name of the server.
    pub name: String,
    /// In memory now.
    pub loaded: bool,
    /// When it will be unloaded.
    pub expires_at: Option<String>,
    /// Bytes in GPU memory.
    pub size_vram: u64,
}

/// Whether a server takes work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerState {
    /// Answers.
    Up,
    /// Does not answer.
    Down,
    /// Takes no new work.
    Draining,
}

/// Slots of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slots {
    /// Turns that may run at once: fewer than configured while the server says that it is busy.
    pub total: u32,
    /// Turns that run.
    pub busy: u32,
}

/// The line in front of a server.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct QueueDepth {
    /// Turns that wait.
    pub depth: u32,
    /// How many may wait.
    pub limit: u32,
    /// Estimated wait of a new one, in seconds.
    pub eta_s: Option<f64>,
}

/// How a circuit breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// Everybody is let through.
    #[default]
    Closed,
    /// Nobody is.
    Open,
    /// One is, or was, and his fate is not known yet.
    HalfOpen,
}

/// A model that gets no turns at a server for a while, because it failed several times in a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PausedModel {
    /// Its name.
    pub model: String,
    /// When it gets turns again.
    pub retry_at: Timestamp,
    /// What failed last.
    pub reason: String,
}

/// The circuit breaker of a server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BreakerView {
    /// How it stands.
    pub state: BreakerState,
    /// When the next turn is let through, while it is open; when the server is asked again, while it does not answer.
    pub retry_at: Option<Timestamp>,
    /// What failed last, while it is not closed or the server does not answer.
    pub reason: Option<String>,
    /// Models that get no turns there for a while.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paused_models: Vec<PausedModel>,
}

/// What became of an order about a model, server by server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OrderDone {
    /// Servers that carried it out.
    pub servers: Vec<String>,
    /// Servers that did not.
    pub failed: Vec<ServerFailed>,
}

/// A server that did not carry an order out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServerFailed {
    /// Its name.
    pub server: String,
    /// Why.
    pub problem: Problem,
}

/// Longest name of a model server, in bytes.
pub const SERVER_NAME_MAX: usize = 50;

/// Most turns at once that a model server may be given.
pub const SERVER_SLOTS_MAX: u32 = 1024;

/// An address of a model server as it is compared with others: `localhost` is 127.0.0.1, and a slash at the end says nothing.
#[must_use]
pub fn address_key(url: &str) -> String {
    let url = url.trim_end_matches('/');
    match url.split_once("://localhost") {
        Some((scheme, rest)) if rest.is_empty() || rest.starts_with([':', '/']) => {
            format!("{scheme}://127.0.0.1{rest}")
        }
        _ => url.to_owned(),
    }
}

/// Whether a model server may be called that. Not `.` and `..`: clients take these out of a path.
#[must_use]
pub fn is_server_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".:_-".contains(&byte);
    (1..=SERVER_NAME_MAX).contains(&name.len()) && name.bytes().all(allowed) && !matches!(name, "." | "..")
}

/// A model server that was added at run time, as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerRecord {
    /// Its name.
    pub name: String,
    /// Its address.
    pub url: String,
    /// Turns that it runs at once.
    pub slots: u32,
    /// When it was added.
    pub created_at: Timestamp,
}

/// A model server as shown outside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Server {
    /// Name.
    pub name: String,
    /// Base URL.
    pub url: String,
    /// Whether it takes work.
    pub state: ServerState,
    /// Version, once it answered.
    pub version: Option<String>,
    /// Last probe, in milliseconds.
    pub latency_ms: Option<f64>,
    /// Circuit breaker; closed in events that were stored before there was one.
    #[serde(default)]
    pub breaker: BreakerView,
    /// Slots.
    pub slots: Slots,
    /// Line.
    pub queue: QueueDepth,
    /// Since when it is in this state.
    pub since: Timestamp,
}
