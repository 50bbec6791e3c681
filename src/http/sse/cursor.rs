//! Where a reader of an event stream stands, as the opaque `id:` of each event.
//!
//! `TURN.EPOCH.SEQ`, then `.MESSAGE-CONTENT-THINKING` for each running reply (bytes so far), then `.end` after the terminal
//! event. Readers must not take it apart. The turn is in it because the numbers of every turn begin at one: a place of
//! another turn would pass for one of this.

use std::{collections::HashMap, fmt};

use deia_actors::{
    controller::requests::{ResumeFrom, TextOffsets},
    domain::ids::{Epoch, MessageId, TurnId},
    ports::chat_model::PieceKind,
};
use uuid::Uuid;

/// Running replies that one cursor can carry.
const REPLIES_MAX: usize = 16;

/// A place among the events of a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cursor {
    turn: TurnId,
    pub(super) epoch: Epoch,
    pub(super) seq: u64,
    pub(super) offsets: Vec<(MessageId, TextOffsets)>,
    /// The terminal event was the last one.
    pub(super) ended: bool,
}

impl Cursor {
    pub(super) fn at(turn: TurnId, epoch: Epoch, seq: u64) -> Self {
        Self { turn, epoch, seq, offsets: vec![], ended: false }
    }

    /// A piece of a reply was sent, up to `end`.
    pub(super) fn sent(&mut self, message: MessageId, kind: PieceKind, end: usize) {
        let at = self.offsets.iter().position(|(id, _)| *id == message).unwrap_or_else(|| {
            self.offsets.push((message, TextOffsets::default()));
            self.offsets.len() - 1
        });
        if let Some((_, offsets)) = self.offsets.get_mut(at) {
            match kind {
                PieceKind::Content => offsets.content = end,
                PieceKind::Thinking => offsets.thinking = end,
            }
        }
    }

    /// Reads what [`fmt::Display`] wrote of a place in this turn; `None` for anything else.
    pub(super) fn parse(turn: TurnId, text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        if uuid(parts.next()?).map(TurnId)? != turn {
            return None;
        }
        let epoch = uuid(parts.next()?).map(Epoch)?;
        let seq = number(parts.next()?)?;
        let mut cursor = Self::at(turn, epoch, seq);
        for part in parts {
            if cursor.ended || cursor.offsets.len() == REPLIES_MAX {
                return None;
            }
            if part == "end" {
                cursor.ended = true;
                continue;
            }
            let mut fields = part.split('-');
            let message = uuid(fields.next()?).map(MessageId)?;
            let offsets = TextOffsets {
                content: number(fields.next()?)?.try_into().ok()?,
                thinking: number(fields.next()?)?.try_into().ok()?,
            };
            if fields.next().is_some() {
                return None;
            }
            cursor.offsets.push((message, offsets));
        }
        Some(cursor)
    }

    pub(super) fn resume(&self) -> ResumeFrom {
        let offsets: HashMap<_, _> = self.offsets.iter().copied().collect();
        ResumeFrom { epoch: Some(self.epoch), seq: self.seq, offsets }
    }
}

fn uuid(text: &str) -> Option<Uuid> {
    (text.len() == 32).then(|| Uuid::try_parse(text).ok()).flatten()
}

fn number(text: &str) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.turn.0.simple(), self.epoch.0.simple(), self.seq)?;
        for (message, offsets) in &self.offsets {
            write!(f, ".{}-{}-{}", message.0.simple(), offsets.content, offsets.thinking)?;
        }
        if self.ended { f.write_str(".end") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_is_written() {
        let turn = TurnId::new();
        let mut cursor = Cursor::at(turn, Epoch::new(), 7);
        assert_eq!(Cursor::parse(turn, &cursor.to_string()), Some(cursor.clone()));
        let message = MessageId::new();
        cursor.sent(message, PieceKind::Thinking, 3);
        cursor.sent(message, PieceKind::Content, 5);
        cursor.sent(message, PieceKind::Content, 9);
        assert_eq!(Cursor::parse(turn, &cursor.to_string()), Some(cursor.clone()));
        assert_eq!(cursor.resume().offsets[&message], TextOffsets { content: 9, thinking: 3 });
        cursor.ended = true;
        assert_eq!(Cursor::parse(turn, &cursor.to_string()), Some(cursor));
    }

    #[test]
    fn a_place_in_another_turn_is_no_place_in_this_one() {
        let cursor = Cursor::at(TurnId::new(), Epoch::new(), 7);
        assert_eq!(Cursor::parse(TurnId::new(), &cursor.to_string()), None);
    }

    #[test]
    fn garbage_is_no_cursor() {
        let turn = TurnId::new();
        let epoch = Uuid::now_v7().simple().to_string();
        let good = format!("{}.{epoch}.1", turn.0.simple());
        assert!(Cursor::parse(turn, &good).is_some());
        for bad in [
            "".to_owned(),
            "7".into(),
            epoch.clone(),
            format!("{epoch}."),
            format!("{epoch}.-1"),
            format!("{epoch}.+1"),
            format!("{epoch}.99999999999999999999"),
            format!("{epoch}.1.x"),
            format!("{epoch}.1.{epoch}-1"),
            format!("{epoch}.1.{epoch}-1-1-1"),
            format!("{epoch}.1.end.end"),
            format!("{epoch}.1{}", format!(".{epoch}-1-1").repeat(17)),
        ] {
            assert_eq!(Cursor::parse(turn, &bad), None, "{bad}");
            assert_eq!(Cursor::parse(turn, &format!("{}.{bad}", turn.0.simple())), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,80}") {
            let turn = TurnId::new();
            let text = format!("{}.{text}", turn.0.simple());
            if let Some(cursor) = Cursor::parse(turn, &text) {
                prop_assert!(cursor.to_string().len() <= text.len());
            }
        }
    }
}
