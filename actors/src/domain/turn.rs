//! A turn: one user message and the answer to it, with exactly one end.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    ids::{BotId, ConversationId, MessageId, TurnId},
    problem::Problem,
    time::Timestamp,
};

/// Where a turn stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TurnState {
    /// Stored and acknowledged.
    Accepted,
    /// Waits for its conversation or for a slot of a model server.
    Queued,
    /// The model works on it. It stays so where it has to wait for a slot again: nothing leads back, and `queue` says where it
    /// stands then.
    Generating,
    /// The model ended by itself.
    Completed,
    /// Somebody stopped it.
    Stopped,
    /// The model server failed.
    Failed,
    /// The bot crashed or the process ended.
    Interrupted,
}

/// What happens to a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TurnStep {
    /// It has to wait.
    Queue,
    /// A slot is taken.
    Start,
    /// The model ended.
    Complete,
    /// Somebody stopped it.
    Stop,
    /// The model server failed.
    Fail,
    /// Its bot or the process is gone.
    Interrupt,
}

impl TurnState {
    /// True for the four ends.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Stopped | Self::Failed | Self::Interrupted)
    }

    /// The next state, or `None` where the step does not apply (an end is final: the first one wins).
    #[must_use]
    pub fn after(self, step: TurnStep) -> Option<Self> {
        use TurnState as S;
        match (self, step) {
            (S::Accepted, TurnStep::Queue) => Some(S::Queued),
            (S::Accepted | S::Queued, TurnStep::Start) => Some(S::Generating),
            (S::Generating, TurnStep::Complete) => Some(S::Completed),
            (S::Accepted | S::Queued | S::Generating, TurnStep::Stop) => Some(S::Stopped),
            (S::Accepted | S::Queued | S::Generating, TurnStep::Fail) => Some(S::Failed),
            (S::Accepted | S::Queued | S::Generating, TurnStep::Interrupt) => Some(S::Interrupted),
            (S::Accepted | S::Queued, TurnStep::Complete)
            | (S::Queued | S::Generating, TurnStep::Queue)
            | (S::Generating, TurnStep::Start)
            | (S::Completed | S::Stopped | S::Failed | S::Interrupted, _) => None,
        }
    }

    /// The wire name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Queued => "queued",
            Self::Generating => "generating",
            Self::Completed => "completed",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
        }
    }
}

/// Place in the line: of a model server, of those who wait for any server, or of its conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueuePlace {
    /// From 1.
    pub position: u32,
    /// Estimated wait in seconds; none while nothing is known.
    pub eta_s: Option<f64>,
    /// The model server in whose line it stands; none where it waits for any server, or behind its own conversation.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub server: Option<String>,
    /// It waits for any server that can run it to answer.
    #[serde(flatten)]
    pub offline: Option<Offline>,
}

impl QueuePlace {
    /// A place in no line in particular, with the wait as expected.
    #[must_use]
    pub fn new(position: u32, wait: Option<Duration>) -> Self {
        Self { position, eta_s: wait.map(seconds), server: None, offline: None }
    }

    /// The same in the line of this server.
    #[must_use]
    pub fn at(self, server: &str) -> Self {
        Self { server: Some(server.to_owned()), ..self }
    }
}

/// Seconds with one decimal, as waits are told.
pub(crate) fn seconds(wait: Duration) -> f64 {
    (wait.as_secs_f64() * 10.0).round() / 10.0
}

/// A wait for a server to come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offline {
    /// Since when no server could be asked.
    pub offline_since: Timestamp,
    /// When the turn fails if none comes back.
    pub gives_up_at: Timestamp,
}

/// Token counts as the model server reported them; estimates where it did not come to that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    pub completion_tokens: u32,
}

/// Where the time went, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// From the acknowledgement until a slot was taken, and every later wait for another one.
    pub queued_ms: Option<f64>,
    /// From the request to the model server until the first piece of text.
    pub first_token_ms: Option<f64>,
    /// From the acknowledgement until the end.
    pub total_ms: Option<f64>,
}

/// How full the context was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextUse {
    /// Size asked for, in tokens.
    pub num_ctx: u32,
    /// Estimated tokens sent, replaced by the model server's count; 0 where a turn waits and nobody knows what comes before it.
    pub used: u32,
    /// Earlier messages that were not sent.
    pub trimmed_messages: u32,
    /// Their estimated tokens.
    pub trimmed_tokens: u32,
}

/// A turn as answered and stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    /// Id.
    pub id: TurnId,
    /// Its bot.
    pub bot_id: BotId,
    /// Its conversation.
    pub conversation_id: ConversationId,
    /// The user's message.
    pub message_id: MessageId,
    /// The answer; the id is given when the turn is accepted.
    pub reply_id: MessageId,
    /// Where it stands.
    pub state: TurnState,
    /// The model that answers.
    pub model: String,
    /// The model server that answers; none before it started and while it stands in line again.
    pub server: Option<String>,
    /// The turn that this one repeats.
    pub attempt_of: Option<TurnId>,
    /// Place in the line; also of one that has begun and waits for another slot.
    pub queue: Option<QueuePlace>,
    /// Tokens.
    pub usage: Usage,
    /// Times.
    pub timings: Timings,
    /// Context.
    pub context: ContextUse,
    /// Why it failed or was interrupted.
    pub error: Option<Problem>,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Told from memory, because the database is away.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [TurnState; 7] = [
        TurnState::Accepted,
        TurnState::Queued,
        TurnState::Generating,
        TurnState::Completed,
        TurnState::Stopped,
        TurnState::Failed,
        TurnState::Interrupted,
    ];
    const STEPS: [TurnStep; 6] = [
        TurnStep::Queue,
        TurnStep::Start,
        TurnStep::Complete,
        TurnStep::Stop,
        TurnStep::Fail,
        TurnStep::Interrupt,
    ];

    #[test]
    fn every_pair_of_state_and_step_has_its_written_result() {
        use TurnState as S;
        let table: [[Option<S>; 6]; 7] = [
            // Queue, Start, Complete, Stop, Fail, Interrupt
            [
                Some(S::Queued),
                Some(S::Generating),
                None,
                Some(S::Stopped),
                Some(S::Failed),
                Some(S::Interrupted),
            ],
            [None, Some(S::Generating), None, Some(S::Stopped), Some(S::Failed), Some(S::Interrupted)],
            [None, None, Some(S::Completed), Some(S::Stopped), Some(S::Failed), Some(S::Interrupted)],
            [None; 6],
            [None; 6],
            [None; 6],
            [None; 6],
        ];
        for (state, row) in STATES.into_iter().zip(table) {
            for (step, expected) in STEPS.into_iter().zip(row) {
                assert_eq!(state.after(step), expected, "{state:?} {step:?}");
            }
        }
    }
}
