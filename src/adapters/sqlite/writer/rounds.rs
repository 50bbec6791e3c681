//! Rounds of tools: messages between a running answer and what it hung on.

use deia_actors::domain::{ids::MessageId, message::Message};
use rusqlite::{Connection, params};

use super::{
    change::int,
    history::{insert_message, place},
};
use crate::adapters::applied::Applied;

/// Puts messages in front of a running answer. It begins a branch of its own, and what stands below it goes with it; the
/// messages go on where it stood.
pub(super) fn store(db: &Connection, reply: MessageId, messages: &[Message]) -> rusqlite::Result<Applied> {
    let (Some(first), Some(last)) = (messages.first(), messages.last()) else { return Ok(Applied::NO) };
    let rows = db
        .prepare_cached(
            "UPDATE chat_messages SET parent_id = ?3 WHERE id = ?1 AND state = 'pending' AND parent_id IS ?2",
        )?
        .execute(params![reply.0, first.parent_id.map(|p| p.0), last.id.0])?;
    if rows == 0 {
        return Ok(Applied::NO);
    }
    db.prepare_cached(
        "UPDATE chat_messages SET branch = ?1, depth = chat_messages.depth - stood.depth \
         FROM (SELECT branch, depth FROM chat_messages WHERE id = ?1) stood \
         WHERE chat_messages.branch = stood.branch AND stood.branch <> ?1 AND chat_messages.depth >= stood.depth",
    )?
    .execute([reply.0])?;
    let mut written = 0;
    for message in messages {
        written += insert_message(db, message, place(db, message)?)?;
    }
    db.prepare_cached(
        "UPDATE conversations SET message_count = message_count + ?2, \
             last_at = max(coalesce(last_at, ?3), ?3) WHERE id = ?1",
    )?
    .execute(params![
        last.conversation_id.0,
        int(u64::try_from(written).unwrap_or(0)),
        last.created_at.0
    ])?;
    Ok(Applied::YES)
}
