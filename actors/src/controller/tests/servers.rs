//! Turns in front of several model servers that are well, busy, failing, away or silent.
#![allow(clippy::unwrap_used)]

use std::{sync::Arc, time::Duration};

use serde_json::{Map, json};
use tokio::time::{Instant, sleep};

use crate::{
    bot::MAX_ATTEMPTS,
    controller::{requests::*, *},
    domain::{
        event::Topic,
        message::MessageState,
        model::{BreakerState, Server, ServerState},
        turn::TurnState,
    },
    ports::{chat_model::ModelError, history_store::HistoryStore},
    testkit::fakes::{
        memory_store::MemoryStore,
        moody_model::{Mood, MoodyModel},
    },
};

pub(super) const MODEL: &str = "m";

pub(super) struct House {
    pub(super) store: MemoryStore,
    pub(super) servers: Vec<Arc<MoodyModel>>,
    pub(super) tree: Controller,
}

impl House {
    /// One server of one slot for each list of models, and bots `b0` to `b3`.
    pub(super) async fn new(models: &[&[&str]], limits: InferenceLimits) -> Self {
        let store = MemoryStore::new();
        let servers: Vec<_> = models.iter().map(|models| Arc::new(MoodyModel::new(models))).collect();
        let settings = Settings { inference: limits, seed: 7, ..Settings::default() };
        let mut tree = Controller::builder(Arc::new(store.clone())).settings(settings);
        for (n, model) in servers.iter().enumerate() {
            tree = tree.server(ServerSpec {
                name: format!("s{n}"),
                url: format!("http://s{n}"),
                slots: 1,
                simulated: false,
                model: model.clone(),
            });
        }
        let house = Self { store, servers, tree: tree.start().await.unwrap() };
        until(async || house.tree.servers().iter().all(|s| s.state == ServerState::Up)).await;
        for n in 0..4 {
            let config = Map::from_iter([("model".to_owned(), json!(MODEL))]);
            let bot_id = Some(bot(n));
            house
                .tree
                .launch(LaunchBot { bot_id, config: Some(config), ..LaunchBot::default() })
                .await
                .unwrap();
        }
        house
    }

    pub(super) async fn try_send(&self, n: usize, text: &str) -> Result<AcceptedTurn, Problem> {
        match self.tree.send(SendMessage::text(bot(n), text)).await? {
            Sent::Turn(accepted) => Ok(accepted),
            Sent::Command { .. } => unreachable!("no command"),
        }
    }

    pub(super) async fn send(&self, n: usize) -> AcceptedTurn {
        self.try_send(n, "hello").await.unwrap()
    }

    /// Somebody answers at this server.
    pub(super) async fn answers(&self, server: usize) {
        let answer = self.servers[server].called().await;
        assert!(answer.say("well ").await && answer.end().await);
    }

    pub(super) fn asked(&self) -> Vec<usize> {
        self.servers.iter().map(|s| s.asked()).collect()
    }
}

pub(super) fn bot(n: usize) -> BotId {
    BotId::parse(&format!("b{n}")).unwrap()
}

pub(super) fn limits(queue_limit: usize) -> InferenceLimits {
    InferenceLimits { queue_limit, ..InferenceLimits::default() }
}

pub(super) async fn end_of(turn: AcceptedTurn) -> Turn {
    turn.ended().await.unwrap().turn.clone()
}

/// Time is paused: waiting costs nothing.
pub(super) async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < Duration::from_secs(120), "not within two minutes");
        sleep(Duration::from_millis(20)).await;
    }
}

pub(super) fn failed() -> ModelError {
    ModelError::Failed("500".into())
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_a_server_fails_at_once_is_answered_by_another_and_each_is_asked_once() {
    for error in [
        failed(),
        ModelError::ModelNotFound(MODEL.into()),
        ModelError::Cut,
        ModelError::Protocol("html".into()),
    ] {
        let house = House::new(&[&[MODEL], &[MODEL], &[]], limits(512)).await;
        house.servers[0].is_now(Mood::Fails(error));
        let turn = house.send(0).await;
        house.answers(1).await;
        let turn = end_of(turn).await;
        assert_eq!((turn.state, turn.server.as_deref()), (TurnState::Completed, Some("s1")));
        assert_eq!(house.asked(), [1, 1, 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_does_not_end_is_cut_off_fails_and_is_kept_as_far_as_it_came() {
    let house = House::new(&[&[MODEL]], limits(512)).await;
    let turn = house.send(0).await;
    let (id, reply) = (turn.turn.id, turn.turn.reply_id);
    let answer = house.servers[0].called().await;
    let piece = "x".repeat(1 << 20);
    while answer.say(&piece).await {}
    let turn = end_of(turn).await;
    assert_eq!((turn.id, turn.error.unwrap().code), (id, Code::UpstreamError));
    let kept = house.tree.message(&bot(0), reply, None).await.unwrap().message;
    assert_eq!((kept.content.len(), kept.state), (8 << 20, MessageState::Partial));
    let next = house.send(1).await;
    house.answers(0).await;
    assert_eq!(end_of(next).await.state, TurnState::Completed);
}

#[tokio::test(start_paused = true)]
async fn where_all_that_have_the_model_fail_the_turn_fails_and_none_is_asked_twice() {
    let house = House::new(&[&[MODEL], &[MODEL], &["other"]], limits(512)).await;
    house.servers.iter().for_each(|s| s.is_now(Mood::Fails(failed())));
    let turn = end_of(house.send(0).await).await;
    assert_eq!(turn.error.unwrap().code, Code::UpstreamError);
    assert_eq!(house.asked(), [1, 1, 0]);
}

#[tokio::test(start_paused = true)]
async fn after_the_first_byte_and_after_a_timeout_nobody_else_is_asked() {
    let house = House::new(&[&[MODEL], &[MODEL]], limits(512)).await;
    let turn = house.send(0).await;
    let answer = house.servers[0].called().await;
    assert!(answer.say("half ").await);
    drop(answer);
    let end = turn.ended().await.unwrap();
    let reply = end.reply.clone().unwrap();
    assert_eq!((&*reply.content, reply.state), ("half ", MessageState::Partial));
    let late = ModelError::Timeout(crate::ports::chat_model::Wait::FirstByte);
    house.servers.iter().for_each(|s| s.is_now(Mood::Fails(late.clone())));
    let turn = end_of(house.send(1).await).await;
    assert_eq!(turn.error.unwrap().code, Code::UpstreamTimeout);
    assert_eq!(house.asked().iter().sum::<usize>(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stays_busy_is_asked_so_often_and_no_oftener() {
    let house = House::new(&[&[MODEL]], limits(512)).await;
    house.servers[0].is_now(Mood::Fails(ModelError::Busy("full".into())));
    let began = Instant::now();
    let turn = end_of(house.send(0).await).await;
    assert_eq!((turn.state, house.asked()[0]), (TurnState::Failed, MAX_ATTEMPTS));
    let took = began.elapsed();
    assert!(took > Duration::from_secs(25) && took < Duration::from_secs(70), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_busy_server_is_asked_again_for_the_same_turn_first() {
    let house = House::new(&[&[MODEL]], limits(512)).await;
    house.servers[0].is_now(Mood::Fails(ModelError::Busy("full".into())));
    let first = house.send(0).await;
    until(async || house.asked()[0] == 2).await;
    let second = house.send(1).await;
    house.servers[0].is_now(Mood::Well);
    house.answers(0).await;
    assert_eq!(end_of(first).await.state, TurnState::Completed);
    house.answers(0).await;
    assert_eq!(end_of(second).await.state, TurnState::Completed);
}

#[tokio::test(start_paused = true)]
async fn who_waits_at_a_server_that_goes_down_moves_on_and_what_runs_there_is_its_own_affair() {
    let house = House::new(&[&[MODEL], &[MODEL]], limits(512)).await;
    let [one, two] = [house.send(0).await, house.send(1).await];
    let answers = [house.servers[0].called().await, house.servers[1].called().await];
    let [three, four] = [house.send(2).await, house.send(3).await];
    let waits = |n: usize| house.tree.servers()[n].queue.depth;
    until(async || waits(0) + waits(1) == 2).await;
    house.servers[0].is_now(Mood::Hangs);
    until(async || (waits(0), waits(1)) == (0, 2)).await;
    let [silent, well] = answers;
    well.end().await;
    house.answers(1).await;
    house.answers(1).await;
    for turn in [two, three, four] {
        assert_eq!(end_of(turn).await.state, TurnState::Completed);
    }
    let running = house.tree.turn(one.turn.id).await.unwrap();
    assert_eq!((running.state, running.server.as_deref()), (TurnState::Generating, Some("s0")));
    drop(silent);
    assert_eq!(end_of(one).await.error.unwrap().code, Code::UpstreamError);
}

#[tokio::test(start_paused = true)]
async fn a_breaker_that_opens_keeps_its_server_out_and_closes_with_the_first_good_answer() {
    let house = House::new(&[&[MODEL]], limits(512)).await;
    house.servers[0].is_now(Mood::Fails(failed()));
    let reader = house.tree.reader();
    house.tree.subscribe(&reader, Topic::Models, None).await.unwrap();
    for _ in 0..5 {
        end_of(house.send(0).await).await;
    }
    let breaker = house.tree.servers()[0].breaker.clone();
    assert_eq!((breaker.state, house.asked()[0]), (BreakerState::Open, 5));
    house.servers[0].is_now(Mood::Well);
    let turn = house.send(0).await;
    assert_eq!(house.asked()[0], 5, "nobody is sent in the pause");
    house.answers(0).await;
    assert_eq!(end_of(turn).await.state, TurnState::Completed);
    let told = async || {
        let events = house.store.events();
        let of_servers = events.iter().filter(|e| &*e.name == "server_state_changed");
        of_servers.map(|e| e.data.to_string()).collect::<Vec<_>>()
    };
    for state in ["open", "half_open", "closed"] {
        let written = format!(r#""breaker":{{"state":"{state}""#);
        until(async || told().await.iter().any(|data| data.contains(&written))).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_line_refuses_before_anything_is_stored_and_keeps_whom_it_has() {
    let house = House::new(&[&[MODEL]], limits(2)).await;
    let running = house.send(0).await;
    let answer = house.servers[0].called().await;
    let waiting = [house.send(1).await, house.send(2).await];
    let events = house.store.events().len();
    let problem = house.try_send(3, "one too many").await.unwrap_err();
    assert_eq!((problem.code, problem.status), (Code::InferenceQueueFull, 429));
    assert!(problem.retry_after_s.is_some());
    // Also one that would wait for its conversation first.
    assert_eq!(house.try_send(0, "me too").await.unwrap_err().code, Code::InferenceQueueFull);
    assert_eq!(house.store.events().len(), events);
    let place = house.tree.turn(waiting[1].turn.id).await.unwrap().queue.unwrap();
    assert_eq!(place.position, 2);
    answer.end().await;
    end_of(running).await;
    house.answers(0).await;
    house.answers(0).await;
    for turn in waiting {
        assert_eq!(end_of(turn).await.state, TurnState::Completed);
    }
    assert!(house.store.open_turns(None).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_waits_behind_another_message_of_the_conversation_takes_room_until_it_is_answered_or_stopped() {
    let house = House::new(&[&[MODEL]], limits(2)).await;
    let running = house.send(0).await;
    let answer = house.servers[0].called().await;
    let behind = [house.send(0).await, house.send(0).await];
    assert_eq!(house.try_send(1, "one too many").await.unwrap_err().code, Code::InferenceQueueFull);
    house.tree.stop_turn(behind[1].turn.id).await.unwrap();
    let other = house.send(1).await;
    assert_eq!(house.try_send(2, "one too many").await.unwrap_err().code, Code::InferenceQueueFull);
    answer.end().await;
    end_of(running).await;
    house.answers(0).await;
    house.answers(0).await;
    let [first, stopped] = behind;
    for (turn, state) in
        [(first, TurnState::Completed), (stopped, TurnState::Stopped), (other, TurnState::Completed)]
    {
        assert_eq!(end_of(turn).await.state, state);
    }
}

#[tokio::test(start_paused = true)]
async fn while_no_server_answers_as_many_wait_as_may_and_they_run_when_one_is_back() {
    let house = House::new(&[&[MODEL]], limits(2)).await;
    house.servers[0].is_now(Mood::Away);
    let waiting = [house.send(0).await, house.send(1).await];
    until(async || house.try_send(2, "hello").await.is_err_and(|p| p.code == Code::InferenceQueueFull)).await;
    house.servers[0].is_now(Mood::Well);
    house.answers(0).await;
    house.answers(0).await;
    for turn in waiting {
        assert_eq!(end_of(turn).await.state, TurnState::Completed);
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_behind_a_slow_answer_moves_to_a_server_that_has_nothing_to_do() {
    let house = House::new(&[&[MODEL], &[MODEL]], limits(512)).await;
    let [_slow, two] = [house.send(0).await, house.send(1).await];
    let [_silent, well] = [house.servers[0].called().await, house.servers[1].called().await];
    let more = [house.send(2).await, house.send(3).await];
    until(async || house.tree.servers().iter().all(|s| s.queue.depth == 1)).await;
    well.end().await;
    house.answers(1).await;
    house.answers(1).await;
    end_of(two).await;
    for turn in more {
        assert_eq!(end_of(turn).await.server.as_deref(), Some("s1"));
    }
    assert_eq!(house.asked(), [1, 3]);
}

#[tokio::test(start_paused = true)]
async fn who_waits_in_line_longer_than_allowed_fails_and_who_runs_or_comes_later_does_not() {
    let patient = InferenceLimits { queue_wait: Some(Duration::from_secs(7)), ..limits(512) };
    let house = House::new(&[&[MODEL]], patient).await;
    let running = house.send(0).await;
    let answer = house.servers[0].called().await;
    let waiting = house.send(1).await;
    until(async || house.tree.servers()[0].queue.depth == 1).await;
    let began = Instant::now();
    sleep(Duration::from_secs(5)).await;
    let later = house.send(2).await;
    let turn = end_of(waiting).await;
    assert_eq!((turn.state, turn.error.unwrap().code), (TurnState::Failed, Code::InferenceQueueTimeout));
    let took = began.elapsed();
    assert!(took > Duration::from_millis(6500) && took < Duration::from_secs(8), "{took:?}");
    assert!(answer.end().await);
    assert_eq!(end_of(running).await.state, TurnState::Completed);
    house.answers(0).await;
    assert_eq!(end_of(later).await.state, TurnState::Completed);
    assert_eq!(house.asked(), [2]);
}

#[tokio::test(start_paused = true)]
async fn the_longest_wait_in_line_is_that_of_all_stands_together_without_the_time_while_no_server_answers() {
    let patient = InferenceLimits { queue_wait: Some(Duration::from_secs(7)), ..limits(512) };
    let house = House::new(&[&[MODEL]], patient).await;
    house.servers[0].is_now(Mood::Fails(ModelError::Busy("full".into())));
    let began = Instant::now();
    let turn = end_of(house.send(0).await).await;
    assert_eq!(turn.error.unwrap().code, Code::InferenceQueueTimeout);
    let took = began.elapsed();
    assert!(took > Duration::from_millis(6500) && took < Duration::from_secs(8), "{took:?}");
    assert!(house.asked()[0] > 2, "it stood there several times");
    house.servers[0].is_now(Mood::Away);
    until(async || house.tree.servers()[0].state == ServerState::Down).await;
    let sent = house.send(1).await;
    sleep(Duration::from_secs(12)).await;
    house.servers[0].is_now(Mood::Well);
    house.answers(0).await;
    assert_eq!(end_of(sent).await.state, TurnState::Completed);
}

#[tokio::test(start_paused = true)]
async fn who_is_stopped_in_the_line_leaves_it_at_once() {
    let house = House::new(&[&[MODEL]], limits(512)).await;
    let running = house.send(0).await;
    let answer = house.servers[0].called().await;
    let waiting = house.send(1).await;
    until(async || house.tree.servers()[0].queue.depth == 1).await;
    assert_eq!(house.tree.stop_turn(waiting.turn.id).await.unwrap().state, TurnState::Stopped);
    assert_eq!(house.tree.servers()[0].queue.depth, 0);
    answer.end().await;
    end_of(running).await;
    assert_eq!(house.asked()[0], 1);
}

#[tokio::test(start_paused = true)]
async fn a_drained_server_ends_what_runs_and_gets_nothing_new_until_it_is_resumed() {
    let house = House::new(&[&[MODEL], &[MODEL]], limits(512)).await;
    let running = house.send(0).await;
    let answer = house.servers[0].called().await;
    let state = |server: Server| server.state;
    assert_eq!(state(house.tree.drain_server("s0").unwrap()), ServerState::Draining);
    let more = [house.send(1).await, house.send(2).await];
    house.answers(1).await;
    house.answers(1).await;
    assert!(answer.end().await);
    for turn in more {
        assert_eq!(end_of(turn).await.server.as_deref(), Some("s1"));
    }
    assert_eq!(end_of(running).await.state, TurnState::Completed);
    assert_eq!(house.asked(), [1, 2]);
    assert_eq!(state(house.tree.drain_server("s1").unwrap()), ServerState::Draining);
    let waiting = house.send(3).await;
    assert_eq!(state(house.tree.resume_server("s0").unwrap()), ServerState::Up);
    house.answers(0).await;
    assert_eq!(end_of(waiting).await.state, TurnState::Completed);
}

#[tokio::test(start_paused = true)]
async fn a_probe_on_demand_forgives_a_server_that_answers_and_knows_no_others() {
    let house = House::new(&[&[MODEL]], limits(512)).await;
    house.servers[0].is_now(Mood::Fails(failed()));
    for _ in 0..5 {
        end_of(house.send(0).await).await;
    }
    assert_eq!(house.tree.probe_server("s0").await.unwrap().breaker.state, BreakerState::Closed);
    assert_eq!(house.tree.probe_server("s9").await.unwrap_err().code, Code::ServerNotFound);
}
