//! When those who wait for a slot of a server begin to be answered, as expected. Pure.
//!
//! What runs holds its slot for the mean of its model, less what it has held it for: so the wait gets shorter while nobody
//! comes or goes. One that is overdue counts for a tenth of its mean; when it ends nobody knows. Whoever waits takes, in the
//! order of the line, the slot that comes free first, and holds it for the mean of its own model. Where its model is not
//! loaded, loading comes on top of its own wait; those behind it feel that through the means.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use super::service_times::ServiceTimes;

/// What an overdue turn still holds is its mean divided by this.
const OVERDUE: u32 = 10;

/// The slots of one server, and when each comes free.
#[derive(Debug, Clone)]
pub struct Outlook<'a> {
    times: &'a ServiceTimes,
    /// From now on; one for each slot.
    free: BinaryHeap<Reverse<Duration>>,
}

impl<'a> Outlook<'a> {
    /// `running` are the models of the turns that hold slots, each with how long it has held it; they may be more than
    /// `slots`, where those became fewer. Nobody begins before `pause` is over.
    #[must_use]
    pub fn new<'b>(
        times: &'a ServiceTimes,
        slots: u32,
        running: impl IntoIterator<Item = (&'b str, Duration)>,
        pause: Duration,
    ) -> Self {
        let slots = slots.max(1) as usize;
        let left = |(model, held_for)| times.left(model, held_for).unwrap_or_default();
        let mut free: Vec<_> = running.into_iter().map(left).collect();
        free.sort_unstable();
        // The first of too many to end let nobody in.
        free.drain(..free.len().saturating_sub(slots));
        free.resize(slots, Duration::ZERO);
        Self { times, free: free.into_iter().map(|at| Reverse(at.max(pause))).collect() }
    }

    /// When the next of the line begins to be answered, and not before `after`: it has a slot from then on. Nothing before any
    /// measurement.
    pub fn next(&mut self, model: &str, loaded: bool, after: Duration) -> Option<Duration> {
        let (held, load) = (self.times.held(model)?, self.load(model, loaded));
        let mut first = self.free.peek_mut()?;
        let begins = first.0.max(after);
        *first = Reverse(begins.saturating_add(held));
        Some(begins.saturating_add(load))
    }

    /// When the n-th, from 1, of a line of its like begins: as [`next`](Self::next) says it the n-th time, but in a few steps
    /// however long the line is.
    #[must_use]
    pub fn nth(mut self, model: &str, loaded: bool, n: usize) -> Option<Duration> {
        let held = self.times.held(model)?;
        let load = self.load(model, loaded);
        let mut ahead = if held.is_zero() { 0 } else { n.saturating_sub(1) };
        let last = self.free.iter().map(|Reverse(at)| *at).max()?;
        // Once the slots come free within one turn of each other, they are taken round by round.
        while ahead > 0 && self.free.peek()?.0.saturating_add(held) < last {
            self.next(model, loaded, Duration::ZERO)?;
            ahead -= 1;
        }
        let (rounds, slot) = (ahead / self.free.len(), ahead % self.free.len());
        let free = self.free.into_sorted_vec();
        let Reverse(first) = free[free.len() - 1 - slot];
        let rounds = held.saturating_mul(u32::try_from(rounds).unwrap_or(u32::MAX));
        Some(first.saturating_add(rounds).saturating_add(load))
    }

    fn load(&self, model: &str, loaded: bool) -> Duration {
        if loaded { Duration::ZERO } else { self.times.load(model).unwrap_or_default() }
    }
}

impl ServiceTimes {
    /// How much longer a turn with this model is expected to hold the slot that it has held for so long.
    #[must_use]
    pub fn left(&self, model: &str, held_for: Duration) -> Option<Duration> {
        let held = self.held(model)?;
        Some(held.saturating_sub(held_for).max(held / OVERDUE))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const S: Duration = Duration::from_secs(1);
    const MODELS: [&str; 3] = ["a", "b", "c"];

    /// "slow" holds a slot for 20 s, "fast" for 2 s.
    fn times() -> ServiceTimes {
        let mut times = ServiceTimes::default();
        times.measured("slow", 20 * S, Duration::ZERO);
        times.measured("fast", 2 * S, Duration::ZERO);
        times
    }

    fn waits(times: &ServiceTimes, slots: u32, running: &[(&str, u32)], line: &[&str]) -> Vec<Duration> {
        let running = running.iter().map(|(model, for_s)| (*model, S * *for_s));
        let mut outlook = Outlook::new(times, slots, running, Duration::ZERO);
        line.iter().map(|model| outlook.next(model, true, Duration::ZERO).unwrap()).collect()
    }

    #[test]
    fn before_any_measurement_nothing_is_said() {
        let times = ServiceTimes::default();
        let mut outlook = Outlook::new(&times, 1, [("a", S)], Duration::ZERO);
        assert_eq!(outlook.next("a", false, Duration::ZERO), None);
        assert_eq!(outlook.nth("a", false, 1), None);
    }

    #[test]
    fn a_wait_counts_down_with_the_answer_that_runs_and_an_overdue_one_counts_little() {
        let times = times();
        let wait = |held_for| waits(&times, 1, &[("slow", held_for)], &["fast", "fast"]);
        assert_eq!(wait(0), [20 * S, 22 * S]);
        assert_eq!(wait(15), [5 * S, 7 * S]);
        assert_eq!(wait(19), [2 * S, 4 * S]);
        assert_eq!(wait(500), wait(19), "a tenth of its mean is left");
    }

    #[test]
    fn of_several_slots_each_comes_free_in_its_time_and_the_line_takes_the_first() {
        let times = times();
        let running = [("slow", 4), ("fast", 1)];
        assert_eq!(
            waits(&times, 2, &running, &["fast", "slow", "fast", "fast"]),
            [1, 3, 16, 18].map(|s| S * s)
        );
        assert_eq!(waits(&times, 3, &running, &["fast", "fast"]), [0, 1].map(|s| S * s), "one is free");
        assert_eq!(
            waits(&times, 1, &running, &["fast", "fast"]),
            [16, 18].map(|s| S * s),
            "one too many runs"
        );
        assert_eq!(
            waits(&times, 0, &[], &["fast", "fast"]),
            [0, 2].map(|s| S * s),
            "no slots are taken for one"
        );
    }

    #[test]
    fn nobody_begins_in_a_pause_or_before_what_he_waits_for() {
        let times = times();
        let mut outlook = Outlook::new(&times, 1, [("fast", S)], 5 * S);
        assert_eq!(outlook.next("fast", true, Duration::ZERO), Some(5 * S));
        assert_eq!(outlook.next("fast", true, 30 * S), Some(30 * S));
        assert_eq!(outlook.nth("fast", true, 1), Some(32 * S));
    }

    #[test]
    fn loading_comes_on_top_where_the_model_is_not_loaded() {
        let mut times = ServiceTimes::default();
        times.measured("a", 12 * S, 10 * S);
        times.measured("a", 4 * S, Duration::ZERO);
        let nth = |model, loaded, n| Outlook::new(&times, 1, [], Duration::ZERO).nth(model, loaded, n);
        assert_eq!(nth("a", true, 2), Some(8 * S));
        assert_eq!(nth("a", false, 2), Some(18 * S));
        assert_eq!(nth("b", false, 2), Some(18 * S), "a guess from the others");
    }

    #[test]
    fn times_without_sense_end_in_the_longest_time_and_not_in_a_panic() {
        let mut times = ServiceTimes::default();
        times.measured("a", Duration::MAX, Duration::MAX);
        let mut outlook = Outlook::new(&times, 1, [("a", Duration::MAX)], Duration::ZERO);
        assert_eq!(outlook.clone().nth("a", false, usize::MAX), Some(Duration::MAX));
        for _ in 0..3 {
            assert_eq!(outlook.next("a", false, Duration::MAX), Some(Duration::MAX));
        }
    }

    proptest! {
        #[test]
        fn waits_fall_with_time_rise_with_the_place_and_never_with_more_slots(
            held in prop::collection::vec((0u64..100_000, 0u64..20_000), 1..30),
            running in prop::collection::vec((0usize..3, 0u64..200_000), 0..12),
            line in prop::collection::vec(0usize..3, 1..40),
            (slots, pause, later) in (1u32..10, 0u64..5_000, 0u64..100_000),
        ) {
            let mut times = ServiceTimes::default();
            for ((held, load), model) in held.iter().zip(MODELS.iter().cycle()) {
                times.measured(model, Duration::from_millis(*held), Duration::from_millis(*load));
            }
            let outlook = |slots, later| {
                let running = running.iter().map(|(m, ms)| (MODELS[*m], Duration::from_millis(ms + later)));
                Outlook::new(&times, slots, running, Duration::from_millis(pause))
            };
            let waits = |slots, later| {
                let mut outlook = outlook(slots, later);
                line.iter().map(|m| outlook.next(MODELS[*m], true, Duration::ZERO).unwrap()).collect::<Vec<_>>()
            };
            let now = waits(slots, 0);
            prop_assert!(now.is_sorted());
            prop_assert!(now[0] >= Duration::from_millis(pause));
            for (now, then) in now.iter().zip(waits(slots, later)) {
                prop_assert!(then <= *now && *now - then <= Duration::from_millis(later));
            }
            prop_assert!(now.iter().zip(waits(slots + 1, 0)).all(|(few, more)| more <= *few));
            let mut one_by_one = outlook(slots, 0);
            for n in 1..=line.len() {
                let nth = one_by_one.next("a", false, Duration::ZERO);
                prop_assert_eq!(outlook(slots, 0).nth("a", false, n), nth);
            }
        }
    }
}
