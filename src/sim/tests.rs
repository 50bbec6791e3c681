//! The simulator over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use futures_util::FutureExt;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;

async fn sim() -> (Sim, reqwest::Client) {
    let models = vec!["simulated".to_owned(), "llama3.2".to_owned()];
    let sim = Sim::start(SimConfig { models, ..SimConfig::default() }).await.unwrap();
    (sim, reqwest::Client::builder().no_proxy().build().unwrap())
}

fn chat(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "one two three"}]})
}

async fn post(sim: &Sim, client: &reqwest::Client, path: &str, body: &Value) -> reqwest::Response {
    client.post(format!("{}{path}", sim.url())).json(body).send().await.unwrap()
}

async fn lines(response: reqwest::Response) -> Vec<Value> {
    let text = response.text().await.unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn content(lines: &[Value]) -> String {
    lines.iter().filter_map(|l| l["message"]["content"].as_str()).collect()
}

/// Longer than anything takes here, and far below what a test waits for in vain: gaps of a minute, connections kept for 75 s.
const SOON: Duration = Duration::from_secs(30);

/// Waits until the counters say so.
async fn until(sim: &Sim, what: &str, condition: impl Fn(SimStats) -> bool) {
    let start = Instant::now();
    while !condition(sim.stats()) {
        assert!(start.elapsed() < SOON, "{what}: {:?}", sim.stats());
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_chat_streams_tokens_and_ends_with_the_figures() {
    let (sim, client) = sim().await;
    let response = post(&sim, &client, "/api/chat", &chat("sim:tokens=20")).await;
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    let lines = lines(response).await;
    assert_eq!(lines.len(), 21);
    assert!(content(&lines).starts_with("0000 0001 0002 "));
    let last = lines.last().unwrap();
    assert_eq!(
        (&last["done"], &last["done_reason"], &last["eval_count"]),
        (&json!(true), &json!("stop"), &json!(20))
    );
    for figure in
        ["total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration", "eval_duration"]
    {
        assert!(last[figure].is_u64(), "{figure} in {last}");
    }
    let stats = sim.stats();
    assert_eq!((stats.requests, stats.open, stats.closed_early, stats.tokens), (1, 0, 0, 20));
    sim.stop().await;
}

#[tokio::test]
async fn an_answer_in_one_piece_says_the_same_as_the_stream() {
    let (sim, client) = sim().await;
    let mut body = chat("sim:echo");
    body["stream"] = json!(false);
    let whole: Value = post(&sim, &client, "/api/chat", &body).await.json().await.unwrap();
    assert_eq!((&whole["message"]["content"], &whole["done"]), (&json!("one two three"), &json!(true)));
    let generate = json!({"model": "sim:echo", "prompt": "four", "stream": false});
    let whole: Value = post(&sim, &client, "/api/generate", &generate).await.json().await.unwrap();
    assert_eq!((&whole["response"], &whole["done_reason"]), (&json!("four"), &json!("stop")));
    sim.stop().await;
}

#[tokio::test]
async fn refusals_have_the_status_and_words_of_ollama() {
    let (sim, client) = sim().await;
    let long = json!({"model": "sim:echo", "truncate": false, "options": {"num_ctx": 16},
                      "messages": [{"role": "user", "content": "x".repeat(400)}]});
    let mut thinks = chat("sim:echo");
    thinks["think"] = json!(true);
    for (path, body, status, error) in [
        ("/api/chat", chat("x"), 404, "model 'x' not found"),
        ("/api/generate", json!({"model": "x", "prompt": "a"}), 404, "model 'x' not found"),
        ("/api/show", json!({"model": "x"}), 404, "model 'x' not found"),
        (
            "/api/embed",
            json!({"model": "x", "input": "a"}),
            404,
            "model \"x\" not found, try pulling it first",
        ),
        ("/api/chat", long, 400, "the input length exceeds the context length"),
        (
            "/api/chat",
            chat("sim:busy=1"),
            503,
            "server busy, please try again.  maximum pending requests exceeded",
        ),
        ("/api/chat", thinks, 400, "\"sim:echo\" does not support thinking"),
        ("/api/chat", json!({"messages": []}), 400, "model is required"),
    ] {
        let response = post(&sim, &client, path, &body).await;
        assert_eq!(response.status(), status, "{body}");
        assert_eq!(response.json::<Value>().await.unwrap(), json!({ "error": error }));
    }
    for (bad, wanted) in [("{", "EOF"), ("", "missing request body"), (r#"{"model":1}"#, "invalid type")] {
        let response = client.post(format!("{}/api/chat", sim.url())).body(bad).send().await.unwrap();
        assert_eq!(response.status(), 400);
        let error = response.json::<Value>().await.unwrap()["error"].as_str().unwrap().to_owned();
        assert!(error.contains(wanted), "{error}");
    }
    let unknown = post(&sim, &client, "/api/chat", &chat("sim:tokenz=3")).await;
    assert_eq!(unknown.status(), 400);
    assert!(unknown.text().await.unwrap().contains("'tokenz'"));
    assert_eq!(client.get(format!("{}/api/chat", sim.url())).send().await.unwrap().status(), 405);
    assert_eq!(client.get(format!("{}/nope", sim.url())).send().await.unwrap().status(), 404);
    sim.stop().await;
}

#[tokio::test]
async fn busy_as_often_as_asked_then_an_answer() {
    let (sim, client) = sim().await;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(post(&sim, &client, "/api/chat", &chat("sim:busy=2,echo")).await.status().as_u16());
    }
    assert_eq!(statuses, [503, 503, 200]);
    sim.stop().await;
}

#[tokio::test]
async fn faults_come_where_the_script_wants_them() {
    let (sim, client) = sim().await;
    let error = lines(post(&sim, &client, "/api/chat", &chat("sim:error_at=10")).await).await;
    assert_eq!(error.len(), 11);
    assert!(error[10]["error"].as_str().unwrap().contains("after 10 tokens"));

    let mut cut = post(&sim, &client, "/api/chat", &chat("sim:cut_at=10")).await;
    let mut seen = Vec::new();
    let end = loop {
        match cut.chunk().await {
            Ok(Some(chunk)) => seen.extend_from_slice(&chunk),
            end => break end,
        }
    };
    assert!(end.is_err(), "a cut is not a clean end");
    assert_eq!(seen.iter().filter(|b| **b == b'\n').count(), 10, "what came before the cut arrives");

    let garbage = post(&sim, &client, "/api/chat", &chat("sim:garbage")).await.bytes().await.unwrap();
    let last = garbage.split(|b| *b == b'\n').rfind(|l| !l.is_empty()).unwrap();
    assert!(std::str::from_utf8(last).is_err());

    let first = client.post(format!("{}/api/chat", sim.url())).json(&chat("sim:cut_at=0")).send().await;
    assert!(first.is_err(), "cut before the head");
    let failed = post(&sim, &client, "/api/chat", &chat("sim:error_at=0")).await;
    assert_eq!(failed.status(), 500);
    assert_eq!(sim.stats().closed_early, 0, "faults of the script are not the client's doing");
    sim.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_at_once_even_during_a_wait() {
    let (sim, client) = sim().await;
    // Gaps, loading, waiting for the first token and stalling are far longer than the test waits; how soon it is noticed
    // is measured by `cargo bench --bench stop`.
    for (n, model) in
        ["sim:gap_ms=60000", "sim:stall_at=1", "sim:load_ms=60000", "sim:first_ms=60000", "sim:stall_at=0"]
            .into_iter()
            .enumerate()
    {
        let request = client.post(format!("{}/api/chat", sim.url())).json(&chat(model));
        let mut streaming = tokio::spawn(async move {
            let mut response = request.send().await.unwrap();
            while response.chunk().await.unwrap().is_some() {}
        });
        until(&sim, "the call is open", |s| s.open == 1 && s.requests == n as u64 + 1).await;
        if n < 2 {
            until(&sim, "its first token is written", |s| s.tokens == n as u64 + 1).await;
        }
        streaming.abort();
        assert!((&mut streaming).await.unwrap_err().is_cancelled());
        until(&sim, model, |s| s.open == 0 && s.closed_early == n as u64 + 1).await;
    }
    sim.stop().await;
}

#[tokio::test]
async fn an_answer_that_is_held_goes_on_when_it_is_let_go() {
    let (sim, client) = sim().await;
    let mut held = post(&sim, &client, "/api/chat", &chat("sim:tokens=9,gap_ms=1,hold_at=3")).await;
    let mut seen = String::new();
    while seen.lines().count() < 3 {
        seen.push_str(std::str::from_utf8(&held.chunk().await.unwrap().unwrap()).unwrap());
    }
    assert!(held.chunk().now_or_never().is_none());
    assert_eq!((sim.stats().open, sim.stats().tokens), (1, 3));
    sim.let_go();
    assert_eq!(lines(held).await.len(), 7);
    let next = lines(post(&sim, &client, "/api/chat", &chat("sim:tokens=9,hold_at=3")).await).await;
    assert_eq!(next.len(), 10, "from then on nothing is held");
    sim.stop().await;
}

#[tokio::test]
async fn a_request_lets_go_what_has_begun_and_nothing_else() {
    let (sim, client) = sim().await;
    let held = post(&sim, &client, "/api/chat", &chat("sim:tokens=9,gap_ms=1,hold_at=3")).await;
    post(&sim, &client, "/sim/let_go", &json!({})).await;
    assert_eq!(lines(held).await.len(), 10);
    let mut next = post(&sim, &client, "/api/chat", &chat("sim:tokens=9,gap_ms=1,hold_at=3")).await;
    until(&sim, "the next is held", |s| s.tokens == 12).await;
    let mut seen = String::new();
    while seen.lines().count() < 3 {
        seen.push_str(std::str::from_utf8(&next.chunk().await.unwrap().unwrap()).unwrap());
    }
    assert!(next.chunk().now_or_never().is_none());
    sim.let_go();
    assert_eq!(lines(next).await.len(), 7, "letting go for good reaches it as well");
    sim.stop().await;
}

#[tokio::test]
async fn loading_takes_time_once_and_shows_in_ps() {
    let (sim, client) = sim().await;
    let model = "sim:load_ms=80,echo";
    let first = lines(post(&sim, &client, "/api/chat", &chat(model)).await).await;
    assert!(first.last().unwrap()["load_duration"].as_u64().unwrap() >= 80_000_000);
    let ps: Value = client.get(format!("{}/api/ps", sim.url())).send().await.unwrap().json().await.unwrap();
    assert_eq!(ps["models"][0]["name"], model);
    let again = lines(post(&sim, &client, "/api/chat", &chat(model)).await).await;
    assert_eq!(again.last().unwrap()["load_duration"], 0);
    let unload = json!({"model": model, "messages": [], "keep_alive": 0});
    let done: Value = post(&sim, &client, "/api/chat", &unload).await.json().await.unwrap();
    assert_eq!(done["done_reason"], "unload");
    let ps: Value = client.get(format!("{}/api/ps", sim.url())).send().await.unwrap().json().await.unwrap();
    assert_eq!(ps["models"], json!([]));
    sim.stop().await;
}

#[tokio::test]
async fn models_are_listed_shown_pulled_copied_and_deleted() {
    let (sim, client) = sim().await;
    let url = sim.url();
    let names = async || -> Vec<String> {
        let tags: Value = client.get(format!("{url}/api/tags")).send().await.unwrap().json().await.unwrap();
        tags["models"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names().await, ["simulated", "llama3.2"]);
    let shown: Value =
        post(&sim, &client, "/api/show", &json!({"model": "llama3.2:latest"})).await.json().await.unwrap();
    assert_eq!(shown["model_info"]["simulated.context_length"], 32_768);
    assert_eq!(shown["capabilities"], json!(["completion", "tools", "thinking", "vision"]));
    let failed = lines(post(&sim, &client, "/api/pull", &json!({"model": "nope"})).await).await;
    assert_eq!(failed.last().unwrap()["error"], "pull model manifest: file does not exist");
    assert_eq!(
        post(&sim, &client, "/api/copy", &json!({"source": "llama3.2", "destination": "mine"}))
            .await
            .status(),
        200
    );
    assert!(names().await.contains(&"mine".to_owned()));
    let delete = client.delete(format!("{url}/api/delete")).json(&json!({"model": "mine"}));
    assert_eq!(delete.try_clone().unwrap().send().await.unwrap().status(), 200);
    assert_eq!(delete.send().await.unwrap().status(), 404);
    let version: Value = client.get(format!("{url}/api/version")).send().await.unwrap().json().await.unwrap();
    assert!(version["version"].as_str().unwrap().ends_with("sim"));
    assert_eq!(client.get(&url).send().await.unwrap().text().await.unwrap(), "Ollama is running");
    let embed = json!({"model": "llama3.2", "input": ["a", "b"], "dimensions": 8});
    let vectors: Value = post(&sim, &client, "/api/embed", &embed).await.json().await.unwrap();
    assert_eq!(vectors["embeddings"].as_array().unwrap().len(), 2);
    assert_eq!(vectors["embeddings"][0].as_array().unwrap().len(), 8);
    sim.stop().await;
}

#[tokio::test]
async fn a_pull_reports_progress_and_lists_the_model() {
    let (sim, client) = sim().await;
    let progress = lines(post(&sim, &client, "/api/pull", &json!({"model": "qwen3:4b"})).await).await;
    assert_eq!(progress.first().unwrap()["status"], "pulling manifest");
    assert_eq!(progress.last().unwrap()["status"], "success");
    let completed: Vec<u64> = progress.iter().filter_map(|l| l["completed"].as_u64()).collect();
    let weights = progress[1]["total"].as_u64().unwrap();
    assert!(completed[..40].is_sorted() && completed[39] == weights, "{completed:?}");
    assert!(completed[40] < weights, "a second, small layer");
    assert_eq!(sim.stats().closed_early, 0);
    assert_eq!(post(&sim, &client, "/api/show", &json!({"model": "qwen3:4b"})).await.status(), 200);
    sim.stop().await;
}

#[tokio::test]
async fn a_pull_that_is_broken_off_is_noticed_and_the_next_goes_on_there() {
    let (sim, client) = sim().await;
    let ask = json!({"model": "slow-model"});
    let mut first = post(&sim, &client, "/api/pull", &ask).await;
    let mut seen = String::new();
    while seen.lines().count() < 3 {
        seen.push_str(std::str::from_utf8(&first.chunk().await.unwrap().unwrap()).unwrap());
    }
    assert!(seen.contains("\"completed\":50000000"), "{seen}");
    drop(first);
    until(&sim, "the pull is closed", |s| s.open == 0 && s.closed_early == 1).await;
    let mut second = post(&sim, &client, "/api/pull", &ask).await;
    let mut seen = String::new();
    while seen.lines().count() < 2 {
        seen.push_str(std::str::from_utf8(&second.chunk().await.unwrap().unwrap()).unwrap());
    }
    assert!(seen.lines().nth(1).unwrap().contains("\"completed\":50000000"), "{seen}");
    sim.stop().await;
}

#[tokio::test]
async fn a_stop_ends_open_answers_and_frees_the_port() {
    let (sim, client) = sim().await;
    let address = sim.address();
    let mut response = post(&sim, &client, "/api/chat", &chat("sim:stall_at=1")).await;
    assert!(response.chunk().await.unwrap().is_some());
    // An idle connection and one in the middle of a head must not hold the stop up.
    let _idle = TcpStream::connect(address).await.unwrap();
    let mut half = TcpStream::connect(address).await.unwrap();
    half.write_all(b"POST /api/chat HTT").await.unwrap();
    tokio::time::timeout(SOON, sim.stop()).await.expect("the stop is prompt");
    assert!(response.chunk().await.is_err());
    assert!(matches!(half.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    tokio::net::TcpListener::bind(address).await.expect("the port is free again");
}

#[tokio::test]
async fn run_serves_until_it_is_told_to_stop() {
    let stop = CancellationToken::new();
    let running = tokio::spawn(run(SimConfig::default(), stop.clone()));
    stop.cancel();
    tokio::time::timeout(SOON, running).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn what_stands_before_a_model_server_can_be_played_too() {
    let (sim, _) = sim().await;
    let raw = async |model: &str| {
        let mut stream = TcpStream::connect(sim.address()).await.unwrap();
        let body = chat(model).to_string();
        let head = format!("POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let mut buffer = [0; 8192];
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) => return (answer, None),
                Ok(n) => answer.extend_from_slice(&buffer[..n]),
                Err(error) => return (answer, Some(error.kind())),
            }
            if answer.ends_with(b"\r\n\r\n") || answer.ends_with(b"network.</p>\n") || answer.len() > 1 << 20
            {
                return (answer, None);
            }
        }
    };
    let reset = raw("sim:gap_ms=5,reset_at=2").await;
    assert_eq!(reset.1, Some(std::io::ErrorKind::ConnectionReset));
    assert_eq!(raw("sim:gap_ms=5,cut_at=2").await.1, None, "a cut is an end");
    let text = |answer: Vec<u8>| String::from_utf8_lossy(&answer).to_ascii_lowercase();
    let redirect = text(raw("sim:redirect=9").await.0);
    assert!(
        redirect.contains("307") && redirect.contains("location: http://127.0.0.1:9/api/chat"),
        "{redirect}"
    );
    assert!(text(raw("sim:html").await.0).contains("content-type: text/html"));
    let (packed, _) = raw("sim:gzip").await;
    assert!(packed.len() > 1 << 20 && text(packed).contains("content-encoding: gzip"));
    assert_eq!(sim.stats().closed_early, 0);
}
