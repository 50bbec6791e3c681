//! Actors of the tree killed under load: what was acknowledged is kept and ends once, and the service goes on.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use deia::{
    app::AppError,
    sim::{Sim, SimConfig},
};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::support::{Api, InProcess, Socket, eventually, numbered};

const BOTS: usize = 5;
const TOKENS: usize = 12;

/// Sends to one bot until it is told to stop; answers what was acknowledged.
async fn sender(
    api: Api,
    bot: String,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
) -> Vec<(String, String)> {
    let mut told: Vec<(String, String)> = vec![];
    for n in 0.. {
        if stop.load(Ordering::Acquire) {
            break;
        }
        let content = format!("{bot}-{n}");
        let answer = api.send_without_waiting(&bot, &content).await;
        match answer.status.as_u16() {
            202 => {
                told.push((content, answer.body["turn"]["id"].as_str().unwrap().to_owned()));
                count.fetch_add(1, Ordering::AcqRel);
            }
            // Full, or an actor is away: typed, and not acknowledged.
            429 | 503 => {
                assert!(answer.body["code"].is_string(), "{}", answer.body);
                if let Some((_, turn)) = told.last() {
                    api.get(format!("/api/turn/{turn}")).await;
                }
            }
            other => panic!("{other}: {}", answer.body),
        }
    }
    told
}

/// Follows all topics until so many turns have ended; their events by topic, in order.
async fn follow(
    mut socket: Socket,
    topics: Vec<String>,
    mut until: watch::Receiver<usize>,
) -> HashMap<String, Vec<Value>> {
    let mut events: HashMap<String, Vec<Value>> = topics.into_iter().map(|t| (t, vec![])).collect();
    let mut ends = 0;
    while ends < *until.borrow_and_update() {
        let frame = tokio::select! {
            frame = socket.next() => frame.expect("the socket stays open"),
            Ok(()) = until.changed() => continue,
        };
        if frame["type"] != "event" {
            continue;
        }
        let name = frame["event"].as_str().unwrap();
        let topic = frame["topic"].as_str().unwrap();
        if topic.starts_with("bot:") && frame["data"]["turn"].is_object() {
            ends += 1;
        }
        if !matches!(name, "token" | "queue_moved") {
            events.get_mut(topic).expect("a topic that was asked for").push(frame);
        }
    }
    events
}

async fn survive(victims: &[&str]) {
    let sim = Sim::start(SimConfig::default()).await.unwrap();
    let service =
        InProcess::start(&sim, &[("supervision.root_restarts", "100"), ("bots.conversation_queue", "64")])
            .await;
    let api = service.api();
    let mut socket = service.socket().await;
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut topics = vec!["bots".to_owned(), "tree".to_owned()];
    let mut heads = HashMap::new();
    let mut senders = vec![];
    for n in 0..BOTS {
        let bot = format!("b{n}");
        api.launch(&bot, &format!("sim:tokens={TOKENS},gap_ms=1")).await;
        topics.push(format!("bot:{bot}"));
    }
    for topic in &topics {
        heads.insert(topic.clone(), socket.subscribe(topic).await["seq"].as_u64().unwrap());
    }
    for n in 0..BOTS {
        senders.push(tokio::spawn(sender(api.clone(), format!("b{n}"), stop.clone(), count.clone())));
    }
    // Read all the time: who leaves the service's pings unanswered is hung up on. How many ends there are is known later.
    let until = watch::Sender::new(usize::MAX);
    let following = tokio::spawn(follow(socket, topics, until.subscribe()));
    let more = async |n: usize| {
        let from = count.load(Ordering::Acquire);
        eventually("messages are acknowledged", async || {
            (count.load(Ordering::Acquire) >= from + n).then_some(())
        })
        .await;
    };
    for victim in victims {
        more(20).await;
        let name = match *victim {
            "server" => service.controller.servers()[0].name.clone(),
            other => other.to_owned(),
        };
        eventually(&format!("{name} is up"), async || service.controller.kill_actor(&name).then_some(()))
            .await;
        service.ready().await;
    }
    more(20).await;
    stop.store(true, Ordering::Release);
    let mut told = vec![];
    for (n, sender) in senders.into_iter().enumerate() {
        told.extend(
            sender.await.unwrap().into_iter().map(|(content, turn)| (format!("b{n}"), content, turn)),
        );
    }
    until.send_replace(told.len());
    let events = following.await.unwrap();
    let mut ends: HashMap<String, usize> = HashMap::new();
    for (topic, events) in &events {
        let mut seq = heads[topic];
        for event in events {
            seq += 1;
            assert_eq!(event["seq"], seq, "no gap on {topic}");
            if topic.starts_with("bot:") && event["data"]["turn"].is_object() {
                *ends.entry(event["data"]["turn"]["id"].as_str().unwrap().to_owned()).or_default() += 1;
            }
        }
    }
    let mut seen = HashSet::new();
    let (mut completed, mut interrupted) = (0, 0);
    for (bot, content, turn) in &told {
        assert!(seen.insert(turn.clone()), "a turn of its own for every message");
        let turn = api.ended(&json!(turn)).await;
        assert_eq!(ends.get(turn["id"].as_str().unwrap()), Some(&1), "one end: {turn}");
        let message = api.message(bot, &turn["message_id"]).await;
        assert_eq!(&message["content"], content);
        let reply = api.message(bot, &turn["reply_id"]).await;
        let text = reply["content"].as_str().unwrap();
        match turn["state"].as_str().unwrap() {
            "completed" => {
                completed += 1;
                assert_eq!(text, numbered(TOKENS));
            }
            "interrupted" => {
                interrupted += 1;
                assert!(numbered(TOKENS).starts_with(text), "{text}");
            }
            other => panic!("{other}: {turn}"),
        }
    }
    assert!(completed > told.len() / 2, "{completed} of {}", told.len());
    // Only whoever kills the bots interrupts turns.
    if !victims.iter().any(|v| matches!(*v, "bots" | "history" | "state" | "broadcast" | "inference")) {
        assert_eq!(interrupted, 0);
    }
    for n in 0..BOTS {
        let bot = format!("b{n}");
        let stored = all_user_messages(&api, &bot).await;
        for (_, content, _) in told.iter().filter(|(b, ..)| *b == bot) {
            assert_eq!(stored.iter().filter(|c| *c == content).count(), 1, "{content} is stored once");
        }
        let once: HashSet<_> = stored.iter().collect();
        assert_eq!(once.len(), stored.len(), "nothing of {bot} is stored twice");
        assert_eq!(api.send(&bot, "at last").await.expect(200)["reply"]["content"], numbered(TOKENS));
        let status = api.get(format!("/api/bot/{bot}/status")).await.expect(200);
        assert_eq!((&status["queue_depth"], &status["active_turns"]), (&json!(0), &json!([])), "{bot}");
    }
    service.stop().await.expect("a good end");
    sim.stop().await;
}

async fn all_user_messages(api: &Api, bot: &str) -> Vec<String> {
    let (mut all, mut before) = (vec![], String::new());
    loop {
        let page = api.get(format!("/api/chat/{bot}?limit=200{before}")).await.expect(200);
        let items = page["items"].as_array().unwrap();
        all.extend(
            items.iter().filter(|m| m["sender"] == "user").map(|m| m["content"].as_str().unwrap().to_owned()),
        );
        match page["before"].as_str() {
            Some(id) => before = format!("&before={id}"),
            None => return all,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_death_of_history_loses_nothing() {
    survive(&["history", "history"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_death_of_state_loses_nothing() {
    survive(&["state", "state"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_death_of_broadcast_loses_nothing() {
    survive(&["broadcast", "broadcast"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_death_of_inference_loses_nothing() {
    survive(&["inference", "inference"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_death_of_a_server_gate_interrupts_nothing() {
    survive(&["server", "server", "server"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_death_of_the_bot_supervisor_loses_nothing() {
    survive(&["bots", "bots"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_deaths_of_all_in_turn_lose_nothing() {
    survive(&["history", "state", "broadcast", "server", "inference", "bots"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_root_gives_up_after_its_budget_with_exit_code_70() {
    let sim = Sim::start(SimConfig::default()).await.unwrap();
    let service = InProcess::start(&sim, &[("supervision.root_restarts", "3")]).await;
    let api = service.api();
    api.launch("ada", "sim:echo").await;
    for _ in 0..3 {
        eventually("broadcast is up", async || service.controller.kill_actor("broadcast").then_some(()))
            .await;
        service.ready().await;
        // One that came before the root noticed is interrupted, and says so.
        eventually("an answer", async || {
            let answer = api.send("ada", "hello").await;
            (answer.status == 200 && answer.body["reply"]["content"] == "hello").then_some(())
        })
        .await;
    }
    eventually("broadcast is up", async || service.controller.kill_actor("broadcast").then_some(())).await;
    let error = service.ended().await.expect_err("it gave up");
    assert!(matches!(error, AppError::GaveUp), "{error}");
    assert_eq!(error.exit_code(), 70);
}
