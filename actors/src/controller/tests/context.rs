//! What the prompts of a turn hold where another model answers it, and what is learnt of one that is refused.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::servers::{House, MODEL, bot, end_of, limits};
use crate::{
    bot::MAX_ATTEMPTS,
    controller::requests::{PatchBot, SendMessage, Sent},
    domain::{problem::Code, turn::TurnState},
    ports::chat_model::ModelError,
    testkit::fakes::moody_model::Mood,
};

async fn patched(house: &House, n: usize, config: Value) {
    let config = Some(config);
    house.tree.patch(&bot(n), PatchBot { config, ..PatchBot::default() }).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_fallback_with_less_context_gets_a_prompt_that_fits_it() {
    let house = House::new(&[&[MODEL], &["b"]], limits(512)).await;
    patched(&house, 0, json!({"fallback": ["b"], "options": {"num_ctx": 8192, "num_predict": 100}})).await;
    house.servers[1].has_context(1024);
    for _ in 0..3 {
        let turn = house.try_send(0, &"word ".repeat(300)).await.unwrap();
        let answer = house.servers[0].called().await;
        assert_eq!(answer.request.options["num_ctx"], 8192);
        assert!(answer.say("well").await && answer.end().await);
        end_of(turn).await;
    }
    house.servers[0].is_now(Mood::Fails(ModelError::Cut));
    let turn = house.send(0).await;
    let answer = house.servers[1].called().await;
    assert_eq!((answer.request.options["num_ctx"].as_u64(), answer.request.messages.len()), (Some(1024), 6));
    assert!(answer.say("well").await && answer.end().await);
    let turn = end_of(turn).await;
    assert_eq!((turn.model.as_str(), turn.context.num_ctx, turn.context.trimmed_messages), ("b", 1024, 1));
    assert!(turn.context.used <= 924, "{:?}", turn.context);

    let long = house.try_send(0, &"word ".repeat(1200)).await.unwrap();
    let turn = end_of(long).await;
    let problem = turn.error.unwrap();
    assert_eq!((turn.state, problem.code), (TurnState::Failed, Code::PromptTooLong));
    assert_eq!(problem.context.unwrap().num_ctx, 1024);
}

/// An image of so many bytes of base64, as far as anybody looks.
fn photo(bytes: usize) -> Arc<str> {
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x01\0\0\0\x01\x08\x02\0\0\0".to_vec();
    png.resize(bytes / 4 * 3, 0);
    STANDARD.encode(png).into()
}

#[tokio::test(start_paused = true)]
async fn an_image_of_many_bytes_pushes_nothing_out_of_a_prompt_that_has_room() {
    let house = House::new(&[&[MODEL]], limits(512)).await;
    patched(&house, 0, json!({"context": {"overflow": "refuse"}})).await;
    for (said, images) in
        [("hello", vec![]), ("look", vec![photo(75_000)]), ("and?", vec![]), ("well?", vec![])]
    {
        let send = SendMessage { images, ..SendMessage::text(bot(0), said) };
        let Sent::Turn(turn) = house.tree.send(send).await.unwrap() else { unreachable!("no command") };
        house.answers(0).await;
        let turn = end_of(turn).await;
        assert_eq!((turn.state, turn.context.trimmed_messages), (TurnState::Completed, 0), "{said}");
    }
    let turn = house.send(0).await;
    let answer = house.servers[0].called().await;
    let images: Vec<_> = answer.request.messages.iter().map(|m| m.images.len()).collect();
    assert_eq!(images, [0, 0, 1, 0, 0, 0, 0, 0, 0]);
    assert!(answer.say("well").await && answer.end().await);
    end_of(turn).await;
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_waits_for_a_slot_tells_the_estimate_of_its_prompt() {
    let house = House::new(&[&[MODEL]], limits(512)).await;
    let turn = house.send(0).await;
    house.answers(0).await;
    end_of(turn).await;
    let first = house.send(1).await;
    let waits = house.send(0).await;
    assert_eq!((first.turn.state, waits.turn.state), (TurnState::Generating, TurnState::Queued));
    assert!(waits.turn.context.used > first.turn.context.used, "what was said before counts");
    let behind = house.send(0).await;
    assert_eq!((behind.turn.context.used, behind.turn.context.num_ctx), (0, 4096), "not said yet");
    for turn in [first, waits, behind] {
        let told = turn.turn.context.used;
        house.answers(0).await;
        let used = end_of(turn).await.context.used;
        assert!(used == told || told == 0, "{told} and {used}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_finds_every_prompt_too_long_is_asked_until_nothing_is_left_to_leave_out() {
    let house = House::new(&[&[MODEL]], limits(512)).await;
    let tool = json!({"type": "function", "function": {"name": "open_door"}});
    let options = json!({"num_ctx": 1024, "num_predict": 40});
    patched(&house, 0, json!({"options": options, "tools": [tool]})).await;
    patched(&house, 1, json!({"options": options})).await;
    patched(&house, 2, json!({"options": options, "context": {"overflow": "refuse"}})).await;
    for n in [0, 0, 0, 1, 1, 1, 2] {
        let turn = house.send(n).await;
        house.answers(0).await;
        end_of(turn).await;
    }
    house.servers[0].is_now(Mood::Fails(ModelError::ContextExceeded("too long".into())));
    for n in 0..3 {
        let before = house.asked()[0];
        let turn = end_of(house.send(n).await).await;
        let problem = turn.error.unwrap();
        assert_eq!(problem.code, Code::PromptTooLong);
        let limits = problem.context.unwrap();
        assert_eq!((limits.num_ctx, limits.needed, limits.reply_budget), (1024, Some(1025), Some(40)));
        let (asked, trims) = (house.asked()[0] - before, n < 2);
        assert!(asked <= MAX_ATTEMPTS && (asked > 1) == trims, "bot {n}: {asked}");
        assert_eq!(turn.context.trimmed_messages, if trims { 6 } else { 0 });
    }
}
