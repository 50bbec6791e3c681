//! The supervision tree as shown outside.

use serde::{Deserialize, Serialize};

use super::time::Timestamp;

/// Whether an actor has children.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// Restarts its children.
    Supervisor,
    /// Does the work.
    Worker,
}

/// Restart budget of an actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetView {
    /// Restarts allowed within the window.
    pub max: u32,
    /// Length of the window, in seconds.
    pub within_s: u64,
    /// Restarts that are left now.
    pub left: u32,
}

/// One restart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RestartEntry {
    /// When the actor went down.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
    /// How long it was down, backoff included; none while it still is.
    pub took_ms: Option<f64>,
    /// How much of that was deliberate waiting.
    pub backoff_ms: f64,
}

/// One actor and its children.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TreeNode {
    /// Short name, unique among its siblings.
    pub name: String,
    /// Names from the root, joined by `/`.
    pub path: String,
    /// Whether it has children.
    pub kind: NodeKind,
    /// `up`, `down`, `restarting`, or the state of a bot.
    pub state: String,
    /// Since when it is in that state.
    pub since: Timestamp,
    /// Strategy, for supervisors.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub strategy: Option<String>,
    /// Restart budget.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub intensity: Option<BudgetView>,
    /// Restarts since launch.
    pub restarts: u64,
    /// Why it went down last.
    pub last_exit: Option<String>,
    /// The last 100 restarts, oldest first.
    pub history: Vec<RestartEntry>,
    /// Messages that wait.
    pub mailbox: u32,
    /// Children in start order.
    pub children: Vec<TreeNode>,
}
