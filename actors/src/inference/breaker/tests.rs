//! What a breaker does, and never does.

use proptest::prelude::*;

use super::*;
use crate::ports::chat_model::Wait;

const MS: Duration = Duration::from_millis(1);
const RULES: BreakerRules =
    BreakerRules { failures: 3, pause: Duration::from_secs(1), longest: Duration::from_secs(4) };

fn fail(breaker: &mut Breaker, now: Instant, jitter: f64) {
    let pass = breaker.admit(now).unwrap();
    breaker.verdict(pass, Verdict::Failed, "connection refused", now, jitter);
}

fn open(now: Instant) -> Breaker {
    let mut breaker = Breaker::new(RULES);
    (0..3).for_each(|_| fail(&mut breaker, now, 1.0));
    breaker
}

#[test]
fn only_failures_in_a_row_open_it_and_it_says_why() {
    let (mut breaker, now) = (Breaker::new(RULES), Instant::now());
    for verdict in [
        Verdict::Failed,
        Verdict::Failed,
        Verdict::Answered,
        Verdict::Failed,
        Verdict::Unclear,
        Verdict::Failed,
    ] {
        let pass = breaker.admit(now).unwrap();
        breaker.verdict(pass, verdict, "x", now, 0.0);
    }
    assert_eq!((breaker.state(), breaker.reason()), (BreakerState::Closed, None));
    fail(&mut breaker, now, 0.0);
    assert_eq!((breaker.state(), breaker.retry_at()), (BreakerState::Open, Some(now + 500 * MS)));
    assert_eq!(breaker.reason().map(|r| &**r), Some("connection refused"));
}

#[test]
fn after_the_pause_one_is_let_through_and_his_answer_closes_it() {
    let now = Instant::now();
    let mut breaker = open(now);
    assert_eq!(breaker.admit(now + 999 * MS), None);
    let probe = breaker.admit(now + 1000 * MS).unwrap();
    assert_eq!((breaker.state(), breaker.admit(now + 9999 * MS)), (BreakerState::HalfOpen, None));
    breaker.verdict(probe, Verdict::Answered, "", now, 0.0);
    assert_eq!((breaker.state(), breaker.reason()), (BreakerState::Closed, None));
}

#[test]
fn pauses_double_up_to_the_longest_and_begin_anew_after_an_answer() {
    let start = Instant::now();
    let (mut breaker, mut now) = (open(start), start);
    for expected in [1000, 2000, 4000, 4000] {
        let until = breaker.retry_at().unwrap();
        assert_eq!(until - now, expected * MS);
        now = until;
        fail(&mut breaker, now, 1.0);
    }
    now = breaker.retry_at().unwrap();
    let probe = breaker.admit(now).unwrap();
    breaker.verdict(probe, Verdict::Answered, "", now, 1.0);
    (0..3).for_each(|_| fail(&mut breaker, now, 1.0));
    assert_eq!(breaker.retry_at(), Some(now + 1000 * MS));
}

#[test]
fn a_probe_that_was_given_up_makes_room_for_another() {
    let now = Instant::now();
    let mut breaker = open(now);
    let probe = breaker.admit(now + RULES.pause).unwrap();
    breaker.verdict(probe, Verdict::Unclear, "", now, 0.0);
    let second = breaker.admit(now + RULES.pause).unwrap();
    breaker.verdict(probe, Verdict::Answered, "", now, 0.0);
    assert_eq!(breaker.state(), BreakerState::HalfOpen, "the first one has no say any more");
    breaker.verdict(second, Verdict::Answered, "", now, 0.0);
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[test]
fn only_what_the_server_is_to_blame_for_is_a_failure() {
    use ModelError as E;
    let words = String::new;
    let failures = [
        E::Unreachable(words()),
        E::Failed(words()),
        E::Cut,
        E::Timeout(Wait::FirstByte),
        E::Timeout(Wait::Idle),
        E::Protocol(words()),
    ];
    assert!(failures.iter().all(|error| Verdict::of(error) == Verdict::Failed));
    let refused = E::Refused { status: 400, message: words() };
    let answers = [E::ModelNotFound(words()), E::ContextExceeded(words()), refused];
    assert!(answers.iter().all(|error| Verdict::of(error) == Verdict::Answered));
    assert_eq!(Verdict::of(&E::Busy(words())), Verdict::Unclear);
}

#[test]
fn a_turn_that_comes_at_the_beginning_of_a_pause_lives_to_see_its_end() {
    for (wait, longest) in [(0, 1), (3, 1), (9, 3), (30, 10), (180, 60), (86_400, 60)] {
        assert_eq!(longest_pause(Duration::from_secs(wait)), Duration::from_secs(longest), "{wait}");
    }
}

proptest! {
    #[test]
    fn it_goes_only_the_ways_that_are_drawn_and_lets_one_probe_through_at_a_time(
        steps in prop::collection::vec((0u8..4, any::<prop::sample::Index>(), 0u64..3000, any::<f64>()), 0..200),
    ) {
        use BreakerState as S;
        let (mut breaker, mut now) = (Breaker::new(RULES), Instant::now());
        let mut passes: Vec<Pass> = vec![];
        let mut probe = None;
        let mut in_a_row = 0;
        for (step, which, ms, jitter) in steps {
            now += Duration::from_millis(ms);
            let (before, retry_at) = (breaker.state(), breaker.retry_at());
            let Some(verdict) = [Verdict::Answered, Verdict::Failed, Verdict::Unclear].get(usize::from(step)) else {
                let pass = breaker.admit(now);
                let expected = match before {
                    S::Closed => true,
                    S::Open => retry_at.is_some_and(|at| at <= now),
                    S::HalfOpen => probe.is_none(),
                };
                prop_assert_eq!(pass.is_some(), expected);
                if before != S::Closed && let Some(pass) = pass {
                    probe = Some(pass);
                    prop_assert_eq!(breaker.state(), S::HalfOpen);
                }
                passes.extend(pass);
                continue;
            };
            if passes.is_empty() {
                continue;
            }
            let pass = passes.swap_remove(which.index(passes.len()));
            let counts = pass.0 == breaker.time;
            breaker.verdict(pass, *verdict, "x", now, jitter);
            let legal = match (before, breaker.state()) {
                (S::Closed, S::Open) => counts && *verdict == Verdict::Failed && in_a_row == RULES.failures - 1,
                (S::HalfOpen, S::Open) => probe == Some(pass) && *verdict == Verdict::Failed,
                (S::HalfOpen, S::Closed) => probe == Some(pass) && *verdict == Verdict::Answered,
                (S::Open, S::HalfOpen | S::Closed) | (S::Closed, S::HalfOpen) => false,
                (before, after) => before == after,
            };
            prop_assert!(legal, "{before:?} to {:?} by {verdict:?}", breaker.state());
            if probe == Some(pass) {
                probe = None;
            }
            if before == S::Closed && counts {
                in_a_row = match verdict {
                    Verdict::Failed => in_a_row + 1,
                    Verdict::Answered => 0,
                    Verdict::Unclear => in_a_row,
                };
            }
            if breaker.state() != S::Closed || before != S::Closed {
                in_a_row = 0;
            }
            if before != S::Open && let Some(until) = breaker.retry_at() {
                prop_assert!(until - now >= RULES.pause / 2 && until - now <= RULES.longest);
            }
            prop_assert_eq!(breaker.reason().is_some(), breaker.state() != S::Closed);
        }
    }
}
