//! Deficit round robin over a ring of flows, weighted, one choice at a time.
//!
//! A flow at the front of the ring gets `quantum × weight` of credit once per visit, and is served while its next request
//! costs no more than its credit; then it goes to the back and keeps what is left. While two flows both wait,
//! what they were served, each divided by its weight, differs by at most one quantum and the largest request of each
//! (Shreedhar and Varghese 1995). A flow that runs empty leaves the ring and its credit is forgotten.
//!
//! Many rounds in which nobody can pay yet are taken in one step, so a small quantum costs no time.

use super::list::{Id, List, Slab};

/// Somebody who waits for turns in a ring.
#[derive(Clone, Debug)]
pub(super) struct Flow<V> {
    pub weight: u32,
    credit: u64,
    /// It stands at the front and has had its quantum for this visit.
    visited: bool,
    pub value: V,
}

impl<V> Flow<V> {
    pub fn new(weight: u32, value: V) -> Self {
        Self { weight: weight.max(1), credit: 0, visited: false, value }
    }

    /// It was served.
    pub fn pay(&mut self, cost: u32) {
        self.credit = self.credit.saturating_sub(cost.into());
    }

    fn quantum(&self, quantum: u32) -> u64 {
        u64::from(quantum.max(1)) * u64::from(self.weight)
    }

    fn grant(&mut self, quantum: u32, rounds: u64) {
        self.credit = self.credit.saturating_add(self.quantum(quantum).saturating_mul(rounds));
    }
}

/// Brings the flow that is served next to the front. `cost` says what the next request of a flow costs; asked again
/// without a change, the answer is the same.
pub(super) fn choose<V>(
    flows: &mut Slab<Flow<V>>,
    ring: &mut List,
    quantum: u32,
    mut cost: impl FnMut(&mut V) -> u32,
) -> Option<Id> {
    let mut passed = 0;
    loop {
        let id = ring.front()?;
        let flow = &mut flows[id];
        if !std::mem::replace(&mut flow.visited, true) {
            flow.grant(quantum, 1);
        }
        if u64::from(cost(&mut flow.value)) <= flow.credit {
            return Some(id);
        }
        flow.visited = false;
        flows.rotate(ring);
        passed += 1;
        if passed == ring.len() {
            skip(flows, ring, quantum, &mut cost);
            passed = 0;
        }
    }
}

/// Grants every flow the rounds in which nobody could pay: all but the one in which the first can.
fn skip<V>(flows: &mut Slab<Flow<V>>, ring: &List, quantum: u32, cost: &mut impl FnMut(&mut V) -> u32) {
    let mut fewest = u64::MAX;
    let mut at = ring.front();
    while let Some(id) = at {
        let flow = &mut flows[id];
        let missing = u64::from(cost(&mut flow.value)).saturating_sub(flow.credit);
        fewest = fewest.min(missing.div_ceil(flow.quantum(quantum)));
        at = flows.after(id);
    }
    let rounds = fewest.saturating_sub(1);
    let mut at = ring.front().filter(|_| rounds > 0);
    while let Some(id) = at {
        flows[id].grant(quantum, rounds);
        at = flows.after(id);
    }
}
