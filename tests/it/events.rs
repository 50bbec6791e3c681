//! Events from outside: numbers without gaps, text by offset, coming back, two readers, a restart of the process.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::support::{Database, Deia, ServerSentEvents, Socket, Stage, numbered};

/// What a reader has put together of replies.
#[derive(Default)]
struct Texts(HashMap<String, String>);

impl Texts {
    fn note(&mut self, frame: &Value) {
        if frame["event"] == "token" {
            let text = self.0.entry(frame["data"]["message_id"].as_str().unwrap().to_owned()).or_default();
            assert_eq!(frame["data"]["offset"], text.len(), "text has no gap");
            text.push_str(frame["data"]["text"].as_str().unwrap());
        }
    }

    /// What a `subscribed` frame says of running replies, put on what is known.
    fn begin(&mut self, subscribed: &Value) {
        for running in subscribed["running"].as_array().expect("running replies") {
            let text = self.0.entry(running["message_id"].as_str().unwrap().to_owned()).or_default();
            let offset = usize::try_from(running["content"]["offset"].as_u64().unwrap()).unwrap();
            assert!(offset <= text.len(), "no gap before the tail");
            text.truncate(offset);
            text.push_str(running["content"]["text"].as_str().unwrap());
        }
    }

    fn of(&self, id: &Value) -> &str {
        &self.0[id.as_str().unwrap()]
    }
}

fn is_durable(frame: &Value) -> bool {
    frame["type"] == "event" && frame["event"] != "token" && frame["event"] != "queue_moved"
}

fn conversation(bot: &Value) -> String {
    format!("conversation:{}", bot["main_conversation_id"].as_str().unwrap())
}

/// Reads until so many turns have ended on this topic.
async fn until_ends(socket: &mut Socket, topic: &str, ends: usize, mut each: impl FnMut(&Value)) {
    let mut seen = 0;
    while seen < ends {
        let frame = socket.next().await.expect("the socket is open");
        each(&frame);
        seen +=
            usize::from(frame["topic"] == topic && is_durable(&frame) && frame["data"]["turn"].is_object());
    }
}

async fn wait_for_text(socket: &mut Socket, texts: &mut Texts, bytes: usize) -> Value {
    loop {
        let frame = socket.next().await.expect("the socket is open");
        texts.note(&frame);
        if frame["event"] == "token" && texts.of(&frame["data"]["message_id"]).len() >= bytes {
            return frame["data"]["message_id"].clone();
        }
    }
}

#[tokio::test]
async fn durable_events_of_every_topic_are_numbered_without_a_gap() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    let bot = api.launch("ada", "sim:tokens=20").await;
    let mut socket = deia.socket().await;
    let conversation = conversation(&bot);
    let mut heads = HashMap::new();
    for topic in ["bots", "tree", "models", "bot:ada", &conversation] {
        let subscribed = socket.subscribe(topic).await;
        assert!(subscribed["snapshot"].is_object() && subscribed.get("recovered").is_none(), "{subscribed}");
        heads.insert(topic.to_owned(), (subscribed["epoch"].clone(), subscribed["seq"].as_u64().unwrap()));
    }
    for n in 0..3 {
        api.send_without_waiting("ada", &format!("{n}")).await.expect(202);
    }
    api.launch("bob", "sim:echo").await;
    api.patch("/api/bot/ada", json!({"name": "Ada"})).await.expect(200);
    let (mut texts, mut counted) = (Texts::default(), 0);
    until_ends(&mut socket, &conversation, 3, |frame| {
        if frame["topic"] == *conversation {
            texts.note(frame);
        }
        if is_durable(frame) {
            let (epoch, seq) = heads.get_mut(frame["topic"].as_str().unwrap()).unwrap();
            *seq += 1;
            counted += 1;
            assert_eq!((&frame["epoch"], &frame["seq"]), (&*epoch, &json!(*seq)), "{frame}");
        }
    })
    .await;
    assert!(counted >= 12, "{counted} events");
    assert_eq!(texts.0.len(), 3);
    assert!(texts.0.values().all(|text| *text == numbered(20)));
    let unknown = socket.call(json!({"type": "subscribe", "topic": "bot:nobody"})).await;
    assert_eq!(unknown["problem"]["code"], "bot_not_found");
}

#[tokio::test]
async fn a_reader_that_comes_back_in_mid_answer_misses_nothing() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    let bot = api.launch("ada", "sim:tokens=300,hold_at=30").await;
    let topic = conversation(&bot);
    let mut socket = deia.socket().await;
    let first = socket.subscribe(&topic).await;
    let mut texts = Texts::default();
    texts.begin(&first);
    api.send_without_waiting("ada", "talk").await.expect(202);
    let message = wait_for_text(&mut socket, &mut texts, 100).await;
    // It has read the start of the turn; everything after that is missed.
    let seq = first["seq"].as_u64().unwrap() + 3;
    drop(socket);
    api.send_without_waiting("ada", "and more").await.expect(202);
    let mut socket = deia.socket().await;
    let offsets = json!({message.as_str().unwrap(): {"content": texts.of(&message).len(), "thinking": 0}});
    let after = json!({"epoch": first["epoch"], "seq": seq, "offsets": offsets});
    let back = socket.call(json!({"type": "subscribe", "topic": topic, "after": after})).await;
    assert_eq!((&back["recovered"], &back["seq"]), (&json!(true), &json!(seq)));
    assert!(back.get("snapshot").is_none_or(Value::is_null));
    texts.begin(&back);
    stage.sim.let_go();
    let mut next = seq;
    until_ends(&mut socket, &topic, 2, |frame| {
        texts.note(frame);
        if is_durable(frame) {
            next += 1;
            assert_eq!(frame["seq"], next);
        }
    })
    .await;
    assert_eq!(texts.of(&message), numbered(300));
    assert_eq!(api.message("ada", &message).await["content"], texts.of(&message));
    assert_eq!(texts.0.len(), 2);
}

#[tokio::test]
async fn a_place_that_is_nonsense_gets_a_snapshot_and_says_so() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    let bot = api.launch("ada", "sim:echo").await;
    api.send("ada", "hello").await.expect(200);
    let topic = conversation(&bot);
    let mut socket = deia.socket().await;
    let epoch = socket.subscribe(&topic).await["epoch"].clone();
    for after in [
        json!("nonsense"),
        json!({"epoch": epoch, "seq": 1_000_000}),
        json!({"epoch": epoch, "seq": -1}),
        json!({"epoch": "01a1fda5-436b-72a3-9497-05add46ad86f", "seq": 1}),
    ] {
        let answer = socket.call(json!({"type": "subscribe", "topic": topic, "after": after})).await;
        assert_eq!(answer["recovered"], false, "{after}");
        assert_eq!(answer["snapshot"]["messages"].as_array().map(Vec::len), Some(2), "{after}");
    }
}

#[tokio::test]
async fn readers_that_come_at_any_time_see_the_same_text() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    let bot = api.launch("ada", "sim:utf8,tokens=200,gap_ms=5,hold_at=100").await;
    let topic = conversation(&bot);
    let mut early = deia.socket().await;
    let mut first = Texts::default();
    first.begin(&early.subscribe(&topic).await);
    let told = api.send_without_waiting("ada", "talk").await.expect(202);
    let message = wait_for_text(&mut early, &mut first, 200).await;
    let mut late = deia.socket().await;
    let mut second = Texts::default();
    let subscribed = late.subscribe(&topic).await;
    let pending = subscribed["snapshot"]["messages"].as_array().unwrap().last().unwrap();
    assert_eq!((&pending["id"], &pending["state"]), (&message, &json!("pending")));
    second.begin(&subscribed);
    let events = format!("/api/turn/{}/events", told["turn"]["id"].as_str().unwrap());
    let streamed = tokio::spawn(read_all(api.events(events.clone(), None).await));
    stage.sim.let_go();
    until_ends(&mut early, &topic, 1, |frame| first.note(frame)).await;
    until_ends(&mut late, &topic, 1, |frame| second.note(frame)).await;
    let stored = api.message("ada", &message).await["content"].clone();
    assert_eq!(first.of(&message), stored);
    assert_eq!(second.of(&message), stored);
    let (text, ids) = streamed.await.unwrap();
    assert_eq!(text, stored);
    // Over SSE, from any place in the middle: exactly the rest.
    let (id, length) = ids[ids.len() / 2].clone();
    let (rest, _) = read_all(api.events(events, Some(&id)).await).await;
    assert!(stored.as_str().unwrap().ends_with(&rest), "{rest}");
    assert!(rest.is_empty() || rest.len() == stored.as_str().unwrap().len() - length, "{} of it", rest.len());
}

/// The text of a turn's stream, and the ids of its token events with the length of the text so far.
async fn read_all(events: ServerSentEvents) -> (String, Vec<(String, usize)>) {
    let (mut text, mut ids) = (String::new(), vec![]);
    let events = events.rest().await;
    assert_eq!(events.last().and_then(|e| e.event.as_deref()), Some("turn_completed"));
    for event in events {
        if event.event.as_deref() == Some("token") {
            text.push_str(event.data["data"]["text"].as_str().unwrap());
            ids.push((event.id.unwrap(), text.len()));
        }
    }
    (text, ids)
}

#[tokio::test]
async fn numbers_go_on_across_a_restart_of_the_process() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    let bot = api.launch("ada", "sim:tokens=5").await;
    let topic = conversation(&bot);
    api.send("ada", "before").await.expect(200);
    let mut socket = deia.socket().await;
    let before = socket.subscribe(&topic).await;
    deia.kill().await;
    let deia = stage.start().await;
    let api = deia.api();
    let mut socket = deia.socket().await;
    let after = json!({"epoch": before["epoch"], "seq": before["seq"]});
    let back = socket.call(json!({"type": "subscribe", "topic": topic, "after": after})).await;
    assert_eq!(
        (&back["recovered"], &back["epoch"], &back["seq"]),
        (&json!(true), &before["epoch"], &before["seq"])
    );
    let mut seq = back["seq"].as_u64().unwrap();
    api.send_without_waiting("ada", "after").await.expect(202);
    until_ends(&mut socket, &topic, 1, |frame| {
        if is_durable(frame) {
            seq += 1;
            assert_eq!(frame["seq"], seq);
        }
    })
    .await;
    // The first event of all is as good a place as the last.
    let first = json!({"epoch": before["epoch"], "seq": 0});
    let back = socket.call(json!({"type": "subscribe", "topic": topic, "after": first})).await;
    assert_eq!((&back["recovered"], &back["seq"]), (&json!(true), &json!(0)));
    let mut next = 0;
    until_ends(&mut socket, &topic, 2, |frame| {
        next += 1;
        assert_eq!(frame["seq"], next);
    })
    .await;
    assert_eq!(next, seq);
}

#[tokio::test]
async fn a_reader_comes_back_after_a_kill_to_far_more_than_memory_ever_held() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    let bot = api.launch("ada", "sim:tokens=2").await;
    let conversation = conversation(&bot);
    let mut socket = deia.socket().await;
    let first = socket.subscribe(&conversation).await;
    let topics = ["bots", "bot:ada", "tree", "models", &conversation];
    for n in 0..60 {
        api.send("ada", &format!("{n}")).await.expect(200);
    }
    api.patch("/api/bot/ada", json!({"config": {"model": "sim:tokens=4000,gap_ms=5"}})).await.expect(200);
    let cut_off = api.send_without_waiting("ada", "and this one is cut off").await.expect(202);
    let mut texts = Texts::default();
    texts.begin(&first);
    wait_for_text(&mut socket, &mut texts, 50).await;
    deia.kill().await;
    let deia = stage.start().await;
    deia.api().ended(&cut_off["turn"]["id"]).await;
    let mut socket = deia.socket().await;
    let mut heads = HashMap::new();
    for topic in topics {
        let now = socket.subscribe(topic).await["seq"].as_u64().unwrap();
        let after = json!({"epoch": first["epoch"], "seq": 0});
        let back = socket.call(json!({"type": "subscribe", "topic": topic, "after": after})).await;
        assert_eq!((&back["recovered"], &back["seq"]), (&json!(true), &json!(0)), "{topic}: {back}");
        assert!(back.get("snapshot").is_none(), "{topic}: {back}");
        heads.insert(topic.to_owned(), (0, now));
    }
    assert!(heads[&conversation].1 > 200, "{heads:?}");
    let mut ends = vec![];
    while heads.values().any(|(at, head)| at < head) {
        let frame = socket.next().await.expect("the socket is open");
        if is_durable(&frame) {
            let (at, _) = heads.get_mut(frame["topic"].as_str().unwrap()).unwrap();
            *at += 1;
            assert_eq!((&frame["epoch"], &frame["seq"]), (&first["epoch"], &json!(*at)), "{frame}");
            if frame["topic"] == conversation && frame["data"]["turn"].is_object() {
                ends.push(frame["event"].as_str().unwrap().to_owned());
            }
        }
    }
    assert_eq!(ends.len(), 61);
    assert_eq!(ends.iter().filter(|end| *end == "turn_completed").count(), 60);
    assert_eq!(ends.last().map(String::as_str), Some("turn_interrupted"));
    // What was not from this record, or is not yet, gets the state.
    for (epoch, seq) in
        [(json!("01a1fda5-436b-72a3-9497-05add46ad86f"), 1), (first["epoch"].clone(), 1_000_000)]
    {
        let after = json!({"epoch": epoch, "seq": seq});
        let back = socket.call(json!({"type": "subscribe", "topic": conversation, "after": after})).await;
        assert_eq!((&back["recovered"], &back["seq"]), (&json!(false), &json!(heads[&conversation].1)));
        assert!(back["snapshot"]["messages"].is_array(), "{back}");
    }
}

async fn nothing_secret(deia: &Deia, topic: &str, before: &Value) {
    let mut socket = deia.socket().await;
    let after = json!({"epoch": before["epoch"], "seq": before["seq"]});
    let subscribe = json!({"type": "subscribe", "topic": topic, "after": after, "render": "html"});
    assert_eq!(socket.call(subscribe).await["recovered"], true);
    let frames = socket.until_event("history_cleared").await;
    let seqs: Vec<_> = frames.iter().map(|f| f["seq"].as_u64().unwrap()).collect();
    let from = before["seq"].as_u64().unwrap();
    assert_eq!(seqs, (from + 1..=from + frames.len() as u64).collect::<Vec<_>>());
    assert!(!json!(frames).to_string().contains("secret"));
    let data = |name: &str| &frames.iter().find(|f| f["event"] == name).unwrap()["data"];
    assert_eq!(data("message_received"), &json!({"redacted": true}));
    assert_eq!(data("turn_completed"), &json!({"redacted": true}));
}

#[tokio::test]
async fn deleted_texts_are_not_replayed_and_leave_no_gap() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    let bot = api.launch("ada", "sim:echo").await;
    let topic = conversation(&bot);
    let mut socket = deia.socket().await;
    let before = socket.subscribe(&topic).await;
    api.send("ada", "a secret").await.expect(200);
    api.delete("/api/chat/ada").await.expect(200);
    nothing_secret(&deia, &topic, &before).await;
    deia.kill().await;
    let deia = stage.start().await;
    nothing_secret(&deia, &topic, &before).await;
}

#[tokio::test]
async fn a_new_conversation_and_a_deleted_one_are_told_to_the_topic_of_the_bot() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:echo").await;
    let mut socket = deia.socket().await;
    socket.subscribe("bot:ada").await;
    let conversations = "/api/chat/ada/conversations";
    let made = api.post(conversations, json!({"title": "Aside"})).await.expect(201);
    let told = socket.until_event("conversation_changed").await.pop().unwrap();
    assert_eq!(told["data"]["conversation"], made);
    let said = api.submit("ada", "hello", json!({"conversation_id": made["id"]})).await.expect(202);
    api.ended(&said["turn"]["id"]).await;
    api.delete(format!("{conversations}/{}", made["id"].as_str().unwrap())).await.expect(204);
    let told = socket.until_event("history_cleared").await.pop().unwrap();
    let expected = json!({"bot_id": "ada", "conversation_id": made["id"], "deleted": 2, "removed": true});
    assert_eq!(told["data"], expected);
}

/// A copy put back in place of the record has the numbers of the old one again, for other events.
#[tokio::test]
async fn a_record_whose_epoch_was_taken_away_gets_another_and_nobody_resumes_in_it() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let topic = conversation(&deia.api().launch("ada", "sim:echo").await);
    deia.api().send("ada", "hello").await.expect(200);
    let before = deia.socket().await.subscribe(&topic).await;
    deia.kill().await;
    // As docs/OPERATIONS.md has it after a restore.
    let forget = "DELETE FROM meta WHERE name = 'epoch'";
    match stage.home.database() {
        Database::Sqlite => {
            let file = rusqlite::Connection::open(stage.home.data().join("deia.db")).unwrap();
            assert_eq!(file.execute(forget, []).unwrap(), 1);
        }
        Database::Postgres(database) => database.execute(forget),
    }
    let deia = stage.start().await;
    deia.api().send("ada", "and on").await.expect(200);
    let after = json!({"epoch": before["epoch"], "seq": before["seq"]});
    let subscribe = json!({"type": "subscribe", "topic": topic, "after": after});
    let back = deia.socket().await.call(subscribe).await;
    assert_eq!(back["recovered"], false, "{back}");
    assert_ne!(back["epoch"], before["epoch"]);
    assert_eq!(back["snapshot"]["messages"].as_array().map(Vec::len), Some(4));
}
