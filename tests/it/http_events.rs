//! Event streams that are resumed, and sockets that are treated badly.

use serde_json::{Value, json};

use crate::support::{Deia, Home, ServerSentEvent};

async fn start() -> (Home, Deia) {
    let home = Home::new().env("DEIA_INFERENCE__SIMULATED", "on");
    let deia = home.start().await;
    (home, deia)
}

fn text(events: &[ServerSentEvent]) -> String {
    events
        .iter()
        .filter(|e| e.data["event"] == "token")
        .filter_map(|e| e.data["data"]["text"].as_str())
        .collect()
}

fn content(event: &ServerSentEvent) -> &str {
    event.data["data"]["reply"]["content"].as_str().unwrap()
}

#[tokio::test]
async fn a_stream_cut_after_any_event_goes_on_exactly_there() {
    let (_home, deia) = start().await;
    let api = deia.api();
    // Longer than any reader is away: each turn is ended by a stop.
    api.launch("A", "sim:tokens=9999,gap_ms=4").await;
    for cut in [1, 3, 8, 20] {
        let mut stream = api.send_and_stream("A", "go").await;
        let mut seen = vec![];
        for _ in 0..cut {
            seen.push(stream.next().await.unwrap());
        }
        drop(stream);
        let turn = seen[0].data["topic"].as_str().unwrap().strip_prefix("turn:").unwrap().to_owned();
        let last = seen.last().unwrap().id.clone().unwrap();
        let rest = api.events(format!("/api/turn/{turn}/events"), Some(&last)).await;
        api.post(format!("/api/turn/{turn}/stop"), json!({})).await.expect(200);
        let rest = rest.rest().await;
        let end = rest.last().unwrap();
        assert_eq!(end.event.as_deref(), Some("turn_stopped"));
        assert_eq!(format!("{}{}", text(&seen), text(&rest)), content(end), "cut after {cut}");
        let seqs: Vec<u64> = seen
            .iter()
            .chain(&rest)
            .filter(|e| e.data["event"] != "token" && e.data["event"] != "queue_moved")
            .map(|e| e.data["seq"].as_u64().unwrap())
            .collect();
        assert!(seqs.windows(2).all(|w| w[1] == w[0] + 1), "{seqs:?}");
        // After the end there is nothing to come back for.
        let request = api.request(reqwest::Method::GET, format!("/api/turn/{turn}/events"));
        let over = api.answer(request.header("last-event-id", end.id.as_deref().unwrap())).await;
        assert_eq!(over.status, 204);
        // Who claims to have seen the end before it came has not.
        let (epoch, at) = end.id.as_deref().unwrap().strip_suffix(".end").unwrap().rsplit_once('.').unwrap();
        let seq: u64 = at.parse().unwrap();
        for forged in
            [format!("{epoch}.{}.end", seq - 1), format!("{epoch}.0.end"), format!("{epoch}.{}.end", seq + 1)]
        {
            let told = api.events(format!("/api/turn/{turn}/events"), Some(&forged)).await.rest().await;
            let names: Vec<_> = told.iter().map(|e| e.event.as_deref().unwrap()).collect();
            assert_eq!(names, ["snapshot", "turn_stopped"], "{forged}");
            assert_eq!(told[0].data["data"]["recovered"], false);
        }
    }
}

#[tokio::test]
async fn a_stream_goes_on_across_a_restart_of_the_process() {
    let (home, deia) = start().await;
    let api = deia.api();
    api.launch("A", "sim:tokens=20").await;
    let whole = api.send_and_stream("A", "first").await.rest().await;
    api.patch("/api/bot/A", json!({"config": {"model": "sim:tokens=4000,gap_ms=5"}})).await.expect(200);
    let mut stream = api.send_and_stream("A", "second").await;
    let mut seen = vec![];
    while text(&seen).len() < 100 {
        seen.push(stream.next().await.unwrap());
    }
    deia.kill().await;
    let deia = home.start().await;
    let api = deia.api();
    let path = |event: &ServerSentEvent| {
        let turn = event.data["topic"].as_str().unwrap().strip_prefix("turn:").unwrap();
        format!("/api/turn/{turn}/events")
    };
    let durable = |events: &[ServerSentEvent]| -> Vec<(String, u64)> {
        let durable =
            events.iter().filter(|e| e.data["event"] != "token" && e.data["event"] != "queue_moved");
        durable.map(|e| (e.event.clone().unwrap(), e.data["seq"].as_u64().unwrap())).collect()
    };
    // A turn of before, from its start and from each of its durable events.
    let told = durable(&whole);
    assert_eq!(durable(&api.events(path(&whole[0]), None).await.rest().await), told);
    let marks: Vec<_> = whole.iter().filter(|e| e.data["event"] != "token").collect();
    for (n, mark) in marks.iter().enumerate().take(marks.len() - 1) {
        let rest = api.events(path(mark), mark.id.as_deref()).await.rest().await;
        assert_eq!(durable(&rest), told[n + 1..], "after {:?}", mark.event);
    }
    let request = api.request(reqwest::Method::GET, path(&whole[0]));
    let over = request.header("last-event-id", marks.last().unwrap().id.as_deref().unwrap());
    assert_eq!(api.answer(over).await.status, 204);
    // The one that the process took with it: exactly its end is missing.
    let last = seen.last().unwrap();
    let rest = api.events(path(last), last.id.as_deref()).await.rest().await;
    let names: Vec<_> = rest.iter().map(|e| e.event.as_deref().unwrap()).collect();
    assert_eq!(names, ["turn_interrupted"]);
    let seq = last.data["seq"].as_u64().unwrap();
    assert_eq!(rest[0].data["seq"], seq + 1);
    // Places of another record and of the future.
    let turn = path(last);
    let id = last.id.as_deref().unwrap();
    let mut parts = id.split('.');
    let (of, epoch) = (parts.next().unwrap(), parts.next().unwrap());
    for nowhere in [format!("{of}.{epoch}.4000"), format!("{of}.{}.1", "0".repeat(32))] {
        let events = api.events(turn.clone(), Some(&nowhere)).await.rest().await;
        let names: Vec<_> = events.iter().map(|e| e.event.as_deref().unwrap()).collect();
        assert_eq!(names, ["snapshot", "turn_interrupted"], "{nowhere}");
    }
}

#[tokio::test]
async fn a_place_that_means_nothing_gets_a_snapshot_and_the_end() {
    let (_home, deia) = start().await;
    let api = deia.api();
    api.launch("A", "sim:echo").await;
    let sent = api.send("A", "hello").await.expect(200);
    let turn = sent["turn"]["id"].as_str().unwrap();
    let events = api.events(format!("/api/turn/{turn}/events"), Some("garbage")).await.rest().await;
    let names: Vec<_> = events.iter().map(|e| e.event.as_deref().unwrap()).collect();
    assert_eq!(names, ["snapshot", "turn_completed"]);
    assert_eq!(events[0].data["data"]["recovered"], false);
    assert_eq!(events[0].data["data"]["turn"]["id"], turn);
    assert_eq!(json!(content(&events[1])), sent["reply"]["content"]);
    api.get("/api/turn/0199f5a2-c0de-7000-a000-000000000001/events")
        .await
        .expect_problem(404, "turn_not_found");
}

#[tokio::test]
async fn a_place_in_another_turn_is_not_believed() {
    let (_home, deia) = start().await;
    let api = deia.api();
    api.launch("A", "sim:echo").await;
    let one = api.send_and_stream("A", "one").await.rest().await;
    let two = api.send("A", "two").await.expect(200);
    let path = format!("/api/turn/{}/events", two["turn"]["id"].as_str().unwrap());
    for event in &one {
        let told = api.events(&path, event.id.as_deref()).await.rest().await;
        let names: Vec<_> = told.iter().map(|e| e.event.as_deref().unwrap()).collect();
        assert_eq!(names, ["snapshot", "turn_completed"], "after {:?} of the other turn", event.event);
        assert_eq!(told[0].data["data"]["recovered"], false);
        assert_eq!(json!(content(&told[1])), two["reply"]["content"]);
    }
}

#[tokio::test]
async fn a_socket_survives_nine_bad_frames_and_closes_after_the_tenth() {
    let (_home, deia) = start().await;
    let mut socket = deia.socket().await;
    socket.send_text("nope").await;
    socket.send_binary(vec![1, 2, 3]).await;
    socket.send_text(format!("\"{}\"", "x".repeat(64 * 1024))).await;
    socket.send(json!({"type": "nothing"})).await;
    for _ in 0..4 {
        assert_eq!(socket.next().await.unwrap()["problem"]["code"], "invalid_frame");
    }
    // A wrong field of a known frame does not count.
    let wrong = socket.call(json!({"type": "send", "bot_id": "A", "content": ""})).await;
    assert_eq!(wrong["problem"]["errors"][0]["field"], "content");
    for _ in 0..5 {
        socket.send_text("[]").await;
        assert_eq!(socket.next().await.unwrap()["type"], "error");
    }
    assert_eq!(socket.call(json!({"type": "ping"})).await["type"], "pong");
    socket.send_text("nope").await;
    assert_eq!(socket.next().await.unwrap()["type"], "error");
    let goodbye = socket.next().await.unwrap();
    assert_eq!((&goodbye["type"], &goodbye["reconnect"]), (&json!("closing"), &json!(false)));
    assert_eq!(socket.closed().await, Some(4500));
}

#[tokio::test]
async fn a_frame_that_is_far_too_long_ends_the_socket_with_1009() {
    let (_home, deia) = start().await;
    let mut socket = deia.socket().await;
    socket.send_text("x".repeat(300 * 1024)).await;
    assert_eq!(socket.next().await.unwrap()["problem"]["code"], "invalid_frame");
    assert_eq!(socket.next().await.unwrap()["type"], "closing");
    assert_eq!(socket.closed().await, Some(1009));
}

#[tokio::test]
async fn a_socket_sees_its_subscription_before_the_events_and_html_where_asked() {
    let (_home, deia) = start().await;
    let api = deia.api();
    let bot = api.launch("A", "sim:echo").await;
    let mut socket = deia.socket().await;
    let topic = format!("conversation:{}", bot["main_conversation_id"].as_str().unwrap());
    let subscribe = json!({"type": "subscribe", "topic": topic, "render": "html"});
    let subscribed = socket.call(subscribe).await;
    assert_eq!(
        (&subscribed["type"], &subscribed["snapshot"]["messages"]),
        (&json!("subscribed"), &json!([]))
    );
    let sent = socket.call(json!({"type": "send", "bot_id": "A", "content": "**hi**"})).await;
    assert_eq!((&sent["type"], &sent["message"]["content"]), (&json!("ok"), &json!("**hi**")));
    let frames = socket.until_event("turn_completed").await;
    let received = frames.iter().find(|f| f["event"] == "message_received").unwrap();
    assert_eq!(received["data"]["message"]["html"], "<p><strong>hi</strong></p>\n");
    let reply = &frames.last().unwrap()["data"]["reply"];
    assert!(reply["html"].is_string());
    let tokens: String =
        frames.iter().filter(|f| f["event"] == "token").filter_map(|f| f["data"]["text"].as_str()).collect();
    assert_eq!(Value::String(tokens), reply["content"]);
    // Resumed from the start: every durable event again, in order, and no snapshot.
    let mut again = deia.socket().await;
    let after = json!({"epoch": subscribed["epoch"], "seq": subscribed["seq"]});
    let resumed = again.call(json!({"type": "subscribe", "topic": topic, "after": after})).await;
    assert_eq!((&resumed["recovered"], resumed.get("snapshot")), (&json!(true), None));
    let replayed = again.until_event("turn_completed").await;
    let seqs = |frames: &[Value]| -> Vec<u64> {
        let durable = frames
            .iter()
            .filter(|f| f["type"] == "event" && f["event"] != "token" && f["event"] != "queue_moved");
        durable.map(|f| f["seq"].as_u64().unwrap()).collect()
    };
    assert_eq!(seqs(&replayed), seqs(&frames));
    let nonsense = json!({"type": "subscribe", "topic": topic, "after": {"epoch": "x", "seq": -1}});
    let fresh = socket.call(nonsense).await;
    assert_eq!(
        (&fresh["recovered"], fresh["snapshot"]["messages"].as_array().unwrap().len()),
        (&json!(false), 2)
    );
}

#[tokio::test]
async fn shutting_down_closes_sockets_with_a_code_that_means_reconnect() {
    let (_home, deia) = start().await;
    let mut socket = deia.socket().await;
    assert_eq!(socket.call(json!({"type": "ping"})).await["type"], "pong");
    let stopped = tokio::spawn(async move { deia.terminate().await });
    let goodbye = socket.next().await.unwrap();
    assert_eq!(
        (&goodbye["type"], &goodbye["code"], &goodbye["reconnect"]),
        (&json!("closing"), &json!(1001), &json!(true))
    );
    assert_eq!(socket.closed().await, Some(1001));
    stopped.await.unwrap();
}
