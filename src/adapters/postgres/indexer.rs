//! The task that fills the full-text index: when asked before a search, and by itself once nobody wrote for a while. It has
//! a task of its own, so that a caller who goes away in the middle costs nothing.

use std::{sync::Arc, time::Duration};

use deia_actors::ports::history_store::StoreError;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::JoinHandle,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::writer::Writer;

/// Silence after which messages are taken in.
const IDLE: Duration = Duration::from_secs(2);
/// Searches that may wait for it; callers beyond wait in line.
const QUEUE: usize = 32;

type Request = oneshot::Sender<Result<(), StoreError>>;

/// The task as the store sees it.
pub(super) struct Indexer {
    requests: mpsc::Sender<Request>,
    written: Arc<Notify>,
    closing: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Indexer {
    /// Starts the task.
    pub(super) fn start(writer: Arc<Writer>) -> Self {
        let (requests, queue) = mpsc::channel(QUEUE);
        let (written, closing) = (Arc::new(Notify::new()), CancellationToken::new());
        let task = Task { writer, queue, written: written.clone(), closing: closing.clone() };
        let task = Mutex::new(Some(tokio::spawn(task.run())));
        Self { requests, written, closing, task }
    }

    /// Something was written: it is taken in later.
    pub(super) fn written(&self) {
        self.written.notify_one();
    }

    /// Takes in everything that was committed before.
    pub(super) async fn index(&self) -> Result<(), StoreError> {
        let closed = || StoreError::Unavailable("the store is closed".into());
        let (reply, answer) = oneshot::channel();
        self.requests.send(reply).await.map_err(|_| closed())?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Waits for the running slice and ends the task.
    pub(super) async fn close(&self) {
        self.closing.cancel();
        let task = self.task.lock().take();
        if let Some(task) = task {
            // A panic in it was told by its hook.
            task.await.ok();
        }
    }
}

impl Drop for Indexer {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

struct Task {
    writer: Arc<Writer>,
    queue: mpsc::Receiver<Request>,
    written: Arc<Notify>,
    closing: CancellationToken,
}

impl Task {
    async fn run(mut self) {
        // When to take something in unasked; none where there is nothing.
        let mut due = Some(Instant::now() + IDLE);
        loop {
            let idle = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.closing.cancelled() => return,
                request = self.queue.recv() => match request {
                    Some(reply) => drop(reply.send(self.index().await)),
                    None => return,
                },
                () = self.written.notified() => due = Some(Instant::now() + IDLE),
                () = idle => due = self.index_idle().await,
            }
        }
    }

    async fn index(&self) -> Result<(), StoreError> {
        while self.writer.index().await? {
            if self.closing.is_cancelled() {
                return Err(StoreError::Unavailable("the store is closed".into()));
            }
        }
        Ok(())
    }

    /// What fails here is tried again after the next commit or before the next search.
    async fn index_idle(&self) -> Option<Instant> {
        match self.writer.index().await {
            Ok(more) => more.then(Instant::now),
            Err(error) => {
                tracing::warn!(%error, "messages could not be indexed");
                None
            }
        }
    }
}
