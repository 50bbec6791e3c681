//! How long turns hold a slot, model by model, and what follows for those who wait.
//!
//! A mean follows what was measured, and older turns fade: the first five weigh the same, after that the newest weighs a
//! fifth. A turn that had to load its model holds its slot for that long, too, so the means of the models that take each
//! other's place in memory contain what this costs. How long loading takes is measured apart, for those whose model is
//! not loaded.
//!
//! The estimate for position n (1 = next) at a server with s slots: what the first n of the line are expected to hold,
//! divided by s; where all have the same model, `held × n / s`. (With all slots taken one comes free about every
//! `held / s`, and the n-th in the line needs the n-th of them.) To this comes `load` where the model is not loaded.
//! Position 0 stands for a slot that is free now.

use std::{collections::HashMap, time::Duration};

/// So many first measurements are averaged plainly.
const PLAIN: u32 = 5;
/// Models that are remembered; the one that was measured longest ago makes room.
const MODELS: usize = 64;

/// A mean that follows changes.
#[derive(Debug, Clone, Copy, Default)]
struct Mean {
    seconds: f64,
    measured: u32,
}

impl Mean {
    fn add(&mut self, time: Duration) {
        self.measured = (self.measured + 1).min(PLAIN);
        self.seconds += (time.as_secs_f64() - self.seconds) / f64::from(self.measured);
    }

    fn get(self) -> Option<Duration> {
        (self.measured > 0).then(|| seconds(self.seconds))
    }
}

/// What is known of a model, or of all.
#[derive(Debug, Clone, Copy, Default)]
struct Times {
    held: Mean,
    load: Mean,
    /// When it was measured last, in measurements.
    at: u64,
}

impl Times {
    fn add(&mut self, held: Duration, load: Duration, at: u64) {
        self.held.add(held);
        if !load.is_zero() {
            self.load.add(load);
        }
        self.at = at;
    }
}

/// Measured times of one server.
#[derive(Debug, Clone, Default)]
pub struct ServiceTimes {
    models: HashMap<String, Times>,
    /// Over all models: the guess for one that was never measured.
    all: Times,
}

impl ServiceTimes {
    /// A turn held its slot for `held`, of which `load` was spent on loading the model; zero where it was loaded. Turns that
    /// were stopped count as well: their slots came free, too.
    pub fn measured(&mut self, model: &str, held: Duration, load: Duration) {
        let at = self.all.at + 1;
        self.all.add(held, load, at);
        if let Some(times) = self.models.get_mut(model) {
            return times.add(held, load, at);
        }
        if self.models.len() >= MODELS {
            let oldest = self.models.iter().min_by_key(|(_, times)| times.at).map(|(name, _)| name.clone());
            oldest.and_then(|name| self.models.remove(&name));
        }
        self.models.entry(model.to_owned()).or_default().add(held, load, at);
    }

    /// How long a turn with this model is expected to hold its slot; a guess from the other models where it was never
    /// measured, nothing where none was.
    #[must_use]
    pub fn held(&self, model: &str) -> Option<Duration> {
        self.models.get(model).and_then(|times| times.held.get()).or(self.all.held.get())
    }

    /// How long loading this model is expected to take, likewise.
    #[must_use]
    pub fn load(&self, model: &str) -> Option<Duration> {
        self.models.get(model).and_then(|times| times.load.get()).or(self.all.load.get())
    }

    /// Expected time until the turn at this position of a line of its like begins to be answered (head of this file).
    /// Nothing before any measurement.
    #[must_use]
    pub fn eta(&self, model: &str, loaded: bool, position: usize, slots: u32) -> Option<Duration> {
        let work = self.held(model)?.as_secs_f64() * position as f64;
        Some(self.begins(model, loaded, work, slots))
    }

    /// The same for everybody in a line of models (and whether each is loaded), the next one first.
    #[must_use]
    pub fn etas<'a>(
        &self,
        line: impl IntoIterator<Item = (&'a str, bool)>,
        slots: u32,
    ) -> Vec<Option<Duration>> {
        let mut work = 0.0;
        let one = |(model, loaded)| {
            work += self.held(model)?.as_secs_f64();
            Some(self.begins(model, loaded, work, slots))
        };
        line.into_iter().map(one).collect()
    }

    fn begins(&self, model: &str, loaded: bool, work: f64, slots: u32) -> Duration {
        let load = if loaded { None } else { self.load(model) };
        seconds(work / f64::from(slots.max(1))).saturating_add(load.unwrap_or_default())
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn before_any_measurement_nothing_is_said() {
        let times = ServiceTimes::default();
        assert_eq!((times.eta("a", false, 0, 1), times.held("a"), times.load("a")), (None, None, None));
        assert_eq!(times.etas([("a", true)], 1), [None]);
    }

    #[test]
    fn loading_is_part_of_what_was_held_and_comes_on_top_where_the_model_is_not_loaded() {
        let mut times = ServiceTimes::default();
        times.measured("a", 12 * S, 10 * S);
        assert_eq!(times.eta("a", true, 0, 1), Some(Duration::ZERO));
        times.measured("a", 4 * S, Duration::ZERO);
        assert_eq!((times.held("a"), times.load("a")), (Some(8 * S), Some(10 * S)));
        assert_eq!(times.eta("a", true, 1, 2), Some(4 * S));
        assert_eq!(times.eta("a", false, 1, 2), Some(14 * S));
        assert_eq!(times.eta("b", false, 1, 2), Some(14 * S), "a guess from the others");
    }

    #[test]
    fn a_change_is_followed_within_a_few_turns() {
        let mut times = ServiceTimes::default();
        (0..100).for_each(|_| times.measured("a", S, Duration::ZERO));
        (0..10).for_each(|_| times.measured("a", 10 * S, Duration::ZERO));
        let now = times.held("a").unwrap();
        assert!(now > 8 * S && now < 10 * S, "{now:?}");
    }

    #[test]
    fn the_wait_of_the_nth_of_a_line_is_what_it_and_those_before_it_hold_over_the_slots() {
        let mut times = ServiceTimes::default();
        times.measured("slow", 20 * S, Duration::ZERO);
        times.measured("fast", 2 * S, Duration::ZERO);
        assert_eq!(
            [0, 1, 2, 6].map(|n| times.eta("fast", true, n, 2).unwrap()),
            [Duration::ZERO, S, 2 * S, 6 * S]
        );
        assert_eq!(
            times.eta("fast", true, 1, 0),
            times.eta("fast", true, 1, 1),
            "no slots are taken for one"
        );
        let etas = times.etas([("fast", true), ("slow", true), ("fast", true)], 2);
        assert_eq!(etas, [Some(S), Some(11 * S), Some(12 * S)]);
    }

    #[test]
    fn times_without_sense_end_in_the_longest_time_and_not_in_a_panic() {
        let mut times = ServiceTimes::default();
        times.measured("a", Duration::MAX, Duration::MAX);
        assert_eq!(times.eta("a", false, usize::MAX, 1), Some(Duration::MAX));
    }

    #[test]
    fn models_without_end_are_not_remembered() {
        let mut times = ServiceTimes::default();
        for n in 0..1000 {
            times.measured("often", S, Duration::ZERO);
            times.measured(&format!("m{n}"), 3 * S, Duration::ZERO);
        }
        assert_eq!(times.models.len(), MODELS);
        assert_eq!(times.held("often"), Some(S), "the busy one stays");
    }

    proptest! {
        #[test]
        fn whoever_stands_further_back_waits_no_shorter_and_more_slots_never_lengthen_it(
            held in prop::collection::vec((0u64..100_000, 0u64..20_000), 1..30),
            (position, slots, loaded) in (0usize..600, 1u32..64, any::<bool>()),
            line in prop::collection::vec(0usize..3, 0..40),
        ) {
            let models = ["a", "b", "c"];
            let mut times = ServiceTimes::default();
            for ((held, load), model) in held.iter().zip(models.iter().cycle()) {
                times.measured(model, Duration::from_millis(*held), Duration::from_millis(*load));
            }
            let eta = |position, slots| times.eta("a", loaded, position, slots).unwrap();
            prop_assert!(eta(position + 1, slots) >= eta(position, slots));
            prop_assert!(eta(position, slots + 1) <= eta(position, slots));
            let etas = times.etas(line.iter().map(|m| (models[*m], true)), slots);
            prop_assert!(etas.is_sorted());
            let alike = times.etas(line.iter().map(|_| ("a", loaded)), slots);
            for (n, eta_of_line) in (1..).zip(alike) {
                prop_assert!(eta_of_line.unwrap().abs_diff(eta(n, slots)) < Duration::from_micros(1));
            }
            let (least, most) = (held.iter().map(|h| h.0).min().unwrap(), held.iter().map(|h| h.0).max().unwrap());
            let mean = times.held("a").unwrap().as_secs_f64() * 1e3;
            prop_assert!((least as f64 - 1e-3..=most as f64 + 1e-3).contains(&mean), "{mean}");
        }
    }
}
