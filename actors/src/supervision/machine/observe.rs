//! What can be read from the machine.

use std::sync::Arc;
use std::time::Duration;

use super::{Child, GaveUp, Lifecycle, Machine, Phase, Wanted};
use crate::supervision::clock::Now;
use crate::supervision::observation::{
    ChildObservation, ChildState, IntensityObservation, SupervisorObservation,
};

impl Machine {
    /// The next time after `now` at which a restart is due.
    pub(in crate::supervision) fn next_due(&self, now: Now) -> Option<Duration> {
        self.children.iter().filter_map(Child::waits_until).filter(|due| *due > now.mono).min()
    }

    /// Restarts left.
    pub(in crate::supervision) fn left(&self, now: Now) -> u32 {
        self.intensity.left(now.mono)
    }

    pub(in crate::supervision) fn lifecycle(&self, index: usize) -> Lifecycle {
        self.children[index].lifecycle
    }

    pub(in crate::supervision) fn gave_up(&self) -> Option<&GaveUp> {
        self.gave_up.as_ref()
    }

    pub(in crate::supervision) fn observe(&self, now: Now) -> SupervisorObservation {
        let left = self.left(now);
        SupervisorObservation {
            name: Arc::clone(&self.name),
            state: match self.phase {
                Phase::Booting => ChildState::Starting,
                Phase::Running => ChildState::Active,
                Phase::GivingUp(_) | Phase::ShuttingDown => ChildState::Stopping,
                Phase::Ended => ChildState::Terminated,
            },
            strategy: self.strategy,
            intensity: IntensityObservation {
                max: self.intensity.max(),
                within_s: self.intensity.within().as_secs(),
                left,
            },
            children: self
                .children
                .iter()
                .filter(|child| !child.leaves)
                .map(|child| child.observe(now, left))
                .collect(),
        }
    }
}

impl Child {
    fn observe(&self, now: Now, left: u32) -> ChildObservation {
        let state = match self.lifecycle {
            Lifecycle::Stopping => ChildState::Stopping,
            Lifecycle::Up if self.doomed.is_some() => ChildState::Stopping,
            Lifecycle::Up => ChildState::Active,
            Lifecycle::Down if self.wanted == Wanted::Rest => ChildState::Terminated,
            Lifecycle::Down | Lifecycle::Starting if self.record.is_down() => ChildState::Restarting,
            Lifecycle::Down | Lifecycle::Starting => ChildState::Starting,
        };
        ChildObservation {
            id: Arc::clone(&self.plan.id),
            kind: self.plan.kind,
            restart: self.plan.restart,
            state,
            since_us: self.since_us,
            restart_in_ms: self
                .waits_until()
                .map(|due| u64::try_from(due.saturating_sub(now.mono).as_millis()).unwrap_or(u64::MAX)),
            restarts: self.record.restarts(),
            left,
            last_exit: self.record.last_exit().cloned(),
            history: self.record.history().iter().cloned().collect(),
        }
    }
}
