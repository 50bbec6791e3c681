//! The suites of both ports, and what only a file can do: fill up, be locked, be foreign.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{path::PathBuf, time::Duration};

use deia_actors::{
    archive_suite,
    domain::{
        ids::BotId,
        message::{Conversation, Message, Sender},
        search::Query,
    },
    history_store_suite,
    ports::{
        history_store::{Change, Cursor, Fact, HistoryStore, StoreError},
        search::SearchIndex,
        state_store::StateStore,
    },
    retention_store_suite, search_suite, state_store_suite,
    testkit::conformance::{Subject, history_store::Grove, samples},
};
use futures_util::FutureExt;
use tempfile::TempDir;

use super::SqliteStore;

mod poison;
mod retention;

struct OnDisk {
    store: SqliteStore,
    folder: TempDir,
}

impl OnDisk {
    fn file(&self) -> PathBuf {
        self.folder.path().join("data/deia.db")
    }

    /// With one bot and its main conversation.
    async fn with_bot() -> (Self, BotId, Conversation) {
        let disk = Self::create().await;
        let id = BotId::numbered(1);
        let (fact, main) = samples::launch(&id);
        disk.store.commit(vec![fact]).await.unwrap();
        (disk, id, main)
    }
}

impl Subject for OnDisk {
    type Store = SqliteStore;
    async fn create() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("data/deia.db");
        let store = SqliteStore::open_with(&file, Duration::from_millis(20), super::IDLE).await.unwrap();
        Self { store, folder }
    }
    fn store(&self) -> &SqliteStore {
        &self.store
    }
    async fn reopen(self) -> Self {
        self.store.close().await;
        let store = SqliteStore::open(&self.file()).await.unwrap();
        Self { store, folder: self.folder }
    }
}

history_store_suite!(OnDisk);
retention_store_suite!(OnDisk);
state_store_suite!(OnDisk);
archive_suite!(OnDisk);
search_suite!(OnDisk);

fn said(home: &Conversation, bytes: usize) -> (Message, Fact) {
    let message = samples::message(home, None, Sender::User, &"x".repeat(bytes));
    let fact = samples::append(&message);
    (message, fact)
}

async fn refused_open(path: &std::path::Path) -> StoreError {
    SqliteStore::open(path).await.err().expect("the database is refused")
}

#[tokio::test]
async fn a_full_disk_stores_nothing_and_service_goes_on_once_there_is_room() {
    let (disk, id, main) = OnDisk::with_bot().await;
    let before = disk.store.events_after(0, 10).await.unwrap()[0].position;
    disk.store.writer.run(|db| set(db, "PRAGMA max_page_count = 1")).await.unwrap();
    let ((first, small), (second, large)) = (said(&main, 10), said(&main, 1_000_000));
    let group = vec![small, large];
    for _ in 0..2 {
        let error = disk.store.commit(group.clone()).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
        for message in [&first, &second] {
            assert_eq!(disk.store.message(&id, message.id).await.unwrap(), None);
        }
    }
    disk.store.writer.run(|db| set(db, "PRAGMA max_page_count = 1000000")).await.unwrap();
    let committed = disk.store.commit(group).await.unwrap();
    assert!(committed.iter().all(|c| c.applied));
    let events = disk.store.events_after(before, 10).await.unwrap();
    let seqs: Vec<_> = events.iter().flat_map(|e| &e.seqs).map(|(_, seq)| *seq).collect();
    assert_eq!(seqs, [2, 1, 3, 2], "no number was lost to the failures");
    assert_eq!(disk.store.message(&id, second.id).await.unwrap().unwrap().content, second.content);
}

#[tokio::test]
async fn content_that_a_table_does_not_take_is_refused_and_the_connection_stays() {
    let (disk, id, main) = OnDisk::with_bot().await;
    let rule = "CREATE TRIGGER short BEFORE INSERT ON chat_messages WHEN length(new.content) > 1000 \
                BEGIN SELECT RAISE(ABORT, 'too long'); END";
    rusqlite::Connection::open(disk.file()).unwrap().execute_batch(rule).unwrap();
    let ((good, small), (bad, large)) = (said(&main, 10), said(&main, 2000));
    let error = disk.store.commit(vec![small.clone(), large]).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused(_)), "{error}");
    for message in [&good, &bad] {
        assert_eq!(disk.store.message(&id, message.id).await.unwrap(), None);
    }
    assert!(disk.store.commit(vec![small]).await.unwrap()[0].applied);
}

/// A setting may answer with a row.
fn set(db: &rusqlite::Connection, pragma: &str) {
    db.query_row(pragma, [], |_| Ok(())).unwrap();
}

#[tokio::test]
async fn a_read_only_database_is_unavailable_and_then_works_again() {
    let (disk, id, main) = OnDisk::with_bot().await;
    disk.store.writer.run(|db| db.execute_batch("PRAGMA query_only = ON").unwrap()).await.unwrap();
    let (message, fact) = said(&main, 10);
    let error = disk.store.commit(vec![fact.clone()]).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    // The next request has a new connection.
    disk.store.probe().await.unwrap();
    assert!(disk.store.commit(vec![fact]).await.unwrap()[0].applied);
    assert!(disk.store.message(&id, message.id).await.unwrap().is_some());
}

#[tokio::test]
async fn a_lock_of_another_program_is_unavailable_until_it_ends_and_reads_go_on() {
    let (disk, id, main) = OnDisk::with_bot().await;
    let other = rusqlite::Connection::open(disk.file()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (message, fact) = said(&main, 10);
    for result in [disk.store.commit(vec![fact.clone()]).await.map(drop), disk.store.probe().await] {
        let error = result.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    }
    assert_eq!(disk.store.message(&id, message.id).await.unwrap(), None);
    other.execute_batch("ROLLBACK").unwrap();
    assert!(disk.store.commit(vec![fact]).await.unwrap()[0].applied);
    assert_eq!(disk.store.roster().await.unwrap().len(), 1);
}

#[tokio::test]
async fn numbers_follow_what_another_program_wrote() {
    let (disk, _, main) = OnDisk::with_bot().await;
    let other = rusqlite::Connection::open(disk.file()).unwrap();
    disk.store.commit(vec![said(&main, 1).1]).await.unwrap();
    let sql = "INSERT INTO outbox_events (id, event, created_at, conversation_id, conversation_seq, data) \
               VALUES (zeroblob(16), 'x', 0, ?1, 2, '{}')";
    other.execute(sql, [main.id.0]).unwrap();
    let committed = disk.store.commit(vec![said(&main, 1).1]).await.unwrap();
    assert_eq!(committed[0].events[0].seqs[1].1, 3);
}

#[tokio::test]
async fn a_search_that_is_given_up_leaves_the_rest_to_the_index() {
    let (disk, bot, main) = OnDisk::with_bot().await;
    disk.store.commit((0..2000).map(|_| said(&main, 9).1).collect()).await.unwrap();
    assert_eq!(disk.store.unindexed().await.unwrap(), 2000);
    let query = Query::parse("xxxxxxxxx").unwrap();
    assert!(disk.store.search(&bot, None, &query, 1, 0).now_or_never().is_none());
    let rest = async { while disk.store.unindexed().await.unwrap() > 0 {} };
    tokio::time::timeout(Duration::from_secs(120), rest).await.expect("it happens soon");
    assert!(disk.store.search(&bot, None, &query, 1, 0).await.unwrap().next.is_some());
}

#[tokio::test]
async fn a_panic_of_the_writer_is_an_answer_and_not_an_end() {
    let (disk, id, main) = OnDisk::with_bot().await;
    let (message, fact) = said(&main, 10);
    let broken = disk.store.writer.run(|db| {
        db.execute_batch("BEGIN IMMEDIATE; DELETE FROM chat_messages").unwrap();
        std::panic::panic_any("on purpose");
    });
    assert!(matches!(broken.await, Err(StoreError::Unavailable(_))));
    assert!(disk.store.commit(vec![fact]).await.unwrap()[0].applied);
    assert!(disk.store.message(&id, message.id).await.unwrap().is_some());
}

#[tokio::test]
async fn a_closed_store_is_unavailable() {
    let disk = OnDisk::create().await;
    disk.store.close().await;
    disk.store.close().await;
    assert!(matches!(disk.store.commit(vec![]).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(disk.store.roster().await, Err(StoreError::Unavailable(_))));
}

#[tokio::test]
async fn a_second_process_is_kept_out_until_the_first_is_gone() {
    let disk = OnDisk::create().await;
    let error = refused_open(&disk.file()).await;
    assert!(matches!(&error, StoreError::Unavailable(why) if why.contains("in use")), "{error}");
    let file = disk.file();
    let OnDisk { store, folder: _folder } = disk;
    drop(store);
    SqliteStore::open(&file).await.unwrap();
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused_and_left_alone() {
    let disk = OnDisk::create().await;
    disk.store.close().await;
    let other = rusqlite::Connection::open(disk.file()).unwrap();
    let sql = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
               VALUES (9999, 'later', 1, x'00', 1)";
    other.execute(sql, []).unwrap();
    let error = refused_open(&disk.file()).await;
    assert!(matches!(&error, StoreError::Corrupt(why) if why.contains("newer version")), "{error}");
}

#[tokio::test]
async fn what_is_not_a_database_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("deia.db");
    std::fs::write(&file, "this is a text, and a rather long one at that. ".repeat(100)).unwrap();
    let error = refused_open(&file).await;
    assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
    let error = refused_open(&file.join("below/a/file.db")).await;
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
}

#[tokio::test]
async fn an_audited_change_leaves_an_entry_and_a_refused_one_none() {
    let (disk, id, main) = OnDisk::with_bot().await;
    let entry = |target: &str| {
        Some(deia_actors::domain::bot::AuditEntry {
            at: samples::tick(),
            actor: "local".into(),
            action: "history.clear".into(),
            target: target.into(),
            reason: Some("why not".into()),
            detail: serde_json::Map::new(),
        })
    };
    let clear = |bot_id: BotId| Change::ClearHistory { bot_id, conversation_id: Some(main.id) };
    let facts = vec![
        Fact { audit: entry("yes"), ..Fact::new(clear(id.clone()), vec![]) },
        Fact { audit: entry("no"), ..Fact::new(clear(BotId::numbered(2)), vec![]) },
    ];
    disk.store.commit(facts).await.unwrap();
    let other = rusqlite::Connection::open(disk.file()).unwrap();
    let row = other
        .query_row("SELECT bot_id, action, user_id, target, reason FROM audit_logs", [], |row| {
            Ok::<[String; 5], _>([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?])
        })
        .unwrap();
    assert_eq!(row, [id.as_str(), "history.clear", "local", "yes", "why not"]);
    let count: i64 = other.query_row("SELECT count(*) FROM audit_logs", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 1);
}

#[tokio::test]
async fn a_turn_left_open_in_a_retired_conversation_is_not_found() {
    let (disk, id, main) = OnDisk::with_bot().await;
    let (turn, question, reply) = samples::turn(&main, None, "hello");
    disk.store.commit(vec![samples::accept(&turn, &question, &reply)]).await.unwrap();
    assert_eq!(disk.store.open_turns(Some(&id)).await.unwrap().len(), 1);
    // As an interrupted deletion of another version might have left it.
    let other = rusqlite::Connection::open(disk.file()).unwrap();
    other.execute("UPDATE conversations SET retired_at = 1", []).unwrap();
    assert!(disk.store.open_turns(Some(&id)).await.unwrap().is_empty());
    assert!(disk.store.open_turns(None).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_long_conversation_is_paged_to_its_first_message() {
    let (disk, _, main) = OnDisk::with_bot().await;
    let mut parent = None;
    let mut ids = vec![];
    for _ in 0..20 {
        let mut group = vec![];
        for _ in 0..100 {
            let next = samples::message(&main, parent, Sender::User, "m");
            parent = Some(next.id);
            ids.push(next.id);
            group.push(samples::append(&next));
        }
        disk.store.commit(group).await.unwrap();
    }
    let mut read = vec![];
    let mut cursor = Cursor::Newest { offset: 0 };
    loop {
        let page = disk.store.page(main.id, cursor, 200).await.unwrap().unwrap();
        let Some(first) = page.items.first() else { break };
        cursor = Cursor::Before(first.id);
        read.splice(0..0, page.items.iter().map(|m| m.id));
        assert_eq!(page.has_more, read.len() < ids.len());
    }
    assert_eq!(read, ids);
}

#[tokio::test]
async fn what_was_said_is_indexed_in_peace_without_a_search() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("deia.db");
    let store = SqliteStore::open_with(&file, super::BUSY_TIMEOUT, Duration::from_millis(1)).await.unwrap();
    let (launch, main) = samples::launch(&BotId::numbered(1));
    store.commit(vec![launch]).await.unwrap();
    // More than one slice of the index.
    let facts: Vec<_> = (0..600).map(|_| said(&main, 3).1).collect();
    store.commit(facts).await.unwrap();
    let reader = rusqlite::Connection::open(&file).unwrap();
    let indexed = || reader.query_row("SELECT count(*) FROM search_messages", [], |row| row.get::<_, i64>(0));
    let all = async {
        while indexed().unwrap() < 600 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), all).await.expect("the index is filled");
    store.close().await;
}

/// What takes the schema back to that of migration 4.
const BEFORE_BRANCHES: &str = "DROP INDEX chat_messages_forks; DROP INDEX chat_messages_begins; \
     DROP INDEX conversations_held; DROP INDEX chat_messages_marks; DROP INDEX chat_messages_tops; \
     ALTER TABLE chat_messages DROP COLUMN branch; ALTER TABLE chat_messages DROP COLUMN depth; \
     DELETE FROM _sqlx_migrations WHERE version IN (5, 6)";

#[tokio::test]
async fn a_database_without_branches_gets_them_and_has_the_same_pages() {
    let disk = OnDisk::create().await;
    let mut grove = Grove::plant(&disk.store, 7).await;
    grove.grow(&disk.store, 40).await;
    disk.store.close().await;
    rusqlite::Connection::open(disk.file()).unwrap().execute_batch(BEFORE_BRANCHES).unwrap();
    let disk = disk.reopen().await;
    grove.check(&disk.store).await;
    grove.grow(&disk.store, 20).await;
}
