//! Children that come and go while their supervisor runs. Only one-for-one: with the other strategies the order of the
//! children means something.

use std::sync::Arc;

use super::{Child, ChildPlan, Effect, Lifecycle, Machine, Phase, Wanted};
use crate::supervision::{budget::RestartRecord, clock::Now, policy::Strategy};

impl Machine {
    /// Takes in one more child and starts it; answers its index, which may be that of one that left. `None` where there is
    /// one of this name, or where the supervisor is on its way out.
    pub(in crate::supervision) fn add(
        &mut self,
        plan: ChildPlan,
        now: Now,
        fx: &mut Vec<Effect>,
    ) -> Option<usize> {
        let named = |c: &Child| !c.leaves && c.plan.id == plan.id;
        let runs = self.phase == Phase::Running && self.strategy == Strategy::OneForOne;
        if !runs || self.children.iter().any(named) {
            return None;
        }
        let free = self.children.iter().position(Child::has_left);
        let index = free.unwrap_or(self.children.len());
        let child = Child {
            record: RestartRecord::new(&self.rules, self.seed.wrapping_add(index as u64)),
            plan,
            lifecycle: Lifecycle::Down,
            wanted: Wanted::Run { due: now.mono },
            doomed: None,
            since_us: now.at_us,
            leaves: false,
        };
        match self.children.get_mut(index) {
            Some(left) => *left = child,
            None => self.children.push(child),
        }
        self.reconcile(now, fx);
        Some(index)
    }

    /// Stops a child for good; its name is free at once. Nothing where there is none of this name.
    pub(in crate::supervision) fn remove(&mut self, id: &str, now: Now, fx: &mut Vec<Effect>) {
        let Some(child) = self.children.iter_mut().find(|c| !c.leaves && &*c.plan.id == id) else { return };
        child.leaves = true;
        child.wanted = Wanted::Rest;
        if matches!(child.lifecycle, Lifecycle::Up | Lifecycle::Starting) {
            child.doomed = Some(Arc::from("removed"));
        }
        self.reconcile(now, fx);
    }
}

impl Child {
    /// It was removed and is down: nothing of it is left but its index.
    pub(super) fn has_left(&self) -> bool {
        self.leaves && self.lifecycle == Lifecycle::Down
    }
}
