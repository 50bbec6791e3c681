//! Rows that this version can't read: left out, told once in the log by table and key (never with their content) and
//! counted, so that health shows them. The same for every database.

use std::collections::HashSet;

use deia_actors::{
    domain::{
        bot::{BotRecord, BotState, StoredStatus, TokenTotals},
        event::CommittedEvent,
    },
    ports::history_store::StoreError,
};
use parking_lot::Mutex;
use sqlx::{Row, postgres::PgRow, sqlite::SqliteRow};
use uuid::Uuid;

/// Rows that are remembered; beyond them nothing is counted or told any more.
const REMEMBERED: usize = 10_000;

/// A row whose key is in its first column.
pub(super) trait Keyed {
    /// The bytes of the key.
    fn key(&self) -> Vec<u8>;
}

impl Keyed for SqliteRow {
    fn key(&self) -> Vec<u8> {
        self.try_get(0).unwrap_or_default()
    }
}

impl Keyed for PgRow {
    fn key(&self) -> Vec<u8> {
        self.try_get_raw(0).ok().and_then(|key| key.as_bytes().ok().map(Into::into)).unwrap_or_default()
    }
}

/// The rows met so far that can't be read.
#[derive(Debug, Default)]
pub(super) struct Quarantine(Mutex<HashSet<(&'static str, Vec<u8>)>>);

impl Quarantine {
    /// How many there are.
    pub(super) fn rows(&self) -> u64 {
        self.0.lock().len() as u64
    }

    /// What was read of a row; none where it can't be.
    ///
    /// # Errors
    /// Where the database is away.
    pub(super) fn sift<T>(
        &self,
        table: &'static str,
        row: &impl Keyed,
        read: Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        match self.seen(table, row, read) {
            Err(StoreError::Corrupt(_)) => Ok(None),
            read => read.map(Some),
        }
    }

    /// As [`Self::sift`], for a row that was asked for: the error stays one.
    pub(super) fn seen<T>(
        &self,
        table: &'static str,
        row: &impl Keyed,
        read: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if let Err(StoreError::Corrupt(reason)) = &read {
            self.report(table, row.key(), reason);
        }
        read
    }

    /// A bot of the roster with its status; none where the bot can't be read. The status is beside what a bot is: where
    /// that can't be read, the bot has one as if it were new.
    ///
    /// # Errors
    /// Where the database is away.
    pub(super) fn bot(
        &self,
        row: &impl Keyed,
        bot: Result<BotRecord, StoreError>,
        status: Result<StoredStatus, StoreError>,
    ) -> Result<Option<(BotRecord, StoredStatus)>, StoreError> {
        let Some(bot) = self.sift("bots", row, bot)? else { return Ok(None) };
        let status = self.sift("bot_status", row, status)?.unwrap_or_else(|| StoredStatus {
            bot_id: bot.id.clone(),
            state: BotState::Ready,
            last_message: None,
            error_count: 0,
            restart_count: 0,
            tokens: TokenTotals::default(),
            updated_at: bot.updated_at,
        });
        Ok(Some((bot, status)))
    }

    /// An event, which is never left out; takes note of one that is spoilt, with the reason.
    pub(super) fn event(&self, (event, spoilt): (CommittedEvent, Option<String>)) -> CommittedEvent {
        if let Some(reason) = spoilt {
            self.report("outbox_events", event.position.to_string().into_bytes(), &reason);
        }
        event
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
