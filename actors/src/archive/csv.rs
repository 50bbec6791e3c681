//! The CSV form (RFC 4180): one row per message, all branches. Pure.

use std::borrow::Cow;

use csv::{Terminator, WriterBuilder};

use crate::domain::message::Message;

const HEADER: [&str; 11] = [
    "conversation_id",
    "id",
    "parent_id",
    "turn_id",
    "created_at",
    "sender",
    "state",
    "tokens",
    "content",
    "thinking",
    "done_reason",
];

/// Writes rows.
pub(super) struct CsvWriter;

impl CsvWriter {
    pub(super) fn begin(&self, out: &mut Vec<u8>) {
        row(out, HEADER.map(Cow::Borrowed));
    }

    pub(super) fn message(&self, out: &mut Vec<u8>, m: &Message) {
        let id = |id: Option<String>| Cow::Owned(id.unwrap_or_default());
        row(
            out,
            [
                Cow::Owned(m.conversation_id.to_string()),
                Cow::Owned(m.id.to_string()),
                id(m.parent_id.map(|p| p.to_string())),
                id(m.turn_id.map(|t| t.to_string())),
                Cow::Owned(m.created_at.to_string()),
                Cow::Borrowed(m.sender.as_str()),
                Cow::Borrowed(m.state.as_str()),
                Cow::Owned(m.tokens.to_string()),
                cell(&m.content),
                cell(m.thinking.as_deref().unwrap_or_default()),
                Cow::Borrowed(m.cut_by().unwrap_or_default()),
            ],
        );
    }
}

fn row(out: &mut Vec<u8>, cells: [Cow<'_, str>; 11]) {
    let mut writer = WriterBuilder::new().terminator(Terminator::CRLF).from_writer(out);
    // Writing to memory can't fail.
    let _ = writer.write_record(cells.iter().map(|c| c.as_bytes())).and_then(|()| Ok(writer.flush()?));
}

/// A text that no spreadsheet takes for a formula: what begins like one gets an apostrophe in front.
pub(super) fn cell(text: &str) -> Cow<'_, str> {
    let formula = ['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'];
    if text.starts_with(formula) { Cow::Owned(format!("'{text}")) } else { Cow::Borrowed(text) }
}
