//! A bot that crashes: its own turn is interrupted, everything else goes on as if nothing had happened.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::support::{Api, Socket, Stage, numbered};

/// Reads a socket until `ends` turns have ended; text by message, terminal events by turn.
async fn collect(
    socket: &mut Socket,
    ends: usize,
) -> (HashMap<String, String>, HashMap<String, Vec<String>>) {
    let (mut texts, mut terminal) = (HashMap::<String, String>::new(), HashMap::<String, Vec<String>>::new());
    while terminal.len() < ends {
        note(&socket.next().await.expect("the socket is open"), &mut texts, &mut terminal);
    }
    (texts, terminal)
}

fn note(frame: &Value, texts: &mut HashMap<String, String>, terminal: &mut HashMap<String, Vec<String>>) {
    let data = &frame["data"];
    match frame["event"].as_str().unwrap_or_default() {
        "token" => {
            let text = texts.entry(data["message_id"].as_str().unwrap().to_owned()).or_default();
            assert_eq!(data["offset"], text.len(), "text has no gap");
            text.push_str(data["text"].as_str().unwrap());
        }
        name @ ("turn_completed" | "turn_stopped" | "turn_failed" | "turn_interrupted") => {
            terminal
                .entry(data["turn"]["id"].as_str().unwrap().to_owned())
                .or_default()
                .push(name.to_owned());
        }
        _ => {}
    }
}

/// States of a bot whose actor is up.
const UP: [&str; 4] = ["ready", "active", "processing", "idle"];
const BOTS: usize = 10;
const TOKENS: usize = 200;
/// As many as take far longer than any test.
const ENDLESS: usize = 9999;

async fn crash_one_of_ten(how: &str, kth: usize) {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    let mut socket = deia.socket().await;
    for n in 0..BOTS {
        let bot = api.launch(&format!("b{n}"), &format!("sim:tokens={TOKENS},gap_ms=10")).await;
        socket.subscribe(&format!("conversation:{}", bot["main_conversation_id"].as_str().unwrap())).await;
    }
    let victim = "b3";
    // It is still speaking whenever it is crashed; what it says afterwards ends.
    let model = async |tokens: usize| {
        let model = format!("sim:tokens={tokens},gap_ms=10");
        api.patch(format!("/api/bot/{victim}"), json!({"config": {"model": model}})).await.expect(200)
    };
    model(ENDLESS).await;
    let mut replies = HashMap::new();
    let mut crashed = Value::Null;
    for n in 0..BOTS {
        let id = format!("b{n}");
        let told = api.send_without_waiting(&id, "talk").await.expect(202);
        if id == victim {
            crashed = told["turn"].clone();
            api.turn_in(&crashed["id"], "generating").await;
            model(TOKENS).await;
        } else {
            replies.insert(told["turn"]["reply_id"].as_str().unwrap().to_owned(), id);
        }
    }
    let next = api.send_without_waiting(victim, "and then?").await.expect(202);
    // The k-th token of the victim, seen by a reader like any other.
    let (mut texts, mut terminal) = (HashMap::new(), HashMap::new());
    let reply = crashed["reply_id"].as_str().unwrap().to_owned();
    while texts.get(&reply).is_none_or(|t: &String| t.len() < kth * 5) {
        note(&socket.next().await.expect("the socket is open"), &mut texts, &mut terminal);
    }
    api.post(format!("/api/bot/{victim}/kill"), json!({"how": how, "reason": "to see it recover"}))
        .await
        .expect(200);
    while terminal.len() < BOTS + 1 {
        note(&socket.next().await.expect("the socket is open"), &mut texts, &mut terminal);
    }
    // The nine others: byte by byte what the model says when nobody disturbs it.
    for (reply, bot) in &replies {
        assert_eq!(texts[reply], numbered(TOKENS), "{bot}");
        assert_eq!(api.message(bot, &json!(reply)).await["content"], numbered(TOKENS), "{bot}");
    }
    // The crashed one: what was seen is what is stored, and the end says why.
    let turn = api.ended(&crashed["id"]).await;
    assert_eq!((&turn["state"], &turn["error"]["status"]), (&json!("interrupted"), &json!(503)));
    assert_eq!(turn["error"]["code"], "turn_interrupted");
    let stored = api.message(victim, &crashed["reply_id"]).await;
    assert_eq!((&stored["content"], &stored["state"]), (&json!(texts[&reply]), &json!("partial")));
    assert!(numbered(ENDLESS).starts_with(&texts[&reply]) && texts[&reply].len() >= kth * 5);
    // It is back, and its next message was answered.
    let turn = api.ended(&next["turn"]["id"]).await;
    assert_eq!(turn["state"], "completed");
    assert_eq!(api.message(victim, &turn["reply_id"]).await["content"], numbered(TOKENS));
    let status = api.get(format!("/api/bot/{victim}/status")).await.expect(200);
    assert_eq!(status["restart_count"], 1);
    assert!(terminal.values().all(|ends| ends.len() == 1), "one end each: {terminal:?}");
    stage.all_closed().await;
    assert_eq!(stage.sim.stats().closed_early, 1, "the crashed call only");
}

#[tokio::test]
async fn a_panic_at_the_first_token_of_one_of_ten_disturbs_no_other() {
    crash_one_of_ten("panic", 1).await;
}

#[tokio::test]
async fn a_panic_at_the_fiftieth_token_of_one_of_ten_disturbs_no_other() {
    crash_one_of_ten("panic", 50).await;
}

#[tokio::test]
async fn a_kill_at_the_hundredth_token_of_one_of_ten_disturbs_no_other() {
    crash_one_of_ten("kill", 100).await;
}

#[tokio::test]
async fn a_waiting_send_learns_that_its_bot_crashed() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    let bot = api.launch("ada", "sim:stall_at=7").await;
    let mut socket = deia.socket().await;
    socket.subscribe(&format!("conversation:{}", bot["main_conversation_id"].as_str().unwrap())).await;
    let waiting = tokio::spawn({
        let api = api.clone();
        async move { api.send("ada", "talk").await }
    });
    let mut seen = 0;
    while seen < 35 {
        let frame = socket.next().await.expect("the socket is open");
        if frame["event"] == "token" {
            seen += frame["data"]["text"].as_str().unwrap().len();
        }
    }
    let killed = api.post("/api/bot/ada/kill", json!({})).await.expect(200);
    assert_eq!(killed["status"]["restart_count"], 1, "the answer tells what became of it");
    let answer = waiting.await.unwrap();
    assert!(answer.headers.contains_key("retry-after"));
    let problem = answer.expect_problem(503, "turn_interrupted");
    assert_eq!(problem["turn"]["state"], "interrupted");
    let kept = api.message("ada", &problem["turn"]["reply_id"]).await;
    assert_eq!(kept["content"].as_str().unwrap().len(), seen);
}

#[tokio::test]
async fn a_panic_loop_ends_in_quarantine_while_the_others_serve() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("bad", "sim:echo").await;
    api.launch("good", "sim:tokens=20").await;
    let mut socket = deia.socket().await;
    socket.subscribe("bot:bad").await;
    let mut kills = 0;
    loop {
        let bot = api.bot_in("bad", &[&UP[..], &["quarantined"]].concat()).await;
        if bot["state"] == "quarantined" {
            break;
        }
        let answer = api.post("/api/bot/bad/kill", json!({"how": "panic"})).await;
        match answer.status.as_u16() {
            200 => kills += 1,
            // Between two of its lives.
            409 => {}
            other => panic!("{other}: {}", answer.body),
        }
        assert_eq!(api.send("good", "still there?").await.expect(200)["reply"]["content"], numbered(20));
        assert!(kills <= 12, "no quarantine after {kills} kills");
    }
    let events = socket.until_event("bot_quarantined").await;
    let crashes = events.iter().filter(|f| f["event"] == "bot_crashed").count();
    let restarts = events.iter().filter(|f| f["event"] == "bot_restarted").count();
    assert_eq!((crashes, restarts), (6, 5), "five restarts within the minute, the sixth crash ends it");
    api.send("bad", "hello").await.expect_problem(409, "bot_quarantined");
    assert_eq!(api.send("good", "and now?").await.expect(200)["turn"]["state"], "completed");
    api.post("/api/bot/bad/restart", json!({})).await.expect(200);
    assert_eq!(api.send("bad", "hello").await.expect(200)["reply"]["content"], "hello");
    let status = api.get("/api/bot/bad/status").await.expect(200);
    assert_eq!(status["restarts_left"], 5, "a fresh budget");
}

const SENDERS: usize = 8;
/// Of each.
const MESSAGES: usize = 80;

#[tokio::test]
async fn messages_to_a_bot_that_keeps_crashing_are_stored_once_and_end_once() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:tokens=4").await;
    let mut socket = deia.socket().await;
    socket.subscribe("bot:ada").await;
    // A conversation for each sender, so that at every moment messages are on their way to storage.
    let mut senders = vec![];
    let mut conversations = vec![];
    // Read all the time: who leaves the service's pings unanswered is hung up on.
    let events = tokio::spawn(async move { collect(&mut socket, SENDERS * MESSAGES).await });
    for sender in 0..SENDERS {
        let made = api.post("/api/chat/ada/conversations", json!({})).await.expect(201)["id"].clone();
        conversations.push(made.clone());
        senders.push(tokio::spawn(send_many(api.clone(), sender, made)));
    }
    for how in ["kill", "panic", "kill", "kill", "panic"] {
        api.bot_in("ada", &UP).await;
        api.post("/api/bot/ada/kill", json!({"how": how})).await.expect(200);
    }
    let mut told = vec![];
    for sender in senders {
        told.extend(sender.await.unwrap());
    }
    let (_, terminal) = events.await.unwrap();
    let mut stored: HashMap<String, usize> = HashMap::new();
    for conversation in &conversations {
        let conversation = conversation.as_str().unwrap();
        let path = format!("/api/chat/ada?limit=200&conversation_id={conversation}");
        let page = api.get(path).await.expect(200);
        assert_eq!(page["has_more"], false);
        for message in page["items"].as_array().unwrap() {
            assert_ne!(message["state"], "pending", "{message}");
            if message["sender"] == "user" {
                *stored.entry(message["content"].as_str().unwrap().to_owned()).or_default() += 1;
            }
        }
    }
    for (content, turn) in &told {
        assert_eq!(stored.get(content), Some(&1), "{content} is stored once");
        assert_eq!(terminal[turn].len(), 1, "{content} ended once");
        let turn = api.turn(&json!(turn)).await;
        assert!(matches!(turn["state"].as_str(), Some("completed" | "interrupted")), "{turn}");
    }
    assert_eq!(stored.len(), told.len(), "and nothing else");
    assert_eq!(api.send("ada", "at last").await.expect(200)["reply"]["content"], numbered(4));
    let status = api.get("/api/bot/ada/status").await.expect(200);
    assert_eq!(
        (&status["queue_depth"], &status["active_turns"]),
        (&json!(0), &json!([])),
        "nothing is left over"
    );
}

async fn send_many(api: Api, sender: usize, conversation: Value) -> Vec<(String, String)> {
    let mut told = vec![];
    while told.len() < MESSAGES {
        let content = format!("{sender}-{}", told.len());
        let answer = api.submit("ada", &content, json!({"conversation_id": conversation})).await;
        match answer.status.as_u16() {
            202 => told.push((content, answer.body["turn"]["id"].as_str().unwrap().to_owned())),
            429 => {
                assert_eq!(answer.body["code"], "conversation_queue_full");
                tokio::task::yield_now().await;
            }
            other => panic!("{other}: {}", answer.body),
        }
    }
    told
}
