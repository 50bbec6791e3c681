//! Everything that one database is to the tree: the sum of the storage ports.

use super::{
    archive::Archive, history_store::HistoryStore, retention::RetentionStore, search::SearchIndex,
    state_store::StateStore,
};

/// A database: each storage port, on the same record.
pub trait Storage: HistoryStore + StateStore + RetentionStore + Archive + SearchIndex {}

impl<T: HistoryStore + StateStore + RetentionStore + Archive + SearchIndex> Storage for T {}
