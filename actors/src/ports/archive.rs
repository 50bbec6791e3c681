//! Port: what export and import need of the record: whole conversations in a stable order, and
//! what of a file is stored already.

use async_trait::async_trait;
use serde_json::Value;

use super::history_store::StoreError;
use crate::domain::{
    ids::{BotId, ConversationId, MessageId, TurnId},
    message::{Conversation, Message},
    turn::Turn,
};

/// An ended turn as it is kept: with what it was asked with instead of its bot's configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct ArchivedTurn {
    /// The turn.
    pub turn: Turn,
    /// See [`super::history_store::Change::AcceptTurn`].
    pub overrides: Option<Value>,
}

/// A part of an archive, as [`super::history_store::Change::Import`] stores it.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportPart {
    /// The bot that everything in it belongs to.
    pub bot_id: BotId,
    /// Conversations; they come in an earlier part than their messages, or in the same. A leaf comes in the same part as
    /// its message, or in a later one.
    pub conversations: Vec<Conversation>,
    /// Messages that have ended.
    pub messages: Vec<Message>,
    /// Turns that have ended.
    pub turns: Vec<ArchivedTurn>,
}

/// Where a message stands in its conversation: siblings together, oldest first, in the order of their
/// parents. In a conversation without branches that is the order of the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The message before it; none comes first.
    pub parent_id: Option<MessageId>,
    /// The message.
    pub id: MessageId,
}

impl Place {
    /// The place of a message.
    #[must_use]
    pub fn of(message: &Message) -> Self {
        Self { parent_id: message.parent_id, id: message.id }
    }
}

/// A moment of the record, told by what had been stored by then. Ids say nothing of that: they are of the clock of whoever made
/// them, and imported ones of another machine's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Arrival(pub u64);

impl Arrival {
    /// With everything that will ever be stored.
    pub const ALL: Self = Self(u64::MAX);
}

/// Messages of a conversation.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Stretch {
    /// Those that can be read.
    pub messages: Vec<Message>,
    /// Rows among them and right behind them that can't be; nil for one whose id can't be read either.
    pub left_out: Vec<MessageId>,
}

/// Whole conversations.
///
/// * `messages_after` without messages MUST mean that no message that can be read is behind the place.
/// * `messages_after` MUST return every message that was created in the conversation, all branches,
///   in the order of [`Place`], and its cost MUST NOT grow with what lies before `after`.
/// * `arrived` MUST part what is stored when it is called from what is stored later.
/// * Every call is one short read; between two of them the record may change.
#[async_trait]
pub trait Archive: Send + Sync + 'static {
    /// The last arrival.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn arrived(&self) -> Result<Arrival, StoreError>;

    /// Messages created in a conversation behind a place that had arrived by then, with their places among their siblings: at
    /// most `limit`, up to and with the one that exceeds `max_bytes` of [`Message::weight`].
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn messages_after(
        &self,
        conversation: ConversationId,
        after: Option<Place>,
        by: Arrival,
        limit: u32,
        max_bytes: usize,
    ) -> Result<Stretch, StoreError>;

    /// Every conversation of a bot, also those that can't be read.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn conversation_ids(&self, bot: &BotId) -> Result<Vec<ConversationId>, StoreError>;

    /// Those of these messages that are stored, of whatever bot, in the order of their ids.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn messages_with(&self, ids: &[MessageId]) -> Result<Vec<Message>, StoreError>;

    /// Those of these turns that are stored, of whatever bot, open or ended, in the order of their ids.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn turns_with(&self, ids: &[TurnId]) -> Result<Vec<ArchivedTurn>, StoreError>;
}
