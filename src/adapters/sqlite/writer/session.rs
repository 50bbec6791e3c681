//! One writing connection with what it remembers of the database: the numbers of topics, the last events, so that a
//! repeated group is recognised, and where conversations end.

use std::sync::Arc;

use deia_actors::{
    domain::{
        ids::{BotId, Epoch},
        time::Timestamp,
    },
    ports::{
        history_store::{Committed, Fact, StoreError},
        retention::{Prune, Pruned},
    },
};
use rusqlite::{Connection, OpenFlags, params};

use super::{
    super::{error, quarantine::Quarantine, words},
    Target, change,
    ends::Ends,
    index,
    outbox::Outbox,
    retention,
};
use crate::adapters::applied::Applied;

/// Statements kept prepared: all of the hot path and more.
const STATEMENTS: usize = 80;

/// A writing connection. Dropping it rolls back what was not committed.
pub(super) struct Session {
    connection: Connection,
    outbox: Outbox,
    ends: Ends,
    quarantine: Arc<Quarantine>,
    /// `data_version` at the last transaction: moves when another connection committed.
    version: i64,
}

impl Session {
    /// Opens the database, which exists.
    pub(super) fn open(target: &Target) -> Result<Self, StoreError> {
        Self::connect(target).map_err(|e| error::of_writer(&e))
    }

    fn connect(target: &Target) -> rusqlite::Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&target.path, flags)?;
        connection.busy_timeout(target.busy_timeout)?;
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = OFF; \
             PRAGMA temp_store = MEMORY; PRAGMA cache_size = -8000; PRAGMA journal_size_limit = 67108864; \
             PRAGMA wal_autocheckpoint = 4000;",
        )?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        connection.execute(
            "INSERT INTO meta (name, value) VALUES ('epoch', ?1) ON CONFLICT DO NOTHING",
            params![Epoch::new().0],
        )?;
        let outbox = Outbox::load(&connection)?;
        let quarantine = target.quarantine.clone();
        Ok(Self { connection, outbox, ends: Ends::default(), quarantine, version: 0 })
    }

    #[cfg(test)]
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Commits a group: all of it or nothing.
    pub(super) fn commit(&mut self, facts: Vec<Fact>) -> rusqlite::Result<Vec<Committed>> {
        self.transaction(|session| {
            let committed = facts.into_iter().map(|fact| session.apply(fact)).collect::<Result<_, _>>()?;
            session.ends.write(&session.connection)?;
            Ok(committed)
        })
    }

    /// Indexes some messages; true where there are more.
    pub(super) fn index(&mut self) -> rusqlite::Result<bool> {
        if !index::is_behind(&self.connection)? {
            return Ok(false);
        }
        self.transaction(|session| index::slice(&session.connection, &session.quarantine))?;
        index::is_behind(&self.connection)
    }

    /// Writes a row, durably.
    pub(super) fn probe(&mut self) -> rusqlite::Result<()> {
        self.transaction(|session| {
            session
                .connection
                .prepare_cached(
                    "INSERT INTO meta (name, value) VALUES ('probed_at', ?1) \
                     ON CONFLICT DO UPDATE SET value = excluded.value",
                )?
                .execute(params![Timestamp::now().0.to_be_bytes()])
                .map(drop)
        })
    }

    /// Deletes a piece of what is too old.
    pub(super) fn prune(&mut self, what: Prune, limit: u32) -> rusqlite::Result<Pruned> {
        self.transaction(|session| {
            session.ends.forget();
            retention::prune(&session.connection, what, limit)
        })
    }

    /// Deletes these events.
    pub(super) fn delete_events(&mut self, positions: &[i64]) -> rusqlite::Result<usize> {
        self.transaction(|session| retention::delete_events(&session.connection, positions))
    }

    fn transaction<T>(&mut self, work: impl FnOnce(&mut Self) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        let result = self.begin().and_then(|()| {
            let done = work(self)?;
            self.connection.prepare_cached("COMMIT")?.execute([])?;
            Ok(done)
        });
        if result.is_ok() {
            self.outbox.committed();
        } else {
            self.outbox.rolled_back();
            self.ends.forget();
            if !self.connection.is_autocommit() {
                // If even this fails the caller drops the connection, which rolls back too.
                self.connection.execute_batch("ROLLBACK").ok();
            }
        }
        result
    }

    fn begin(&mut self) -> rusqlite::Result<()> {
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let version =
            self.connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?;
        if version != self.version {
            // Somebody else wrote: what is remembered may be old.
            self.outbox.forget();
            self.ends.forget();
            self.version = version;
        }
        Ok(())
    }

    fn apply(&mut self, fact: Fact) -> rusqlite::Result<Committed> {
        let first = fact.events.first().map(|event| event.id);
        if first.is_some_and(|id| self.outbox.knows(id)) {
            return Ok(Committed { applied: false, deleted: 0, events: vec![] });
        }
        let Applied { applied, deleted, events } =
            change::apply(&self.connection, &mut self.outbox, &mut self.ends, &fact)?;
        if !applied {
            return Ok(Committed { applied, deleted: 0, events: vec![] });
        }
        if let Some(entry) = &fact.audit {
            self.connection
                .prepare_cached(
                    "INSERT INTO audit_logs (id, bot_id, action, user_id, target, reason, details, created_at) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                )?
                .execute(params![
                    uuid::Uuid::now_v7(),
                    fact.change.bot_id().map(BotId::as_str),
                    entry.action,
                    entry.actor,
                    entry.target,
                    entry.reason,
                    words::json(&entry.detail),
                    entry.at.0
                ])?;
        }
        let events = events
            .into_iter()
            .chain(fact.events)
            .map(|event| self.outbox.append(&self.connection, event))
            .collect::<rusqlite::Result<_>>()?;
        Ok(Committed { applied, deleted, events })
    }
}
