//! Everything that one database is to the tree: the sum of the storage ports.

use super::{history_store::HistoryStore, state_store::StateStore};

/// A database: each storage port, on the same record.
pub trait Storage: HistoryStore + StateStore {}

impl<T: HistoryStore + StateStore> Storage for T {}
