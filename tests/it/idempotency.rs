//! The same request twice: one message, one turn, one answer, however the first one went.

use std::{collections::HashSet, sync::Arc, time::Duration};

use deia::{
    Controller, ServerSpec,
    adapters::ollama,
    requests::{LaunchBot, SendMessage, Sent},
    sim::{Sim, SimConfig},
};
use deia_actors::{
    domain::{
        idempotency::IdempotencyKey,
        ids::BotId,
        problem::Code,
        turn::{Turn, TurnState},
    },
    ports::history_store::HistoryStore,
    testkit::fakes::memory_store::MemoryStore,
};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::support::{Answer, Api, Stage, eventually, numbered, soon};

const REPLAYED: &str = "idempotency-replayed";

fn keyed(api: &Api, key: &str, query: &str, body: &Value) -> RequestBuilder {
    api.request(Method::POST, format!("/api/chat/send{query}")).header("idempotency-key", key).json(body)
}

async fn send(api: &Api, key: &str, body: &Value) -> Answer {
    api.answer(keyed(api, key, "", body)).await
}

#[track_caller]
fn replayed(answer: &Answer) -> bool {
    answer.headers.get(REPLAYED).is_some_and(|v| v == "true")
}

fn user_messages(history: &[Value]) -> Vec<&str> {
    history.iter().filter(|m| m["sender"] == "user").map(|m| m["content"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn the_same_key_gets_the_same_turn_in_each_form() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    let bot = api.launch("ada", "sim:tokens=20").await;
    let body = json!({"bot_id": "ada", "content": "hello", "options": {"seed": 1}});
    let first = send(&api, "key 1", &body).await;
    assert!(!replayed(&first));
    let first = first.expect(200);

    let again = send(&api, "key 1", &body).await;
    assert!(replayed(&again));
    assert_eq!(again.expect(200), first);
    // The main conversation may be named, fields may stand in another order.
    let named = format!(
        r#"{{"options":{{"seed":1}},"content":"hello","conversation_id":{},"bot_id":"ada"}}"#,
        bot["main_conversation_id"]
    );
    let request = keyed(&api, "key 1", "?wait=false", &json!(null)).body(named);
    let told = api.answer(request).await;
    assert!(replayed(&told));
    let told = told.expect(202);
    assert_eq!((&told["turn"], &told["message"]), (&first["turn"], &first["message"]));

    let request = keyed(&api, "key 1", "", &body).header("accept", "text/event-stream");
    let response = soon("the head of a stream", request.send()).await.unwrap();
    assert_eq!(response.headers()[REPLAYED], "true");
    let events = soon("the events", response.text()).await.unwrap();
    let names: Vec<_> = events.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!(names.last(), Some(&"turn_completed"), "{names:?}");
    assert!(events.contains(first["turn"]["id"].as_str().unwrap()));

    let mut socket = deia.socket().await;
    let frame = |key: &str, content: &str| json!({"type": "send", "bot_id": "ada", "content": content, "options": {"seed": 1}, "idempotency_key": key});
    let ok = socket.call(frame("key 1", "hello")).await;
    assert_eq!((&ok["type"], &ok["replayed"]), (&json!("ok"), &json!(true)), "{ok}");
    assert_eq!(ok["turn"], first["turn"]);
    let ok = socket.call(frame("key 2", "hello")).await;
    assert!(ok.get("replayed").is_none(), "{ok}");
    assert_ne!(ok["turn"]["id"], first["turn"]["id"]);

    let other = json!({"bot_id": "ada", "content": "hello!", "options": {"seed": 1}});
    let problem = send(&api, "key 1", &other).await;
    assert!(!replayed(&problem));
    problem.expect_problem(409, "idempotency_key_reused");
    let error = socket.call(frame("key 1", "hello!")).await;
    assert_eq!(error["problem"]["code"], "idempotency_key_reused");
    // Another bot has keys of its own.
    api.launch("eve", "sim:echo").await;
    let hers = send(&api, "key 1", &json!({"bot_id": "eve", "content": "hello"})).await;
    assert!(!replayed(&hers));
    hers.expect(200);
    api.ended(&ok["turn"]["id"]).await;
    assert_eq!(user_messages(&api.history("ada").await), ["hello", "hello"]);
    assert_eq!(stage.sim.stats().requests, 3);
}

#[tokio::test]
async fn what_comes_twice_at_the_same_time_is_done_once_and_waits_for_the_same_end() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:tokens=100,gap_ms=1").await;
    let sends: Vec<_> = (0..20)
        .map(|_| {
            let api = api.clone();
            tokio::spawn(
                async move { send(&api, "same", &json!({"bot_id": "ada", "content": "talk"})).await },
            )
        })
        .collect();
    let (mut turns, mut replays) = (HashSet::new(), 0);
    for sent in sends {
        let answer = sent.await.unwrap();
        replays += usize::from(replayed(&answer));
        let answer = answer.expect(200);
        assert_eq!(answer["reply"]["content"], numbered(100));
        turns.insert(answer["turn"]["id"].to_string());
    }
    assert_eq!((turns.len(), replays), (1, 19));
    assert_eq!(api.history("ada").await.len(), 2);
    assert_eq!(stage.sim.stats().requests, 1);
}

#[tokio::test]
async fn a_command_is_carried_out_once_and_what_was_refused_leaves_its_key_free() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:echo").await;
    let body = json!({"bot_id": "ada", "content": "/model sim:tokens=2"});
    let first = send(&api, "m", &body).await.expect(200);
    api.patch("/api/bot/ada", json!({"config": {"model": "sim:echo"}})).await.expect(200);
    let again = send(&api, "m", &body).await;
    assert!(replayed(&again));
    assert_eq!(again.expect(200), first);
    assert_eq!(api.get("/api/bot/ada").await.expect(200)["config"]["model"], "sim:echo", "not done again");

    send(&api, "u", &json!({"bot_id": "ada", "content": "/modl x"}))
        .await
        .expect_problem(422, "unknown_command");
    api.post("/api/bot/ada/stop", json!({})).await.expect(200);
    let body = json!({"bot_id": "ada", "content": "hello"});
    send(&api, "u", &body).await.expect_problem(409, "bot_not_running");
    // A stopped bot still knows what it did.
    assert!(replayed(&send(&api, "m", &json!({"bot_id": "ada", "content": "/model sim:tokens=2"})).await));
    api.post("/api/bot/ada/start", json!({})).await.expect(200);
    let sent = send(&api, "u", &body).await;
    assert!(!replayed(&sent));
    sent.expect(200);

    api.delete("/api/chat/ada").await.expect(200);
    for (key, content) in [("u", "hello"), ("m", "/model sim:tokens=2")] {
        let gone = send(&api, key, &json!({"bot_id": "ada", "content": content})).await;
        let problem = gone.expect_problem(404, "message_not_found");
        assert!(problem["detail"].as_str().unwrap().contains("deleted"), "{problem}");
    }
    assert!(api.history("ada").await.is_empty());
    api.delete("/api/bot/ada").await.expect(200);
    api.launch("ada", "sim:echo").await;
    let anew = send(&api, "u", &body).await;
    assert!(!replayed(&anew), "a new bot of the same id has no keys");
    anew.expect(200);
}

#[tokio::test]
async fn a_key_that_is_none_is_named_with_its_rule() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:echo").await;
    let body = json!({"bot_id": "ada", "content": "hello"});
    let long = "x".repeat(256);
    let latin = b"caf\xe9".to_vec();
    for key in [b"".to_vec(), long.clone().into_bytes(), latin, b"a\tb".to_vec()] {
        let request = api.request(Method::POST, "/api/chat/send").json(&body);
        let request =
            request.header("idempotency-key", reqwest::header::HeaderValue::from_bytes(&key).unwrap());
        let problem = api.answer(request).await.expect_problem(400, "invalid_request");
        assert_eq!(problem["errors"][0]["field"], "Idempotency-Key");
        assert!(problem["errors"][0]["reason"].as_str().unwrap().contains("255"), "{problem}");
    }
    let twice = keyed(&api, "a", "", &body).header("idempotency-key", "a");
    let problem = api.answer(twice).await.expect_problem(400, "invalid_request");
    assert_eq!(problem["errors"][0]["field"], "Idempotency-Key");
    let mut socket = deia.socket().await;
    for key in [json!(""), json!(7), json!(long), json!("é")] {
        let frame = json!({"type": "send", "bot_id": "ada", "content": "hello", "idempotency_key": key});
        let error = socket.call(frame).await;
        assert_eq!(error["problem"]["errors"][0]["field"], "idempotency_key", "{error}");
    }
    assert!(api.history("ada").await.is_empty());
    let at_most = keyed(&api, &"~".repeat(255), "", &body);
    api.answer(at_most).await.expect(200);
}

#[tokio::test]
async fn a_repetition_of_a_turn_that_a_crash_cut_off_is_told_so() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:tokens=5000,gap_ms=2").await;
    let body = json!({"bot_id": "ada", "content": "talk"});
    let told = api.answer(keyed(&api, "k", "?wait=false", &body)).await.expect(202);
    let waiting = tokio::spawn({
        let (api, body) = (api.clone(), body.clone());
        async move { send(&api, "k", &body).await }
    });
    api.written(&told["turn"]["id"], 20).await;
    api.post("/api/bot/ada/kill", json!({"how": "panic"})).await.expect(200);
    for answer in [waiting.await.unwrap(), send(&api, "k", &body).await] {
        assert!(replayed(&answer));
        let problem = answer.expect_problem(503, "turn_interrupted");
        assert_eq!(problem["turn"]["id"], told["turn"]["id"]);
    }
    let history = api.history("ada").await;
    assert_eq!(history.len(), 2);
    assert!(numbered(5000).starts_with(history[1]["content"].as_str().unwrap()));
    assert_eq!(stage.sim.stats().requests, 1, "no answer is silently made twice");
}

/// Whatever a killed process had done with a request, the same request after its start does it once.
#[tokio::test]
async fn a_repetition_after_kill_9_is_one_message_whatever_the_moment() {
    const ROUNDS: u64 = 16;
    let stage = Stage::new().await;
    let mut deia = stage.start().await;
    deia.api().launch("ada", "sim:tokens=5").await;
    let mut replays = 0;
    for round in 0..ROUNDS {
        let body = json!({"bot_id": "ada", "content": format!("message {round}")});
        let key = format!("round-{round}");
        let request = keyed(&deia.api(), &key, "?wait=false", &body);
        let sending = tokio::spawn(async move { request.send().await.map(|r| r.status().as_u16()) });
        // The moment is what is tried here: before, in and after the commit, which takes about a millisecond.
        tokio::time::sleep(Duration::from_micros(round * 400)).await;
        deia.kill().await;
        let told = sending.await.unwrap();
        deia = stage.start().await;
        let again = api_send(&deia.api(), &key, &body).await;
        if told.is_ok_and(|status| status == 202) {
            assert!(replayed(&again), "round {round}: what was acknowledged is known");
        }
        replays += usize::from(replayed(&again));
        let turn = deia.api().ended(&again.expect(202)["turn"]["id"]).await;
        assert!(matches!(turn["state"].as_str(), Some("completed" | "interrupted")), "{turn}");
    }
    let history = deia.api().history("ada").await;
    let expected: Vec<_> = (0..ROUNDS).map(|round| format!("message {round}")).collect();
    assert_eq!(user_messages(&history), expected, "each once, in order");
    println!("{replays} of {ROUNDS} kills met a message that was stored");
}

async fn api_send(api: &Api, key: &str, body: &Value) -> Answer {
    api.answer(keyed(api, key, "?wait=false", body)).await
}

/// A tree on a store whose answers can get lost.
async fn on_memory(sim: &Sim) -> (Controller, MemoryStore, BotId) {
    let store = MemoryStore::new();
    let url = ollama::parse_address(&sim.url()).unwrap();
    let model = ollama::Ollama::new(&url, ollama::Limits::default()).unwrap();
    let server =
        ServerSpec { name: "sim".into(), url: sim.url(), slots: 4, simulated: false, model: Arc::new(model) };
    let tree = Controller::builder(Arc::new(store.clone())).server(server).start().await.unwrap();
    let config = json!({"model": "sim:tokens=8"}).as_object().cloned();
    let bot = tree.launch(LaunchBot { config, ..LaunchBot::default() }).await.unwrap();
    // What the start has to store is stored: the next commit is the test's.
    eventually("the start is told", async || {
        let events = store.events();
        let told = |name: &str| events.iter().any(|event| &*event.name == name);
        (told("bot_state_changed") && told("server_state_changed")).then_some(())
    })
    .await;
    (tree, store, bot.id)
}

fn message(bot: &BotId, text: &str, key: Option<&str>) -> SendMessage {
    let idempotency_key = key.map(|key| IdempotencyKey::parse(key).unwrap());
    SendMessage { idempotency_key, ..SendMessage::text(bot.clone(), text) }
}

async fn turn_of(sent: Sent) -> (Turn, String) {
    let Sent::Turn(accepted) = sent else { panic!("a turn") };
    let end = soon("the end of the turn", accepted.ended()).await.expect("an end");
    (end.turn.clone(), end.reply.as_ref().unwrap().content.to_string())
}

#[tokio::test]
async fn a_commit_whose_answer_got_lost_is_found_by_its_key_and_its_turn_is_run() {
    let sim = Sim::start(SimConfig::default()).await.unwrap();
    let (tree, store, bot) = on_memory(&sim).await;
    store.lose_next_answers(1);
    let sent = tree.send(message(&bot, "one", Some("k"))).await.unwrap();
    assert!(sent.replayed());
    let (turn, text) = turn_of(sent).await;
    assert_eq!((turn.state, text), (TurnState::Completed, numbered(8)));
    let again = tree.send(message(&bot, "one", Some("k"))).await.unwrap();
    assert_eq!(turn_of(again).await.0.id, turn.id);

    // Without a key nobody can tell the caller; what is stored is answered all the same, and the next message follows it.
    store.lose_next_answers(1);
    let problem = tree.send(message(&bot, "two", None)).await.unwrap_err();
    assert_eq!(problem.code, Code::StorageUnavailable);
    let last = eventually("the stray turn ends", async || {
        let open = store.open_turns(None).await.unwrap();
        let page = tree.history(&bot, Default::default()).await.unwrap();
        open.is_empty().then(|| page.items.last().cloned()).flatten()
    })
    .await;
    assert_eq!(*last.content, numbered(8));
    let (turn, _) = turn_of(tree.send(message(&bot, "three", None)).await.unwrap()).await;
    assert_eq!(turn.state, TurnState::Completed);
    let page = tree.history(&bot, Default::default()).await.unwrap();
    let said: Vec<_> = page.items.iter().step_by(2).map(|m| m.content.to_string()).collect();
    assert_eq!(said, ["one", "two", "three"]);
    tree.shutdown(Duration::from_secs(1)).await;
    sim.stop().await;
}

#[tokio::test]
async fn a_repetition_waits_while_the_first_commit_is_undecided() {
    let sim = Sim::start(SimConfig::default()).await.unwrap();
    let (tree, store, bot) = on_memory(&sim).await;
    store.pause();
    let sends: Vec<_> = (0..5)
        .map(|_| {
            let (tree, message) = (tree.clone(), message(&bot, "one", Some("k")));
            tokio::spawn(async move { tree.send(message).await })
        })
        .collect();
    store.wait_for_waiting(1).await;
    assert!(sends.iter().all(|send| !send.is_finished()));
    store.resume();
    let mut turns = HashSet::new();
    for send in sends {
        turns.insert(turn_of(soon("a send", send).await.unwrap().unwrap()).await.0.id);
    }
    assert_eq!(turns.len(), 1);
    assert_eq!(tree.history(&bot, Default::default()).await.unwrap().items.len(), 2);
    tree.shutdown(Duration::from_secs(1)).await;
    sim.stop().await;
}
