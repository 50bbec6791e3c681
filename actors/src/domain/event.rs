//! Events: facts, past tense, the same JSON on the Rust stream, the socket and SSE.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize, Serializer};

use super::{
    bot::BotState,
    ids::{BotId, ConversationId, EventId, MessageId, TurnId},
    message::{Conversation, Message},
    model::Server,
    model_name::ModelName,
    problem::{Code, Problem},
    task::TaskEnd,
    time::Timestamp,
    tool::{ToolCalled, ToolReturned},
    turn::{Offline, QueuePlace, Turn},
};
use crate::ports::chat_model::PieceKind;

/// A stream of events that can be subscribed to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// Life of all bots.
    Bots,
    /// The supervision tree.
    Tree,
    /// Models and their servers.
    Models,
    /// Background tasks.
    Tasks,
    /// One bot.
    Bot(BotId),
    /// One conversation.
    Conversation(ConversationId),
    /// One turn.
    Turn(TurnId),
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bots => f.write_str("bots"),
            Self::Tree => f.write_str("tree"),
            Self::Models => f.write_str("models"),
            Self::Tasks => f.write_str("tasks"),
            Self::Bot(id) => write!(f, "bot:{id}"),
            Self::Conversation(id) => write!(f, "conversation:{id}"),
            Self::Turn(id) => write!(f, "turn:{id}"),
        }
    }
}
impl FromStr for Topic {
    type Err = Problem;
    fn from_str(text: &str) -> Result<Self, Problem> {
        let unknown = || {
            Problem::new(
                Code::TopicNotFound,
                "topics are bots, tree, models, tasks, bot:ID, conversation:ID and turn:ID",
            )
        };
        match text.split_once(':') {
            None => match text {
                "bots" => Ok(Self::Bots),
                "tree" => Ok(Self::Tree),
                "models" => Ok(Self::Models),
                "tasks" => Ok(Self::Tasks),
                _ => Err(unknown()),
            },
            Some(("bot", id)) => id.parse().map(Self::Bot).map_err(|_| unknown()),
            Some(("conversation", id)) => id.parse().map(Self::Conversation).map_err(|_| unknown()),
            Some(("turn", id)) => id.parse().map(Self::Turn).map_err(|_| unknown()),
            Some(_) => Err(unknown()),
        }
    }
}
impl Serialize for Topic {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for Topic {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A change of a bot's life.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BotChange {
    /// Which bot.
    pub bot_id: BotId,
    /// Its state now.
    pub state: BotState,
    /// Its state before.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from: Option<BotState>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
}

/// A crash, the restart after it, or the end of restarts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BotRestart {
    /// Which bot.
    pub bot_id: BotId,
    /// Why it crashed.
    pub reason: String,
    /// Restarts since launch.
    pub restarts: u64,
    /// Restarts left before quarantine.
    pub restarts_left: u32,
    /// Deliberate waiting before the restart.
    pub backoff_ms: f64,
    /// How long it was down.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub took_ms: Option<f64>,
}

/// Progress of a turn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TurnProgress {
    /// Which turn.
    pub turn_id: TurnId,
    /// Place in the line, from 1.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub position: Option<u32>,
    /// Estimated wait.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub eta_s: Option<f64>,
    /// It waits for any server to answer.
    #[serde(flatten)]
    pub offline: Option<Offline>,
    /// Server.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub server: Option<String>,
    /// Model.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub model: Option<String>,
}

/// The context was too small for the whole history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContextTrimmed {
    /// Which turn.
    pub turn_id: TurnId,
    /// Size of the context.
    pub num_ctx: u32,
    /// Tokens sent, estimated.
    pub used: u32,
    /// Messages not sent.
    pub trimmed_messages: u32,
    /// Their tokens, estimated.
    pub trimmed_tokens: u32,
    /// What is sent in their stead; told where the bot summarises.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub summary: Option<SummaryUse>,
}

/// What became of the summary of what was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SummaryUse {
    /// It was sent as it was made.
    Whole,
    /// Its beginning was sent: it would have taken more than half of the room for history.
    Shortened,
    /// It was left out: even a few words of it had no room.
    NoRoom,
    /// There was none yet.
    None,
}

/// The end of a turn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TurnEnd {
    /// The turn.
    pub turn: Turn,
    /// The reply, as stored.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reply: Option<Message>,
}

/// Durable events with their data; `event` and `data` of the envelope.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", content = "data", rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "encoded at once, never kept in numbers")]
pub enum EventBody {
    /// A bot was launched.
    BotLaunched(BotChange),
    /// A bot changed its state.
    BotStateChanged(BotChange),
    /// A bot has a new configuration.
    BotConfigChanged(BotChange),
    /// A bot was stopped.
    BotStopped(BotChange),
    /// A bot was deleted.
    BotDeleted(BotChange),
    /// A bot's actor died.
    BotCrashed(BotRestart),
    /// A bot's actor is back.
    BotRestarted(BotRestart),
    /// A bot crashed too often.
    BotQuarantined(BotRestart),
    /// A message was stored.
    MessageReceived {
        /// The message.
        message: Message,
    },
    /// A turn was stored.
    TurnAccepted(TurnProgress),
    /// A turn waits.
    TurnQueued(TurnProgress),
    /// A turn has a slot.
    TurnStarted(TurnProgress),
    /// The history was too long.
    ContextTrimmed(ContextTrimmed),
    /// A model called a tool.
    ToolCalled(ToolCalled),
    /// A tool returned.
    ToolReturned(ToolReturned),
    /// The model ended.
    TurnCompleted(TurnEnd),
    /// Somebody stopped it.
    TurnStopped(TurnEnd),
    /// The model server failed.
    TurnFailed(TurnEnd),
    /// The bot or the process ended.
    TurnInterrupted(TurnEnd),
    /// Messages were deleted.
    HistoryCleared {
        /// Whose.
        bot_id: BotId,
        /// Of which conversation; none = of all.
        conversation_id: Option<ConversationId>,
        /// How many.
        deleted: u64,
        /// The conversation went with them: it is in no list any more. Told to the topic of the bot only.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        removed: bool,
    },
    /// A conversation is new (told to the topic of the bot only), or its title, archiving or the end of the active path were
    /// changed by somebody, or an import brought messages.
    ConversationChanged {
        /// The conversation as it is now.
        conversation: Conversation,
    },
    /// A model server changed its state.
    ServerStateChanged {
        /// The server as it is now, or as it was when it was removed.
        server: Server,
        /// It was removed: it is in no list any more.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        removed: bool,
    },
    /// A model was pulled.
    ModelPulled {
        /// Its name.
        model: ModelName,
        /// The server that has it now.
        server: String,
        /// How long it took.
        took_ms: f64,
    },
    /// A model was deleted.
    ModelDeleted {
        /// Its name.
        model: ModelName,
        /// The servers that have it no more.
        servers: Vec<String>,
    },
    /// An actor other than a bot restarted.
    ActorRestarted {
        /// Its path in the tree.
        path: String,
        /// Why it went down.
        reason: String,
        /// How long it was down.
        took_ms: f64,
    },
    /// A background task ended a run.
    TaskFinished(TaskEnd),
}

impl EventBody {
    /// The wire name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::BotLaunched(_) => "bot_launched",
            Self::BotStateChanged(_) => "bot_state_changed",
            Self::BotConfigChanged(_) => "bot_config_changed",
            Self::BotStopped(_) => "bot_stopped",
            Self::BotDeleted(_) => "bot_deleted",
            Self::BotCrashed(_) => "bot_crashed",
            Self::BotRestarted(_) => "bot_restarted",
            Self::BotQuarantined(_) => "bot_quarantined",
            Self::MessageReceived { .. } => "message_received",
            Self::TurnAccepted(_) => "turn_accepted",
            Self::TurnQueued(_) => "turn_queued",
            Self::TurnStarted(_) => "turn_started",
            Self::ContextTrimmed(_) => "context_trimmed",
            Self::ToolCalled(_) => "tool_called",
            Self::ToolReturned(_) => "tool_returned",
            Self::TurnCompleted(_) => "turn_completed",
            Self::TurnStopped(_) => "turn_stopped",
            Self::TurnFailed(_) => "turn_failed",
            Self::TurnInterrupted(_) => "turn_interrupted",
            Self::HistoryCleared { .. } => "history_cleared",
            Self::ConversationChanged { .. } => "conversation_changed",
            Self::ServerStateChanged { .. } => "server_state_changed",
            Self::ModelPulled { .. } => "model_pulled",
            Self::ModelDeleted { .. } => "model_deleted",
            Self::ActorRestarted { .. } => "actor_restarted",
            Self::TaskFinished(_) => "task_finished",
        }
    }

    /// The turn that ends with this event, if one does.
    #[must_use]
    pub fn ended_turn(&self) -> Option<TurnId> {
        match self {
            Self::TurnCompleted(end)
            | Self::TurnStopped(end)
            | Self::TurnFailed(end)
            | Self::TurnInterrupted(end) => Some(end.turn.id),
            _ => None,
        }
    }

    /// The JSON of `data`: the adjacently tagged form without its wrapping, so that it is encoded once.
    fn data_json(&self) -> String {
        let whole = serde_json::to_string(self).unwrap_or_default();
        let prefix = r#"{"event":"","data":"#.len() + self.name().len();
        whole.get(prefix..whole.len().saturating_sub(1)).unwrap_or_default().to_owned()
    }
}

/// An event on its way into the outbox: not numbered yet, already encoded.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// Id.
    pub id: EventId,
    /// When it happened.
    pub time: Timestamp,
    /// Topics that it belongs to; at most one of each kind.
    pub topics: Vec<Topic>,
    /// Wire name.
    pub name: &'static str,
    /// JSON of `data`.
    pub data: Arc<str>,
    /// The turn that ends with it.
    pub ends: Option<TurnId>,
}

impl NewEvent {
    /// An event that happened now.
    #[must_use]
    pub fn new(topics: Vec<Topic>, body: &EventBody) -> Self {
        Self {
            id: EventId::new(),
            time: Timestamp::now(),
            topics,
            name: body.name(),
            data: body.data_json().into(),
            ends: body.ended_turn(),
        }
    }
}

/// A durable event as committed: numbered on each of its topics.
#[derive(Debug, Clone, PartialEq)]
pub struct CommittedEvent {
    /// Place in the outbox over all topics; increases in the order of commits.
    pub position: u64,
    /// Id.
    pub id: EventId,
    /// When it happened.
    pub time: Timestamp,
    /// Wire name.
    pub name: Arc<str>,
    /// JSON of `data`.
    pub data: Arc<str>,
    /// Its number on each topic.
    pub seqs: Vec<(Topic, u64)>,
    /// The turn that ends with it.
    pub ends: Option<TurnId>,
}

impl CommittedEvent {
    /// The typed event.
    ///
    /// # Errors
    /// An event of a newer version that this one does not know.
    pub fn body(&self) -> Result<EventBody, serde_json::Error> {
        serde_json::from_str(&format!("{{\"event\":\"{}\",\"data\":{}}}", self.name, self.data))
    }
}

/// A piece of a running answer: ephemeral, ordered by `offset`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Which turn.
    pub turn_id: TurnId,
    /// The reply that it is a piece of.
    pub message_id: MessageId,
    /// Content or thinking.
    pub kind: PieceKind,
    /// Bytes of that kind before this piece.
    pub offset: usize,
    /// The piece.
    pub text: String,
}

/// A new place in the line: ephemeral.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueueMoved {
    /// Which turn.
    pub turn_id: TurnId,
    /// Place, from 1.
    pub position: u32,
    /// Estimated wait.
    pub eta_s: Option<f64>,
    /// It waits for any server to answer.
    #[serde(flatten)]
    pub offline: Option<Offline>,
    /// The server in whose line it stands; null where it waits for any server, or behind its own conversation.
    pub server: Option<String>,
}

impl QueueMoved {
    /// The place that a turn has now.
    #[must_use]
    pub fn new(turn_id: TurnId, place: QueuePlace) -> Self {
        let QueuePlace { position, eta_s, server, offline } = place;
        Self { turn_id, position, eta_s, offline, server }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_body_is_written_and_read_back_through_its_committed_form() {
        let body = EventBody::HistoryCleared {
            bot_id: BotId::numbered(1),
            conversation_id: None,
            deleted: 3,
            removed: false,
        };
        let new = NewEvent::new(vec![Topic::Bots], &body);
        let committed = CommittedEvent {
            position: 1,
            id: new.id,
            time: new.time,
            name: new.name.into(),
            data: new.data,
            seqs: vec![(Topic::Bots, 1)],
            ends: None,
        };
        assert_eq!(committed.body().unwrap(), body);
        assert_eq!(&*committed.data, r#"{"bot_id":"BOT-001","conversation_id":null,"deleted":3}"#);
    }

    #[test]
    fn a_topic_is_read_as_it_is_written_and_nothing_else() {
        let turn = TurnId::new();
        for topic in [
            Topic::Bots,
            Topic::Tree,
            Topic::Models,
            Topic::Tasks,
            Topic::Bot(BotId::numbered(2)),
            Topic::Turn(turn),
        ] {
            assert_eq!(topic.to_string().parse::<Topic>().unwrap(), topic);
        }
        for bad in ["", "bot", "bot:", "bot:../x", "turn:1", "nope:1", "logs "] {
            assert!(bad.parse::<Topic>().is_err(), "{bad}");
        }
    }
}
