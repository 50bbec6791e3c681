//! The adapter and the whole service against a real Ollama with a tiny model: the suite that the simulator passes, and
//! that both agree. Ignored unless `scripts/with-ollama` serves one: `scripts/test ollama`.

#![allow(clippy::disallowed_methods, reason = "the real Ollama is named by the environment")]

use std::{env, sync::Arc};

use deia::{
    adapters::ollama::{Limits, Ollama, parse_address},
    sim::{Sim, SimConfig},
};
use deia_actors::{
    ports::chat_model::ModelError,
    testkit::conformance::chat_model::{Subject, collect, request, suite},
};
use serde_json::{Value, json};

use crate::support::Home;

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
