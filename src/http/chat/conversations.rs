//! Conversations of a bot.

use deia_actors::{
    controller::{
        Controller,
        requests::{NewConversation, PatchConversation},
    },
    domain::{ids::MessageId, problem::Problem},
};
use http::{HeaderValue, StatusCode, header::LOCATION};
use serde::Deserialize;
use serde_json::json;
use warp::reply::Response;

use crate::http::{
    decode::{given, nullable},
    problem::{Answer, json as answer, json_with},
    route::PathValues,
};

pub(in crate::http) async fn list(path: PathValues, chat: Controller) -> Answer {
    answer(&json!({ "items": chat.conversations(&path.bot()?).await? }))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct NewBody {
    title: Option<String>,
    from_message_id: Option<MessageId>,
}

pub(in crate::http) async fn create(
    path: PathValues,
    chat: Controller,
    body: Result<NewBody, Problem>,
) -> Answer {
    let (bot, NewBody { title, from_message_id }) = (path.bot()?, body?);
    let made = chat.new_conversation(&bot, NewConversation { title, from_message_id }).await?;
    let mut response = json_with(StatusCode::CREATED, &made)?;
    if let Ok(place) = HeaderValue::from_str(&format!("/api/chat/{bot}?conversation_id={}", made.id)) {
        response.headers_mut().insert(LOCATION, place);
    }
    Ok(response)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct PatchBody {
    #[serde(default, deserialize_with = "nullable")]
    title: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    leaf_message_id: Option<MessageId>,
    #[serde(default, deserialize_with = "given")]
    archived: Option<bool>,
    #[serde(default, deserialize_with = "given")]
    legal_hold: Option<bool>,
}

pub(in crate::http) async fn patch(
    path: PathValues,
    chat: Controller,
    body: Result<PatchBody, Problem>,
) -> Answer {
    let (bot, id, body) = (path.bot()?, path.conversation()?, body?);
    let PatchBody { title, leaf_message_id, archived, legal_hold } = body;
    let patch = PatchConversation { title, leaf_message_id, archived, legal_hold };
    answer(&chat.patch_conversation(&bot, id, patch).await?)
}

pub(in crate::http) async fn delete(path: PathValues, chat: Controller) -> Answer {
    chat.delete_conversation(&path.bot()?, path.conversation()?).await?;
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}
