//! State of a supervisor: performs the effects of the machine and reports facts to it.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use ractor::{ActorCell, ActorId, ActorRef, RpcReplyPort};
use tokio_util::task::AbortOnDropHandle;

use super::{BootError, StartOutcome, SupervisorArgs, SupervisorMessage};
use crate::supervision::child_spec::{ChildHandle, ChildSpec};
use crate::supervision::clock::Now;
use crate::supervision::exit::Exit;
use crate::supervision::machine::{Effect, GaveUp, Machine};
use crate::supervision::notice::{NoticeHook, NoticeKind, SupervisionNotice};
use crate::supervision::observation::SupervisorObservation;
use crate::supervision::view::SupervisorView;

/// State of a [`Supervisor`].
pub struct SupervisorState {
    pub(super) view: SupervisorView,
    epoch: u64,
    notify: NoticeHook,
    pub(super) slots: Vec<Slot>,
    pub(super) by_actor: HashMap<ActorId, usize>,
    /// Ends of actors that are not known yet: an event overtakes the message that tells of the start. Only kept
    /// while a start is under way, so it stays as small as the number of children.
    early: HashMap<ActorId, Exit>,
    /// The timer for the next restart that is due, with its time.
    pub(super) wake: Option<(Duration, Task)>,
}

type Task = AbortOnDropHandle<()>;

/// One child: at most one of `starting` and `running` is set.
pub(super) struct Slot {
    pub(super) spec: ChildSpec,
    pub(super) starting: Option<Task>,
    pub(super) running: Option<ChildHandle>,
    /// Set while it is being stopped.
    stop_timer: Option<Task>,
    killed: bool,
}

impl Slot {
    fn new(spec: ChildSpec) -> Self {
        Self { spec, starting: None, running: None, stop_timer: None, killed: false }
    }
}

impl SupervisorState {
    pub(super) async fn boot(me: &ActorCell, args: SupervisorArgs) -> Result<Self, BootError> {
        let SupervisorArgs { view, children, notify } = args;
        let mut names = HashSet::new();
        if let Some(twice) = children.iter().find(|spec| !names.insert(&spec.id)) {
            let (supervisor, child) = (view.name().clone(), twice.id.clone());
            return Err(BootError::DuplicateChild { supervisor, child });
        }
        let plans = children.iter().map(ChildSpec::plan).collect();
        let slots = children.into_iter().map(Slot::new).collect();
        let (now, mut fx, epoch) = view.step(|machine, now, fx| machine.begin(now, plans, fx));
        let mut state =
            Self { view, epoch, notify, slots, by_actor: HashMap::new(), early: HashMap::new(), wake: None };
        // Events of children wait in the mailbox until `pre_start` is over, so the only facts are starts.
        let mut now = now;
        while let Some(index) = state.tell_until_start(now, fx) {
            match state.slots[index].spec.start(me.clone()).await {
                Ok(child) => {
                    state.adopt(index, child);
                    (now, fx, ()) = state.view.step(|machine, now, fx| machine.started(index, now, fx));
                }
                Err(exit) => {
                    let error = BootError::Child {
                        supervisor: state.view.name().clone(),
                        child: state.slots[index].spec.id.clone(),
                        exit: exit.clone(),
                    };
                    let (now, fx, ()) =
                        state.view.step(|machine, now, fx| machine.start_failed(index, exit, now, fx));
                    state.perform_stops(now, fx).await;
                    return Err(error);
                }
            }
        }
        Ok(state)
    }

    /// Tells the notices; the machine emits at most one start at a time while booting.
    fn tell_until_start(&self, now: Now, fx: Vec<Effect>) -> Option<usize> {
        let mut start = None;
        for effect in fx {
            match effect {
                Effect::Start(index) => start = Some(index),
                Effect::Notice(index, kind) => self.tell(now, index, kind),
                Effect::Stop(..) | Effect::Escalate(_) => {}
            }
        }
        start
    }

    pub(super) fn answer_observation(
        &self,
        reply: RpcReplyPort<SupervisorObservation>,
    ) -> Result<(), GaveUp> {
        let _ = reply.send(self.view.observe());
        Ok(())
    }

    pub(super) fn add_child(
        &mut self,
        me: &ActorRef<SupervisorMessage>,
        spec: ChildSpec,
        reply: RpcReplyPort<()>,
    ) -> Result<(), GaveUp> {
        let plan = spec.plan();
        let (now, fx, index) = self.view.step(|machine, now, fx| machine.add(plan, now, fx));
        if let Some(index) = index {
            match self.slots.get_mut(index) {
                Some(left) => *left = Slot::new(spec),
                None => self.slots.push(Slot::new(spec)),
            }
        }
        let _ = reply.send(());
        self.perform(me, now, fx)
    }

    pub(super) fn remove_child(
        &mut self,
        me: &ActorRef<SupervisorMessage>,
        id: &str,
        reply: RpcReplyPort<()>,
    ) -> Result<(), GaveUp> {
        let _ = reply.send(());
        self.step(me, |machine, now, fx| machine.remove(id, now, fx))
    }

    pub(super) async fn child_started(
        &mut self,
        me: &ActorRef<SupervisorMessage>,
        outcome: StartOutcome,
    ) -> Result<(), GaveUp> {
        let StartOutcome { index, result } = outcome;
        self.slots[index].starting = None;
        let ended = match result {
            Ok(child) => {
                let actor = child.cell.get_id();
                self.adopt(index, child);
                self.step(me, |machine, now, fx| machine.started(index, now, fx))?;
                self.early.remove(&actor).map(|exit| (actor, exit))
            }
            Err(exit) => {
                self.step(me, |machine, now, fx| machine.start_failed(index, exit, now, fx))?;
                None
            }
        };
        if self.slots.iter().all(|slot| slot.starting.is_none()) {
            self.early.clear();
        }
        match ended {
            Some((actor, exit)) => self.actor_ended(me, actor, exit).await,
            None => Ok(()),
        }
    }

    pub(super) fn restart_due(&mut self, me: &ActorRef<SupervisorMessage>) -> Result<(), GaveUp> {
        self.wake = None;
        self.step(me, Machine::tick)
    }

    pub(super) fn stop_due(
        &mut self,
        me: &ActorRef<SupervisorMessage>,
        actor: ActorId,
    ) -> Result<(), GaveUp> {
        let Some(index) = self.by_actor.get(&actor).copied() else { return Ok(()) };
        let slot = &mut self.slots[index];
        let Some(child) = &slot.running else { return Ok(()) };
        if slot.killed {
            tracing::error!(supervisor = %self.view.name(), child = %slot.spec.id, "a killed child does not end");
            self.forget(index);
            return self.step(me, |machine, now, fx| machine.stuck(index, now, fx));
        }
        slot.killed = true;
        child.cell.kill();
        slot.stop_timer = Some(timer(me, slot.spec.shutdown, SupervisorMessage::StopDue(actor)));
        Ok(())
    }

    pub(super) async fn actor_ended(
        &mut self,
        me: &ActorRef<SupervisorMessage>,
        actor: ActorId,
        exit: Exit,
    ) -> Result<(), GaveUp> {
        let Some(index) = self.by_actor.get(&actor).copied() else {
            if self.slots.iter().any(|slot| slot.starting.is_some()) {
                self.early.insert(actor, exit);
            }
            return Ok(());
        };
        if let Some(child) = self.forget(index) {
            // Its event is here, so the loop of the actor is over; what is left is to drop its state.
            let _ = tokio::time::timeout(self.slots[index].spec.shutdown, child.task).await;
        }
        self.step(me, |machine, now, fx| machine.exited(index, exit, now, fx))
    }

    /// One fact to the machine, and what follows from it.
    fn step(
        &mut self,
        me: &ActorRef<SupervisorMessage>,
        fact: impl FnOnce(&mut Machine, Now, &mut Vec<Effect>),
    ) -> Result<(), GaveUp> {
        let (now, fx, ()) = self.view.step(fact);
        self.perform(me, now, fx)
    }

    fn perform(&mut self, me: &ActorRef<SupervisorMessage>, now: Now, fx: Vec<Effect>) -> Result<(), GaveUp> {
        let mut escalated = Ok(());
        for effect in fx {
            match effect {
                Effect::Start(index) => self.start_in_task(me, index),
                Effect::Stop(index, reason) => self.stop(me, index, &reason),
                Effect::Notice(index, kind) => self.tell(now, index, kind),
                Effect::Escalate(gave_up) => escalated = Err(gave_up),
            }
        }
        self.arm_wake(me);
        escalated
    }

    fn start_in_task(&mut self, me: &ActorRef<SupervisorMessage>, index: usize) {
        let (spec, me) = (self.slots[index].spec.clone(), me.clone());
        let task = tokio::spawn(async move {
            let result = spec.start(me.get_cell()).await;
            // If the supervisor is gone, so is the child: it is linked.
            let _ = me.send_message(SupervisorMessage::ChildStarted(StartOutcome { index, result }));
        });
        self.slots[index].starting = Some(AbortOnDropHandle::new(task));
    }

    fn stop(&mut self, me: &ActorRef<SupervisorMessage>, index: usize, reason: &str) {
        let slot = &mut self.slots[index];
        // Without a running child its end is on the way already, as a fact.
        if let Some(child) = &slot.running {
            child.cell.stop(Some(reason.to_owned()));
            let due = SupervisorMessage::StopDue(child.cell.get_id());
            slot.stop_timer = Some(timer(me, slot.spec.shutdown, due));
        }
    }

    /// One timer, for the restart that is due first.
    fn arm_wake(&mut self, me: &ActorRef<SupervisorMessage>) {
        let (due, now) = self.view.read(|machine, now| (machine.next_due(now), now));
        let Some(due) = due else { return self.wake = None };
        if self.wake.as_ref().is_some_and(|(armed, _)| *armed == due) {
            return;
        }
        let after = due.saturating_sub(now.mono);
        self.wake = Some((due, timer(me, after, SupervisorMessage::RestartDue)));
    }

    pub(super) fn tell(&self, now: Now, index: usize, kind: NoticeKind) {
        let (supervisor, child) = (self.view.name().clone(), self.slots[index].spec.id.clone());
        match &kind {
            NoticeKind::Crashed { exit, left, .. } => {
                tracing::warn!(%supervisor, %child, %exit, restarts_left = left, "child crashed");
            }
            NoticeKind::GaveUp { exit } => {
                tracing::error!(%supervisor, %child, %exit, "supervisor gave up");
            }
            kind => tracing::debug!(%supervisor, %child, "child {kind}"),
        }
        (self.notify)(SupervisionNotice { supervisor, child, at_us: now.at_us, kind });
    }

    fn adopt(&mut self, index: usize, child: ChildHandle) {
        self.by_actor.insert(child.cell.get_id(), index);
        self.slots[index].running = Some(child);
    }

    pub(super) fn forget(&mut self, index: usize) -> Option<ChildHandle> {
        let slot = &mut self.slots[index];
        slot.stop_timer = None;
        slot.killed = false;
        let child = slot.running.take()?;
        self.by_actor.remove(&child.cell.get_id());
        Some(child)
    }
}

impl Drop for SupervisorState {
    fn drop(&mut self) {
        let epoch = self.epoch;
        self.view.step(|machine, now, _| machine.gone(epoch, now));
    }
}

/// Sends the message to the supervisor later; cancelled when dropped.
fn timer(me: &ActorRef<SupervisorMessage>, after: Duration, message: SupervisorMessage) -> Task {
    let me = me.clone();
    AbortOnDropHandle::new(tokio::spawn(async move {
        tokio::time::sleep(after).await;
        let _ = me.send_message(message);
    }))
}
