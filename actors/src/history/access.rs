//! The way to HistoryActor: submitting, waiting, trying again. Survives the actor's restarts.

use std::{sync::Arc, time::Duration};

use ractor::{ActorRef, RpcReplyPort};
use tokio::sync::oneshot;

use super::{Append, Backlog, CommitResult, Counted, HistoryMessage, StorageWatch, silent};
use crate::{
    domain::problem::{Code, Problem},
    ports::history_store::{Change, Committed, Fact, StoreError},
    supervision::ActorSlot,
};

/// How long a caller waits for the actor to come back from a crash.
const COME_BACK: Duration = Duration::from_secs(5);
/// Pauses between attempts to store something that must not be lost.
const PERSIST_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// The way to HistoryActor: survives its restarts.
#[derive(Debug, Clone)]
pub(crate) struct History {
    slot: ActorSlot<HistoryMessage>,
    backlog: Backlog,
    watch: StorageWatch,
}

/// A submitted fact. Dropping it does not take the fact back.
#[derive(Debug)]
pub(crate) struct Submitted {
    history: History,
    fact: Arc<Counted>,
    first: Option<oneshot::Receiver<CommitResult>>,
}

impl Submitted {
    /// What became of it. A fact that an actor took to its grave is submitted again.
    ///
    /// # Errors
    /// [`StoreError`] of the store, or `Unavailable` where no actor came back in time.
    pub async fn outcome(mut self) -> CommitResult {
        loop {
            if let Some(receiver) = self.first.take()
                && let Ok(result) = receiver.await
            {
                return result;
            }
            let Ok(actor) = self.history.slot.wait(COME_BACK).await else {
                return Err(StoreError::Unavailable("the history actor is restarting".into()));
            };
            self.first = self.history.submit_to(&actor, &self.fact);
            if self.first.is_none() {
                // The actor died between the look-up and the cast; its supervisor is about to notice.
                tokio::task::yield_now().await;
            }
        }
    }
}

impl History {
    pub fn new(slot: ActorSlot<HistoryMessage>, backlog: Backlog, watch: StorageWatch) -> Self {
        Self { slot, backlog, watch }
    }

    /// What is known of the database.
    pub fn watch(&self) -> &StorageWatch {
        &self.watch
    }

    pub fn backlog(&self) -> &Backlog {
        &self.backlog
    }

    fn submit_to(
        &self,
        actor: &ActorRef<HistoryMessage>,
        fact: &Arc<Counted>,
    ) -> Option<oneshot::Receiver<CommitResult>> {
        let (sender, receiver) = oneshot::channel();
        let append = Append { fact: fact.clone(), reply: Some(RpcReplyPort::from(sender)) };
        actor.cast(HistoryMessage::Append(append)).is_ok().then_some(receiver)
    }

    /// Submits at once, so that the order of submissions is that of the calls; await the outcome later.
    /// For what must not be lost; its number is bounded by what it ends or tells.
    pub fn submit(&self, fact: Fact) -> Submitted {
        self.resubmit(self.backlog.count(fact))
    }

    /// As [`Self::submit`], for something new: refused at once where the database does not take what waits already.
    pub fn offer(&self, fact: Fact) -> Submitted {
        let full = || StoreError::Unavailable("too much waits to be stored".into());
        let stalled = self.watch.stalled().map(silent);
        let Some(refusal) = stalled.or_else(|| self.backlog.is_full().then(full)) else {
            return self.submit(fact);
        };
        let (sender, receiver) = oneshot::channel();
        // The receiver is here.
        let _ = sender.send(Err(refusal));
        Submitted { history: self.clone(), fact: self.backlog.count(fact), first: Some(receiver) }
    }

    fn resubmit(&self, fact: Arc<Counted>) -> Submitted {
        let first = self.slot.get().and_then(|actor| self.submit_to(&actor, &fact));
        Submitted { history: self.clone(), fact, first }
    }

    /// Offers and waits.
    ///
    /// # Errors
    /// A problem of the façade where the store is away or refuses it.
    pub async fn append(&self, fact: Fact) -> Result<Committed, Problem> {
        self.offer(fact).outcome().await.map_err(|e| storage_problem(&e))
    }

    /// Waits until a fact is stored, however long the database is away.
    ///
    /// # Errors
    /// [`StoreError::Refused`]: it never will be. For a bot's status also `Unavailable`: too much waits to be stored.
    pub async fn persist(&self, submitted: Submitted) -> CommitResult {
        let mut submitted = submitted;
        let fact = submitted.fact.clone();
        let gives_up = matches!(fact.fact.change, Change::SaveStatus(_));
        let mut pause = PERSIST_PAUSE.0;
        loop {
            match submitted.outcome().await {
                Err(error @ StoreError::Refused(_)) => return Err(error),
                Err(error) if gives_up && self.backlog.is_full() => return Err(error),
                Err(_) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PERSIST_PAUSE.1);
                    submitted = self.resubmit(fact.clone());
                }
                Ok(done) => return Ok(done),
            }
        }
    }

    /// Submits something that may be lost, such as news of the tree.
    pub fn note(&self, fact: Fact) {
        if let Some(actor) = self.slot.get().filter(|_| !self.backlog.is_full()) {
            let append = Append { fact: self.backlog.count(fact), reply: None };
            let _ = actor.cast(HistoryMessage::Append(append));
        }
    }

    /// Waits until everything submitted before is decided.
    pub async fn barrier(&self) {
        while let Ok(actor) = self.slot.wait(COME_BACK).await {
            match ractor::call!(actor, HistoryMessage::Barrier) {
                Ok(()) => return,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }
}

/// The problem of a caller who has waited long enough for something that may still be stored. `keyed`: it has an idempotency
/// key, so a repetition finds what became of it.
pub(crate) fn not_known(waited: Duration, keyed: bool) -> Problem {
    let advice = match keyed {
        true => "stored: send it again with the same Idempotency-Key, or look once the database is back.",
        false => {
            "done, and it may still come true: look once the database is back (GET), and ask again only if it was not."
        }
    };
    let waited = waited.as_secs_f64();
    let detail =
        format!("The database has not answered within {waited} s. It is not known whether this was {advice}");
    Problem::new(Code::StorageUnavailable, detail)
}

/// A store's error at a read, as the façade answers it.
pub(crate) fn read_problem(error: &StoreError) -> Problem {
    match error {
        StoreError::Unavailable(reason) | StoreError::Busy(reason) => Problem::new(
            Code::StorageUnavailable,
            format!("The database can't be read now ({reason}). Try again."),
        ),
        StoreError::Corrupt(_) | StoreError::Refused(_) => storage_problem(error),
    }
}

/// A store's error at a change, as the façade answers it.
pub(crate) fn storage_problem(error: &StoreError) -> Problem {
    match error {
        StoreError::Unavailable(reason) | StoreError::Busy(reason) => Problem::new(
            Code::StorageUnavailable,
            format!("The database does not take this now ({reason}). Nothing was stored; try again."),
        ),
        StoreError::Corrupt(reason) => {
            tracing::error!(%reason, "the database holds something unexpected");
            Problem::new(Code::Internal, "The database holds something unexpected; the log says what.")
        }
        StoreError::Refused(reason) => Problem::new(
            Code::StorageRefused,
            format!("The database does not take this content ({reason}). Nothing of it was stored."),
        ),
    }
}
