//! The line of one conversation: one turn runs, at most `limit` wait behind it, in order. Pure.

use std::collections::VecDeque;

use crate::domain::ids::TurnId;

/// What a new turn has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Begin.
    Now,
    /// Wait; this many are before it, the running one not counted, itself counted (from 1).
    Behind(u32),
    /// Too many wait.
    Full,
}

/// The turns of one conversation; `T` is what is kept of each.
#[derive(Debug)]
pub(crate) struct Lane<T> {
    running: Option<(TurnId, T)>,
    waiting: VecDeque<(TurnId, T)>,
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Self { running: None, waiting: VecDeque::new() }
    }
}

impl<T> Lane<T> {
    /// Where a new turn would be.
    pub fn place(&self, limit: usize) -> Place {
        if self.running.is_none() {
            Place::Now
        } else if self.waiting.len() >= limit {
            Place::Full
        } else {
            Place::Behind(u32::try_from(self.waiting.len() + 1).unwrap_or(u32::MAX))
        }
    }

    /// Puts a turn where [`Lane::place`] said.
    pub fn push(&mut self, turn: TurnId, kept: T) {
        if self.running.is_none() {
            self.running = Some((turn, kept));
        } else {
            self.waiting.push_back((turn, kept));
        }
    }

    /// Takes a turn out, running or waiting.
    pub fn remove(&mut self, turn: TurnId) -> Option<T> {
        if self.running.as_ref().is_some_and(|(t, _)| *t == turn) {
            return self.running.take().map(|(_, kept)| kept);
        }
        let at = self.waiting.iter().position(|(t, _)| *t == turn)?;
        self.waiting.remove(at).map(|(_, kept)| kept)
    }

    /// Moves the next one up, if none runs.
    pub fn advance(&mut self) -> Option<&mut T> {
        if self.running.is_some() {
            return None;
        }
        self.running = self.waiting.pop_front();
        self.running.as_mut().map(|(_, kept)| kept)
    }

    pub fn get(&self, turn: TurnId) -> Option<&T> {
        self.iter().find(|(t, _)| *t == turn).map(|(_, kept)| kept)
    }

    pub fn iter(&self) -> impl Iterator<Item = &(TurnId, T)> {
        self.running.iter().chain(&self.waiting)
    }

    /// The running one.
    pub fn running(&self) -> Option<TurnId> {
        self.running.as_ref().map(|(turn, _)| *turn)
    }

    /// Those behind the running one, in order.
    pub fn waiting(&self) -> impl Iterator<Item = &(TurnId, T)> {
        self.waiting.iter()
    }

    /// The same, to be changed.
    pub fn waiting_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.waiting.iter_mut().map(|(_, kept)| kept)
    }

    pub fn is_empty(&self) -> bool {
        self.running.is_none() && self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a plain list: at most one runs, order is kept, the limit holds.
        #[test]
        fn turns_run_one_at_a_time_in_the_order_they_came(steps in prop::collection::vec((0u8..3, any::<prop::sample::Index>()), 0..60)) {
            let mut lane = Lane::default();
            let mut model: Vec<TurnId> = vec![];
            let mut runs = false;
            for (step, pick) in steps {
                match step {
                    0 => {
                        let expected = if !runs { Place::Now }
                            else if model.len() > 3 { Place::Full }
                            else { Place::Behind(model.len() as u32) };
                        prop_assert_eq!(lane.place(3), expected);
                        if expected != Place::Full {
                            let turn = TurnId::new();
                            lane.push(turn, turn);
                            model.push(turn);
                            runs = true;
                        }
                    }
                    1 if !model.is_empty() => {
                        let at = pick.index(model.len());
                        prop_assert_eq!(lane.remove(model[at]), Some(model[at]));
                        model.remove(at);
                        if at == 0 && runs { runs = false; }
                        if !runs {
                            let next = lane.advance().copied();
                            prop_assert_eq!(next, model.first().copied());
                            runs = next.is_some();
                        }
                    }
                    _ => prop_assert_eq!(lane.remove(TurnId::new()), None),
                }
                prop_assert_eq!(lane.iter().map(|(t, _)| *t).collect::<Vec<_>>(), model.clone());
            }
        }
    }
}
