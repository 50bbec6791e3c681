//! The adapter against the simulator, and against servers that say anything.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;

use deia_actors::{
    ports::chat_model::{ChatDone, PieceKind, PullStep},
    testkit::conformance::chat_model::{Collected, Subject, collect, request, suite},
};
use futures_util::StreamExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::*;
use crate::sim::{Sim, SimConfig};

/// For what is about to run into one limit, and is not to run into the other one before.
const FIRST_BYTE: Limits = Limits { first_byte: Duration::from_millis(150), ..LONG };
const IDLE: Limits = Limits { idle: Duration::from_millis(60), ..LONG };
/// For everything else: no test waits for them.
const LONG: Limits = Limits {
    first_byte: Duration::from_secs(120),
    idle: Duration::from_secs(120),
    call: Duration::from_secs(120),
};

fn ollama(address: SocketAddr, limits: Limits) -> Ollama {
    Ollama::new(&parse_address(&address.to_string()).unwrap(), limits).unwrap()
}

async fn sim() -> (Sim, Ollama) {
    let sim = Sim::start(SimConfig::default()).await.unwrap();
    let ollama = ollama(sim.address(), Limits::default());
    (sim, ollama)
}

async fn ask(ollama: &Ollama, model: &str) -> Collected {
    collect(ollama, request(model, "Grüße, one two three", &json!({}))).await
}

#[tokio::test]
async fn the_simulator_passes_the_suite_of_the_port() {
    let sim = Arc::new(Sim::start(SimConfig::default()).await.unwrap());
    let watched = Arc::clone(&sim);
    let subject = Subject {
        model: Arc::new(ollama(sim.address(), Limits::default())),
        name: "simulated".into(),
        missing: "nope".into(),
        counts_tokens: true,
        lists_models: true,
        pullable: Some("qwen3:4b".into()),
        open_calls: Some(Arc::new(move || watched.stats().open)),
    };
    suite(&subject).await;
    assert!(sim.stats().closed_early >= 1);
}

#[tokio::test]
async fn every_script_gives_what_it_says() {
    let (sim, ollama) = sim().await;
    let echo = ask(&ollama, "sim:echo").await;
    assert_eq!(echo.content, "Grüße, one two three");
    assert_eq!(echo.end.unwrap().reason.as_deref(), Some("stop"));

    let counted = ask(&ollama, "sim:tokens=200,gap_ms=1,first_ms=5").await;
    let numbers: String = (0..200).map(|n| format!("{n:04} ")).collect();
    assert_eq!(counted.content, numbers);
    assert_eq!(counted.end.unwrap().completion_tokens, Some(200));

    let chopped = ask(&ollama, "sim:utf8,tokens=300").await;
    let smooth = ask(&ollama, "sim:utf8,tokens=12").await;
    assert!(chopped.content.starts_with(&smooth.content) && chopped.content.contains("👩‍👩‍👧‍👦 é"));
    assert_eq!(chopped.content, smooth.content.repeat(25), "byte for byte, whatever the cuts");

    let thought = ask(&ollama, "sim:think,echo").await;
    assert_eq!(thought.content, "Grüße, one two three");
    assert!(thought.thinking.starts_with("The message has 4 words."));

    let loaded = ask(&ollama, "sim:load_ms=30,echo").await;
    assert!(loaded.end.is_ok());
    assert!(ollama.loaded().await.unwrap().iter().any(|m| m.name == "sim:load_ms=30,echo"));
    sim.stop().await;
}

#[tokio::test]
async fn tool_calls_keep_their_ids_and_their_order() {
    let (sim, ollama) = sim().await;
    let mut wanted = request("sim:tools,echo", "Bonn", &json!({}));
    wanted.tools = vec![json!({"type": "function", "function": {"name": "weather", "description": "Weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}})];
    let answer = collect(&ollama, wanted.clone()).await;
    assert_eq!(answer.tool_calls[0]["function"]["arguments"], json!({"city": "Bonn"}));
    assert!(answer.tool_calls[0]["id"].as_str().unwrap().starts_with("call_"));
    assert!(answer.end.is_ok());
    wanted.model = "sim:echo".into();
    let refused = collect(&ollama, wanted).await;
    assert!(matches!(refused.end, Err(ModelError::Refused { status: 400, .. })), "{refused:?}");
    sim.stop().await;
}

#[tokio::test]
async fn faults_keep_what_came_and_end_in_their_condition() {
    let (sim, ollama) = sim().await;
    let ten: String = (0..10).map(|n| format!("{n:04} ")).collect();

    let failed = ask(&ollama, "sim:error_at=10").await;
    assert_eq!(failed.content, ten);
    assert!(
        matches!(&failed.end, Err(ModelError::Failed(m)) if m.ends_with("after 10 tokens")),
        "{failed:?}"
    );

    let cut = ask(&ollama, "sim:cut_at=10").await;
    assert_eq!((cut.content, cut.end), (ten.clone(), Err(ModelError::Cut)));

    // Its tokens leave in one write, so only the silence after them takes time.
    let stalled = ask(&self::ollama(sim.address(), IDLE), "sim:stall_at=10").await;
    assert_eq!((stalled.content, stalled.end), (ten, Err(ModelError::Timeout(Wait::Idle))));

    let garbage = ask(&ollama, "sim:garbage").await;
    assert_eq!(garbage.content, "0000 0001 0002 ");
    assert!(matches!(garbage.end, Err(ModelError::Protocol(_))));

    assert_eq!(ask(&ollama, "sim:cut_at=0").await.end, Err(ModelError::Cut));
    assert!(matches!(ask(&ollama, "sim:error_at=0").await.end, Err(ModelError::Failed(_))));
    assert!(matches!(ask(&ollama, "sim:nonsense").await.end, Err(ModelError::Refused { status: 400, .. })));
    sim.stop().await;
}

#[tokio::test]
async fn busy_is_told_apart_and_nothing_is_tried_twice() {
    let (sim, ollama) = sim().await;
    for n in 1..=2 {
        let busy = ask(&ollama, "sim:busy=2,echo").await.end.unwrap_err();
        assert!(matches!(busy, ModelError::Busy(_)) && busy.is_retryable());
        assert_eq!(sim.stats().requests, n, "one call is one request");
    }
    assert!(ask(&ollama, "sim:busy=2,echo").await.end.is_ok());
    sim.stop().await;
}

#[tokio::test]
async fn the_first_byte_has_its_own_limit() {
    let (sim, _) = sim().await;
    let impatient = ollama(sim.address(), FIRST_BYTE);
    for model in ["sim:first_ms=60000", "sim:load_ms=60000", "sim:stall_at=0"] {
        assert_eq!(ask(&impatient, model).await.end, Err(ModelError::Timeout(Wait::FirstByte)), "{model}");
    }
    let patient = ollama(sim.address(), IDLE);
    assert!(ask(&patient, "sim:echo,first_ms=100").await.end.is_ok(), "longer than the idle limit");
    sim.stop().await;
}

/// Pulls to the end: the steps, and how it ended.
async fn pull(ollama: &Ollama, model: &str) -> (Vec<PullStep>, Result<(), ModelError>) {
    let mut steps = vec![];
    let mut stream = match ollama.pull(model).await {
        Ok(stream) => stream,
        Err(error) => return (steps, Err(error)),
    };
    while let Some(step) = stream.next().await {
        match step {
            Ok(step) => steps.push(step),
            Err(error) => return (steps, Err(error)),
        }
    }
    (steps, Ok(()))
}

#[tokio::test]
async fn a_pull_that_goes_wrong_ends_in_its_condition_and_the_next_goes_on_there() {
    let (sim, ollama) = sim().await;
    let ended = async |model: &str| pull(&ollama, model).await.1;
    assert_eq!(ended("nope").await, Err(ModelError::ModelNotFound("nope".into())));
    assert_eq!(ended("full-disk").await, Err(ModelError::DiskFull));
    assert_eq!(ended("cut").await, Err(ModelError::Cut));
    // Left where it falls silent, which is half-way.
    let half = |step: &PullStep| step.completed.zip(step.total).is_some_and(|(done, all)| done * 2 >= all);
    let mut stream = ollama.pull("stalls").await.unwrap();
    let (mut begun, mut left) = (None, None);
    while left.is_none() {
        let step = stream.next().await.unwrap().unwrap();
        begun = begun.or(step.completed);
        left = half(&step).then_some(step.completed).flatten();
    }
    drop(stream);
    // Its steps are 50 ms apart: the limit is one that only the silence reaches.
    let limits = Limits { idle: Duration::from_secs(2), ..LONG };
    let (again, stalled) = pull(&self::ollama(sim.address(), limits), "stalls").await;
    assert_eq!(stalled, Err(ModelError::Timeout(Wait::Idle)));
    assert_eq!(again.iter().find_map(|s| s.completed), left, "resumed");
    assert!(begun < left);
    sim.stop().await;
}

#[tokio::test]
async fn a_server_that_talks_nonsense_or_nothing_ends_a_pull() {
    const STEP: &str = "{\"status\":\"pulling a\",\"digest\":\"a\",\"total\":2,\"completed\":1}\n";
    let whole = format!("{STEP}{{\"status\":\"success\"}}");
    for (name, body, then, steps, end) in [
        ("a whole one without its last line feed", whole.as_str(), CLOSES, 2, "Ok(())"),
        ("whole, and the connection stays open", &format!("{whole}\n"), HANGS, 2, "Ok(())"),
        ("no end", STEP, CLOSES, 1, "Err(Cut)"),
        ("half a line", &STEP[..20], CLOSES, 0, "Err(Cut)"),
        ("a page", "<html>\n", HANGS, 0, "Err(Protocol("),
        ("an error object", "{\"error\":{\"message\":\"no\"}}\n", HANGS, 0, "Err(Failed(\"no\"))"),
        ("silence from the start", "", Then::Hang(FIRST_BYTE), 0, "Err(Timeout(FirstByte))"),
        ("silence after a step", STEP, Then::Hang(IDLE), 1, "Err(Timeout(Idle))"),
        ("a line without end", &"x".repeat(MAX_LINE + 1), HANGS, 0, "Err(Protocol("),
    ] {
        let (server, ollama) = raw(head(&format!("Connection: close\r\n\r\n{body}")), then).await;
        let (seen, ended) = pull(&ollama, "m").await;
        assert!(format!("{ended:?}").starts_with(end), "{name}: {ended:?}");
        assert_eq!(seen.len(), steps, "{name}");
        server.abort();
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let gone = ollama(address, Limits::default());
    let error = ask(&gone, "m").await.end.unwrap_err();
    assert!(matches!(error, ModelError::Unreachable(_)) && error.is_retryable());
    assert!(!error.to_string().contains("http"), "no address in the text: {error}");
    assert!(matches!(gone.version().await, Err(ModelError::Unreachable(_))));
}

#[tokio::test]
async fn a_finished_answer_gives_its_connection_back() {
    let (server, address) = counting_proxy().await;
    let ollama = ollama(address.0, Limits::default());
    for _ in 0..5 {
        assert!(ask(&ollama, "sim:tokens=5").await.end.is_ok());
    }
    assert_eq!(address.1.load(std::sync::atomic::Ordering::SeqCst), 1, "five answers over one connection");
    server.abort();
}

/// A simulator behind a relay that counts connections.
async fn counting_proxy() -> (JoinHandle<()>, (SocketAddr, Arc<std::sync::atomic::AtomicU64>)) {
    let sim = Sim::start(SimConfig::default()).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = Arc::clone(&count);
    let task = tokio::spawn(async move {
        let mut relays = tokio::task::JoinSet::new();
        loop {
            let (mut inner, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let mut outer = TcpStream::connect(sim.address()).await.unwrap();
            relays.spawn(async move { tokio::io::copy_bidirectional(&mut inner, &mut outer).await });
        }
    });
    (task, (address, count))
}

/// What a server does after its answer.
enum Then {
    Close,
    /// It keeps silent, and its client waits no longer than this.
    Hang(Limits),
}

const CLOSES: Then = Then::Close;
/// Longer than any test.
const HANGS: Then = Then::Hang(LONG);

/// A server that reads one request's head and answers with these bytes, and a client of it.
async fn raw(answer: Vec<u8>, then: Then) -> (JoinHandle<()>, Ollama) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (limits, close) = match then {
        Then::Close => (LONG, true),
        Then::Hang(limits) => (limits, false),
    };
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
        while !seen.windows(4).any(|w| w == b"\r\n\r\n") {
            let n = stream.read(&mut buffer).await.unwrap();
            seen.extend_from_slice(&buffer[..n]);
        }
        stream.write_all(&answer).await.unwrap();
        if close {
            stream.shutdown().await.unwrap();
        } else {
            std::future::pending::<()>().await;
        }
    });
    (task, ollama(address, limits))
}

fn head(rest: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n{rest}").into_bytes()
}

const TOKEN: &str = "{\"model\":\"m\",\"created_at\":\"t\",\"message\":{\"role\":\"assistant\",\"content\":\"ab\"},\"done\":false}\n";
const DONE: &str = "{\"message\":{\"content\":\"\"},\"done\":true}\n";

#[tokio::test]
async fn servers_that_talk_nonsense_end_in_a_condition_and_keep_what_came() {
    let long = "x".repeat(MAX_LINE + 1);
    type Case = (&'static str, Vec<u8>, &'static str, fn(&ModelError) -> bool);
    let cases: Vec<Case> = vec![
        ("not HTTP", b"220 mail.example ESMTP\r\n".to_vec(), "", |e| matches!(e, ModelError::Protocol(_))),
        ("nothing", Vec::new(), "", |e| *e == ModelError::Cut),
        ("half a head", b"HTTP/1.1 200 OK\r\nContent-".to_vec(), "", |e| *e == ModelError::Cut),
        ("no body", head("Content-Length: 0\r\n\r\n"), "", |e| *e == ModelError::Cut),
        ("a body shorter than said", head(&format!("Content-Length: 900\r\n\r\n{TOKEN}")), "ab", |e| {
            *e == ModelError::Cut
        }),
        ("no done", head(&format!("Content-Length: {}\r\n\r\n{TOKEN}", TOKEN.len())), "ab", |e| {
            *e == ModelError::Cut
        }),
        ("a page", head("Content-Length: 7\r\n\r\n<html>\n"), "", |e| matches!(e, ModelError::Protocol(_))),
        (
            "a bad chunk",
            head(&format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{TOKEN}\r\nzz\r\n", TOKEN.len())),
            "ab",
            |e| matches!(e, ModelError::Protocol(_) | ModelError::Cut),
        ),
        ("a line without end", head(&format!("Connection: close\r\n\r\n{TOKEN}{long}")), "ab", |e| {
            matches!(e, ModelError::Protocol(_))
        }),
        (
            "a redirect",
            b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n".to_vec(),
            "",
            |e| matches!(e, ModelError::Failed(m) if m.contains("redirects")),
        ),
        (
            "a compressed answer",
            head("Content-Encoding: gzip\r\nContent-Length: 9\r\n\r\nwhatever\n"),
            "",
            |e| matches!(e, ModelError::Protocol(m) if m.contains("compressed")),
        ),
        ("a 500 page", b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops".to_vec(), "", |e| {
            *e == ModelError::Failed("oops".into())
        }),
    ];
    for (name, bytes, content, condition) in cases {
        let (server, ollama) = raw(bytes, CLOSES).await;
        let answer = ask(&ollama, "m").await;
        let error = answer.end.expect_err(name);
        assert!(condition(&error), "{name}: {error:?}");
        assert_eq!(answer.content, content, "{name}");
        server.await.unwrap();
    }
}

#[tokio::test]
async fn silence_runs_into_the_limit_of_its_phase() {
    let first = (FIRST_BYTE, Wait::FirstByte);
    let idle = (IDLE, Wait::Idle);
    for (name, bytes, (limits, limit)) in [
        ("no head", Vec::new(), first),
        ("head only", head("Connection: close\r\n\r\n"), first),
        ("half a first line", head(&format!("Connection: close\r\n\r\n{}", &TOKEN[..20])), first),
        ("a line", head(&format!("Connection: close\r\n\r\n{TOKEN}")), idle),
        ("a line and a half", head(&format!("Connection: close\r\n\r\n{TOKEN}{}", &TOKEN[..20])), idle),
    ] {
        let (server, ollama) = raw(bytes, Then::Hang(limits)).await;
        assert_eq!(ask(&ollama, "m").await.end, Err(ModelError::Timeout(limit)), "{name}");
        server.abort();
    }
}

#[tokio::test]
async fn a_whole_answer_is_whole_even_if_its_connection_never_ends() {
    let (server, ollama) = raw(head(&format!("Connection: close\r\n\r\n{TOKEN}{DONE}")), HANGS).await;
    let answer = ask(&ollama, "m").await;
    assert_eq!((answer.content.as_str(), answer.end), ("ab", Ok(ChatDone::default())));
    server.abort();
}

#[tokio::test]
async fn tokens_that_arrive_together_leave_together() {
    let chunk = format!("{:x}\r\n{TOKEN}\r\n", TOKEN.len());
    let body = format!(
        "Transfer-Encoding: chunked\r\n\r\n{}{:x}\r\n{DONE}\r\n0\r\n\r\n",
        chunk.repeat(20),
        DONE.len()
    );
    let (server, ollama) = raw(head(&body), CLOSES).await;
    let mut stream = ollama.chat(request("m", "hi", &json!({}))).await.unwrap();
    let (mut bursts, mut text) = (0, String::new());
    while let Some(burst) = stream.next().await {
        bursts += 1;
        for piece in burst.unwrap().pieces {
            assert_eq!(piece.kind, PieceKind::Content);
            text.push_str(&piece.text);
        }
    }
    assert_eq!(text, "ab".repeat(20));
    assert!(bursts <= 3, "{bursts} bursts for 20 tokens that were there at once");
    server.await.unwrap();
}
