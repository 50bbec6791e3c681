//! Summaries beside turns: they give way, they fail, they end.
#![allow(clippy::unwrap_used)]

use std::{sync::Arc, time::Duration};

use serde_json::{Map, json};

use crate::{
    controller::{requests::*, *},
    domain::turn::TurnState,
    ports::chat_model::Role,
    testkit::fakes::{
        hand_model::{Answer, HAND_MODEL, HandModel},
        memory_store::MemoryStore,
    },
};

/// A model server of one slot, and a bot with a small context.
struct Desk {
    model: Arc<HandModel>,
    tree: Controller,
}

fn bot() -> BotId {
    BotId::parse("ada").unwrap()
}

impl Desk {
    async fn new() -> Self {
        let model = Arc::new(HandModel::default());
        let (name, url) = ("hand".to_owned(), "http://hand".to_owned());
        let server = ServerSpec { name, url, slots: 1, simulated: false, model: model.clone() };
        let tree = Controller::builder(Arc::new(MemoryStore::new())).server(server).start().await.unwrap();
        while tree.servers().iter().any(|s| s.state != crate::domain::model::ServerState::Up) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let config = json!({
            "model": HAND_MODEL, "options": {"num_ctx": 256}, "context": {"overflow": "summarise"},
        });
        let config: Map<_, _> = config.as_object().unwrap().clone();
        let launch = LaunchBot { bot_id: Some(bot()), config: Some(config), ..LaunchBot::default() };
        tree.launch(launch).await.unwrap();
        Self { model, tree }
    }

    async fn send(&self) -> AcceptedTurn {
        match self.tree.send(SendMessage::text(bot(), "word ".repeat(60))).await.unwrap() {
            Sent::Turn(accepted) => accepted,
            Sent::Command { .. } => unreachable!("no command"),
        }
    }

    /// The next thing that the model is asked for: whether that is a summary, and its answer.
    async fn asked(&self) -> (bool, Answer) {
        let answer = self.model.called().await;
        let first = &answer.request.messages[0];
        (first.role == Role::System && first.content.starts_with("You keep the notes"), answer)
    }

    /// A turn that is answered.
    async fn talk(&self) {
        let turn = self.send().await;
        let (is_summary, answer) = self.asked().await;
        assert!(!is_summary && answer.say("well ").await && answer.end().await);
        assert_eq!(turn.ended().await.unwrap().turn.state, TurnState::Completed);
    }

    /// With a conversation that does not fit any more; answers with the request for its summary.
    async fn overflowing() -> (Self, Answer) {
        let desk = Self::new().await;
        for _ in 0..3 {
            desk.talk().await;
        }
        let (is_summary, answer) = desk.asked().await;
        assert!(is_summary);
        (desk, answer)
    }
}

/// Resolves once nobody listens to the answer any more.
async fn left(answer: &Answer) {
    tokio::time::timeout(Duration::from_secs(1), answer.closed()).await.expect("its reader is gone");
}

#[tokio::test(start_paused = true)]
async fn a_summary_gives_its_slot_to_a_turn_and_is_made_when_there_is_time() {
    let (desk, summary) = Desk::overflowing().await;
    assert!(summary.say("no").await);
    let turn = desk.send().await;
    let (is_summary, answer) = desk.asked().await;
    assert!(!is_summary, "the turn has the only slot");
    left(&summary).await;
    let trimmed = desk.tree.turn(turn.turn.id).await.unwrap().context.trimmed_messages;
    assert!(trimmed > 0 && answer.request.messages[0].role != Role::System, "it goes without");
    assert!(answer.end().await);
    let (is_summary, answer) = desk.asked().await;
    assert!(is_summary, "the next attempt");
    assert!(answer.say("they said word ").await && answer.say("often").await && answer.end().await);
    // Kept at once, but by another task.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let _turn = desk.send().await;
    let (_, answer) = desk.asked().await;
    let system = &answer.request.messages[0];
    assert!(system.role == Role::System && system.content.ends_with("they said word often"), "{system:?}");
}

#[tokio::test(start_paused = true)]
async fn a_summary_that_fails_harms_nobody_and_is_tried_again_after_the_next_turn() {
    let (desk, summary) = Desk::overflowing().await;
    drop(summary);
    desk.talk().await;
    let (is_summary, answer) = desk.asked().await;
    assert!(is_summary);
    // One without a word is no summary either.
    assert!(answer.end().await);
    desk.talk().await;
    assert!(desk.asked().await.0);
    let status = desk.tree.status(&bot()).unwrap();
    assert_eq!((status.error_count, status.restart_count), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_summary_holds_up_neither_the_stop_of_its_bot_nor_the_end_of_the_process() {
    let (desk, summary) = Desk::overflowing().await;
    desk.tree.stop(&bot()).await.unwrap();
    left(&summary).await;
    let (desk, summary) = Desk::overflowing().await;
    let began = tokio::time::Instant::now();
    desk.tree.shutdown(Duration::from_secs(30)).await;
    assert!(began.elapsed() < Duration::from_secs(1));
    left(&summary).await;
}
