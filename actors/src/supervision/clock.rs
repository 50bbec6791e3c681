//! Two clocks read at one moment: the monotonic one decides, the wall clock is only shown.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Monotonic time since the origin of the clock. Every decision about windows and delays uses this.
    pub mono: Duration,
    /// Wall time in microseconds since the Unix epoch; goes into histories, never into decisions.
    pub at_us: i64,
}

impl Now {
    /// A reading for a given monotonic time, with a wall clock that started at the Unix epoch.
    pub fn at(mono: Duration) -> Self {
        Self { mono, at_us: i64::try_from(mono.as_micros()).unwrap_or(i64::MAX) }
    }
}

/// The real clock. Clones share the origin, so their readings can be compared.
///
/// It follows tokio's clock, so tests that pause tokio's time pause this one as well.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: tokio::time::Instant,
}

impl Clock {
    /// A clock whose origin is now.
    #[allow(clippy::new_without_default, reason = "its value depends on when it is made")]
    pub fn new() -> Self {
        Self { origin: tokio::time::Instant::now() }
    }

    /// Reads both clocks.
    pub fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { mono: self.origin.elapsed(), at_us: i64::try_from(wall.as_micros()).unwrap_or(i64::MAX) }
    }
}
