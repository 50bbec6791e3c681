//! 1,000 sockets that were cut come back at once, half of them readers of a bot and half of a conversation, and resume
//! behind the last event that they saw.
//!
//! - `in memory`: what they missed is among the last events that their topics keep.
//! - `from the database`: they missed more than that.
//! - `after a restart`: of the process, which has nothing in memory.
//!
//! Printed: from the common start until a reader has everything, with connecting and the handshake; events a second
//! until the last one has; how often one was put off with 503 (it asks again at once); and the growth of the memory.
//! Each reader must get every number from its own to the head, once and in order, or the bench fails.
//!
//! The raw limit, in the same run with the same readers and checks: a process that has the frames ready, by topic, and
//! writes them to whoever asks.
//!
//! `cargo bench --bench resume`, and on PostgreSQL: `scripts/with-postgres cargo bench --bench resume`. Smaller:
//! `DEIA_BENCH_SOCKETS=100`.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program for people"
)]

mod harness;

use std::{
    collections::HashMap,
    fs,
    io::Write as _,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::join_all;
use harness::{
    TWENTY, head,
    http::{Client, User, find},
    introduce, knob, postgres_server,
    process::{self, CORES, Running},
    raw, row,
    stats::{Sample, cells},
    ws::{Socket, framed, place},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

const SOCKETS: usize = 1000;
const BOTS: usize = 20;
/// Turns of each bot while its readers are away: few enough to be kept in memory, and far more than that.
const FEW: usize = 10;
const MANY: usize = 100;
/// A reader that takes longer misses events.
const LIMIT: Duration = Duration::from_secs(120);

/// Where a topic stands.
#[derive(Clone)]
struct Stand {
    topic: String,
    epoch: String,
    seq: u64,
}

async fn stand(service: &Running, topic: &str) -> Stand {
    let confirmed = Socket::connect(service.address).await.subscribe(topic).await;
    let (epoch, seq) = place(&confirmed).unwrap();
    Stand { topic: topic.to_owned(), epoch: epoch.to_owned(), seq }
}

async fn stands(service: &Running, topics: &[String]) -> Vec<Stand> {
    let mut stands = vec![];
    for topic in topics {
        stands.push(stand(service, topic).await);
    }
    stands
}

/// Catches up from one stand to another and checks every number on the way; shows each frame. Answers how often it was
/// put off.
async fn catch_up(address: SocketAddr, from: &Stand, head: u64, mut each: impl FnMut(&str)) -> u64 {
    let mut socket = Socket::connect(address).await;
    let (mut seen, mut confirmed, mut asked, mut refused) = (from.seq, false, 0, 0);
    while !confirmed || seen < head {
        if asked == refused {
            socket.resume(&from.topic, &from.epoch, from.seq).await;
            asked += 1;
        }
        let goes_on = socket
            .read(|frame| {
                if !confirmed && frame.contains("\"code\":\"unavailable\"") {
                    refused += 1;
                    return;
                }
                let (epoch, seq) = place(frame).unwrap_or_else(|| panic!("what is this: {frame}"));
                assert_eq!(epoch, from.epoch, "{}: another epoch", from.topic);
                if confirmed {
                    assert_eq!(seq, seen + 1, "{}: a gap", from.topic);
                    seen = seq;
                } else {
                    assert!(frame.contains("\"recovered\":true"), "not resumed: {frame}");
                    assert_eq!(seq, from.seq, "{}: resumed elsewhere", from.topic);
                    confirmed = true;
                }
                each(frame);
            })
            .await;
        assert!(goes_on, "{}: the socket ended at {seen} of {head}", from.topic);
    }
    refused
}

/// What all readers together took.
struct Took {
    each: Sample,
    events: u64,
    refused: u64,
}

impl Took {
    fn last(&self) -> f64 {
        self.each.at(100.0)
    }

    fn print(&self, name: &str, grown: Option<f64>) {
        let mut values = cells([self.each.at(50.0), self.each.at(99.0), self.last()], 0);
        values.extend(cells([self.events as f64 / self.last() * 1e3, self.refused as f64], 0));
        values.extend(cells(grown.map(|kib| kib / 1024.0), 1));
        row(name, &values);
    }
}

/// All sockets at once, spread over the topics.
async fn all(address: SocketAddr, from: &[Stand], to: &[Stand]) -> Took {
    let count = knob("DEIA_BENCH_SOCKETS", SOCKETS);
    let start = Instant::now();
    let readers = from.iter().zip(to).cycle().take(count).map(|(from, to)| async move {
        let refused = catch_up(address, from, to.seq, |_| {}).await;
        (start.elapsed().as_secs_f64() * 1e3, to.seq - from.seq, refused)
    });
    let took = timeout(LIMIT, join_all(readers)).await.expect("every reader gets everything");
    Took {
        each: Sample::from(took.iter().map(|t| t.0).collect::<Vec<_>>()),
        events: took.iter().map(|t| t.1).sum(),
        refused: took.iter().map(|t| t.2).sum(),
    }
}

/// Writes what one reader of each topic gets to a folder, for the raw process.
async fn record(address: SocketAddr, from: &[Stand], to: &[Stand], folder: &Path) {
    for (n, (from, to)) in from.iter().zip(to).enumerate() {
        let mut frames = vec![];
        catch_up(address, from, to.seq, |frame| frames.extend(framed(frame))).await;
        fs::write(folder.join(format!("{n}.frames")), frames).unwrap();
        fs::write(folder.join(format!("{n}.topic")), &from.topic).unwrap();
    }
}

async fn through_raw(core: Option<&str>, folder: &Path, from: &[Stand], to: &[Stand]) -> Took {
    let me = std::env::current_exe().unwrap();
    let server = process::start(me.to_str().unwrap(), core, |command| {
        command.arg("raw").arg(folder);
    });
    all(server.address, from, to).await
}

/// The raw process. It ends with its guard.
async fn serve_raw(folder: &Path) {
    let mut ready: HashMap<String, Bytes> = HashMap::new();
    for n in 0.. {
        let Ok(topic) = fs::read_to_string(folder.join(format!("{n}.topic"))) else { break };
        ready.insert(topic, fs::read(folder.join(format!("{n}.frames"))).unwrap().into());
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("listening on {}", listener.local_addr().unwrap());
    std::io::stdout().flush().unwrap();
    let ready: &'static _ = Box::leak(Box::new(ready));
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        tokio::spawn(answer_raw(stream, ready));
    }
}

async fn answer_raw(mut stream: TcpStream, ready: &HashMap<String, Bytes>) {
    stream.set_nodelay(true).unwrap();
    let mut asked = Vec::with_capacity(4096);
    while find(&asked, b"\r\n\r\n").is_none() {
        stream.read_buf(&mut asked).await.unwrap();
    }
    stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").await.unwrap();
    asked.clear();
    // The frame is masked with zeros, so it can be read as it is.
    let topic = loop {
        let text = String::from_utf8_lossy(&asked);
        if let Some((topic, _)) = text.split_once("\"topic\":\"").and_then(|(_, rest)| rest.split_once('"')) {
            break topic.to_owned();
        }
        stream.read_buf(&mut asked).await.unwrap();
    };
    stream.write_all(&ready[&topic]).await.unwrap();
    // The reader closes.
    let _ = stream.read(&mut [0]).await;
}

async fn talk(users: &mut [(Client, User)], turns: usize) {
    let all = users.iter_mut().map(|(client, user)| async move {
        for _ in 0..turns {
            client.wait(user.next(), 20).await;
        }
    });
    join_all(all).await;
}

async fn compare(
    name: &str,
    service: &Running,
    core: Option<&str>,
    folder: &Path,
    from: &[Stand],
    to: &[Stand],
) {
    let resting = service.settled_rss();
    service.forget_peak();
    let took = all(service.address, from, to).await;
    took.print(name, Some(service.peak() - resting));
    record(service.address, from, to, folder).await;
    let limit = through_raw(core, folder, from, to).await;
    limit.print("  raw: the same frames, ready", None);
    row("  events a second, of raw", &cells([limit.last() / took.last()], 2));
}

async fn measure() {
    let pinned = process::pin_this();
    let cores = if pinned { (Some(CORES.0), Some(CORES.1)) } else { (None, None) };
    let said = if pinned { "deia and the raw process on core 0, readers on core 1" } else { "not pinned" };
    println!("{said}; peak of the memory over what it was before");
    let folder = harness::folder();
    let data = folder.path().join("data");
    let url = match postgres_server() {
        Some(server) => Some(raw::database(&server, "resume").await),
        None => None,
    };
    println!("database: {}", if url.is_some() { "PostgreSQL" } else { "SQLite" });
    let simulator = process::simulator(cores.1);
    let serve = || {
        let service = process::service_with(cores.0, &data, simulator.address, |command| {
            command.envs(url.as_ref().map(|url| ("DEIA_STORAGE__URL", url)));
        });
        service.until_ready();
        service
    };
    let service = serve();
    let (mut users, mut topics) = (vec![], vec![]);
    for n in 0..BOTS {
        let mut client = Client::connect(service.address).await;
        let user = client.user(&format!("b{n}"), TWENTY, 1, "application/json").await;
        topics.extend([format!("bot:b{n}"), format!("conversation:{}", user.conversations[0])]);
        users.push((client, user));
    }
    talk(&mut users, 1).await;
    let begin = stands(&service, &topics).await;
    talk(&mut users, FEW).await;
    let few = stands(&service, &topics).await;
    let missed = |to: &[Stand]| to.iter().zip(&begin).map(|(to, from)| to.seq - from.seq).max().unwrap();
    let count = knob("DEIA_BENCH_SOCKETS", SOCKETS);
    head(&format!("{count} sockets resume, ms"), &["p50", "p99", "last", "events/s", "put off", "MiB more"]);
    let name = |what: &str, missed: u64| format!("{what}, {missed} events each");
    compare(&name("in memory", missed(&few)), &service, cores.0, folder.path(), &begin, &few).await;
    talk(&mut users, MANY).await;
    let many = stands(&service, &topics).await;
    compare(&name("from the database", missed(&many)), &service, cores.0, folder.path(), &begin, &many).await;
    drop(users);
    service.stop();
    let service = serve();
    let restarted = stands(&service, &topics).await;
    compare(
        &name("after a restart", missed(&restarted)),
        &service,
        cores.0,
        folder.path(),
        &begin,
        &restarted,
    )
    .await;
    service.stop();
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, raw, folder, ..] = arguments.as_slice()
        && raw == "raw"
    {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        return runtime.block_on(serve_raw(Path::new(folder)));
    }
    introduce("resume: sockets that were cut come back at once (needs 2,100 open files: `ulimit -n`)");
    harness::block_on(measure());
}
