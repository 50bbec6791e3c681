//! The root: the tree put together, rest-for-one in this order: history, state, broadcast, inference,
//! tasks, bots. What comes later builds on what comes before, so a crash of one restarts it and all behind it.
//! More than the allowed restarts within the window: the root gives up, and the process with it.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use ractor::{Actor, ActorRef};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use crate::{
    bot_supervisor::{BotSupervisor, BotSupervisorArgs, BotSupervisorMessage},
    broadcast::{BroadcastActor, BroadcastMessage, Hubs},
    controller::Settings,
    domain::{
        event::{EventBody, NewEvent, Topic},
        time::Timestamp,
    },
    history::{Backlog, History, HistoryActor, HistoryMessage, Ledger, StorageWatch},
    inference::{GateHouse, Inference},
    ports::{
        history_store::{Change, Fact},
        storage::Storage,
        tool_runner::ToolRunner,
    },
    state::{Roster, StateActor, StateArgs, StateMessage},
    supervision::{
        ActorSlot, ChildSpec, Clock, NoticeHook, NoticeKind, RestartRules, Strategy, Supervisor,
        SupervisorArgs, SupervisorMessage, SupervisorView,
    },
    tasks::{PullActor, PullArgs, PullMessage, Pulls, RetentionActor, RetentionArgs, TaskBoard},
    tree::TreeSource,
};

/// How long a static child may take to stop.
const STOP: Duration = Duration::from_secs(5);
/// How long the bots may take to stop.
const STOP_BOTS: Duration = Duration::from_secs(10);

/// The ways to the actors, each of which survives its actor's restarts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Slots {
    pub history: ActorSlot<HistoryMessage>,
    pub state: ActorSlot<StateMessage>,
    pub broadcast: ActorSlot<BroadcastMessage>,
    pub inference: ActorSlot<SupervisorMessage>,
    pub tasks: ActorSlot<SupervisorMessage>,
    pub pulls: ActorSlot<PullMessage>,
    pub bots: ActorSlot<BotSupervisorMessage>,
}

/// A running tree.
pub(crate) struct Root {
    pub actor: ActorRef<SupervisorMessage>,
    pub task: JoinHandle<()>,
    pub view: SupervisorView,
    pub history: History,
    pub tree: TreeSource,
    pub tasks: TaskTracker,
    pub gates: GateHouse,
}

/// What the tree is made of.
pub(crate) struct Parts {
    pub settings: Settings,
    pub store: Arc<dyn Storage>,
    pub hubs: Arc<Hubs>,
    pub slots: Slots,
    pub roster: Arc<Roster>,
    pub inference: Inference,
    pub board: TaskBoard,
    pub pulls: Pulls,
    pub tools: Arc<dyn ToolRunner>,
    pub clock: Clock,
}

/// Tells of restarts of the static actors; bots tell of their own.
fn tell_restarts(history: History, prefix: &'static str) -> NoticeHook {
    Arc::new(move |notice| {
        let path = format!("{prefix}/{}", notice.child);
        match notice.kind {
            NoticeKind::Restarted { took, restarts } => {
                tracing::warn!(actor = %path, restarts, ?took, "actor restarted");
                let took_ms = took.as_secs_f64() * 1e3;
                let body = EventBody::ActorRestarted { path, reason: String::new(), took_ms };
                history.note(Fact::new(Change::None, vec![NewEvent::new(vec![Topic::Tree], &body)]));
            }
            NoticeKind::Crashed { exit, left, .. } => {
                tracing::error!(actor = %path, reason = %exit, restarts_left = left, "actor crashed");
            }
            NoticeKind::GaveUp { exit } => {
                tracing::error!(actor = %path, reason = %exit, "supervisor gave up");
            }
            kind => tracing::debug!(actor = %path, %kind, "supervision"),
        }
    })
}

/// Starts the tree.
///
/// # Errors
/// The child that did not start, and why.
pub(crate) async fn start(parts: Parts) -> Result<Root, ractor::SpawnErr> {
    let Parts { settings, store, hubs, slots, roster, inference, board, pulls, tools, clock } = parts;
    let seed = settings.seed;
    let tasks = TaskTracker::new();
    let backlog = Backlog::default();
    let watch = StorageWatch::new(store.clone(), settings.storage_timeout);
    let history = History::new(slots.history.clone(), backlog.clone(), watch.clone());
    let ledger = Ledger::new(store.clone(), hubs.clone(), watch);
    let root_rules = RestartRules::new(settings.root_restarts, settings.root_within);
    let view = SupervisorView::new("root", Strategy::RestForOne, root_rules, seed);
    let gates = SupervisorView::new("inference", Strategy::OneForOne, root_rules, seed.wrapping_add(1));
    let jobs = SupervisorView::new("tasks", Strategy::OneForOne, root_rules, seed.wrapping_add(3));

    let state_args = StateArgs {
        roster: roster.clone(),
        store: store.clone(),
        max_running: settings.max_running,
        rules: settings.bot_rules,
        clock,
        seed: seed.wrapping_add(2),
        watch: history.watch().clone(),
        first: Arc::new(AtomicBool::new(true)),
    };
    let house = GateHouse {
        inference: inference.clone(),
        hubs: hubs.clone(),
        history: history.clone(),
        tasks: tasks.clone(),
    };
    let retention = RetentionArgs {
        rules: settings.retention,
        store: store.clone(),
        board,
        roster: roster.clone(),
        hubs: hubs.clone(),
        history: history.clone(),
        tasks: tasks.clone(),
    };
    retention.announce();
    let retention_slot = ActorSlot::default();
    let pull_args = PullArgs { pulls, history: history.clone(), tasks: tasks.clone() };
    let job_children = vec![
        ChildSpec::actor("retention", &retention_slot, move || (RetentionActor, retention.clone())),
        ChildSpec::actor("pulls", &slots.pulls, move || (PullActor, pull_args.clone())),
    ];
    let bots_args = BotSupervisorArgs {
        roster: roster.clone(),
        history: history.clone(),
        hubs: hubs.clone(),
        inference: inference.clone(),
        store,
        tools,
        clock,
        queue_limit: settings.conversation_queue,
        requeue_max_age: settings.requeue_max_age,
        tasks: tasks.clone(),
        first: Arc::new(AtomicBool::new(true)),
    };
    let (gates_view, gates_history, gate_house) = (gates.clone(), history.clone(), house.clone());
    let (jobs_view, jobs_history) = (jobs.clone(), history.clone());
    let broadcast_hubs = hubs.clone();
    let children = vec![
        ChildSpec::actor("history", &slots.history, move || (HistoryActor, ledger.clone())).shutdown(STOP),
        ChildSpec::actor("state", &slots.state, move || (StateActor, state_args.clone())).shutdown(STOP),
        ChildSpec::actor("broadcast", &slots.broadcast, move || (BroadcastActor, broadcast_hubs.clone()))
            .shutdown(STOP),
        ChildSpec::actor("inference", &slots.inference, move || {
            let args = SupervisorArgs {
                view: gates_view.clone(),
                children: gate_house.children(),
                notify: tell_restarts(gates_history.clone(), "root/inference"),
            };
            (Supervisor, args)
        })
        .supervisor()
        .shutdown(STOP),
        ChildSpec::actor("tasks", &slots.tasks, move || {
            let args = SupervisorArgs {
                view: jobs_view.clone(),
                children: job_children.clone(),
                notify: tell_restarts(jobs_history.clone(), "root/tasks"),
            };
            (Supervisor, args)
        })
        .supervisor()
        .shutdown(STOP),
        ChildSpec::actor("bots", &slots.bots, move || (BotSupervisor, bots_args.clone()))
            .supervisor()
            .shutdown(STOP_BOTS),
    ];
    let args =
        SupervisorArgs { view: view.clone(), children, notify: tell_restarts(history.clone(), "root") };
    let (actor, task) = Actor::spawn(None, Supervisor, args).await?;
    let tree = TreeSource {
        root: view.clone(),
        gates,
        jobs,
        roster,
        inference,
        backlog,
        clock,
        started: Timestamp::now(),
    };
    Ok(Root { actor, task, view, history, tree, tasks, gates: house })
}
