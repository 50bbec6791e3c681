//! HistoryActor on the store in memory.
#![allow(clippy::unwrap_used)]

use std::{collections::HashSet, sync::Arc};

use proptest::prelude::*;

use super::*;
use crate::{
    broadcast::Hubs,
    domain::{
        event::{EventBody, NewEvent, Topic},
        ids::{Epoch, EventId},
    },
    ports::history_store::Change,
    supervision::ActorSlot,
    testkit::fakes::memory_store::MemoryStore,
};

struct Desk {
    store: MemoryStore,
    history: History,
}

impl Desk {
    async fn new() -> Self {
        let store = MemoryStore::new();
        let slot = ActorSlot::new();
        let ledger = Ledger::new(Arc::new(store.clone()), Arc::new(Hubs::new(Epoch::new())));
        let (actor, _task) = Actor::spawn(None, HistoryActor, ledger).await.unwrap();
        slot.set(actor);
        Self { store, history: History::new(slot, Backlog::default()) }
    }

    /// Submits facts so that they all meet in one group.
    async fn together(&self, facts: Vec<Fact>) -> Vec<CommitResult> {
        self.store.pause();
        let first = self.history.submit(told());
        self.store.wait_for_waiting(1).await;
        let submitted: Vec<_> = facts.into_iter().map(|fact| self.history.submit(fact)).collect();
        self.store.resume();
        first.outcome().await.unwrap();
        let mut outcomes = vec![];
        for one in submitted {
            outcomes.push(one.outcome().await);
        }
        outcomes
    }

    fn stored(&self) -> Vec<EventId> {
        self.store.events().iter().map(|event| event.id).collect()
    }
}

/// A fact that tells something.
fn told() -> Fact {
    let body = EventBody::ActorRestarted { path: "root".into(), reason: String::new(), took_ms: 0.0 };
    Fact::new(Change::None, vec![NewEvent::new(vec![Topic::Tree], &body)])
}

fn id(fact: &Fact) -> EventId {
    fact.events[0].id
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn in_a_group_with_any_bad_facts_exactly_these_fail_and_the_others_keep_their_order(
        bad in proptest::collection::vec(any::<bool>(), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let desk = Desk::new().await;
            let facts: Vec<Fact> = bad.iter().map(|_| told()).collect();
            let marked: HashSet<EventId> =
                facts.iter().zip(&bad).filter(|(_, bad)| **bad).map(|(fact, _)| id(fact)).collect();
            let good: Vec<EventId> =
                facts.iter().map(id).filter(|id| !marked.contains(id)).collect();
            desk.store.refuse(move |fact| marked.contains(&id(fact)));
            let outcomes = desk.together(facts).await;
            for (outcome, bad) in outcomes.iter().zip(&bad) {
                match outcome {
                    Ok(done) => prop_assert!(!bad && done.applied),
                    Err(error) => prop_assert!(*bad && matches!(error, StoreError::Refused(_)), "{error}"),
                }
            }
            prop_assert_eq!(&desk.stored()[1..], good);
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn a_group_that_the_store_is_away_for_fails_as_a_whole_in_one_try() {
    let desk = Desk::new().await;
    desk.store.pause();
    let first = desk.history.submit(told());
    desk.store.wait_for_waiting(1).await;
    let group: Vec<_> = (0..10).map(|_| desk.history.submit(told())).collect();
    // One try for the first fact, one for the ten behind it; a third would be stored.
    desk.store.fail_next(2);
    desk.store.resume();
    assert!(matches!(first.outcome().await, Err(StoreError::Unavailable(_))));
    for one in group {
        assert!(matches!(one.outcome().await, Err(StoreError::Unavailable(_))));
    }
    assert_eq!(desk.stored(), []);
    assert!(desk.history.submit(told()).outcome().await.unwrap().applied);
}
