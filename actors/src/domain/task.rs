//! Background tasks as shown outside.

use serde::{Deserialize, Serialize};

use super::time::Timestamp;

/// What a background task is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Switched off by the configuration.
    Off,
    /// Waits for its time.
    Waiting,
    /// Runs.
    Running,
}

/// A background task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Its name: `retention.chat`.
    pub task: String,
    /// What it is doing.
    pub state: TaskState,
    /// When its last run ended; none before the first since the start of the process.
    pub last_run: Option<Timestamp>,
    /// How long that took.
    pub took_ms: Option<f64>,
    /// Rows that it dealt with.
    pub rows: u64,
    /// When it runs next; none while it runs or is off.
    pub next_run: Option<Timestamp>,
    /// Why the last run broke off, if it did.
    pub error: Option<String>,
}

/// A run of a task ended: the data of `task_finished`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskEnd {
    /// The task.
    pub task: String,
    /// Rows that it dealt with.
    pub rows: u64,
    /// How long it took.
    pub took_ms: f64,
    /// When it runs next.
    pub next_run: Timestamp,
    /// Why it broke off, if it did.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
}
