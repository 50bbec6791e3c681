//! HistoryActor: the one place where facts become durable. It groups what waits while a commit runs
//! into the next one; each group is one transaction, then its events are published in the order of
//! the commit, then everybody is answered. A fact that the store refuses for its content fails alone.
//!
//! Parent: root. Children: none (a commit is a tracked task). Ports: HistoryStore.
//!
//! Invariants: events are published only after they are durable, in the order of their commits; a
//! group that has begun runs to its end even if the actor dies, so nothing is durable but unpublished.
//! What still waited then is submitted again by its callers: facts may be repeated.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use serde::Serialize;

use crate::{
    bot::work::Work,
    ports::history_store::{Committed, StoreError},
};

mod access;
mod backlog;
mod ledger;
#[cfg(test)]
mod tests;
mod watch;

pub(crate) use access::{History, Submitted, not_known, storage_problem};
use backlog::Counted;
pub(crate) use backlog::{Backlog, Unsaved};
pub(crate) use ledger::Ledger;
pub(crate) use watch::{StorageWatch, silent};

/// Facts in one transaction.
const MAX_GROUP: usize = 256;

/// What a caller gets: what became of its fact.
pub(crate) type CommitResult = Result<Committed, StoreError>;

/// A fact and who waits for it.
#[derive(Debug)]
pub(crate) struct Append {
    fact: Arc<Counted>,
    reply: Option<RpcReplyPort<CommitResult>>,
}

impl Append {
    fn answer(self, result: CommitResult) {
        if let Some(reply) = self.reply {
            // The caller may be gone; what is decided is decided.
            let _ = reply.send(result);
        }
    }
}

/// Messages of [`HistoryActor`].
#[derive(Debug)]
pub(crate) enum HistoryMessage {
    /// Make it durable.
    Append(Append),
    /// Answers once everything submitted before is decided.
    Barrier(RpcReplyPort<()>),
    /// The running group is decided.
    GroupEnded,
    /// What it is doing.
    Observe(RpcReplyPort<HistoryObservation>),
}

/// What [`HistoryActor`] is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct HistoryObservation {
    /// Facts that wait for the next group.
    pub waiting: usize,
    /// Groups begun.
    pub groups: u64,
    /// Facts in them.
    pub facts: u64,
}

/// Tells the actor that its group is decided, also where a defect ended the commit by a panic: what waits goes on.
struct GroupEnded(ActorRef<HistoryMessage>);

impl Drop for GroupEnded {
    fn drop(&mut self) {
        // A dead actor needs no news: its successor starts with an empty group.
        let _ = self.0.cast(HistoryMessage::GroupEnded);
    }
}

/// State of [`HistoryActor`].
pub(crate) struct HistoryState {
    ledger: Ledger,
    waiting: Vec<Append>,
    barriers: Vec<RpcReplyPort<()>>,
    committing: bool,
    observation: HistoryObservation,
}

impl HistoryState {
    fn append(&mut self, me: &ActorRef<HistoryMessage>, append: Append) {
        self.waiting.push(append);
        self.begin_group(me);
    }

    fn begin_group(&mut self, me: &ActorRef<HistoryMessage>) {
        if self.committing {
            return;
        }
        if self.waiting.is_empty() {
            for barrier in self.barriers.drain(..) {
                let _ = barrier.send(());
            }
            return;
        }
        let group: Vec<_> = self.waiting.drain(..self.waiting.len().min(MAX_GROUP)).collect();
        self.observation.groups += 1;
        self.observation.facts += group.len() as u64;
        self.committing = true;
        self.ledger.begin(group, GroupEnded(me.clone()));
    }

    fn barrier(&mut self, me: &ActorRef<HistoryMessage>, reply: RpcReplyPort<()>) {
        self.barriers.push(reply);
        self.begin_group(me);
    }

    fn group_ended(&mut self, me: &ActorRef<HistoryMessage>) {
        self.committing = false;
        self.begin_group(me);
    }

    fn observe(&self) -> HistoryObservation {
        HistoryObservation { waiting: self.waiting.len(), ..self.observation }
    }
}

/// Makes facts durable.
pub(crate) struct HistoryActor;

impl Actor for HistoryActor {
    type Msg = HistoryMessage;
    type State = HistoryState;
    type Arguments = Ledger;

    async fn pre_start(
        &self,
        me: ActorRef<Self::Msg>,
        ledger: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        // The group of a predecessor that was killed runs to its end first; the database may take its time.
        let committing = ledger.is_busy();
        if committing {
            let (before, ended) = (ledger.clone(), GroupEnded(me.clone()));
            let wait = async move {
                before.settled().await;
                drop(ended);
            };
            Work::begin(me.get_cell(), Box::pin(wait)).await?;
        }
        Ok(HistoryState {
            ledger,
            waiting: vec![],
            barriers: vec![],
            committing,
            observation: HistoryObservation::default(),
        })
    }

    async fn handle(
        &self,
        me: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            HistoryMessage::Append(append) => state.append(&me, append),
            HistoryMessage::Barrier(reply) => state.barrier(&me, reply),
            HistoryMessage::GroupEnded => state.group_ended(&me),
            HistoryMessage::Observe(reply) => {
                let _ = reply.send(state.observe());
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Self::Msg>,
        _: SupervisionEvent,
        _: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        // The wait for the predecessor's group is over; it said so itself.
        Ok(())
    }
}
