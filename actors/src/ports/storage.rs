//! Everything that one database is to the tree: the sum of the storage ports.

use super::{history_store::HistoryStore, retention::RetentionStore, state_store::StateStore};

/// A database: each storage port, on the same record.
pub trait Storage: HistoryStore + StateStore + RetentionStore {}

impl<T: HistoryStore + StateStore + RetentionStore> Storage for T {}
