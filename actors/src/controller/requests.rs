//! What can be asked of the tree, and what comes back.

use std::{collections::HashMap, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    broadcast::reader::Reader,
    domain::{
        bot::{Bot, BotState, Options},
        event::TurnEnd,
        idempotency::IdempotencyKey,
        ids::{BotId, ConversationId, Epoch, MessageId, TurnId},
        message::{Conversation, Message},
        model::{Model, Server},
        task::Task,
        tree::TreeNode,
        turn::Turn,
    },
};

pub use crate::inference::queue::Class;

/// Launch a bot.
#[derive(Debug, Clone, Default)]
pub struct LaunchBot {
    /// Id; none = the next free `BOT-001`.
    pub bot_id: Option<BotId>,
    /// Shown name; none = the id.
    pub name: Option<String>,
    /// Configuration as a JSON object; missing keys are the defaults.
    pub config: Option<Map<String, Value>>,
    /// Free data of the caller.
    pub metadata: Option<Map<String, Value>>,
}

/// JSON merge patch (RFC 7396) of a bot.
#[derive(Debug, Clone, Default)]
pub struct PatchBot {
    /// New name; `Some(None)` = back to the id.
    pub name: Option<Option<String>>,
    /// Patch of the configuration; a null value = its default.
    pub config: Option<Value>,
    /// Patch of the metadata.
    pub metadata: Option<Value>,
}

/// Which bots are asked for.
#[derive(Debug, Clone, Default)]
pub struct ListBots {
    /// Only those in this state.
    pub state: Option<BotState>,
    /// At most this many, 1 to 1,000; none = 200.
    pub limit: Option<u32>,
    /// Those after this id.
    pub after: Option<BotId>,
}

/// A page of bots, by id.
#[derive(Debug, Clone, Serialize)]
pub struct BotPage {
    /// The bots.
    pub items: Vec<Bot>,
    /// Cursor for `after`; none at the end.
    pub next: Option<BotId>,
}

/// How to crash a bot on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KillHow {
    /// Its handler panics.
    #[default]
    Panic,
    /// The actor is killed from outside.
    Kill,
}

/// A message to a bot.
#[derive(Debug, Clone)]
pub struct SendMessage {
    /// To whom.
    pub bot_id: BotId,
    /// The text.
    pub content: Arc<str>,
    /// Which conversation; none = the main one.
    pub conversation_id: Option<ConversationId>,
    /// Where it hangs: absent = at the end; `Some(None)` = a new first message; `Some(Some(id))` = a child of that message.
    pub parent_id: Option<Option<MessageId>>,
    /// Images, base64.
    pub images: Vec<Arc<str>>,
    /// Options for this turn, over those of the bot.
    pub options: Option<Options>,
    /// Thinking for this turn.
    pub think: Option<Value>,
    /// Format for this turn.
    pub format: Option<Value>,
    /// Free data of the caller, stored with the message.
    pub metadata: Map<String, Value>,
    /// Who waits for the answer: where model servers are busy, `Interactive` goes before `Api`, and that before `Background`,
    /// without starving it.
    pub class: Class,
    /// Makes it safe to send twice: the second one gets the answer of the first. Kept for 24 hours.
    pub idempotency_key: Option<IdempotencyKey>,
}

impl SendMessage {
    /// A plain text to the bot's main conversation, from a program.
    #[must_use]
    pub fn text(bot_id: BotId, content: impl Into<Arc<str>>) -> Self {
        Self {
            bot_id,
            content: content.into(),
            conversation_id: None,
            parent_id: None,
            images: vec![],
            options: None,
            think: None,
            format: None,
            metadata: Map::new(),
            class: Class::Api,
            idempotency_key: None,
        }
    }
}

/// What became of a message.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "one per request")]
pub enum Sent {
    /// It is stored and its turn runs or waits.
    Turn(AcceptedTurn),
    /// It was a slash command, and this is the answer.
    Command {
        /// The command as stored.
        message: Message,
        /// The answer, from `system`.
        reply: Message,
        /// It was carried out before, by a request with the same idempotency key.
        replayed: bool,
    },
}

impl Sent {
    /// Whether a request with the same idempotency key did it before, and this is its answer once more.
    #[must_use]
    pub fn replayed(&self) -> bool {
        match self {
            Self::Turn(accepted) => accepted.replayed,
            Self::Command { replayed, .. } => *replayed,
        }
    }
}

/// A stored message whose turn runs or waits. Dropping it cancels nothing.
#[derive(Debug)]
pub struct AcceptedTurn {
    /// The turn as accepted.
    pub turn: Turn,
    /// The message as stored.
    pub message: Message,
    /// It was accepted before, with the same idempotency key; the turn is as it stands now.
    pub replayed: bool,
    /// Resolves at the end of the turn.
    pub(crate) end: tokio::sync::watch::Receiver<Option<Arc<TurnEnd>>>,
}

impl AcceptedTurn {
    /// Waits for the end of the turn; `None` only while the process ends.
    pub async fn ended(mut self) -> Option<Arc<TurnEnd>> {
        self.end.wait_for(Option::is_some).await.ok().and_then(|end| end.clone())
    }
}

/// Where a reader of a topic stopped.
#[derive(Debug, Clone, Default)]
pub struct ResumeFrom {
    /// The numbering that `seq` belongs to.
    pub epoch: Option<Epoch>,
    /// Last event it has.
    pub seq: u64,
    /// Bytes that it has of running replies.
    pub offsets: HashMap<MessageId, TextOffsets>,
}

/// Bytes of a running reply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TextOffsets {
    /// Of the content.
    pub content: usize,
    /// Of the thinking.
    pub thinking: usize,
}

/// Text from an offset on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TextFrom {
    /// Bytes before it.
    pub offset: usize,
    /// The text.
    pub text: String,
}

/// A reply that is being written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunningReply {
    /// Its turn.
    pub turn_id: TurnId,
    /// The reply.
    pub message_id: MessageId,
    /// Content so far.
    pub content: TextFrom,
    /// Thinking so far.
    pub thinking: TextFrom,
}

/// The state behind a topic at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
#[allow(clippy::large_enum_variant, reason = "one per subscription")]
pub enum Snapshot {
    /// `bots`.
    Bots {
        /// All bots.
        bots: Vec<Bot>,
    },
    /// `bot:{id}`.
    Bot {
        /// The bot.
        bot: Bot,
    },
    /// `conversation:{id}`.
    Conversation {
        /// The conversation.
        conversation: Conversation,
        /// Its last 50 messages, oldest first; fewer where they are as large as a page may be.
        messages: Vec<Message>,
        /// Older ones are there.
        has_more: bool,
    },
    /// `turn:{id}`.
    Turn {
        /// The turn.
        turn: Turn,
        /// Its reply.
        reply: Option<Message>,
    },
    /// `tree`.
    Tree {
        /// The root.
        tree: TreeNode,
    },
    /// `models`.
    Models {
        /// Models over all servers.
        models: Vec<Model>,
        /// Servers.
        servers: Vec<Server>,
    },
    /// `tasks`.
    Tasks {
        /// All background tasks.
        tasks: Vec<Task>,
    },
}

/// Where a reader stands after it subscribed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Subscribed {
    /// The numbering.
    pub epoch: Epoch,
    /// Last event that the reader has now (with the snapshot, if there is one).
    pub seq: u64,
    /// Whether `after` could be honoured; none where there was no `after`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovered: Option<bool>,
    /// Replies that are being written, on conversation and turn topics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running: Option<Vec<RunningReply>>,
    /// The state, unless `recovered`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Snapshot>,
}

/// A reader on one topic, as SSE uses it.
#[derive(Debug)]
pub struct TopicReader {
    /// Where it stands.
    pub subscribed: Subscribed,
    /// Its events.
    pub reader: Reader,
}

/// A page of history.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HistoryPage {
    /// Messages, oldest first.
    pub items: Vec<Message>,
    /// More in the direction of reading.
    pub has_more: bool,
    /// Cursor for the page before; none at the beginning.
    pub before: Option<MessageId>,
    /// Cursor for the page after; none at the end.
    pub after: Option<MessageId>,
}

/// Which messages are asked for.
#[derive(Debug, Clone, Default)]
pub struct HistoryQuery {
    /// Which conversation; none = the main one.
    pub conversation_id: Option<ConversationId>,
    /// 1 to 200; none = 50.
    pub limit: Option<u32>,
    /// Those before this message.
    pub before: Option<MessageId>,
    /// Those after this message.
    pub after: Option<MessageId>,
    /// Skip this many from the newest.
    pub offset: Option<u32>,
}

/// What is searched for.
#[derive(Debug, Clone, Default)]
pub struct SearchHistory {
    /// Words, `"phrases"` and prefixes (`pre*`), which must all be there.
    pub q: String,
    /// Which conversation; none = all of the bot's.
    pub conversation_id: Option<ConversationId>,
    /// 1 to 200; none = 50.
    pub limit: Option<u32>,
    /// Skip this many of the best.
    pub offset: Option<u32>,
}

/// A message that was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SearchHit {
    /// The message.
    #[serde(flatten)]
    pub message: Message,
    /// Its text around the first match, on one line.
    pub snippet: String,
}

/// What was found, best match first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SearchPage {
    /// Messages.
    pub items: Vec<SearchHit>,
    /// There are more behind them.
    pub has_more: bool,
    /// The `offset` of the next page, which may be nearer than `limit`: heavy messages end a page early. None at the end.
    pub next_offset: Option<u32>,
    /// Always none: a search is paged by `offset`.
    pub before: Option<MessageId>,
    /// Always none.
    pub after: Option<MessageId>,
}

/// A new conversation.
#[derive(Debug, Clone, Default)]
pub struct NewConversation {
    /// Shown name.
    pub title: Option<String>,
    /// The message that it goes on from: its path is the beginning of the new conversation's.
    pub from_message_id: Option<MessageId>,
}

/// Changes of a conversation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PatchConversation {
    /// New name; `Some(None)` removes it.
    pub title: Option<Option<String>>,
    /// New end of the active path.
    pub leaf_message_id: Option<MessageId>,
    /// Hide or show.
    pub archived: Option<bool>,
    /// Put under legal hold, or lift that.
    pub legal_hold: Option<bool>,
}

/// A new model server.
#[derive(Debug, Clone, Default)]
pub struct AddServer {
    /// Its name; none = host and port.
    pub name: Option<String>,
    /// Where it is.
    pub url: String,
    /// Turns at once; none = as configured for all.
    pub slots: Option<u32>,
}

/// A slash command as listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CommandInfo {
    /// Name, without the slash.
    pub name: &'static str,
    /// How it is written: `/model NAME`.
    pub usage: &'static str,
    /// What it does.
    pub description: &'static str,
    /// Words that may follow, for completion; empty where there is nothing to complete.
    pub completions: Vec<String>,
}
