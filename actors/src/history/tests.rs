//! HistoryActor on the store in memory.
#![allow(clippy::unwrap_used)]

use std::{collections::HashSet, sync::Arc, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::{
    broadcast::Hubs,
    domain::{
        event::{EventBody, NewEvent, Topic},
        ids::{Epoch, EventId},
    },
    ports::history_store::{Change, Fact, HistoryStore},
    supervision::ActorSlot,
    testkit::fakes::memory_store::{MemoryStore, Outage},
};

/// As long as callers wait.
const LIMIT: Duration = Duration::from_secs(5);

struct Desk {
    store: MemoryStore,
    ledger: Ledger,
    slot: ActorSlot<HistoryMessage>,
    history: History,
}

impl Desk {
    async fn new() -> Self {
        let store = MemoryStore::new();
        let slot = ActorSlot::new();
        let watch = StorageWatch::new(Arc::new(store.clone()), LIMIT);
        let ledger = Ledger::new(Arc::new(store.clone()), Arc::new(Hubs::new(Epoch::new())), watch.clone());
        let (actor, _task) = Actor::spawn(None, HistoryActor, ledger.clone()).await.unwrap();
        slot.set(actor);
        Self { store, ledger, history: History::new(slot.clone(), Backlog::default(), watch), slot }
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
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
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
async fn callers_that_come_together_share_every_group_and_a_caller_alone_waits_for_nobody() {
    let desk = Desk::new().await;
    let callers: Vec<_> = (0..10)
        .map(|_| {
            let history = desk.history.clone();
            tokio::spawn(async move {
                for _ in 0..5 {
                    assert!(history.offer(told()).outcome().await.unwrap().applied);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    let observe = || async { ractor::call!(desk.slot.get().unwrap(), HistoryMessage::Observe).unwrap() };
    assert_eq!(observe().await, HistoryObservation { waiting: 0, groups: 5, facts: 50 });
    desk.history.offer(told()).outcome().await.unwrap();
    assert_eq!(observe().await, HistoryObservation { waiting: 0, groups: 6, facts: 51 });
    desk.history.barrier().await;
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

#[tokio::test(start_paused = true)]
async fn while_the_store_is_silent_new_facts_are_refused_at_once_and_kept_ones_are_stored_when_it_is_back() {
    let desk = Desk::new().await;
    desk.store.go_away(Outage::Silent);
    let first = desk.history.offer(told());
    desk.history.watch().gave_up().await;
    let refused = desk.history.offer(told());
    let asked = tokio::time::Instant::now();
    assert!(matches!(refused.outcome().await, Err(StoreError::Unavailable(_))));
    assert_eq!(asked.elapsed(), Duration::ZERO);
    let kept = desk.history.submit(told());
    assert_eq!(desk.history.backlog().len(), 2);
    desk.store.come_back();
    assert!(first.outcome().await.unwrap().applied);
    assert!(kept.outcome().await.unwrap().applied);
    assert_eq!(desk.stored().len(), 2);
    assert_eq!(desk.history.backlog().len(), 0);
    assert!(desk.history.offer(told()).outcome().await.unwrap().applied);
}

#[tokio::test(start_paused = true)]
async fn no_more_than_a_bounded_number_of_facts_waits() {
    let desk = Desk::new().await;
    desk.store.pause();
    let waiting: Vec<_> = (0..backlog::MAX_FACTS).map(|_| desk.history.offer(told())).collect();
    let refused = desk.history.offer(told()).outcome().await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))));
    desk.history.note(told());
    let end = desk.history.submit(told());
    desk.store.resume();
    for one in waiting {
        assert!(one.outcome().await.unwrap().applied);
    }
    assert!(end.outcome().await.unwrap().applied, "what has begun is kept");
    let stored = desk.stored().len();
    assert_eq!(stored, usize::try_from(backlog::MAX_FACTS).unwrap() + 1, "news are dropped");
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_dies_in_an_outage_has_a_successor_at_once_and_nothing_is_stored_twice() {
    let desk = Desk::new().await;
    desk.store.go_away(Outage::Silent);
    let before = desk.history.submit(told());
    tokio::task::yield_now().await;
    desk.slot.get().unwrap().kill();
    let (next, _task) = Actor::spawn(None, HistoryActor, desk.ledger.clone()).await.unwrap();
    desk.slot.set(next);
    let behind = desk.history.submit(told());
    let history = desk.history.clone();
    let barrier = tokio::spawn(async move { history.barrier().await });
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(!barrier.is_finished(), "the group of the one before is not decided");
    desk.store.come_back();
    barrier.await.unwrap();
    // The successor's answer to the repeated fact says that it was there.
    before.outcome().await.unwrap();
    assert!(behind.outcome().await.unwrap().applied);
    assert_eq!(desk.stored().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_silent_database_is_known_to_be_away_within_a_second_and_found_again_by_itself() {
    let desk = Desk::new().await;
    let watch = desk.history.watch();
    watch.probe().await.unwrap();
    assert!(!watch.is_stale());
    let there = watch.since();
    desk.store.go_away(Outage::Silent);
    let asked = tokio::time::Instant::now();
    assert!(matches!(watch.probe().await, Err(StoreError::Unavailable(_))));
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    assert!(watch.is_stale());
    let away = watch.since();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(watch.is_stale());
    assert!(away > there && watch.since() == away, "since it went away, not since the last look");
    let asked = tokio::time::Instant::now();
    assert!(watch.probe().await.is_err());
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    desk.store.come_back();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!watch.is_away(), "nobody asked");
    let back = watch.since();
    watch.probe().await.unwrap();
    assert!(back > away && watch.since() == back);
    watch.close().await;
}

#[tokio::test(start_paused = true)]
async fn whoever_shows_something_from_memory_finds_out_that_the_database_went_away() {
    let desk = Desk::new().await;
    let watch = desk.history.watch();
    for outage in [Outage::Refusing, Outage::Silent, Outage::Slow(Duration::from_secs(3))] {
        desk.store.go_away(outage);
        tokio::time::sleep(Duration::from_secs(5)).await;
        watch.is_stale();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(watch.is_stale(), "{outage:?}");
        desk.store.come_back();
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert!(!watch.is_away(), "{outage:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_has_no_time_for_a_long_read_does_not_call_the_database_away_for_everybody() {
    let desk = Desk::new().await;
    let watch = desk.history.watch();
    let long = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok(())
    };
    assert!(matches!(watch.glance(long).await, Err(StoreError::Unavailable(_))));
    assert!(!watch.is_away() && watch.check_readable().is_ok());
    watch.ask(desk.store.head(&Topic::Bots)).await.unwrap();
    // One that is away is found out all the same.
    desk.store.go_away(Outage::Silent);
    assert!(watch.glance(desk.store.head(&Topic::Bots)).await.is_err());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(watch.is_away());
    tokio::time::sleep(LIMIT).await;
    assert!(watch.check_readable().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_read_that_is_not_answered_ends_in_time() {
    let desk = Desk::new().await;
    desk.store.go_away(Outage::Silent);
    let asked = tokio::time::Instant::now();
    let read = desk.history.watch().read(desk.store.head(&Topic::Bots)).await;
    assert!(matches!(read, Err(StoreError::Unavailable(_))));
    assert_eq!(asked.elapsed(), LIMIT);
}

#[tokio::test(start_paused = true)]
async fn requests_are_refused_at_once_while_reads_are_known_to_fail_and_go_on_when_it_is_back() {
    let desk = Desk::new().await;
    let watch = desk.history.watch();
    let ask = || watch.ask(desk.store.head(&Topic::Bots));
    for outage in [Outage::Refusing, Outage::Silent] {
        desk.store.go_away(outage);
        assert!(watch.probe().await.is_err(), "{outage:?}");
        let asked = tokio::time::Instant::now();
        assert!(matches!(ask().await, Err(StoreError::Unavailable(_))));
        assert!(asked.elapsed() < Duration::from_secs(1), "{outage:?}: {:?}", asked.elapsed());
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(700)).await;
            let asked = tokio::time::Instant::now();
            assert!(matches!(ask().await, Err(StoreError::Unavailable(_))));
            assert!(asked.elapsed().is_zero(), "{outage:?}: {:?}", asked.elapsed());
        }
        desk.store.come_back();
        tokio::time::sleep(Duration::from_secs(1)).await;
        ask().await.unwrap();
    }
}

#[tokio::test]
async fn a_read_that_others_kept_waiting_is_no_outage() {
    let desk = Desk::new().await;
    let watch = desk.history.watch();
    let crowded = watch.ask(async { Err::<(), _>(StoreError::Busy("a crowd".into())) }).await;
    assert!(matches!(crowded, Err(StoreError::Busy(_))));
    assert!(!watch.is_away());
}

#[tokio::test(start_paused = true)]
async fn reads_go_on_where_only_writes_fail() {
    let desk = Desk::new().await;
    let watch = desk.history.watch();
    watch.wrote::<()>(&Err(StoreError::Unavailable("the disk is full".into())));
    assert!(watch.is_away());
    for _ in 0..3 {
        watch.ask(desk.store.head(&Topic::Bots)).await.unwrap();
    }
}
