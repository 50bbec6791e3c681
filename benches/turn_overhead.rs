//! What a turn takes through deia and straight to the model server, in the same minutes: first token and whole answer.
//!
//! Cold = 8 turns a second, in seeded order of the two ways; hot = one after the other, the two ways in alternating
//! blocks. One user, streamed answers, 20 tokens of 5 bytes, 20 messages of context on average. Every turn through deia
//! is stored durably before its acknowledgement, so one fdatasync is part of its first token and two of the whole.
//!
//! `cargo bench --bench turn_overhead`
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program for people"
)]

mod harness;

use std::time::Duration;

use harness::{
    TWENTY, TWENTY_GAP_5, fsync, head,
    http::{Client, Took, User},
    introduce, process, row, seconds,
    stats::{Sample, Seeded, cells},
};
use tokio::time::{Instant, MissedTickBehavior, interval};

#[derive(Default)]
struct Way {
    first: Sample,
    total: Sample,
}

impl Way {
    fn note(&mut self, took: Took) {
        self.first.push(took.first_ms);
        self.total.push(took.total_ms);
    }
}

struct Bench {
    deia: Client,
    user: User,
    direct: Client,
    ask: Vec<u8>,
}

impl Bench {
    async fn through(&mut self) -> Took {
        self.deia.stream(self.user.next(), 20).await
    }

    async fn straight(&mut self) -> Took {
        self.direct.direct_turn(&self.ask).await
    }

    async fn cold(&mut self, ways: &mut [Way; 2]) {
        let mut order = Seeded(0x5eed);
        let mut tick = interval(Duration::from_millis(125));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let begun = Instant::now();
        // Twice the time: each way gets a full sample.
        while begun.elapsed() < 2 * seconds() {
            tick.tick().await;
            if order.coin() {
                ways[0].note(self.straight().await);
            } else {
                ways[1].note(self.through().await);
            }
        }
    }

    async fn hot(&mut self, ways: &mut [Way; 2]) {
        let begun = Instant::now();
        while begun.elapsed() < seconds() {
            for _ in 0..10 {
                ways[0].note(self.straight().await);
            }
            for _ in 0..10 {
                ways[1].note(self.through().await);
            }
        }
    }
}

fn show(what: &str, ways: &[Way; 2]) {
    let [direct, through] = ways;
    println!("{what}: {} turns direct, {} through deia", direct.first.len(), through.first.len());
    for (name, direct, through) in
        [("first token", &direct.first, &through.first), ("whole answer", &direct.total, &through.total)]
    {
        let (direct, through) = (direct.usual(), through.usual());
        row(&format!("  {name}: direct"), &cells(direct, 2));
        row(&format!("  {name}: through deia"), &cells(through, 2));
        let more = [0, 1, 2].map(|i| through[i] - direct[i]);
        row(&format!("  {name}: difference"), &cells(more, 2));
    }
}

async fn measure() {
    let folder = harness::folder();
    let simulator = process::simulator(None);
    let service = process::service(None, &folder.path().join("data"), simulator.address);
    service.until_ready();
    let disk = || Sample::from(fsync(folder.path()));
    let mut syncs = disk();
    head("ms", &["p50", "p95", "p99"]);
    for (gap, model) in [("gap 0", TWENTY), ("gap 5 ms", TWENTY_GAP_5)] {
        let mut deia = Client::connect(service.address).await;
        let id = if model == TWENTY { "gap0" } else { "gap5" };
        let user = deia.user(id, model, 8, "text/event-stream").await;
        let direct = Client::connect(simulator.address).await;
        let ask = direct.direct(model);
        let mut bench = Bench { deia, user, direct, ask };
        for _ in 0..50 {
            // Connections, statements and caches are there before anything counts.
            bench.through().await;
            bench.straight().await;
        }
        let mut ways = Default::default();
        bench.cold(&mut ways).await;
        show(&format!("cold, {gap}"), &ways);
        syncs.extend(disk());
        let mut ways = Default::default();
        bench.hot(&mut ways).await;
        show(&format!("hot, {gap}"), &ways);
        syncs.extend(disk());
    }
    row("raw limit: 4 KiB appended + fdatasync", &cells(syncs.usual(), 2));
    println!(
        "aims at p50: cold +1.5 first token, +2.0 whole; hot +0.5 and one fdatasync ({:.2})",
        syncs.at(50.0)
    );
    service.stop();
}

fn main() {
    introduce("turn_overhead: a turn through deia against direct; not pinned");
    harness::block_on(measure());
}
