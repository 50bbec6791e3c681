//! Committing and publishing, apart from the actor: what it shares with its tasks and successors. A group is one
//! transaction; where one fact spoils it, its halves are tried until that fact stands alone.

use std::sync::Arc;

use metrics::counter;
use tokio_util::task::TaskTracker;

use super::{Append, StorageWatch};
use crate::{
    broadcast::Hubs,
    domain::event::TurnEnd,
    metrics::TURNS,
    ports::history_store::{Change, Committed, HistoryStore, StoreError},
};

/// What commits and publishes.
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    shared: Arc<LedgerShared>,
}

struct LedgerShared {
    store: Arc<dyn HistoryStore>,
    hubs: Arc<Hubs>,
    watch: StorageWatch,
    /// Held from the begin of a commit until its events are published: the order of one is that of the other.
    order: tokio::sync::Mutex<()>,
    tasks: TaskTracker,
}

impl std::fmt::Debug for LedgerShared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").finish_non_exhaustive()
    }
}

impl Ledger {
    pub fn new(store: Arc<dyn HistoryStore>, hubs: Arc<Hubs>, watch: StorageWatch) -> Self {
        let order = tokio::sync::Mutex::new(());
        Self { shared: Arc::new(LedgerShared { store, hubs, watch, order, tasks: TaskTracker::new() }) }
    }

    /// Whether a group that has begun is not decided yet.
    pub(super) fn is_busy(&self) -> bool {
        !self.shared.tasks.is_empty()
    }

    /// Waits until every group that has begun is decided.
    pub(super) async fn settled(&self) {
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
        self.shared.tasks.reopen();
    }

    /// Commits a group beside the mailbox; drops `ended` once it is decided.
    pub(super) fn begin<T: Send + 'static>(&self, group: Vec<Append>, ended: T) {
        let ledger = self.clone();
        self.shared.tasks.spawn(async move {
            ledger.commit(group).await;
            drop(ended);
        });
    }

    /// Decides every fact of a group, in order. A part that the store refuses for its content is tried in halves,
    /// so that the rest of it is stored; where the store is away the rest fails as a whole.
    async fn commit(&self, group: Vec<Append>) {
        let _order = self.shared.order.lock().await;
        // Parts that are not decided yet, the first one last.
        let mut parts = vec![group];
        while let Some(mut part) = parts.pop() {
            let facts = part.iter().map(|a| a.fact.fact.clone()).collect();
            let running = self.shared.watch.commit();
            let result = self.shared.store.commit(facts).await;
            drop(running);
            self.shared.watch.wrote(&result);
            match result {
                Ok(committed) => self.publish(part, committed),
                Err(StoreError::Refused(_) | StoreError::Corrupt(_)) if part.len() > 1 => {
                    parts.push(part.split_off(part.len() / 2));
                    parts.push(part);
                }
                Err(error @ StoreError::Unavailable(_)) => {
                    let rest: Vec<_> = parts.drain(..).rev().flatten().collect();
                    // That the database is away is told once, by the watch.
                    tracing::debug!(%error, facts = part.len() + rest.len(), "commit failed");
                    part.into_iter().chain(rest).for_each(|append| append.answer(Err(error.clone())));
                }
                Err(error) => {
                    tracing::error!(%error, "the database does not take a fact");
                    part.into_iter().for_each(|append| append.answer(Err(error.clone())));
                }
            }
        }
    }

    fn publish(&self, part: Vec<Append>, committed: Vec<Committed>) {
        let hubs = &self.shared.hubs;
        if committed.iter().any(|done| done.deleted > 0) {
            // Their texts are out of the record's events; so they are out of memory.
            hubs.forget_recent();
        }
        for (append, mut done) in part.into_iter().zip(committed) {
            hubs.publish(std::mem::take(&mut done.events));
            if done.applied
                && let Change::FinishTurn { turn, reply, .. } = &append.fact.fact.change
            {
                counter!(TURNS.name, "state" => turn.state.as_str()).increment(1);
                hubs.tell_end(TurnEnd { turn: turn.clone(), reply: Some(reply.clone()) });
            }
            append.answer(Ok(done));
        }
    }
}
