//! How long turns hold a slot, model by model.
//!
//! A mean follows what was measured, and older turns fade: the first five weigh the same, after that the newest weighs a
//! fifth. A turn that had to load its model holds its slot for that long, too, so the means of the models that take each
//! other's place in memory contain what this costs. How long loading takes is measured apart, for those whose model is
//! not loaded.
//!
//! What follows for those who wait: [`super::outlook`].

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

    /// Whether turns with this model were measured here: what is said of others is a guess, good enough to choose a server and to
    /// count those who wait before somebody, but nothing to tell people who wait for this model.
    #[must_use]
    pub fn knows(&self, model: &str) -> bool {
        self.models.contains_key(model)
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
        assert_eq!((times.held("a"), times.load("a")), (None, None));
    }

    #[test]
    fn loading_is_part_of_what_was_held_and_measured_apart() {
        let mut times = ServiceTimes::default();
        times.measured("a", 12 * S, 10 * S);
        times.measured("a", 4 * S, Duration::ZERO);
        assert_eq!((times.held("a"), times.load("a")), (Some(8 * S), Some(10 * S)));
        assert_eq!(
            (times.held("b"), times.load("b")),
            (Some(8 * S), Some(10 * S)),
            "a guess from the others"
        );
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
        fn a_mean_lies_between_what_was_measured(
            held in prop::collection::vec((0u64..100_000, 0u64..20_000), 1..30),
        ) {
            let mut times = ServiceTimes::default();
            for (held, load) in &held {
                times.measured("a", Duration::from_millis(*held), Duration::from_millis(*load));
            }
            let (least, most) = (held.iter().map(|h| h.0).min().unwrap(), held.iter().map(|h| h.0).max().unwrap());
            let mean = times.held("a").unwrap().as_secs_f64() * 1e3;
            prop_assert!((least as f64 - 1e-3..=most as f64 + 1e-3).contains(&mean), "{mean}");
        }
    }
}
