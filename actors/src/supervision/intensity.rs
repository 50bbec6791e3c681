//! Restart intensity: a sliding window over the times of restarts.

use std::collections::VecDeque;
use std::time::Duration;

/// At most `max` restarts within `within`. One more is too many.
///
/// Times are monotonic, since an origin that the caller keeps. A restart leaves the window when it is older than
/// `within`; at exactly that age it still counts. The window never holds more than `max + 1` times.
#[derive(Clone, Debug)]
pub struct Intensity {
    max: u32,
    within: Duration,
    times: VecDeque<Duration>,
}

impl Intensity {
    /// An empty window.
    pub fn new(max: u32, within: Duration) -> Self {
        Self { max, within, times: VecDeque::new() }
    }

    /// Counts one restart; true when it is one too many.
    pub fn record(&mut self, now: Duration) -> bool {
        let expired = self.times.iter().take_while(|at| !self.counts(**at, now)).count();
        self.times.drain(..expired);
        self.times.push_back(now);
        // Past the maximum the oldest can't change any later answer: there are enough younger ones behind it.
        while self.times.len() > self.max as usize + 1 {
            self.times.pop_front();
        }
        self.times.len() > self.max as usize
    }

    /// Restarts that may still happen now.
    pub fn left(&self, now: Duration) -> u32 {
        let used = self.times.iter().filter(|at| self.counts(**at, now)).count();
        self.max.saturating_sub(u32::try_from(used).unwrap_or(u32::MAX))
    }

    /// Forgets all restarts.
    pub fn reset(&mut self) {
        self.times.clear();
    }

    /// Restarts allowed within the window.
    pub fn max(&self) -> u32 {
        self.max
    }

    /// Length of the window.
    pub fn within(&self) -> Duration {
        self.within
    }

    fn counts(&self, at: Duration, now: Duration) -> bool {
        now.saturating_sub(at) <= self.within
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;

    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn the_sixth_restart_within_a_minute_is_too_many() {
        let mut window = Intensity::new(5, 60 * S);
        for n in 0..5 {
            assert!(!window.record(n * S), "restart {n}");
        }
        assert_eq!(window.left(5 * S), 0);
        assert!(window.record(5 * S));
    }

    #[test]
    fn a_restart_counts_up_to_the_end_of_the_window_and_then_comes_back() {
        let mut window = Intensity::new(1, 10 * S);
        assert!(!window.record(S));
        assert_eq!(window.left(11 * S), 0);
        assert_eq!(window.left(11 * S + Duration::from_micros(1)), 1);
    }

    #[test]
    fn no_restart_is_allowed_when_the_maximum_is_zero() {
        assert!(Intensity::new(0, 10 * S).record(S));
    }

    #[derive(Clone, Debug)]
    enum Op {
        Record,
        Reset,
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_plain_list_of_times(
            max in 0u32..8,
            within_ms in 0u64..5_000,
            ops in prop::collection::vec(
                (0u64..2_000, prop_oneof![9 => Just(Op::Record), 1 => Just(Op::Reset)]), 0..80),
        ) {
            let within = Duration::from_millis(within_ms);
            let mut window = Intensity::new(max, within);
            let mut all: Vec<Duration> = Vec::new();
            let mut now = Duration::ZERO;
            for (step_ms, op) in ops {
                now += Duration::from_millis(step_ms);
                match op {
                    Op::Record => {
                        all.push(now);
                        let inside = all.iter().filter(|t| now - **t <= within).count();
                        prop_assert_eq!(window.record(now), inside > max as usize);
                    }
                    Op::Reset => { all.clear(); window.reset(); }
                }
                for later in [now, now + within / 2, now + within, now + within + Duration::from_nanos(1)] {
                    let inside = all.iter().filter(|t| later - **t <= within).count() as u32;
                    prop_assert_eq!(window.left(later), max.saturating_sub(inside));
                }
                prop_assert!(window.times.len() <= max as usize + 1);
            }
        }
    }
}
