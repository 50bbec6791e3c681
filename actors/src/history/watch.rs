//! What is known of the database: whether it answers, seen from commits, reads and probes. It is asked with a time
//! limit, and while it is away it is looked for until it is back, by one task however many ask.
//!
//! Invariants: at most one probe is on its way; only a commit or a probe that got through says that it is back (reads may
//! work while writes do not). While it is away the task that looks for it also tries a read, and requests are refused
//! at once where that fails.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    domain::{event::Topic, time::Timestamp},
    ports::history_store::{HistoryStore, StoreError},
};

/// Longest wait of whoever asks whether the database answers; what takes longer counts as away.
const PROMPT: Duration = Duration::from_millis(800);
/// Pause between two looks for a database that is away.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// For so long what was seen last is believed.
const FRESH: Duration = Duration::from_secs(1);
/// How often somebody who waits looks whether it is the database that keeps him waiting.
const RECHECK: Duration = Duration::from_millis(100);

/// What is known of the database. Cheap to clone.
#[derive(Clone)]
pub(crate) struct StorageWatch(Arc<Shared>);

struct Shared {
    store: Arc<dyn HistoryStore>,
    limit: Duration,
    known: Mutex<Known>,
    /// Probes that ended.
    probed: watch::Sender<u64>,
    tasks: TaskTracker,
    stop: CancellationToken,
    runtime: Handle,
}

struct Known {
    /// What it answered last, while it is away.
    away: Option<StoreError>,
    /// Since when it is away, or is there.
    since: Timestamp,
    /// Whether reads get through while it is away, once that was seen: they may while writes do not.
    readable: Option<bool>,
    /// When a write got through, or was begun by a probe.
    asked: Instant,
    /// Since when the running commit has been on its way.
    commit: Option<Instant>,
    /// Since when the running probe has been on its way.
    probe: Option<Instant>,
    /// Whether somebody looks for it.
    looking: bool,
}

impl std::fmt::Debug for StorageWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StorageWatch").finish_non_exhaustive()
    }
}

/// The words for a database that keeps silent.
pub(crate) fn silent(limit: Duration) -> StoreError {
    StoreError::Unavailable(format!("no answer within {:.1} s", limit.as_secs_f64()))
}

impl StorageWatch {
    /// On a store that answers so far. `limit` is the longest wait for a read, and of a caller for a commit. Must be
    /// called within a runtime.
    pub fn new(store: Arc<dyn HistoryStore>, limit: Duration) -> Self {
        let asked = Instant::now();
        let since = Timestamp::now();
        let known =
            Known { away: None, since, readable: None, asked, commit: None, probe: None, looking: false };
        Self(Arc::new(Shared {
            store,
            limit,
            known: Mutex::new(known),
            probed: watch::Sender::new(0),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            runtime: Handle::current(),
        }))
    }

    /// The longest wait for a read, and of a caller for a commit.
    pub fn limit(&self) -> Duration {
        self.0.limit
    }

    /// Whether the database is away, as far as is known now.
    pub fn is_away(&self) -> bool {
        let known = self.0.known.lock();
        let slow = |since: Option<Instant>| since.is_some_and(|since| since.elapsed() >= PROMPT);
        known.away.is_some() || slow(known.commit) || slow(known.probe)
    }

    /// As [`Self::is_away`], for something shown from memory. Has it looked for where nothing was heard of it lately, so that
    /// the next answer knows.
    pub fn is_stale(&self) -> bool {
        if self.0.known.lock().asked.elapsed() >= FRESH {
            self.look();
        }
        self.is_away()
    }

    /// How long the running commit has been on its way, where that is longer than any caller waits.
    pub fn stalled(&self) -> Option<Duration> {
        let since = self.0.known.lock().commit?;
        Some(since.elapsed()).filter(|waited| *waited >= self.0.limit)
    }

    /// A commit begins; it ends where the answer is dropped.
    pub fn commit(&self) -> Committing<'_> {
        self.0.known.lock().commit = Some(Instant::now());
        Committing(self)
    }

    /// What a commit or a probe answered.
    pub fn wrote<T>(&self, result: &Result<T, StoreError>) {
        match result {
            Err(error @ StoreError::Unavailable(_)) => self.lost(error.clone()),
            // What refuses something is there.
            Ok(_) | Err(StoreError::Busy(_) | StoreError::Corrupt(_) | StoreError::Refused(_)) => {
                let mut known = self.0.known.lock();
                known.asked = Instant::now();
                known.readable = None;
                if known.away.take().is_some() {
                    known.since = Timestamp::now();
                    tracing::info!("the database is back");
                }
            }
        }
    }

    fn lost(&self, error: StoreError) {
        {
            let mut known = self.0.known.lock();
            if known.away.is_none() {
                known.since = Timestamp::now();
                tracing::warn!(%error, "the database is away");
            }
            known.away = Some(error);
        }
        self.look();
    }

    /// Since when it is away, or is there.
    pub fn since(&self) -> Timestamp {
        self.0.known.lock().since
    }

    /// Reads with the time limit.
    ///
    /// # Errors
    /// Those of the store, or `Unavailable` where it keeps silent.
    pub async fn read<T>(&self, ask: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.read_within(self.0.limit, ask).await
    }

    /// As [`Self::read`], for a caller who is better told to come again: fails at once while the database is known to be
    /// away, reads included, and within a second where only the first is known.
    ///
    /// # Errors
    /// As `read`.
    pub async fn ask<T>(&self, ask: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.read_within(self.patience()?, ask).await
    }

    /// Refuses at once where [`Self::ask`] would.
    ///
    /// # Errors
    /// `Unavailable`: the database is known to be away.
    pub fn check_readable(&self) -> Result<(), StoreError> {
        self.patience().map(drop)
    }

    fn patience(&self) -> Result<Duration, StoreError> {
        let known = self.0.known.lock();
        match (&known.away, known.readable) {
            (Some(error), Some(false)) => Err(error.clone()),
            (Some(_), None) => Ok(PROMPT.min(self.0.limit)),
            (Some(_), Some(true)) | (None, _) => Ok(self.0.limit),
        }
    }

    /// As [`Self::read`], for whoever can go on without an answer: within a second. What takes longer may just be much to
    /// read: the database is looked for then, and not called away.
    ///
    /// # Errors
    /// As `read`.
    pub async fn glance<T>(&self, ask: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.read_within(PROMPT, ask).await
    }

    async fn read_within<T>(
        &self,
        limit: Duration,
        ask: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let answer = timeout(limit, ask).await;
        let hasty = answer.is_err() && limit < self.0.limit;
        let result = answer.unwrap_or_else(|_| Err(silent(limit)));
        let refused = match &result {
            Err(error @ StoreError::Unavailable(_)) => Some(error),
            _ => None,
        };
        match refused {
            Some(_) if hasty => self.look(),
            Some(error) => self.lost(error.clone()),
            None => {}
        }
        let mut known = self.0.known.lock();
        if known.away.is_some() {
            known.readable = Some(refused.is_none());
        }
        drop(known);
        result
    }

    /// Resolves where a caller has waited for the time limit and the database is why. One that is merely slow is not: its
    /// commit has to be on its way for most of that time.
    pub async fn gave_up(&self) {
        sleep(self.0.limit).await;
        while !self.keeps_waiting() {
            sleep(RECHECK).await;
        }
    }

    fn keeps_waiting(&self) -> bool {
        let known = self.0.known.lock();
        known.away.is_some() || known.commit.is_some_and(|since| since.elapsed() >= self.0.limit / 2)
    }

    /// Whether a write gets through. Answers within a second, whatever the store does.
    ///
    /// # Errors
    /// Those of the store, or `Unavailable` where it keeps silent.
    pub async fn probe(&self) -> Result<(), StoreError> {
        let mut probed = self.0.probed.subscribe();
        self.look();
        if timeout(PROMPT, probed.changed()).await.is_err() {
            self.lost(silent(PROMPT));
        }
        self.0.known.lock().away.clone().map_or(Ok(()), Err)
    }

    /// Sees to it that somebody looks for the database: once, and while it is away until it is back.
    fn look(&self) {
        let mut known = self.0.known.lock();
        if known.looking || self.0.stop.is_cancelled() {
            return;
        }
        known.looking = true;
        let (me, stop) = (self.clone(), self.0.stop.clone());
        let looking = async move {
            // What hangs at the end of the process is let go.
            stop.run_until_cancelled(me.look_for_it()).await;
        };
        self.0.tasks.spawn_on(looking, &self.0.runtime);
    }

    async fn look_for_it(&self) {
        loop {
            self.0.known.lock().probe = Some(Instant::now());
            let limit = self.0.limit;
            let result = timeout(limit, self.0.store.probe()).await.unwrap_or_else(|_| Err(silent(limit)));
            // Before the news: who loses it from here on has to look again.
            {
                let mut known = self.0.known.lock();
                (known.probe, known.asked) = (None, Instant::now());
                known.looking = result.is_err();
            }
            match &result {
                Ok(()) => self.wrote(&result),
                Err(error) => self.lost(error.clone()),
            }
            self.0.probed.send_modify(|count| *count += 1);
            if result.is_ok() {
                return;
            }
            tokio::join!(sleep(LOOK_AGAIN), self.try_to_read());
        }
    }

    /// Finds out whether reads get through while writes do not.
    async fn try_to_read(&self) {
        // What it answers is kept by the read itself.
        let _ = self.glance(self.0.store.head(&Topic::Bots)).await;
    }

    /// Looks for it no more.
    pub async fn close(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

/// A commit on its way.
pub(crate) struct Committing<'a>(&'a StorageWatch);

impl Drop for Committing<'_> {
    fn drop(&mut self) {
        self.0.0.known.lock().commit = None;
    }
}
