//! What is needed to be there: memory per idle bot and per idle socket, memory of the idle process, and the time from
//! its start until `/ready` answers 200.
//!
//! Memory is the growth of RSS between two counts, after it came to rest.
//!
//! `cargo bench --bench footprint`
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program for people"
)]

mod harness;

use std::path::Path;

use harness::{
    TWENTY, head,
    http::Client,
    introduce,
    process::{self, Running},
    row,
    stats::{Sample, cells},
    ws::Socket,
};

/// Clients that launch bots at the same time, so that their commits are grouped.
const CLIENTS: usize = 32;
const BOTS: (usize, usize) = (100, 10_000);
const SOCKETS: (usize, usize) = (100, 2_000);
const BOOTS: usize = 15;

/// Launches bots `from..to`; with `turns`, each has talked once.
async fn launch(service: &Running, from: usize, to: usize, turns: bool) {
    let clients = (0..CLIENTS).map(|c| {
        let address = service.address;
        tokio::spawn(async move {
            let mut client = Client::connect(address).await;
            for n in (from..to).filter(|n| n % CLIENTS == c) {
                let mut user = client.user(&format!("bot-{n}"), TWENTY, 1, "application/json").await;
                if turns {
                    client.wait(user.next(), 20).await;
                }
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
}

async fn bots(folder: &Path, simulator: &Running) {
    head("memory per idle bot", &["KiB a bot", "RSS MB"]);
    for (name, turns) in [("launched", false), ("launched, one turn each", true)] {
        let service = process::service(None, &folder.join(name), simulator.address);
        service.until_ready();
        launch(&service, 0, BOTS.0, turns).await;
        let before = service.settled_rss();
        launch(&service, BOTS.0, BOTS.1, turns).await;
        let after = service.settled_rss();
        let each = (after - before) / (BOTS.1 - BOTS.0) as f64;
        row(&format!("{name}: {} -> {} (aim 32)", BOTS.0, BOTS.1), &cells([each, after / 1024.0], 1));
        service.stop();
    }
}

async fn sockets(folder: &Path, simulator: &Running) {
    head("memory per idle socket", &["kB a socket", "RSS MB"]);
    for (name, topic) in [("connected", None), ("subscribed to a conversation", Some(()))] {
        let service = process::service(None, &folder.join(name), simulator.address);
        service.until_ready();
        let mut client = Client::connect(service.address).await;
        let conversation = client.launch("a", TWENTY).await;
        let mut open = vec![];
        let mut counts = [0.0; 2];
        for (count, rss) in [SOCKETS.0, SOCKETS.1].into_iter().zip(&mut counts) {
            while open.len() < count {
                let mut socket = Socket::connect(service.address).await;
                if topic.is_some() {
                    socket.subscribe(&format!("conversation:{conversation}")).await;
                }
                open.push(socket);
            }
            *rss = service.settled_rss();
        }
        let each = (counts[1] - counts[0]) * 1.024 / (SOCKETS.1 - SOCKETS.0) as f64;
        row(
            &format!("{name}: {} -> {} (aim 14)", SOCKETS.0, SOCKETS.1),
            &cells([each, counts[1] / 1024.0], 1),
        );
        drop(open);
        service.stop();
    }
}

async fn boots(folder: &Path, simulator: &Running) {
    head("from start to /ready, ms", &["p50", "max"]);
    let mut idle = Sample::default();
    let mut cold = Sample::default();
    for n in 0..BOOTS {
        let service = process::service(None, &folder.join(format!("cold-{n}")), simulator.address);
        cold.push(service.until_ready().as_secs_f64() * 1e3);
        if n < 3 {
            idle.push(service.settled_rss() / 1024.0);
        }
        service.stop();
    }
    row("new data folder (aim 100)", &cells([cold.at(50.0), cold.at(100.0)], 1));
    let data = folder.join("warm");
    let service = process::service(None, &data, simulator.address);
    service.until_ready();
    launch(&service, 0, 100, true).await;
    service.stop();
    let mut warm = Sample::default();
    let mut idle_bots = Sample::default();
    for n in 0..BOOTS {
        let service = process::service(None, &data, simulator.address);
        warm.push(service.until_ready().as_secs_f64() * 1e3);
        if n < 3 {
            idle_bots.push(service.settled_rss() / 1024.0);
        }
        service.stop();
    }
    row("data folder with 100 bots (aim 100)", &cells([warm.at(50.0), warm.at(100.0)], 1));
    head("idle memory, MB", &["p50", "max"]);
    row("no bots (aim 25)", &cells([idle.at(50.0), idle.at(100.0)], 1));
    row("100 bots after a start", &cells([idle_bots.at(50.0), idle_bots.at(100.0)], 1));
}

async fn measure() {
    let folder = harness::folder();
    let simulator = process::simulator(None);
    boots(folder.path(), &simulator).await;
    sockets(folder.path(), &simulator).await;
    bots(folder.path(), &simulator).await;
}

fn main() {
    introduce("footprint: memory of what is idle, and time to be ready");
    harness::block_on(measure());
}
