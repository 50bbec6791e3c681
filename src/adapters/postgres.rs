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

mod connect;
mod error;
mod pages;
mod reach;
mod reader;
mod rows;
mod schema;
#[cfg(test)]
mod tests;
mod text;
mod writer;

use async_trait::async_trait;
use deia_actors::{
    domain::{
        bot::{BotRecord, StoredStatus},
        event::{CommittedEvent, Topic},
        ids::{BotId, ConversationId, Epoch, MessageId, TurnId},
        message::{Conversation, Message},
        turn::Turn,
    },
    ports::{
        history_store::{
            Committed, ConversationSnapshot, Cursor, Fact, HistoryStore, MessagePage, StoreError,
            TurnSnapshot,
        },
        state_store::StateStore,
    },
};

pub use self::{
    connect::PostgresConfig,
    reach::{Obstacle, Reached, reach},
};
use self::{reader::Reader, writer::Writer};
use super::migrations::MigrationState;

/// The record in one PostgreSQL database. Close it with [`PostgresStore::close`]; dropping it lets the server find out.
pub struct PostgresStore {
    writer: Writer,
    reader: Reader,
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
        let writer = Writer::start(config).await?;
        Ok(Self { writer, reader: Reader::new(config)? })
    }

    /// Finishes what was given to it and closes its connections.
    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
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
        self.writer.commit(&facts).await
    }
    async fn epoch(&self) -> Result<Epoch, StoreError> {
        self.reader.epoch().await
    }
    async fn head(&self, topic: &Topic) -> Result<u64, StoreError> {
        self.reader.head(topic).await
    }
    async fn events_after(&self, position: u64, limit: u32) -> Result<Vec<CommittedEvent>, StoreError> {
        self.reader.events_after(position, limit).await
    }
    async fn page(
        &self,
        conversation: ConversationId,
        cursor: Cursor,
        limit: u32,
    ) -> Result<Option<MessagePage>, StoreError> {
        self.reader.page(conversation, cursor, limit).await
    }
    async fn path(&self, leaf: MessageId, max_bytes: usize) -> Result<Vec<Message>, StoreError> {
        self.reader.path(leaf, max_bytes).await
    }
    async fn path_rest(&self, above: MessageId) -> Result<(u32, u32), StoreError> {
        self.reader.path_rest(above).await
    }
    async fn message(&self, bot: &BotId, id: MessageId) -> Result<Option<Message>, StoreError> {
        self.reader.message(bot, id).await
    }
    async fn children(
        &self,
        conversation: ConversationId,
        parent: Option<MessageId>,
    ) -> Result<Vec<MessageId>, StoreError> {
        self.reader.children(conversation, parent).await
    }
    async fn conversations(&self, bot: &BotId) -> Result<Vec<Conversation>, StoreError> {
        self.reader.conversations(bot).await
    }
    async fn conversation(&self, id: ConversationId) -> Result<Option<Conversation>, StoreError> {
        self.reader.conversation(id).await
    }
    async fn conversation_snapshot(
        &self,
        id: ConversationId,
        limit: u32,
    ) -> Result<Option<ConversationSnapshot>, StoreError> {
        self.reader.conversation_snapshot(id, limit).await
    }
    async fn turn_snapshot(&self, id: TurnId) -> Result<Option<TurnSnapshot>, StoreError> {
        self.reader.turn_snapshot(id).await
    }
    async fn open_turns(&self, bot: Option<&BotId>) -> Result<Vec<(Turn, Message, Message)>, StoreError> {
        self.reader.open_turns(bot).await
    }
    async fn turn_overrides(&self, id: TurnId) -> Result<Option<serde_json::Value>, StoreError> {
        self.reader.turn_overrides(id).await
    }
    async fn probe(&self) -> Result<(), StoreError> {
        self.reader.ping().await?;
        self.writer.probe().await
    }
}

#[async_trait]
impl StateStore for PostgresStore {
    async fn roster(&self) -> Result<Vec<(BotRecord, StoredStatus)>, StoreError> {
        self.reader.roster().await
    }
}
