//! Who is to blame for a failure: one model of a server, or the server. Pure: time and chance are handed in.
//!
//! No connection is the server's fault. A 5xx, silence, a cut or garbled answer may be that of the one model, too: its file is
//! broken, or it does not fit into memory. So a model that fails some times in a row gets no turns there for a pause, and
//! one that fails again after it for a longer one; the others go on. The server is blamed as well where a second model
//! fails in the same time, or where it has no other model.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::supervision::tidy_reason;

/// Failures in a row that pause a model.
const FAILURES: u32 = 3;
/// The longest first pause; doubled with every further one until the model answers.
const PAUSE: Duration = Duration::from_secs(1);
/// Models that failed within so long of each other failed in the same time. No pause is longer, so a model in one counts.
const SAME_TIME: Duration = Duration::from_secs(60);
/// Models that are remembered; the one whose last failure is oldest makes room.
const MODELS: usize = 64;

/// A model that failed since it answered last.
#[derive(Debug, Clone)]
struct Failing {
    failures: u32,
    pauses: u32,
    until: Option<Instant>,
    last: Instant,
    reason: Arc<str>,
}

/// The failing models of one server.
#[derive(Debug, Clone)]
pub struct ModelPauses {
    longest: Duration,
    failing: HashMap<String, Failing>,
    turns: u64,
}

/// A pause that is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paused {
    /// Which model.
    pub model: String,
    /// Until when.
    pub until: Instant,
    /// What failed last.
    pub reason: Arc<str>,
}

impl ModelPauses {
    /// Nothing failed yet; no pause will be longer than `longest`.
    #[must_use]
    pub fn new(longest: Duration) -> Self {
        Self { longest, failing: HashMap::new(), turns: 0 }
    }

    /// A request for this model failed; true where that begins a pause. What was sent before a pause and fails in it says
    /// nothing new. `jitter` is a random number from 0 to 1, which spreads a pause between half of its length and all of it.
    pub fn failed(&mut self, model: &str, reason: &str, now: Instant, jitter: f64) -> bool {
        if self.is_paused(model, now) {
            return false;
        }
        if !self.failing.contains_key(model) && self.failing.len() >= MODELS {
            let oldest = self.failing.iter().min_by_key(|(_, f)| f.last).map(|(name, _)| name.clone());
            oldest.and_then(|name| self.failing.remove(&name));
        }
        let failing = self.failing.entry(model.to_owned()).or_insert_with(|| Failing {
            failures: 0,
            pauses: 0,
            until: None,
            last: now,
            reason: "".into(),
        });
        failing.failures += 1;
        failing.last = now;
        failing.reason = tidy_reason(reason);
        if failing.failures < FAILURES {
            return false;
        }
        let doubled = PAUSE.saturating_mul(2u32.saturating_pow(failing.pauses)).min(self.longest);
        let jitter = if jitter.is_nan() { 1.0 } else { jitter.clamp(0.0, 1.0) };
        failing.until = Some(now + doubled.mul_f64(0.5 + jitter / 2.0));
        failing.pauses = failing.pauses.saturating_add(1);
        self.turns += 1;
        true
    }

    /// The model answered: nothing is held against it any more.
    pub fn answered(&mut self, model: &str) {
        if self.failing.remove(model).is_some_and(|f| f.until.is_some()) {
            self.turns += 1;
        }
    }

    /// Somebody looked after the server: what failed before counts no more.
    pub fn forgive(&mut self) {
        if !self.failing.is_empty() {
            self.failing.clear();
            self.turns += 1;
        }
    }

    /// The pause of a model that gets no turns now.
    #[must_use]
    pub fn of(&self, model: &str, now: Instant) -> Option<Paused> {
        let failing = self.failing.get(model)?;
        let until = failing.until.filter(|until| now < *until)?;
        Some(Paused { model: model.to_owned(), until, reason: failing.reason.clone() })
    }

    /// Whether the model gets no turns now.
    #[must_use]
    pub fn is_paused(&self, model: &str, now: Instant) -> bool {
        self.of(model, now).is_some()
    }

    /// Models that failed lately and did not answer since.
    #[must_use]
    pub fn failing(&self, now: Instant) -> usize {
        let lately = |f: &&Failing| now.saturating_duration_since(f.last) <= SAME_TIME;
        self.failing.values().filter(lately).count()
    }

    /// The pauses that are on, by model.
    #[must_use]
    pub fn paused(&self, now: Instant) -> Vec<Paused> {
        let mut paused: Vec<_> = self.failing.keys().filter_map(|model| self.of(model, now)).collect();
        paused.sort_by(|a, b| a.model.cmp(&b.model));
        paused
    }

    /// When the next pause ends.
    #[must_use]
    pub fn next_end(&self, now: Instant) -> Option<Instant> {
        self.failing.values().filter_map(|f| f.until).filter(|until| now < *until).min()
    }

    /// Raised whenever a pause begins or is called off.
    #[must_use]
    pub fn turns(&self) -> u64 {
        self.turns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn none() -> ModelPauses {
        ModelPauses::new(60 * S)
    }

    fn fails(pauses: &mut ModelPauses, model: &str, now: Instant) -> bool {
        pauses.failed(model, "500", now, 1.0)
    }

    #[test]
    fn the_third_failure_in_a_row_pauses_a_model_and_an_answer_forgets_them() {
        let (mut pauses, now) = (none(), Instant::now());
        assert!(!fails(&mut pauses, "a", now) && !fails(&mut pauses, "a", now));
        pauses.answered("a");
        assert_eq!([(); 3].map(|()| fails(&mut pauses, "a", now)), [false, false, true]);
        assert!(pauses.is_paused("a", now) && !pauses.is_paused("b", now));
        assert_eq!(pauses.next_end(now), Some(now + S));
        pauses.answered("a");
        assert_eq!((pauses.is_paused("a", now), pauses.turns(), pauses.failing(now)), (false, 2, 0));
    }

    #[test]
    fn one_failure_after_a_pause_makes_the_next_one_twice_as_long_up_to_a_minute() {
        let (mut pauses, mut now) = (none(), Instant::now());
        fails(&mut pauses, "a", now);
        fails(&mut pauses, "a", now);
        let mut lengths = vec![];
        for _ in 0..8 {
            assert!(fails(&mut pauses, "a", now));
            assert!(!fails(&mut pauses, "a", now), "what was on its way says nothing new");
            let end = pauses.next_end(now);
            lengths.extend(end.map(|end| (end - now).as_secs()));
            now = end.unwrap_or(now);
            assert!(!pauses.is_paused("a", now));
        }
        assert_eq!(lengths, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn a_pause_is_spread_between_half_and_all_of_its_length() {
        for (jitter, milliseconds) in [(0.0, 500), (0.5, 750), (1.0, 1000), (f64::NAN, 1000), (7.0, 1000)] {
            let (mut pauses, now) = (none(), Instant::now());
            for _ in 0..3 {
                pauses.failed("a", "", now, jitter);
            }
            assert_eq!(pauses.next_end(now), Some(now + Duration::from_millis(milliseconds)), "{jitter}");
        }
    }

    #[test]
    fn a_model_that_failed_long_ago_does_not_fail_in_the_same_time_as_another_one() {
        let (mut pauses, now) = (none(), Instant::now());
        fails(&mut pauses, "deleted since", now);
        fails(&mut pauses, "a", now + 60 * S);
        assert_eq!(pauses.failing(now + 60 * S), 2);
        fails(&mut pauses, "a", now + 61 * S);
        assert_eq!(pauses.failing(now + 61 * S), 1);
    }

    #[test]
    fn models_without_end_are_not_remembered() {
        let (mut pauses, now) = (none(), Instant::now());
        for n in 0..1000u32 {
            fails(&mut pauses, &format!("m{n}"), now + n * S);
        }
        assert_eq!(pauses.failing.len(), MODELS);
    }
}
