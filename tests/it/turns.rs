//! A turn from outside: the three forms of a send, Stop, the line of a conversation, edits, commands, configuration.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Api, Stage, eventually, numbered};

/// Everything of a turn that its events say, and the text that they carry.
async fn stream_of(api: &Api, bot: &str, content: &str) -> (Vec<String>, String, Value) {
    let events = api.send_and_stream(bot, content).await.rest().await;
    let mut text = String::new();
    for event in &events {
        if event.event.as_deref() == Some("token") {
            assert_eq!(event.data["data"]["offset"], text.len(), "text has no gap");
            text.push_str(event.data["data"]["text"].as_str().unwrap());
        }
    }
    let names = events.iter().filter_map(|e| e.event.clone()).filter(|n| n != "token").collect();
    let end = events.last().expect("events").data["data"].clone();
    (names, text, end)
}

#[tokio::test]
async fn a_send_waits_streams_or_is_only_acknowledged() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:tokens=40").await;

    let waited = api.send("ada", "one").await.expect(200);
    assert_eq!(waited["turn"]["state"], "completed");
    assert_eq!(
        (&waited["reply"]["content"], &waited["reply"]["state"]),
        (&json!(numbered(40)), &json!("complete"))
    );
    assert_eq!(waited["message"]["parent_id"], Value::Null);
    assert_eq!(waited["reply"]["parent_id"], waited["message"]["id"]);

    let (names, text, end) = stream_of(&api, "ada", "two").await;
    assert_eq!(text, numbered(40));
    assert_eq!(end["reply"]["content"], text);
    assert_eq!(names.first().map(String::as_str), Some("message_received"));
    assert_eq!(names.last().map(String::as_str), Some("turn_completed"));
    let once = |name: &str| names.iter().filter(|n| *n == name).count();
    assert_eq!((once("turn_accepted"), once("turn_started"), once("turn_completed")), (1, 1, 1), "{names:?}");

    let told = api.send_without_waiting("ada", "three").await.expect(202);
    assert_eq!(told["message"]["content"], "three");
    assert!(told.get("reply").is_none_or(Value::is_null));
    let turn = api.ended(&told["turn"]["id"]).await;
    assert_eq!((&turn["state"], &turn["usage"]["completion_tokens"]), (&json!("completed"), &json!(40)));
    assert_eq!(api.message("ada", &turn["reply_id"]).await["content"], numbered(40));

    let history = api.history("ada").await;
    let said: Vec<_> =
        history.iter().filter(|m| m["sender"] == "user").map(|m| m["content"].clone()).collect();
    assert_eq!(said, ["one", "two", "three"]);
    for pair in history.windows(2) {
        assert_eq!(pair[1]["parent_id"], pair[0]["id"], "one path");
    }
}

#[tokio::test]
async fn stop_closes_the_upstream_call_and_keeps_exactly_what_was_streamed() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    let bot = api.launch("ada", "sim:tokens=5000,gap_ms=2").await;
    let mut socket = deia.socket().await;
    socket.subscribe(&format!("conversation:{}", bot["main_conversation_id"].as_str().unwrap())).await;
    let waiting = tokio::spawn({
        let api = api.clone();
        async move { api.send("ada", "talk").await }
    });
    let mut seen = String::new();
    let mut turn = Value::Null;
    while seen.len() < 100 {
        let frame = socket.next().await.expect("the socket is open");
        if frame["event"] == "token" {
            seen.push_str(frame["data"]["text"].as_str().unwrap());
            turn = frame["data"]["turn_id"].clone();
        }
    }
    let path = format!("/api/turn/{}/stop", turn.as_str().unwrap());
    let stopped = api.post(&path, json!({})).await.expect(200);
    assert_eq!(stopped["state"], "stopped");
    for frame in socket.until_event("turn_stopped").await {
        if frame["event"] == "token" {
            seen.push_str(frame["data"]["text"].as_str().unwrap());
        }
    }
    let answer = waiting.await.unwrap().expect(200);
    assert_eq!(answer["turn"]["state"], "stopped");
    assert_eq!((&answer["reply"]["content"], &answer["reply"]["state"]), (&json!(seen), &json!("partial")));
    assert_eq!(api.message("ada", &answer["reply"]["id"]).await["content"], seen);
    assert!(numbered(5000).starts_with(&seen));
    stage.all_closed().await;
    assert_eq!(stage.sim.stats().closed_early, 1);
    assert_eq!(api.post(&path, json!({})).await.expect(200)["state"], "stopped", "stop is idempotent");
    // The slot and the conversation are free: the next one is answered.
    api.patch("/api/bot/ada", json!({"config": {"model": "sim:echo"}})).await.expect(200);
    assert_eq!(api.send("ada", "next").await.expect(200)["reply"]["content"], "next");
}

#[tokio::test]
async fn sixteen_wait_behind_a_running_turn_and_are_answered_in_order() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:stall_at=2").await;
    let running = api.send_without_waiting("ada", "first").await.expect(202);
    api.turn_in(&running["turn"]["id"], "generating").await;
    api.patch("/api/bot/ada", json!({"config": {"model": "sim:echo"}})).await.expect(200);
    let mut waiting = vec![];
    let mut parent = running["turn"]["reply_id"].clone();
    for n in 1..=16 {
        let told = api.send_without_waiting("ada", &format!("message {n}")).await.expect(202);
        assert_eq!(told["turn"]["queue"]["position"], n);
        assert_eq!(told["message"]["parent_id"], parent, "fixed at its acknowledgement");
        parent = told["turn"]["reply_id"].clone();
        waiting.push(told);
    }
    let full = api.send_without_waiting("ada", "one too many").await;
    assert!(full.headers.contains_key("retry-after"));
    let problem = full.expect_problem(429, "conversation_queue_full");
    assert!(problem["detail"].as_str().unwrap().contains("16"), "{problem}");
    // One in the middle of the line is stopped; nobody else notices.
    let fifth = waiting[4]["turn"]["id"].as_str().unwrap().to_owned();
    let stopped = api.post(format!("/api/turn/{fifth}/stop"), json!({})).await.expect(200);
    assert_eq!(stopped["state"], "stopped");
    let first = running["turn"]["id"].as_str().unwrap().to_owned();
    api.post(format!("/api/turn/{first}/stop"), json!({})).await.expect(200);
    let mut before = String::new();
    for (n, told) in waiting.iter().enumerate() {
        let turn = api.ended(&told["turn"]["id"]).await;
        let reply = api.message("ada", &turn["reply_id"]).await;
        if n == 4 {
            assert_eq!(
                (&turn["state"], &reply["content"], &reply["state"]),
                (&json!("stopped"), &json!(""), &json!("partial"))
            );
            continue;
        }
        assert_eq!((&turn["state"], &reply["content"]), (&json!("completed"), &told["message"]["content"]));
        let ended = turn["ended_at"].as_str().unwrap().to_owned();
        assert!(ended > before, "in their order");
        before = ended;
    }
    let history = api.history("ada").await;
    assert_eq!(history.len(), 34, "17 messages and 17 replies, the refused one not");
}

#[tokio::test]
async fn a_parent_makes_an_edit_beside_the_old_message() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:echo").await;
    let one = api.send("ada", "one").await.expect(200);
    let two = api.send("ada", "two").await.expect(200);
    let edited = api.submit("ada", "two, better", json!({"parent_id": one["reply"]["id"]})).await.expect(202);
    api.ended(&edited["turn"]["id"]).await;
    let said: Vec<_> = api.history("ada").await.iter().map(|m| m["content"].clone()).collect();
    assert_eq!(said, ["one", "one", "two, better", "two, better"], "the active path");
    let message = api.message("ada", &edited["message"]["id"]).await;
    assert_eq!(
        message["siblings"],
        json!({"index": 2, "count": 2, "ids": [two["message"]["id"], edited["message"]["id"]]})
    );
    assert_eq!(api.message("ada", &two["message"]["id"]).await["siblings"]["index"], 1);
    let first = api.submit("ada", "anew", json!({"parent_id": null})).await.expect(202);
    assert_eq!(first["message"]["parent_id"], Value::Null);
    api.ended(&first["turn"]["id"]).await;
    let said: Vec<_> = api.history("ada").await.iter().map(|m| m["content"].clone()).collect();
    assert_eq!(said, ["anew", "anew"]);
    let unknown = json!({"parent_id": first["turn"]["id"]});
    api.submit("ada", "x", unknown).await.expect_problem(404, "message_not_found");
}

#[tokio::test]
async fn each_slash_command_answers_as_the_system() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:echo").await;
    let command = async |text: &str| {
        let answer = api.send("ada", text).await.expect(200);
        assert_eq!((&answer["turn"], &answer["reply"]["sender"]), (&Value::Null, &json!("system")), "{text}");
        assert_eq!(answer["message"]["content"], text);
        answer["reply"]["content"].as_str().unwrap().to_owned()
    };
    let help = command("/help").await;
    for listed in api.get("/api/commands").await.expect(200)["items"].as_array().unwrap() {
        assert!(help.contains(listed["usage"].as_str().unwrap()), "{listed}");
    }
    assert!(command("/status").await.contains("sim:echo"));
    assert!(command("/stop").await.contains("Nothing runs"));
    command("/model sim:tokens=3").await;
    assert_eq!(api.send("ada", "hello").await.expect(200)["reply"]["content"], numbered(3));
    command("/system You are brief.").await;
    assert_eq!(api.get("/api/bot/ada").await.expect(200)["config"]["system_prompt"], "You are brief.");

    let before = api.history("ada").await.into_iter().rfind(|m| m["sender"] == "bot").unwrap();
    command("/retry").await;
    let again = eventually("the retry is answered", async || {
        let last = api.history("ada").await.pop()?;
        (last["state"] == "complete" && last["sender"] == "bot" && last["id"] != before["id"]).then_some(last)
    })
    .await;
    assert_eq!(again["parent_id"], before["parent_id"], "beside the first answer");
    assert_eq!(api.turn(&again["turn_id"]).await["attempt_of"], before["turn_id"]);

    // A running answer is stopped by /stop.
    command("/model sim:stall_at=3").await;
    let running = api.send_without_waiting("ada", "talk").await.expect(202);
    api.written(&running["turn"]["id"], 10).await;
    assert!(command("/stop").await.contains("Stopped"));
    assert_eq!(api.ended(&running["turn"]["id"]).await["state"], "stopped");

    assert!(command("/clear").await.contains("Deleted"));
    let left: Vec<_> = api.history("ada").await.iter().map(|m| m["content"].clone()).collect();
    assert_eq!((left.len(), &left[0]), (2, &json!("/clear")));

    for (text, code) in
        [("/stpo", "unknown_command"), ("/clear now", "invalid_command"), ("/model", "invalid_command")]
    {
        api.send("ada", text).await.expect_problem(422, code);
    }
    assert_eq!(api.history("ada").await.len(), 2, "nothing of a refused command is stored");
    command("/model sim:echo").await;
    for text in ["/usr/bin/env", "// comment", "/"] {
        assert_eq!(api.send("ada", text).await.expect(200)["reply"]["content"], text);
    }
}

#[tokio::test]
async fn a_patch_merges_and_applies_from_the_next_turn() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    let config = json!({"model": "sim:tokens=200,gap_ms=2", "system_prompt": "Be kind.", "options": {"seed": 7, "top_k": 3}});
    let bot = api.post("/api/bot/launch", json!({"bot_id": "ada", "config": config})).await.expect(201);
    let running = api.send_without_waiting("ada", "one").await.expect(202);
    api.written(&running["turn"]["id"], 10).await;
    let patch = json!({"name": "Ada", "config": {"model": "sim:echo", "options": {"top_k": null, "num_ctx": 512}}, "metadata": {"a": 1}});
    let patched = api.patch("/api/bot/ada", patch).await.expect(200);
    assert_eq!(patched["name"], "Ada");
    assert_eq!(patched["config"]["system_prompt"], "Be kind.", "a merge");
    let options = &patched["config"]["options"];
    assert_eq!((&options["seed"], &options["num_ctx"]), (&json!(7), &json!(512)));
    assert!(options.get("top_k").is_none_or(Value::is_null), "null removes");
    assert!(patched["config_version"].as_u64() > bot["config_version"].as_u64());
    let first = api.ended(&running["turn"]["id"]).await;
    assert_eq!(
        api.message("ada", &first["reply_id"]).await["content"],
        numbered(200),
        "the running one goes on"
    );
    let second = api.send("ada", "two").await.expect(200);
    assert_eq!((&second["reply"]["content"], &second["turn"]["model"]), (&json!("two"), &json!("sim:echo")));
    assert_eq!(second["turn"]["context"]["num_ctx"], 512);
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_cancel_its_turn() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:tokens=100,gap_ms=2").await;
    let mut events = api.send_and_stream("ada", "talk").await;
    let turn = loop {
        let event = events.next().await.expect("an event");
        if event.event.as_deref() == Some("token") {
            break event.data["data"]["turn_id"].clone();
        }
    };
    drop(events);
    let turn = api.ended(&turn).await;
    assert_eq!(turn["state"], "completed");
    assert_eq!(api.message("ada", &turn["reply_id"]).await["content"], numbered(100));
    assert_eq!(stage.sim.stats().closed_early, 0);
}

#[tokio::test]
async fn a_stopped_bot_takes_nothing_and_a_started_one_goes_on() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:tokens=5000,gap_ms=2").await;
    let running = api.send_without_waiting("ada", "talk").await.expect(202);
    api.written(&running["turn"]["id"], 50).await;
    api.request(Method::POST, "/api/bot/ada/stop").send().await.unwrap().error_for_status().unwrap();
    assert_eq!(api.ended(&running["turn"]["id"]).await["state"], "stopped");
    api.send("ada", "hello").await.expect_problem(409, "bot_not_running");
    api.post("/api/bot/ada/stop", json!({})).await.expect(200);
    api.patch("/api/bot/ada", json!({"config": {"model": "sim:echo"}})).await.expect(200);
    for _ in 0..2 {
        api.post("/api/bot/ada/start", json!({})).await.expect(200);
    }
    assert_eq!(api.send("ada", "hello").await.expect(200)["reply"]["content"], "hello");
}
