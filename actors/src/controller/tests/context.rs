//! What the prompts of a turn hold where another model answers it, and what is learnt of one that is refused.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::servers::{House, MODEL, bot, end_of, limits};
use crate::{
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
async fn a_refused_prompt_teaches_of_the_model_only_where_it_was_nothing_but_text() {
    let house = House::new(&[&[MODEL]], limits(512)).await;
    let tool = json!({"type": "function", "function": {"name": "open_door"}});
    patched(&house, 0, json!({"tools": [tool]})).await;
    house.servers[0].is_now(Mood::Fails(ModelError::ContextExceeded("too long".into())));
    let known = || house.tree.inner.inference.estimator(MODEL);
    let before = known();
    for (n, learnt) in [(0, false), (1, true)] {
        let turn = end_of(house.send(n).await).await;
        assert_eq!(turn.error.unwrap().code, Code::PromptTooLong);
        assert_eq!(known() != before, learnt, "bot {n}");
    }
}
