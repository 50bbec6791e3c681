//! The one connection that writes. Groups wait for it in their order. A connection that is lost costs a group nothing but
//! time: before the end of its transaction was asked for it is tried again on a new one, after that its outcome is found out.

mod anew;
mod batch;
mod change;
mod conversations;
mod import;
mod index;
mod lock;
mod lookup;
mod mend;
mod outbox;
mod pending;
mod retention;
mod rounds;
mod run;
mod session;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use deia_actors::{
    domain::ids::BotId,
    ports::history_store::{Committed, Fact, StoreError},
};
use sqlx::Connection;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

pub(super) use self::retention::Piece;
use self::{
    lock::{Lock, Target},
    pending::Pending,
    session::{Failure, Session},
};
use super::{
    super::quarantine::Quarantine,
    connect::{self, PostgresConfig},
    error,
};

/// Pauses between attempts to find out what became of a group.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Counters as PostgreSQL has them.
fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The writing half of the store.
pub(super) struct Writer {
    target: Target,
    /// None after it was lost. Whoever uses it takes it out, so that a caller who goes away in the middle drops it.
    session: Mutex<Option<Session>>,
    /// Where rows that can't be read are told.
    quarantine: Arc<Quarantine>,
    /// Bots that have lost messages to their age where nobody was told so yet: the answer to the end of the transaction may
    /// be lost, and who deletes again finds nothing.
    untold: parking_lot::Mutex<BTreeSet<BotId>>,
    closing: CancellationToken,
}

impl Writer {
    /// Connects, so that a server that can't be used is refused here.
    pub(super) async fn start(
        config: &PostgresConfig,
        quarantine: Arc<Quarantine>,
    ) -> Result<Self, StoreError> {
        let target = Target::new(config)?;
        let session = Session::open(&target).await?;
        Ok(Self {
            target,
            session: Mutex::new(Some(session)),
            quarantine,
            untold: parking_lot::Mutex::default(),
            closing: CancellationToken::new(),
        })
    }

    fn closed(&self) -> Result<(), StoreError> {
        if self.closing.is_cancelled() {
            return Err(StoreError::Unavailable("the store is closed".into()));
        }
        Ok(())
    }

    pub(super) async fn commit(&self, facts: &[Fact]) -> Result<Vec<Committed>, StoreError> {
        let mut slot = self.session.lock().await;
        self.closed()?;
        let mut again = true;
        loop {
            let mut session = match slot.take() {
                Some(session) => session,
                None => {
                    again = false;
                    Session::open(&self.target).await?
                }
            };
            match session.commit(facts).await {
                Ok(committed) => {
                    *slot = Some(session);
                    return Ok(committed);
                }
                // Somebody else has written into the tables: what was remembered of them is forgotten by now.
                Err(Failure::Refused(error)) if again && error::is_taken(&error) => {
                    *slot = Some(session);
                    again = false;
                }
                Err(Failure::Refused(error)) => {
                    *slot = Some(session);
                    return Err(error::sort(error));
                }
                // Most likely it was idle while the server restarted.
                Err(Failure::Lost(error)) if again => {
                    tracing::warn!(%error, "the writing connection was lost; taking a new one");
                }
                Err(Failure::Lost(error)) => return Err(error::sort(error)),
                Err(Failure::Unknown(pending)) => {
                    drop(session);
                    return self.settle(pending, &mut slot).await;
                }
            }
        }
    }

    /// Asks until the server says what became of a group.
    async fn settle(
        &self,
        mut pending: Pending,
        slot: &mut Option<Session>,
    ) -> Result<Vec<Committed>, StoreError> {
        let mut pause = ASK_AGAIN.0;
        loop {
            match self.ask(&mut pending, slot).await {
                Ok(Some(committed)) => return Ok(committed),
                Ok(None) => {
                    return Err(StoreError::Unavailable(
                        "the connection was lost before the group was stored".into(),
                    ));
                }
                Err(error) => tracing::warn!(%error, "the outcome of a commit is not known yet"),
            }
            let closed = || StoreError::Unavailable("closed before the outcome of a commit was known".into());
            tokio::select! {
                () = self.closing.cancelled() => return Err(closed()),
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(ASK_AGAIN.1),
            }
        }
    }

    async fn ask(
        &self,
        pending: &mut Pending,
        slot: &mut Option<Session>,
    ) -> Result<Option<Vec<Committed>>, StoreError> {
        let mut connection = self.target.connect().await?;
        let lock = lock::take(&mut connection, &self.target).await?;
        if lock == Lock::OfOurPast {
            return Err(StoreError::Unavailable("the server still serves the lost connection".into()));
        }
        let outcome = connect::within(self.target.patience(), pending.outcome(&mut connection)).await;
        let outcome = outcome.map_err(error::sort)?;
        match lock {
            // A session that can't be started now is started by the next commit.
            Lock::Ours => *slot = Session::start(connection, &self.target).await.ok(),
            Lock::OfOurPast | Lock::OfAnother => drop(connection.close().await),
        }
        Ok(outcome)
    }

    /// Writes a row. Does not wait for a commit that takes too long.
    pub(super) async fn probe(&self) -> Result<(), StoreError> {
        let waiting = tokio::time::timeout(self.target.connect_timeout(), self.session.lock());
        let busy = |_| StoreError::Unavailable("a commit has been running for too long".into());
        let mut slot = waiting.await.map_err(busy)?;
        self.closed()?;
        let mut again = slot.is_some();
        loop {
            let mut session = match slot.take() {
                Some(session) => session,
                None => Session::open(&self.target).await?,
            };
            match session.probe().await {
                Err(error) if error::is_lost(&error) && again => again = false,
                Err(error) if error::is_lost(&error) => return Err(error::sort(error)),
                answer => {
                    *slot = Some(session);
                    return answer.map_err(error::sort);
                }
            }
        }
    }

    /// Waits for the running group and lets go of the database.
    pub(super) async fn close(&self) {
        self.closing.cancel();
        if let Some(session) = self.session.lock().await.take() {
            session.close().await;
        }
    }
}
