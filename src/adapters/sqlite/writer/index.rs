//! Takes stored messages into the full-text index, some at a time: when nobody writes, and before a search.

use deia_actors::domain::{ids::ConversationId, search::words};
use rusqlite::{Connection, Row, params};

use super::super::{
    quarantine::Quarantine,
    search::{bot_word, conversation_word},
};

/// Messages of one transaction, and their text in bytes: what a commit may have to wait for.
const SLICE: usize = 256;
const SLICE_BYTES: usize = 512 * 1024;

/// Whether something can be taken in now.
pub(super) fn is_behind(db: &Connection) -> rusqlite::Result<bool> {
    db.prepare_cached(
        "SELECT (SELECT watermark FROM search_state) < (SELECT coalesce(max(rowid), 0) FROM chat_messages) \
             OR EXISTS (SELECT 1 FROM search_waiting w JOIN chat_messages m ON m.id = w.message_id \
                 WHERE m.state <> 'pending')",
    )?
    .query_row([], |row| row.get(0))
}

struct Stored {
    row: i64,
    id: Vec<u8>,
    pending: bool,
    /// None where it can't be read: then the message is passed over, and counted.
    text: Option<Text>,
}

struct Text {
    bot: String,
    conversation: ConversationId,
    content: String,
}

fn stored(row: &Row<'_>, quarantine: &Quarantine) -> rusqlite::Result<Stored> {
    let id = row.get_ref(1)?.as_bytes().unwrap_or_default().to_vec();
    let text = text(row).inspect_err(|e| quarantine.report("chat_messages", id.clone(), &e.to_string()));
    Ok(Stored { row: row.get(0)?, id, pending: row.get(4)?, text: text.ok() })
}

fn text(row: &Row<'_>) -> rusqlite::Result<Text> {
    Ok(Text { bot: row.get(2)?, conversation: ConversationId(row.get(3)?), content: row.get(5)? })
}

/// Takes in what ended since it was passed over, then what was stored behind the watermark.
pub(super) fn slice(db: &Connection, quarantine: &Quarantine) -> rusqlite::Result<()> {
    let mut bytes = 0;
    let mut waited = db.prepare_cached(
        "SELECT m.rowid, m.id, m.bot_id, m.conversation_id, 0, m.content FROM search_waiting w \
         JOIN chat_messages m ON m.id = w.message_id WHERE m.state <> 'pending'",
    )?;
    let mut forget = db.prepare_cached("DELETE FROM search_waiting WHERE message_id = ?1")?;
    let ended: Vec<Stored> = take(waited.query([])?, &mut bytes, quarantine)?;
    for message in &ended {
        add(db, message)?;
        forget.execute([&message.id])?;
    }
    let mut next = db.prepare_cached(
        "SELECT rowid, id, bot_id, conversation_id, coalesce(state = 'pending', 0), content FROM chat_messages \
         WHERE rowid > (SELECT watermark FROM search_state) ORDER BY rowid",
    )?;
    let new: Vec<Stored> = take(next.query([])?, &mut bytes, quarantine)?;
    let mut wait =
        db.prepare_cached("INSERT INTO search_waiting (message_id) VALUES (?1) ON CONFLICT DO NOTHING")?;
    for message in &new {
        if message.pending {
            wait.execute([&message.id])?;
        } else {
            add(db, message)?;
        }
    }
    if let Some(last) = new.last() {
        db.prepare_cached("UPDATE search_state SET watermark = ?1")?.execute([last.row])?;
    }
    Ok(())
}

/// As many as one transaction may have.
fn take(
    mut rows: rusqlite::Rows<'_>,
    bytes: &mut usize,
    quarantine: &Quarantine,
) -> rusqlite::Result<Vec<Stored>> {
    let mut taken = vec![];
    while taken.len() < SLICE
        && *bytes < SLICE_BYTES
        && let Some(row) = rows.next()?
    {
        let message = stored(row, quarantine)?;
        *bytes += message.text.as_ref().map_or(0, |text| text.content.len());
        taken.push(message);
    }
    Ok(taken)
}

/// A message that is there already, or has no words, adds nothing.
fn add(db: &Connection, message: &Stored) -> rusqlite::Result<()> {
    let Some(Text { bot, conversation, content }) = &message.text else { return Ok(()) };
    let words = words(content);
    if words.is_empty() {
        return Ok(());
    }
    let new = db
        .prepare_cached("INSERT INTO search_messages (message_id) VALUES (?1) ON CONFLICT DO NOTHING")?
        .execute([&message.id])?;
    if new == 0 {
        return Ok(());
    }
    let row = db.last_insert_rowid();
    let mut text = String::with_capacity(content.len());
    for word in &words {
        text.push_str(&word.text);
        text.push(' ');
    }
    let home = format!("{} {}", bot_word(bot), conversation_word(*conversation));
    db.prepare_cached("INSERT INTO search_text (rowid, home, words) VALUES (?1, ?2, ?3)")?
        .execute(params![row, home, text])
        .map(drop)
}
