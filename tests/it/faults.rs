//! Everything that a model server may do wrong, one after the other: each turn ends once and typed, with what came kept; its slot and
//! its connection are free; it was asked for as often as is safe and no oftener; the memory does not grow; others are answered meanwhile.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use deia::sim::{Sim, SimConfig};

use crate::support::{Api, Home, Stage, eventually, numbered};

/// How much more memory the service may have had at any time of a test than at its begin, in KiB.
const MEMORY: u64 = 64 << 10;

/// Most memory that the process had so far, in KiB.
fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// How many events of a turn say that it ended, and whether the last one does.
async fn ends(api: &Api, turn: &Value) -> (usize, bool) {
    let path = format!("/api/turn/{}/events", turn.as_str().expect("an id"));
    let events = api.events(path, None).await.rest().await;
    let is_end = |name: &Option<String>| {
        let terminal = ["turn_completed", "turn_stopped", "turn_failed", "turn_interrupted"];
        name.as_deref().is_some_and(|name| terminal.contains(&name))
    };
    (events.iter().filter(|e| is_end(&e.event)).count(), events.last().is_some_and(|e| is_end(&e.event)))
}

async fn busy_slots(api: &Api) -> Value {
    api.get("/api/servers").await.expect(200)["items"][0]["slots"]["busy"].clone()
}

const HELD: &str = "sim:tokens=30,hold_at=10,reset_at=10";

/// A way to go wrong: the model that does, how its turn ends, tokens kept, requests that the turn made.
type Fault<'a> = (&'a str, Result<(), &'a str>, usize, u64);

#[tokio::test]
async fn whatever_a_model_server_does_its_turn_ends_once_and_harms_nobody() {
    let elsewhere = Sim::start(SimConfig::default()).await.expect("another server");
    let stage = Stage::with(&[
        // Far longer than what is to end well takes, far shorter than what is not to.
        ("DEIA_INFERENCE__IDLE_S", "2"),
        ("DEIA_INFERENCE__FIRST_BYTE_S", "12"),
    ])
    .await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("eve", "sim:echo").await;
    api.send("eve", "hello").await.expect(200);
    let redirect = format!("sim:redirect={}", elsewhere.address().port());
    let faults: [Fault<'_>; 20] = [
        ("sim:tokens=5,busy=2", Ok(()), 5, 3),
        ("sim:tokens=5,load_ms=700", Ok(()), 5, 1),
        ("sim:tokens=2,drip_ms=1", Ok(()), 2, 1),
        ("sim:tokens=30,stall_at=0", Err("upstream_timeout"), 0, 1),
        ("sim:tokens=30,stall_at=10", Err("upstream_timeout"), 10, 1),
        ("sim:tokens=30,cut_at=0", Err("upstream_error"), 0, 1),
        ("sim:tokens=30,cut_at=10", Err("upstream_error"), 10, 1),
        ("sim:tokens=30,reset_at=0", Err("upstream_error"), 0, 1),
        // What a reset overtakes on its way is lost; what was read before is not, so it is held until all of it was.
        (HELD, Err("upstream_error"), 10, 1),
        ("sim:tokens=30,garbage", Err("upstream_error"), 3, 1),
        ("sim:tokens=30,garbage=0", Err("upstream_error"), 0, 1),
        ("no-such-model", Err("model_not_found"), 0, 1),
        ("sim:tokens=30,error_at=0", Err("upstream_error"), 0, 1),
        ("sim:tokens=30,error_at=10", Err("upstream_error"), 10, 1),
        // A byte now and then is no answer: a line must come.
        ("sim:tokens=3,drip_ms=100", Err("upstream_timeout"), 1, 1),
        ("sim:tokens=30,long_at=2", Err("upstream_error"), 2, 1),
        ("sim:long_at=0", Err("upstream_error"), 0, 1),
        ("sim:gzip", Err("upstream_error"), 0, 1),
        ("sim:html", Err("upstream_error"), 0, 1),
        (&redirect, Err("upstream_error"), 0, 1),
    ];
    let memory = peak(deia.pid());
    for (n, (model, end, tokens, requests)) in faults.into_iter().enumerate() {
        let (bot, before) = (format!("b{n}"), stage.sim.stats());
        api.launch(&bot, model).await;
        let told = api.send_without_waiting(&bot, "talk").await.expect(202);
        if model == HELD {
            api.written(&told["turn"]["id"], numbered(tokens).len()).await;
            stage.sim.let_go();
        }
        let meanwhile = api.send("eve", "and you?").await.expect(200);
        assert_eq!(meanwhile["reply"]["content"], "and you?", "{model}");
        let turn = api.ended(&told["turn"]["id"]).await;
        let (state, kept_as) = if end.is_ok() { ("completed", "complete") } else { ("failed", "partial") };
        assert_eq!(
            (&turn["state"], turn["error"]["code"].as_str()),
            (&json!(state), end.err()),
            "{model}: {turn}"
        );
        let kept = api.message(&bot, &turn["reply_id"]).await;
        assert_eq!(
            (&kept["content"], &kept["state"]),
            (&json!(numbered(tokens)), &json!(kept_as)),
            "{model}"
        );
        assert_eq!(ends(&api, &turn["id"]).await, (1, true), "{model}");
        assert_eq!(busy_slots(&api).await, 0, "{model}");
        stage.all_closed().await;
        assert_eq!(stage.sim.stats().requests, before.requests + requests + 1, "{model}");
        let status = api.get(format!("/api/bot/{bot}/status")).await.expect(200);
        assert_eq!(status["restart_count"], 0, "{model}");
    }
    assert_eq!(elsewhere.stats().requests, 0, "a redirect leads nowhere");
    let more = peak(deia.pid()).saturating_sub(memory);
    assert!(more < MEMORY, "{more} KiB more than before");
}

/// A server whose list of models never ends. Counts what its clients took of it.
async fn endless(list: TcpListener, taken: Arc<AtomicU64>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = list.accept().await.expect("a connection");
        connections.spawn(talk(stream, taken.clone()));
    }
}

async fn talk(mut stream: TcpStream, taken: Arc<AtomicU64>) -> Option<()> {
    let (mut asked, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        while !asked.windows(4).any(|w| w == b"\r\n\r\n") {
            let n = stream.read(&mut buffer).await.ok().filter(|n| *n > 0)?;
            asked.extend_from_slice(&buffer[..n]);
        }
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
        if asked.starts_with(b"GET /api/tags") {
            stream
                .write_all(format!("{head}Connection: close\r\n\r\n{{\"models\":[").as_bytes())
                .await
                .ok()?;
            let entry = r#"{"name":"sim:echo","model":"sim:echo","modified_at":"","size":1},"#.repeat(1000);
            while stream.write_all(entry.as_bytes()).await.is_ok() {
                taken.fetch_add(entry.len() as u64, Ordering::Relaxed);
            }
            return None;
        }
        let body =
            if asked.starts_with(b"GET /api/version") { r#"{"version":"9"}"# } else { r#"{"models":[]}"# };
        let answer = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await.ok()?;
        asked.clear();
    }
}

#[tokio::test]
async fn a_list_of_models_that_never_ends_is_left_and_its_server_is_down() {
    let sim = Sim::start(SimConfig::default()).await.expect("a server");
    let list = TcpListener::bind("127.0.0.1:0").await.expect("an address");
    let (address, taken) = (list.local_addr().expect("an address"), Arc::new(AtomicU64::new(0)));
    let endless = tokio::spawn(endless(list, taken.clone()));
    let home = Home::new().env("DEIA_SERVER__DRAIN_S", "1");
    let deia = home.env("DEIA_INFERENCE__SERVERS", format!("http://{address},{}", sim.url())).start().await;
    let api = deia.api();
    let left = async || (taken.load(Ordering::Relaxed) > 20 << 20).then_some(());
    eventually("its list was read more than once", left).await;
    let servers = api.get("/api/servers").await.expect(200);
    assert_eq!(servers["items"][0]["state"], "down", "{servers}");
    api.launch("ada", "simulated").await;
    let answer = api.send("ada", "hello").await.expect(200);
    assert_eq!(answer["turn"]["server"], sim.url().replace("http://", ""));
    let most = peak(deia.pid());
    assert!(most < 3 * MEMORY, "{most} KiB");
    endless.abort();
}
