//! Life of a bot under load: restart, stop, clear, patch and quarantine while turns run and wait.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{Stage, eventually};

#[tokio::test]
async fn a_restart_stops_what_runs_and_keeps_what_waits() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:stall_at=10").await;
    let mut turns = vec![api.send_without_waiting("ada", "one").await.expect(202)["turn"]["id"].clone()];
    let seen = api.written(&turns[0], 10).await;
    api.patch("/api/bot/ada", json!({"config": {"model": "sim:echo"}})).await.expect(200);
    for content in ["two", "three"] {
        turns.push(api.send_without_waiting("ada", content).await.expect(202)["turn"]["id"].clone());
    }
    let bot = api.post("/api/bot/ada/restart", json!({})).await.expect(200);
    assert_ne!(bot["state"], "terminated");
    let states: Vec<Value> = join_all(turns.iter().map(|t| api.ended(t))).await;
    assert_eq!(
        [&states[0]["state"], &states[1]["state"], &states[2]["state"]],
        ["stopped", "completed", "completed"]
    );
    let kept = api.message("ada", &states[0]["reply_id"]).await;
    assert!(kept["content"].as_str().unwrap().starts_with(&seen));
    let status = api.get("/api/bot/ada/status").await.expect(200);
    assert_eq!(
        (&status["restart_count"], &status["queue_depth"], &status["error_count"]),
        (&json!(0), &json!(0), &json!(0))
    );
}

#[tokio::test]
async fn a_stop_ends_what_runs_and_what_waits_and_answers_who_waits() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:tokens=4000,gap_ms=5").await;
    let first = api.send_without_waiting("ada", "one").await.expect(202)["turn"]["id"].clone();
    api.written(&first, 10).await;
    let waiting = tokio::spawn({
        let api = api.clone();
        async move { api.send("ada", "two").await }
    });
    eventually("the second one waits", async || {
        (api.get("/api/bot/ada/status").await.expect(200)["queue_depth"] == 1).then_some(())
    })
    .await;
    assert_eq!(api.post("/api/bot/ada/stop", json!({})).await.expect(200)["state"], "terminated");
    assert_eq!(api.turn(&first).await["state"], "stopped");
    let answer = waiting.await.unwrap().expect(200);
    assert_eq!((&answer["turn"]["state"], &answer["reply"]["state"]), (&json!("stopped"), &json!("partial")));
    api.send("ada", "three").await.expect_problem(409, "bot_not_running");
    // A bot of the same id finds nothing of it.
    api.delete("/api/bot/ada").await.expect(200);
    api.launch("ada", "sim:tokens=3").await;
    assert_eq!(api.history("ada").await.len(), 0);
    assert_eq!(api.send("ada", "hello").await.expect(200)["turn"]["state"], "completed");
}

#[tokio::test]
async fn a_quarantined_bot_holds_its_messages_and_lets_them_be_stopped() {
    let stage = Stage::with(&[("DEIA_SUPERVISION__BOT_RESTARTS", "0")]).await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:stall_at=10").await;
    let mut turns = vec![api.send_without_waiting("ada", "one").await.expect(202)["turn"]["id"].clone()];
    api.written(&turns[0], 10).await;
    api.patch("/api/bot/ada", json!({"config": {"model": "sim:echo"}})).await.expect(200);
    for content in ["two", "three"] {
        turns.push(api.send_without_waiting("ada", content).await.expect(202)["turn"]["id"].clone());
    }
    api.post("/api/bot/ada/kill", json!({"reason": "to see it"})).await.expect(200);
    api.bot_in("ada", &["quarantined"]).await;
    assert_eq!(api.ended(&turns[0]).await["state"], "interrupted");
    assert_eq!(api.turn(&turns[1]).await["state"], "queued");
    let path = format!("/api/turn/{}/stop", turns[1].as_str().unwrap());
    assert_eq!(api.post(path, json!({})).await.expect(200)["state"], "stopped");
    api.send("ada", "four").await.expect_problem(409, "bot_quarantined");
    api.post("/api/bot/ada/start", json!({})).await.expect(200);
    assert_eq!(api.ended(&turns[2]).await["state"], "completed");
    assert_eq!(api.turn(&turns[1]).await["state"], "stopped");
}

#[tokio::test]
async fn patches_at_once_all_count() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:tokens=3").await;
    let patches = (0..20).map(|n| {
        let api = api.clone();
        async move { api.patch("/api/bot/ada", json!({"metadata": {format!("k{n}"): n}})).await.expect(200) }
    });
    join_all(patches).await;
    let bot = api.get("/api/bot/ada").await.expect(200);
    assert_eq!(bot["metadata"].as_object().unwrap().len(), 20, "{}", bot["metadata"]);
    assert_eq!(bot["config_version"], 21);
    let bot = api.patch("/api/bot/ada", json!({"metadata": null})).await.expect(200);
    assert_eq!(bot["metadata"], json!({}));
}

#[tokio::test]
async fn what_is_cleared_is_in_no_later_prompt() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:tokens=4000,gap_ms=5").await;
    let long = "secret ".repeat(500);
    let first = api.send_without_waiting("ada", &long).await.expect(202)["turn"]["id"].clone();
    api.send_without_waiting("ada", &long).await.expect(202);
    api.written(&first, 10).await;
    let cleared = api.delete("/api/chat/ada").await.expect(200);
    assert_eq!(cleared["deleted"], 4);
    assert_eq!(api.history("ada").await.len(), 0);
    api.patch("/api/bot/ada", json!({"config": {"model": "sim:tokens=3"}})).await.expect(200);
    let answer = api.send("ada", "hello").await.expect(200);
    let prompt = answer["turn"]["usage"]["prompt_tokens"].as_u64().unwrap();
    assert!(prompt < 50, "{prompt} tokens for one word");
    assert_eq!(answer["message"]["parent_id"], Value::Null);
}

#[tokio::test]
async fn what_a_deleted_bot_left_is_read_forked_taken_over_or_deleted_and_every_other_answer_says_how() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    let old = api.launch("ada", "sim:echo").await["main_conversation_id"].clone();
    let said = api.send("ada", "kept words").await.expect(200);
    let (turn, question, last) = (&said["turn"]["id"], &said["message"]["id"], &said["reply"]["id"]);
    api.delete("/api/bot/ada").await.expect(200);
    api.launch("ada", "sim:echo").await;
    let id = old.as_str().unwrap();
    let there = format!("/api/chat/ada?conversation_id={id}");
    assert_eq!(api.get(&there).await.expect(200)["items"].as_array().unwrap().len(), 2);

    let conversations = "/api/chat/ada/conversations";
    let send = |content: &str, more: Value| {
        let mut body = json!({"bot_id": "ada", "content": content, "conversation_id": id});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        api.post("/api/chat/send", body)
    };
    send("hello", json!({})).await.expect_problem(409, "conversation_retired");
    send("/help", json!({})).await.expect_problem(409, "conversation_retired");
    send("/clear", json!({})).await.expect_problem(409, "conversation_retired");
    send("other words", json!({"parent_id": null})).await.expect_problem(409, "conversation_retired");
    let again = format!("/api/turn/{}/regenerate", turn.as_str().unwrap());
    api.post(&again, json!({})).await.expect_problem(409, "conversation_retired");
    api.get(&format!("{there}&q=words")).await.expect_problem(409, "conversation_retired");
    api.delete(&there).await.expect_problem(409, "conversation_retired");
    for patch in [json!({"title": "mine"}), json!({"leaf_message_id": question})] {
        let patched = api.patch(&format!("{conversations}/{id}"), patch).await;
        patched.expect_problem(409, "conversation_retired");
    }
    // The bot goes on with what is its own.
    api.send("ada", "hello").await.expect(200);

    let fork = api.post(conversations, json!({"from_message_id": last})).await.expect(201);
    let on = json!({"conversation_id": fork["id"]});
    assert_eq!(api.submit("ada", "and on", on).await.expect(202)["message"]["parent_id"], *last);

    let export = api.request(reqwest::Method::POST, "/api/chat/ada/export".to_owned());
    let export = export.json(&json!({"format": "json", "conversation_id": id})).send().await.unwrap();
    assert_eq!(export.status(), 200);
    let file = export.text().await.unwrap();
    let import = api.request(reqwest::Method::POST, "/api/chat/ada/import".to_owned());
    let import = import.header("content-type", "application/json").body(file);
    assert_eq!(api.answer(import).await.expect(200)["unchanged"]["messages"], 2);
    let next = send("hello", json!({})).await.expect(200);
    assert_eq!(next["message"]["parent_id"], *last, "it is the bot's now");
}

#[tokio::test]
async fn a_kept_main_conversation_can_be_deleted() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    let old = api.launch("ada", "sim:echo").await["main_conversation_id"].clone();
    api.delete("/api/bot/ada").await.expect(200);
    let main = api.launch("ada", "sim:echo").await["main_conversation_id"].clone();
    let path = |id: &Value| format!("/api/chat/ada/conversations/{}", id.as_str().unwrap());
    api.delete(&path(&main)).await.expect_problem(409, "main_conversation");
    api.delete(&path(&old)).await.expect(204);
    api.delete(&path(&old)).await.expect_problem(404, "conversation_not_found");
}
