//! Models and model servers as shown outside.

use serde::{Deserialize, Serialize};

use super::time::Timestamp;

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
    /// Turns that may run at once.
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

/// A model server as shown outside. The circuit breaker comes with the fair queue.
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
    /// Slots.
    pub slots: Slots,
    /// Line.
    pub queue: QueueDepth,
    /// Since when it is in this state.
    pub since: Timestamp,
}
