//! The jobs in a whole tree on the record in memory, in paused time.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::retention::{AGAIN, FIRST, RetentionRules};
use crate::{
    broadcast::reader::{DeliveryKind, Reader},
    controller::{Controller, Settings, requests::Snapshot},
    domain::{
        event::{EventBody, Topic},
        ids::BotId,
        message::{Conversation, Sender},
        task::{TaskEnd, TaskState},
        time::Timestamp,
    },
    ports::{
        history_store::{Change, Fact, HistoryStore},
        retention::Prune,
    },
    testkit::{conformance::samples, fakes::memory_store::MemoryStore},
};

const LAST: &str = "retention.idempotency";

/// A record with a bot, two old messages, and the events of them, which are as young as the test.
async fn record() -> (MemoryStore, Conversation) {
    let store = MemoryStore::new();
    let (launch, main) = samples::launch(&BotId::numbered(1));
    let said = |text| samples::append(&samples::message(&main, None, Sender::User, text));
    store.commit(vec![launch, said("one"), said("two")]).await.unwrap();
    (store, main)
}

async fn tree(store: &MemoryStore, retention: RetentionRules) -> (Controller, Reader) {
    let settings = Settings { retention, ..Settings::default() };
    let tree = Controller::builder(Arc::new(store.clone())).settings(settings).start().await.unwrap();
    let reader = tree.reader();
    let subscribed = tree.subscribe(&reader, Topic::Tasks, None).await.unwrap();
    assert!(matches!(subscribed.snapshot, Some(Snapshot::Tasks { tasks }) if tasks == tree.tasks()));
    (tree, reader)
}

/// What the next run told of itself.
async fn run(reader: &mut Reader) -> Vec<TaskEnd> {
    let mut ends = vec![];
    while ends.last().is_none_or(|end: &TaskEnd| end.task != LAST) {
        let delivery = reader.next().await.unwrap();
        let DeliveryKind::Durable(event) = delivery.kind else { panic!("not durable") };
        let EventBody::TaskFinished(end) = event.body().unwrap() else { panic!("{event:?}") };
        ends.push(end);
    }
    ends
}

fn rows(ends: &[TaskEnd]) -> Vec<(&str, u64, bool)> {
    ends.iter().map(|e| (&*e.task, e.rows, e.error.is_some())).collect()
}

const EVERY: [&str; 5] = ["retention.chat", "retention.audit", "retention.status", "retention.outbox", LAST];

#[tokio::test(start_paused = true)]
async fn the_first_run_comes_soon_and_then_one_each_interval() {
    let (store, main) = record().await;
    let (tree, mut reader) = tree(&store, RetentionRules::default()).await;
    assert!(tree.tasks().iter().all(|t| t.state == TaskState::Waiting && t.next_run.is_some()));
    let began = Instant::now();
    let first = run(&mut reader).await;
    assert!(began.elapsed() >= FIRST && began.elapsed() < FIRST * 2, "{:?}", began.elapsed());
    assert_eq!(rows(&first), EVERY.map(|task| (task, if task == EVERY[0] { 2 } else { 0 }, false)));
    assert_eq!(store.conversation(main.id).await.unwrap().unwrap().message_count, 0);
    let second = run(&mut reader).await;
    assert!(began.elapsed() >= RetentionRules::default().interval, "{:?}", began.elapsed());
    assert!(second.iter().all(|end| end.rows == 0 && end.error.is_none()));
    let chat = &tree.tasks()[0];
    assert_eq!((&*chat.task, chat.rows, &chat.error), ("retention.chat", 0, &None));
    assert!(chat.last_run.is_some() && chat.took_ms.is_some());
    tree.shutdown(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn off_means_off() {
    let (store, main) = record().await;
    let off = RetentionRules {
        chat: None,
        audit: None,
        status: None,
        events: None,
        events_per_topic: None,
        interval: Duration::from_secs(1),
    };
    let (tree, mut reader) = tree(&store, off).await;
    for _ in 0..3 {
        assert_eq!(rows(&run(&mut reader).await), [(LAST, 0, false)]);
    }
    assert_eq!(store.conversation(main.id).await.unwrap().unwrap().message_count, 2);
    assert_eq!(&*store.events()[0].name, "bot_state_changed");
    let off = tree.tasks().into_iter().filter(|t| t.state == TaskState::Off && t.next_run.is_none());
    assert_eq!(off.map(|t| t.task).collect::<Vec<_>>(), EVERY[..4]);
    tree.shutdown(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn a_database_that_is_away_is_tried_again_and_is_no_crash() {
    let (store, _) = record().await;
    let (tree, mut reader) = tree(&store, RetentionRules::default()).await;
    let began = Instant::now();
    // By then all is stored that the start has to tell; the next write is that of the run.
    tokio::time::sleep(FIRST / 2).await;
    store.fail_next(1);
    let first = run(&mut reader).await;
    assert!(first[0].error.as_ref().is_some_and(|e| e.contains("injected")), "{first:?}");
    assert_eq!(rows(&first), EVERY.map(|task| (task, 0, task == EVERY[0])));
    assert!(tree.tasks()[0].error.is_some());
    let second = run(&mut reader).await;
    assert!(began.elapsed() < FIRST + AGAIN + AGAIN, "{:?}", began.elapsed());
    assert_eq!(rows(&second)[0], ("retention.chat", 2, false));
    assert_eq!(tree.tasks()[0].error, None);
    let node = tree.tree().children.into_iter().find(|n| n.name == "tasks").unwrap();
    let job = &node.children[0];
    assert_eq!((&*job.name, &*job.path, job.restarts), ("retention", "root/tasks/retention", 0));
    tree.shutdown(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn a_job_goes_on_after_its_supervisor_died() {
    let (store, _) = record().await;
    let (tree, mut reader) = tree(&store, RetentionRules::default()).await;
    run(&mut reader).await;
    let before = tree.tasks();
    assert!(tree.kill_actor("tasks"));
    while tree.ready().await.is_err() {
        tokio::task::yield_now().await;
    }
    assert_eq!(tree.tasks()[0].last_run, before[0].last_run, "what is known of it is not lost");
    let began = Instant::now();
    run(&mut reader).await;
    assert!(began.elapsed() < FIRST * 2, "{:?}", began.elapsed());
    tree.shutdown(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_for_a_long_run() {
    let store = MemoryStore::new();
    let (tree, _) = tree(&store, RetentionRules::default()).await;
    store.pause();
    // The run waits in the store.
    store.wait_for_waiting(1).await;
    assert_eq!(tree.tasks()[0].state, TaskState::Running);
    tree.shutdown(Duration::ZERO).await;
    store.resume();
    while tree.tasks()[0].last_run.is_none() {
        tokio::task::yield_now().await;
    }
    assert!(tree.tasks()[1..].iter().all(|t| t.last_run.is_none()), "what had not begun did not begin");
}

#[test]
fn a_plan_says_from_when_on_what_goes() {
    let now = Timestamp(1_000_000_000_000_000);
    let day = 24 * 3600 * 1_000_000;
    let [chat, audit, status, outbox, keys] = RetentionRules::default().plan(now).map(|(_, prunes)| prunes);
    let days_ago = |n: i64| Timestamp(now.0 - n * day);
    assert_eq!(chat, [Prune::Chat { before: days_ago(90) }]);
    assert_eq!(audit, [Prune::Audit { before: days_ago(180) }]);
    assert_eq!(status, [Prune::Status { before: days_ago(7) }]);
    assert_eq!(outbox, [Prune::Events { before: days_ago(1) }, Prune::SurplusEvents { keep: 10_000 }]);
    assert_eq!(keys, [Prune::IdempotencyKeys { before: days_ago(1) }]);
    let only_number = RetentionRules { events: None, ..RetentionRules::default() };
    assert_eq!(only_number.plan(now)[3].1, [Prune::SurplusEvents { keep: 10_000 }]);
    let ages = RetentionRules { chat: Some(Duration::MAX), ..RetentionRules::default() };
    assert!(matches!(ages.plan(now)[0].1[..], [Prune::Chat { before }] if before < Timestamp(0)));
}

#[tokio::test(start_paused = true)]
async fn a_replay_that_retention_overtook_ends_its_reader_and_never_leaves_a_gap() {
    use crate::{
        broadcast::reader::Lost, controller::requests::ResumeFrom, ports::retention::RetentionStore,
    };
    let store = MemoryStore::new();
    for _ in 0..400 {
        let body = EventBody::ActorRestarted { path: "x".into(), reason: String::new(), took_ms: 1.0 };
        let event = crate::domain::event::NewEvent::new(vec![Topic::Tree], &body);
        store.commit(vec![Fact::new(Change::None, vec![event])]).await.unwrap();
    }
    let tree = Controller::builder(Arc::new(store.clone())).start().await.unwrap();
    let mut reader = tree.reader();
    let after = Some(ResumeFrom { seq: 0, ..ResumeFrom::default() });
    let subscribed = tree.subscribe(&reader, Topic::Tree, after.clone()).await.unwrap();
    assert_eq!((subscribed.recovered, subscribed.seq), (Some(true), 0));
    store.prune(Prune::SurplusEvents { keep: 100 }, 10_000).await.unwrap();
    let mut seq = 0;
    let lost = loop {
        match reader.next().await {
            Ok(delivery) => {
                seq += 1;
                assert_eq!(delivery.seq, seq);
            }
            Err(lost) => break lost,
        }
    };
    assert_eq!((seq, lost), (128, Lost::NotKept));
    assert_eq!(reader.next().await.unwrap_err(), Lost::NotKept);
    // Back from where it stands: the state, and that it is told so.
    let again = tree.reader();
    let after = Some(ResumeFrom { seq, ..ResumeFrom::default() });
    let subscribed = tree.subscribe(&again, Topic::Tree, after).await.unwrap();
    assert_eq!(subscribed.recovered, Some(false));
    assert!(subscribed.seq >= 400 && subscribed.snapshot.is_some());
    let after = Some(ResumeFrom { seq: 300, ..ResumeFrom::default() });
    assert_eq!(tree.subscribe(&again, Topic::Tree, after).await.unwrap().recovered, Some(true));
    tree.shutdown(Duration::ZERO).await;
}
