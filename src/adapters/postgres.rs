//! [`HistoryStore`] and [`StateStore`] on PostgreSQL, 12 and later.
//!
//! One connection writes, a pool reads. The writing connection holds an advisory lock, so that a second process on the same
//! database is kept out and nothing is committed by one that lost its place. A group of facts is decided in memory against
//! one look-up and written by one statement with a part per table.
//!
//! ```text
//! commit(facts) → one after the other: look-up · decide and number · write and COMMIT → answer
//! reads         → pool, one REPEATABLE READ transaction where it must be one moment
//! ```
//!
//! The lock belongs to a session, so a pooler that changes sessions between transactions can't stand in between.

mod archive;
mod connect;
mod error;
mod events;
mod indexer;
mod pages;
mod reach;
mod reader;
mod rows;
mod schema;
mod search;
mod shares;
#[cfg(test)]
mod tests;
mod text;
mod writer;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use deia_actors::{
    domain::{
        bot::{BotRecord, StoredStatus},
        event::{CommittedEvent, Topic},
        idempotency::{IdempotencyKey, SentBefore},
        ids::{BotId, ConversationId, Epoch, MessageId, TurnId},
        message::{Conversation, Message},
        model::ServerRecord,
        search::Query,
        turn::Turn,
    },
    ports::{
        archive::{Archive, ArchivedTurn, Arrival, Place, Stretch},
        history_store::{
            Committed, ConversationSnapshot, Cursor, Fact, HistoryStore, MessagePage, Span, StoreError,
            TurnSnapshot,
        },
        retention::{Held, Prune, Pruned, RetentionStore},
        search::{Found, SearchIndex},
        state_store::StateStore,
    },
};

pub use self::{
    connect::PostgresConfig,
    reach::{Obstacle, Reached, reach},
};
use self::{
    indexer::Indexer,
    reader::Reader,
    writer::{Piece, Writer},
};
use super::{migrations::MigrationState, quarantine::Quarantine};

/// Pieces of surplus events that one look finds.
const SURPLUS_PIECES: u32 = 20;

/// The record in one PostgreSQL database. Close it with [`PostgresStore::close`]; dropping it lets the server find out.
pub struct PostgresStore {
    writer: Arc<Writer>,
    indexer: Indexer,
    reader: Reader,
    /// How long a read may take, its wait for a connection included.
    patience: Duration,
}

impl PostgresStore {
    /// Opens a database, which exists; makes its tables where they are missing.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where the server can't be reached, can't be trusted with acknowledged messages (then it
    /// says which setting to change), or another process uses the database; [`StoreError::Corrupt`] where the database is
    /// not one of this version or an older one.
    pub async fn open(config: &PostgresConfig) -> Result<Self, StoreError> {
        schema::prepare(config).await?;
        let quarantine = Arc::new(Quarantine::default());
        let writer = Arc::new(Writer::start(config, quarantine.clone()).await?);
        let reader = Reader::new(config, quarantine)?;
        let patience = config.acquire_timeout + config.statement_timeout;
        Ok(Self { indexer: Indexer::start(writer.clone()), writer, reader, patience })
    }

    /// A read that nobody answers (the server is frozen, the network swallows it) ends like one that can't be made.
    async fn read<T>(&self, read: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let late = |_| Err(StoreError::Unavailable(format!("no answer within {:?}", self.patience)));
        tokio::time::timeout(self.patience, read).await.unwrap_or_else(late)
    }

    /// Waits for the running reads and the running commit and closes the connections.
    pub async fn close(&self) {
        self.reader.close().await;
        // At once: the index waits for the writer, and the writer waits for nothing any more.
        tokio::join!(self.indexer.close(), self.writer.close());
    }

    /// Brings the database to this version, as [`Self::open`] does. Of two processes that do so at once, one waits.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn migrate_up(config: &PostgresConfig) -> Result<Vec<MigrationState>, StoreError> {
        schema::prepare(config).await?;
        schema::status(config).await
    }

    /// Which migrations the database has.
    ///
    /// # Errors
    /// [`StoreError`] where it can't be read.
    pub async fn migration_status(config: &PostgresConfig) -> Result<Vec<MigrationState>, StoreError> {
        schema::status(config).await
    }
}

#[async_trait]
impl HistoryStore for PostgresStore {
    async fn commit(&self, facts: Vec<Fact>) -> Result<Vec<Committed>, StoreError> {
        let committed = self.writer.commit(&facts).await;
        self.indexer.written();
        committed
    }
    async fn epoch(&self) -> Result<Epoch, StoreError> {
        self.read(self.reader.epoch()).await
    }
    async fn head(&self, topic: &Topic) -> Result<u64, StoreError> {
        self.read(self.reader.head(topic)).await
    }
    async fn events_after(&self, position: u64, limit: u32) -> Result<Vec<CommittedEvent>, StoreError> {
        self.read(self.reader.events_after(position, limit)).await
    }
    async fn topic_events(
        &self,
        topic: &Topic,
        span: Span,
        limit: u32,
        max_bytes: usize,
    ) -> Result<Option<Vec<CommittedEvent>>, StoreError> {
        self.read(self.reader.topic_events(topic, span, limit, max_bytes)).await
    }
    async fn page(
        &self,
        conversation: ConversationId,
        cursor: Cursor,
        limit: u32,
    ) -> Result<Option<MessagePage>, StoreError> {
        self.read(self.reader.page(conversation, cursor, limit)).await
    }
    async fn path(&self, leaf: MessageId, max_bytes: usize) -> Result<Vec<Message>, StoreError> {
        self.read(self.reader.path(leaf, max_bytes)).await
    }
    async fn messages_above(&self, above: MessageId) -> Result<u32, StoreError> {
        self.read(self.reader.messages_above(above)).await
    }
    async fn message(&self, bot: &BotId, id: MessageId) -> Result<Option<Message>, StoreError> {
        self.read(self.reader.message(bot, id)).await
    }
    async fn children(
        &self,
        conversation: ConversationId,
        parent: Option<MessageId>,
    ) -> Result<Vec<MessageId>, StoreError> {
        self.read(self.reader.children(conversation, parent)).await
    }
    async fn newest_below(
        &self,
        conversation: ConversationId,
        id: MessageId,
    ) -> Result<Option<MessageId>, StoreError> {
        self.read(self.reader.newest_below(conversation, id)).await
    }
    async fn conversations(&self, bot: &BotId) -> Result<Vec<Conversation>, StoreError> {
        self.read(self.reader.conversations(bot)).await
    }
    async fn conversation(&self, id: ConversationId) -> Result<Option<Conversation>, StoreError> {
        self.read(self.reader.conversation(id)).await
    }
    async fn conversation_snapshot(
        &self,
        id: ConversationId,
        limit: u32,
    ) -> Result<Option<ConversationSnapshot>, StoreError> {
        self.read(self.reader.conversation_snapshot(id, limit)).await
    }
    async fn turn_snapshot(&self, id: TurnId) -> Result<Option<TurnSnapshot>, StoreError> {
        self.read(self.reader.turn_snapshot(id)).await
    }
    async fn open_turns(&self, bot: Option<&BotId>) -> Result<Vec<(Turn, Message, Message)>, StoreError> {
        self.read(self.reader.open_turns(bot)).await
    }
    async fn turn_overrides(&self, id: TurnId) -> Result<Option<serde_json::Value>, StoreError> {
        self.read(self.reader.turn_overrides(id)).await
    }
    async fn sent_before(
        &self,
        user: &str,
        bot: &BotId,
        key: &IdempotencyKey,
    ) -> Result<Option<SentBefore>, StoreError> {
        self.read(self.reader.sent_before(user, bot, key)).await
    }
    async fn probe(&self) -> Result<(), StoreError> {
        // In this order: a server that is away is noticed at once by the one and after a time limit by the other.
        self.writer.probe().await?;
        self.read(self.reader.ping()).await
    }
    fn quarantined_rows(&self) -> u64 {
        self.reader.quarantined_rows()
    }
}

#[async_trait]
impl RetentionStore for PostgresStore {
    async fn prune(&self, what: Prune, limit: u32) -> Result<Pruned, StoreError> {
        let Prune::SurplusEvents { keep } = what else {
            return self.writer.prune(&Piece::Oldest(what, limit)).await;
        };
        // Finding them looks at all events, so it is done beside the writer, and once for many pieces. What is surplus
        // stays so.
        let most = limit.saturating_mul(SURPLUS_PIECES);
        let found = self.read(self.reader.surplus_events(keep, most)).await?;
        let mut pruned = Pruned::default();
        for piece in found.chunks(usize::try_from(limit.max(1)).unwrap_or(1)) {
            pruned.rows += self.writer.prune(&Piece::Events(piece.to_vec())).await?.rows;
            pruned.more = true;
        }
        Ok(pruned)
    }
    async fn held(&self, bot: &BotId) -> Result<Vec<Held>, StoreError> {
        self.read(self.reader.held(bot)).await
    }
}

#[async_trait]
impl StateStore for PostgresStore {
    async fn roster(&self) -> Result<Vec<(BotRecord, StoredStatus)>, StoreError> {
        self.read(self.reader.roster()).await
    }
    async fn servers(&self) -> Result<Vec<ServerRecord>, StoreError> {
        self.read(self.reader.servers()).await
    }
}

#[async_trait]
impl Archive for PostgresStore {
    async fn arrived(&self) -> Result<Arrival, StoreError> {
        self.read(self.reader.arrived()).await
    }
    async fn messages_after(
        &self,
        conversation: ConversationId,
        after: Option<Place>,
        by: Arrival,
        limit: u32,
        max_bytes: usize,
    ) -> Result<Stretch, StoreError> {
        self.read(self.reader.messages_after(conversation, after, by, limit, max_bytes)).await
    }
    async fn conversation_ids(&self, bot: &BotId) -> Result<Vec<ConversationId>, StoreError> {
        self.read(self.reader.conversation_ids(bot)).await
    }
    async fn messages_with(&self, ids: &[MessageId]) -> Result<Vec<Message>, StoreError> {
        self.read(self.reader.messages_with(ids)).await
    }
    async fn turns_with(&self, ids: &[TurnId]) -> Result<Vec<ArchivedTurn>, StoreError> {
        self.read(self.reader.turns_with(ids)).await
    }
}

#[async_trait]
impl SearchIndex for PostgresStore {
    async fn search(
        &self,
        bot: &BotId,
        conversation: Option<ConversationId>,
        query: &Query,
        limit: u32,
        offset: u32,
    ) -> Result<Found, StoreError> {
        if self.read(self.reader.search_is_behind()).await? {
            self.indexer.index().await?;
        }
        self.read(self.reader.search(bot, conversation, query, limit, offset)).await
    }
    async fn unindexed(&self) -> Result<u64, StoreError> {
        self.read(self.reader.unindexed()).await
    }
}
