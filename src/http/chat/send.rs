//! Sending a message, in its three forms: wait for the answer, stream it, or only be told that it is stored.

use std::{sync::Arc, time::Duration};

use deia_actors::{
    controller::requests::{AcceptedTurn, Class, SendMessage, Sent},
    domain::{
        bot::Options,
        event::TurnEnd,
        idempotency::{IdempotencyKey, InvalidKey},
        ids::{BotId, ConversationId, MessageId},
        message::Message,
        problem::{Code, FieldError, Problem},
        turn::{Turn, TurnState},
    },
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::time::timeout;

use crate::http::{
    Api,
    accept::{Form, form},
    bots::refuse_nul,
    decode::{check, from_map, nullable},
    problem::{Answer, json, json_with, respond},
    query::Params,
    render, sse,
};

/// Free data with one message, in bytes of JSON.
const METADATA_MAX_BYTES: usize = 16 * 1024;
/// The key that makes a request safe to repeat.
const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Tells that a request of the same key was carried out before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// For the stored turn, when the process ends: within the time that the server leaves for goodbyes.
const LAST_LOOK: Duration = Duration::from_millis(500);

/// The body of a send, and the fields of a socket's `send`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct SendBody {
    bot_id: BotId,
    content: Arc<str>,
    conversation_id: Option<ConversationId>,
    #[serde(default, deserialize_with = "nullable")]
    parent_id: Option<Option<MessageId>>,
    #[serde(default)]
    images: Option<Vec<Arc<str>>>,
    options: Option<Map<String, Value>>,
    think: Option<Value>,
    format: Option<Value>,
    metadata: Option<Map<String, Value>>,
}

impl SendBody {
    /// The message, once its JSON is what it should be. What a message may say is the façade's matter.
    pub(in crate::http) fn message(self) -> Result<SendMessage, Problem> {
        let mut errors = vec![];
        let mut wrong = |field: &str, reason: String| errors.push(FieldError { field: field.into(), reason });
        if self.metadata.as_ref().is_some_and(|m| json_len(m) > METADATA_MAX_BYTES) {
            wrong("metadata", format!("at most {METADATA_MAX_BYTES} bytes as JSON"));
        }
        check(errors)?;
        refuse_nul(self.metadata.as_ref())?;
        let options = self.options.map(|map| from_map::<Options>(&map, "options")).transpose()?;
        Ok(SendMessage {
            bot_id: self.bot_id,
            content: self.content,
            conversation_id: self.conversation_id,
            parent_id: self.parent_id,
            images: self.images.unwrap_or_default(),
            options,
            think: self.think,
            format: self.format,
            metadata: self.metadata.unwrap_or_default(),
            class: Class::Api,
            idempotency_key: None,
        })
    }
}

fn json_len(map: &Map<String, Value>) -> usize {
    serde_json::to_string(map).map_or(usize::MAX, |json| json.len())
}

pub(in crate::http) async fn send(
    api: Api,
    headers: HeaderMap,
    query: Result<Params, Problem>,
    body: Result<SendBody, Problem>,
) -> Answer {
    let mut query = query?;
    let waits = query.flag("wait")?.unwrap_or(true);
    let html = query.html()?;
    query.end()?;
    let form = form(&headers)?;
    if !waits && form == Form::Events {
        return Err(Problem::new(Code::NotAcceptable, "wait=false answers application/json"));
    }
    let key = idempotency_key(&headers)?;
    let message = SendMessage { idempotency_key: key, ..body?.message()? };
    if form == Form::Events {
        let (sent, reader) = api.controller.send_streaming(message).await?;
        let replayed = sent.replayed();
        let answer = match (sent, reader) {
            (Sent::Turn(accepted), Some(reader)) => Ok(sse::follow(&api, accepted.turn.id, reader, html)),
            (Sent::Turn(accepted), None) => sse::turn(&api, accepted.turn.id, None, html).await,
            (Sent::Command { message, reply, .. }, _) => command(&message, &reply, html).await,
        };
        return mark(answer, replayed);
    }
    let sent = api.controller.send(message).await?;
    let replayed = sent.replayed();
    mark(answer(&api, sent, waits, html).await, replayed)
}

/// The key of a request, if it has one.
pub(in crate::http) fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Problem> {
    let mut given = headers.get_all(KEY).iter();
    let Some(first) = given.next() else { return Ok(None) };
    if given.next().is_some() {
        return Err(Problem::field("Idempotency-Key", "must not be given more than once"));
    }
    let key = first.to_str().map_err(|_| InvalidKey).and_then(IdempotencyKey::parse);
    key.map(Some).map_err(|rule| Problem::field("Idempotency-Key", rule.to_string()))
}

/// Says so where the answer, be it a problem, is that of an earlier request.
pub(in crate::http) fn mark(answer: Answer, replayed: bool) -> Answer {
    if !replayed {
        return answer;
    }
    let mut response = respond(answer);
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    Ok(response)
}

async fn answer(api: &Api, sent: Sent, waits: bool, html: bool) -> Answer {
    match sent {
        Sent::Command { message, reply, .. } => command(&message, &reply, html).await,
        Sent::Turn(accepted) if !waits => accept(&accepted, html).await,
        Sent::Turn(accepted) => {
            let (turn, message) = (accepted.turn.clone(), accepted.message.clone());
            let end = tokio::select! {
                biased;
                end = accepted.ended() => end,
                () = api.closing.cancelled() => None,
            };
            match end {
                Some(end) => finish(&message, &end, html).await,
                None => Err(unfinished(api, turn).await),
            }
        }
    }
}

/// The process ends before the turn does: the client still hears that its message is stored, and where.
async fn unfinished(api: &Api, accepted: Turn) -> Problem {
    let stored = timeout(LAST_LOOK, api.controller.turn(accepted.id)).await;
    let turn = stored.ok().and_then(Result::ok).unwrap_or(accepted);
    let detail = "the service ended before the answer did; the message is stored, do not send it again";
    Problem { turn: Some(Box::new(turn)), ..Problem::new(Code::ShuttingDown, detail) }
}

/// What is known after a message was taken.
#[derive(Serialize)]
struct Answered<'a> {
    turn: Option<&'a Turn>,
    message: &'a Message,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply: Option<Option<&'a Message>>,
}

pub(in crate::http) async fn accept(accepted: &AcceptedTurn, html: bool) -> Answer {
    let answer = Answered { turn: Some(&accepted.turn), message: &accepted.message, reply: None };
    write(StatusCode::ACCEPTED, &answer, html).await
}

async fn command(message: &Message, reply: &Message, html: bool) -> Answer {
    write(StatusCode::OK, &Answered { turn: None, message, reply: Some(Some(reply)) }, html).await
}

async fn finish(message: &Message, end: &TurnEnd, html: bool) -> Answer {
    if let Some(problem) = failure(&end.turn) {
        return Err(problem);
    }
    let answer = Answered { turn: Some(&end.turn), message, reply: Some(end.reply.as_ref()) };
    write(StatusCode::OK, &answer, html).await
}

/// The problem that a turn ended with, with the turn; none where it has an answer.
fn failure(turn: &Turn) -> Option<Problem> {
    let code = match turn.state {
        TurnState::Failed => Code::UpstreamError,
        TurnState::Interrupted => Code::TurnInterrupted,
        TurnState::Accepted
        | TurnState::Queued
        | TurnState::Generating
        | TurnState::Completed
        | TurnState::Stopped => return None,
    };
    let problem =
        turn.error.clone().unwrap_or_else(|| Problem::new(code, "the turn ended without an answer"));
    Some(Problem { turn: Some(Box::new(turn.clone())), ..problem })
}

async fn write(status: StatusCode, answer: &Answered<'_>, html: bool) -> Answer {
    if !html {
        return json_with(status, answer);
    }
    let text = answer.message.content.len() + answer.reply.flatten().map_or(0, |r| r.content.len());
    let mut value = serde_json::to_value(answer).unwrap_or_default();
    let value = render::aside(text, move || {
        render::add_html(&mut value["message"]);
        if value.get("reply").is_some() {
            render::add_html(&mut value["reply"]);
        }
        value
    })
    .await;
    let mut response = json(&value)?;
    *response.status_mut() = status;
    Ok(response)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;
    use crate::http::decode::from_json;

    fn read(body: Value) -> Result<SendMessage, Problem> {
        from_json::<SendBody>(body.to_string().as_bytes())?.message()
    }

    fn refused(body: Value) -> Vec<String> {
        read(body).unwrap_err().errors.into_iter().map(|e| e.field).collect()
    }

    #[test]
    fn the_exact_text_is_kept() {
        let text = "  é\r\n\u{1F600} \u{FEFF}";
        assert_eq!(&*read(json!({"bot_id": "A", "content": text})).unwrap().content, text);
    }

    #[test]
    fn absent_and_null_parents_differ() {
        assert_eq!(read(json!({"bot_id": "A", "content": "x"})).unwrap().parent_id, None);
        assert_eq!(
            read(json!({"bot_id": "A", "content": "x", "parent_id": null})).unwrap().parent_id,
            Some(None)
        );
        assert_eq!(refused(json!({"bot_id": "A", "content": "x", "parent_id": "7"})), ["parent_id"]);
    }

    #[test]
    fn a_wrong_field_is_named() {
        let fields = refused(json!({
            "bot_id": "A", "content": "x", "metadata": {"a": "x".repeat(20_000)}
        }));
        assert_eq!(fields, ["metadata"]);
        assert_eq!(refused(json!({"bot_id": "A", "content": "x", "metadata": {"a": "\u{0}"}})), ["metadata"]);
        assert_eq!(refused(json!({"bot_id": "A", "content": "x", "options": {"topk": 1}})), ["options.topk"]);
        assert_eq!(refused(json!({"bot_id": "A", "content": "x", "options": [1]})), ["options"]);
    }
}
