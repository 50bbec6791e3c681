//! What can be seen of a supervisor from outside: small, serialisable, the same for tests and dashboard.

use std::sync::Arc;

use serde::Serialize;

use super::exit::Exit;
use super::history::RestartEntry;
use super::policy::{ChildKind, RestartPolicy, Strategy};

/// The state of a child, or of a supervisor as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChildState {
    /// Its first start is under way, or has its turn later.
    Starting,
    /// It runs.
    Active,
    /// It went down and is coming back: waiting for its time or its turn, or being started.
    Restarting,
    /// It was asked to stop, or is next in line to be asked.
    Stopping,
    /// It is down and stays down.
    Terminated,
}

/// A child of a supervisor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChildObservation {
    /// Its name.
    pub id: Arc<str>,
    /// Supervisor or worker.
    pub kind: ChildKind,
    /// When it is restarted.
    pub restart: RestartPolicy,
    /// What it does now.
    pub state: ChildState,
    /// Since when: microseconds since the Unix epoch.
    pub since_us: i64,
    /// Until the restart that is waiting for its time, in ms; None when nothing waits.
    pub restart_in_ms: Option<u64>,
    /// How often it came back.
    pub restarts: u64,
    /// Restarts left now; shared by all children of the supervisor.
    pub left: u32,
    /// How it ended last.
    pub last_exit: Option<Exit>,
    /// Its last restarts, oldest first.
    pub history: Vec<RestartEntry>,
}

/// The window of a supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct IntensityObservation {
    /// Restarts allowed within the window.
    pub max: u32,
    /// Length of the window in whole seconds.
    pub within_s: u64,
    /// Restarts left now.
    pub left: u32,
}

/// A supervisor and its children.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SupervisorObservation {
    /// Its name.
    pub name: Arc<str>,
    /// What it does now. `terminated` after it gave up, was stopped, or died.
    pub state: ChildState,
    /// Whom a restart takes along.
    pub strategy: Strategy,
    /// Its window.
    pub intensity: IntensityObservation,
    /// Its children in start order.
    pub children: Vec<ChildObservation>,
}
