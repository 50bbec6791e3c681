//! Port: what StateActor reads back when it starts.

use async_trait::async_trait;

use super::history_store::StoreError;
use crate::domain::bot::{BotRecord, StoredStatus};

/// The roster as stored. Writing goes through [`super::history_store::HistoryStore::commit`], so
/// that a change and its event are one transaction.
///
/// * `roster` MUST return every bot that is not deleted, in the order of their creation, each
///   with the status that was committed last.
#[async_trait]
pub trait StateStore: Send + Sync + 'static {
    /// All bots with their last status.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn roster(&self) -> Result<Vec<(BotRecord, StoredStatus)>, StoreError>;
}
