//! The adapter and the whole service against a real Ollama with a tiny model: the suite that the simulator passes, and
//! that both agree. Ignored unless `scripts/with-ollama` serves one: `scripts/test ollama`.

#![allow(clippy::disallowed_methods, reason = "the real Ollama is named by the environment")]

use std::{
    env,
    sync::{Arc, Mutex},
    time::Duration,
};

use deia::{
    adapters::ollama::{Limits, Ollama, parse_address},
    sim::{Sim, SimConfig},
};
use deia_actors::{
    ports::chat_model::ModelError,
    testkit::conformance::chat_model::{Subject, collect, request, suite},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::support::{DEADLINE, Home};

/// A real Ollama that somebody else started.
struct RealOllama {
    url: String,
    model: String,
}

impl RealOllama {
    fn named() -> Self {
        let named =
            |name| env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run scripts/test ollama"));
        Self { url: named("TEST_OLLAMA_URL"), model: named("TEST_OLLAMA_MODEL") }
    }

    fn adapter(&self) -> Ollama {
        Ollama::new(&parse_address(&self.url).unwrap(), Limits::default()).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real Ollama: scripts/test ollama"]
async fn a_real_ollama_passes_the_suite_and_the_simulator_agrees_with_it() {
    let real = RealOllama::named();
    let subject = Subject {
        model: Arc::new(real.adapter()),
        name: real.model.clone(),
        missing: "nope".into(),
        counts_tokens: true,
        lists_models: true,
        pullable: None,
        open_calls: None,
    };
    suite(&subject).await;

    let models = vec![real.model.clone()];
    let sim = Sim::start(SimConfig { models, ..SimConfig::default() }).await.unwrap();
    conditions_agree(&real, &sim).await;
    shapes_agree(&real.url, &sim.url()).await;
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real Ollama: scripts/test ollama"]
async fn a_bot_chats_on_a_real_ollama() {
    let real = RealOllama::named();
    let deia = Home::new().env("DEIA_INFERENCE__SERVERS", &real.url).start().await;
    let api = deia.api();
    let models = api.get("/api/models").await.expect(200);
    let offered = models["items"].as_array().unwrap();
    assert!(
        offered
            .iter()
            .any(|m| m["name"].as_str().unwrap().starts_with(&real.model) && m["simulated"] == false)
    );
    assert!(offered.iter().all(|m| m["simulated"] == false), "{offered:?}");

    let config = json!({"model": real.model, "options": {"num_predict": 24, "seed": 7}});
    let bot = api.post("/api/bot/launch", json!({"config": config})).await.expect(201);
    assert_eq!(bot["warnings"], json!([]));
    let id = bot["id"].as_str().unwrap();
    let said = json!({"bot_id": id, "content": "Say something."});
    let answer = api.post("/api/chat/send", said.clone()).await.expect(200);
    assert_eq!(answer["turn"]["state"], "completed");
    assert!(!answer["reply"]["content"].as_str().unwrap().is_empty());
    assert_eq!(answer["turn"]["usage"]["completion_tokens"], 24);
    assert!(answer["turn"]["usage"]["prompt_tokens"].as_u64().unwrap() > 0);

    // What the grammar lets through keeps to the schema; an answer that was cut says so.
    let schema = json!({"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]});
    let asked = json!({"bot_id": id, "content": "Is it?", "format": schema, "options": {"num_predict": 64}});
    let formed = api.post("/api/chat/send", asked).await;
    match formed.status.as_u16() {
        200 => {
            let formed = formed.expect(200);
            let value: Value = serde_json::from_str(formed["reply"]["content"].as_str().unwrap()).unwrap();
            assert!(value["ok"].is_boolean(), "{value}");
        }
        _ => drop(formed.expect_problem(502, "output_invalid")),
    }
    let circle = json!({"bot_id": id, "content": "x", "format": {"properties": {"me": {"$ref": "#"}}}});
    api.post("/api/chat/send", circle).await.expect_problem(400, "invalid_request");
    // It can neither think nor look at images, and its server says so.
    let thinks = json!({"bot_id": id, "content": "x", "think": true});
    api.post("/api/chat/send", thinks).await.expect_problem(422, "model_capability");

    let missing = json!({"bot_id": id, "content": "/model nope"});
    api.post("/api/chat/send", missing).await.expect(200);
    api.post("/api/chat/send", said).await.expect_problem(422, "model_not_found");
    deia.terminate().await;
}

/// Stands before a server and keeps what it is sent.
async fn tapped(url: &str) -> (String, Arc<Mutex<Vec<u8>>>) {
    let server = url.trim_start_matches("http://").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (tap, sent) = (format!("http://{}", listener.local_addr().unwrap()), Arc::new(Mutex::new(vec![])));
    let kept = sent.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (kept, server) = (kept.clone(), TcpStream::connect(&server).await.unwrap());
            tokio::spawn(async move {
                let ((mut asks, mut hears), (mut answers, mut takes)) =
                    (client.into_split(), server.into_split());
                let there = async {
                    let mut piece = [0; 4096];
                    while let Ok(n @ 1..) = asks.read(&mut piece).await {
                        kept.lock().unwrap().extend_from_slice(&piece[..n]);
                        takes.write_all(&piece[..n]).await?;
                    }
                    takes.shutdown().await
                };
                // Whoever ends first ends the other one, too.
                tokio::select! { _ = there => {}, _ = tokio::io::copy(&mut answers, &mut hears) => {} }
            });
        }
    });
    (tap, sent)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real Ollama: scripts/test ollama"]
async fn what_a_small_context_does_not_hold_is_summed_up_by_a_real_ollama_for_the_turns_after() {
    let real = RealOllama::named();
    let (tap, sent) = tapped(&real.url).await;
    let deia = Home::new().env("DEIA_INFERENCE__SERVERS", tap).start().await;
    let api = deia.api();
    let config = json!({
        "model": real.model, "options": {"num_ctx": 768, "num_predict": 8, "seed": 7},
        "context": {"overflow": "summarise"},
    });
    api.post("/api/bot/launch", json!({"bot_id": "ada", "config": config})).await.expect(201);
    let sent = || String::from_utf8_lossy(&sent.lock().unwrap()).into_owned();
    let notes_are_asked_for = || sent().contains("You keep the notes of a conversation");
    // Its tokens are about as long as a character: a quarter of the context each.
    let mut turns = 0;
    while !notes_are_asked_for() {
        let said = "apple pear plum ".repeat(12);
        let context = api.send("ada", &said).await.expect(200)["turn"]["context"].clone();
        turns += 1;
        assert!(turns < 10 && (turns > 2 || context["trimmed_messages"] == 0), "turn {turns}: {context}");
    }
    assert!(turns > 2, "while everything fits nothing is summed up");

    // A turn goes before the making of a summary, which then begins anew.
    let is_idle = async || api.get("/api/servers").await.expect(200)["items"][0]["slots"]["busy"] == json!(0);
    let summarised = async {
        loop {
            if is_idle().await {
                let turn = api.send("ada", "and then?").await.expect(200)["turn"].clone();
                if sent().contains("Summary of the earlier conversation") {
                    return turn;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // A hundred tokens of a model are many on a busy machine.
    let told = tokio::time::timeout(6 * DEADLINE, summarised).await.expect("a summary in a prompt");
    // The notes of the model itself stand in the prompt, and the context says what they stand for.
    let sent = sent();
    let (_, prompt) = sent.split_once("Summary of the earlier conversation").unwrap();
    let (notes, _) = prompt.split_once("\"}").unwrap();
    let (_, notes) = notes.split_once("\\n").unwrap();
    assert!(!notes.trim().is_empty());
    let (context, counted) = (&told["context"], &told["usage"]["prompt_tokens"]);
    assert!(context["trimmed_messages"].as_u64().unwrap() > 0, "{context}");
    assert_eq!((&context["num_ctx"], &context["used"]), (&json!(768), counted), "as counted by the server");
    println!("{context} after {turns} turns; notes of {} bytes", notes.len());
    deia.terminate().await;
}

/// The same wrong requests end in the same conditions.
async fn conditions_agree(real: &RealOllama, sim: &Sim) {
    let simulated = Ollama::new(&parse_address(&sim.url()).unwrap(), Limits::default()).unwrap();
    let mut thinks = request("tiny", "hi", &json!({}));
    thinks.think = Some(json!(true));
    let refused = collect(&real.adapter(), thinks.clone()).await.end.unwrap_err();
    assert!(matches!(refused, ModelError::Refused { status: 400, .. }), "{refused:?}");
    thinks.model = "sim:echo".into();
    let refused = collect(&simulated, thinks).await.end.unwrap_err();
    assert!(matches!(refused, ModelError::Refused { status: 400, .. }), "{refused:?}");
    for (name, wrong) in [
        ("missing", request("nope", "hi", &json!({}))),
        ("too long", request("tiny", &"word ".repeat(5000), &json!({"num_ctx": 256}))),
    ] {
        let theirs = collect(&real.adapter(), wrong.clone()).await.end;
        assert_eq!(theirs, collect(&simulated, wrong).await.end, "{name}");
    }
}

/// The same calls are answered with the same fields in the same types, and the same status.
async fn shapes_agree(real: &str, sim: &str) {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let hi = json!([{"role": "user", "content": "hi"}]);
    let two = json!({"num_predict": 2});
    for (method, path, body) in [
        ("GET", "/", Value::Null),
        ("GET", "/api/version", Value::Null),
        ("GET", "/api/tags", Value::Null),
        ("POST", "/api/chat", json!({"model": "tiny", "messages": hi, "options": two})),
        ("POST", "/api/chat", json!({"model": "tiny", "messages": hi, "options": two, "stream": false})),
        ("POST", "/api/generate", json!({"model": "tiny", "prompt": "hi", "options": two})),
        ("POST", "/api/generate", json!({"model": "tiny", "prompt": "hi", "options": two, "stream": false})),
        ("GET", "/api/ps", Value::Null),
        ("POST", "/api/embed", json!({"model": "tiny", "input": "hi"})),
        ("POST", "/api/chat", json!({"model": "tiny", "messages": []})),
        ("POST", "/api/chat", json!({"model": "tiny", "messages": [], "keep_alive": 0})),
        ("POST", "/api/chat", json!({"model": "", "messages": hi})),
        ("POST", "/api/chat", json!({"model": "nope", "messages": hi})),
        ("POST", "/api/generate", json!({"model": "nope", "prompt": "hi"})),
        ("POST", "/api/show", json!({"model": "nope"})),
        ("POST", "/api/show", json!({})),
        ("POST", "/api/embed", json!({"model": "nope", "input": "hi"})),
        ("POST", "/api/copy", json!({"source": "nope", "destination": "x"})),
        ("DELETE", "/api/delete", json!({"model": "nope"})),
        ("GET", "/api/chat", Value::Null),
        ("GET", "/nope", Value::Null),
    ] {
        let ask = async |base: &str| {
            let mut request = http.request(method.parse().unwrap(), format!("{base}{path}"));
            if !body.is_null() {
                request = request.json(&body);
            }
            let response = request.send().await.unwrap();
            let status = response.status().as_u16();
            let kind =
                response.headers()["content-type"].to_str().unwrap().split(';').next().unwrap().to_owned();
            let text = response.text().await.unwrap();
            (status, kind, shape(&text))
        };
        let (theirs, ours) = (ask(real).await, ask(sim).await);
        assert_eq!(theirs, ours, "{method} {path} {body}");
    }
}

/// Errors as they are; of everything else the fields of the first and of the last line, with their types.
fn shape(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut ends = vec![lines[0]];
    ends.extend(lines.last().filter(|_| lines.len() > 1));
    ends.into_iter()
        .map(|line| match serde_json::from_str::<Value>(line) {
            Ok(value) if value.get("error").is_some() => value.to_string(),
            Ok(value) => types(&value).to_string(),
            Err(_) => line.to_owned(),
        })
        .collect()
}

/// A value with every leaf replaced by the name of its type, and every list by its first entry.
fn types(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields.iter().map(|(name, field)| (name.clone(), types(field))).collect(),
        Value::Array(entries) => entries.iter().take(1).map(types).collect(),
        Value::String(_) => json!("string"),
        Value::Number(_) => json!("number"),
        Value::Bool(on) => json!(on),
        Value::Null => json!("null"),
    }
}
