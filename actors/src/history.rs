//! HistoryActor: the one place where facts become durable. It groups what waits while a commit runs
//! into the next one; each group is one transaction, then its events are published in the order of
//! the commit, then everybody is answered. A fact that the store refuses for its content fails alone.
//!
//! Parent: root. Children: none (a commit is a tracked task). Ports: HistoryStore.
//!
//! Invariants: events are published only after they are durable, in the order of their commits; a
//! group that has begun runs to its end even if the actor dies, so nothing is durable but unpublished.
//! What still waited then is submitted again by its callers: facts may be repeated.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use serde::Serialize;

use crate::ports::history_store::{Committed, Fact, StoreError};

mod access;
mod ledger;
#[cfg(test)]
mod tests;

pub(crate) use access::{History, Submitted, storage_problem};
pub(crate) use ledger::Ledger;

/// Facts in one transaction.
const MAX_GROUP: usize = 256;

/// What a caller gets: what became of its fact.
pub(crate) type CommitResult = Result<Committed, StoreError>;

/// Facts submitted and not decided yet, the mailbox included: what the tree shows as the mailbox of history.
#[derive(Debug, Clone, Default)]
pub(crate) struct Backlog(Arc<AtomicU32>);

impl Backlog {
    pub fn len(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    fn one_more(&self) -> Waits {
        self.0.fetch_add(1, Ordering::Relaxed);
        Waits(self.clone())
    }
}

/// Counts while it lives, wherever that ends.
#[derive(Debug)]
struct Waits(Backlog);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A fact and who waits for it.
#[derive(Debug)]
pub(crate) struct Append {
    fact: Arc<Fact>,
    reply: Option<RpcReplyPort<CommitResult>>,
    _waits: Waits,
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
        _: ActorRef<Self::Msg>,
        ledger: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        // The group of a predecessor that was killed runs to its end first.
        ledger.settled().await;
        Ok(HistoryState {
            ledger,
            waiting: vec![],
            barriers: vec![],
            committing: false,
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
}
