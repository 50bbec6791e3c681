//! The circuit breaker of one server: after some failures in a row nobody is sent there for a pause, then one, and his fate
//! decides. Pure: time and chance are handed in.
//!
//! ```text
//! closed ── `failures` in a row ──► open ── pause over, one is let through ──► half open
//!    ▲                               ▲                                        │      │
//!    │                               └──────────── he failed: a longer pause ─┘      │
//!    └──────────────────────────────────────────────────────────── he was answered ──┘
//! ```
//!
//! A failure is what the server is to blame for: no connection, a 5xx, silence, a cut or garbled answer. A 404 or a
//! refusal of the request is an answer. Busy (503, 429) is neither: the slots see to that.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

pub use crate::domain::model::BreakerState;
use crate::{ports::chat_model::ModelError, supervision::tidy_reason};

/// No pause of a server or of a model is ever longer.
const LONGEST: Duration = Duration::from_secs(60);

/// The longest pause where a turn waits `wait` for somebody to ask: a third of it, as a turn that comes at the beginning
/// of a pause must live to see its end, and a failed trial or two after it. From 1 s, the first pause, to 60 s.
#[must_use]
pub fn longest_pause(wait: Duration) -> Duration {
    (wait / 3).clamp(BreakerRules::DEFAULT.pause, LONGEST)
}

/// When a breaker opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerRules {
    /// Failures in a row that open it; at least 1.
    pub failures: u32,
    /// The longest first pause; doubled with every further one until the server answers again.
    pub pause: Duration,
    /// No pause is longer.
    pub longest: Duration,
}

impl BreakerRules {
    /// 5 failures; 1 s, doubling, at most 60 s.
    pub const DEFAULT: Self = Self { failures: 5, pause: Duration::from_secs(1), longest: LONGEST };
}

impl Default for BreakerRules {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What came of a request, for the breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The server works: it answered, if only to refuse.
    Answered,
    /// The server failed.
    Failed,
    /// Says nothing: busy, or the request was given up.
    Unclear,
}

impl Verdict {
    /// What an error says about the server.
    #[must_use]
    pub fn of(error: &ModelError) -> Self {
        match error {
            ModelError::Unreachable(_)
            | ModelError::Failed(_)
            | ModelError::Cut
            | ModelError::Timeout(_)
            | ModelError::Protocol(_) => Self::Failed,
            ModelError::ModelNotFound(_)
            | ModelError::ContextExceeded(_)
            | ModelError::Refused { .. }
            | ModelError::DiskFull => Self::Answered,
            ModelError::Busy(_) => Self::Unclear,
        }
    }
}

/// The permission to send one request. Its verdict counts only in the time of the breaker in which it was given: what
/// began before a pause says nothing about the server after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "each pass needs a verdict"]
pub struct Pass(u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant },
    HalfOpen { probing: bool },
}

/// The breaker of one server.
#[derive(Debug, Clone)]
pub struct Breaker {
    rules: BreakerRules,
    state: State,
    /// Pauses since it was closed last.
    pauses: u32,
    /// Raised whenever earlier passes stop to count.
    time: u64,
    reason: Option<Arc<str>>,
}

impl Breaker {
    /// A closed one.
    #[must_use]
    pub fn new(rules: BreakerRules) -> Self {
        Self { rules, state: State::Closed { failures: 0 }, pauses: 0, time: 0, reason: None }
    }

    /// How it stands.
    #[must_use]
    pub fn state(&self) -> BreakerState {
        match self.state {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// Raised whenever it lets others through than before, the end of a pause apart.
    #[must_use]
    pub fn turns(&self) -> u64 {
        self.time
    }

    /// When the pause ends, while it is open.
    #[must_use]
    pub fn retry_at(&self) -> Option<Instant> {
        match self.state {
            State::Open { until } => Some(until),
            State::Closed { .. } | State::HalfOpen { .. } => None,
        }
    }

    /// Why it is not closed, in one line; what failed last.
    #[must_use]
    pub fn reason(&self) -> Option<&Arc<str>> {
        self.reason.as_ref()
    }

    /// Whether [`admit`](Self::admit) would let somebody through.
    #[must_use]
    pub fn admits(&self, now: Instant) -> bool {
        match self.state {
            State::Closed { .. } => true,
            State::Open { until } => now >= until,
            State::HalfOpen { probing } => !probing,
        }
    }

    /// Lets a request through, or not. After a pause the first one is the probe, and the only one until its verdict.
    pub fn admit(&mut self, now: Instant) -> Option<Pass> {
        if !self.admits(now) {
            return None;
        }
        if !matches!(self.state, State::Closed { .. }) {
            self.turn_to(State::HalfOpen { probing: true });
        }
        Some(Pass(self.time))
    }

    /// What came of a request that was let through. `reason` says what failed; `jitter` is a random number from 0 to 1,
    /// which spreads a pause between half of its length and all of it.
    pub fn verdict(&mut self, pass: Pass, verdict: Verdict, reason: &str, now: Instant, jitter: f64) {
        if pass.0 != self.time {
            return;
        }
        match (self.state, verdict) {
            (State::Closed { .. }, Verdict::Answered) => self.state = State::Closed { failures: 0 },
            (State::Closed { failures }, Verdict::Failed) if failures + 1 < self.rules.failures => {
                self.state = State::Closed { failures: failures + 1 };
            }
            (State::HalfOpen { .. }, Verdict::Answered) => self.reset(),
            (State::Closed { .. } | State::HalfOpen { .. }, Verdict::Failed) => {
                let until = now + self.next_pause(jitter);
                self.reason = Some(tidy_reason(reason));
                self.turn_to(State::Open { until });
            }
            (State::HalfOpen { .. }, Verdict::Unclear) => self.turn_to(State::HalfOpen { probing: false }),
            (State::Closed { .. }, Verdict::Unclear) | (State::Open { .. }, _) => {}
        }
    }

    /// Closes it, as if nothing had happened.
    pub fn reset(&mut self) {
        self.pauses = 0;
        self.reason = None;
        self.turn_to(State::Closed { failures: 0 });
    }

    fn turn_to(&mut self, state: State) {
        self.time += 1;
        self.state = state;
    }

    fn next_pause(&mut self, jitter: f64) -> Duration {
        let doubled = self.rules.pause.saturating_mul(2u32.saturating_pow(self.pauses));
        self.pauses = self.pauses.saturating_add(1);
        let jitter = if jitter.is_nan() { 1.0 } else { jitter.clamp(0.0, 1.0) };
        doubled.min(self.rules.longest).mul_f64(0.5 + jitter / 2.0)
    }
}

#[cfg(test)]
mod tests;
