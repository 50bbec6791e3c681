//! A supervisor as a pure state machine: facts go in, effects come out.
//!
//! It never waits. Facts are: a child started, a start failed, a child ended, time passed, the
//! supervisor ends. Effects are: start this child, stop that one, tell, escalate. The glue performs
//! effects in the order given and reports back; the machine then decides what is next.
//!
//! Invariants (proven by the property tests): under rest-for-one and one-for-all, while booting and while ending,
//! at most one child is being started or stopped at any time; nothing is started while something still has to be
//! stopped; stops go in reverse start order, starts in start order. A child that ends while it is marked to be
//! stopped is not counted as a crash.

mod dynamic;
mod observe;

use std::sync::Arc;
use std::time::Duration;

use super::budget::{Decision, RestartRecord, RestartRules};
use super::clock::Now;
use super::exit::Exit;
use super::intensity::Intensity;
use super::notice::NoticeKind;
use super::policy::{ChildKind, RestartPolicy, Strategy};

/// Why a supervisor ended with an error. Its parent finds this in the error of `ActorFailed`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{supervisor} gave up: more than {max} restarts within {within:?}, the last of {child}: {exit}")]
pub struct GaveUp {
    /// The supervisor.
    pub supervisor: Arc<str>,
    /// The child that was one crash too many, or that would not end.
    pub child: Arc<str>,
    /// Restarts that were allowed.
    pub max: u32,
    /// Within this time.
    pub within: Duration,
    /// How the child ended.
    pub exit: Exit,
}

/// What the glue has to do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Effect {
    /// Start this child; answer with `started` or `start_failed`.
    Start(usize),
    /// Ask this child to stop, kill it if it does not; answer with `exited`.
    Stop(usize, Arc<str>),
    /// Tell.
    Notice(usize, NoticeKind),
    /// All children are down: end with this error.
    Escalate(GaveUp),
}

/// What is true of a child now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lifecycle {
    Down,
    Starting,
    Up,
    Stopping,
}

/// What shall become of a child that is, or will be, down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// Start it, not before this (monotonic) time.
    Run { due: Duration },
    /// Leave it down.
    Rest,
}

#[derive(Clone, Debug, PartialEq)]
enum Phase {
    Booting,
    Running,
    GivingUp(GaveUp),
    ShuttingDown,
    Ended,
}

/// A child as the machine is told about it.
#[derive(Clone, Debug)]
pub(super) struct ChildPlan {
    pub(super) id: Arc<str>,
    pub(super) kind: ChildKind,
    pub(super) restart: RestartPolicy,
}

#[derive(Clone, Debug)]
struct Child {
    plan: ChildPlan,
    lifecycle: Lifecycle,
    wanted: Wanted,
    /// It runs, but has to be stopped for this reason before anything is started.
    doomed: Option<Arc<str>>,
    since_us: i64,
    record: RestartRecord,
    /// It was removed: once it is down it is gone.
    leaves: bool,
}

/// The machine. See the head of this file.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    name: Arc<str>,
    strategy: Strategy,
    rules: RestartRules,
    seed: u64,
    /// Counts incarnations of the supervisor, so that a late word of an old one is recognised.
    epoch: u64,
    intensity: Intensity,
    phase: Phase,
    gave_up: Option<GaveUp>,
    children: Vec<Child>,
}

impl Machine {
    pub(super) fn new(name: Arc<str>, strategy: Strategy, rules: RestartRules, seed: u64) -> Self {
        Self {
            name,
            strategy,
            rules,
            seed,
            epoch: 0,
            intensity: Intensity::new(rules.max, rules.within),
            phase: Phase::Ended,
            gave_up: None,
            children: Vec::new(),
        }
    }

    /// A new incarnation begins with all children down. It has a full window; what is known of children that an
    /// earlier incarnation had is kept. Returns its epoch.
    pub(super) fn begin(&mut self, now: Now, plans: Vec<ChildPlan>, fx: &mut Vec<Effect>) -> u64 {
        let mut old: Vec<Option<Child>> = std::mem::take(&mut self.children).into_iter().map(Some).collect();
        self.epoch += 1;
        self.intensity.reset();
        self.gave_up = None;
        self.phase = Phase::Booting;
        self.children = plans
            .into_iter()
            .enumerate()
            .map(|(index, plan)| {
                let known = old.iter_mut().find(|c| c.as_ref().is_some_and(|c| c.plan.id == plan.id));
                let mut record = known.and_then(Option::take).map_or_else(
                    || RestartRecord::new(&self.rules, self.seed.wrapping_add(index as u64)),
                    |child| child.record,
                );
                record.reset();
                Child {
                    plan,
                    lifecycle: Lifecycle::Down,
                    wanted: Wanted::Run { due: now.mono },
                    doomed: None,
                    since_us: now.at_us,
                    record,
                    leaves: false,
                }
            })
            .collect();
        self.reconcile(now, fx);
        self.epoch
    }

    /// The child runs.
    pub(super) fn started(&mut self, index: usize, now: Now, fx: &mut Vec<Effect>) {
        if self.children[index].lifecycle != Lifecycle::Starting {
            return;
        }
        self.enter(index, Lifecycle::Up, now);
        let record = &mut self.children[index].record;
        let kind = match record.up(now) {
            Some(took) => NoticeKind::Restarted { took, restarts: record.restarts() },
            None => NoticeKind::Started,
        };
        fx.push(Effect::Notice(index, kind));
        self.reconcile(now, fx);
    }

    /// The child could not be started. While booting this ends the boot: nobody could rely on the tree.
    pub(super) fn start_failed(&mut self, index: usize, exit: Exit, now: Now, fx: &mut Vec<Effect>) {
        if self.children[index].lifecycle != Lifecycle::Starting {
            return;
        }
        if self.children[index].doomed.is_some() {
            self.went_down_as_asked(index, exit, now, fx);
        } else if self.phase == Phase::Booting {
            self.ended_for_good(index, exit, now, fx);
            self.wind_down(Phase::ShuttingDown, "a sibling did not start");
        } else if self.children[index].plan.restart.should_restart(&exit) {
            self.crashed(index, exit, now, fx);
        } else {
            self.ended_for_good(index, exit, now, fx);
        }
        self.reconcile(now, fx);
    }

    /// The child ended.
    pub(super) fn exited(&mut self, index: usize, exit: Exit, now: Now, fx: &mut Vec<Effect>) {
        let child = &self.children[index];
        match child.lifecycle {
            Lifecycle::Down | Lifecycle::Starting => return,
            Lifecycle::Stopping => self.went_down_as_asked(index, exit, now, fx),
            Lifecycle::Up if child.doomed.is_some() => self.went_down_as_asked(index, exit, now, fx),
            Lifecycle::Up if child.plan.restart.should_restart(&exit) => self.crashed(index, exit, now, fx),
            Lifecycle::Up => self.ended_for_good(index, exit, now, fx),
        }
        self.reconcile(now, fx);
    }

    /// The child does not end although it was killed: a thread is blocked. Only a new process helps, so give up.
    pub(super) fn stuck(&mut self, index: usize, now: Now, fx: &mut Vec<Effect>) {
        if self.children[index].lifecycle != Lifecycle::Stopping {
            return;
        }
        let exit = Exit::killed("did not end although killed");
        self.enter(index, Lifecycle::Down, now);
        self.children[index].record.ended(exit.clone());
        self.give_up(index, exit, fx);
        self.reconcile(now, fx);
    }

    /// Time passed.
    pub(super) fn tick(&mut self, now: Now, fx: &mut Vec<Effect>) {
        self.reconcile(now, fx);
    }

    /// The supervisor ends: stops all children in reverse start order. Children being started come first: the
    /// glue ends those starts and reports them as failed.
    pub(super) fn shut_down(&mut self, now: Now, fx: &mut Vec<Effect>) {
        self.wind_down(Phase::ShuttingDown, "shutdown");
        self.reconcile(now, fx);
    }

    /// The incarnation `epoch` is gone, in whatever way; what it left running was killed.
    pub(super) fn gone(&mut self, epoch: u64, now: Now) {
        if epoch != self.epoch {
            return;
        }
        self.phase = Phase::Ended;
        for index in 0..self.children.len() {
            if self.children[index].lifecycle != Lifecycle::Down {
                self.enter(index, Lifecycle::Down, now);
                self.children[index].record.stopped(now, Exit::killed("its supervisor died"), Duration::ZERO);
            }
            self.children[index].doomed = None;
            self.children[index].wanted = Wanted::Rest;
        }
    }

    fn enter(&mut self, index: usize, lifecycle: Lifecycle, now: Now) {
        self.children[index].lifecycle = lifecycle;
        self.children[index].since_us = now.at_us;
    }

    /// A crash that counts: decides, and plans the restart of the child and of those that go along.
    fn crashed(&mut self, index: usize, exit: Exit, now: Now, fx: &mut Vec<Effect>) {
        self.enter(index, Lifecycle::Down, now);
        let record = &mut self.children[index].record;
        let decision = record.crashed(now, exit.clone(), &mut self.intensity);
        let (restarts, left) = (record.restarts(), self.intensity.left(now.mono));
        fx.push(Effect::Notice(index, NoticeKind::Crashed { exit: exit.clone(), restarts, left }));
        match decision {
            Decision::Restart { after } => {
                fx.push(Effect::Notice(index, NoticeKind::RestartScheduled { after }));
                self.replan(index, now.mono.saturating_add(after));
            }
            Decision::GiveUp => self.give_up(index, exit, fx),
        }
    }

    /// It had to go, and it went.
    fn went_down_as_asked(&mut self, index: usize, exit: Exit, now: Now, fx: &mut Vec<Effect>) {
        self.enter(index, Lifecycle::Down, now);
        let child = &mut self.children[index];
        child.doomed = None;
        match child.wanted {
            Wanted::Run { due } => child.record.stopped(now, exit.clone(), due.saturating_sub(now.mono)),
            Wanted::Rest => child.record.ended(exit.clone()),
        }
        fx.push(Effect::Notice(index, NoticeKind::Stopped { exit }));
    }

    /// It ended by itself and its policy says that this is all.
    fn ended_for_good(&mut self, index: usize, exit: Exit, now: Now, fx: &mut Vec<Effect>) {
        self.enter(index, Lifecycle::Down, now);
        let child = &mut self.children[index];
        child.wanted = Wanted::Rest;
        child.record.ended(exit.clone());
        fx.push(Effect::Notice(index, NoticeKind::Stopped { exit }));
    }

    fn give_up(&mut self, index: usize, exit: Exit, fx: &mut Vec<Effect>) {
        if !matches!(self.phase, Phase::Booting | Phase::Running) {
            return;
        }
        let gave_up = GaveUp {
            supervisor: Arc::clone(&self.name),
            child: Arc::clone(&self.children[index].plan.id),
            max: self.rules.max,
            within: self.rules.within,
            exit: exit.clone(),
        };
        fx.push(Effect::Notice(index, NoticeKind::GaveUp { exit }));
        self.gave_up = Some(gave_up.clone());
        self.wind_down(Phase::GivingUp(gave_up), "the supervisor gave up");
    }

    /// From now on only stops, and an end.
    fn wind_down(&mut self, phase: Phase, reason: &str) {
        self.phase = phase;
        let reason: Arc<str> = Arc::from(reason);
        for child in &mut self.children {
            child.wanted = Wanted::Rest;
            if matches!(child.lifecycle, Lifecycle::Up | Lifecycle::Starting) {
                child.doomed = Some(Arc::clone(&reason));
            }
        }
    }

    /// Plans the restart of `index` at `due` and of all that go along.
    fn replan(&mut self, index: usize, due: Duration) {
        let reason: Arc<str> = Arc::from(format!("restart of {}", self.children[index].plan.id));
        for sibling in self.strategy.affected(index, self.children.len()) {
            let child = &mut self.children[sibling];
            let runs = matches!(child.lifecycle, Lifecycle::Up | Lifecycle::Starting);
            if sibling != index {
                if runs {
                    child.doomed.get_or_insert_with(|| Arc::clone(&reason));
                }
                if child.plan.restart == RestartPolicy::Temporary {
                    child.wanted = Wanted::Rest;
                    continue;
                }
            }
            let due = match child.wanted {
                Wanted::Run { due: earlier } => earlier.max(due),
                Wanted::Rest => due,
            };
            child.wanted = Wanted::Run { due };
        }
    }

    /// Emits whatever can be done now.
    fn reconcile(&mut self, now: Now, fx: &mut Vec<Effect>) {
        // A child that has done its work already does not keep its supervisor from being up.
        let settled = |c: &Child| c.lifecycle == Lifecycle::Up || c.wanted == Wanted::Rest;
        if self.phase == Phase::Booting && self.children.iter().all(settled) {
            self.phase = Phase::Running;
        }
        let ordered = self.strategy != Strategy::OneForOne || self.phase != Phase::Running;
        if ordered { self.reconcile_in_order(now, fx) } else { self.reconcile_each(now, fx) }
    }

    fn reconcile_in_order(&mut self, now: Now, fx: &mut Vec<Effect>) {
        let busy = |c: &Child| matches!(c.lifecycle, Lifecycle::Stopping | Lifecycle::Starting);
        if self.children.iter().any(busy) {
            return;
        }
        if let Some(index) = self.children.iter().rposition(|c| c.doomed.is_some()) {
            return self.stop(index, now, fx);
        }
        match &self.phase {
            Phase::GivingUp(gave_up) => {
                fx.push(Effect::Escalate(gave_up.clone()));
                self.phase = Phase::Ended;
            }
            Phase::ShuttingDown => self.phase = Phase::Ended,
            Phase::Ended => {}
            Phase::Booting | Phase::Running => {
                let first = self.children.iter().position(|c| c.waits_until().is_some());
                if let Some(index) = first.filter(|index| self.children[*index].is_due(now)) {
                    self.start(index, now, fx);
                }
            }
        }
    }

    fn reconcile_each(&mut self, now: Now, fx: &mut Vec<Effect>) {
        for index in 0..self.children.len() {
            let child = &self.children[index];
            if child.doomed.is_some() && child.lifecycle == Lifecycle::Up {
                self.stop(index, now, fx);
            } else if child.is_due(now) {
                self.start(index, now, fx);
            }
        }
    }

    fn stop(&mut self, index: usize, now: Now, fx: &mut Vec<Effect>) {
        self.enter(index, Lifecycle::Stopping, now);
        let reason = self.children[index].doomed.take().unwrap_or_else(|| Arc::from("shutdown"));
        fx.push(Effect::Notice(index, NoticeKind::Stopping));
        fx.push(Effect::Stop(index, reason));
    }

    fn start(&mut self, index: usize, now: Now, fx: &mut Vec<Effect>) {
        self.enter(index, Lifecycle::Starting, now);
        fx.push(Effect::Start(index));
    }
}

impl Child {
    /// When the restart that waits is due; None if the child is not waiting for one.
    fn waits_until(&self) -> Option<Duration> {
        match (self.lifecycle, self.wanted) {
            (Lifecycle::Down, Wanted::Run { due }) => Some(due),
            _ => None,
        }
    }

    fn is_due(&self, now: Now) -> bool {
        self.waits_until().is_some_and(|due| due <= now.mono)
    }
}

#[cfg(test)]
mod tests;
