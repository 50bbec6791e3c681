//! A window into a supervisor that needs no message to it.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use super::budget::RestartRules;
use super::clock::{Clock, Now};
use super::machine::{Effect, GaveUp, Machine};
use super::observation::SupervisorObservation;
use super::policy::Strategy;

/// What a supervisor knows, readable by anyone at any time, also while it or its children are busy or dead.
///
/// The owner makes it and gives a clone to every incarnation of the supervisor, so that restart histories outlive
/// the supervisor itself. At most one incarnation uses a view at a time.
#[derive(Clone)]
pub struct SupervisorView {
    shared: Arc<Shared>,
}

struct Shared {
    name: Arc<str>,
    clock: Clock,
    machine: Mutex<Machine>,
}

impl SupervisorView {
    /// The view of a supervisor that does not run yet. `name` is what notices and observations call it; `seed`
    /// decides the jitter of its restarts.
    pub fn new(name: impl Into<Arc<str>>, strategy: Strategy, rules: RestartRules, seed: u64) -> Self {
        let name = name.into();
        let machine = Mutex::new(Machine::new(Arc::clone(&name), strategy, rules, seed));
        Self { shared: Arc::new(Shared { name, clock: Clock::new(), machine }) }
    }

    /// Name of the supervisor.
    pub fn name(&self) -> &Arc<str> {
        &self.shared.name
    }

    /// Everything there is to see now. Holds a lock for as long as the copy takes.
    pub fn observe(&self) -> SupervisorObservation {
        self.shared.machine.lock().observe(self.shared.clock.now())
    }

    /// Set once the supervisor gave up; cleared when a new incarnation begins. What the owner of a root asks after
    /// the root ended, to choose the exit code.
    pub fn gave_up(&self) -> Option<GaveUp> {
        self.shared.machine.lock().gave_up().cloned()
    }

    /// One step of the machine; the lock is held for the pure step only, effects are performed afterwards.
    pub(super) fn step<T>(
        &self,
        step: impl FnOnce(&mut Machine, Now, &mut Vec<Effect>) -> T,
    ) -> (Now, Vec<Effect>, T) {
        let mut fx = Vec::new();
        let mut machine = self.shared.machine.lock();
        let now = self.shared.clock.now();
        let result = step(&mut machine, now, &mut fx);
        drop(machine);
        (now, fx, result)
    }

    /// Reads from the machine.
    pub(super) fn read<T>(&self, read: impl FnOnce(&Machine, Now) -> T) -> T {
        read(&self.shared.machine.lock(), self.shared.clock.now())
    }
}

impl fmt::Debug for SupervisorView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SupervisorView").field("name", &self.shared.name).finish_non_exhaustive()
    }
}
