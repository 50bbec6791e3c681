//! What a supervisor tells the outside while it works.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::exit::Exit;

/// One fact about one child, in the order in which the facts became true.
#[derive(Clone, Debug, PartialEq)]
pub struct SupervisionNotice {
    /// Name of the supervisor.
    pub supervisor: Arc<str>,
    /// Name of the child.
    pub child: Arc<str>,
    /// Wall time, microseconds since the Unix epoch.
    pub at_us: i64,
    /// What happened.
    pub kind: NoticeKind,
}

/// What happened to a child.
#[derive(Clone, Debug, PartialEq)]
pub enum NoticeKind {
    /// It runs for the first time (under this incarnation of its supervisor).
    Started,
    /// It ended by itself in a way that calls for a restart, or a start failed.
    Crashed {
        /// How.
        exit: Exit,
        /// How often it came back so far.
        restarts: u64,
        /// Restarts left to its supervisor now.
        left: u32,
    },
    /// It will be started again.
    RestartScheduled {
        /// After this long; zero means at once.
        after: Duration,
    },
    /// It is asked to stop, because a sibling restarts, a restart was requested, or the supervisor ends.
    Stopping,
    /// It ended and this was no crash.
    Stopped {
        /// How.
        exit: Exit,
    },
    /// It is up again.
    Restarted {
        /// Since it went down last.
        took: Duration,
        /// How often it came back, this time included.
        restarts: u64,
    },
    /// This child was one crash too many: the supervisor stops all children and ends with an error.
    GaveUp {
        /// How it ended.
        exit: Exit,
    },
}

/// Called for every notice, in the supervisor's task: it must be quick and must neither block nor panic. Hand the
/// notice to a queue, or update a value.
pub type NoticeHook = Arc<dyn Fn(SupervisionNotice) + Send + Sync>;

/// A hook that drops every notice.
pub fn ignore_notices() -> NoticeHook {
    Arc::new(|_| {})
}

impl fmt::Display for NoticeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started => f.write_str("started"),
            Self::Crashed { exit, .. } => write!(f, "crashed: {exit}"),
            Self::RestartScheduled { after } => write!(f, "restart in {after:?}"),
            Self::Stopping => f.write_str("stopping"),
            Self::Stopped { exit } => write!(f, "stopped: {exit}"),
            Self::Restarted { took, .. } => write!(f, "restarted after {took:?}"),
            Self::GaveUp { exit } => write!(f, "gave up: {exit}"),
        }
    }
}
