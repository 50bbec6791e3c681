//! Stops that meet a bot on its way down or up, and turns whose task is overtaken: the conversation goes on.
#![allow(clippy::unwrap_used)]

use std::{sync::Arc, time::Duration};

use tokio::time::{sleep, timeout};

use super::outage::{House, until};
use crate::{
    controller::requests::{AcceptedTurn, SendMessage, Sent},
    domain::{bot::BotState, ids::BotId, turn::TurnState},
    ports::history_store::HistoryStore,
    testkit::fakes::{hand_model::HandModel, memory_store::Outage},
};

/// Longer than anything here takes that does not wait for ever.
const SOON: Duration = Duration::from_secs(20);

/// Everything that is asked from now on is answered with a word.
fn answer_all(model: Arc<HandModel>) {
    tokio::spawn(async move {
        loop {
            let answer = model.called().await;
            answer.say("yes ").await;
            answer.end().await;
        }
    });
}

async fn goes_on(house: &House, bot: &BotId) {
    let next = timeout(SOON, house.send(bot, "next")).await.expect("it is taken").unwrap();
    assert_eq!(state_at_end(next).await, TurnState::Completed);
    house.all_ended_once().await;
    let status = house.tree.status(bot).unwrap();
    assert_eq!((status.queue_depth, status.active_turns.len()), (0, 0));
}

async fn state_at_end(turn: AcceptedTurn) -> TurnState {
    timeout(SOON, turn.ended()).await.expect("it ends").unwrap().turn.state
}

#[tokio::test(start_paused = true)]
async fn a_waiting_turn_that_is_stopped_while_its_bot_comes_back_ends_and_its_conversation_goes_on() {
    let (house, ada) = House::with_bot("ada").await;
    let (_first, _answer) = house.speaking(&ada, "one").await;
    let waiting = house.send(&ada, "two").await.unwrap();
    let entry = house.tree.entry(&ada).unwrap();
    let recovery = entry.recovering.lock().await;
    let before = entry.actor.get().unwrap().get_id();
    house.crash(&ada);
    until(async || entry.actor.get().is_some_and(|actor| actor.get_id() != before)).await;
    let look = house.store.hold_next_look();
    let (tree, id) = (house.tree.clone(), waiting.turn.id);
    let stopping = tokio::spawn(async move { tree.stop_turn(id).await });
    // The stop gets as far as it can before the bot knows its turns, and the bot before the stop has read anything.
    sleep(Duration::from_secs(1)).await;
    drop(recovery);
    sleep(Duration::from_secs(1)).await;
    drop(look);
    assert_eq!(timeout(SOON, stopping).await.unwrap().unwrap().unwrap().state, TurnState::Stopped);
    assert_eq!(state_at_end(waiting).await, TurnState::Stopped);
    answer_all(house.model.clone());
    goes_on(&house, &ada).await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_command_that_meets_a_bot_on_its_way_up_stops_what_would_go_on() {
    let (house, ada) = House::with_bot("ada").await;
    let (_first, _answer) = house.speaking(&ada, "one").await;
    let waiting = house.send(&ada, "two").await.unwrap();
    let entry = house.tree.entry(&ada).unwrap();
    let recovery = entry.recovering.lock().await;
    let before = entry.actor.get().unwrap().get_id();
    house.crash(&ada);
    until(async || entry.actor.get().is_some_and(|actor| actor.get_id() != before)).await;
    let (tree, command) = (house.tree.clone(), SendMessage::text(ada.clone(), "/stop"));
    let stopping = tokio::spawn(async move { tree.send(command).await });
    // The word gets as far as it can before the bot knows its turns.
    sleep(Duration::from_secs(1)).await;
    drop(recovery);
    let Sent::Command { reply, .. } = timeout(SOON, stopping).await.unwrap().unwrap().unwrap() else {
        unreachable!("a command")
    };
    assert_eq!(&*reply.content, "Stopped. What is written is kept.");
    assert_eq!(state_at_end(waiting).await, TurnState::Stopped);
    answer_all(house.model.clone());
    goes_on(&house, &ada).await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_command_to_a_bot_without_an_actor_stops_what_waits_for_the_next_one() {
    let (house, ada) = House::with_bot("ada").await;
    let (_first, _answer) = house.speaking(&ada, "one").await;
    // More than there are crashes, each of which interrupts one.
    for _ in 0..10 {
        house.send(&ada, "next").await.unwrap();
    }
    let entry = house.tree.entry(&ada).unwrap();
    let open = async || house.store.open_turns(None).await.unwrap().into_iter().map(|(turn, ..)| turn);
    until(async || {
        house.crash(&ada);
        let begun = open().await.any(|turn| turn.state == TurnState::Generating);
        entry.state() == BotState::Quarantined && !begun
    })
    .await;
    let waiting = open().await.next().unwrap();
    let Sent::Command { reply, .. } = house.tree.send(SendMessage::text(ada.clone(), "/stop")).await.unwrap()
    else {
        unreachable!("a command")
    };
    assert_eq!(&*reply.content, "Stopped. What is written is kept.");
    assert_eq!(house.tree.turn(waiting.id).await.unwrap().state, TurnState::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_was_sealed_behind_its_turn_blocks_nobody() {
    let (house, ada) = House::with_bot("ada").await;
    let (turn, answer) = house.speaking(&ada, "one").await;
    house.tree.inner.hubs.live(turn.turn.id).unwrap().seal();
    answer.say("more").await;
    answer_all(house.model.clone());
    goes_on(&house, &ada).await;
    assert_eq!(house.reply_of(&turn).await.0.state, TurnState::Completed, "nobody had ended it");
}

#[tokio::test(start_paused = true)]
async fn a_stop_leaves_an_end_that_is_decided_as_it_is() {
    let (house, ada) = House::with_bot("ada").await;
    let (turn, answer) = house.speaking(&ada, "one").await;
    house.store.go_away(Outage::Refusing);
    answer.end().await;
    // The pauses between the attempts to store it have grown.
    sleep(Duration::from_millis(3200)).await;
    house.store.come_back();
    until(async || house.tree.turn(turn.turn.id).await.is_ok_and(|turn| !turn.stale)).await;
    let open = house.store.open_turns(None).await.unwrap();
    assert_eq!(open.len(), 1, "the end is still to be stored");
    let stopped = house.tree.stop_turn(turn.turn.id).await.unwrap();
    assert_eq!(stopped.state, TurnState::Completed);
    assert_eq!(house.reply_of(&turn).await.0.state, TurnState::Completed);
    answer_all(house.model.clone());
    goes_on(&house, &ada).await;
}
