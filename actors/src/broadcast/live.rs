//! A reply while it is being written: the one place where its text is. The turn's task appends,
//! readers attach, whoever ends the turn seals it; after that nothing can be added, so what
//! readers saw is exactly what is stored.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::{frame::TokenFrames, hub::Hub, reader::Queue};
use crate::{
    controller::requests::{RunningReply, TextFrom, TextOffsets},
    domain::{
        event::TurnEnd,
        ids::{BotId, MessageId, TurnId},
        turn::Turn,
    },
    ports::chat_model::{Piece, PieceKind},
};

#[derive(Debug, Default)]
struct Text {
    content: String,
    thinking: String,
    sealed: bool,
}

/// The text of a reply so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplyText {
    /// The answer.
    pub content: String,
    /// Thinking aloud.
    pub thinking: String,
}

/// A reply that is being written.
#[derive(Debug)]
pub(crate) struct LiveReply {
    bot_id: BotId,
    turn_id: TurnId,
    message_id: MessageId,
    /// Hubs that carry it, each with its ready-made frames.
    hubs: [(Arc<Hub>, Arc<TokenFrames>); 2],
    text: Mutex<Text>,
    turn: Mutex<Option<Arc<Mutex<Turn>>>>,
    end: OnceLock<TurnEnd>,
}

impl LiveReply {
    pub fn new(bot_id: BotId, turn_id: TurnId, message_id: MessageId, hubs: [Arc<Hub>; 2]) -> Self {
        let hubs = hubs.map(|hub| {
            let frames = TokenFrames::new(hub.topic().clone(), hub.epoch(), turn_id, message_id);
            (hub, Arc::new(frames))
        });
        Self {
            bot_id,
            turn_id,
            message_id,
            hubs,
            text: Mutex::default(),
            turn: Mutex::default(),
            end: OnceLock::new(),
        }
    }

    pub fn bot_id(&self) -> &BotId {
        &self.bot_id
    }

    pub fn turn_id(&self) -> TurnId {
        self.turn_id
    }

    pub fn message_id(&self) -> MessageId {
        self.message_id
    }

    /// The turn is stored, and this is how its task knows it.
    pub fn stands(&self, turn: Arc<Mutex<Turn>>) {
        *self.turn.lock() = Some(turn);
    }

    /// The turn as its task knows it, which may be more than is stored; none before its acceptance is.
    pub fn turn(&self) -> Option<Turn> {
        let turn = self.turn.lock().clone()?;
        let turn = turn.lock().clone();
        Some(turn)
    }

    pub fn hubs(&self) -> impl Iterator<Item = &Arc<Hub>> {
        self.hubs.iter().map(|(hub, _)| hub)
    }

    /// Appends and publishes; false once sealed.
    pub fn append(&self, pieces: &[Piece]) -> bool {
        let mut text = self.text.lock();
        if text.sealed {
            return false;
        }
        for piece in pieces {
            let kind = match piece.kind {
                PieceKind::Content => &mut text.content,
                PieceKind::Thinking => &mut text.thinking,
            };
            let offset = kind.len();
            kind.push_str(&piece.text);
            for (hub, frames) in &self.hubs {
                hub.publish_text(frames, piece, offset);
            }
        }
        true
    }

    /// The text so far, without ending it.
    pub fn text(&self) -> ReplyText {
        let text = self.text.lock();
        ReplyText { content: text.content.clone(), thinking: text.thinking.clone() }
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        let text = self.text.lock();
        text.content.len() + text.thinking.len()
    }

    /// Ends it: nothing can be appended any more. Always answers with the whole text.
    pub fn seal(&self) -> ReplyText {
        let mut text = self.text.lock();
        text.sealed = true;
        ReplyText { content: text.content.clone(), thinking: text.thinking.clone() }
    }

    /// Whether it has ended.
    pub fn is_sealed(&self) -> bool {
        self.text.lock().sealed
    }

    /// How the turn ends is known, though not stored yet: whoever finds the turn open stores this end and no other.
    pub fn decide(&self, end: TurnEnd) {
        // A second decision changes nothing: the first may have been told already.
        let _ = self.end.set(end);
    }

    /// How the turn ends, once that is decided.
    pub fn decided(&self) -> Option<&TurnEnd> {
        self.end.get()
    }

    /// The text from the offsets on, for a reader that was just attached to `hub`: what already waits
    /// in its queue is part of it and is taken out there.
    pub fn catch_up(&self, hub: &Hub, reader: &Queue, from: TextOffsets) -> RunningReply {
        let text = self.text.lock();
        reader.forget_text(hub.topic(), self.message_id);
        let tail = |whole: &str, offset: usize| match whole.get(offset..) {
            Some(tail) => TextFrom { offset, text: tail.to_owned() },
            None => TextFrom { offset: 0, text: whole.to_owned() },
        };
        RunningReply {
            turn_id: self.turn_id,
            message_id: self.message_id,
            content: tail(&text.content, from.content),
            thinking: tail(&text.thinking, from.thinking),
        }
    }
}
