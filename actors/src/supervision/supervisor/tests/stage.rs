//! Probes that log what happens to them, under a supervisor that logs its notices.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::supervision::supervisor::*;
use crate::supervision::{
    ActorSlot, ChildObservation, NoticeKind, RestartRules, Strategy, SupervisionNotice,
};

pub(super) const SOON: Duration = Duration::from_secs(600);

/// What a probe does at its next starts.
#[derive(Clone, Copy, Debug)]
pub(super) enum Start {
    Panic,
    PanicAfterwards,
    Slow(Duration),
}

pub(super) enum Do {
    Panic,
    Fail,
    Work(Duration),
    Ping(RpcReplyPort<&'static str>),
    DropReply(RpcReplyPort<&'static str>),
}

/// The stage: one line per thing that happened, and the supervised probes.
#[derive(Clone)]
pub(super) struct Stage {
    pub(super) log: Arc<watch::Sender<Vec<String>>>,
    notices: Arc<watch::Sender<Vec<SupervisionNotice>>>,
    pub(super) drop_takes: Duration,
    slots: Arc<Mutex<HashMap<String, ActorSlot<Do>>>>,
    starts: Arc<Mutex<HashMap<String, Vec<Start>>>>,
}

pub(super) struct Probe {
    id: String,
    stage: Stage,
}

/// Tells when the state of an incarnation is gone.
pub(super) struct ProbeState {
    id: String,
    stage: Stage,
    post_start_panics: bool,
}

impl Drop for ProbeState {
    fn drop(&mut self) {
        // Real time on purpose: a destructor that keeps its thread busy, for the test of overlap.
        let begun = std::time::Instant::now();
        while begun.elapsed() < self.stage.drop_takes {
            std::thread::yield_now();
        }
        self.stage.note(format!("drop {}", self.id));
    }
}

impl Actor for Probe {
    type Msg = Do;
    type State = ProbeState;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Do>, (): ()) -> Result<ProbeState, ActorProcessingErr> {
        let start = self.stage.starts.lock().get_mut(&self.id).and_then(Vec::pop);
        match start {
            Some(Start::Panic) => panic!("no disk"),
            Some(Start::Slow(time)) => tokio::time::sleep(time).await,
            Some(Start::PanicAfterwards) | None => {}
        }
        self.stage.note(format!("start {}", self.id));
        Ok(ProbeState {
            id: self.id.clone(),
            stage: self.stage.clone(),
            post_start_panics: matches!(start, Some(Start::PanicAfterwards)),
        })
    }

    async fn post_start(&self, _: ActorRef<Do>, state: &mut ProbeState) -> Result<(), ActorProcessingErr> {
        assert!(!state.post_start_panics, "post_start of {}", state.id);
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<Do>,
        message: Do,
        _: &mut ProbeState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Do::Panic => panic!("boom"),
            Do::Fail => return Err("invariant broken".into()),
            Do::Work(time) => tokio::time::sleep(time).await,
            Do::Ping(reply) => reply.send("pong")?,
            Do::DropReply(reply) => drop(reply),
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Do>, _: &mut ProbeState) -> Result<(), ActorProcessingErr> {
        self.stage.note(format!("stop {}", self.id));
        Ok(())
    }
}

impl Stage {
    pub(super) fn new() -> Self {
        Self {
            log: Arc::new(watch::Sender::new(Vec::new())),
            notices: Arc::new(watch::Sender::new(Vec::new())),
            drop_takes: Duration::ZERO,
            slots: Arc::default(),
            starts: Arc::default(),
        }
    }

    pub(super) fn note(&self, line: String) {
        self.log.send_modify(|log| log.push(line));
    }

    /// The log without the drops, which may come at any time after an orderly stop; and empties it.
    pub(super) fn order(&self) -> Vec<String> {
        let mut log = self.log.send_replace(Vec::new());
        log.retain(|line| !line.starts_with("drop"));
        log
    }

    pub(super) fn hook(&self) -> NoticeHook {
        let notices = Arc::clone(&self.notices);
        Arc::new(move |notice| notices.send_modify(|all| all.push(notice)))
    }

    pub(super) fn probe(&self, id: &str) -> ChildSpec {
        let slot = ActorSlot::new();
        self.slots.lock().insert(id.to_owned(), slot.clone());
        let (id, stage) = (id.to_owned(), self.clone());
        ChildSpec::actor(id.clone(), &slot, move || (Probe { id: id.clone(), stage: stage.clone() }, ()))
    }

    pub(super) fn slot(&self, id: &str) -> ActorSlot<Do> {
        self.slots.lock()[id].clone()
    }

    pub(super) fn next_starts(&self, id: &str, starts: &[Start]) {
        self.starts.lock().insert(id.to_owned(), starts.iter().rev().copied().collect());
    }

    pub(super) async fn tell(&self, id: &str, what: Do) {
        self.slot(id).wait(SOON).await.unwrap().send_message(what).unwrap();
    }

    /// Waits until `count` notices about the child satisfy the condition; the newest of them.
    pub(super) async fn notice(
        &self,
        child: &str,
        count: usize,
        is: impl Fn(&NoticeKind) -> bool,
    ) -> NoticeKind {
        let mut changes = self.notices.subscribe();
        let fitting = |all: &[SupervisionNotice]| -> Vec<NoticeKind> {
            all.iter().filter(|n| &*n.child == child && is(&n.kind)).map(|n| n.kind.clone()).collect()
        };
        let seen = tokio::time::timeout(SOON, changes.wait_for(|all| fitting(all).len() >= count)).await;
        let seen = seen.unwrap_or_else(|_| panic!("waited for {child}; got {:#?}", self.notices.borrow()));
        fitting(&seen.unwrap())[count - 1].clone()
    }

    pub(super) async fn restarted(&self, child: &str, count: usize) {
        self.notice(child, count, |kind| matches!(kind, NoticeKind::Restarted { .. })).await;
    }

    pub(super) fn has(&self, child: &str, is: impl Fn(&NoticeKind) -> bool) -> bool {
        self.notices.borrow().iter().any(|n| &*n.child == child && is(&n.kind))
    }
}

pub(super) struct Tree {
    pub(super) stage: Stage,
    pub(super) view: SupervisorView,
    pub(super) actor: ActorRef<SupervisorMessage>,
    pub(super) task: JoinHandle<()>,
}

pub(super) const RULES: RestartRules = RestartRules::new(3, Duration::from_secs(30));

pub(super) async fn tree_of(stage: Stage, strategy: Strategy, children: Vec<ChildSpec>) -> Tree {
    let view = SupervisorView::new("sup", strategy, RULES, 11);
    let args = SupervisorArgs { view: view.clone(), children, notify: stage.hook() };
    let (actor, task) = Actor::spawn(None, Supervisor, args).await.unwrap();
    Tree { stage, view, actor, task }
}

pub(super) async fn abc(strategy: Strategy) -> Tree {
    let stage = Stage::new();
    let children = ["a", "b", "c"].map(|id| stage.probe(id)).into();
    let tree = tree_of(stage, strategy, children).await;
    assert_eq!(tree.stage.order(), ["start a", "start b", "start c"]);
    tree
}

impl Tree {
    pub(super) fn child(&self, id: &str) -> ChildObservation {
        self.view.observe().children.into_iter().find(|child| &*child.id == id).unwrap()
    }

    pub(super) async fn end(self) {
        self.actor.stop(None);
        self.task.await.unwrap();
    }
}
