//! `kill -9` of the process at random moments under load: what was acknowledged is stored, once, and comes to its end.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::support::{Deia, Stage, eventually, numbered};

const ROUNDS: usize = 50;
const SEED: u64 = 0x0dd5_eed5;
/// A checkpoint is at most this many bytes after the one before.
const CHECKPOINT: usize = 2048;

/// What a client knows of a message when the process dies.
#[derive(Debug, Clone)]
struct Told {
    bot: String,
    content: String,
    turn: Value,
    /// Set where the whole answer was acknowledged too.
    reply: Option<String>,
}

type Notes = Arc<watch::Sender<Vec<Told>>>;

/// A client whose server may die at any moment.
struct Client {
    http: reqwest::Client,
    url: String,
}

impl Client {
    fn of(deia: &Deia) -> Self {
        Self { http: reqwest::Client::builder().no_proxy().build().unwrap(), url: deia.url().to_owned() }
    }

    /// A send; None once the server is gone.
    async fn send(&self, bot: &str, content: &str, wait: bool) -> Option<(u16, Value)> {
        let url = format!("{}/api/chat/send?wait={wait}", self.url);
        let response =
            self.http.post(url).json(&json!({"bot_id": bot, "content": content})).send().await.ok()?;
        let status = response.status().as_u16();
        Some((status, response.json().await.ok()?))
    }
}

/// Sends until the server is gone.
async fn load(client: Client, bot: String, round: usize, wait: bool, notes: Notes) {
    for n in 0.. {
        let content = format!("{round}-{bot}-{n}");
        match client.send(&bot, &content, wait).await {
            None => return,
            Some((status @ (200 | 202), body)) => {
                let reply = (status == 200).then(|| body["reply"]["content"].as_str().unwrap().to_owned());
                let told = Told { bot: bot.clone(), content, turn: body["turn"]["id"].clone(), reply };
                notes.send_modify(|all| all.push(told));
            }
            Some((429 | 503, _)) => tokio::task::yield_now().await,
            Some((status, body)) => panic!("{status}: {body}"),
        }
    }
}

/// SplitMix64: the same moments in every run.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[tokio::test]
async fn fifty_kills_under_load_lose_nothing_and_double_nothing() {
    let stage = Stage::new().await;
    let mut random = SEED;
    let mut deia = stage.start().await;
    let bots = [
        ("waits", "sim:tokens=10", true),
        ("quick", "sim:tokens=3", false),
        ("slow", "sim:tokens=60,gap_ms=1", false),
    ];
    for (bot, model, _) in bots {
        deia.api().launch(bot, model).await;
    }
    let mut all: Vec<Told> = vec![];
    let mut states: BTreeMap<String, usize> = BTreeMap::new();
    for round in 0..ROUNDS {
        let notes = Notes::default();
        let loads: Vec<_> = bots
            .map(|(bot, _, wait)| {
                tokio::spawn(load(Client::of(&deia), bot.into(), round, wait, notes.clone()))
            })
            .into();
        // The moment is what is tried here: any between the first message and a busy service, which is a matter of messages
        // and not of time, and then any within the next one.
        let messages = usize::try_from(next(&mut random) % 12).unwrap();
        notes.subscribe().wait_for(|all| all.len() >= messages).await.unwrap();
        tokio::time::sleep(Duration::from_micros(next(&mut random) % 20_000)).await;
        deia.kill().await;
        for load in loads {
            load.await.unwrap();
        }
        deia = stage.start().await;
        let api = deia.api();
        let told = notes.borrow().clone();
        for told in &told {
            let turn = api.ended(&told.turn).await;
            let state = turn["state"].as_str().unwrap();
            *states.entry(state.to_owned()).or_default() += 1;
            let reply = api.message(&told.bot, &turn["reply_id"]).await;
            match (&told.reply, state) {
                (Some(text), _) => {
                    assert_eq!(
                        (state, &reply["content"]),
                        ("completed", &json!(text)),
                        "round {round}: {told:?}"
                    );
                }
                (None, "completed") => assert_eq!(reply["state"], "complete", "round {round}: {told:?}"),
                (None, "interrupted") => {
                    assert_eq!(turn["error"]["code"], "turn_interrupted");
                    assert_eq!(reply["state"], "partial");
                    assert!(numbered(60).starts_with(reply["content"].as_str().unwrap()));
                }
                (None, other) => panic!("round {round}: {other} {told:?}"),
            }
        }
        all.extend(told);
    }
    let api = deia.api();
    for (bot, ..) in bots {
        let (mut seen, mut before) = (HashSet::new(), String::new());
        loop {
            let page = api.get(format!("/api/chat/{bot}?limit=200{before}")).await.expect(200);
            for message in page["items"].as_array().unwrap() {
                if message["sender"] == "user" {
                    let content = message["content"].as_str().unwrap().to_owned();
                    assert!(seen.insert(content), "stored twice: {message}");
                }
            }
            match page["before"].as_str() {
                Some(id) => before = format!("&before={id}"),
                None => break,
            }
        }
        for told in all.iter().filter(|t| t.bot == bot) {
            assert!(seen.contains(&told.content), "lost: {told:?}");
        }
    }
    println!("{} acknowledged messages over {ROUNDS} kills ended {states:?}", all.len());
    assert!(all.len() > ROUNDS * 2, "{} messages are no load", all.len());
    assert!(states.get("interrupted").is_some_and(|n| *n > 5), "no kill met an answer: {states:?}");
}

#[tokio::test]
async fn a_killed_process_keeps_the_partial_up_to_its_last_checkpoint_and_runs_what_waited() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:tokens=9999,gap_ms=1,hold_at=1800").await;
    let running = api.send_without_waiting("ada", "talk").await.expect(202);
    api.turn_in(&running["turn"]["id"], "generating").await;
    api.patch("/api/bot/ada", json!({"config": {"model": "sim:echo"}})).await.expect(200);
    let mut waiting = vec![];
    for n in 0..3 {
        waiting.push(api.send_without_waiting("ada", &format!("next {n}")).await.expect(202));
    }
    let seen = api.written(&running["turn"]["id"], 9_000).await;
    // How long a disk takes is its affair; what is behind by a checkpoint follows without another piece.
    let stored = eventually("the last checkpoint is stored", async || {
        let reply = api.message("ada", &running["turn"]["reply_id"]).await;
        let stored = reply["content"].as_str().unwrap().len();
        (stored + CHECKPOINT >= seen.len()).then_some(stored)
    })
    .await;
    deia.kill().await;
    let deia = stage.start().await;
    let api = deia.api();
    let turn = api.ended(&running["turn"]["id"]).await;
    assert_eq!((&turn["state"], &turn["error"]["code"]), (&json!("interrupted"), &json!("turn_interrupted")));
    let reply = api.message("ada", &turn["reply_id"]).await;
    let kept = reply["content"].as_str().unwrap();
    assert!(numbered(9999).starts_with(kept));
    assert!(kept.len() >= stored, "{} of {stored} bytes are kept", kept.len());
    assert_eq!(reply["state"], "partial");
    for told in waiting {
        let turn = api.ended(&told["turn"]["id"]).await;
        assert_eq!(turn["state"], "completed");
        assert_eq!(api.message("ada", &turn["reply_id"]).await["content"], told["message"]["content"]);
    }
    assert_eq!(stage.sim.stats().requests, 4, "no answer is silently made twice");
}
