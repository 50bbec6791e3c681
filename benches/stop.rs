//! How soon a Stop closes the connection to the model server: from the client's `POST /api/turn/:id/stop` to the moment at which the
//! simulator sees the connection gone, in each phase of a turn. The simulator runs in this process, so both moments are of one clock.
//!
//! Raw limit in the same run: an answer of the same simulator dropped by a bare client of the same kind as deia's.
//! A waiting turn has no connection; for it, and beside the others, stands the time until Stop is answered, which is after the
//! end of the turn is stored durably.
//!
//! `cargo bench --bench stop`
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program for people"
)]

mod harness;

use std::time::{Duration, Instant};

use deia::sim::{Sim, SimConfig};
use harness::{
    fsync, head,
    http::Client,
    introduce,
    process::{self, CORES},
    row, seconds,
    stats::{Sample, cells},
};
use serde_json::json;

/// The aim: connection closed after Stop, p99 in ms.
const AIM_MS: f64 = 10.0;
/// Between a token that left the simulator and the stop: it has arrived by then.
const ARRIVES: Duration = Duration::from_millis(5);

/// A phase, its model, and whether it has begun to speak.
const PHASES: [(&str, &str, bool); 4] = [
    ("loading the model", "sim:load_ms=600000", false),
    ("prompt processing", "sim:first_ms=600000", false),
    ("thinking", "sim:think,gap_ms=20", true),
    ("content", "sim:tokens=5000,gap_ms=5", true),
];

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Waits until the simulator counts so; the clients of this bench do nothing meanwhile.
async fn until(sim: &Sim, counted: impl Fn(&deia::sim::SimStats) -> bool) {
    while !counted(&sim.stats()) {
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
}

/// From `start` until the simulator saw the next client go.
async fn gone(sim: &Sim, start: Instant, left_before: u64) -> f64 {
    while sim.stats().closed_early == left_before {
        tokio::task::yield_now().await;
    }
    millis(sim.last_left().unwrap().saturating_duration_since(start))
}

struct Bench {
    sim: Sim,
    deia: Client,
}

impl Bench {
    async fn begin(&mut self, bot: &str) -> String {
        let body = json!({ "bot_id": bot, "content": "talk" });
        let told = self.deia.json("POST", "/api/chat/send?wait=false", body).await;
        told["turn"]["id"].as_str().unwrap().to_owned()
    }

    fn stop(&self, turn: &str) -> Vec<u8> {
        self.deia.request("POST", &format!("/api/turn/{turn}/stop"), "application/json", "{}")
    }

    /// The times until the connection was gone, and until Stop was answered.
    async fn phase(&mut self, bot: &str, speaks: bool) -> [Sample; 2] {
        let (mut closed, mut answered) = (Sample::default(), Sample::default());
        let begun = Instant::now();
        while begun.elapsed() < seconds() {
            let before = self.sim.stats();
            let turn = self.begin(bot).await;
            until(&self.sim, |s| s.open == 1 && (!speaks || s.tokens > before.tokens)).await;
            if speaks {
                tokio::time::sleep(ARRIVES).await;
            }
            let request = self.stop(&turn);
            let start = Instant::now();
            let (gone, took) =
                tokio::join!(gone(&self.sim, start, before.closed_early), self.deia.ask(&request, None));
            closed.push(gone);
            answered.push(took.total_ms);
        }
        [closed, answered]
    }

    /// The times until Stop of a waiting turn was answered.
    async fn queued(&mut self) -> Sample {
        let mut answered = Sample::default();
        let first = self.begin("content").await;
        until(&self.sim, |s| s.open == 1).await;
        let begun = Instant::now();
        while begun.elapsed() < seconds() {
            let turn = self.begin("waits").await;
            let request = self.stop(&turn);
            answered.push(self.deia.ask(&request, None).await.total_ms);
        }
        let request = self.stop(&first);
        self.deia.ask(&request, None).await;
        answered
    }

    async fn raw(&self) -> Sample {
        let client = reqwest::Client::builder().no_proxy().tcp_nodelay(true).build().unwrap();
        let body = json!({ "model": "sim:tokens=5000,gap_ms=5", "messages": [{ "role": "user", "content": "talk" }] });
        let mut closed = Sample::default();
        let begun = Instant::now();
        while begun.elapsed() < seconds() {
            let before = self.sim.stats();
            let asked = client.post(format!("{}/api/chat", self.sim.url())).json(&body);
            let mut answer = asked.send().await.unwrap();
            answer.chunk().await.unwrap();
            let start = Instant::now();
            drop(answer);
            closed.push(gone(&self.sim, start, before.closed_early).await);
        }
        closed
    }
}

fn line(name: &str, sample: &Sample) {
    let mut values = cells([50.0, 95.0, 99.0, 100.0].map(|p| sample.at(p)), 2);
    values.push(sample.len().to_string());
    row(name, &values);
}

async fn measure(core: Option<&str>) {
    let folder = harness::folder();
    let sim = Sim::start(SimConfig::default()).await.unwrap();
    let data = folder.path().join("data");
    let service = process::service_with(core, &data, sim.address(), |c| {
        c.env("DEIA_INFERENCE__SLOTS", "1");
    });
    service.until_ready();
    let deia = Client::connect(service.address).await;
    let mut bench = Bench { sim, deia };
    for (_, model, _) in PHASES {
        bench.deia.launch(bot(model), model).await;
    }
    bench.deia.launch("waits", "sim:echo").await;
    head("ms from POST stop", &["p50", "p95", "p99", "max", "stops"]);
    let mut worst: f64 = 0.0;
    for (name, model, speaks) in PHASES {
        let [closed, answered] = bench.phase(bot(model), speaks).await;
        worst = worst.max(closed.at(99.0));
        line(&format!("{name}: connection gone"), &closed);
        line(&format!("{name}: stop answered"), &answered);
    }
    line("waiting in line: stop answered", &bench.queued().await);
    let raw = bench.raw().await;
    line("raw limit: bare client drops its answer", &raw);
    line("raw limit: 4 KiB appended + fdatasync", &Sample::from(fsync(folder.path())));
    let verdict = if worst <= AIM_MS { "met" } else { "missed" };
    println!("aim: connection gone at p99 <= {AIM_MS} ms in every phase: {worst:.2}, {verdict}");
    let page = bench.deia.request("GET", "/metrics", "text/plain", "");
    bench.deia.ask(&page, None).await;
    println!(
        "\nas the service saw it (from the stop that reached the bot until slot and connection were let go):"
    );
    let text = String::from_utf8_lossy(&bench.deia.answer).into_owned();
    for shown in text.lines().filter(|l| l.starts_with("deia_stop_latency_seconds_") && !l.contains("} 0")) {
        let inner = ["0.0001\"", "0.001\"", "0.01\"", "+Inf\""]
            .iter()
            .any(|le| shown.contains(&format!("le=\"{le}")));
        if inner || shown.contains("_sum") {
            println!("  {shown}");
        }
    }
    service.stop();
    bench.sim.stop().await;
}

/// The bot of a model.
fn bot(model: &str) -> &'static str {
    match model {
        m if m.contains("load") => "loading",
        m if m.contains("first") => "prompt",
        m if m.contains("think") => "thinking",
        _ => "content",
    }
}

fn main() {
    let pinned = process::pin_this();
    introduce(if pinned { "stop: pinned, service on one core" } else { "stop: not pinned" });
    harness::block_on(measure(pinned.then_some(CORES.0)));
}
