//! One conversation, many sockets: how late tokens come at 10 a second, and how many come flat out.
//!
//! The raw limit, in the same run and with the same readers: a loop over as many tokio-tungstenite sockets that sends
//! each a ready frame of the same length, in a process of its own.
//! Lag = from the event's own `time` to its arrival at a socket. deia merges pieces that wait behind a socket's last
//! write, so tokens are counted by the length of their text; the raw loop sends one token a frame. A merged piece bears
//! the time of its merging: how many of the frames were merged is shown beside the lag.
//!
//! `cargo bench --bench fan_out`
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program for people"
)]

mod harness;

use std::{
    cell::RefCell,
    io::Write as _,
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use deia_actors::domain::time::Timestamp;
use futures_util::SinkExt;
use harness::{
    TOKEN_BYTES, head,
    http::Client,
    introduce,
    process::{self, CORES, Running},
    row, seconds,
    stats::{Sample, cells},
    ws::{Socket, micros, token},
};
use tokio::{
    net::TcpListener,
    task::{LocalSet, spawn_local},
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_tungstenite::{
    accept_async_with_config,
    tungstenite::{Message, Utf8Bytes, protocol::WebSocketConfig},
};

const COUNTS: [usize; 3] = [1, 100, 1000];
const TEN_A_SECOND: Duration = Duration::from_millis(100);
/// Tokens of a flat out round, by its sockets.
const FLAT_OUT: [(usize, usize); 3] = [(1, 100_000), (100, 100_000), (1000, 40_000)];

/// A frame as deia sends it, with one token.
fn ready_frame() -> Utf8Bytes {
    let id = "019a0000-0000-7000-8000-000000000000";
    let now = Timestamp::now();
    let text = format!(
        r#"{{"type":"event","topic":"conversation:{id}","epoch":"{id}","seq":7,"id":null,"event":"token","time":"{now}","data":{{"turn_id":"{id}","message_id":"{id}","kind":"content","offset":1000,"text":"0000 "}}}}"#
    );
    Utf8Bytes::try_from(Bytes::from(text)).unwrap()
}

/// The raw loop, as a process: `raw SOCKETS GAP_MS SECONDS`. Ends by itself.
async fn raw(count: usize, gap: Duration, time: Duration) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("listening on {}", listener.local_addr().unwrap());
    std::io::stdout().flush().unwrap();
    let mut sockets = vec![];
    while sockets.len() < count {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let config = WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(4096);
        sockets.push(accept_async_with_config(stream, Some(config)).await.unwrap());
    }
    let begun = Instant::now();
    if gap.is_zero() {
        let message = Message::Text(ready_frame());
        while begun.elapsed() < time {
            for socket in &mut sockets {
                socket.send(message.clone()).await.unwrap();
            }
        }
    } else {
        let mut tick = interval(gap);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while begun.elapsed() < time {
            tick.tick().await;
            let message = Message::Text(ready_frame());
            for socket in &mut sockets {
                socket.send(message.clone()).await.unwrap();
            }
        }
    }
}

/// What the readers saw.
struct Seen {
    lags: Sample,
    bytes: usize,
    frames: usize,
    merged: usize,
    first: Option<Instant>,
    last: Instant,
}

impl Seen {
    fn new() -> Rc<RefCell<Self>> {
        let (lags, last) = (Sample::default(), Instant::now());
        Rc::new(RefCell::new(Self { lags, bytes: 0, frames: 0, merged: 0, first: None, last }))
    }

    fn see(&mut self, text: &str, lags: bool) {
        let Some(token) = token(text) else { return };
        self.bytes += token.bytes;
        self.frames += 1;
        self.merged += usize::from(token.bytes > TOKEN_BYTES);
        self.last = Instant::now();
        self.first.get_or_insert(self.last);
        if lags {
            let sent = micros(token.time).unwrap();
            let now = micros(&Timestamp::now().to_string()).unwrap();
            self.lags.push((now - sent) as f64 / 1e3);
        }
    }

    fn tokens(&self) -> f64 {
        (self.bytes / TOKEN_BYTES) as f64
    }

    fn seconds(&self) -> f64 {
        self.first.map_or(f64::NAN, |first| (self.last - first).as_secs_f64())
    }
}

/// Reads `sockets` until each has `bytes` of text, or has ended.
async fn read_all(sockets: Vec<Socket>, bytes: usize, lags: bool) -> Seen {
    let seen = Seen::new();
    let readers: Vec<_> = sockets
        .into_iter()
        .map(|mut socket| {
            let seen = seen.clone();
            spawn_local(async move {
                let mut have = 0;
                let each = |have: &mut usize, text: &str| {
                    *have += token(text).map_or(0, |t| t.bytes);
                    seen.borrow_mut().see(text, lags);
                };
                while have < bytes && socket.read(|text| each(&mut have, text)).await {}
                have
            })
        })
        .collect();
    let limit = Duration::from_secs(120);
    let all = async {
        for reader in readers {
            let have = reader.await.unwrap();
            assert!(bytes == usize::MAX || have == bytes, "a socket got {have} of {bytes} bytes");
        }
    };
    timeout(limit, all).await.expect("every socket gets everything");
    Rc::into_inner(seen).unwrap().into_inner()
}

fn raw_process(core: Option<&str>, count: usize, gap: Duration, time: Duration) -> Running {
    let me = std::env::current_exe().unwrap();
    process::start(me.to_str().unwrap(), core, |command| {
        let arguments = [count.to_string(), gap.as_millis().to_string(), time.as_millis().to_string()];
        command.arg("raw").args(arguments);
    })
}

async fn through_raw(core: Option<&str>, count: usize, gap: Duration) -> Seen {
    let server = raw_process(core, count, gap, seconds());
    let mut sockets = vec![];
    for _ in 0..count {
        sockets.push(Socket::connect(server.address).await);
    }
    read_all(sockets, usize::MAX, !gap.is_zero()).await
}

struct Deia {
    service: Running,
    bots: usize,
}

impl Deia {
    /// What `count` sockets see of one answer, and the CPU of the process for it.
    async fn answer(&mut self, count: usize, model: &str, tokens: usize, lags: bool) -> (Seen, f64) {
        let mut client = Client::connect(self.service.address).await;
        self.bots += 1;
        let mut user = client.user(&format!("b{}", self.bots), model, 1, "application/json").await;
        let mut sockets = vec![];
        for _ in 0..count {
            let mut socket = Socket::connect(self.service.address).await;
            socket.subscribe(&format!("conversation:{}", user.conversations[0])).await;
            sockets.push(socket);
        }
        let before = self.service.cpu();
        let talk = spawn_local(async move { client.wait(user.next(), tokens).await });
        let seen = read_all(sockets, tokens * TOKEN_BYTES, lags).await;
        talk.await.unwrap();
        (seen, self.service.cpu() - before)
    }
}

async fn steady(deia: &mut Deia, core: Option<&str>) {
    head("10 tokens a second: lag, ms", &["p50", "p99", "tokens/s", "merged %"]);
    for count in COUNTS {
        let tokens = (seconds().as_secs_f64() * 10.0) as usize;
        let model = format!("sim:tokens={tokens},gap_ms={}", TEN_A_SECOND.as_millis());
        let raw = through_raw(core, count, TEN_A_SECOND).await;
        let (through, _) = deia.answer(count, &model, tokens, true).await;
        for (name, seen) in [("raw", &raw), ("deia", &through)] {
            let merged = seen.merged as f64 / seen.frames as f64 * 100.0;
            let shown = [seen.lags.at(50.0), seen.lags.at(99.0), seen.tokens() / seen.seconds(), merged];
            row(&format!("{count} sockets, {name}"), &cells(shown, 2));
        }
        let ratio = |p| raw.lags.at(p) / through.lags.at(p);
        row(&format!("{count} sockets, raw / deia (aim 0.8)"), &cells([ratio(50.0), ratio(99.0)], 2));
    }
}

async fn flat_out(deia: &mut Deia, core: Option<&str>) {
    head("flat out", &["tokens/s", "frames/s", "tokens/frame", "CPU us/frame"]);
    for (count, tokens) in FLAT_OUT {
        let raw = through_raw(core, count, Duration::ZERO).await;
        row(
            &format!("{count} sockets, raw"),
            &cells([raw.tokens() / raw.seconds(), raw.frames as f64 / raw.seconds(), 1.0], 0),
        );
        let (seen, cpu) = deia.answer(count, &format!("sim:tokens={tokens}"), tokens, false).await;
        let (rate, frames) = (seen.tokens() / seen.seconds(), seen.frames as f64);
        let shown = [rate, frames / seen.seconds(), seen.tokens() / frames, cpu / frames * 1e6];
        row(&format!("{count} sockets, deia (aim 1,000,000)"), &cells(shown, 0));
        row(&format!("{count} sockets, deia / raw"), &cells([rate / (raw.tokens() / raw.seconds())], 2));
    }
}

async fn measure() {
    let pinned = process::pin_this();
    let cores = if pinned { (Some(CORES.0), Some(CORES.1)) } else { (None, None) };
    println!(
        "{}",
        if pinned {
            "deia and the raw loop on core 0, simulator and readers on core 1"
        } else {
            "not pinned: no taskset or one core"
        }
    );
    let folder = harness::folder();
    let simulator = process::simulator(cores.1);
    let service = process::service(cores.0, &folder.path().join("data"), simulator.address);
    service.until_ready();
    let mut deia = Deia { service, bots: 0 };
    steady(&mut deia, cores.0).await;
    flat_out(&mut deia, cores.0).await;
    deia.service.stop();
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|a| a == "raw") {
        let number = |at: usize| arguments.get(at).and_then(|a| a.parse().ok()).unwrap();
        let (count, gap, time) = (number(2), number(3), number(4));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let count = usize::try_from(count).unwrap();
        return runtime.block_on(raw(count, Duration::from_millis(gap), Duration::from_millis(time)));
    }
    introduce("fan_out: one conversation, many sockets (needs 2,100 open files: `ulimit -n`)");
    harness::block_on(LocalSet::new().run_until(measure()));
}
