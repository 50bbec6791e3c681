//! SIGTERM while answers are written.

use serde_json::json;

use crate::support::{Signal, Stage, numbered};

#[tokio::test]
async fn answers_that_end_within_the_drain_are_completed() {
    let stage = Stage::with(&[("DEIA_SERVER__DRAIN_S", "600")]).await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:tokens=150,hold_at=50").await;
    let waiting = tokio::spawn({
        let api = api.clone();
        async move { api.send("ada", "talk").await }
    });
    api.bot_in("ada", &["processing"]).await;
    deia.signal(Signal::Terminate);
    stage.sim.let_go();
    let answer = waiting.await.unwrap().expect(200);
    assert_eq!(answer["reply"]["content"], numbered(150));
    // Who waits for it waits far less than the drain is long: it is not waited for to its end.
    assert_eq!(deia.ended().await.code(), Some(0));
    let deia = stage.start().await;
    let turn = deia.api().turn(&answer["turn"]["id"]).await;
    assert_eq!(turn["state"], "completed");
}

#[tokio::test]
async fn longer_answers_are_interrupted_with_all_that_was_seen() {
    let stage = Stage::with(&[("DEIA_SERVER__DRAIN_S", "1")]).await;
    let deia = stage.start().await;
    let api = deia.api();
    // Longer than the harness waits for the end of a process.
    let bot = api.launch("ada", "sim:tokens=9999,gap_ms=20").await;
    let mut socket = deia.socket().await;
    socket.subscribe(&format!("conversation:{}", bot["main_conversation_id"].as_str().unwrap())).await;
    let told = api.send_without_waiting("ada", "talk").await.expect(202);
    api.turn_in(&told["turn"]["id"], "generating").await;
    api.patch("/api/bot/ada", json!({"config": {"model": "sim:echo"}})).await.expect(200);
    let next = api.send_without_waiting("ada", "and then?").await.expect(202);
    api.written(&told["turn"]["id"], 50).await;
    deia.signal(Signal::Terminate);
    let (mut seen, mut closing) = (String::new(), None);
    while let Some(frame) = socket.next().await {
        if frame["event"] == "token" {
            assert_eq!(frame["data"]["offset"], seen.len());
            seen.push_str(frame["data"]["text"].as_str().unwrap());
        }
        if frame["type"] == "closing" {
            closing = Some(frame);
        }
    }
    let closing = closing.expect("a word before the end");
    assert_eq!(closing["reconnect"], true);
    let code = socket.closed().await.expect("a close code");
    assert!(code < 4500 && closing["code"] == code, "{closing}");
    assert_eq!(deia.ended().await.code(), Some(0));
    let deia = stage.start().await;
    let api = deia.api();
    let turn = api.ended(&told["turn"]["id"]).await;
    assert_eq!((&turn["state"], &turn["error"]["code"]), (&json!("interrupted"), &json!("turn_interrupted")));
    let kept = api.message("ada", &turn["reply_id"]).await;
    // The last piece may be on its way to a socket that is closed.
    assert!(kept["content"].as_str().unwrap().starts_with(&seen), "{seen:?} was seen of {kept}");
    assert_eq!(kept["state"], "partial");
    let turn = api.ended(&next["turn"]["id"]).await;
    assert_eq!(turn["state"], "completed", "what waited runs after the start");
}

#[tokio::test]
async fn who_still_waits_when_the_drain_is_over_is_told_where_the_message_is() {
    let stage = Stage::with(&[("DEIA_SERVER__DRAIN_S", "1")]).await;
    let deia = stage.start().await;
    let api = deia.api();
    for bot in ["ada", "bob"] {
        api.launch(bot, "sim:tokens=9999,gap_ms=2").await;
    }
    let waiting = tokio::spawn({
        let api = api.clone();
        async move { api.send("ada", "talk").await }
    });
    let mut streamed = api.send_and_stream("bob", "talk").await;
    let last = streamed.next().await.expect("an event").id.expect("an id");
    api.bot_in("ada", &["processing"]).await;
    deia.signal(Signal::Terminate);
    let answer = waiting.await.unwrap();
    assert!(answer.headers.contains_key("retry-after"), "{:?}", answer.headers);
    let problem = answer.expect_problem(503, "shutting_down");
    assert_eq!(problem["turn"]["bot_id"], "ada", "{problem}");
    // The stream ends in order: a cut one fails the test in `next`.
    let seen = streamed.rest().await;
    assert!(seen.iter().all(|e| e.event.as_deref() != Some("turn_completed")));
    let last = seen.last().and_then(|e| e.id.clone()).unwrap_or(last);
    assert_eq!(deia.ended().await.code(), Some(0));
    let deia = stage.start().await;
    let api = deia.api();
    let turn = api.ended(&problem["turn"]["id"]).await;
    assert_eq!((&turn["state"], &turn["bot_id"]), (&json!("interrupted"), &json!("ada")));
    let asked = api.message("ada", &turn["message_id"]).await;
    assert_eq!((&asked["content"], api.history("ada").await.len()), (&json!("talk"), 2));
    let bob = &api.history("bob").await[1];
    let path = format!("/api/turn/{}/events", bob["turn_id"].as_str().unwrap());
    let after = api.events(path, Some(&last)).await.rest().await;
    assert_eq!(after.last().unwrap().event.as_deref(), Some("turn_interrupted"));
}
