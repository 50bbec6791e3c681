//! HistoryActor: the one place where facts become durable. It groups what waits while a commit runs
//! into the next one, and what came together into the first; each group is one transaction, then its events
//! are published in the order of the commit, then everybody is answered. A fact that the store refuses for
//! its content fails alone.
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

pub(crate) use access::{History, Submitted, not_known, read_problem, storage_problem};
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
    /// The next group may begin: the running one is decided, or its first fact came.
    GroupDue,
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
        let _ = self.0.cast(HistoryMessage::GroupDue);
    }
}

/// State of [`HistoryActor`].
pub(crate) struct HistoryState {
    ledger: Ledger,
    waiting: Vec<Append>,
    barriers: Vec<RpcReplyPort<()>>,
    /// A group is running or called for.
    busy: bool,
    /// How many waited when the group that is called for was looked at last.
    seen: usize,
    observation: HistoryObservation,
}

impl HistoryState {
    fn append(&mut self, me: &ActorRef<HistoryMessage>, append: Append) {
        self.waiting.push(append);
        self.call_for_group(me);
    }

    fn barrier(&mut self, me: &ActorRef<HistoryMessage>, reply: RpcReplyPort<()>) {
        self.barriers.push(reply);
        self.call_for_group(me);
    }

    /// Behind the messages that are here already, so that facts which came together share one transaction.
    fn call_for_group(&mut self, me: &ActorRef<HistoryMessage>) {
        if !std::mem::replace(&mut self.busy, true) {
            // An actor that can't be told is ending; what waits is submitted again by its callers.
            let _ = me.cast(HistoryMessage::GroupDue);
        }
    }

    /// Begins the group once nothing more came while everybody else had a turn: who was answered a moment ago and has more goes
    /// along instead of waiting behind it. Nobody waits for a time; a single fact waits for those who could run anyway.
    async fn group_due(&mut self, me: &ActorRef<HistoryMessage>) {
        let waiting = self.waiting.len();
        if waiting > self.seen && waiting < MAX_GROUP {
            self.seen = waiting;
            tokio::task::yield_now().await;
            let _ = me.cast(HistoryMessage::GroupDue);
            return;
        }
        self.seen = 0;
        self.busy = waiting > 0;
        if !self.busy {
            for barrier in self.barriers.drain(..) {
                let _ = barrier.send(());
            }
            return;
        }
        let group: Vec<_> = self.waiting.drain(..waiting.min(MAX_GROUP)).collect();
        self.observation.groups += 1;
        self.observation.facts += group.len() as u64;
        self.ledger.begin(group, GroupEnded(me.clone()));
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
        let busy = ledger.is_busy();
        if busy {
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
            busy,
            seen: 0,
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
            HistoryMessage::GroupDue => state.group_due(&me).await,
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
