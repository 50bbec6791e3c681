//! A page of history out of one conversation of 10,000 messages and out of one of 1,000,000: the newest, the one before the
//! message in the middle, the one at an offset of half of it. Flat means: the same, however long it is (aim: 1.5 times).
//!
//! `cargo bench --bench history_page`, and on PostgreSQL too: `scripts/with-postgres cargo bench --bench history_page`
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program for people"
)]

mod harness;

use std::time::Instant;

use deia::adapters::{
    postgres::{PostgresConfig, PostgresStore},
    sqlite::SqliteStore,
};
use deia_actors::{
    domain::{
        ids::{BotId, ConversationId, MessageId},
        message::Sender,
    },
    ports::history_store::{Cursor, HistoryStore},
    testkit::conformance::samples,
};
use harness::{
    head, introduce, row,
    stats::{Sample, cells},
};

const LENGTHS: [usize; 2] = [10_000, 1_000_000];
const GROUP: usize = 1000;
const PAGE: u32 = 50;
const READS: usize = 21;

/// A conversation of this length; the ids of its messages.
async fn fill(store: &dyn HistoryStore, bot: u64, length: usize) -> (ConversationId, Vec<MessageId>) {
    let (fact, home) = samples::launch(&BotId::numbered(bot));
    store.commit(vec![fact]).await.unwrap();
    let mut ids: Vec<MessageId> = Vec::with_capacity(length);
    while ids.len() < length {
        let mut group = Vec::with_capacity(GROUP);
        for _ in 0..GROUP.min(length - ids.len()) {
            let text = "a sentence of an ordinary message. ".repeat(5);
            let next = samples::message(&home, ids.last().copied(), Sender::User, &text);
            ids.push(next.id);
            group.push(samples::append(&next));
        }
        store.commit(group).await.unwrap();
    }
    (home.id, ids)
}

async fn read(store: &dyn HistoryStore, conversation: ConversationId, cursor: Cursor) -> f64 {
    let mut took = Sample::default();
    for _ in 0..READS {
        let start = Instant::now();
        assert_eq!(store.page(conversation, cursor, PAGE).await.unwrap().unwrap().items.len(), PAGE as usize);
        took.push(start.elapsed().as_secs_f64() * 1e3);
    }
    took.at(50.0)
}

async fn measure(database: &str, store: &dyn HistoryStore) {
    let mut columns = vec![];
    let start = Instant::now();
    for (bot, length) in (1..).zip(LENGTHS) {
        let (conversation, ids) = fill(store, bot, length).await;
        let half = u32::try_from(length / 2).unwrap();
        let mut column = vec![];
        for cursor in [
            Cursor::Newest { offset: 0 },
            Cursor::Before(ids[length / 2]),
            Cursor::After(ids[length / 2]),
            Cursor::Newest { offset: half },
        ] {
            column.push(read(store, conversation, cursor).await);
        }
        columns.push(column);
    }
    let title = format!("{database}: a page of 50, median in ms, of a conversation of");
    head(&title, &["10,000", "1,000,000", "ratio"]);
    let names = ["newest", "before the message in the middle", "after it", "at an offset of half of it"];
    for (name, (short, long)) in names.into_iter().zip(columns[0].iter().zip(&columns[1])) {
        row(name, &cells([*short, *long, long / short], 2));
    }
    println!("written and read within {:.0} s", start.elapsed().as_secs_f64());
}

async fn sqlite() {
    let folder = harness::folder();
    let store = SqliteStore::open(&folder.path().join("deia.db")).await.unwrap();
    measure("SQLite", &store).await;
    store.close().await;
}

/// On the server that scripts/with-postgres started for us, whose data are thrown away with it.
async fn postgres(server: &str) {
    let store = PostgresStore::open(&PostgresConfig::new(server)).await.unwrap();
    measure("PostgreSQL", &store).await;
    store.close().await;
}

#[allow(clippy::disallowed_methods, reason = "how scripts/with-postgres talks to what it runs")]
fn main() {
    introduce("history_page: how long a page takes as the conversation grows");
    let server = std::env::var("TEST_POSTGRES_URL").ok();
    harness::block_on(async {
        sqlite().await;
        match &server {
            Some(server) => postgres(server).await,
            None => println!("\nno PostgreSQL: run it with scripts/with-postgres"),
        }
    });
}
