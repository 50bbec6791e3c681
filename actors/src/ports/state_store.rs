//! Port: what StateActor reads back when it starts.

use async_trait::async_trait;

use super::history_store::StoreError;
use crate::domain::{
    bot::{BotRecord, StoredStatus},
    model::ServerRecord,
};

/// The roster as stored. Writing goes through [`super::history_store::HistoryStore::commit`], so
/// that a change and its event are one transaction.
///
/// * `roster` MUST return every bot that is not deleted, in the order of their creation, each
///   with the status that was committed last.
/// * `servers` MUST return the model servers that were added and not removed, in the order in which they were added.
#[async_trait]
pub trait StateStore: Send + Sync + 'static {
    /// All bots with their last status.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn roster(&self) -> Result<Vec<(BotRecord, StoredStatus)>, StoreError>;

    /// The model servers that were added at run time.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn servers(&self) -> Result<Vec<ServerRecord>, StoreError>;
}
