//! The storage ports on SQLite: the embedded default.
//!
//! One thread writes with rusqlite (every statement is a function call there, not two thread
//! hand-overs); a pool of read-only connections reads with sqlx. WAL, `synchronous = FULL`: an
//! acknowledged commit survives a power cut, and reads never wait for it.
//!
//! ```text
//! commit(facts) → bounded queue → writer thread: BEGIN IMMEDIATE … COMMIT → answer
//! reads         → pool of 4 read-only connections, one transaction where it must be one moment
//! ```

mod archive;
mod error;
mod events;
mod pages;
mod reader;
mod rows;
mod schema;
mod search;
mod shares;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    fs::{File, TryLockError},
    path::Path,
    sync::Arc,
    time::Duration,
};

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
use tokio::time::Instant;

use self::{
    reader::Reader,
    writer::{Target, Writer},
};
use super::{
    migrations::MigrationState,
    quarantine::{self, Quarantine},
    words,
};

/// How long a lock of another program on the database (a backup, a shell) is waited for.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a migration on order waits for others that migrate.
const MIGRATE_PATIENCE: Duration = Duration::from_secs(10);
/// Pieces of surplus events that are looked for at once.
const SURPLUS_PIECES: u32 = 20;

/// Silence after which the writing thread takes messages into the index of the search.
const IDLE: Duration = Duration::from_secs(2);
/// How often the lock of another process is looked at.
const LOCK_AGAIN: Duration = Duration::from_millis(20);

/// The record in one SQLite file. Close it with [`SqliteStore::close`]; dropping it waits for the
/// running commit.
pub struct SqliteStore {
    writer: Writer,
    reader: Reader,
    /// Held while open: two processes on one record would interrupt each other's turns.
    lock: File,
}

impl SqliteStore {
    /// Opens a database; makes its folder, file and tables where they are missing.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where the file can't be made, read or written, or another
    /// process has it open; [`StoreError::Corrupt`] where it is not a database of this version or
    /// an older one.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_with(path, BUSY_TIMEOUT, IDLE).await
    }

    async fn open_with(path: &Path, busy_timeout: Duration, idle: Duration) -> Result<Self, StoreError> {
        let lock = lock(path, busy_timeout).await?;
        schema::prepare(path).await?;
        let quarantine = Arc::new(Quarantine::default());
        let reader = Reader::new(path, quarantine.clone());
        let writer = Writer::start(Target { path: path.to_owned(), busy_timeout, idle, quarantine })?;
        Ok(Self { writer, reader, lock })
    }

    /// Makes the database if there is none and brings it to this version, as [`Self::open`] does.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn migrate_up(path: &Path) -> Result<Vec<MigrationState>, StoreError> {
        let lock = lock(path, MIGRATE_PATIENCE).await?;
        schema::prepare(path).await?;
        lock.unlock().ok();
        schema::status(path).await
    }

    /// Which migrations the database has; none where there is no database yet.
    ///
    /// # Errors
    /// [`StoreError`] where it can't be read.
    pub async fn migration_status(path: &Path) -> Result<Vec<MigrationState>, StoreError> {
        schema::status(path).await
    }

    /// Finishes what was given to it, closes the files and lets go of them.
    pub async fn close(&self) {
        self.reader.close().await;
        // The last connection folds the log into the database, so the writer goes last.
        self.writer.stop().await;
        self.lock.unlock().ok();
    }
}

/// Locks `<path>.lock`; waits a little for a process that only migrates or is about to end. The lock goes with the process,
/// however it ends.
async fn lock(path: &Path, patience: Duration) -> Result<File, StoreError> {
    let failed = |e: std::io::Error| StoreError::Unavailable(format!("{}: {e}", path.display()));
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock = File::options().create(true).truncate(false).write(true).open(name).map_err(failed)?;
    let until = Instant::now() + patience;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) if Instant::now() < until => tokio::time::sleep(LOCK_AGAIN).await,
            Err(TryLockError::WouldBlock) => {
                let why = format!("{} is in use by another process", path.display());
                return Err(StoreError::Unavailable(why));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
}

#[async_trait]
impl HistoryStore for SqliteStore {
    async fn commit(&self, facts: Vec<Fact>) -> Result<Vec<Committed>, StoreError> {
        self.writer.commit(facts).await
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
    async fn topic_events(
        &self,
        topic: &Topic,
        span: Span,
        limit: u32,
        max_bytes: usize,
    ) -> Result<Option<Vec<CommittedEvent>>, StoreError> {
        self.reader.topic_events(topic, span, limit, max_bytes).await
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
    async fn messages_above(&self, above: MessageId) -> Result<u32, StoreError> {
        self.reader.messages_above(above).await
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
    async fn newest_below(
        &self,
        conversation: ConversationId,
        id: MessageId,
    ) -> Result<Option<MessageId>, StoreError> {
        self.reader.newest_below(conversation, id).await
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
    async fn sent_before(
        &self,
        user: &str,
        bot: &BotId,
        key: &IdempotencyKey,
    ) -> Result<Option<SentBefore>, StoreError> {
        self.reader.sent_before(user, bot, key).await
    }
    async fn probe(&self) -> Result<(), StoreError> {
        self.reader.ping().await?;
        self.writer.probe().await
    }
    fn quarantined_rows(&self) -> u64 {
        self.reader.quarantined_rows()
    }
}

#[async_trait]
impl RetentionStore for SqliteStore {
    async fn prune(&self, what: Prune, limit: u32) -> Result<Pruned, StoreError> {
        let Prune::SurplusEvents { keep } = what else { return self.writer.prune(what, limit).await };
        // Finding them looks at all events, so it is done beside the writer, and once for many pieces. What is surplus
        // stays so.
        let found = self.reader.surplus_events(keep, limit.saturating_mul(SURPLUS_PIECES)).await?;
        let mut pruned = Pruned::default();
        for piece in found.chunks(usize::try_from(limit.max(1)).unwrap_or(1)) {
            let rows = self.writer.delete_events(piece.to_vec()).await?;
            pruned.rows += u64::try_from(rows).unwrap_or(u64::MAX);
            pruned.more = true;
        }
        Ok(pruned)
    }
    async fn held(&self, bot: &BotId) -> Result<Vec<Held>, StoreError> {
        self.reader.held(bot).await
    }
}

#[async_trait]
impl StateStore for SqliteStore {
    async fn roster(&self) -> Result<Vec<(BotRecord, StoredStatus)>, StoreError> {
        self.reader.roster().await
    }
    async fn servers(&self) -> Result<Vec<ServerRecord>, StoreError> {
        self.reader.servers().await
    }
}

#[async_trait]
impl Archive for SqliteStore {
    async fn arrived(&self) -> Result<Arrival, StoreError> {
        self.reader.arrived().await
    }
    async fn messages_after(
        &self,
        conversation: ConversationId,
        after: Option<Place>,
        by: Arrival,
        limit: u32,
        max_bytes: usize,
    ) -> Result<Stretch, StoreError> {
        self.reader.messages_after(conversation, after, by, limit, max_bytes).await
    }
    async fn conversation_ids(&self, bot: &BotId) -> Result<Vec<ConversationId>, StoreError> {
        self.reader.conversation_ids(bot).await
    }
    async fn messages_with(&self, ids: &[MessageId]) -> Result<Vec<Message>, StoreError> {
        self.reader.messages_with(ids).await
    }
    async fn turns_with(&self, ids: &[TurnId]) -> Result<Vec<ArchivedTurn>, StoreError> {
        self.reader.turns_with(ids).await
    }
}

#[async_trait]
impl SearchIndex for SqliteStore {
    async fn search(
        &self,
        bot: &BotId,
        conversation: Option<ConversationId>,
        query: &Query,
        limit: u32,
        offset: u32,
    ) -> Result<Found, StoreError> {
        self.writer.index().await?;
        self.reader.search(bot, conversation, query, limit, offset).await
    }
    async fn unindexed(&self) -> Result<u64, StoreError> {
        self.reader.unindexed().await
    }
}
