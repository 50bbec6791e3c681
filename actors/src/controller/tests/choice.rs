//! What answers a turn where its model, its server or every server is not there: fallback models, a paused model, the wait for
//! a server, and servers that come and go.
#![allow(clippy::unwrap_used)]

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use serde_json::json;

use super::servers::{House, MODEL, bot, end_of, failed, limits, until};
use crate::{
    controller::{requests::*, *},
    domain::{
        event::{CommittedEvent, Topic},
        ids::TurnId,
        model::{BreakerState, Server, ServerState},
        time::Timestamp,
        turn::TurnState,
    },
    ports::{
        chat_model::ModelError,
        server_factory::{AddressRefused, Connection, ServerFactory},
        state_store::StateStore,
    },
    testkit::fakes::{
        memory_store::MemoryStore,
        moody_model::{Mood, MoodyModel},
    },
};

async fn with_fallback(house: &House, fallback: &[&str]) {
    let config = Some(json!({ "fallback": fallback }));
    for n in 0..4 {
        house.tree.patch(&bot(n), PatchBot { config: config.clone(), ..PatchBot::default() }).await.unwrap();
    }
}

/// Model and server of each `turn_started`, in order.
fn starts(house: &House, turn: TurnId) -> Vec<(String, String)> {
    let events = house.store.events();
    let of_it = |e: &&CommittedEvent| e.seqs.iter().any(|(topic, _)| *topic == Topic::Turn(turn));
    let word = |data: &serde_json::Value, field: &str| data[field].as_str().unwrap_or_default().to_owned();
    events
        .iter()
        .filter(|e| &*e.name == "turn_started")
        .filter(of_it)
        .map(|e| {
            let data = serde_json::from_str(&e.data).unwrap();
            (word(&data, "model"), word(&data, "server"))
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_fallback_answers_where_every_server_failed_with_the_model_and_the_turn_says_so() {
    for error in [failed(), ModelError::ModelNotFound(MODEL.into()), ModelError::Cut] {
        let house = House::new(&[&[MODEL], &[MODEL], &["b"], &["c"]], limits(512)).await;
        with_fallback(&house, &["nowhere", "b", "c"]).await;
        for n in [0, 1, 2] {
            house.servers[n].is_now(Mood::Fails(error.clone()));
        }
        let turn = house.send(0).await;
        house.answers(3).await;
        let turn = end_of(turn).await;
        assert_eq!(
            (turn.state, turn.model.as_str(), turn.server.as_deref()),
            (TurnState::Completed, "c", Some("s3"))
        );
        assert_eq!(house.asked(), [1, 1, 1, 1], "each once");
        let started = starts(&house, turn.id);
        assert_eq!(started.first().map(|s| s.0.as_str()), Some(MODEL));
        assert_eq!(started.last(), Some(&("c".to_owned(), "s3".to_owned())));
        let stored = house.tree.turn(turn.id).await.unwrap();
        assert_eq!((stored.model.as_str(), stored.server.as_deref()), ("c", Some("s3")));
    }
}

#[tokio::test(start_paused = true)]
async fn a_fallback_answers_at_once_where_the_servers_of_the_model_are_down_and_the_model_again_when_they_are_back()
 {
    let house = House::new(&[&[MODEL], &["b"]], limits(512)).await;
    with_fallback(&house, &["b"]).await;
    house.servers[0].is_now(Mood::Away);
    // Not known to be down yet: the first one finds out.
    for _ in 0..2 {
        let turn = house.send(0).await;
        house.answers(1).await;
        let turn = end_of(turn).await;
        assert_eq!((turn.state, turn.model.as_str()), (TurnState::Completed, "b"));
    }
    house.servers[0].is_now(Mood::Well);
    until(async || house.tree.servers()[0].state == ServerState::Up).await;
    let turn = house.send(0).await;
    house.answers(0).await;
    assert_eq!(end_of(turn).await.model, MODEL);
}

#[tokio::test(start_paused = true)]
async fn without_a_way_left_the_turn_fails_with_what_the_last_server_said_and_a_timeout_is_never_tried_again()
{
    let house = House::new(&[&[MODEL], &["b"]], limits(512)).await;
    with_fallback(&house, &["b"]).await;
    house.servers.iter().for_each(|s| s.is_now(Mood::Fails(failed())));
    let turn = end_of(house.send(0).await).await;
    assert_eq!((turn.state, turn.model.as_str()), (TurnState::Failed, "b"));
    assert_eq!(turn.error.unwrap().code, Code::UpstreamError);
    let timeout = ModelError::Timeout(crate::ports::chat_model::Wait::FirstByte);
    house.servers.iter().for_each(|s| s.is_now(Mood::Fails(timeout.clone())));
    let turn = end_of(house.send(1).await).await;
    assert_eq!((turn.error.unwrap().code, house.asked()), (Code::UpstreamTimeout, vec![2, 1]));
}

#[tokio::test(start_paused = true)]
async fn a_model_that_fails_is_paused_and_the_other_models_of_its_server_go_on() {
    let house = House::new(&[&[MODEL, "b"]], limits(512)).await;
    house.servers[0].is_now(Mood::Fails(failed()));
    for _ in 0..3 {
        assert_eq!(end_of(house.send(0).await).await.state, TurnState::Failed);
    }
    let server = &house.tree.servers()[0];
    assert_eq!((server.state, server.breaker.state), (ServerState::Up, BreakerState::Closed));
    assert_eq!(server.breaker.paused_models[0].model, MODEL);
    house.servers[0].is_now(Mood::Well);
    with_fallback(&house, &["b"]).await;
    let turn = house.send(0).await;
    house.answers(0).await;
    assert_eq!(end_of(turn).await.model, "b", "its fallback, at the same server");
    // One without a fallback waits for the end of the pause.
    with_fallback(&house, &[]).await;
    let turn = house.send(1).await;
    let answer = house.servers[0].called().await;
    assert_eq!(answer.request.model, MODEL);
    assert!(answer.end().await);
    assert_eq!(end_of(turn).await.state, TurnState::Completed);
    assert!(house.tree.servers()[0].breaker.paused_models.is_empty());
}

/// Models of a server, and how it shows that it pauses.
type Pause = (&'static [&'static str], fn(&Server) -> bool);

/// A model that is paused beside another one, and a server whose only one fails.
const PAUSES: [Pause; 2] = [
    (&[MODEL, "b"], |s| !s.breaker.paused_models.is_empty()),
    (&[MODEL], |s| matches!(s.breaker.state, BreakerState::Open)),
];

/// Turns fail until a model or a server is paused for the `n`th time: one after every pause, at its end.
async fn pause_for_the(n: usize, house: &House, is_paused: impl Fn(&Server) -> bool) {
    house.servers[0].is_now(Mood::Fails(failed()));
    while !is_paused(&house.tree.servers()[0]) {
        end_of(house.send(0).await).await;
    }
    for _ in 1..n {
        assert_eq!(end_of(house.send(0).await).await.error.unwrap().code, Code::UpstreamError);
    }
    assert!(is_paused(&house.tree.servers()[0]));
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_comes_at_the_beginning_of_the_longest_pause_is_answered_after_it() {
    for (models, is_paused) in PAUSES {
        let house = House::new(&[models], limits(512)).await;
        pause_for_the(8, &house, is_paused).await;
        house.servers[0].is_now(Mood::Well);
        let turn = house.send(0).await;
        house.answers(0).await;
        assert_eq!(end_of(turn).await.state, TurnState::Completed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_waits_in_vain_for_a_server_that_answers_says_why_and_when_it_is_tried_again() {
    let impatient = InferenceLimits { offline_wait: Duration::ZERO, ..limits(512) };
    let words = ["m is paused at s0, because it failed", "s0 gets no turns for a while, because"];
    for ((models, is_paused), why) in PAUSES.into_iter().zip(words) {
        let house = House::new(&[models], impatient).await;
        pause_for_the(1, &house, is_paused).await;
        let problem = end_of(house.send(0).await).await.error.unwrap();
        assert_eq!((problem.code, problem.retry_after_s), (Code::OllamaOffline, Some(1)));
        assert!(problem.detail.starts_with(why) && problem.detail.contains("500"), "{problem}");
        assert!(!problem.detail.contains("start Ollama") && !problem.title.contains("offline"), "{problem}");
        assert_eq!(problem.detail.contains("the server itself is up"), why.starts_with("m is"), "{problem}");
    }
    let house = House::new(&[&[MODEL]], impatient).await;
    house.tree.drain_server("s0").unwrap();
    let problem = end_of(house.send(0).await).await.error.unwrap();
    assert!(problem.detail.starts_with("s0 is drained"), "{problem}");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_pause_is_awaited_once_however_often_its_server_is_looked_at() {
    let house = House::new(&[&[MODEL, "b"]], limits(512)).await;
    house.servers[0].is_now(Mood::Fails(failed()));
    let paused = || {
        let paused = house.tree.servers()[0].breaker.paused_models.first()?.retry_at;
        Some(Duration::from_micros((paused.0 - Timestamp::now().0).try_into().ok()?))
    };
    while paused().is_none_or(|left| left < Duration::from_secs(6)) {
        assert_eq!(end_of(house.send(0).await).await.state, TurnState::Failed);
    }
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    // A probe or more looks at the pause meanwhile.
    tokio::time::sleep(Duration::from_millis(5500)).await;
    assert!(tasks() <= before, "{} tasks, and then {}", before, tasks());
}

#[tokio::test(start_paused = true)]
async fn while_no_server_answers_turns_wait_in_order_and_say_until_when() {
    let house = House::new(&[&[MODEL], &[MODEL]], limits(2)).await;
    house.servers.iter().for_each(|s| s.is_now(Mood::Away));
    until(async || house.tree.servers().iter().all(|s| s.state == ServerState::Down)).await;
    let server = &house.tree.servers()[0];
    assert!(server.breaker.retry_at.is_some() && server.breaker.reason.is_some(), "{server:?}");
    let (first, second) = (house.send(0).await, house.send(1).await);
    let told = first.turn.queue.clone().unwrap();
    let wait = |o: crate::domain::turn::Offline| o.gives_up_at.0 - o.offline_since.0;
    assert_eq!((told.position, told.offline.map(wait)), (1, Some(30_000_000)));
    until(async || house.tree.turn(second.turn.id).await.unwrap().queue.is_some_and(|q| q.position == 2))
        .await;
    assert_eq!(house.try_send(2, "three").await.unwrap_err().code, Code::InferenceQueueFull);
    house.servers[1].is_now(Mood::Well);
    house.answers(1).await;
    assert_eq!(end_of(first).await.server.as_deref(), Some("s1"));
    house.answers(1).await;
    assert_eq!(end_of(second).await.state, TurnState::Completed);
    // And with nobody back in time.
    house.servers[1].is_now(Mood::Away);
    until(async || house.tree.servers().iter().all(|s| s.state == ServerState::Down)).await;
    let turn = end_of(house.send(3).await).await;
    assert_eq!((turn.state, turn.error.unwrap().code), (TurnState::Failed, Code::OllamaOffline));
}

#[tokio::test(start_paused = true)]
async fn a_model_that_nobody_has_is_missed_by_name_at_every_server_that_answers_and_a_few_are_named() {
    let without = |more: usize| {
        let mut models: Vec<&[&str]> = vec![&["other"]; more];
        models.push(&[MODEL]);
        models
    };
    for (servers, words) in [
        (0, "s0 has no model m."),
        (1, "Neither s1 nor s0 has a model m."),
        (2, "Neither s2, s0 nor s1 has a model m."),
        (7, "None of s7, s0, s1, s2, s3 and 3 more has a model m."),
    ] {
        let house = House::new(&without(servers), limits(512)).await;
        house.servers[servers].is_now(Mood::Fails(ModelError::ModelNotFound(MODEL.into())));
        let problem = end_of(house.send(0).await).await.error.unwrap();
        assert_eq!(problem.code, Code::ModelNotFound);
        assert!(problem.detail.starts_with(words), "{problem}");
    }
    let house = House::new(&[&[MODEL], &[MODEL]], limits(512)).await;
    house
        .servers
        .iter()
        .for_each(|server| server.is_now(Mood::Fails(ModelError::ModelNotFound(MODEL.into()))));
    let problem = end_of(house.send(0).await).await.error.unwrap();
    assert!(problem.detail.starts_with("Neither s1 nor s0 has a model m."), "{problem}");
    assert_eq!(house.asked(), [1, 1]);
}

/// What was told of a turn, in order.
fn told(house: &House, turn: TurnId) -> Vec<(String, serde_json::Value)> {
    let events = house.store.events().into_iter();
    let of_it = |e: &CommittedEvent| e.seqs.iter().any(|(topic, _)| *topic == Topic::Turn(turn));
    events.filter(of_it).map(|e| (e.name.to_string(), serde_json::from_str(&e.data).unwrap())).collect()
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_bounces_off_a_server_which_just_died_says_until_when_it_waits_and_counts_the_wait() {
    for is_back in [true, false] {
        let house = House::new(&[&[MODEL]], limits(512)).await;
        // Nobody knows yet.
        house.servers[0].is_now(Mood::Away);
        let sent = house.send(0).await;
        let id = sent.turn.id;
        until(async || house.tree.turn(id).await.unwrap().queue.is_some()).await;
        let turn = house.tree.turn(id).await.unwrap();
        assert_eq!((turn.state, turn.server), (TurnState::Generating, None));
        let gives_up_at = json!(turn.queue.unwrap().offline.unwrap().gives_up_at);
        until(async || told(&house, id).len() == 4).await;
        assert_eq!(told(&house, id)[3].1["gives_up_at"], gives_up_at);
        if is_back {
            tokio::time::sleep(Duration::from_secs(5)).await;
            house.servers[0].is_now(Mood::Well);
            house.answers(0).await;
        }
        let turn = end_of(sent).await;
        let (server, end, waited) = match is_back {
            true => (Some("s0"), vec!["turn_started", "turn_completed"], 5_000.0),
            false => (None, vec!["turn_failed"], 30_000.0),
        };
        assert_eq!(turn.server.as_deref(), server);
        assert!(turn.timings.queued_ms.unwrap() >= waited, "{:?}", turn.timings);
        let begin = ["message_received", "turn_accepted", "turn_started", "turn_queued"];
        let names: Vec<_> = told(&house, id).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, [&begin[..], &end].concat());
    }
}

#[tokio::test(start_paused = true)]
async fn each_stand_of_a_begun_turn_in_a_live_line_is_told_once_and_ends_with_a_start() {
    let house = House::new(&[&[MODEL]], limits(512)).await;
    house.servers[0].is_now(Mood::Fails(ModelError::Busy("full".into())));
    let sent = house.send(0).await;
    let id = sent.turn.id;
    until(async || house.tree.turn(id).await.unwrap().queue.is_some()).await;
    let turn = house.tree.turn(id).await.unwrap();
    assert_eq!((turn.state, turn.server), (TurnState::Generating, None), "there is no way back from there");
    assert_eq!(turn.queue.unwrap().server.as_deref(), Some("s0"));
    until(async || house.asked()[0] == 3).await;
    house.servers[0].is_now(Mood::Well);
    house.answers(0).await;
    let turn = end_of(sent).await;
    assert_eq!((turn.state, turn.server.as_deref()), (TurnState::Completed, Some("s0")));
    let told = told(&house, id);
    let names: Vec<_> = told.iter().map(|(name, _)| name.as_str()).collect();
    let mut expected = vec!["message_received", "turn_accepted", "turn_started"];
    expected.extend(["turn_queued", "turn_started"].repeat(house.asked()[0] - 1));
    expected.push("turn_completed");
    assert_eq!(names, expected);
    assert_eq!((&told[3].1["server"], &told[3].1["position"]), (&json!("s0"), &json!(1)));
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_the_wait_of_a_turn_that_had_begun_and_it_is_counted() {
    let house = House::new(&[&[MODEL]], limits(512)).await;
    house.servers[0].is_now(Mood::Away);
    let sent = house.send(0).await;
    until(async || house.tree.turn(sent.turn.id).await.unwrap().queue.is_some()).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let turn = house.tree.stop_turn(sent.turn.id).await.unwrap();
    assert_eq!(turn.state, TurnState::Stopped);
    assert!(turn.timings.queued_ms.unwrap() >= 3_000.0, "{:?}", turn.timings);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_is_added_within_two_seconds_and_says_why_it_is_down() {
    let store = Arc::new(MemoryStore::new());
    let tree = Controller::builder(store).server_factory(Arc::new(Moody)).start().await.unwrap();
    let began = tokio::time::Instant::now();
    let add = AddServer { url: "http://hangs".into(), ..AddServer::default() };
    let added = tree.add_server(add).await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(2_500), "{:?}", began.elapsed());
    let why = added.breaker.reason.as_deref();
    assert_eq!((added.state, why), (ServerState::Down, Some("the server did not answer in time")));
}

#[tokio::test(start_paused = true)]
async fn without_any_server_a_turn_is_told_how_to_add_one_and_all_of_its_time_was_waiting() {
    let house = House::new(&[&[MODEL]], limits(512)).await;
    house.tree.remove_server("s0").await.unwrap();
    let turn = end_of(house.send(0).await).await;
    let problem = turn.error.unwrap();
    assert_eq!(problem.code, Code::OllamaOffline);
    assert!(problem.detail.starts_with("There is no model server. Add one"), "{problem}");
    assert!(turn.timings.queued_ms.is_some(), "{:?}", turn.timings);
    assert_eq!(turn.timings.queued_ms, turn.timings.total_ms);
}

#[tokio::test(start_paused = true)]
async fn a_bot_whose_model_is_nowhere_is_warned_of_it_with_who_answers_until_it_is_there() {
    let house = House::new(&[&[MODEL, "b"]], limits(512)).await;
    let patch = async |config| {
        let patch = PatchBot { config: Some(config), ..PatchBot::default() };
        house.tree.patch(&bot(0), patch).await.unwrap().warnings
    };
    let absent = "No server that answers has nope now.";
    let warned = patch(json!({ "model": "nope", "fallback": ["gone"] })).await;
    assert_eq!(warned, [format!("{absent} Pull it before you send a message.")]);
    let warned = patch(json!({ "fallback": ["gone", "b"] })).await;
    assert_eq!(warned, [format!("{absent} Until it is pulled, b answers (fallback).")]);
    assert_eq!(house.tree.bot(&bot(0)).unwrap().warnings, warned);
    let turn = house.send(0).await;
    house.answers(0).await;
    assert_eq!(end_of(turn).await.model, "b");
}

/// Makes servers whose model is in their address.
struct Moody;

#[async_trait]
impl ServerFactory for Moody {
    async fn connect(&self, url: &str) -> Result<Connection, AddressRefused> {
        self.reconnect(url)
    }
    fn reconnect(&self, url: &str) -> Result<Connection, AddressRefused> {
        let name = url.strip_prefix("http://").ok_or(AddressRefused::Malformed)?;
        let model = Arc::new(MoodyModel::new(&[name]));
        if name == "hangs" {
            model.is_now(Mood::Hangs);
        }
        Ok(Connection { url: url.into(), name: name.into(), slots: 1, model })
    }
}

#[tokio::test(start_paused = true)]
async fn servers_come_and_go_one_by_one_are_kept_told_and_audited() {
    let store = MemoryStore::new();
    let start = async || {
        let builder = Controller::builder(Arc::new(store.clone())).server_factory(Arc::new(Moody));
        builder.start().await.unwrap()
    };
    let names = |tree: &Controller| tree.servers().into_iter().map(|s| s.name).collect::<Vec<_>>();
    let gates = |tree: &Controller| {
        let inference = tree.tree().children.into_iter().find(|c| c.name == "inference").unwrap();
        inference.children.into_iter().map(|c| (c.name, c.restarts)).collect::<Vec<_>>()
    };
    let tree = start().await;
    let add = |url: &str| AddServer { url: url.into(), ..AddServer::default() };
    for name in ["a", "b", "c"] {
        let added = tree.add_server(add(&format!("http://{name}"))).await.unwrap();
        assert_eq!(added.state, ServerState::Up, "it was asked");
    }
    let told: Vec<_> = store.events().into_iter().filter(|e| &*e.name == "server_state_changed").collect();
    assert!(told.len() == 3 && told.iter().all(|e| e.data.contains(r#""state":"up""#)), "{told:?}");
    let twice = AddServer { name: Some("z".into()), ..add("http://a/") };
    assert_eq!(tree.add_server(twice).await.unwrap_err().code, Code::ServerExists);
    tree.add_server(add("http://localhost:7")).await.unwrap();
    let same = tree.add_server(add("http://127.0.0.1:7")).await.unwrap_err();
    assert_eq!(same.code, Code::ServerExists, "two names of one place");
    tree.remove_server("localhost:7").await.unwrap();
    assert_eq!(tree.add_server(add("ftp://a")).await.unwrap_err().errors[0].field, "url");
    for name in ["", ".", "..", "a/b", &"n".repeat(51)] {
        let named = AddServer { name: Some(name.into()), ..add("http://d") };
        assert_eq!(tree.add_server(named).await.unwrap_err().errors[0].field, "name", "{name}");
    }
    tree.remove_server("b").await.unwrap();
    assert_eq!(tree.remove_server("b").await.unwrap_err().code, Code::ServerNotFound);
    tree.add_server(add("http://b")).await.unwrap();
    assert_eq!(names(&tree), ["a", "c", "b"]);
    until(async || gates(&tree).len() == 3 && tree.servers().iter().all(|s| s.state == ServerState::Up))
        .await;
    assert!(gates(&tree).iter().all(|(_, restarts)| *restarts == 0), "nobody else was touched");
    let events = store.events();
    let removed = events.iter().filter(|e| e.data.contains("\"removed\":true")).count();
    assert_eq!(removed, 2);
    let audit = store.audit();
    let actions: Vec<_> = audit.iter().map(|a| (a.action.as_str(), a.target.as_str())).collect();
    assert_eq!(actions.iter().filter(|a| a.0 == "server.add").count(), 5);
    assert_eq!(actions.iter().filter(|a| **a == ("server.remove", "server:b")).count(), 1);
    tree.shutdown(Duration::ZERO).await;
    let tree = start().await;
    assert_eq!(names(&tree), ["a", "c", "b"]);
    for name in ["a", "b", "c"] {
        tree.remove_server(name).await.unwrap();
    }
    assert!(names(&tree).is_empty() && store.servers().await.unwrap().is_empty());
    until(async || gates(&tree).is_empty()).await;
    tree.shutdown(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn a_bot_without_a_model_takes_what_the_server_has_that_comes_back() {
    let house = House::new(&[&["some"]], limits(8)).await;
    house.servers[0].is_now(Mood::Away);
    until(async || house.tree.servers()[0].state == ServerState::Down).await;
    let bot_id = BotId::parse("free").unwrap();
    house.tree.launch(LaunchBot { bot_id: Some(bot_id.clone()), ..LaunchBot::default() }).await.unwrap();
    let Sent::Turn(turn) = house.tree.send(SendMessage::text(bot_id, "hello")).await.unwrap() else {
        unreachable!("no command")
    };
    house.servers[0].is_now(Mood::Well);
    house.answers(0).await;
    let turn = end_of(turn).await;
    assert_eq!((turn.state, turn.model.as_str()), (TurnState::Completed, "some"));
}
