//! What the simulator counts: model calls and pulls, open ones, those that the client left, tokens written.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use parking_lot::Mutex;

use serde::Serialize;

/// A reading of the counters; also the answer of `GET /sim/stats`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SimStats {
    /// Calls of `/api/chat`, `/api/generate`, `/api/embed` and `/api/pull` since the start, refused ones included.
    pub requests: u64,
    /// Calls that are being answered now.
    pub open: u64,
    /// Calls whose client went away before the end of the answer.
    pub closed_early: u64,
    /// Tokens written (content and thinking).
    pub tokens: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    requests: AtomicU64,
    open: AtomicU64,
    closed_early: AtomicU64,
    tokens: AtomicU64,
    /// When a client went away last.
    left: Mutex<Option<Instant>>,
}

impl Counters {
    /// When a client last went away before the end of its answer.
    pub(crate) fn left(&self) -> Option<Instant> {
        *self.left.lock()
    }

    pub(crate) fn read(&self) -> SimStats {
        SimStats {
            requests: self.requests.load(Relaxed),
            open: self.open.load(Relaxed),
            closed_early: self.closed_early.load(Relaxed),
            tokens: self.tokens.load(Relaxed),
        }
    }

    /// Counts one call and hands out the guard that follows it to its end.
    pub(crate) fn begin(self: &Arc<Self>) -> OpenCall {
        self.requests.fetch_add(1, Relaxed);
        self.open.fetch_add(1, Relaxed);
        OpenCall { counters: Arc::clone(self), ended: false }
    }
}

/// One call in progress. Dropped before [`OpenCall::end`], it counts as closed early: hyper drops the answer as soon as
/// the client's end of the connection is closed.
#[derive(Debug)]
pub(crate) struct OpenCall {
    counters: Arc<Counters>,
    ended: bool,
}

impl OpenCall {
    pub(crate) fn tokens(&self, n: u64) {
        self.counters.tokens.fetch_add(n, Relaxed);
    }

    /// The simulator said all that it wanted to say.
    pub(crate) fn end(&mut self) {
        self.ended = true;
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.counters.open.fetch_sub(1, Relaxed);
        if !self.ended {
            *self.counters.left.lock() = Some(Instant::now());
            self.counters.closed_early.fetch_add(1, Relaxed);
        }
    }
}
