//! Models on their servers: pulled, watched, cancelled, preloaded, unloaded, deleted; and each refusal in words.

use deia::sim::{Sim, SimConfig};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Api, Deia, Home, InProcess, ServerSentEvents, eventually};

/// Two model servers and a service on them.
struct Two {
    sims: [Sim; 2],
    names: [String; 2],
    deia: Deia,
    home: Home,
}

impl Two {
    async fn start() -> Self {
        Self::at(Home::new()).await
    }

    async fn at(home: Home) -> Self {
        let sim = || async { Sim::start(SimConfig::default()).await.expect("a model server") };
        let sims = [sim().await, sim().await];
        let names = [sims[0].address().to_string(), sims[1].address().to_string()];
        let servers = format!("{},{}", sims[0].url(), sims[1].url());
        let home = home.env("DEIA_INFERENCE__SERVERS", servers);
        let deia = home.start().await;
        let api = deia.api();
        eventually("both servers are known", async || {
            let models = api.get("/api/models").await.expect(200);
            (models["items"][0]["servers"].as_array()?.len() == 2).then_some(())
        })
        .await;
        Self { sims, names, deia, home }
    }
}

async fn pull(api: &Api, body: Value) -> ServerSentEvents {
    let request = api.request(Method::POST, "/api/models/pull").json(&body);
    let response = request.send().await.expect("an answer");
    assert_eq!(response.status(), 200, "{:?}", response.text().await);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    ServerSentEvents::of(response)
}

/// The id of a pull and its first progress that counts bytes.
async fn under_way(events: &mut ServerSentEvents) -> (String, Value) {
    let first = events.next().await.expect("an event");
    assert_eq!(first.event.as_deref(), Some("pull"));
    let id = first.data["id"].as_str().expect("an id").to_owned();
    loop {
        let event = events.next().await.expect("progress");
        assert_eq!(event.event.as_deref(), Some("progress"), "{:?}", event.data);
        if event.data["completed"].as_u64().is_some_and(|n| n > 0) {
            return (id, event.data);
        }
    }
}

/// The last event of a pull.
async fn end(events: ServerSentEvents) -> (String, Value) {
    let last = events.rest().await.pop().expect("an end");
    (last.event.expect("a name"), last.data)
}

async fn listed(api: &Api, model: &str) -> Vec<Value> {
    let models = api.get("/api/models").await.expect(200);
    let items = models["items"].as_array().expect("items");
    let found = items.iter().find(|m| m["name"] == model);
    found.and_then(|m| m["servers"].as_array()).cloned().unwrap_or_default()
}

async fn loaded_on(api: &Api) -> Vec<String> {
    let loaded = api.get("/api/models/loaded").await.expect(200);
    let items = loaded["items"].as_array().expect("items");
    items.iter().map(|m| m["server"].as_str().expect("a name").to_owned()).collect()
}

#[tokio::test]
async fn a_pull_has_many_watchers_outlives_one_that_leaves_and_is_told_to_all() {
    let two = Two::start().await;
    let api = two.deia.api();
    let mut socket = two.deia.socket().await;
    socket.subscribe("models").await;
    // Half-way it waits until all that is to happen meanwhile has happened.
    let body = json!({"model": "held:4b", "server": two.names[1]});
    let mut first = pull(&api, body).await;
    let (id, _) = under_way(&mut first).await;
    let mut second = pull(&api, json!({"model": "library/HELD:4b", "server": two.names[1]})).await;
    let (same, progress) = under_way(&mut second).await;
    assert_eq!(id, same, "the second watches the first");
    assert!(progress["total"].as_u64() >= progress["completed"].as_u64(), "{progress}");
    let listing = api.get("/api/models/pulls").await.expect(200);
    let (item, watchers) = (&listing["items"][0], &listing["items"][0]["watchers"]);
    assert_eq!((&item["id"], &item["state"], watchers), (&json!(id), &json!("running"), &json!(2)));
    drop(first);
    eventually("the cut watcher is gone", async || {
        let listing = api.get("/api/models/pulls").await.expect(200);
        (listing["items"][0]["watchers"] == 1).then_some(())
    })
    .await;
    two.sims[1].let_go();
    let rest = second.rest().await;
    let completed: Vec<u64> = rest.iter().filter_map(|e| e.data["completed"].as_u64()).collect();
    assert!(completed.is_sorted(), "{completed:?}");
    assert!(rest.iter().any(|e| e.data["rate_bytes_s"].is_u64() && e.data["eta_s"].is_u64()), "{rest:?}");
    assert_eq!(rest.last().and_then(|e| e.event.as_deref()), Some("done"));
    let places = listed(&api, "held:4b").await;
    assert_eq!((places.len(), &places[0]["name"]), (1, &json!(two.names[1])));
    let told = socket.until_event("model_pulled").await.pop().expect("the event");
    assert_eq!(
        (&told["data"]["model"], &told["data"]["server"], &told["topic"]),
        (&json!("held:4b"), &json!(two.names[1]), &json!("models"))
    );
    let listing = api.get("/api/models/pulls").await.expect(200);
    assert_eq!(
        (&listing["items"][0]["state"], listing["items"].as_array().map(Vec::len)),
        (&json!("done"), Some(1))
    );
    assert_eq!((two.sims[0].stats().requests, two.sims[1].stats().requests), (0, 1), "one pull upstream");
}

#[tokio::test]
async fn a_pull_is_a_stream_and_is_refused_to_who_takes_none_before_anything_is_pulled() {
    let two = Two::start().await;
    let api = two.deia.api();
    for accept in ["application/json", "text/html"] {
        let request = api.request(Method::POST, "/api/models/pull").header("accept", accept);
        let answer = api.answer(request.json(&json!({"model": "held:4b"}))).await;
        answer.expect_problem(406, "not_acceptable");
    }
    assert_eq!(api.get("/api/models/pulls").await.expect(200)["items"], json!([]));
    assert_eq!(two.sims[0].stats().requests + two.sims[1].stats().requests, 0);
}

#[tokio::test]
async fn a_cancelled_pull_closes_its_connection_and_the_next_goes_on_there() {
    let two = Two::start().await;
    let api = two.deia.api();
    let mut events = pull(&api, json!({"model": "slow-model"})).await;
    let (id, _) = under_way(&mut events).await;
    let ended = api.delete(format!("/api/models/pull/{id}")).await.expect(200);
    assert_eq!(ended["state"], "cancelled");
    assert_eq!(end(events).await.0, "cancelled");
    eventually("the connection is closed", async || {
        let stats = two.sims[0].stats();
        (stats.open == 0 && stats.closed_early == 1).then_some(())
    })
    .await;
    assert_eq!(
        api.delete(format!("/api/models/pull/{id}")).await.expect(200)["state"],
        "cancelled",
        "idempotent"
    );
    let mut again = pull(&api, json!({"model": "slow-model"})).await;
    let (other, progress) = under_way(&mut again).await;
    assert_ne!(other, id);
    assert!(progress["completed"].as_u64() >= Some(50_000_000), "what was there counts: {progress}");
    assert_eq!(progress["rate_bytes_s"], Value::Null, "but not as fetched");
    assert!(listed(&api, "slow-model:latest").await.is_empty());
}

#[tokio::test]
async fn a_pull_that_can_not_end_well_says_why_and_what_to_do() {
    let two = Two::at(Home::new().env("DEIA_INFERENCE__IDLE_S", "5")).await;
    let api = two.deia.api();
    for (model, code, words) in [
        ("nope", "model_not_in_registry", "ollama.com/library"),
        ("full-disk", "server_disk_full", "Delete models"),
        ("cut", "upstream_error", "goes on where it stopped"),
        ("stalls", "upstream_timeout", "fell silent"),
    ] {
        let (event, data) = end(pull(&api, json!({ "model": model })).await).await;
        assert_eq!((event.as_str(), &data["problem"]["code"]), ("failed", &json!(code)), "{data}");
        assert!(data["problem"]["detail"].as_str().expect("words").contains(words), "{data}");
    }
    let states: Vec<Value> = api.get("/api/models/pulls").await.expect(200)["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|p| p["error"]["code"].clone())
        .collect();
    assert_eq!(states.len(), 4, "failed ones are listed: {states:?}");
}

#[tokio::test]
async fn what_is_wrong_with_an_order_is_said_before_anything_is_done() {
    let two = Two::start().await;
    let api = two.deia.api();
    let long = "x".repeat(10_000);
    for route in ["pull", "preload", "unload", "delete"] {
        let path = format!("/api/models/{route}");
        for name in ["../x", "a b", "", "a\0b", long.as_str()] {
            let problem =
                api.post(&path, json!({ "model": name })).await.expect_problem(400, "invalid_request");
            assert_eq!(problem["errors"][0]["field"], "model", "{problem}");
            assert!(problem.to_string().len() < 1_500, "a name is not repeated: {problem}");
        }
        let near = &two.names[0][..two.names[0].len() - 1];
        let unknown = api.post(&path, json!({"model": "simulated", "server": near})).await;
        let problem = unknown.expect_problem(404, "server_not_found");
        assert!(problem["detail"].as_str().expect("words").contains("Did you mean"), "{problem}");
        let typo = api.post(&path, json!({"model": "simulated", "sever": "x"})).await;
        typo.expect_problem(400, "invalid_request");
        if route != "pull" {
            let missing = api.post(&path, json!({"model": "nope"})).await;
            missing.expect_problem(422, "model_not_found");
            let missing = api.post(&path, json!({"model": "nope", "server": two.names[0]})).await;
            missing.expect_problem(422, "model_not_found");
        }
    }
    api.delete("/api/models/pull/x").await.expect_problem(400, "invalid_request");
    let nobody = "/api/models/pull/0199f5a2-c0de-7000-a000-000000000001";
    api.delete(nobody).await.expect_problem(404, "pull_not_found");
    assert_eq!(api.get("/api/models/pulls").await.expect(200), json!({"items": []}));
    let allowed = api.get("/api/models/pull").await;
    assert_eq!(
        (allowed.status.as_u16(), &allowed.headers["allow"]),
        (405, &"POST".parse().expect("a value"))
    );
}

#[tokio::test]
async fn a_server_that_is_away_takes_no_orders() {
    let Two { sims: [first, second], names, deia, home: _home } = Two::start().await;
    let api = deia.api();
    second.stop().await;
    let away = json!({"model": "simulated", "server": names[1]});
    eventually("it is known to be away", async || {
        let answer = api.post("/api/models/preload", away.clone()).await;
        (answer.status == 503).then_some(answer)
    })
    .await
    .expect_problem(503, "ollama_offline");
    api.post("/api/models/pull", away.clone()).await.expect_problem(503, "ollama_offline");
    api.post("/api/models/delete", away).await.expect_problem(503, "ollama_offline");
    let done = api.post("/api/models/preload", json!({"model": "simulated"})).await.expect(200);
    assert_eq!(done["servers"], json!([names[0]]), "the other one does");
    first.stop().await;
}

#[tokio::test]
async fn a_model_is_preloaded_on_one_server_and_unloaded_from_all() {
    let two = Two::start().await;
    let api = two.deia.api();
    assert!(loaded_on(&api).await.is_empty());
    for name in &two.names {
        let body = json!({"model": "simulated:latest", "server": name});
        let done = api.post("/api/models/preload", body).await.expect(200);
        assert_eq!(done, json!({"model": "simulated:latest", "servers": [name]}));
    }
    assert_eq!(loaded_on(&api).await, two.names);
    assert!(listed(&api, "simulated").await.iter().all(|place| place["loaded"] == true));
    let one = json!({"model": "simulated", "server": two.names[0]});
    api.post("/api/models/unload", one).await.expect(200);
    assert_eq!(loaded_on(&api).await, [two.names[1].clone()]);
    let done = api.post("/api/models/unload", json!({"model": "simulated"})).await.expect(200);
    assert_eq!(done["servers"], json!(two.names));
    assert!(loaded_on(&api).await.is_empty());
}

#[tokio::test]
async fn a_model_that_bots_use_is_deleted_only_by_force_and_all_is_audited_on_sqlite() {
    let two = Two::at(Home::on_sqlite("it reads the audit log in the file")).await;
    let api = two.deia.api();
    api.launch("ada", "simulated").await;
    let config = json!({"model": "sim:echo", "fallback": ["Simulated:latest"]});
    api.post("/api/bot/launch", json!({"bot_id": "bea", "config": config})).await.expect(201);
    api.launch("eve", "sim:echo").await;
    let body = json!({"model": "simulated"});
    let problem = api.post("/api/models/delete", body.clone()).await.expect_problem(409, "model_in_use");
    let bots: Vec<&Value> = problem["errors"].as_array().expect("bots").iter().map(|e| &e["field"]).collect();
    assert_eq!(bots, ["bot:ada", "bot:bea"]);
    assert!(problem["detail"].as_str().expect("words").contains("ada, bea"), "{problem}");
    assert_eq!(listed(&api, "simulated").await.len(), 2, "nothing was deleted");

    let mut socket = two.deia.socket().await;
    socket.subscribe("models").await;
    let one = json!({"model": "simulated", "server": two.names[0]});
    let done = api.post("/api/models/delete?force=true", one).await.expect(200);
    assert_eq!(done["servers"], json!([two.names[0]]));
    assert_eq!(listed(&api, "simulated").await.len(), 1);
    let told = socket.until_event("model_deleted").await.pop().expect("the event");
    assert_eq!(told["data"]["servers"], json!([two.names[0]]));
    api.post("/api/models/unload", body).await.expect(200);
    assert_eq!(end(pull(&api, json!({"model": "nope"})).await).await.0, "failed");
    two.deia.terminate().await;

    let file = rusqlite::Connection::open(two.home.data().join("deia.db")).expect("the record");
    let sql =
        "SELECT action || ' ' || target FROM audit_logs WHERE action LIKE 'model.%' ORDER BY created_at, id";
    let mut rows = file.prepare(sql).expect("a statement");
    let entries: Vec<String> =
        rows.query_map([], |row| row.get(0)).expect("rows").map(|row| row.expect("a row")).collect();
    assert_eq!(
        entries,
        [
            "model.delete model:simulated:latest",
            "model.unload model:simulated:latest",
            "model.pull model:nope:latest"
        ]
    );
}

#[tokio::test]
async fn a_stop_of_the_service_ends_a_pull_and_its_watchers_are_told() {
    let sim = Sim::start(SimConfig::default()).await.expect("a model server");
    let deia = InProcess::start(&sim, &[]).await;
    let mut events = pull(&deia.api(), json!({"model": "slow-model"})).await;
    under_way(&mut events).await;
    deia.stop().await.expect("a stop in good order");
    let (event, data) = end(events).await;
    assert_eq!((event.as_str(), &data["problem"]["code"]), ("failed", &json!("shutting_down")), "{data}");
    eventually("the connection is closed", async || (sim.stats().open == 0).then_some(())).await;
}
