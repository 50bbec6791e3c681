//! CPU that the deia process spends on a turn: 20 tokens of 5 bytes, 20 messages of context on average, accept and
//! finish durable in SQLite, one socket reading along on the conversation.
//!
//! hot = 32 users, tokens without a gap; gap 5 = 256 users, 5 ms between tokens. `JSON` waits for the whole answer,
//! `SSE` streams it as well. Rounds are interleaved and counted while all users are at it. The machine's speed changes
//! from minute to minute; the ratio to what the simulator's process spends in the same round does not.
//!
//! `cargo bench --bench turn_cpu`
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program for people"
)]

mod harness;

use std::{cell::Cell, rc::Rc, time::Duration};

use harness::{
    TOKEN_BYTES, TWENTY, TWENTY_GAP_5, head,
    http::Client,
    introduce,
    process::{self, CORES, Running},
    row, seconds,
    stats::{Sample, cells},
    ws::{Socket, token},
};
use tokio::{
    sync::Barrier,
    task::{JoinHandle, LocalSet, spawn_local},
    time::{sleep, timeout},
};

const ROUNDS: usize = 3;

#[derive(Clone, Copy, PartialEq)]
struct Shape {
    name: &'static str,
    short: &'static str,
    users: usize,
    model: &'static str,
    accept: &'static str,
    aim: Option<f64>,
}

const SHAPES: [Shape; 4] = [
    Shape {
        name: "hot, JSON + socket (32 users)",
        short: "hj",
        users: 32,
        model: TWENTY,
        accept: "application/json",
        aim: Some(0.40),
    },
    Shape {
        name: "gap 5, JSON + socket (256 users)",
        short: "gj",
        users: 256,
        model: TWENTY_GAP_5,
        accept: "application/json",
        aim: Some(0.60),
    },
    Shape {
        name: "hot, SSE + socket (32 users)",
        short: "hs",
        users: 32,
        model: TWENTY,
        accept: "text/event-stream",
        aim: None,
    },
    Shape {
        name: "gap 5, SSE + socket (256 users)",
        short: "gs",
        users: 256,
        model: TWENTY_GAP_5,
        accept: "text/event-stream",
        aim: None,
    },
];

/// What users and sockets saw so far.
#[derive(Default)]
struct Seen {
    turns: Cell<u64>,
    socket_bytes: Cell<u64>,
    socket_ends: Cell<u64>,
    frames: Cell<u64>,
    stop: Cell<bool>,
}

fn add(cell: &Cell<u64>, n: u64) {
    cell.set(cell.get() + n);
}

/// One round's figures.
struct Round {
    cpu_ms: f64,
    ratio: f64,
    rate: f64,
    frames: f64,
    switches: f64,
}

async fn user(
    address: std::net::SocketAddr,
    id: String,
    shape: Shape,
    seen: Rc<Seen>,
    go: Rc<Barrier>,
) -> Vec<JoinHandle<()>> {
    let mut client = Client::connect(address).await;
    let conversations = if shape.users > 100 { 4 } else { 12 };
    let mut user = client.user(&id, shape.model, conversations, shape.accept).await;
    let mut socket = Socket::connect(address).await;
    for conversation in &user.conversations {
        socket.subscribe(&format!("conversation:{conversation}")).await;
    }
    let reads = seen.clone();
    let reader = spawn_local(async move {
        let each = |text: &str| {
            add(&reads.frames, 1);
            if let Some(token) = token(text) {
                add(&reads.socket_bytes, token.bytes as u64);
            } else if text.contains("\"event\":\"turn_completed\"") {
                add(&reads.socket_ends, 1);
            }
        };
        while socket.read(each).await {}
    });
    let talks = spawn_local(async move {
        go.wait().await;
        while !seen.stop.get() {
            let request = user.next();
            if shape.accept == "application/json" {
                client.wait(request, 20).await;
            } else {
                client.stream(request, 20).await;
            }
            add(&seen.turns, 1);
        }
    });
    vec![talks, reader]
}

async fn round(service: &Running, simulator: &Running, shape: Shape, number: usize) -> Round {
    let (seen, go) = (Rc::new(Seen::default()), Rc::new(Barrier::new(shape.users)));
    let mut talks = vec![];
    let mut readers = vec![];
    for n in 0..shape.users {
        let id = format!("{}-{number}-{n}", shape.short);
        let mut tasks = user(service.address, id, shape, seen.clone(), go.clone()).await;
        readers.extend(tasks.pop());
        talks.extend(tasks);
    }
    sleep(Duration::from_secs(1)).await;
    let before = (service.cpu(), simulator.cpu(), seen.turns.get(), seen.frames.get(), service.switches());
    let start = std::time::Instant::now();
    sleep(seconds()).await;
    let turns = (seen.turns.get() - before.2) as f64;
    let (cpu, sim) = (service.cpu() - before.0, simulator.cpu() - before.1);
    let rate = turns / start.elapsed().as_secs_f64();
    let frames = (seen.frames.get() - before.3) as f64 / turns;
    let after = service.switches();
    let switches = (after.0 + after.1 - before.4.0 - before.4.1) as f64 / turns;
    seen.stop.set(true);
    for talk in talks {
        talk.await.unwrap();
    }
    let whole = async {
        while seen.socket_ends.get() < seen.turns.get() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(10), whole).await.expect("every socket sees the end of every turn");
    assert_eq!(
        seen.socket_bytes.get(),
        seen.turns.get() * (20 * TOKEN_BYTES) as u64,
        "every socket sees every byte"
    );
    for reader in readers {
        reader.abort();
    }
    Round { cpu_ms: cpu / turns * 1e3, ratio: cpu / sim, rate, frames, switches }
}

async fn measure() {
    let pinned = process::pin_this();
    let cores = if pinned { (Some(CORES.0), Some(CORES.1)) } else { (None, None) };
    println!(
        "{}",
        if pinned {
            "deia on core 0, simulator and clients on core 1"
        } else {
            "not pinned: no taskset or one core"
        }
    );
    let folder = harness::folder();
    let simulator = process::simulator(cores.1);
    let service = process::service(cores.0, &folder.path().join("data"), simulator.address);
    service.until_ready();
    let mut rounds: Vec<Vec<Round>> = SHAPES.iter().map(|_| vec![]).collect();
    head("each round", &["CPU-s/1,000", "ratio to sim", "turns/s", "frames/turn", "switches"]);
    for number in 0..ROUNDS {
        for (shape, all) in SHAPES.iter().zip(&mut rounds) {
            let made = round(&service, &simulator, *shape, number).await;
            let shown = [made.cpu_ms, made.ratio, made.rate, made.frames, made.switches];
            row(shape.name, &cells(shown, 2));
            all.push(made);
        }
    }
    head("CPU-s per 1,000 turns", &["min", "median", "max", "aim"]);
    for (shape, all) in SHAPES.iter().zip(&rounds) {
        let sample = Sample::from(all.iter().map(|r| r.cpu_ms).collect::<Vec<_>>());
        let mut shown = cells([sample.at(0.0), sample.at(50.0), sample.at(100.0)], 3);
        shown.push(shape.aim.map_or_else(String::new, |aim| format!("{aim:.2}")));
        row(shape.name, &shown);
    }
    head("ratio to the simulator's own CPU", &["min", "median", "max"]);
    for (shape, all) in SHAPES.iter().zip(&rounds) {
        let sample = Sample::from(all.iter().map(|r| r.ratio).collect::<Vec<_>>());
        row(shape.name, &cells([sample.at(0.0), sample.at(50.0), sample.at(100.0)], 2));
    }
    let total = service.cpu();
    head("CPU of deia by thread", &["share"]);
    for (name, spent) in service.cpu_by_thread() {
        row(&name, &[format!("{:.0} %", spent / total * 100.0)]);
    }
    println!("peak memory of deia at the end: {:.1} MB", service.rss() / 1024.0);
    service.stop();
}

fn main() {
    introduce("turn_cpu: CPU of the deia process per turn, durable, one socket reading along");
    harness::block_on(LocalSet::new().run_until(measure()));
}
