//! HistoryActor alone on a store, as the tree runs it: for what an append costs on its way through it.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::task::JoinHandle;

use crate::{
    broadcast::Hubs,
    domain::ids::Epoch,
    history::{Backlog, History, HistoryActor, HistoryMessage, HistoryObservation, Ledger, StorageWatch},
    ports::history_store::{Committed, Fact, HistoryStore, StoreError},
    supervision::ActorSlot,
};

/// How long a caller waits for a commit.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(5);

/// A running HistoryActor. Cheap to clone.
#[derive(Debug, Clone)]
pub struct HistoryDesk {
    history: History,
    actor: ActorRef<HistoryMessage>,
}

impl HistoryDesk {
    /// Starts the actor; the handle is that of its task.
    ///
    /// # Errors
    /// Where ractor can't start it.
    pub async fn start(store: Arc<dyn HistoryStore>) -> Result<(Self, JoinHandle<()>), ActorProcessingErr> {
        let watch = StorageWatch::new(store.clone(), LIMIT);
        let ledger = Ledger::new(store, Arc::new(Hubs::new(Epoch::new())), watch.clone());
        let (actor, task) = Actor::spawn(None, HistoryActor, ledger).await?;
        let slot = ActorSlot::new();
        slot.set(actor.clone());
        Ok((Self { history: History::new(slot, Backlog::default(), watch), actor }, task))
    }

    /// Submits a fact at once; the future says what became of it.
    pub fn append(&self, fact: Fact) -> impl Future<Output = Result<Committed, StoreError>> + Send + use<> {
        self.history.offer(fact).outcome()
    }

    /// Groups begun so far, and the facts in them.
    pub async fn groups(&self) -> (u64, u64) {
        let HistoryObservation { groups, facts, .. } =
            ractor::call!(self.actor, HistoryMessage::Observe).unwrap_or_default();
        (groups, facts)
    }

    /// Ends the actor.
    pub fn stop(&self) {
        self.actor.stop(None);
    }
}
