//! Durable appends: messages a second through the store's `commit`, as HistoryActor calls it, against the raw insert that a
//! table of messages needs at least (on PostgreSQL one statement by UNNEST), at 1, 10, 100 and 1,000 a group, taking
//! turns in the same run on the same disk. Both sync every group.
//!
//! The raw side writes message rows alone; a commit also finds out what was there before, moves the end of the
//! conversation, counts, and can be repeated. Aim: 0.85 of raw at 100.
//!
//! Then what an acknowledgement takes at 133 messages a second over HTTP, beside the sync of the same disk before and after.
//! Aim: p99 of at most twice the sync's.
//!
//! `cargo bench --bench appends`, and on PostgreSQL too: `scripts/with-postgres cargo bench --bench appends`
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program for people"
)]

mod harness;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use deia::adapters::{
    postgres::{PostgresConfig, PostgresStore},
    sqlite::SqliteStore,
};
use deia_actors::{
    domain::{
        ids::BotId,
        message::{Conversation, Message, Sender},
    },
    ports::history_store::{Fact, HistoryStore},
    testkit::conformance::samples,
};
use harness::{
    head,
    http::Client,
    introduce, process, row,
    stats::{Sample, cells},
};
use rusqlite::params;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

const GROUPS: [usize; 4] = [1, 10, 100, 1000];
const ROUNDS: usize = 5;
const TEXT: &str = "What is the capital of this country, and since when has it been its capital?";
/// Messages a second that are acknowledged.
const RATE: u32 = 133;
const CONVERSATIONS: usize = 32;

/// Groups so that a round takes a noticeable time and not a long one.
fn groups(size: usize) -> usize {
    (2000 / size).clamp(20, 300)
}

/// A conversation that grows.
struct Growing {
    home: Conversation,
    last: Option<Message>,
}

impl Growing {
    fn messages(&mut self, count: usize) -> Vec<Message> {
        (0..count)
            .map(|_| {
                let parent = self.last.as_ref().map(|m| m.id);
                let next = samples::message(&self.home, parent, Sender::User, TEXT);
                self.last = Some(next.clone());
                next
            })
            .collect()
    }
}

async fn growing(store: &dyn HistoryStore) -> Growing {
    let (fact, home) = samples::launch(&BotId::numbered(1));
    store.commit(vec![fact]).await.unwrap();
    Growing { home, last: None }
}

async fn through(store: &dyn HistoryStore, into: &mut Growing, size: usize) -> f64 {
    let rounds: Vec<Vec<Fact>> =
        (0..groups(size)).map(|_| into.messages(size).iter().map(samples::append).collect()).collect();
    let start = Instant::now();
    for group in rounds {
        assert!(store.commit(group).await.unwrap().iter().all(|done| done.applied));
    }
    rate(size, start)
}

fn rate(size: usize, start: Instant) -> f64 {
    (size * groups(size)) as f64 / start.elapsed().as_secs_f64()
}

fn compare(size: usize, ours: &Sample, raw: &Sample) {
    let (ours, raw) = (ours.at(50.0), raw.at(50.0));
    let mut values = cells([ours, raw], 0);
    values.extend(cells([ours / raw], 2));
    row(&format!("groups of {size}"), &values);
}

async fn sqlite(folder: &Path) {
    head("SQLite, messages a second, median of 5", &["commit", "raw", "ratio"]);
    let store = SqliteStore::open(&folder.join("ours.db")).await.unwrap();
    let empty = SqliteStore::open(&folder.join("raw.db")).await.unwrap();
    let mut other = growing(&empty).await;
    empty.close().await;
    let mut into = growing(&store).await;
    let mut raw = rusqlite::Connection::open(folder.join("raw.db")).unwrap();
    raw.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = OFF")
        .unwrap();
    for size in GROUPS {
        let (mut commits, mut inserts) = (Sample::default(), Sample::default());
        for _ in 0..ROUNDS {
            commits.push(through(&store, &mut into, size).await);
            let rounds: Vec<_> = (0..groups(size)).map(|_| other.messages(size)).collect();
            let start = Instant::now();
            for group in &rounds {
                raw_sqlite(&mut raw, group);
            }
            inserts.push(rate(size, start));
        }
        compare(size, &commits, &inserts);
    }
    store.close().await;
}

fn raw_sqlite(raw: &mut rusqlite::Connection, group: &[Message]) {
    let transaction = raw.transaction().unwrap();
    for m in group {
        transaction
            .prepare_cached(
                "INSERT INTO chat_messages (id, parent_id, conversation_id, bot_id, sender, state, tokens, created_at, \
                 metadata, content) VALUES (?1, ?2, ?3, ?4, 'user', 'complete', ?5, ?6, '{}', ?7)",
            )
            .unwrap()
            .execute(params![
                m.id.0,
                m.parent_id.map(|p| p.0),
                m.conversation_id.0,
                m.bot_id.as_str(),
                m.tokens,
                m.created_at.0,
                &*m.content
            ])
            .unwrap();
    }
    transaction.commit().unwrap();
}

async fn database(server: &str, name: &str) -> String {
    let mut connection = PgConnection::connect(server).await.unwrap();
    let name = format!("{name}_{}", std::process::id());
    connection.execute(sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}")))).await.unwrap();
    format!("{}/{name}", server.rsplit_once('/').unwrap().0)
}

async fn postgres(server: &str) {
    head("PostgreSQL, messages a second, median of 5", &["commit", "UNNEST", "ratio"]);
    let store = PostgresStore::open(&PostgresConfig::new(database(server, "ours").await)).await.unwrap();
    let url = database(server, "raw").await;
    let empty = PostgresStore::open(&PostgresConfig::new(url.as_str())).await.unwrap();
    let mut other = growing(&empty).await;
    empty.close().await;
    let mut into = growing(&store).await;
    let mut raw = PgConnection::connect(&url).await.unwrap();
    for size in GROUPS {
        let (mut commits, mut inserts) = (Sample::default(), Sample::default());
        for _ in 0..ROUNDS {
            commits.push(through(&store, &mut into, size).await);
            let rounds: Vec<_> = (0..groups(size)).map(|_| other.messages(size)).collect();
            let start = Instant::now();
            for group in &rounds {
                raw_postgres(&mut raw, group).await;
            }
            inserts.push(rate(size, start));
        }
        compare(size, &commits, &inserts);
    }
    store.close().await;
}

async fn raw_postgres(raw: &mut PgConnection, group: &[Message]) {
    let ids: Vec<_> = group.iter().map(|m| m.id.0).collect();
    let parents: Vec<_> = group.iter().map(|m| m.parent_id.map(|p| p.0)).collect();
    let texts: Vec<_> = group.iter().map(|m| m.content.to_string()).collect();
    sqlx::query(
        "INSERT INTO chat_messages (id, parent_id, conversation_id, bot_id, sender, state, tokens, created_at, metadata, \
         content) SELECT id, parent, $3, $4, 'user', 'complete', 20, 0, '{}', content \
         FROM UNNEST($1::uuid[], $2::uuid[], $5::text[]) AS t (id, parent, content)",
    )
    .bind(ids)
    .bind(parents)
    .bind(group[0].conversation_id.0)
    .bind(group[0].bot_id.as_str())
    .bind(texts)
    .execute(raw)
    .await
    .unwrap();
}

/// One send after the other falls due, whether the ones before it are answered or not.
async fn acknowledgements(folder: &Path) {
    let mut syncs = Sample::from(harness::fsync(folder));
    let simulator = process::simulator(None);
    let service = process::service(None, &folder.join("data"), simulator.address);
    service.until_ready();
    let mut clients = vec![];
    for n in 0..CONVERSATIONS {
        let mut client = Client::connect(service.address).await;
        client.launch(&format!("bot-{n}"), "sim:tokens=1").await;
        let body = serde_json::json!({ "bot_id": format!("bot-{n}"), "content": TEXT }).to_string();
        let request = client.request("POST", "/api/chat/send?wait=false", "application/json", &body);
        clients.push((client, request));
    }
    let begun = tokio::time::Instant::now();
    let every = Duration::from_secs(1) / RATE;
    let total = u32::try_from(harness::seconds().as_millis() / every.as_millis()).unwrap_or(u32::MAX);
    let work = clients.into_iter().enumerate().map(|(n, (mut client, request))| async move {
        let mut took = Sample::default();
        let (n, step) = (u32::try_from(n).unwrap(), u32::try_from(CONVERSATIONS).unwrap());
        for due in (n..total).step_by(step as usize).map(|k| begun + every * k) {
            tokio::time::sleep_until(due).await;
            client.ask(&request, None).await;
            took.push(due.elapsed().as_secs_f64() * 1e3);
        }
        took
    });
    let mut took = Sample::default();
    for of_one in futures_util::future::join_all(work).await {
        took.extend(of_one);
    }
    service.stop();
    syncs.extend(Sample::from(harness::fsync(folder)));
    head("milliseconds", &["p50", "p95", "p99"]);
    row("4 KiB appended and synced", &cells(syncs.usual(), 2));
    row(&format!("acknowledgement at {RATE} a second"), &cells(took.usual(), 2));
    row("ratio at p99 (aim 2)", &cells([took.at(99.0) / syncs.at(99.0)], 2));
}

#[allow(clippy::disallowed_methods, reason = "how scripts/with-postgres talks to what it runs")]
fn main() {
    introduce("appends: durable messages a second, and what an acknowledgement takes");
    let folder = harness::folder();
    let server = std::env::var("TEST_POSTGRES_URL").ok();
    harness::block_on(async {
        sqlite(folder.path()).await;
        match server {
            Some(server) => postgres(&server).await,
            None => println!("\nno PostgreSQL: run it with scripts/with-postgres"),
        }
        acknowledgements(folder.path()).await;
    });
}
