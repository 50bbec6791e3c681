//! From the crash of a bot to its next answer. Every crash is the first one of its bot in its calm window, so the
//! restart is due at once.
//!
//! - `actor away`: from the moment at which its supervisor learns of the crash until the new actor runs, as the
//!   supervisor itself notes it (`took_ms` of `bot_restarted`).
//! - `crash ordered → ready`: from the call of `kill` until the bot's status is ready again. The call writes its audit
//!   entry first, durably; the raw limit for that is printed beside it.
//! - `crash → answer`: from the return of `kill` until a whole turn of 20 tokens is stored and answered; beside it the
//!   same turn without a crash.
//!
//! `cargo bench --bench restart`
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program for people"
)]

mod harness;

use std::time::{Duration, Instant};

use deia::{app::App, config::Config};
use deia_actors::{
    broadcast::reader::Reader,
    controller::{
        Controller,
        requests::{KillHow, LaunchBot, SendMessage, Sent},
    },
    domain::{bot::BotState, event::Topic, ids::BotId},
};
use harness::{
    QUESTION, TOKEN_BYTES, TWENTY, head, introduce, process, row,
    stats::{Sample, cells},
};
use serde_json::{Map, json};
use tokio_util::sync::CancellationToken;

const BOTS: usize = 300;

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

async fn turn(controller: &Controller, bot: &BotId) -> f64 {
    let start = Instant::now();
    let Sent::Turn(accepted) = controller.send(SendMessage::text(bot.clone(), QUESTION)).await.unwrap()
    else {
        panic!("a message begins a turn");
    };
    let end = accepted.ended().await.unwrap();
    assert_eq!(end.reply.as_ref().unwrap().content.len(), 20 * TOKEN_BYTES);
    millis(start.elapsed())
}

/// What the supervisor itself noted of the next restart in this bot's events, in ms.
async fn noted(reader: &mut Reader) -> f64 {
    loop {
        let delivery = reader.next().await.unwrap();
        if &*delivery.name == "bot_restarted" {
            let frame: serde_json::Value = serde_json::from_slice(&delivery.frame).unwrap();
            return frame["data"]["took_ms"].as_f64().unwrap();
        }
    }
}

/// `rest` = time between the restart and the next message.
async fn crashes(controller: &Controller, how: KillHow, prefix: &str, rest: Duration) {
    let config = Map::from_iter([("model".to_owned(), json!(TWENTY))]);
    let ids: Vec<BotId> = (0..BOTS).map(|n| BotId::parse(&format!("{prefix}-{n}")).unwrap()).collect();
    let mut quiet = Sample::default();
    for id in &ids {
        let launch =
            LaunchBot { bot_id: Some(id.clone()), config: Some(config.clone()), ..LaunchBot::default() };
        controller.launch(launch).await.unwrap();
        turn(controller, id).await;
        quiet.push(turn(controller, id).await);
    }
    let mut away = Sample::default();
    let (mut ready, mut answered) = (Sample::default(), Sample::default());
    for id in &ids {
        let mut reader = controller.reader();
        controller.subscribe(&reader, Topic::Bot(id.clone()), None).await.unwrap();
        let start = Instant::now();
        controller.kill(id, how, None).await.unwrap();
        let killed = Instant::now();
        // A status is a look into memory; between two looks the workers go on.
        loop {
            let status = controller.status(id).unwrap();
            if status.restart_count == 1 && status.state == BotState::Ready {
                break;
            }
            assert!(killed.elapsed() < Duration::from_secs(5), "{id} does not come back: {status:?}");
            tokio::task::yield_now().await;
        }
        ready.push(millis(start.elapsed()));
        let back = killed.elapsed();
        tokio::time::sleep(rest).await;
        answered.push(millis(back) + turn(controller, id).await);
        away.push(noted(&mut reader).await);
    }
    println!("{how:?}, {BOTS} crashes of {BOTS} bots, next message {rest:?} after it is back:");
    row("  actor away (aim p50 1, p99 20)", &cells(away.usual(), 3));
    row("  crash ordered, audited -> ready", &cells(ready.usual(), 3));
    row("  crash -> whole next answer", &cells(answered.usual(), 3));
    row("  the same turn without a crash", &cells(quiet.usual(), 3));
    let more: Vec<f64> = answered.usual().iter().zip(quiet.usual()).map(|(a, q)| a - q).collect();
    row("  added by the crash (aim p50 1, p99 20)", &cells(more, 3));
}

async fn measure() {
    let simulator = process::simulator(None);
    let folder = harness::folder();
    let data = folder.path().join("data");
    let config = Config::with([
        ("data_dir", data.display().to_string()),
        ("server.listen", "127.0.0.1:0".to_owned()),
        ("inference.servers", format!("http://{}", simulator.address)),
        ("inference.simulated", "off".to_owned()),
        ("inference.slots", "64".to_owned()),
        ("bots.max_running", "10000".to_owned()),
    ])
    .unwrap();
    let app = App::build(&config).await.unwrap();
    let controller = app.controller();
    let stop = CancellationToken::new();
    let running = tokio::spawn(app.run_until_stopped(stop.clone()));
    head("ms", &["p50", "p95", "p99"]);
    let (at_once, later) = (Duration::ZERO, Duration::from_millis(20));
    crashes(&controller, KillHow::Panic, "panic", at_once).await;
    crashes(&controller, KillHow::Kill, "kill", at_once).await;
    crashes(&controller, KillHow::Panic, "later", later).await;
    let disk = Sample::from(harness::fsync(folder.path()));
    row("raw limit: 4 KiB appended + fdatasync", &cells(disk.usual(), 3));
    stop.cancel();
    running.await.unwrap().unwrap();
}

fn main() {
    introduce("restart: crash of a bot until it answers again; in process, not pinned");
    // The crashes are meant; their messages are not wanted.
    std::panic::set_hook(Box::new(|info| {
        if !info.to_string().contains("killed on purpose") {
            println!("{info}");
        }
    }));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(measure());
}
