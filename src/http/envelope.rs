//! Events as JSON where the shared frame does not serve: with HTML in their messages, or made for one reader.

use deia_actors::{
    broadcast::reader::{Delivery, DeliveryKind},
    controller::requests::RunningReply,
    domain::{
        event::{CommittedEvent, Token, Topic},
        ids::{Epoch, EventId},
        time::Timestamp,
        turn::{Turn, TurnState},
    },
    ports::chat_model::PieceKind,
};
use serde::Serialize;
use serde_json::Value;

use super::render;

/// The one envelope of all events.
#[derive(Debug, Serialize)]
pub(super) struct Envelope<'a, D> {
    pub(super) topic: &'a Topic,
    pub(super) epoch: Epoch,
    pub(super) seq: u64,
    pub(super) id: EventId,
    pub(super) event: &'a str,
    pub(super) time: Timestamp,
    pub(super) data: D,
}

impl<D: Serialize> Envelope<'_, D> {
    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// An event with the HTML of its messages, if it is one that carries messages.
pub(super) async fn with_html(delivery: &Delivery) -> Option<String> {
    let DeliveryKind::Durable(event) = &delivery.kind else { return None };
    let (topic, epoch, seq) = (delivery.topic.clone(), delivery.epoch, delivery.seq);
    let event = event.clone();
    carries_messages(&event.name).then_some(())?;
    let json = render::aside(event.data.len(), move || {
        let data = data_with_html(&event)?;
        let CommittedEvent { id, time, name, .. } = &*event;
        Some(Envelope { topic: &topic, epoch, seq, id: *id, event: name, time: *time, data }.json())
    });
    json.await
}

fn carries_messages(name: &str) -> bool {
    name == "message_received" || TERMINAL.iter().any(|(_, terminal)| *terminal == name)
}

fn data_with_html(event: &CommittedEvent) -> Option<Value> {
    let mut data: Value = serde_json::from_str(&event.data).ok()?;
    for name in ["message", "reply"] {
        if let Some(message) = data.get_mut(name) {
            render::add_html(message);
        }
    }
    Some(data)
}

const TERMINAL: [(TurnState, &str); 4] = [
    (TurnState::Completed, "turn_completed"),
    (TurnState::Stopped, "turn_stopped"),
    (TurnState::Failed, "turn_failed"),
    (TurnState::Interrupted, "turn_interrupted"),
];

/// The name of the event that a turn ended with; none while it runs.
pub(super) fn terminal_name(turn: &Turn) -> Option<&'static str> {
    TERMINAL.iter().find(|(state, _)| *state == turn.state).map(|(_, name)| *name)
}

/// The text of running replies as pieces, as if it came just now.
pub(super) fn pieces(running: &[RunningReply]) -> Vec<Token> {
    let piece = |reply: &RunningReply, kind: PieceKind| {
        let from = match kind {
            PieceKind::Content => &reply.content,
            PieceKind::Thinking => &reply.thinking,
        };
        (!from.text.is_empty()).then(|| Token {
            turn_id: reply.turn_id,
            message_id: reply.message_id,
            kind,
            offset: from.offset,
            text: from.text.clone(),
        })
    };
    running
        .iter()
        .flat_map(|r| [piece(r, PieceKind::Thinking), piece(r, PieceKind::Content)])
        .flatten()
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use deia_actors::{
        controller::requests::TextFrom,
        domain::ids::{MessageId, TurnId},
    };

    use super::*;

    fn delivery(name: &str, data: &str) -> Delivery {
        let event = CommittedEvent {
            position: 1,
            id: EventId::new(),
            time: Timestamp(0),
            name: name.into(),
            data: data.into(),
            seqs: vec![(Topic::Bots, 4)],
            ends: None,
        };
        Delivery {
            topic: Arc::new(Topic::Bots),
            epoch: Epoch::new(),
            seq: 4,
            name: name.into(),
            kind: DeliveryKind::Durable(Arc::new(event)),
            frame: bytes::Bytes::new(),
        }
    }

    #[tokio::test]
    async fn only_events_with_messages_are_made_anew_and_nothing_else_of_them_changes() {
        let data = r#"{"turn":{"x":1},"reply":{"content":"**a**","state":"complete"}}"#;
        let json = with_html(&delivery("turn_completed", data)).await.unwrap();
        let value: Value = serde_json::from_str(&json).unwrap();
        assert_eq!((value["seq"].as_u64(), value["topic"].as_str()), (Some(4), Some("bots")));
        assert_eq!(value["data"]["reply"]["html"], "<p><strong>a</strong></p>\n");
        assert_eq!(value["data"]["reply"]["content"], "**a**");
        assert_eq!(value["data"]["turn"]["x"], 1);
        assert!(with_html(&delivery("turn_started", "{}")).await.is_none());
    }

    #[test]
    fn running_text_is_given_as_pieces_from_where_the_reader_stands() {
        let reply = RunningReply {
            turn_id: TurnId::new(),
            message_id: MessageId::new(),
            content: TextFrom { offset: 3, text: "lo".into() },
            thinking: TextFrom { offset: 0, text: String::new() },
        };
        let pieces = pieces(&[reply]);
        assert_eq!(pieces.len(), 1);
        assert_eq!((pieces[0].offset, pieces[0].text.as_str()), (3, "lo"));
    }
}
