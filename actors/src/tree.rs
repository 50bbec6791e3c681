//! The supervision tree as shown outside: drawn from what the supervisors keep in shared memory, so that
//! drawing never sends a message and never waits for an actor.

use std::sync::Arc;

use crate::{
    domain::{
        time::Timestamp,
        tree::{BudgetView, NodeKind, RestartEntry, TreeNode},
    },
    history::Backlog,
    inference::Inference,
    state::{BotEntry, Roster},
    supervision::{self, ChildKind, ChildObservation, ChildState, Clock, Strategy, SupervisorView},
};

fn state_name(state: ChildState) -> &'static str {
    match state {
        ChildState::Starting => "starting",
        ChildState::Active => "up",
        ChildState::Restarting => "restarting",
        ChildState::Stopping => "stopping",
        ChildState::Terminated => "down",
    }
}

fn strategy_name(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::OneForOne => "one_for_one",
        Strategy::RestForOne => "rest_for_one",
        Strategy::OneForAll => "one_for_all",
    }
}

fn entry(entry: &supervision::RestartEntry) -> RestartEntry {
    RestartEntry {
        at: Timestamp(entry.at_us),
        reason: entry.reason.to_string(),
        took_ms: entry.took_ms,
        backoff_ms: entry.backoff_ms,
    }
}

fn child(parent: &str, seen: &ChildObservation) -> TreeNode {
    TreeNode {
        name: seen.id.to_string(),
        path: format!("{parent}/{}", seen.id),
        kind: match seen.kind {
            ChildKind::Supervisor => NodeKind::Supervisor,
            ChildKind::Worker => NodeKind::Worker,
        },
        state: state_name(seen.state).into(),
        since: Timestamp(seen.since_us),
        strategy: None,
        intensity: None,
        restarts: seen.restarts,
        last_exit: seen.last_exit.as_ref().map(ToString::to_string),
        history: seen.history.iter().map(entry).collect(),
        mailbox: 0,
        children: vec![],
    }
}

/// What a supervisor below the root shows besides.
fn supervisor(node: &mut TreeNode, view: &SupervisorView) {
    let seen = view.observe();
    node.strategy = Some(strategy_name(seen.strategy).into());
    node.intensity = Some(BudgetView {
        max: seen.intensity.max,
        within_s: seen.intensity.within_s,
        left: seen.intensity.left,
    });
    node.children = seen.children.iter().map(|c| child(&node.path, c)).collect();
}

fn bot(entry_of: &BotEntry, clock: &Clock) -> TreeNode {
    let status = entry_of.status();
    let budget = entry_of.budget.lock();
    let window = budget.intensity();
    TreeNode {
        name: status.bot_id.to_string(),
        path: format!("root/bots/{}", status.bot_id),
        kind: NodeKind::Worker,
        state: status.state.as_str().into(),
        since: entry_of.since(),
        strategy: None,
        intensity: Some(BudgetView {
            max: window.max(),
            within_s: window.within().as_secs(),
            left: budget.left(clock.now()),
        }),
        restarts: status.restart_count,
        last_exit: budget.last_exit().map(ToString::to_string),
        history: budget.history().iter().map(entry).collect(),
        mailbox: status.queue_depth + u32::try_from(status.active_turns.len()).unwrap_or(u32::MAX),
        children: vec![],
    }
}

/// What the tree is drawn from.
#[derive(Debug, Clone)]
pub(crate) struct TreeSource {
    pub root: SupervisorView,
    pub gates: SupervisorView,
    pub jobs: SupervisorView,
    pub roster: Arc<Roster>,
    pub inference: Inference,
    pub backlog: Backlog,
    pub clock: Clock,
    pub started: Timestamp,
}

impl TreeSource {
    /// The children of the root, without what is below them.
    pub fn parts(&self) -> Vec<TreeNode> {
        self.root.observe().children.iter().map(|c| child("root", c)).collect()
    }

    /// The root with everything below it.
    pub fn draw(&self) -> TreeNode {
        let seen = self.root.observe();
        let mut root = TreeNode {
            name: "root".into(),
            path: "root".into(),
            kind: NodeKind::Supervisor,
            state: state_name(seen.state).into(),
            since: self.started,
            strategy: Some(strategy_name(seen.strategy).into()),
            intensity: Some(BudgetView {
                max: seen.intensity.max,
                within_s: seen.intensity.within_s,
                left: seen.intensity.left,
            }),
            restarts: 0,
            last_exit: None,
            history: vec![],
            mailbox: 0,
            children: seen.children.iter().map(|c| child("root", c)).collect(),
        };
        for node in &mut root.children {
            match node.name.as_str() {
                "history" => node.mailbox = self.backlog.len(),
                "inference" => {
                    supervisor(node, &self.gates);
                    for gate in &mut node.children {
                        let server = self.inference.gate(&gate.name);
                        if let Some(server) = server.map(|g| g.server()) {
                            gate.mailbox = server.queue.depth;
                            if gate.state == "up" && server.state != crate::domain::model::ServerState::Up {
                                gate.state = "down".into();
                                gate.since = server.since;
                            }
                        }
                    }
                }
                "tasks" => supervisor(node, &self.jobs),
                "bots" => {
                    node.strategy = Some("one_for_one".into());
                    node.children = self.roster.all().iter().map(|entry| bot(entry, &self.clock)).collect();
                }
                _ => {}
            }
        }
        root
    }
}
