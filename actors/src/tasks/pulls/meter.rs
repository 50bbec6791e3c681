//! What a person wants to know of a pull: how much of how much, how fast, how long still. Pure: the steps of the server
//! and the time go in, the progress comes out.
//!
//! A server reports layer by layer, and a layer may be there in part from an earlier pull. So sums are over all layers
//! seen so far, and what was there at the first sight of a layer counts as there but not as fetched.

use std::time::Duration;

use crate::{domain::pull::PullProgress, ports::chat_model::PullStep};

/// The rate forgets what is older than a few times this.
const MEMORY: Duration = Duration::from_secs(5);
/// The rate is measured over pieces of at least this: the steps of a server come in bursts.
const PIECE: Duration = Duration::from_millis(250);
/// More layers than any model has.
const LAYERS: usize = 256;
/// A longer time than this is none that anybody waits for.
const ETA_MAX: f64 = 30.0 * 86_400.0;
/// Longest text of a server that is shown, in characters.
const TEXT: usize = 200;

#[derive(Debug)]
struct Layer {
    digest: String,
    total: u64,
    completed: u64,
}

/// The progress of one pull.
#[derive(Debug, Default)]
pub(super) struct Meter {
    layers: Vec<Layer>,
    shown: u64,
    /// When the piece that is being measured began, and what was fetched since.
    piece: Option<(Duration, u64)>,
    /// Bytes and seconds of the pieces so far; the older, the less they weigh.
    window: (f64, f64),
}

impl Meter {
    /// Takes a step in; `now` is the time since the begin of the pull and never goes back.
    pub fn take(&mut self, now: Duration, step: &PullStep) -> PullProgress {
        let digest = step.digest.as_deref().map(short);
        match step.total.filter(|total| *total > 0) {
            Some(total) => {
                let name = digest.clone().unwrap_or_else(|| short(&step.status));
                let fetched = self.count(name, total, step.completed);
                self.measure(now, fetched);
            }
            // Checksums and the like: nothing is being fetched.
            None => (self.piece, self.window) = (None, (0.0, 0.0)),
        }
        let sum = |of: fn(&Layer) -> u64| self.layers.iter().fold(0_u64, |sum, l| sum.saturating_add(of(l)));
        self.shown = self.shown.max(sum(|l| l.completed));
        let total = sum(|l| l.total).max(self.shown);
        let known = !self.layers.is_empty();
        let (bytes, seconds) = self.window;
        let rate = (seconds > 0.0).then(|| bytes / seconds).filter(|rate| *rate >= 1.0);
        let left = rate.map(|rate| (total - self.shown) as f64 / rate).filter(|left| *left <= ETA_MAX);
        PullProgress {
            status: short(&step.status),
            digest,
            completed: known.then_some(self.shown),
            total: known.then_some(total),
            rate_bytes_s: rate.map(|rate| rate.round() as u64),
            eta_s: left.map(|left| left.ceil() as u64),
        }
    }

    /// What is new of a layer.
    fn count(&mut self, digest: String, total: u64, completed: Option<u64>) -> u64 {
        let completed = completed.map(|n| n.min(total));
        if let Some(layer) = self.layers.iter_mut().find(|l| l.digest == digest) {
            let before = layer.completed;
            (layer.total, layer.completed) = (total, completed.unwrap_or(before).min(total));
            return layer.completed.saturating_sub(before);
        }
        if self.layers.len() < LAYERS {
            self.layers.push(Layer { digest, total, completed: completed.unwrap_or(0) });
        }
        0
    }

    fn measure(&mut self, now: Duration, fetched: u64) {
        let (since, so_far) = self.piece.unwrap_or((now, 0));
        let fetched = so_far.saturating_add(fetched);
        let took = now.saturating_sub(since);
        if took < PIECE {
            self.piece = Some((since, fetched));
            return;
        }
        let stays = (-took.as_secs_f64() / MEMORY.as_secs_f64()).exp();
        let (bytes, seconds) = self.window;
        self.window = (bytes * stays + fetched as f64, seconds * stays + took.as_secs_f64());
        self.piece = Some((now, 0));
    }
}

/// A server's text as it is shown.
fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(TEXT).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MB: u64 = 1_000_000;

    fn layer(digest: &str, total: u64, completed: Option<u64>) -> PullStep {
        PullStep {
            status: format!("pulling {digest}"),
            digest: Some(digest.into()),
            total: Some(total),
            completed,
        }
    }

    fn words(status: &str) -> PullStep {
        PullStep { status: status.into(), ..PullStep::default() }
    }

    /// Feeds one layer at a steady rate, ten steps a second, and answers the last progress.
    fn steady(
        meter: &mut Meter,
        from: Duration,
        seconds: u64,
        begin: u64,
        rate: u64,
        total: u64,
    ) -> PullProgress {
        let mut last = PullProgress::default();
        for tenth in 0..=seconds * 10 {
            let now = from + Duration::from_millis(tenth * 100);
            last = meter.take(now, &layer("a", total, Some(begin + tenth * rate / 10)));
        }
        last
    }

    #[test]
    fn a_steady_download_shows_its_rate_and_what_is_left_of_it() {
        let mut meter = Meter::default();
        let first = meter.take(Duration::ZERO, &words("pulling manifest"));
        assert_eq!((first.completed, first.total, first.eta_s), (None, None, None));
        let seen = steady(&mut meter, Duration::ZERO, 10, 0, 20 * MB, 1000 * MB);
        assert_eq!((seen.completed, seen.total), (Some(200 * MB), Some(1000 * MB)));
        assert_eq!((seen.rate_bytes_s, seen.eta_s), (Some(20 * MB), Some(40)));
    }

    #[test]
    fn a_slow_begin_is_soon_forgotten() {
        let mut meter = Meter::default();
        steady(&mut meter, Duration::ZERO, 2, 0, 0, 1000 * MB);
        let seen = steady(&mut meter, Duration::from_secs(2), 4, 0, 10 * MB, 1000 * MB);
        assert!(seen.rate_bytes_s.is_some_and(|rate| rate > 7 * MB), "{seen:?}");
        let later = steady(&mut meter, Duration::from_secs(6), 10, 40 * MB, 10 * MB, 1000 * MB);
        assert!(later.rate_bytes_s.is_some_and(|rate| rate > 9_500_000), "{later:?}");
    }

    #[test]
    fn what_an_earlier_pull_left_counts_as_there_and_not_as_fast() {
        let mut meter = Meter::default();
        let seen = steady(&mut meter, Duration::ZERO, 2, 900 * MB, 10 * MB, 1000 * MB);
        assert_eq!(seen.completed, Some(920 * MB));
        assert_eq!((seen.rate_bytes_s, seen.eta_s), (Some(10 * MB), Some(8)));
    }

    #[test]
    fn layers_add_up_and_a_whole_one_stays_in_the_sum() {
        let mut meter = Meter::default();
        steady(&mut meter, Duration::ZERO, 1, 0, 10 * MB, 10 * MB);
        let seen = meter.take(Duration::from_secs(2), &layer("b", 2 * MB, None));
        assert_eq!((seen.completed, seen.total), (Some(10 * MB), Some(12 * MB)));
        let seen = meter.take(Duration::from_secs(3), &words("verifying sha256 digest"));
        assert_eq!((seen.completed, seen.total, seen.rate_bytes_s), (Some(10 * MB), Some(12 * MB), None));
    }

    #[test]
    fn a_download_that_stands_still_slows_down_to_no_promise() {
        let mut meter = Meter::default();
        steady(&mut meter, Duration::ZERO, 5, 0, 10 * MB, 1000 * MB);
        let slower = steady(&mut meter, Duration::from_secs(5), 5, 50 * MB, 0, 1000 * MB);
        assert!(slower.rate_bytes_s.is_some_and(|rate| rate < 5 * MB), "{slower:?}");
        let still = steady(&mut meter, Duration::from_secs(10), 120, 50 * MB, 0, 1000 * MB);
        assert_eq!((still.rate_bytes_s, still.eta_s), (None, None));
    }

    #[test]
    fn the_words_of_a_server_are_cut_to_a_line() {
        let seen = Meter::default().take(Duration::ZERO, &words(&"a\nb\u{1b}".repeat(1000)));
        assert_eq!(seen.status.len(), TEXT);
        assert!(!seen.status.chars().any(char::is_control));
    }

    proptest! {
        /// Whatever a server says, lies included, the figures stay figures.
        #[test]
        fn completed_never_falls_nor_exceeds_the_total_and_rates_are_finite(
            steps in proptest::collection::vec(
                (0_u64..3_000, 0_u8..6, proptest::option::of(any::<u64>()), proptest::option::of(any::<u64>())), 0..80)
        ) {
            let (mut meter, mut now, mut before) = (Meter::default(), Duration::ZERO, 0);
            for (pause, digest, total, completed) in steps {
                now += Duration::from_millis(pause);
                let step = PullStep { status: "s".into(), digest: Some(digest.to_string()), total, completed };
                let seen = meter.take(now, &step);
                prop_assert_eq!(seen.completed.is_some(), seen.total.is_some());
                if let (Some(completed), Some(total)) = (seen.completed, seen.total) {
                    prop_assert!(completed <= total && completed >= before);
                    before = completed;
                }
                prop_assert!(seen.eta_s.is_none() || seen.rate_bytes_s.is_some_and(|rate| rate >= 1));
                prop_assert!(seen.eta_s.is_none_or(|eta| eta <= 30 * 86_400));
            }
        }

        /// At any steady rate the time promised is the time that it takes, within a tenth and a second.
        #[test]
        fn a_steady_rate_is_told_as_it_is(rate in 10_000_u64..1_000_000_000, seconds in 30_u64..3_600) {
            let total = rate * seconds;
            let seen = steady(&mut Meter::default(), Duration::ZERO, 10, 0, rate, total);
            let eta = seen.eta_s.unwrap_or(0) as f64;
            let truth = (seconds - 10) as f64;
            prop_assert!((eta - truth).abs() <= truth / 10.0 + 1.0, "{} for {}", eta, truth);
        }
    }
}
