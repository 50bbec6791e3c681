//! Pulls of models as shown outside.

use serde::{Deserialize, Serialize};

use super::{ids::PullId, model_name::ModelName, problem::Problem, time::Timestamp};

/// What became of a pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PullState {
    /// The server is at it.
    Running,
    /// The model is there.
    Done,
    /// It ended with a problem.
    Failed,
    /// Somebody ended it.
    Cancelled,
}

/// How far a pull is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullProgress {
    /// What the server is doing, in its words.
    pub status: String,
    /// The layer that it is doing it with.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub digest: Option<String>,
    /// Bytes that are there, of all layers known so far; never less than before.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub completed: Option<u64>,
    /// Bytes of all layers known so far.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub total: Option<u64>,
    /// Moving mean of the last seconds, in bytes per second; only while bytes are coming.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rate_bytes_s: Option<u64>,
    /// When all layers known so far will be there at that rate, in seconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub eta_s: Option<u64>,
}

/// A pull of one model to one server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pull {
    /// Id.
    pub id: PullId,
    /// The model.
    pub model: ModelName,
    /// Name of the server.
    pub server: String,
    /// What became of it.
    pub state: PullState,
    /// How far it is, or was at its end.
    pub progress: PullProgress,
    /// How many watch it.
    pub watchers: u32,
    /// Why it failed.
    pub error: Option<Problem>,
    /// When it was begun.
    pub began_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}
