//! Frames of the socket as values: what a client may say, and what it is told.

use deia_actors::{
    controller::requests::{Class, ResumeFrom, SendMessage, Subscribed, TextOffsets},
    domain::{
        event::Topic,
        idempotency::{IdempotencyKey, InvalidKey},
        ids::{Epoch, MessageId, TurnId},
        problem::{Code, Problem},
    },
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use uuid::Uuid;

use crate::http::{
    chat::send::SendBody,
    decode::{from_object, from_object_beside, unknown},
    render,
};

/// Largest frame that is taken.
pub(super) const FRAME_MAX_BYTES: usize = 64 * 1024;
/// Longest reference, in bytes.
const REF_MAX_BYTES: usize = 128;
/// What a send has besides the fields of its HTTP body, where it is a header.
const KEY: &str = "idempotency_key";
const TYPES: [&str; 5] = ["subscribe", "unsubscribe", "send", "stop", "ping"];

/// A client's name for a request: a short text or a number, given back with the answer.
pub(super) type Ref = Value;

/// What a client says.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "one at a time, taken apart at once")]
pub(super) enum ClientFrame {
    Subscribe { reference: Ref, topic: Topic, after: Option<ResumeFrom>, html: bool },
    Unsubscribe { reference: Ref, topic: Topic },
    Send { reference: Ref, message: SendMessage },
    Stop { reference: Ref, turn_id: TurnId },
    Ping { reference: Option<Ref> },
}

/// A frame that was not understood.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) reference: Option<Ref>,
    pub(super) problem: Problem,
}

impl Refused {
    /// Frames that are none: too many of them end the socket. A wrong field of a known frame does not count.
    pub(super) fn counts(&self) -> bool {
        self.problem.code == Code::InvalidFrame
    }
    pub(super) fn frame(reason: impl Into<String>) -> Self {
        Self { reference: None, problem: Problem::new(Code::InvalidFrame, reason) }
    }
}

/// Reads a text frame.
pub(super) fn read(text: &str) -> Result<ClientFrame, Box<Refused>> {
    if text.len() > FRAME_MAX_BYTES {
        return Err(Box::new(too_long()));
    }
    let mut object: Map<String, Value> = serde_json::from_str(text)
        .map_err(|error| Refused::frame(format!("a frame must be one JSON object: {error}")))?;
    let reference = object.remove("ref").filter(|r| !r.is_null());
    let kind = object.remove("type");
    let usable = reference.clone().filter(is_ref);
    let refused = |problem| Box::new(Refused { reference: usable.clone(), problem });
    if reference.is_some() && usable.is_none() {
        let rule = format!("must be a text of at most {REF_MAX_BYTES} bytes, or a number");
        return Err(refused(Problem::field("ref", rule)));
    }
    let Some(kind) = kind.as_ref().and_then(Value::as_str) else {
        return Err(refused(Problem::new(Code::InvalidFrame, "type is missing or not a text")));
    };
    if !TYPES.contains(&kind) {
        let reason = format!("type {} {}", shortened(kind), unknown(kind, &TYPES));
        return Err(refused(Problem::new(Code::InvalidFrame, reason)));
    }
    if kind == "ping" {
        return from_object::<Nothing>(object)
            .map(|Nothing {}| ClientFrame::Ping { reference: usable.clone() })
            .map_err(refused);
    }
    let reference = usable.clone().ok_or_else(|| refused(Problem::field("ref", "is missing")))?;
    known(kind, object, reference).map_err(refused)
}

fn known(kind: &str, object: Map<String, Value>, reference: Ref) -> Result<ClientFrame, Problem> {
    Ok(match kind {
        "subscribe" => {
            let Subscribe { topic, after, render } = from_object(object)?;
            let after = after.filter(|a| !a.is_null()).map(resume);
            ClientFrame::Subscribe { reference, topic: topic.parse()?, after, html: render.is_some() }
        }
        "unsubscribe" => {
            let Unsubscribe { topic } = from_object(object)?;
            ClientFrame::Unsubscribe { reference, topic: topic.parse()? }
        }
        "send" => {
            let mut object = object;
            let key = object.remove(KEY).filter(|key| !key.is_null());
            let idempotency_key = key.map(idempotency_key).transpose()?;
            let message = from_object_beside::<SendBody>(object, &[KEY])?.message()?;
            // Whoever keeps a socket open sits in front of it.
            let class = Class::Interactive;
            ClientFrame::Send { reference, message: SendMessage { idempotency_key, class, ..message } }
        }
        _ => {
            let Stop { turn_id } = from_object(object)?;
            ClientFrame::Stop { reference, turn_id }
        }
    })
}

fn idempotency_key(key: Value) -> Result<IdempotencyKey, Problem> {
    let parsed = key.as_str().ok_or(InvalidKey).and_then(IdempotencyKey::parse);
    parsed.map_err(|rule| Problem::field(KEY, rule.to_string()))
}

fn is_ref(value: &Value) -> bool {
    match value {
        Value::String(text) => text.len() <= REF_MAX_BYTES,
        Value::Number(_) => true,
        _ => false,
    }
}

fn shortened(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(40).collect()
}

pub(super) fn too_long() -> Refused {
    Refused::frame(format!("a frame may have at most {FRAME_MAX_BYTES} bytes"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Subscribe {
    topic: String,
    after: Option<Value>,
    render: Option<Rendering>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Rendering {
    Html,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unsubscribe {
    topic: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stop {
    turn_id: TurnId,
}

#[derive(Deserialize)]
struct After {
    epoch: Epoch,
    seq: u64,
    #[serde(default)]
    offsets: HashMap<MessageId, TextOffsets>,
}

/// Where the reader stopped. Nonsense is a place that nobody can resume from, not an error: the reader gets a snapshot.
fn resume(after: Value) -> ResumeFrom {
    match serde_json::from_value::<After>(after) {
        Ok(After { epoch, seq, offsets }) => ResumeFrom { epoch: Some(epoch), seq, offsets },
        Err(_) => ResumeFrom { epoch: Some(Epoch(Uuid::nil())), seq: u64::MAX, offsets: HashMap::new() },
    }
}

/// An `ok` frame with the fields of `more`.
pub(super) fn ok(reference: &Ref, more: Value) -> String {
    let mut frame = json!({ "type": "ok", "ref": reference });
    if let (Some(frame), Value::Object(more)) = (frame.as_object_mut(), more) {
        frame.extend(more);
    }
    frame.to_string()
}

pub(super) fn error(reference: Option<&Ref>, problem: &Problem) -> String {
    let mut frame = json!({ "type": "error", "problem": problem });
    if let Some(reference) = reference {
        frame["ref"] = reference.clone();
    }
    frame.to_string()
}

pub(super) fn pong(reference: Option<&Ref>) -> String {
    match reference {
        Some(reference) => json!({ "type": "pong", "ref": reference }).to_string(),
        None => r#"{"type":"pong"}"#.into(),
    }
}

/// Told before the server closes. Codes from 4500 on mean: do not come back.
pub(super) fn closing(code: u16, reason: &str) -> String {
    json!({ "type": "closing", "code": code, "reconnect": code < 4500, "reason": reason }).to_string()
}

/// A `subscribed` frame; with HTML in the messages of its snapshot if `html`.
pub(super) async fn subscribed(reference: Ref, topic: Topic, state: Subscribed, html: bool) -> String {
    let make = move || {
        let mut frame = json!(state);
        frame["type"] = "subscribed".into();
        frame["ref"] = reference;
        frame["topic"] = json!(topic);
        if html {
            if let Some(messages) = frame.pointer_mut("/snapshot/messages") {
                render::add_html_to_all(messages);
            }
            if let Some(reply) = frame.pointer_mut("/snapshot/reply") {
                render::add_html(reply);
            }
        }
        frame.to_string()
    };
    // How much text there is is not known before it is written; a snapshot of messages is worth a thread.
    if html { render::aside(usize::MAX, make).await } else { make() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use deia_actors::domain::ids::BotId;
    use proptest::prelude::*;

    use super::*;

    fn refused(text: &str) -> (Code, Option<Ref>, bool) {
        let refused = read(text).unwrap_err();
        (refused.problem.code, refused.reference.clone(), refused.counts())
    }

    #[test]
    fn known_frames_are_read() {
        let bot = Topic::Bot(BotId::parse("A").unwrap());
        match read(r#"{"type":"subscribe","ref":"1","topic":"bot:A","render":"html"}"#).unwrap() {
            ClientFrame::Subscribe { reference, topic, after, html } => {
                assert_eq!((reference, topic, after.is_none(), html), ("1".into(), bot, true, true));
            }
            other => panic!("{other:?}"),
        }
        let send = read(r#"{"type":"send","ref":7,"bot_id":"A","content":"hi"}"#).unwrap();
        assert!(matches!(send, ClientFrame::Send { message, .. } if &*message.content == "hi"));
        assert!(matches!(read(r#"{"type":"ping"}"#).unwrap(), ClientFrame::Ping { reference: None }));
        let stop = format!(r#"{{"type":"stop","ref":"s","turn_id":"{}"}}"#, TurnId::new());
        assert!(matches!(read(&stop).unwrap(), ClientFrame::Stop { .. }));
    }

    #[test]
    fn the_key_of_a_send_is_among_the_fields_that_are_known() {
        for (name, reason) in
            [("key", ", idempotency_key"), ("idempotency_ke", "did you mean idempotency_key?")]
        {
            let send = format!(r#"{{"type":"send","ref":7,"bot_id":"A","content":"hi","{name}":"k"}}"#);
            let problem = read(&send).unwrap_err().problem;
            assert_eq!(problem.errors[0].field, name);
            assert!(problem.errors[0].reason.ends_with(reason), "{problem}");
        }
    }

    #[test]
    fn what_is_no_frame_counts_against_the_socket() {
        for bad in ["", "nope", "[]", "{}", r#"{"type":5}"#, r#"{"type":"auth","ref":"1","token":"x"}"#] {
            let (code, _, counts) = refused(bad);
            assert_eq!((code, counts), (Code::InvalidFrame, true), "{bad}");
        }
        assert_eq!(refused(&format!("\"{}\"", "x".repeat(FRAME_MAX_BYTES))).0, Code::InvalidFrame);
        let near = read(r#"{"type":"subscrib","ref":"9"}"#).unwrap_err();
        assert!(near.problem.detail.contains("did you mean subscribe?"), "{}", near.problem.detail);
        assert_eq!(near.reference, Some("9".into()));
    }

    #[test]
    fn a_wrong_field_of_a_known_frame_is_named_and_does_not_count() {
        for (bad, code, field) in [
            (r#"{"type":"send","ref":1,"bot_id":"A","content":7}"#, Code::InvalidRequest, "content"),
            (r#"{"type":"send","ref":1,"bot_id":"A","conten":"x"}"#, Code::InvalidRequest, "conten"),
            (r#"{"type":"send","bot_id":"A","content":"x"}"#, Code::InvalidRequest, "ref"),
            (r#"{"type":"stop","ref":1,"turn_id":"x"}"#, Code::InvalidRequest, "turn_id"),
            (r#"{"type":"subscribe","ref":{},"topic":"bots"}"#, Code::InvalidRequest, "ref"),
            (r#"{"type":"subscribe","ref":1,"topic":"bots","render":"pdf"}"#, Code::InvalidRequest, "render"),
        ] {
            let refused = read(bad).unwrap_err();
            assert_eq!(refused.problem.code, code, "{bad}");
            assert_eq!(refused.problem.errors[0].field, field, "{bad}");
            assert!(!refused.counts(), "{bad}");
        }
        let topic = refused(r#"{"type":"subscribe","ref":1,"topic":"nope:1"}"#);
        assert_eq!(topic, (Code::TopicNotFound, Some(1.into()), false));
    }

    #[test]
    fn a_place_that_is_nonsense_is_no_error() {
        for after in [r#"{"seq":-1}"#, r#""x""#, r#"{"epoch":"e","seq":1}"#, "7"] {
            let text = format!(r#"{{"type":"subscribe","ref":1,"topic":"bots","after":{after}}}"#);
            match read(&text).unwrap() {
                ClientFrame::Subscribe { after: Some(after), .. } => assert_eq!(after.seq, u64::MAX),
                other => panic!("{other:?}"),
            }
        }
        let null = read(r#"{"type":"subscribe","ref":1,"topic":"bots","after":null}"#).unwrap();
        assert!(matches!(null, ClientFrame::Subscribe { after: None, .. }));
    }

    #[tokio::test]
    async fn answers_have_the_agreed_form() {
        let frame: Value = serde_json::from_str(&ok(&"a".into(), json!({ "turn": null }))).unwrap();
        assert_eq!(frame, json!({"type": "ok", "ref": "a", "turn": null}));
        assert_eq!(pong(None), r#"{"type":"pong"}"#);
        let frame: Value = serde_json::from_str(&closing(4008, "slow")).unwrap();
        assert_eq!(frame, json!({"type": "closing", "code": 4008, "reconnect": true, "reason": "slow"}));
        assert!(closing(4500, "x").contains("\"reconnect\":false"));
        let state =
            Subscribed { epoch: Epoch::new(), seq: 4, recovered: Some(true), running: None, snapshot: None };
        let frame = subscribed("r".into(), Topic::Bots, state, false).await;
        let frame: Value = serde_json::from_str(&frame).unwrap();
        assert_eq!(
            (&frame["type"], &frame["seq"], &frame["topic"]),
            (&json!("subscribed"), &json!(4), &json!("bots"))
        );
        assert!(frame.get("snapshot").is_none() && frame.get("running").is_none());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "(\\{|\\}|\"|:|,|type|ref|send|subscribe|topic|bots|after|1|null|\\PC){0,40}") {
            let _ = read(&text);
        }
    }
}
