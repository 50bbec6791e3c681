//! How long to wait before a restart.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// The shape of the delays.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BackoffRules {
    /// Upper bound of the first delay that is not zero.
    pub base: Duration,
    /// By how much the upper bound grows from one restart to the next.
    pub factor: f64,
    /// No delay is longer.
    pub max: Duration,
}

impl BackoffRules {
    /// 100 ms, doubling, at most 10 s.
    pub const DEFAULT: Self =
        Self { base: Duration::from_millis(100), factor: 2.0, max: Duration::from_secs(10) };

    /// The longest possible delay of the restart after `restarts` earlier ones since the last calm time:
    /// zero for the first, then `min(max, base * factor^(restarts - 1))`.
    pub fn upper_bound(&self, restarts: u32) -> Duration {
        let Some(exponent) = restarts.checked_sub(1) else { return Duration::ZERO };
        let grown = self.base.as_secs_f64() * self.factor.powf(f64::from(exponent));
        // `min` also takes care of an infinite product; a factor that is not a number yields `max`.
        let grown = grown.min(self.max.as_secs_f64()).max(0.0);
        Duration::try_from_secs_f64(grown).map_or(self.max, |bound| bound.min(self.max))
    }
}

impl Default for BackoffRules {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The delays of one child. After a calm window without a crash the next restart is immediate again; those after
/// it wait a random time between zero and a growing bound ("full jitter"), so that children that crashed together
/// do not come back together.
#[derive(Clone, Debug)]
pub struct Backoff {
    rules: BackoffRules,
    calm: Duration,
    restarts: u32,
    last: Option<Duration>,
    rng: SmallRng,
}

impl Backoff {
    /// `calm` is how long no crash must happen to start from zero again. Same seed, same delays.
    pub fn new(rules: BackoffRules, calm: Duration, seed: u64) -> Self {
        Self { rules, calm, restarts: 0, last: None, rng: SmallRng::seed_from_u64(seed) }
    }

    /// The delay before the restart after a crash at `now` (monotonic).
    pub fn next(&mut self, now: Duration) -> Duration {
        if self.last.is_some_and(|last| now.saturating_sub(last) > self.calm) {
            self.restarts = 0;
        }
        self.last = Some(now);
        let bound = self.rules.upper_bound(self.restarts);
        self.restarts = self.restarts.saturating_add(1);
        if bound.is_zero() {
            return Duration::ZERO;
        }
        let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.rng.random_range(0..=nanos))
    }

    /// Makes the next restart immediate.
    pub fn reset(&mut self) {
        self.restarts = 0;
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_bound_doubles_from_100_ms_to_10_s() {
        let bounds: Vec<_> =
            [0, 1, 2, 3, 7, 8, 9, u32::MAX].map(|n| BackoffRules::DEFAULT.upper_bound(n).as_millis()).into();
        assert_eq!(bounds, [0, 100, 200, 400, 6_400, 10_000, 10_000, 10_000]);
    }

    #[test]
    fn the_same_seed_gives_the_same_delays_and_another_seed_others() {
        let delays = |seed| {
            let mut backoff = Backoff::new(BackoffRules::DEFAULT, 60_000 * MS, seed);
            (0..20u32).map(|n| backoff.next(n * MS)).collect::<Vec<_>>()
        };
        assert_eq!(delays(7), delays(7));
        assert_ne!(delays(7), delays(8));
    }

    #[test]
    fn a_crash_at_the_end_of_the_calm_window_still_waits_and_one_after_it_does_not() {
        let second = |gap: Duration| {
            let mut backoff = Backoff::new(BackoffRules::DEFAULT, 60_000 * MS, 7);
            backoff.next(MS);
            backoff.next(MS + gap)
        };
        assert!(!second(60_000 * MS).is_zero());
        assert!(second(60_001 * MS).is_zero());
    }

    #[test]
    fn jitter_uses_the_whole_range() {
        let mut backoff = Backoff::new(BackoffRules::DEFAULT, 60_000 * MS, 1);
        let late: Vec<_> = (0..400u32).map(|n| backoff.next(n * MS)).skip(10).collect();
        assert!(late.iter().any(|d| *d < 1_000 * MS), "no short delay");
        assert!(late.iter().any(|d| *d > 9_000 * MS), "no long delay");
    }

    proptest! {
        #[test]
        fn delays_stay_in_bounds_and_start_over_after_a_calm_window(
            seed: u64,
            base_ms in 1u64..500,
            max_ms in 1u64..20_000,
            calm_ms in 0u64..60_000,
            steps in prop::collection::vec((0u64..90_000, prop::bool::weighted(0.05)), 1..60),
        ) {
            let rules = BackoffRules { base: Duration::from_millis(base_ms), factor: 2.0, max: Duration::from_millis(max_ms) };
            let mut backoff = Backoff::new(rules, Duration::from_millis(calm_ms), seed);
            let (mut now, mut last, mut n) = (0u64, None::<u64>, 0u32);
            for (step, reset) in steps {
                now += step;
                if reset { backoff.reset(); last = None; }
                n = if last.is_none_or(|last| now - last > calm_ms) { 0 } else { n + 1 };
                last = Some(now);
                let delay = backoff.next(Duration::from_millis(now));
                if n == 0 {
                    prop_assert_eq!(delay, Duration::ZERO);
                } else {
                    let doubled = base_ms.saturating_mul(1u64.checked_shl(n - 1).unwrap_or(u64::MAX));
                    prop_assert!(delay <= Duration::from_millis(doubled.min(max_ms)), "{delay:?} after {n}");
                }
            }
        }
    }
}
