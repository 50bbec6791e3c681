//! What the SQLite store costs per turn, alone: two commits a turn (accept with 4 events, finish
//! with 2), 256 conversations, groups of 1, 4 and 16 facts; and reads on a path of 10,000 messages.
//! CPU is that of the whole process (writer, hand-over, events' rows), facts are made beforehand.
//!
//! `cargo bench --bench store`, or `… -- 16` for groups of 16 alone.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program for people")]

use std::{
    fs,
    time::{Duration, Instant},
};

use deia::adapters::sqlite::SqliteStore;
use deia_actors::{
    domain::{
        ids::{BotId, MessageId},
        message::{Conversation, Sender},
    },
    ports::history_store::{Cursor, Fact, HistoryStore},
    testkit::conformance::samples,
};

const CONVERSATIONS: usize = 256;
const ROUNDS: usize = 5;

/// CPU time of every thread of this process.
fn cpu() -> Duration {
    let nanos = fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
        .filter_map(|line| line.split(' ').next()?.parse::<u64>().ok());
    Duration::from_nanos(nanos.sum())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// `turns` turns, a few of them running at a time, as one order of facts.
fn facts(homes: &[Conversation], leaves: &mut [Option<MessageId>], turns: usize) -> Vec<Fact> {
    let mut running = std::collections::VecDeque::new();
    let mut facts = Vec::with_capacity(turns * 2);
    for n in 0..turns {
        let at = n * 97 % homes.len();
        let (turn, question, reply) =
            samples::turn(&homes[at], leaves[at], "What is the capital of this country?");
        leaves[at] = Some(reply.id);
        let mut accept = samples::accept(&turn, &question, &reply);
        accept.events.extend([samples::progress(&turn), samples::progress(&turn)]);
        facts.push(accept);
        let (done, answer) = samples::ended(&turn, &reply, &"token".repeat(20));
        running.push_back(samples::finish(&done, &answer));
        if running.len() > 32 {
            facts.extend(running.pop_front());
        }
    }
    facts.extend(running);
    facts
}

async fn writes(group: usize, turns: usize) {
    let folder = tempfile::tempdir_in(".").unwrap();
    let store = SqliteStore::open(&folder.path().join("deia.db")).await.unwrap();
    let mut homes = vec![];
    for n in 1..=CONVERSATIONS {
        let (fact, main) = samples::launch(&BotId::numbered(n as u64));
        store.commit(vec![fact]).await.unwrap();
        homes.push(main);
    }
    let mut leaves = vec![None; homes.len()];
    let (mut costs, mut rates) = (vec![], vec![]);
    for _ in 0..ROUNDS {
        let mut all = facts(&homes, &mut leaves, turns).into_iter().peekable();
        let mut groups = vec![];
        while all.peek().is_some() {
            groups.push(all.by_ref().take(group).collect());
        }
        let (before, start) = (cpu(), Instant::now());
        for group in groups {
            assert!(store.commit(group).await.unwrap().iter().all(|c| c.applied));
        }
        let (spent, took) = (cpu().checked_sub(before).unwrap_or_default(), start.elapsed());
        costs.push(millis(spent) / turns as f64);
        rates.push(turns as f64 / took.as_secs_f64());
    }
    costs.sort_by(f64::total_cmp);
    rates.sort_by(f64::total_cmp);
    println!(
        "group {group:>2}: CPU-ms per turn min {:.3} median {:.3} max {:.3}; median {:.0} turns/s",
        costs[0],
        costs[ROUNDS / 2],
        costs[ROUNDS - 1],
        rates[ROUNDS / 2]
    );
    store.close().await;
}

async fn reads() {
    let folder = tempfile::tempdir_in(".").unwrap();
    let store = SqliteStore::open(&folder.path().join("deia.db")).await.unwrap();
    let (fact, main) = samples::launch(&BotId::numbered(1));
    store.commit(vec![fact]).await.unwrap();
    let (mut parent, mut ids) = (None, vec![]);
    for _ in 0..100 {
        let mut group = vec![];
        for _ in 0..100 {
            let text = "a sentence of an ordinary message. ".repeat(10);
            let next = samples::message(&main, parent, Sender::User, &text);
            parent = Some(next.id);
            ids.push(next.id);
            group.push(samples::append(&next));
        }
        store.commit(group).await.unwrap();
    }
    let leaf = *ids.last().unwrap();
    let mut times: Vec<(&str, Vec<f64>)> = vec![];
    for round in 0..21 {
        let mut note = |name, took: Duration| match times.iter_mut().find(|(known, _)| *known == name) {
            Some((_, all)) => all.push(millis(took)),
            // The first of each prepares its statement.
            None => times.push((name, if round == 0 { vec![] } else { vec![millis(took)] })),
        };
        for (name, cursor) in [
            ("newest page of 50", Cursor::Newest { offset: 0 }),
            ("page of 50 before the middle", Cursor::Before(ids[5000])),
            ("page of 50 before the 100th", Cursor::Before(ids[100])),
            ("page of 50 after the 100th", Cursor::After(ids[100])),
            ("page of 50 at offset 9,900", Cursor::Newest { offset: 9900 }),
        ] {
            let start = Instant::now();
            assert_eq!(store.page(main.id, cursor, 50).await.unwrap().unwrap().items.len(), 50);
            note(name, start.elapsed());
        }
        let start = Instant::now();
        store.conversation_snapshot(main.id, 50).await.unwrap().unwrap();
        note("conversation snapshot, 50 messages", start.elapsed());
        let start = Instant::now();
        store.path(leaf, 16 * 1024).await.unwrap();
        note("path of 16 KiB", start.elapsed());
        let start = Instant::now();
        assert_eq!(store.messages_above(leaf).await.unwrap(), 9999);
        note("count of the 9,999 above", start.elapsed());
    }
    for (name, mut all) in times {
        all.sort_by(f64::total_cmp);
        println!("{name}: {:.2} ms", all[all.len() / 2]);
    }
    store.close().await;
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or("unknown");
    println!("machine: {cores} cores, {}", model.trim_start_matches([' ', '\t', ':']));
    let only: Option<usize> = std::env::args().nth(1).and_then(|arg| arg.parse().ok());
    for (group, turns) in [(1, 1500), (4, 4000), (16, 6000)] {
        if only.is_none_or(|only| only == group) {
            writes(group, turns).await;
        }
    }
    if only.is_some() {
        return;
    }
    println!("reads on a path of 10,000 messages, median:");
    reads().await;
}
