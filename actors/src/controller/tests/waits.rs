//! What turns are told of their place and their wait, behind their own conversation and in the line of a server.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use serde_json::Value;
use tokio::time::sleep;

use super::servers::{House, MODEL, end_of, limits, until};
use crate::domain::{
    event::Topic,
    ids::TurnId,
    turn::{QueuePlace, TurnState},
};

const S: Duration = Duration::from_secs(1);

/// `data` of the `turn_queued` of a turn.
fn queued(house: &House, turn: TurnId) -> Value {
    let events = house.store.events();
    let of_it = |e: &&crate::domain::event::CommittedEvent| {
        &*e.name == "turn_queued" && e.seqs.iter().any(|(topic, _)| *topic == Topic::Turn(turn))
    };
    serde_json::from_str(&events.iter().find(of_it).unwrap().data).unwrap()
}

/// A house whose first bot was answered once, in 20 s.
async fn measured() -> House {
    let house = House::new(&[&[MODEL]], limits(512)).await;
    let turn = house.send(0).await;
    let answer = house.servers[0].called().await;
    sleep(20 * S).await;
    assert!(answer.say("well").await && answer.end().await);
    end_of(turn).await;
    house
}

async fn wait_of(house: &House, turn: TurnId) -> f64 {
    house.tree.turn(turn).await.unwrap().queue.unwrap().eta_s.unwrap()
}

fn about(seconds: f64, expected: f64) {
    assert!((seconds - expected).abs() < 1.0, "{seconds} and not {expected}");
}

#[tokio::test(start_paused = true)]
async fn who_waits_behind_his_conversation_is_told_how_long_from_the_first_measurement_on() {
    let house = House::new(&[&[MODEL]], limits(512)).await;
    let (running, early) = (house.send(0).await, house.send(0).await);
    assert_eq!(early.turn.queue, Some(QueuePlace::new(1, None)), "nothing was measured");
    for turn in [running, early] {
        let answer = house.servers[0].called().await;
        sleep(20 * S).await;
        assert!(answer.say("well").await && answer.end().await);
        end_of(turn).await;
    }
    let running = house.send(0).await;
    let answer = house.servers[0].called().await;
    sleep(5 * S).await;
    let (next, last) = (house.send(0).await, house.send(0).await);
    let told = |turn| queued(&house, turn)["eta_s"].as_f64().unwrap();
    about(told(next.turn.id), 15.0);
    about(told(last.turn.id), 35.0);
    assert_eq!(next.turn.queue.as_ref().unwrap().eta_s, Some(told(next.turn.id)));
    assert_eq!(queued(&house, next.turn.id).get("server"), None, "which server it will be is not known");
    // It gets shorter by itself, and that is told.
    let mut reader = house.tree.reader();
    house.tree.subscribe(&reader, Topic::Turn(last.turn.id), None).await.unwrap();
    sleep(10 * S).await;
    about(wait_of(&house, next.turn.id).await, 5.0);
    about(wait_of(&house, last.turn.id).await, 25.0);
    let mut moved = vec![];
    while let Some(delivery) = reader.try_next().unwrap() {
        if &*delivery.name == "queue_moved" {
            let (_, rest) = delivery.envelope();
            let event: Value =
                serde_json::from_str(&format!("{{{}", std::str::from_utf8(&rest).unwrap())).unwrap();
            assert_eq!(
                (&event["data"]["position"], event["data"].get("server")),
                (&2.into(), Some(&Value::Null)),
                "{event}"
            );
            moved.push(event["data"]["eta_s"].as_f64().unwrap());
        }
    }
    assert!(moved.len() > 3 && moved.is_sorted_by(|before, after| before > after), "{moved:?}");
    about(*moved.last().unwrap(), 25.7);
    // And when the line moves up.
    assert!(answer.end().await);
    end_of(running).await;
    until(async || house.tree.turn(last.turn.id).await.unwrap().queue.is_some_and(|q| q.position == 1)).await;
    house.tree.stop_turn(next.turn.id).await.unwrap();
    house.tree.stop_turn(last.turn.id).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_line_of_the_server_counts_for_who_waits_behind_his_conversation_and_for_nobody_twice() {
    let house = measured().await;
    let running = house.send(1).await;
    let _answer = house.servers[0].called().await;
    let (waiting, other) = (house.send(0).await, house.send(2).await);
    let behind = house.send(0).await;
    // `running` for 20 s, then `waiting`, whose bot was there first, and `other`; in what order is the line's affair.
    about(queued(&house, waiting.turn.id)["eta_s"].as_f64().unwrap(), 20.0);
    about(queued(&house, other.turn.id)["eta_s"].as_f64().unwrap(), 40.0);
    about(queued(&house, behind.turn.id)["eta_s"].as_f64().unwrap(), 60.0);
    assert_eq!(house.tree.turn(behind.turn.id).await.unwrap().state, TurnState::Queued);
    for turn in [running, waiting, other, behind] {
        house.tree.stop_turn(turn.turn.id).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_line_that_moves_fast_is_told_at_most_twice_a_second() {
    let house = measured().await;
    let mut turns = vec![];
    for _ in 0..12 {
        turns.push(house.send(0).await);
    }
    let _answer = house.servers[0].called().await;
    let mut reader = house.tree.reader();
    let last = turns.pop().unwrap();
    house.tree.subscribe(&reader, Topic::Turn(last.turn.id), None).await.unwrap();
    // Ten leave the line in no time.
    for turn in turns.drain(1..) {
        house.tree.stop_turn(turn.turn.id).await.unwrap();
    }
    sleep(S).await;
    let told =
        std::iter::from_fn(|| reader.try_next().unwrap()).filter(|d| &*d.name == "queue_moved").count();
    assert!((1..=2).contains(&told), "{told}");
    for turn in [turns.remove(0), last] {
        house.tree.stop_turn(turn.turn.id).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn who_stands_in_the_line_of_a_server_is_told_which() {
    let house = measured().await;
    let running = house.send(0).await;
    let _answer = house.servers[0].called().await;
    let waiting = house.send(1).await;
    assert_eq!(queued(&house, waiting.turn.id)["server"], "s0");
    let place = house.tree.turn(waiting.turn.id).await.unwrap().queue.unwrap();
    assert_eq!((place.position, place.server.as_deref()), (1, Some("s0")));
    assert_eq!(waiting.turn.queue.as_ref().unwrap().server.as_deref(), Some("s0"));
    for turn in [running, waiting] {
        house.tree.stop_turn(turn.turn.id).await.unwrap();
    }
}
