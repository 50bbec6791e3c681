//! The one thread that writes. It owns the only writing connection, takes groups from a bounded
//! queue and answers each after its COMMIT. When nobody asked for a while it takes what was stored into
//! the full-text index. A failure or a panic costs the connection, never the thread: the next request opens
//! a new one.

mod change;
mod ends;
mod history;
mod import;
mod index;
mod keys;
mod mend;
mod outbox;
mod retention;
mod rounds;
mod session;
mod turn;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use deia_actors::ports::{
    history_store::{Committed, Fact, StoreError},
    retention::{Prune, Pruned},
};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use self::session::Session;
use super::quarantine::Quarantine;

/// Groups that may wait for the thread; callers beyond wait in `commit`.
const QUEUE: usize = 32;

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the thread is asked.
enum Request {
    /// Commit a group.
    Commit(Vec<Fact>, Reply<Vec<Committed>>),
    /// Show that a write gets through.
    Probe(Reply<()>),
    /// Delete a piece of what is too old.
    Prune(Prune, u32, Reply<Pruned>),
    /// Delete the events at these positions.
    DeleteEvents(Vec<i64>, Reply<usize>),
    /// Index some messages; answers whether there are more.
    Index(Reply<bool>),
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
    /// Silence after which the thread takes messages into the index.
    pub(super) idle: Duration,
    /// Where rows that can't be read are told.
    pub(super) quarantine: Arc<Quarantine>,
}

/// The thread as the store sees it.
pub(super) struct Writer {
    requests: Mutex<Option<SyncSender<(Request, OwnedSemaphorePermit)>>>,
    /// Places in the queue, so that sending to it never blocks.
    places: Arc<Semaphore>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    /// Starts the thread on a database that it opens first, so that a broken one is refused here.
    pub(super) fn start(target: Target) -> Result<Self, StoreError> {
        let session = Session::open(&target)?;
        let (requests, queue) = sync_channel(QUEUE);
        let thread = thread::Builder::new()
            .name("sqlite-writer".into())
            .spawn(move || serve(&target, session, queue))
            .map_err(|e| StoreError::Unavailable(format!("no thread for the writer: {e}")))?;
        let places = Arc::new(Semaphore::new(QUEUE));
        Ok(Self { requests: Mutex::new(Some(requests)), places, thread: Mutex::new(Some(thread)) })
    }

    pub(super) async fn commit(&self, facts: Vec<Fact>) -> Result<Vec<Committed>, StoreError> {
        self.ask(|reply| Request::Commit(facts, reply)).await
    }

    pub(super) async fn probe(&self) -> Result<(), StoreError> {
        self.ask(Request::Probe).await
    }

    pub(super) async fn prune(&self, what: Prune, limit: u32) -> Result<Pruned, StoreError> {
        self.ask(|reply| Request::Prune(what, limit, reply)).await
    }

    pub(super) async fn delete_events(&self, positions: Vec<i64>) -> Result<usize, StoreError> {
        self.ask(|reply| Request::DeleteEvents(positions, reply)).await
    }

    /// Takes everything that was committed before into the index. Commits go on in between.
    pub(super) async fn index(&self) -> Result<(), StoreError> {
        while self.ask(Request::Index).await? {}
        Ok(())
    }

    #[cfg(test)]
    pub(super) async fn run(&self, what: fn(&rusqlite::Connection)) -> Result<(), StoreError> {
        self.ask(|reply| Request::Run(what, reply)).await
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, StoreError> {
        let closed = || StoreError::Unavailable("the store is closed".into());
        let requests = self.requests.lock().clone().ok_or_else(closed)?;
        let (reply, answer) = oneshot::channel();
        let place = self.places.clone().acquire_owned().await.map_err(|_| closed())?;
        requests.send((request(reply), place)).map_err(|_| closed())?;
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

/// What the thread does next.
enum Next {
    Answer(Request),
    Index,
    End,
}

/// Waits for a request; for ever, where nothing is left to index.
fn next(queue: &Receiver<(Request, OwnedSemaphorePermit)>, behind: Option<Duration>) -> Next {
    // The permit goes here: its place in the queue is free.
    let request = match behind {
        None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
        Some(wait) => queue.recv_timeout(wait),
    };
    match request {
        Ok((request, _)) => Next::Answer(request),
        Err(RecvTimeoutError::Timeout) => Next::Index,
        Err(RecvTimeoutError::Disconnected) => Next::End,
    }
}

/// The life of the thread.
fn serve(target: &Target, session: Session, queue: Receiver<(Request, OwnedSemaphorePermit)>) {
    let mut session = Some(session);
    // How long to wait before indexing; none where there is nothing to index.
    let mut behind = Some(target.idle);
    loop {
        let next = next(&queue, behind);
        let outcome = catch_unwind(AssertUnwindSafe(|| match next {
            Next::End => true,
            Next::Index => {
                behind = session.as_mut().and_then(index_idle);
                false
            }
            Next::Answer(request) => {
                // Also after a search that is given up with half of it done.
                if let Request::Commit(..) | Request::Index(_) = request {
                    behind = Some(target.idle);
                }
                let open = match session.take() {
                    Some(open) => Ok(open),
                    None => Session::open(target),
                };
                session = answer(open, request);
                false
            }
        }));
        match outcome {
            Ok(true) => return,
            Ok(false) => {}
            Err(_) => {
                tracing::error!("the sqlite writer panicked; its transaction is rolled back");
                (session, behind) = (None, None);
            }
        }
    }
}

/// Indexes a slice while nobody asks for anything. What fails here is tried again after the next commit or before the
/// next search.
fn index_idle(session: &mut Session) -> Option<Duration> {
    match session.index() {
        Ok(more) => more.then_some(Duration::ZERO),
        Err(error) => {
            tracing::warn!(%error, "messages could not be indexed");
            None
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
        (Ok(mut session), Request::Prune(what, limit, reply)) => {
            let result = session.prune(what, limit);
            finish(session, result, reply)
        }
        (Ok(mut session), Request::DeleteEvents(positions, reply)) => {
            let result = session.delete_events(&positions);
            finish(session, result, reply)
        }
        (Ok(mut session), Request::Index(reply)) => {
            let result = session.index();
            finish(session, result, reply)
        }
        #[cfg(test)]
        (Ok(session), Request::Run(what, reply)) => {
            what(session.connection());
            finish(session, Ok(()), reply)
        }
        (Err(error), Request::Commit(_, reply)) => refuse(error, reply),
        (Err(error), Request::Probe(reply)) => refuse(error, reply),
        (Err(error), Request::Prune(.., reply)) => refuse(error, reply),
        (Err(error), Request::DeleteEvents(_, reply)) => refuse(error, reply),
        (Err(error), Request::Index(reply)) => refuse(error, reply),
        #[cfg(test)]
        (Err(error), Request::Run(_, reply)) => refuse(error, reply),
    }
}

/// Sends the result. A full disk, a foreign lock or content that is refused leave the connection as good as it was;
/// after anything else a new one is safer.
fn finish<T>(session: Session, result: rusqlite::Result<T>, reply: Reply<T>) -> Option<Session> {
    use rusqlite::ErrorCode::{ConstraintViolation, DatabaseBusy, DiskFull, TooBig, TypeMismatch};
    let harmless = |error: &rusqlite::Error| {
        let code = error.sqlite_error_code();
        code.is_some_and(|c| {
            matches!(c, ConstraintViolation | DatabaseBusy | DiskFull | TooBig | TypeMismatch)
        })
    };
    let keep = result.as_ref().err().is_none_or(harmless);
    // The caller may have gone away: what is committed is committed.
    reply.send(result.map_err(|e| super::error::of_writer(&e))).ok();
    keep.then_some(session)
}

fn refuse<T>(error: StoreError, reply: Reply<T>) -> Option<Session> {
    reply.send(Err(error)).ok();
    None
}
