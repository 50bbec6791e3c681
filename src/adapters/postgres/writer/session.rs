//! One writing connection: it holds the lock that makes this process the only writer, so nothing can be committed without
//! it. With it goes what is remembered of the database.

use std::{collections::BTreeSet, time::Duration};

use deia_actors::{
    domain::{
        event::{CommittedEvent, NewEvent},
        ids::{BotId, Epoch},
        time::Timestamp,
    },
    ports::{
        history_store::{Committed, Fact, StoreError},
        retention::Pruned,
    },
};
use parking_lot::Mutex;
use sqlx::{Connection, PgConnection};

use super::{
    super::{super::quarantine::Quarantine, connect, error},
    batch::Batch,
    change, index,
    lock::{self, Lock, Target},
    lookup::{Found, LookUp},
    outbox::Outbox,
    pending::Pending,
    retention::{self, Piece},
    run,
};
use crate::adapters::applied::Applied;

/// Why a group is not stored.
pub(super) enum Failure {
    /// The server said so; the connection is as good as before.
    Refused(sqlx::Error),
    /// The connection was lost before the end of the transaction was asked for.
    Lost(sqlx::Error),
    /// The connection was lost after that: it may be stored.
    Unknown(Pending),
}

/// A group on its way.
struct Group {
    committed: Vec<Committed>,
    /// Fact and event of every row of the batch that has no position yet, in their order.
    unplaced: Vec<(usize, usize)>,
    /// Position of the last event.
    position: Option<i64>,
    /// The end of the transaction was asked for.
    sent: bool,
}

impl Group {
    fn refused(&mut self) {
        self.committed.push(Committed { applied: false, deleted: 0, events: vec![] });
    }

    fn place(&mut self, positions: &[i64]) {
        for ((fact, event), position) in self.unplaced.drain(..).zip(positions) {
            if let Some(event) = self.committed.get_mut(fact).and_then(|c| c.events.get_mut(event)) {
                event.position = u64::try_from(*position).unwrap_or(0);
            }
            self.position = Some(*position);
        }
    }
}

/// A writing connection that holds the lock. Dropping it rolls back what was not committed.
pub(super) struct Session {
    connection: PgConnection,
    outbox: Outbox,
    /// What this connection read and wrote of turns and messages.
    known: Found,
    /// Whether ids of what is new are taken for new: not after a group that failed, nor at first.
    trusts: bool,
    patience: Duration,
    /// Number of the open transaction.
    transaction: Option<i64>,
}

impl Session {
    /// Connects and takes the lock.
    pub(super) async fn open(target: &Target) -> Result<Self, StoreError> {
        let mut connection = target.connect().await?;
        let why = match lock::take(&mut connection, target).await? {
            Lock::Ours => return Self::start(connection, target).await.map_err(error::sort),
            Lock::OfOurPast => "the server has not ended the lost connection of this process yet",
            Lock::OfAnother => "it is in use by another process: only one deia may run on a database",
        };
        Err(StoreError::Unavailable(why.into()))
    }

    /// On a connection that holds the lock.
    pub(super) async fn start(mut connection: PgConnection, target: &Target) -> sqlx::Result<Self> {
        connect::within(target.patience(), async {
            sqlx::query("INSERT INTO meta (name, value) VALUES ('epoch', $1) ON CONFLICT DO NOTHING")
                .bind(Epoch::new().0.as_bytes().as_slice())
                .execute(&mut connection)
                .await?;
            let outbox = Outbox::load(&mut connection).await?;
            let (known, patience) = (Found::default(), target.patience());
            Ok(Self { connection, outbox, known, trusts: false, patience, transaction: None })
        })
        .await
    }

    /// Lets go of the lock.
    pub(super) async fn close(self) {
        // The server ends the session also where it can't be told to.
        self.connection.close().await.ok();
    }

    /// Writes a row, durably.
    pub(super) async fn probe(&mut self) -> sqlx::Result<()> {
        let write = sqlx::query(
            "INSERT INTO meta (name, value) VALUES ('probed_at', $1) \
             ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        )
        .bind(Timestamp::now().0.to_be_bytes().as_slice())
        .execute(&mut self.connection);
        connect::within(self.patience, write).await.map(drop)
    }

    /// Takes some messages into the index of the search; answers whether there are more.
    pub(super) async fn index(&mut self, quarantine: &Quarantine) -> sqlx::Result<bool> {
        connect::within(self.patience, index::slice(&mut self.connection, quarantine)).await
    }

    /// Deletes a piece of what is too old. Its outcome need not be known: it may be done again. Bots that lose messages are
    /// added to `untold` before they do.
    pub(super) async fn prune(
        &mut self,
        piece: &Piece,
        untold: &Mutex<BTreeSet<BotId>>,
    ) -> sqlx::Result<Pruned> {
        self.known = Found::default();
        connect::within(self.patience, sqlx::raw_sql("BEGIN").execute(&mut self.connection)).await?;
        let pruned = connect::within(self.patience, retention::prune(&mut self.connection, piece)).await;
        let end = match &pruned {
            Ok(pruned) => {
                untold.lock().extend(pruned.bots.iter().cloned());
                "COMMIT"
            }
            Err(error) if error::is_lost(error) => return pruned,
            Err(_) => "ROLLBACK",
        };
        connect::within(self.patience, sqlx::raw_sql(end).execute(&mut self.connection)).await?;
        pruned
    }

    /// Commits a group: all of it or nothing.
    pub(super) async fn commit(&mut self, facts: &[Fact]) -> Result<Vec<Committed>, Failure> {
        let mut group = Group {
            committed: Vec::with_capacity(facts.len()),
            unplaced: vec![],
            position: None,
            sent: false,
        };
        let after = self.outbox.position();
        let patience = self.patience;
        match connect::within(patience, self.store(facts, &mut group)).await {
            Ok(()) => {
                (self.transaction, self.trusts) = (None, true);
                self.outbox.committed(group.position);
                self.known.limit();
                Ok(group.committed)
            }
            Err(error) if group.sent && (error::is_lost(&error) || error.as_database_error().is_none()) => {
                tracing::warn!(%error, "the connection was lost while a group was committed");
                let transaction = self.transaction;
                Err(Failure::Unknown(Pending { committed: group.committed, after, transaction }))
            }
            Err(error) if error::is_lost(&error) => Err(Failure::Lost(error)),
            Err(error) => {
                self.outbox.rolled_back();
                (self.known, self.trusts) = (Found::default(), false);
                if self.transaction.take().is_some()
                    && let Err(error) =
                        connect::within(patience, sqlx::raw_sql("ROLLBACK").execute(&mut self.connection))
                            .await
                {
                    return Err(Failure::Lost(error));
                }
                Err(Failure::Refused(error))
            }
        }
    }

    /// A group of facts that a run holds is one look-up and one statement, which is its own transaction. Everything else
    /// happens one by one inside an explicit one.
    async fn store(&mut self, facts: &[Fact], group: &mut Group) -> sqlx::Result<()> {
        let mut batch = Batch::default();
        let mut rest = facts;
        loop {
            let (run, more) = rest.split_at(rest.iter().take_while(|f| f.change.is_frequent()).count());
            self.run(run, &mut batch, group).await?;
            let Some((fact, more)) = more.split_first() else { break };
            self.step(fact, &mut batch, group).await?;
            rest = more;
        }
        // Without an event there would be nothing to find it by if its outcome stayed unknown.
        if self.transaction.is_none() && !batch.events.is_empty() {
            group.sent = true;
            return self.flush(&mut batch, group).await;
        }
        if !batch.is_empty() {
            self.begin().await?;
            self.flush(&mut batch, group).await?;
        }
        if self.transaction.is_some() {
            group.sent = true;
            sqlx::raw_sql("COMMIT").execute(&mut self.connection).await?;
        }
        Ok(())
    }

    async fn begin(&mut self) -> sqlx::Result<()> {
        if self.transaction.is_none() {
            let number =
                sqlx::raw_sql("BEGIN; SELECT txid_current()").fetch_one(&mut self.connection).await?;
            self.transaction = Some(sqlx::Row::try_get(&number, 0)?);
        }
        Ok(())
    }

    async fn flush(&mut self, batch: &mut Batch<'_>, group: &mut Group) -> sqlx::Result<()> {
        let positions = std::mem::take(batch).write(&mut self.connection).await?;
        group.place(&positions);
        Ok(())
    }

    /// Decides facts of the hot path.
    async fn run<'f>(
        &mut self,
        facts: &'f [Fact],
        batch: &mut Batch<'f>,
        group: &mut Group,
    ) -> sqlx::Result<()> {
        let mut look_up = LookUp::default();
        for fact in facts {
            run::want(&fact.change, &self.known, &self.outbox, self.trusts, &mut look_up);
            let new = run::new_turn(&fact.change).filter(|_| self.trusts);
            self.outbox.want(&fact.events, new, &mut look_up);
        }
        let coming = std::mem::take(&mut look_up.coming);
        let found = look_up.run(&mut self.connection).await?;
        self.outbox.learn(&found);
        self.known.extend(found);
        for fact in facts {
            if self.is_repeated(fact) {
                group.refused();
                continue;
            }
            if let Some(look_up) = run::want_after_all(&fact.change, &self.known, &coming) {
                self.known.extend(look_up.run(&mut self.connection).await?);
            }
            if run::decide(fact, &mut self.known, &mut self.outbox, batch) {
                self.tell(fact, Applied::YES, batch, group).await?;
            } else {
                group.refused();
            }
        }
        Ok(())
    }

    /// Applies any other fact, after everything before it was written.
    async fn step<'f>(
        &mut self,
        fact: &'f Fact,
        batch: &mut Batch<'f>,
        group: &mut Group,
    ) -> sqlx::Result<()> {
        // Also before one that is repeated: the next look-up must find it.
        if !batch.is_empty() {
            self.begin().await?;
            self.flush(batch, group).await?;
        }
        if self.is_repeated(fact) {
            group.refused();
            return Ok(());
        }
        self.begin().await?;
        self.known = Found::default();
        let applied = change::apply(&mut self.connection, fact).await?;
        if !applied.applied {
            group.refused();
            return Ok(());
        }
        self.tell(fact, applied, batch, group).await
    }

    fn is_repeated(&self, fact: &Fact) -> bool {
        fact.events.first().is_some_and(|event| self.outbox.knows(event.id))
    }

    /// Adds audit and events of an applied fact.
    async fn tell<'f>(
        &mut self,
        fact: &'f Fact,
        applied: Applied,
        batch: &mut Batch<'f>,
        group: &mut Group,
    ) -> sqlx::Result<()> {
        if let Some(entry) = &fact.audit {
            batch.note(fact.change.bot_id().map(|id| id.as_str()), entry);
        }
        let mut events: Vec<CommittedEvent> = vec![];
        let own: [&[NewEvent]; 2] = [&applied.events, &fact.events];
        for part in own {
            self.outbox.prepare(&mut self.connection, part).await?;
            for event in part {
                let (row, committed) = self.outbox.number(event);
                batch.events.push(row);
                group.unplaced.push((group.committed.len(), events.len()));
                events.push(committed);
            }
        }
        group.committed.push(Committed { applied: true, deleted: applied.deleted, events });
        Ok(())
    }
}
