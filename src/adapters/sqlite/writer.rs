//! The one thread that writes. It owns the only writing connection, takes groups from a bounded
//! queue and answers each after its COMMIT. A failure or a panic costs the connection, never the
//! thread: the next request opens a new one.

mod change;
mod history;
mod import;
mod outbox;
mod session;
mod turn;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    thread::{self, JoinHandle},
    time::Duration,
};

use deia_actors::ports::history_store::{Committed, Fact, StoreError};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use self::session::Session;

/// Groups that may wait for the thread; callers beyond wait in `commit`.
const QUEUE: usize = 32;

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the thread is asked.
enum Request {
    /// Commit a group.
    Commit(Vec<Fact>, Reply<Vec<Committed>>),
    /// Show that a write gets through.
    Probe(Reply<()>),
    /// Run something on the connection: how tests fill the disk or break the thread.
    #[cfg(test)]
    Run(fn(&rusqlite::Connection), Reply<()>),
}

/// Where and how the thread writes.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// The database file; it exists and has this version's schema.
    pub(super) path: PathBuf,
    /// How long a lock of another process is waited for.
    pub(super) busy_timeout: Duration,
}

/// The thread as the store sees it.
pub(super) struct Writer {
    requests: Mutex<Option<mpsc::Sender<Request>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    /// Starts the thread on a database that it opens first, so that a broken one is refused here.
    pub(super) fn start(target: Target) -> Result<Self, StoreError> {
        let session = Session::open(&target)?;
        let (requests, queue) = mpsc::channel(QUEUE);
        let thread = thread::Builder::new()
            .name("sqlite-writer".into())
            .spawn(move || serve(&target, session, queue))
            .map_err(|e| StoreError::Unavailable(format!("no thread for the writer: {e}")))?;
        Ok(Self { requests: Mutex::new(Some(requests)), thread: Mutex::new(Some(thread)) })
    }

    pub(super) async fn commit(&self, facts: Vec<Fact>) -> Result<Vec<Committed>, StoreError> {
        self.ask(|reply| Request::Commit(facts, reply)).await
    }

    pub(super) async fn probe(&self) -> Result<(), StoreError> {
        self.ask(Request::Probe).await
    }

    #[cfg(test)]
    pub(super) async fn run(&self, what: fn(&rusqlite::Connection)) -> Result<(), StoreError> {
        self.ask(|reply| Request::Run(what, reply)).await
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, StoreError> {
        let closed = || StoreError::Unavailable("the store is closed".into());
        let requests = self.requests.lock().clone().ok_or_else(closed)?;
        let (reply, answer) = oneshot::channel();
        requests.send(request(reply)).await.map_err(|_| closed())?;
        drop(requests);
        // No answer: a defect ended the request in a panic; it was rolled back.
        answer.await.unwrap_or_else(|_| Err(StoreError::Unavailable("the writer broke off".into())))
    }

    /// Lets the thread finish what it was given and waits for it.
    pub(super) async fn stop(&self) {
        if let Some(thread) = self.dismiss() {
            // Panics are caught inside the thread; there is nothing to learn from the result.
            tokio::task::spawn_blocking(|| thread.join().ok()).await.ok();
        }
    }

    fn dismiss(&self) -> Option<JoinHandle<()>> {
        self.requests.lock().take();
        self.thread.lock().take()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(thread) = self.dismiss() {
            thread.join().ok();
        }
    }
}

/// The life of the thread.
fn serve(target: &Target, session: Session, mut queue: mpsc::Receiver<Request>) {
    let mut session = Some(session);
    while let Some(request) = queue.blocking_recv() {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let open = match session.take() {
                Some(open) => Ok(open),
                None => Session::open(target),
            };
            session = answer(open, request);
        }));
        if outcome.is_err() {
            tracing::error!("the sqlite writer panicked; its transaction is rolled back");
            session = None;
        }
    }
}

/// Answers one request; gives the session back where it may be used again.
fn answer(session: Result<Session, StoreError>, request: Request) -> Option<Session> {
    match (session, request) {
        (Ok(mut session), Request::Commit(facts, reply)) => {
            let result = session.commit(facts);
            finish(session, result, reply)
        }
        (Ok(mut session), Request::Probe(reply)) => {
            let result = session.probe();
            finish(session, result, reply)
        }
        #[cfg(test)]
        (Ok(session), Request::Run(what, reply)) => {
            what(session.connection());
            finish(session, Ok(()), reply)
        }
        (Err(error), Request::Commit(_, reply)) => refuse(error, reply),
        (Err(error), Request::Probe(reply)) => refuse(error, reply),
        #[cfg(test)]
        (Err(error), Request::Run(_, reply)) => refuse(error, reply),
    }
}

/// Sends the result. A full disk or a foreign lock leaves the connection as good as it was; after
/// anything else a new one is safer.
fn finish<T>(session: Session, result: rusqlite::Result<T>, reply: Reply<T>) -> Option<Session> {
    let keep = match &result {
        Ok(_) => true,
        Err(error) => matches!(
            error.sqlite_error_code(),
            Some(rusqlite::ErrorCode::DiskFull | rusqlite::ErrorCode::DatabaseBusy)
        ),
    };
    // The caller may have gone away: what is committed is committed.
    reply.send(result.map_err(|e| super::error::of_writer(&e))).ok();
    keep.then_some(session)
}

fn refuse<T>(error: StoreError, reply: Reply<T>) -> Option<Session> {
    reply.send(Err(error)).ok();
    None
}
