//! Rows that this version can't read: left out, told once in the log by table and key (never with their content) and
//! counted, so that health shows them.

use std::collections::HashSet;

use deia_actors::{domain::event::CommittedEvent, ports::history_store::StoreError};
use parking_lot::Mutex;
use sqlx::{Row, sqlite::SqliteRow};
use uuid::Uuid;

use super::rows;

/// Rows that are remembered; beyond them nothing is counted or told any more.
const REMEMBERED: usize = 10_000;

/// The rows met so far that can't be read.
#[derive(Debug, Default)]
pub(super) struct Quarantine(Mutex<HashSet<(&'static str, Vec<u8>)>>);

impl Quarantine {
    /// How many there are.
    pub(super) fn rows(&self) -> u64 {
        self.0.lock().len() as u64
    }

    /// What was read of a row whose key is in its column `key`; none where it can't be.
    ///
    /// # Errors
    /// Where the database is away.
    pub(super) fn sift<T>(
        &self,
        table: &'static str,
        (row, key): (&SqliteRow, usize),
        read: Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        match read {
            Err(StoreError::Corrupt(reason)) => {
                self.report(table, row.try_get(key).unwrap_or_default(), &reason);
                Ok(None)
            }
            read => read.map(Some),
        }
    }

    /// As [`Self::sift`], for a row that was asked for: the error stays one.
    pub(super) fn seen<T>(
        &self,
        table: &'static str,
        row: &SqliteRow,
        read: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if let Err(StoreError::Corrupt(reason)) = &read {
            self.report(table, row.try_get(0).unwrap_or_default(), reason);
        }
        read
    }

    /// An event, which is never left out; takes note of one that is spoilt.
    ///
    /// # Errors
    /// Where the database is away.
    pub(super) fn event(&self, row: &SqliteRow) -> Result<CommittedEvent, StoreError> {
        let (event, spoilt) = rows::event(row)?;
        if let Some(reason) = spoilt {
            self.report("outbox_events", event.position.to_string().into_bytes(), &reason);
        }
        Ok(event)
    }

    /// Takes note of a row.
    pub(super) fn report(&self, table: &'static str, key: Vec<u8>, reason: &str) {
        let mut rows = self.0.lock();
        if rows.len() >= REMEMBERED || rows.contains(&(table, key.clone())) {
            return;
        }
        let shown = match Uuid::from_slice(&key) {
            Ok(id) => id.to_string(),
            Err(_) => String::from_utf8_lossy(&key).into_owned(),
        };
        tracing::error!(table, row = %shown, reason, "a row can't be read and is left out");
        rows.insert((table, key));
    }
}
