//! What is told from memory while the database is away.
#![allow(clippy::unwrap_used)]

use super::outage::{House, until};
use crate::{
    controller::requests::SendMessage,
    domain::{problem::Code, turn::TurnState},
    testkit::fakes::memory_store::Outage,
};

#[tokio::test(start_paused = true)]
async fn a_turn_that_has_not_ended_is_told_from_memory_and_marked_once_it_is_acknowledged() {
    for outage in [Outage::Silent, Outage::Refusing] {
        let (house, ada) = House::with_bot("ada").await;
        let (running, answer) = house.speaking(&ada, "one").await;
        let behind = house.send(&ada, "two").await.unwrap();
        assert!(!house.tree.turn(running.turn.id).await.unwrap().stale);
        house.store.go_away(outage);
        if outage == Outage::Silent {
            let tree = house.tree.clone();
            let unknown = tokio::spawn(async move { tree.send(SendMessage::text(ada, "three")).await });
            let live = || house.tree.inner.hubs.all_live().into_iter().map(|live| live.turn_id());
            until(async || live().count() == 3).await;
            let new = live().find(|id| ![running.turn.id, behind.turn.id].contains(id)).unwrap();
            let problem = house.tree.turn(new).await.unwrap_err();
            assert_eq!(problem.code, Code::StorageUnavailable, "nobody was told of it");
            unknown.await.unwrap().unwrap_err();
        }
        let told = house.tree.turn(running.turn.id).await.unwrap();
        assert_eq!((told.state, told.stale, told.queue), (TurnState::Generating, true, None));
        let told = house.tree.turn(behind.turn.id).await.unwrap();
        assert_eq!((told.state, told.stale), (TurnState::Queued, true));
        assert_eq!(told.queue.map(|place| place.position), Some(1));
        answer.end().await;
        let decided = || {
            let live = house.tree.inner.hubs.live(running.turn.id);
            live.is_some_and(|live| live.decided().is_some())
        };
        until(async || decided()).await;
        let told = house.tree.turn(running.turn.id).await.unwrap();
        assert_eq!(told.state, TurnState::Generating, "an end is told once it is stored");
        house.store.come_back();
        let id = running.turn.id;
        running.ended().await.unwrap();
        let stored = house.tree.turn(id).await.unwrap();
        assert_eq!((stored.state, stored.stale), (TurnState::Completed, false));
    }
}
