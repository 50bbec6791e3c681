//! That deleting costs what is deleted, however much the bot has beside it, and that numbers go with their topics.

use std::sync::atomic::{AtomicU64, Ordering};

use deia_actors::{
    domain::{
        event::{NewEvent, Topic},
        ids::MessageId,
        message::Sender,
        time::Timestamp,
    },
    ports::retention::{Prune, RetentionStore},
    testkit::conformance::samples,
};

use super::{super::events, *};

/// Steps of the virtual machine of SQLite that one piece of work takes, in tens.
async fn steps(disk: &OnDisk, work: impl AsyncFnOnce(&SqliteStore)) -> u64 {
    static STEPS: AtomicU64 = AtomicU64::new(0);
    static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _alone = ONE_AT_A_TIME.lock().await;
    let count = |db: &rusqlite::Connection| {
        let step = || {
            STEPS.fetch_add(1, Ordering::Relaxed);
            false
        };
        db.progress_handler(10, Some(step)).unwrap();
    };
    STEPS.store(0, Ordering::Relaxed);
    disk.store.writer.run(count).await.unwrap();
    work(&disk.store).await;
    disk.store.writer.run(|db| db.progress_handler(0, None::<fn() -> bool>).unwrap()).await.unwrap();
    STEPS.load(Ordering::Relaxed)
}

/// A chain of messages.
async fn talk(disk: &OnDisk, home: &Conversation, parent: Option<MessageId>, length: u32) -> Vec<MessageId> {
    let (mut parent, mut ids, mut facts) = (parent, vec![], vec![]);
    for _ in 0..length {
        let next = samples::message(home, parent, Sender::User, "said");
        parent = Some(next.id);
        ids.push(next.id);
        facts.push(samples::append(&next));
    }
    for group in facts.chunks(500) {
        assert!(disk.store.commit(group.to_vec()).await.unwrap().iter().all(|done| done.applied));
    }
    ids
}

/// Conversations that begin behind a message, or at nothing.
async fn open(disk: &OnDisk, bot: &BotId, from: Option<MessageId>, count: u32) -> Vec<Conversation> {
    let new = |_| Conversation { leaf_message_id: from, ..samples::conversation(bot) };
    let made: Vec<_> = (0..count).map(new).collect();
    for group in made.chunks(500) {
        let facts = group.iter().map(|c| Fact::new(Change::CreateConversation(c.clone()), vec![])).collect();
        disk.store.commit(facts).await.unwrap();
    }
    made
}

#[tokio::test]
async fn what_age_takes_costs_the_same_beside_many_conversations() {
    let mut taken = vec![];
    for others in [3, 3000] {
        let (disk, id, main) = OnDisk::with_bot().await;
        let old = talk(&disk, &main, None, 500).await;
        let before = samples::tick();
        open(&disk, &id, None, others).await;
        let fork = &open(&disk, &id, old.last().copied(), 1).await[0];
        let own = talk(&disk, fork, old.last().copied(), 1).await;
        let prune = async |store: &SqliteStore| {
            assert_eq!(store.prune(Prune::Chat { before }, 500).await.unwrap().rows, 500);
        };
        taken.push(steps(&disk, prune).await);
        assert_eq!(disk.store.message(&id, own[0]).await.unwrap().unwrap().parent_id, None);
    }
    // Their leaves are looked at, once.
    assert!(taken[1] < 2 * taken[0], "in tens of steps, beside 3 and beside 3000 conversations: {taken:?}");
}

#[tokio::test]
async fn what_is_cleared_or_deleted_costs_the_same_beside_many_messages() {
    for delete in [false, true] {
        let mut taken = vec![];
        for others in [10, 5000] {
            let (disk, id, main) = OnDisk::with_bot().await;
            talk(&disk, &main, None, others).await;
            let side = &open(&disk, &id, None, 1).await[0];
            let said = talk(&disk, side, None, 10).await;
            let fork = &open(&disk, &id, said.last().copied(), 1).await[0];
            let own = talk(&disk, fork, said.last().copied(), 1).await;
            let (bot_id, conversation_id) = (id.clone(), Some(side.id));
            let change = match delete {
                true => Change::DeleteConversation(side.id),
                false => Change::ClearHistory { bot_id, conversation_id },
            };
            let work = async |store: &SqliteStore| {
                let done = store.commit(vec![Fact::new(change, vec![])]).await.unwrap();
                assert_eq!(done[0].deleted, 10);
            };
            taken.push(steps(&disk, work).await);
            assert_eq!(disk.store.message(&id, own[0]).await.unwrap().unwrap().parent_id, None);
        }
        assert!(taken[1] < 2 * taken[0], "in tens of steps, beside 10 and beside 5000 messages: {taken:?}");
    }
}

#[tokio::test]
async fn the_first_events_after_a_start_cost_the_same_behind_many_events() {
    let mut taken = vec![];
    for others in [10, 5000] {
        let (disk, id, main) = OnDisk::with_bot().await;
        talk(&disk, &main, None, others).await;
        let disk = disk.reopen().await;
        let topics = vec![Topic::Bots, Topic::Tree, Topic::Models, Topic::Tasks];
        let event = NewEvent { topics, ..samples::life(&id) };
        let work = async |store: &SqliteStore| {
            let done = store.commit(vec![Fact::new(Change::None, vec![event])]).await.unwrap();
            assert!(done[0].applied);
        };
        taken.push(steps(&disk, work).await);
    }
    assert!(taken[1] < 2 * taken[0] + 10, "in tens of steps, behind 10 and behind 5000 events: {taken:?}");
}

#[tokio::test]
async fn the_newest_number_of_a_topic_is_found_through_its_index() {
    let disk = OnDisk::create().await;
    let other = rusqlite::Connection::open(disk.file()).unwrap();
    for (sql, index) in [
        (events::newest!("bots_seq"), "outbox_by_bots"),
        (events::newest!("tree_seq"), "outbox_by_tree"),
        (events::newest!("models_seq"), "outbox_by_models"),
        (events::newest!("tasks_seq"), "outbox_by_tasks"),
    ] {
        let mut explain = other.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let plan: String = explain.query_row([], |row| row.get(3)).unwrap();
        assert!(plan.contains(&format!("COVERING INDEX {index}")), "{plan}");
    }
}

#[tokio::test]
async fn what_a_hold_reaches_is_found_through_indexes() {
    let disk = OnDisk::create().await;
    let other = rusqlite::Connection::open(disk.file()).unwrap();
    let mut explain = other.prepare(concat!("EXPLAIN QUERY PLAN ", crate::adapters::holds::held!())).unwrap();
    let plan: Vec<String> =
        explain.query_map(["x"], |row| row.get(3)).unwrap().collect::<Result<_, _>>().unwrap();
    let scans = plan.iter().filter(|step| step.starts_with("SCAN") && !step.starts_with("SCAN shown"));
    assert!(scans.clone().all(|step| step == "SCAN e"), "{plan:#?}");
    for index in ["conversations_held", "chat_messages_begins", "chat_messages_tops"] {
        assert!(plan.iter().any(|step| step.contains(index)), "{index}: {plan:#?}");
    }
}

#[tokio::test]
async fn numbers_go_with_their_topics() {
    let (disk, id, main) = OnDisk::with_bot().await;
    let other = rusqlite::Connection::open(disk.file()).unwrap();
    let heads = || {
        let sql = "SELECT topic FROM topic_heads ORDER BY topic";
        let mut rows = other.prepare(sql).unwrap();
        rows.query_map([], |row| row.get(0)).unwrap().collect::<Result<Vec<String>, _>>().unwrap()
    };
    let all = Timestamp(Timestamp::now().0 + 1_000_000);
    let forget = async || disk.store.prune(Prune::Events { before: all }, 1000).await.unwrap();
    let side = &open(&disk, &id, None, 1).await[0];
    let (deleted, kept) = (format!("conversation:{}", side.id), format!("conversation:{}", main.id));
    let turn = async |home, delete: bool| {
        let (turn, question, reply) = samples::turn(home, None, "asked");
        disk.store.commit(vec![samples::accept(&turn, &question, &reply)]).await.unwrap();
        forget().await;
        assert!(heads().contains(&format!("turn:{}", turn.id)));
        let (done, answer) = samples::ended(&turn, &reply, "answered");
        disk.store.commit(vec![samples::finish(&done, &answer)]).await.unwrap();
        if delete {
            let gone = Fact::new(Change::DeleteConversation(home.id), vec![]);
            assert!(disk.store.commit(vec![gone]).await.unwrap()[0].applied);
        }
        forget().await;
    };
    turn(&main, false).await;
    assert_eq!(heads(), ["bot:BOT-001", "bots", &kept]);
    turn(side, true).await;
    assert_eq!(heads(), ["bot:BOT-001", "bots", &kept]);
    assert!(!heads().contains(&deleted));
    let purge = Fact::new(Change::DeleteBot { bot_id: id.clone(), purge: true }, vec![]);
    disk.store.commit(vec![purge]).await.unwrap();
    forget().await;
    assert_eq!(heads(), ["bot:BOT-001", "bots"]);
}
