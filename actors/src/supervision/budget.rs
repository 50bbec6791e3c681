//! What to do after a crash: restart now, restart later, or give up.

use std::time::Duration;

use super::backoff::{Backoff, BackoffRules};
use super::clock::Now;
use super::exit::{Exit, tidy_reason};
use super::history::{RestartEntry, RestartHistory};
use super::intensity::Intensity;

/// How many restarts are too many, and how they are spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RestartRules {
    /// Restarts allowed within the window; the next crash in it gives up.
    pub max: u32,
    /// The window. As long a time without a crash makes the next restart immediate again.
    pub within: Duration,
    /// The delays.
    pub backoff: BackoffRules,
}

impl RestartRules {
    /// `max` restarts in `within`, with the default delays.
    pub const fn new(max: u32, within: Duration) -> Self {
        Self { max, within, backoff: BackoffRules::DEFAULT }
    }
}

/// What follows a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Decision {
    /// Start it again after this long; zero means at once.
    Restart {
        /// The delay.
        after: Duration,
    },
    /// Too many restarts: quarantine the child, or escalate.
    GiveUp,
}

/// The life of one child: its delays, its restarts so far, how it ended last. The window that limits it is given
/// from outside, because siblings under one supervisor share one.
#[derive(Clone, Debug)]
pub struct RestartRecord {
    backoff: Backoff,
    history: RestartHistory,
    restarts: u64,
    last_exit: Option<Exit>,
    down_since: Option<Duration>,
}

impl RestartRecord {
    /// A child that never crashed.
    pub fn new(rules: &RestartRules, seed: u64) -> Self {
        Self {
            backoff: Backoff::new(rules.backoff, rules.within, seed),
            history: RestartHistory::default(),
            restarts: 0,
            last_exit: None,
            down_since: None,
        }
    }

    /// It crashed (or a start failed): counts it in `intensity` and decides.
    pub fn crashed(&mut self, now: Now, exit: Exit, intensity: &mut Intensity) -> Decision {
        if intensity.record(now.mono) {
            self.went_down(now, exit, Duration::ZERO);
            return Decision::GiveUp;
        }
        let after = self.backoff.next(now.mono);
        self.went_down(now, exit, after);
        Decision::Restart { after }
    }

    /// It was stopped on purpose and comes back after `after`: in the history, but not counted as a crash.
    pub fn stopped(&mut self, now: Now, exit: Exit, after: Duration) {
        self.went_down(now, exit, after);
    }

    /// It ended and stays down.
    pub fn ended(&mut self, exit: Exit) {
        self.last_exit = Some(exit);
        self.down_since = None;
    }

    /// It is up. After a restart, how long it was down; None for the first start.
    pub fn up(&mut self, now: Now) -> Option<Duration> {
        let took = now.mono.saturating_sub(self.down_since.take()?);
        self.restarts += 1;
        if let Some(entry) = self.history.last_mut() {
            entry.took_ms = Some(millis(took));
        }
        Some(took)
    }

    /// Makes the next restart immediate. History and counts stay: they tell what happened.
    pub fn reset(&mut self) {
        self.backoff.reset();
    }

    /// How often it came back.
    pub fn restarts(&self) -> u64 {
        self.restarts
    }

    /// How it ended last.
    pub fn last_exit(&self) -> Option<&Exit> {
        self.last_exit.as_ref()
    }

    /// Its last restarts.
    pub fn history(&self) -> &RestartHistory {
        &self.history
    }

    /// Whether it went down and is expected back.
    pub fn is_down(&self) -> bool {
        self.down_since.is_some()
    }

    fn went_down(&mut self, now: Now, exit: Exit, backoff: Duration) {
        self.history.push(RestartEntry {
            at_us: now.at_us,
            reason: tidy_reason(&exit.to_string()),
            took_ms: None,
            backoff_ms: millis(backoff),
        });
        self.last_exit = Some(exit);
        self.down_since = Some(now.mono);
    }
}

/// A [`RestartRecord`] with a window of its own: for children that must not share a fate, such as bots.
#[derive(Clone, Debug)]
pub struct RestartBudget {
    intensity: Intensity,
    record: RestartRecord,
}

impl RestartBudget {
    /// A full budget. Same seed and same clock readings, same decisions.
    pub fn new(rules: RestartRules, seed: u64) -> Self {
        Self { intensity: Intensity::new(rules.max, rules.within), record: RestartRecord::new(&rules, seed) }
    }

    /// It crashed, or a start failed: decides what follows.
    pub fn crashed(&mut self, now: Now, exit: Exit) -> Decision {
        self.record.crashed(now, exit, &mut self.intensity)
    }

    /// It is up; how long it was down, or None for the first start.
    pub fn restarted(&mut self, now: Now) -> Option<Duration> {
        self.record.up(now)
    }

    /// A fresh budget: the window is empty and the next restart immediate. History and counts stay.
    pub fn reset(&mut self) {
        self.intensity.reset();
        self.record.reset();
    }

    /// Restarts that may still happen now.
    pub fn left(&self, now: Now) -> u32 {
        self.intensity.left(now.mono)
    }

    /// The window.
    pub fn intensity(&self) -> &Intensity {
        &self.intensity
    }

    /// How often it came back.
    pub fn restarts(&self) -> u64 {
        self.record.restarts()
    }

    /// Its last restarts.
    pub fn history(&self) -> &RestartHistory {
        self.record.history()
    }

    /// How it ended last.
    pub fn last_exit(&self) -> Option<&Exit> {
        self.record.last_exit()
    }
}

/// Milliseconds with three decimals: restarts often take less than one.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;

    use super::*;

    const MIN: Duration = Duration::from_secs(60);
    const BOT: RestartRules = RestartRules::new(5, MIN);

    fn at_ms(ms: u64) -> Now {
        Now::at(Duration::from_millis(ms))
    }

    #[test]
    fn the_first_restart_is_immediate_and_the_sixth_crash_in_a_minute_gives_up() {
        let mut budget = RestartBudget::new(BOT, 1);
        assert_eq!(
            budget.crashed(at_ms(0), Exit::crashed("boom")),
            Decision::Restart { after: Duration::ZERO }
        );
        for n in 1..5u64 {
            let Decision::Restart { after } = budget.crashed(at_ms(n), Exit::crashed("boom")) else {
                panic!("gave up at crash {n}")
            };
            assert!(after <= Duration::from_millis(100 << (n - 1)), "{after:?}");
        }
        assert_eq!(budget.left(at_ms(5)), 0);
        assert_eq!(budget.crashed(at_ms(5), Exit::crashed("boom")), Decision::GiveUp);
    }

    #[test]
    fn a_reset_refills_the_budget_but_keeps_what_happened() {
        let mut budget = RestartBudget::new(RestartRules::new(0, MIN), 1);
        assert_eq!(budget.crashed(at_ms(0), Exit::killed("killed")), Decision::GiveUp);
        budget.reset();
        assert_eq!((budget.history().len(), budget.last_exit()), (1, Some(&Exit::killed("killed"))));
        let mut budget = RestartBudget::new(RestartRules::new(1, MIN), 1);
        let now = Decision::Restart { after: Duration::ZERO };
        assert_eq!(budget.crashed(at_ms(0), Exit::crashed("a")), now);
        assert_eq!(budget.crashed(at_ms(1), Exit::crashed("b")), Decision::GiveUp);
        budget.reset();
        assert_eq!(budget.left(at_ms(2)), 1);
        assert_eq!(budget.crashed(at_ms(2), Exit::crashed("c")), now);
    }

    #[test]
    fn the_history_tells_when_why_how_long_and_how_put_off() {
        let mut budget = RestartBudget::new(BOT, 1);
        assert_eq!(budget.restarted(at_ms(10)), None, "the first start is no restart");
        let _ = budget.crashed(at_ms(100), Exit::crashed("boom"));
        assert_eq!(budget.history().last().unwrap().took_ms, None);
        assert_eq!(budget.restarted(at_ms(107)), Some(Duration::from_millis(7)));
        let entry = budget.history().last().unwrap();
        assert_eq!(
            (entry.at_us, &*entry.reason, entry.took_ms, entry.backoff_ms),
            (100_000, "boom", Some(7.0), 0.0)
        );
        assert_eq!(budget.restarts(), 1);
    }

    #[test]
    fn a_start_that_fails_leaves_its_entry_open_and_the_next_one_is_completed() {
        let mut budget = RestartBudget::new(BOT, 1);
        let _ = budget.crashed(at_ms(0), Exit::crashed("boom"));
        let _ = budget.crashed(at_ms(2), Exit::start_failed("no disk"));
        budget.restarted(at_ms(50));
        let took: Vec<_> = budget.history().iter().map(|e| e.took_ms).collect();
        assert_eq!((took, budget.restarts()), (vec![None, Some(48.0)], 1));
    }

    #[test]
    fn a_stop_on_purpose_is_told_but_not_charged() {
        let mut window = Intensity::new(BOT.max, BOT.within);
        let mut record = RestartRecord::new(&BOT, 1);
        record.stopped(at_ms(0), Exit::normal("restart of a sibling"), Duration::ZERO);
        assert_eq!(record.up(at_ms(1)), Some(Duration::from_millis(1)));
        assert_eq!((window.left(at_ms(1).mono), record.restarts(), record.history().len()), (5, 1, 1));
        let crash = record.crashed(at_ms(2), Exit::crashed("x"), &mut window);
        assert_eq!(crash, Decision::Restart { after: Duration::ZERO });
    }

    #[derive(Clone, Debug)]
    enum Op {
        Crash,
        Up,
        Reset,
    }

    proptest! {
        #[test]
        fn decisions_agree_with_a_plain_list_of_crashes(
            seed: u64,
            max in 0u32..7,
            within_ms in 0u64..20_000,
            ops in prop::collection::vec(
                (0u64..9_000, prop_oneof![6 => Just(Op::Crash), 3 => Just(Op::Up), 1 => Just(Op::Reset)]), 0..150),
        ) {
            let rules = RestartRules::new(max, Duration::from_millis(within_ms));
            let mut budget = RestartBudget::new(rules, seed);
            let mut twin = budget.clone();
            // The model: every crash since the last reset, those that were granted a restart, and the totals.
            let (mut crashes, mut granted): (Vec<u64>, Vec<u64>) = (vec![], vec![]);
            let (mut total, mut restarts, mut down) = (0u64, 0u64, None::<u64>);
            let mut now = 0;
            for (step, op) in ops {
                now += step;
                match op {
                    Op::Crash => {
                        crashes.push(now);
                        total += 1;
                        down = Some(now);
                        let inside = crashes.iter().filter(|t| now - **t <= within_ms).count();
                        let decision = budget.crashed(at_ms(now), Exit::crashed("x"));
                        prop_assert_eq!(decision, twin.crashed(at_ms(now), Exit::crashed("x")));
                        let Decision::Restart { after } = decision else {
                            prop_assert!(inside > max as usize);
                            continue;
                        };
                        prop_assert!(inside <= max as usize);
                        // How many restarts since the last calm window, counted from the end.
                        let mut ladder = 0;
                        let mut later = now;
                        for earlier in granted.iter().rev() {
                            if later - earlier > within_ms { break }
                            ladder += 1;
                            later = *earlier;
                        }
                        granted.push(now);
                        let bound = if ladder == 0 { 0 } else { (100u64 << (ladder - 1).min(20)).min(10_000) };
                        prop_assert!(after <= Duration::from_millis(bound), "{after:?} > {bound} ms");
                    }
                    Op::Up => {
                        let took = down.take().map(|t| Duration::from_millis(now - t));
                        restarts += u64::from(took.is_some());
                        prop_assert_eq!(budget.restarted(at_ms(now)), took);
                        twin.restarted(at_ms(now));
                    }
                    Op::Reset => { crashes.clear(); granted.clear(); budget.reset(); twin.reset(); }
                }
                let inside = crashes.iter().filter(|t| now - **t <= within_ms).count() as u32;
                prop_assert_eq!(budget.left(at_ms(now)), max.saturating_sub(inside));
                prop_assert_eq!(budget.restarts(), restarts);
                prop_assert_eq!(budget.history().total(), total);
                prop_assert_eq!(budget.history().len() as u64, total.min(100));
            }
        }
    }
}
