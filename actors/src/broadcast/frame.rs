//! How events are written: the members of the envelope behind the socket's `type`. Written by hand
//! around ready-made JSON, because this is done for every token and every topic.

use std::{fmt::Write, sync::Arc};

use bytes::Bytes;

use super::reader::{Delivery, DeliveryKind, FRAME_PREFIX};
use crate::{
    domain::{
        event::{CommittedEvent, QueueMoved, Topic},
        ids::{Epoch, MessageId, TurnId},
        time::Timestamp,
    },
    ports::chat_model::PieceKind,
};

/// Appends `text` as a JSON string.
fn push_json_string(out: &mut String, text: &str) {
    // Serialising a str cannot fail; an empty string would keep the frame well-formed all the same.
    out.push_str(&serde_json::to_string(text).unwrap_or_else(|_| "\"\"".into()));
}

/// A durable event, for all readers of one topic.
pub(crate) fn durable(topic: &Arc<Topic>, epoch: Epoch, seq: u64, event: &Arc<CommittedEvent>) -> Delivery {
    let mut frame = String::with_capacity(event.data.len() + 256);
    // Writing to a String cannot fail. Topics, names and ids have no character that JSON escapes.
    let _ = write!(
        frame,
        "{FRAME_PREFIX}\"topic\":\"{topic}\",\"epoch\":\"{epoch}\",\"seq\":{seq},\"id\":\"{}\",\"event\":\"{}\",\"time\":\"{}\",\"data\":{}}}",
        event.id, event.name, event.time, event.data
    );
    Delivery {
        topic: topic.clone(),
        epoch,
        seq,
        name: event.name.clone(),
        kind: DeliveryKind::Durable(event.clone()),
        frame: frame.into(),
    }
}

/// A new place in the line, for all readers of one topic.
pub(crate) fn queue_moved(topic: &Arc<Topic>, epoch: Epoch, seq: u64, moved: &QueueMoved) -> Delivery {
    let data = serde_json::to_string(moved).unwrap_or_else(|_| "{}".into());
    let now = Timestamp::now();
    let frame = format!(
        "{FRAME_PREFIX}\"topic\":\"{topic}\",\"epoch\":\"{epoch}\",\"seq\":{seq},\"id\":null,\"event\":\"queue_moved\",\"time\":\"{now}\",\"data\":{data}}}"
    );
    Delivery {
        topic: topic.clone(),
        epoch,
        seq,
        name: Arc::from("queue_moved"),
        kind: DeliveryKind::QueueMoved,
        frame: frame.into(),
    }
}

/// What all token frames of one reply on one topic have in common.
#[derive(Debug)]
pub(crate) struct TokenFrames {
    topic: Arc<Topic>,
    epoch: Epoch,
    turn_id: TurnId,
    message_id: MessageId,
    name: Arc<str>,
    head: String,
    middle: String,
}

impl TokenFrames {
    pub fn new(topic: Arc<Topic>, epoch: Epoch, turn_id: TurnId, message_id: MessageId) -> Self {
        let head = format!("{FRAME_PREFIX}\"topic\":\"{topic}\",\"epoch\":\"{epoch}\",\"seq\":");
        let middle =
            format!("\",\"data\":{{\"turn_id\":\"{turn_id}\",\"message_id\":\"{message_id}\",\"kind\":\"");
        Self { topic, epoch, turn_id, message_id, name: Arc::from("token"), head, middle }
    }

    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    pub fn turn_id(&self) -> TurnId {
        self.turn_id
    }

    pub fn message_id(&self) -> MessageId {
        self.message_id
    }

    pub fn encode(&self, seq: u64, kind: PieceKind, offset: usize, text: &str) -> Bytes {
        let mut frame = String::with_capacity(self.head.len() + self.middle.len() + text.len() + 128);
        let kind = match kind {
            PieceKind::Content => "content",
            PieceKind::Thinking => "thinking",
        };
        let now = Timestamp::now();
        let _ = write!(
            frame,
            "{}{seq},\"id\":null,\"event\":\"token\",\"time\":\"{now}{}{kind}\",\"offset\":{offset},\"text\":",
            self.head, self.middle
        );
        push_json_string(&mut frame, text);
        frame.push_str("}}");
        frame.into()
    }

    pub fn delivery(&self, seq: u64, kind: PieceKind, end: usize, frame: Bytes) -> Delivery {
        Delivery {
            topic: self.topic.clone(),
            epoch: self.epoch,
            seq,
            name: self.name.clone(),
            kind: DeliveryKind::Token { turn_id: self.turn_id, message_id: self.message_id, kind, end },
            frame,
        }
    }
}
