//! Port: the durable record. One ordered stream of changes, each committed together with its events, and the reads on it.

use async_trait::async_trait;
use serde_json::Value;

use crate::domain::{
    event::{CommittedEvent, EventBody, NewEvent, Topic},
    idempotency::{IdempotencyKey, SentBefore},
    ids::{BotId, ConversationId, Epoch, MessageId, TurnId},
    image::IMAGES_MAX_BYTES,
    message::{Conversation, Message},
    turn::Turn,
};

mod change;

pub use change::{Change, Fact};

/// What a store may answer instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Nothing can be written or read now (disk full, read-only, locked, connection lost); the same call may succeed later.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// More is asked at once than the store reads in time. The database is there; the same call may succeed later.
    #[error("the database has more to read than it can: {0}")]
    Busy(String),
    /// The stored data is not what this version wrote.
    #[error("the database holds something unexpected: {0}")]
    Corrupt(String),
    /// The database does not take this content, whatever its state (too large, against a rule of a table): the same call fails again.
    #[error("the database refuses this: {0}")]
    Refused(String),
}

/// `data` of a stored event whose message was deleted. Its row stays for its numbers; as typed event
/// it can't be read any more.
pub const REDACTED: &str = r#"{"redacted":true}"#;

/// What a store tells of a conversation that [`Change::ClearHistory`] cleared of `deleted` messages.
#[must_use]
pub fn cleared_event(bot: &BotId, conversation: ConversationId, deleted: u64) -> NewEvent {
    let topics = vec![Topic::Bot(bot.clone()), Topic::Conversation(conversation)];
    let body = EventBody::HistoryCleared {
        bot_id: bot.clone(),
        conversation_id: Some(conversation),
        deleted,
        removed: false,
    };
    NewEvent::new(topics, &body)
}

/// What became of a fact.
#[derive(Debug, Clone, PartialEq)]
pub struct Committed {
    /// False where the change did not apply: it had been made before, or its target is gone or has ended.
    pub applied: bool,
    /// Messages that the change deleted.
    pub deleted: u64,
    /// Its events, those that the store added included, numbered.
    pub events: Vec<CommittedEvent>,
}

/// A run of numbers of a topic: those above `after`, up to `through`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Span {
    /// The number before the first.
    pub after: u64,
    /// The last.
    pub through: u64,
}

impl Span {
    /// True where there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.after >= self.through
    }

    /// How many there are in it.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.through.saturating_sub(self.after)
    }
}

/// Weight of the messages of a page ([`Message::weight`]): as much as one message may have in images.
pub const PAGE_BYTES: usize = IMAGES_MAX_BYTES;
/// Weight after which a path ends: images of a prompt reach no further back, whatever the context.
pub const PATH_BYTES: usize = 4 * IMAGES_MAX_BYTES;

/// Which part of a conversation is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cursor {
    /// The newest, after skipping this many.
    Newest {
        /// Messages to skip from the end.
        offset: u32,
    },
    /// Those just before this message.
    Before(MessageId),
    /// Those just after this message.
    After(MessageId),
}

/// A page of messages, oldest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MessagePage {
    /// The messages.
    pub items: Vec<Message>,
    /// More in the direction of reading (older for newest/before, newer for after).
    pub has_more: bool,
}

/// The state of a conversation at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct ConversationSnapshot {
    /// The conversation.
    pub conversation: Conversation,
    /// Its last messages along the active path, oldest first.
    pub messages: Vec<Message>,
    /// Older ones are there.
    pub has_more: bool,
    /// Number of the last event of its topic at that moment.
    pub seq: u64,
}

/// The state of a turn at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct TurnSnapshot {
    /// The turn.
    pub turn: Turn,
    /// Its reply; none once the history was cleared.
    pub reply: Option<Message>,
    /// Number of the last event of its topic at that moment.
    pub seq: u64,
}

/// The durable record.
///
/// * An error of `commit` MUST mean for certain that nothing of the group is stored. A store that does not know
///   (the connection went away with the COMMIT on it) waits and looks until it does: callers have a time
///   limit of their own.
/// * A group that one of its facts spoils MUST fail as `Refused` or `Corrupt`, never as `Unavailable`: its halves are
///   then committed by themselves, so that this fact fails alone.
/// * `commit` MUST apply the facts in their order, all in one durable transaction or none, and MUST
///   be safe to repeat: a change whose ids exist is not applied again and adds no events, nor is a
///   fact whose first event is one of the last few thousand committed and is still kept.
/// * A change whose target is gone (or never was) MUST NOT be applied.
/// * Events MUST be numbered gap-free per topic, in order, and get increasing positions; `seqs` are in
///   the order of `Topic`. Callers put every event of a turn on its conversation's topic too.
/// * Siblings are the messages with the same parent in the same conversation, in order of their ids.
/// * What a fork *shares* is the path that ends with the newest message of another conversation that a message of the fork hangs
///   on, of those that are older than the fork. Where a page or the children of a message are asked for, the shared one is
///   among the siblings that the fork has, and of other conversations no more than that. The price MUST NOT grow with what is
///   shared.
/// * Where messages are deleted, the stored `message_received`, calls and results of tools, and ends of turns of the conversation
///   whose message or reply is gone MUST keep their numbers and have [`REDACTED`] as data, in the same
///   transaction: deleted texts are nowhere.
/// * Once `commit` returned, every read MUST see it, also after the process was killed.
/// * Reads MUST NOT wait for a running commit.
/// * An idempotency key MUST be stored in the transaction of its change, per user and bot. While one is stored that is not
///   expired (24 hours before the new one's time, [`SentBefore::is_expired`]), a change with the same key MUST NOT
///   apply; an expired one is replaced. A key outlives what its change stored.
/// * A row that this version can't read (an unknown word, broken JSON, a wrong type, a newer version's) MUST be left out
///   of what is read and reported: logged once, without its content, and counted once in
///   [`HistoryStore::quarantined_rows`]. Everything else works: lists have the other rows, a path goes on above
///   such a message. Where such a row was asked for by its id the answer is `Corrupt`. An event is never left out, because
///   its number would be a gap: without readable data it comes as [`REDACTED`].
/// * A message path MUST follow `parent_id` from the leaf, also into another conversation (a fork).
#[async_trait]
pub trait HistoryStore: Send + Sync + 'static {
    /// Commits a group.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing of the group is stored, for certain. Where the connection is lost so late that this
    /// is not known, the store finds out before it answers, however long that takes.
    async fn commit(&self, facts: Vec<Fact>) -> Result<Vec<Committed>, StoreError>;

    /// The numbering of this database: made once, kept for ever.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn epoch(&self) -> Result<Epoch, StoreError>;

    /// Number of the last event of a topic, kept or not; 0 while there is none, or where its turn was deleted.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn head(&self, topic: &Topic) -> Result<u64, StoreError>;

    /// Events behind a position, in order. Those of deleted messages are [`REDACTED`]: their `body` is an error.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn events_after(&self, position: u64, limit: u32) -> Result<Vec<CommittedEvent>, StoreError>;

    /// Events of a topic, in order: the first ones of the span, at most `limit`, up to and with the one
    /// that exceeds `max_bytes` of data. `None` where one of the span (also of those that no longer fit) is
    /// not kept any more, or where the span reaches beyond the head.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn topic_events(
        &self,
        topic: &Topic,
        span: Span,
        limit: u32,
        max_bytes: usize,
    ) -> Result<Option<Vec<CommittedEvent>>, StoreError>;

    /// A page along the active path of a conversation: at most `limit` messages, and no more than weigh [`PAGE_BYTES`] together;
    /// one that is heavier by itself is a page. `None` where the cursor is not on that path.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn page(
        &self,
        conversation: ConversationId,
        cursor: Cursor,
        limit: u32,
    ) -> Result<Option<MessagePage>, StoreError>;

    /// The path that ends with `leaf` (included), newest first, up to and with the message that
    /// exceeds `max_bytes` of [`Message::text_bytes`] or, with those before it, [`PATH_BYTES`] of [`Message::weight`], or the
    /// first one.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn path(&self, leaf: MessageId, max_bytes: usize) -> Result<Vec<Message>, StoreError>;

    /// How many messages are on the path above `above` (excluded), those that can't be read included. Costs the same however
    /// many there are: it is asked for with every turn whose history is not in memory.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn messages_above(&self, above: MessageId) -> Result<u32, StoreError>;

    /// One message of a bot.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn message(&self, bot: &BotId, id: MessageId) -> Result<Option<Message>, StoreError>;

    /// Ids of the children of a message (or of the first messages) that a conversation has, the shared one included, oldest
    /// first.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn children(
        &self,
        conversation: ConversationId,
        parent: Option<MessageId>,
    ) -> Result<Vec<MessageId>, StoreError>;

    /// The newest message of a conversation at or below this one, which is of the conversation or shared by it: where the branch
    /// that begins with it was last continued there. None where it is neither.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn newest_below(
        &self,
        conversation: ConversationId,
        id: MessageId,
    ) -> Result<Option<MessageId>, StoreError>;

    /// Conversations of a bot in the roster: the main one first, then by last use, newest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn conversations(&self, bot: &BotId) -> Result<Vec<Conversation>, StoreError>;

    /// One conversation.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn conversation(&self, id: ConversationId) -> Result<Option<Conversation>, StoreError>;

    /// A conversation with its newest page and the head of its topic, all of one moment.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn conversation_snapshot(
        &self,
        id: ConversationId,
        limit: u32,
    ) -> Result<Option<ConversationSnapshot>, StoreError>;

    /// A turn with its reply and the head of its topic, all of one moment.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn turn_snapshot(&self, id: TurnId) -> Result<Option<TurnSnapshot>, StoreError>;

    /// Turns that have not ended, of one bot or of all, oldest first, each with the user's message
    /// and its reply (with the checkpointed text). Never one of a deleted bot, whose id may be
    /// another's by now.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn open_turns(&self, bot: Option<&BotId>) -> Result<Vec<(Turn, Message, Message)>, StoreError>;

    /// The overrides that a turn was accepted with; none where there were none, or no such turn.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn turn_overrides(&self, id: TurnId) -> Result<Option<Value>, StoreError>;

    /// What a request with this key did, expired or not; none where the key is unknown.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn sent_before(
        &self,
        user: &str,
        bot: &BotId,
        key: &IdempotencyKey,
    ) -> Result<Option<SentBefore>, StoreError>;

    /// Whether the database answers and takes writes: used by health checks.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn probe(&self) -> Result<(), StoreError>;

    /// Rows that can't be read (see the obligations), as far as they were met since the store was opened.
    fn quarantined_rows(&self) -> u64;
}
