//! The way to HistoryActor: submitting, waiting, trying again. Survives the actor's restarts.

use std::{sync::Arc, time::Duration};

use ractor::{ActorRef, RpcReplyPort};
use tokio::sync::oneshot;

use super::{Append, Backlog, CommitResult, HistoryMessage};
use crate::{
    domain::problem::{Code, Problem},
    ports::history_store::{Committed, Fact, StoreError},
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
}

/// A submitted fact. Dropping it does not take the fact back.
#[derive(Debug)]
pub(crate) struct Submitted {
    history: History,
    fact: Arc<Fact>,
    first: Option<oneshot::Receiver<CommitResult>>,
}

impl Submitted {
    /// The fact, to submit it again if the store refuses it for now.
    pub fn fact(&self) -> Arc<Fact> {
        self.fact.clone()
    }

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
    pub fn new(slot: ActorSlot<HistoryMessage>, backlog: Backlog) -> Self {
        Self { slot, backlog }
    }

    fn submit_to(
        &self,
        actor: &ActorRef<HistoryMessage>,
        fact: &Arc<Fact>,
    ) -> Option<oneshot::Receiver<CommitResult>> {
        let (sender, receiver) = oneshot::channel();
        let append = self.one(fact.clone(), Some(sender.into()));
        actor.cast(HistoryMessage::Append(append)).is_ok().then_some(receiver)
    }

    fn one(&self, fact: Arc<Fact>, reply: Option<RpcReplyPort<CommitResult>>) -> Append {
        Append { fact, reply, _waits: self.backlog.one_more() }
    }

    /// Submits at once, so that the order of submissions is that of the calls; await the outcome later.
    pub fn submit(&self, fact: Fact) -> Submitted {
        self.resubmit(Arc::new(fact))
    }

    /// Submits a fact that the store refused before.
    pub fn resubmit(&self, fact: Arc<Fact>) -> Submitted {
        let first = self.slot.get().and_then(|actor| self.submit_to(&actor, &fact));
        Submitted { history: self.clone(), fact, first }
    }

    /// Submits and waits.
    ///
    /// # Errors
    /// A problem of the façade where the store is away.
    pub async fn append(&self, fact: Fact) -> Result<Committed, Problem> {
        self.submit(fact).outcome().await.map_err(|e| storage_problem(&e))
    }

    /// Waits until a fact is stored, however long the database is away.
    ///
    /// # Errors
    /// [`StoreError::Refused`]: it never will be.
    pub async fn persist(&self, submitted: Submitted) -> CommitResult {
        let mut submitted = submitted;
        let fact = submitted.fact();
        let mut pause = PERSIST_PAUSE.0;
        loop {
            match submitted.outcome().await {
                Err(StoreError::Unavailable(_) | StoreError::Corrupt(_)) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PERSIST_PAUSE.1);
                    submitted = self.resubmit(fact.clone());
                }
                decided => return decided,
            }
        }
    }

    /// Submits something that may be lost, such as a checkpoint.
    pub fn note(&self, fact: Fact) {
        if let Some(actor) = self.slot.get() {
            let _ = actor.cast(HistoryMessage::Append(self.one(Arc::new(fact), None)));
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

/// A store's error as the façade answers it.
pub(crate) fn storage_problem(error: &StoreError) -> Problem {
    match error {
        StoreError::Unavailable(reason) => Problem::new(
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
