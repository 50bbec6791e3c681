//! Which entry expires first. What left the queue otherwise stays in the heap until it comes up, or until the heap is mostly
//! such leftovers and is made anew: so leaving costs nothing here, and the heap is at most a few times as long as the queue.

use std::{cmp::Reverse, collections::BinaryHeap, time::Instant};

use crate::domain::ids::TurnId;

/// Leftovers below this number are left alone.
const FEW: usize = 32;

/// Deadlines of entries, each known by its turn and the number that it was given when it came.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    heap: BinaryHeap<Reverse<(Instant, u64, TurnId)>>,
    /// Leftovers and others that were looked at to throw leftovers away.
    #[cfg(test)]
    pub steps: usize,
}

impl Deadlines {
    pub fn push(&mut self, deadline: Instant, number: u64, turn: TurnId) {
        self.heap.push(Reverse((deadline, number, turn)));
    }

    /// The next deadline of an entry that still waits.
    pub fn next(&mut self, waits: impl Fn(TurnId, u64) -> bool) -> Option<(Instant, TurnId)> {
        while let Some(Reverse((deadline, number, turn))) = self.heap.peek().copied() {
            if waits(turn, number) {
                return Some((deadline, turn));
            }
            self.heap.pop();
        }
        None
    }

    /// Throws leftovers away where they are the most. `waiting` entries are in the queue.
    pub fn tidy(&mut self, waiting: usize, waits: impl Fn(TurnId, u64) -> bool) {
        if self.heap.len() > FEW + 2 * waiting {
            #[cfg(test)]
            {
                self.steps += self.heap.len();
            }
            self.heap.retain(|Reverse((_, number, turn))| waits(*turn, *number));
            self.heap.shrink_to(FEW + 2 * waiting);
        }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.heap.len()
    }
}
