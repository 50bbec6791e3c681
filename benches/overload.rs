//! What deia does when ten times as much comes as its model server can take: how much is still answered, how soon the rest is told
//! no, and what it costs.
//!
//! First the saturation: twice as many users as slots, each of which asks again once it is answered, the next conversation each time, so that all 1,024
//! conversations of 256 bots are in use in both halves. Then ten times that rate, for 60 s (`DEIA_BENCH_SECONDS`): the messages to them are due at
//! fixed times, whatever became of the ones before. Whichever of 512 connections is free sends the next one, so a slow answer holds up no other
//! message as long as fewer than 512 are slow. The time of an answer counts from when its message was due, not from when it was sent. The model server has
//! 16 slots and takes 100 ms an answer, so that it is the limit. The service has one core; simulator and clients the other.
//!
//! Aims: 0.9 of the saturation answered; every refusal typed, with `Retry-After`, within 50 ms; memory at most 1.5 of that at saturation; p99 of
//! `/health` at most 50 ms. Those of `/health` are from the sending. How late the clients sent is shown beside them: it is part of the times, also
//! where the clients' own core was the reason. What the disk does in that time is shown too (4 KiB appended and synced every 20 ms): an acceptance waits for it.
//!
//! `cargo bench --bench overload`
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program for people"
)]

mod harness;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use harness::{
    QUESTION, TWENTY_GAP_5, head,
    http::{Client, find},
    introduce, knob,
    process::{self, CORES, Running},
    row,
    stats::{Sample, cells},
};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval, sleep_until};

const SLOTS: usize = 16;
const BOTS: usize = 256;
/// More than have room in the line of the server, so that it is the line that is full and not one of theirs.
const CONVERSATIONS: usize = 1024;
/// Connections that the flood is sent over.
const CLIENTS: usize = 512;
/// How much more comes than can be answered.
const TIMES: f64 = 10.0;
/// How long the saturation is looked at.
const SATURATION: Duration = Duration::from_secs(10);
const HEALTH_EVERY: Duration = Duration::from_millis(20);
/// Pause before each sync of the disk that is looked at.
const SYNC_EVERY: Duration = Duration::from_millis(20);

const GOODPUT: f64 = 0.9;
const REFUSED_WITHIN_MS: f64 = 50.0;
const MEMORY: f64 = 1.5;
const HEALTH_MS: f64 = 50.0;

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn bot(n: usize) -> String {
    format!("b{}", n % BOTS)
}

fn message(client: &Client, topics: &[String], n: usize, query: &str) -> Vec<u8> {
    let topic = topics.get(n % topics.len());
    let body = json!({ "bot_id": bot(n), "content": QUESTION, "conversation_id": topic }).to_string();
    client.request("POST", &format!("/api/chat/send{query}"), "application/json", &body)
}

/// Turns that were answered to their end since the service began. On a new connection: an idle one is closed.
async fn completed(service: SocketAddr) -> f64 {
    let mut client = Client::connect(service).await;
    let request = client.request("GET", "/metrics", "text/plain", "");
    client.ask(&request, None).await;
    let page = String::from_utf8_lossy(&client.answer).into_owned();
    let series = "deia_turns_total{state=\"completed\"} ";
    page.lines().find_map(|l| l.strip_prefix(series)).and_then(|n| n.parse().ok()).unwrap()
}

/// Turns a second while everybody who is answered asks again.
async fn saturation(service: SocketAddr, topics: &[String]) -> f64 {
    let end = Instant::now() + SATURATION + Duration::from_secs(2);
    let users = (0..2 * SLOTS).map(|n| async move {
        let mut client = Client::connect(service).await;
        for n in (n..).step_by(2 * SLOTS) {
            if Instant::now() >= end {
                break;
            }
            let request = message(&client, topics, n, "");
            client.ask(&request, None).await;
        }
    });
    let watch = async {
        // The first second is not like the others.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (begun, before) = (Instant::now(), completed(service).await);
        tokio::time::sleep(SATURATION).await;
        (completed(service).await - before) / begun.elapsed().as_secs_f64()
    };
    tokio::join!(join_all(users), watch).1
}

/// What the clients of the open loop saw.
#[derive(Default)]
struct Seen {
    accepted: Sample,
    refused: Sample,
    /// How much later than due requests were sent, in ms.
    late: Sample,
    /// Answers by status and code.
    codes: BTreeMap<String, u64>,
    /// Refusals without a code or without a moment to come back.
    untyped: u64,
}

impl Seen {
    fn note(&mut self, answer: &[u8], took_ms: f64) {
        let status = String::from_utf8_lossy(answer.get(9..12).unwrap_or_default()).into_owned();
        if status == "202" {
            self.accepted.push(took_ms);
            *self.codes.entry(status).or_default() += 1;
            return;
        }
        let text = String::from_utf8_lossy(answer);
        let code = text.split_once("\"code\":\"").and_then(|(_, rest)| rest.split('"').next()).unwrap_or("");
        let comes_back = text.to_ascii_lowercase().contains("\r\nretry-after:");
        self.untyped += u64::from(code.is_empty() || !comes_back);
        self.refused.push(took_ms);
        *self.codes.entry(format!("{status} {code}")).or_default() += 1;
    }

    fn join(mut self, other: Self) -> Self {
        self.accepted.extend(other.accepted);
        self.refused.extend(other.refused);
        self.late.extend(other.late);
        other.codes.into_iter().for_each(|(code, n)| *self.codes.entry(code).or_default() += n);
        self.untyped += other.untyped;
        self
    }
}

async fn flood(service: SocketAddr, topics: &[String], rate: f64, time: Duration) -> Seen {
    let begin = Instant::now() + Duration::from_millis(200);
    let every = Duration::from_secs_f64(1.0 / rate);
    let total = (time.as_secs_f64() * rate) as usize;
    let next = &AtomicUsize::new(0);
    let clients = (0..CLIENTS).map(|_| async move {
        let mut seen = Seen::default();
        let mut client = Client::connect(service).await;
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= total {
                break;
            }
            let request = message(&client, topics, n, "?wait=false");
            let due = begin + every.mul_f64(n as f64);
            sleep_until(due.into()).await;
            seen.late.push(millis(due.elapsed()));
            client.exchange(&request, None).await;
            seen.note(&client.answer, millis(due.elapsed()));
        }
        seen
    });
    join_all(clients).await.into_iter().fold(Seen::default(), Seen::join)
}

/// What `/health` takes, asked on a connection of its own.
async fn health(service: SocketAddr, time: Duration) -> Sample {
    let mut client = Client::connect(service).await;
    let request = client.request("GET", "/health", "application/json", "");
    let mut tick = interval(HEALTH_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut sample, begun) = (Sample::default(), Instant::now());
    while begun.elapsed() < time {
        tick.tick().await;
        sample.push(client.ask(&request, None).await.total_ms);
        assert!(find(&client.answer, b"\"ok\"").is_some());
    }
    sample
}

/// The largest memory in that time, in KiB.
async fn memory(service: &Running, time: Duration) -> f64 {
    service.forget_peak();
    tokio::time::sleep(time).await;
    service.peak()
}

fn verdict(what: &str, value: f64, aim: f64, at_least: bool) {
    let met = if at_least { value >= aim } else { value <= aim };
    let sign = if at_least { ">=" } else { "<=" };
    println!("{what}: {value:.2}, aim {sign} {aim}: {}", if met { "met" } else { "missed" });
}

async fn measure(core: Option<&str>, others: Option<&str>) {
    let time = Duration::from_secs_f64(knob("DEIA_BENCH_SECONDS", 60.0));
    let folder = harness::folder();
    let simulator = process::simulator(others);
    let service = process::service_with(core, &folder.path().join("data"), simulator.address, |c| {
        c.env("DEIA_INFERENCE__SLOTS", SLOTS.to_string());
    });
    service.until_ready();
    let address = service.address;
    let mut watcher = Client::connect(address).await;
    let mut topics = vec![];
    for n in 0..BOTS {
        topics.push(watcher.launch(&bot(n), TWENTY_GAP_5).await);
    }
    for n in BOTS..CONVERSATIONS {
        let path = format!("/api/chat/{}/conversations", bot(n));
        let made = watcher.json("POST", &path, json!({})).await;
        topics.push(made["id"].as_str().unwrap().to_owned());
    }
    let window = SATURATION + Duration::from_secs(2);
    let cpu = service.cpu();
    let (most, calm_health, calm) =
        tokio::join!(saturation(address, &topics), health(address, window), memory(&service, window));
    let calm_cpu = (service.cpu() - cpu) / window.as_secs_f64();
    println!(
        "\nsaturation: {most:.1} turns/s with {SLOTS} slots; {:.1} MiB; {calm_cpu:.2} of its core",
        calm / 1024.0
    );
    let rate = TIMES * most;
    let (before, cpu, begun) = (completed(address).await, service.cpu(), Instant::now());
    let count = async {
        tokio::time::sleep(time).await;
        (completed(address).await - before) / begun.elapsed().as_secs_f64()
    };
    let syncs = {
        let (folder, count) = (folder.path().to_owned(), time.as_secs_f64() / SYNC_EVERY.as_secs_f64());
        tokio::task::spawn_blocking(move || harness::fsync_paced(&folder, count as usize, SYNC_EVERY))
    };
    let (seen, health, peak, good, syncs) = tokio::join!(
        flood(address, &topics, rate, time),
        health(address, time),
        memory(&service, time),
        count,
        syncs
    );
    let syncs = Sample::from(syncs.unwrap());
    let cpu = (service.cpu() - cpu) / begun.elapsed().as_secs_f64();
    println!(
        "overload: {rate:.0} messages/s for {:.0} s; {:.1} MiB; {cpu:.2} of its core",
        time.as_secs_f64(),
        peak / 1024.0
    );
    for (code, n) in &seen.codes {
        println!("  {code}: {n}");
    }
    head("ms", &["p50", "p95", "p99", "max", "n"]);
    for (name, sample) in [
        ("refused", &seen.refused),
        ("accepted (202, stored)", &seen.accepted),
        ("/health in the overload", &health),
        ("/health at saturation", &calm_health),
        ("clients: sent later than due", &seen.late),
        ("the disk: 4 KiB appended and synced", &syncs),
    ] {
        let mut values = cells([50.0, 95.0, 99.0, 100.0].map(|p| sample.at(p)), 2);
        values.push(sample.len().to_string());
        row(name, &values);
    }
    println!();
    verdict("goodput / saturation", good / most, GOODPUT, true);
    verdict("refusals without code or Retry-After", seen.untyped as f64, 0.0, false);
    verdict("refusals, p99 in ms", seen.refused.at(99.0), REFUSED_WITHIN_MS, false);
    verdict("refusals, max in ms", seen.refused.at(100.0), REFUSED_WITHIN_MS, false);
    verdict("memory / at saturation", peak / calm, MEMORY, false);
    verdict("/health, p99 in ms", health.at(99.0), HEALTH_MS, false);
    service.stop();
}

fn main() {
    let pinned = process::pin_this();
    introduce(if pinned {
        "overload: service on one core, the rest on the other"
    } else {
        "overload: not pinned"
    });
    harness::block_on(measure(pinned.then_some(CORES.0), pinned.then_some(CORES.1)));
}
