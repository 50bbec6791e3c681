//! Readers that come back further than a hub remembers: record, buffer and what is new, put together without a seam.

use futures_util::FutureExt;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    broadcast::{
        hub::KEEP_EVENTS,
        reader::Lost,
        replay::{PAGE_EVENTS, Recovery},
    },
    domain::event::{EventBody, NewEvent},
    ports::history_store::{Change, Fact, HistoryStore, Span},
    testkit::fakes::memory_store::MemoryStore,
};

/// A record with the hubs in front of it.
struct House {
    store: MemoryStore,
    record: Record,
    hubs: Hubs,
    committed: u64,
}

impl House {
    fn new() -> Self {
        let store = MemoryStore::new();
        let record = Record::new(Arc::new(store.clone()));
        Self { store, record, hubs: Hubs::new(Epoch::new()), committed: 0 }
    }

    /// Commits events of two topics, and publishes them.
    async fn commit(&mut self, n: u64) {
        let body = EventBody::ActorRestarted { path: "x".into(), reason: String::new(), took_ms: 1.0 };
        for _ in 0..n {
            let event = NewEvent::new(vec![Topic::Tree, Topic::Models], &body);
            let committed = self.store.commit(vec![Fact::new(Change::None, vec![event])]).await.unwrap();
            self.hubs.publish(committed.into_iter().flat_map(|c| c.events).collect());
        }
        self.committed += n;
    }

    /// The memory of the process is gone.
    fn restart(&mut self) {
        self.hubs = Hubs::new(Epoch::new());
    }

    /// What the façade does: where the reader stands, and whether it gets what it missed.
    async fn subscribe(&self, reader: &Reader, topic: &Topic, after: u64) -> (u64, bool) {
        let hub = self.hubs.hub(topic);
        hub.init_head(self.store.head(topic).await.unwrap());
        let attached = hub.attach(reader.queue(), Some(after));
        match attached.recovery {
            Recovery::Snapshot => (attached.seq, false),
            Recovery::Buffer => (attached.seq, true),
            Recovery::Record(span) => match self.record.replay(&hub, span).await.unwrap() {
                Some(replay) => {
                    reader.queue().replay(replay);
                    (span.after, true)
                }
                None => (attached.seq, false),
            },
        }
    }
}

/// The next event if it comes without waiting for anybody.
fn next(reader: &mut Reader) -> Option<Delivery> {
    reader.next().now_or_never().map(|delivery| delivery.expect("not lost"))
}

fn seqs(reader: &mut Reader) -> Vec<u64> {
    std::iter::from_fn(|| next(reader)).map(|d| d.seq).collect()
}

#[derive(Debug, Clone)]
enum Move {
    Commit(u64),
    Take(usize),
    /// Come back with a queue of its own.
    Return,
    /// Subscribe again with the same one.
    Again,
    Restart,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        3 => (1u64..20).prop_map(Move::Commit),
        2 => (1u64..160).prop_map(Move::Commit),
        4 => (0usize..300).prop_map(Move::Take),
        2 => Just(Move::Return),
        1 => Just(Move::Again),
        1 => Just(Move::Restart),
    ];
    vec(one, 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Wherever a reader breaks off and whenever it comes back, it gets every event once, in order.
    #[test]
    fn a_reader_that_comes_back_at_any_time_has_every_event_once(moves in moves()) {
        let run = async {
            let mut house = House::new();
            let (mut reader, mut seq) = (Reader::new(), 0);
            house.subscribe(&reader, &Topic::Tree, 0).await;
            for one in moves {
                match one {
                    Move::Commit(n) => house.commit(n).await,
                    Move::Take(n) => {
                        for _ in 0..n {
                            let Some(delivery) = next(&mut reader) else { break };
                            assert_eq!(delivery.seq, seq + 1);
                            assert_eq!(json(&delivery)["seq"], seq + 1);
                            seq += 1;
                        }
                    }
                    Move::Return | Move::Again | Move::Restart => {
                        if matches!(one, Move::Restart) {
                            house.restart();
                        }
                        if !matches!(one, Move::Again) {
                            reader = Reader::new();
                        }
                        assert_eq!(house.subscribe(&reader, &Topic::Tree, seq).await, (seq, true));
                    }
                }
            }
            let rest: Vec<u64> = (seq + 1..=house.committed).collect();
            assert_eq!(seqs(&mut reader), rest);
            assert!(!reader.is_behind());
        };
        run.now_or_never().expect("nothing here waits");
    }

    /// The one decision, for every place that a reader may name.
    #[test]
    fn what_a_hub_can_do_follows_from_its_buffer(after in 0u64..50, oldest in 0u64..50, kept in 0u64..50) {
        let head = oldest + kept;
        match Recovery::of(Some(after), oldest, head) {
            Recovery::Snapshot => prop_assert!(after > head),
            Recovery::Buffer => prop_assert!(after >= oldest && after <= head),
            Recovery::Record(span) => {
                prop_assert!(after < oldest && !span.is_empty());
                prop_assert_eq!(span, Span { after, through: head });
            }
        }
        prop_assert_eq!(Recovery::of(None, oldest, head), Recovery::Snapshot);
    }
}

#[tokio::test]
async fn a_topic_that_is_replayed_does_not_hold_up_the_others_of_its_reader() {
    let mut house = House::new();
    let missed = u64::from(PAGE_EVENTS) + u64::try_from(KEEP_EVENTS).unwrap();
    house.commit(missed).await;
    let mut reader = Reader::new();
    assert_eq!(house.subscribe(&reader, &Topic::Models, missed).await, (missed, true));
    assert_eq!(house.subscribe(&reader, &Topic::Tree, 0).await, (0, true));
    house.commit(1).await;
    // Without a page to be read the events of the other topic are next, and only these.
    let ready = std::iter::from_fn(|| reader.try_next().unwrap()).map(|d| (Topic::clone(&d.topic), d.seq));
    let mut expected: Vec<_> = (1..=u64::from(PAGE_EVENTS)).map(|n| (Topic::Tree, n)).collect();
    expected.push((Topic::Models, missed + 1));
    assert_eq!(ready.collect::<Vec<_>>(), expected);
    assert!(reader.is_behind());
    let rest: Vec<u64> = (u64::from(PAGE_EVENTS) + 1..=missed + 1).collect();
    assert_eq!(seqs(&mut reader), rest);
    assert!(!reader.is_behind());
}

#[tokio::test]
async fn a_reader_that_leaves_a_topic_gets_nothing_more_of_its_replay() {
    let mut house = House::new();
    house.commit(300).await;
    let mut reader = Reader::new();
    house.subscribe(&reader, &Topic::Tree, 0).await;
    assert_eq!(next(&mut reader).unwrap().seq, 1);
    house.hubs.hub(&Topic::Tree).detach(reader.queue());
    assert!(next(&mut reader).is_none());
    // And starts over where it likes.
    assert_eq!(house.subscribe(&reader, &Topic::Tree, 10).await, (10, true));
    assert_eq!(seqs(&mut reader), (11..=300).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_reader_that_is_replayed_and_never_reads_is_lost_like_any_other() {
    let mut house = House::new();
    house.commit(300).await;
    let mut reader = Reader::new();
    house.subscribe(&reader, &Topic::Tree, 0).await;
    house.commit(4097).await;
    assert_eq!(reader.next().await.unwrap_err(), Lost::TooSlow);
    // What it took before is not lost: it goes on from there.
    let mut again = Reader::new();
    assert_eq!(house.subscribe(&again, &Topic::Tree, 7).await, (7, true));
    assert_eq!(seqs(&mut again), (8..=4397).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_place_beyond_the_head_is_not_replayed() {
    let mut house = House::new();
    house.commit(3).await;
    house.restart();
    let reader = Reader::new();
    assert_eq!(house.subscribe(&reader, &Topic::Tree, 4).await, (3, false));
    assert_eq!(house.subscribe(&reader, &Topic::Tree, u64::MAX).await, (3, false));
    assert_eq!(house.subscribe(&reader, &Topic::Tree, 3).await, (3, true));
}
