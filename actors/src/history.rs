//! HistoryActor: the one place where facts become durable. It groups what waits while a commit runs
//! into the next one; each group is one transaction, then its events are published in the order of
//! the commit, then everybody is answered.
//!
//! Parent: root. Children: none (a commit is a tracked task). Ports: HistoryStore.
//!
//! Invariants: events are published only after they are durable, in the order of their commits; a
//! group that has begun runs to its end even if the actor dies, so nothing is durable but unpublished.
//! What still waited then is submitted again by its callers: facts may be repeated.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use serde::Serialize;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use crate::{
    broadcast::Hubs,
    domain::{
        event::TurnEnd,
        problem::{Code, Problem},
    },
    ports::history_store::{Change, Committed, Fact, HistoryStore, StoreError},
    supervision::ActorSlot,
};

/// Facts in one transaction.
const MAX_GROUP: usize = 256;
/// How long a caller waits for the actor to come back from a crash.
const COME_BACK: Duration = Duration::from_secs(5);

/// Pauses between attempts to store something that must not be lost.
const PERSIST_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

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

/// Committing and publishing, apart from the actor: what it shares with its tasks and successors.
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    shared: Arc<LedgerShared>,
}

struct LedgerShared {
    store: Arc<dyn HistoryStore>,
    hubs: Arc<Hubs>,
    /// Held from the begin of a commit until its events are published: the order of one is that of the other.
    order: tokio::sync::Mutex<()>,
    tasks: TaskTracker,
}

impl std::fmt::Debug for LedgerShared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").finish_non_exhaustive()
    }
}

impl Ledger {
    pub fn new(store: Arc<dyn HistoryStore>, hubs: Arc<Hubs>) -> Self {
        let order = tokio::sync::Mutex::new(());
        Self { shared: Arc::new(LedgerShared { store, hubs, order, tasks: TaskTracker::new() }) }
    }

    /// Waits until every group that has begun is decided.
    pub async fn settled(&self) {
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
        self.shared.tasks.reopen();
    }

    async fn commit(&self, group: Vec<Append>) {
        let shared = &self.shared;
        let _order = shared.order.lock().await;
        let facts = group.iter().map(|a| (*a.fact).clone()).collect();
        match shared.store.commit(facts).await {
            Ok(committed) => {
                for (append, mut done) in group.into_iter().zip(committed) {
                    shared.hubs.publish(std::mem::take(&mut done.events));
                    if done.applied
                        && let Change::FinishTurn { turn, reply, .. } = &append.fact.change
                    {
                        shared.hubs.tell_end(TurnEnd { turn: turn.clone(), reply: Some(reply.clone()) });
                    }
                    if let Some(reply) = append.reply {
                        let _ = reply.send(Ok(done));
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, facts = group.len(), "commit failed");
                for reply in group.into_iter().filter_map(|a| a.reply) {
                    let _ = reply.send(Err(error.clone()));
                }
            }
        }
    }
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
        let (ledger, ended) = (self.ledger.clone(), GroupEnded(me.clone()));
        self.ledger.shared.tasks.spawn(async move {
            ledger.commit(group).await;
            drop(ended);
        });
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
    pub async fn persist(&self, submitted: Submitted) {
        let mut submitted = submitted;
        let fact = submitted.fact();
        let mut pause = PERSIST_PAUSE.0;
        while submitted.outcome().await.is_err() {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PERSIST_PAUSE.1);
            submitted = self.resubmit(fact.clone());
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
        StoreError::Refused(reason) => {
            tracing::error!(%reason, "the database refuses a change");
            Problem::new(Code::Internal, "The database refuses this; the log says why. Nothing was stored.")
        }
    }
}
