//! A page of history out of one conversation of 10,000 messages and out of one of 1,000,000: the newest, the one before the
//! message in the middle, the one at an offset of half of it. Flat means: the same, however long it is (aim: 1.5 times).
//!
//! `cargo bench --bench history_page`
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program for people"
)]

mod harness;

use std::{path::Path, time::Instant};

use deia::adapters::sqlite::SqliteStore;
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
async fn fill(store: &SqliteStore, bot: u64, length: usize) -> (ConversationId, Vec<MessageId>) {
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

async fn read(store: &SqliteStore, conversation: ConversationId, cursor: Cursor) -> f64 {
    let mut took = Sample::default();
    for _ in 0..READS {
        let start = Instant::now();
        assert_eq!(store.page(conversation, cursor, PAGE).await.unwrap().unwrap().items.len(), PAGE as usize);
        took.push(start.elapsed().as_secs_f64() * 1e3);
    }
    took.at(50.0)
}

async fn measure(folder: &Path) {
    let store = SqliteStore::open(&folder.join("deia.db")).await.unwrap();
    let mut columns = vec![];
    for (bot, length) in (1..).zip(LENGTHS) {
        let (conversation, ids) = fill(&store, bot, length).await;
        let half = u32::try_from(length / 2).unwrap();
        let mut column = vec![];
        for cursor in [
            Cursor::Newest { offset: 0 },
            Cursor::Before(ids[length / 2]),
            Cursor::After(ids[length / 2]),
            Cursor::Newest { offset: half },
        ] {
            column.push(read(&store, conversation, cursor).await);
        }
        columns.push(column);
    }
    store.close().await;
    head("a page of 50, median in ms, of a conversation of", &["10,000", "1,000,000", "ratio"]);
    let names = ["newest", "before the message in the middle", "after it", "at an offset of half of it"];
    for (name, (short, long)) in names.into_iter().zip(columns[0].iter().zip(&columns[1])) {
        row(name, &cells([*short, *long, long / short], 2));
    }
}

fn main() {
    introduce("history_page: how long a page takes as the conversation grows");
    let folder = harness::folder();
    harness::block_on(measure(folder.path()));
}
