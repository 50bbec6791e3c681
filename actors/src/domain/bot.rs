//! Bots: configuration, states, status.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    ids::{BotId, ConversationId, TurnId},
    time::Timestamp,
};

mod config;
mod keep_alive;

pub use config::{
    BotConfig, ContextConfig, DEFAULT_NUM_CTX, MIN_NUM_CTX, Options, Overflow, SYSTEM_PROMPT_MAX,
    check_overrides,
};

/// State of a bot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BotState {
    /// Runs; nothing happened for `idle_after_s`.
    Idle,
    /// Its actor is being started.
    Starting,
    /// Runs; no turn yet since its start.
    Ready,
    /// A turn runs.
    Processing,
    /// Runs; a turn ended lately.
    Active,
    /// Its actor is being stopped.
    Stopping,
    /// Stopped on purpose.
    Terminated,
    /// Its actor died a moment ago.
    Crashed,
    /// Waits for its backoff.
    Restarting,
    /// Crashed too often; `start` or `restart` releases it.
    Quarantined,
}

/// What happens to a bot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BotStep {
    /// Somebody starts it.
    Start,
    /// Its actor runs.
    Started,
    /// A turn began.
    TurnBegan,
    /// Its last running turn ended.
    TurnsEnded,
    /// Nothing happened for a while.
    Rested,
    /// Somebody stops it.
    Stop,
    /// Its actor ended in order.
    Stopped,
    /// Its actor died.
    Crash,
    /// A restart is planned.
    PlanRestart,
    /// Its budget is used up.
    Quarantine,
}

impl BotState {
    /// The next state, or `None` where the step changes nothing.
    #[must_use]
    pub fn after(self, step: BotStep) -> Option<Self> {
        use BotState as S;
        let running = self.is_running();
        match step {
            BotStep::Start => (!running && !matches!(self, S::Starting)).then_some(S::Starting),
            BotStep::Started => matches!(self, S::Starting | S::Restarting | S::Crashed).then_some(S::Ready),
            BotStep::TurnBegan => (running && self != S::Processing).then_some(S::Processing),
            BotStep::TurnsEnded => (self == S::Processing).then_some(S::Active),
            BotStep::Rested => matches!(self, S::Ready | S::Active).then_some(S::Idle),
            BotStep::Stop => (!matches!(self, S::Stopping | S::Terminated)).then_some(S::Stopping),
            BotStep::Stopped => (self == S::Stopping).then_some(S::Terminated),
            BotStep::Crash => (running || self == S::Starting).then_some(S::Crashed),
            BotStep::PlanRestart => matches!(self, S::Crashed | S::Starting).then_some(S::Restarting),
            BotStep::Quarantine => matches!(self, S::Crashed | S::Restarting).then_some(S::Quarantined),
        }
    }

    /// True where the bot takes messages (also while it is coming back from a crash).
    #[must_use]
    pub fn accepts_messages(self) -> bool {
        self.is_running() || matches!(self, Self::Starting | Self::Crashed | Self::Restarting)
    }

    /// True where an actor serves it.
    #[must_use]
    pub fn is_running(self) -> bool {
        matches!(self, Self::Idle | Self::Ready | Self::Processing | Self::Active)
    }

    /// True where it counts against the limit of running bots.
    #[must_use]
    pub fn counts_as_running(self) -> bool {
        !matches!(self, Self::Terminated | Self::Quarantined)
    }

    /// The wire name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Processing => "processing",
            Self::Active => "active",
            Self::Stopping => "stopping",
            Self::Terminated => "terminated",
            Self::Crashed => "crashed",
            Self::Restarting => "restarting",
            Self::Quarantined => "quarantined",
        }
    }
}

/// Token totals of a bot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenTotals {
    /// Tokens of prompts.
    pub prompt: u64,
    /// Tokens of answers.
    pub completion: u64,
}

/// Status of a bot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BotStatus {
    /// Its bot.
    pub bot_id: BotId,
    /// State.
    pub state: BotState,
    /// Seconds since its actor started; 0 while none runs.
    pub uptime_seconds: u64,
    /// When the last message was created.
    pub last_message: Option<Timestamp>,
    /// Turns that failed or were interrupted.
    pub error_count: u64,
    /// Restarts after crashes since launch.
    pub restart_count: u64,
    /// Restarts left before quarantine.
    pub restarts_left: u32,
    /// Turns that wait.
    pub queue_depth: u32,
    /// Turns that run.
    pub active_turns: Vec<TurnId>,
    /// Token totals.
    pub tokens: TokenTotals,
    /// Null: an actor has no memory of its own to measure.
    pub memory_mb: Option<f64>,
    /// Null: an actor has no processor of its own to measure.
    pub cpu_percent: Option<f64>,
    /// When any of this changed.
    pub updated_at: Timestamp,
    /// True where it was read from a cache because the database is away.
    pub stale: bool,
}

/// What of a status is stored; the rest is of the running process.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredStatus {
    /// Its bot.
    pub bot_id: BotId,
    /// State; after a restart of the process only `terminated` and `quarantined` are kept.
    pub state: BotState,
    /// When the last message was created.
    pub last_message: Option<Timestamp>,
    /// Turns that failed or were interrupted.
    pub error_count: u64,
    /// Restarts after crashes since launch.
    pub restart_count: u64,
    /// Token totals.
    pub tokens: TokenTotals,
    /// When it was written.
    pub updated_at: Timestamp,
}

/// A bot as stored: everything but its status.
#[derive(Debug, Clone, PartialEq)]
pub struct BotRecord {
    /// Id.
    pub id: BotId,
    /// Shown name.
    pub name: String,
    /// Configuration.
    pub config: BotConfig,
    /// Raised by every patch.
    pub config_version: u64,
    /// The conversation that a send without `conversation_id` goes to.
    pub main_conversation_id: ConversationId,
    /// Free data of the caller.
    pub metadata: Map<String, Value>,
    /// When it was launched.
    pub created_at: Timestamp,
    /// When it was patched last.
    pub updated_at: Timestamp,
}

/// A bot as answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bot {
    /// Id.
    pub id: BotId,
    /// Shown name.
    pub name: String,
    /// State.
    pub state: BotState,
    /// Configuration, with defaults filled in.
    pub config: BotConfig,
    /// Raised by every patch.
    pub config_version: u64,
    /// The conversation that a send without `conversation_id` goes to.
    pub main_conversation_id: ConversationId,
    /// Always null: a bot has no port. Kept for compatibility.
    pub port: Option<u16>,
    /// Always null: a bot has no process. Kept for compatibility.
    pub process_id: Option<u32>,
    /// Free data of the caller.
    pub metadata: Map<String, Value>,
    /// When it was launched.
    pub created_at: Timestamp,
    /// When it was patched last.
    pub updated_at: Timestamp,
    /// Status.
    pub status: BotStatus,
    /// What the caller should know (the model is on no server …).
    pub warnings: Vec<String>,
}

/// An entry of the audit log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// When.
    pub at: Timestamp,
    /// Who; `local` while there is no identity.
    pub actor: String,
    /// What: `bot.kill`, `history.clear`, …
    pub action: String,
    /// On what.
    pub target: String,
    /// Why, in the caller's words.
    pub reason: Option<String>,
    /// More, without content.
    pub detail: Map<String, Value>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const STATES: [BotState; 10] = [
        BotState::Idle,
        BotState::Starting,
        BotState::Ready,
        BotState::Processing,
        BotState::Active,
        BotState::Stopping,
        BotState::Terminated,
        BotState::Crashed,
        BotState::Restarting,
        BotState::Quarantined,
    ];

    #[test]
    fn every_pair_of_state_and_step_has_its_written_result() {
        use BotState as S;
        let row = |step| STATES.map(|s| s.after(step));
        let (o, st, rd, pr, ac) =
            (None, Some(S::Starting), Some(S::Ready), Some(S::Processing), Some(S::Active));
        let (id, sg, te) = (Some(S::Idle), Some(S::Stopping), Some(S::Terminated));
        let (cr, re, qu) = (Some(S::Crashed), Some(S::Restarting), Some(S::Quarantined));
        //                                         idle start ready proc act  stop term crash rest quar
        assert_eq!(row(BotStep::Start), [o, o, o, o, o, st, st, st, st, st]);
        assert_eq!(row(BotStep::Started), [o, rd, o, o, o, o, o, rd, rd, o]);
        assert_eq!(row(BotStep::TurnBegan), [pr, o, pr, o, pr, o, o, o, o, o]);
        assert_eq!(row(BotStep::TurnsEnded), [o, o, o, ac, o, o, o, o, o, o]);
        assert_eq!(row(BotStep::Rested), [o, o, id, o, id, o, o, o, o, o]);
        assert_eq!(row(BotStep::Stop), [sg, sg, sg, sg, sg, o, o, sg, sg, sg]);
        assert_eq!(row(BotStep::Stopped), [o, o, o, o, o, te, o, o, o, o]);
        assert_eq!(row(BotStep::Crash), [cr, cr, cr, cr, cr, o, o, o, o, o]);
        assert_eq!(row(BotStep::PlanRestart), [o, re, o, o, o, o, o, re, o, o]);
        assert_eq!(row(BotStep::Quarantine), [o, o, o, o, o, o, o, qu, qu, o]);
    }
}
