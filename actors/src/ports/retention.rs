//! Port: deleting what is too old, in small pieces.

use async_trait::async_trait;

use super::history_store::StoreError;
use crate::domain::{
    ids::{BotId, ConversationId},
    time::Timestamp,
};

/// What is deleted where it is older than a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prune {
    /// Messages created before, with the ended turns that they were the replies of. Not what a legal
    /// hold reaches, nor what an open turn needs: its messages.
    Chat {
        /// Created before.
        before: Timestamp,
    },
    /// Entries of the audit log.
    Audit {
        /// Written before.
        before: Timestamp,
    },
    /// The last status of bots that were deleted.
    Status {
        /// Deleted before.
        before: Timestamp,
    },
    /// Events, from the oldest on.
    Events {
        /// Happened before.
        before: Timestamp,
    },
    /// Events that are not among the newest of any of their topics. Topics of turns do not count: the conversation's
    /// speaks for them.
    SurplusEvents {
        /// Kept per topic.
        keep: u64,
    },
    /// Keys of requests that may be repeated.
    IdempotencyKeys {
        /// Written before.
        before: Timestamp,
    },
}

/// What became of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Rows of the kind that are gone: messages, entries, events.
    pub rows: u64,
    /// There is more to delete.
    pub more: bool,
    /// Bots that lost messages.
    pub bots: Vec<BotId>,
}

/// A conversation that may lose nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Which.
    pub conversation: ConversationId,
    /// The conversation under legal hold that shows messages of it: itself, or one that begins in it.
    pub by: ConversationId,
}

/// Deletes what is too old.
///
/// * `prune` MUST delete the oldest first, in transactions of at most `limit` rows, and leave room for commits between
///   them. It MAY delete more than one such transaction per call. Where the outcome is not known it MAY be called again.
/// * What remains MUST be whole, as after [`Change::ClearHistory`](super::history_store::Change::ClearHistory): parents
///   and leaves mended, counts and last times true, events of deleted messages
///   [`REDACTED`](super::history_store::REDACTED).
/// * Deleting events MUST NOT change a number: [`HistoryStore::head`](super::history_store::HistoryStore::head) stays,
///   and the next event of a topic has the next number, also after a restart.
/// * A held conversation MUST keep every message that it shows on any of its branches, whatever is asked for: its own, and
///   of the conversation that it is a fork of those on the path to it. Age may take the others there; clearing and
///   deleting leave that conversation alone as a whole.
#[async_trait]
pub trait RetentionStore: Send + Sync + 'static {
    /// Deletes a piece.
    ///
    /// # Errors
    /// See [`StoreError`]. What was deleted before stays deleted.
    async fn prune(&self, what: Prune, limit: u32) -> Result<Pruned, StoreError>;

    /// The conversations of this bot, and of earlier ones of its id, that may lose nothing, each with every held one that
    /// shows messages of it, in the order of both ids.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn held(&self, bot: &BotId) -> Result<Vec<Held>, StoreError>;
}
