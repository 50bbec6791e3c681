//! Conversations and messages.

use std::collections::BTreeMap;

use deia_actors::{
    domain::{
        event::Topic,
        ids::{BotId, ConversationId, TurnId},
        message::{Conversation, Message},
    },
    ports::history_store::cleared_event,
};
use rusqlite::{Connection, OptionalExtension, Rows, ToSql, params};
use uuid::Uuid;

use super::{
    super::words::json,
    change::int,
    ends::Ends,
    mend::{Gone, held, mend_behind},
    outbox::{forget_head, redact},
};
use crate::adapters::applied::Applied;

/// Whether a conversation is stored, retired ones included.
pub(super) fn exists(db: &Connection, id: ConversationId) -> rusqlite::Result<bool> {
    db.prepare_cached("SELECT 1 FROM conversations WHERE id = ?1")?.exists([id.0])
}

/// A conversation of a bot that is in the roster.
pub(super) fn create_conversation(db: &Connection, c: &Conversation) -> rusqlite::Result<Applied> {
    db.prepare_cached(
        "INSERT INTO conversations (id, bot_id, title, main, leaf_message_id, message_count, archived, \
             created_at, last_at) \
         SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9 \
         WHERE EXISTS (SELECT 1 FROM bots WHERE id = ?2 AND deleted_at IS NULL) \
             AND (?5 IS NULL OR EXISTS (SELECT 1 FROM chat_messages WHERE id = ?5)) ON CONFLICT DO NOTHING",
    )?
    .execute(params![
        c.id.0,
        c.bot_id.as_str(),
        c.title,
        c.main,
        c.leaf_message_id.map(|m| m.0),
        int(c.message_count),
        c.archived,
        c.created_at.0,
        c.last_at.map(|t| t.0)
    ])
    .map(Applied::if_any)
}

pub(super) fn update_conversation(db: &Connection, c: &Conversation) -> rusqlite::Result<Applied> {
    db.prepare_cached(
        "UPDATE conversations SET title = ?2, leaf_message_id = ?3, archived = ?4 \
         WHERE id = ?1 AND retired_at IS NULL AND (leaf_message_id IS ?3 OR (\
             (?3 IS NULL OR EXISTS (SELECT 1 FROM chat_messages WHERE id = ?3)) \
             AND NOT EXISTS (SELECT 1 FROM turns t WHERE t.bot_id = conversations.bot_id \
                AND t.conversation_id = ?1 AND t.ended_at IS NULL)))",
    )?
    .execute(params![c.id.0, c.title, c.leaf_message_id.map(|m| m.0), c.archived])
    .map(Applied::if_any)
}

/// Writes a message at its place unless it is there already; 1 where it was written.
pub(super) fn insert_message(db: &Connection, m: &Message, spot: Spot) -> rusqlite::Result<usize> {
    let mut insert = db.prepare_cached(
        "INSERT INTO chat_messages (id, parent_id, conversation_id, bot_id, turn_id, sender, state, tokens, \
             created_at, metadata, content, thinking, tool_calls, images, branch, depth) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16) ON CONFLICT (id) DO NOTHING",
    )?;
    bind_message(m, |values| insert.execute(&[values, params![spot.branch, spot.depth]].concat()[..]))
}

/// Where a message stands in the tree.
#[derive(Clone, Copy)]
pub(super) struct Spot {
    branch: Uuid,
    depth: i64,
}

impl Spot {
    /// The place of the first message behind the one that stands here.
    pub(super) fn below(self) -> Self {
        Self { depth: self.depth + 1, ..self }
    }
}

/// The place of a message that is new: behind its parent, where nothing stands there and nothing ever did (below a message
/// whose parent was deleted the branch is taken), or at the begin of a branch of its own.
pub(super) fn place(db: &Connection, m: &Message) -> rusqlite::Result<Spot> {
    let first = Spot { branch: m.id.0, depth: 0 };
    let Some(parent) = m.parent_id else { return Ok(first) };
    let behind = db
        .prepare_cached(
            "SELECT p.branch, p.depth FROM chat_messages p WHERE p.id = ?1 AND p.conversation_id = ?2 \
                 AND NOT EXISTS (SELECT 1 FROM chat_messages c WHERE c.conversation_id = ?2 AND c.parent_id = ?1) \
                 AND NOT EXISTS (SELECT 1 FROM chat_messages t \
                     WHERE t.branch = p.branch AND t.depth > p.depth AND t.parent_id IS NULL)",
        )?
        .query_row(params![parent.0, m.conversation_id.0], |row| {
            Ok(Spot { branch: row.get(0)?, depth: row.get(1)? })
        })
        .optional()?;
    Ok(behind.map_or(first, Spot::below))
}

/// Runs something with the values of a message's columns, in the order of [`insert_message`].
pub(super) fn bind_message<T>(
    m: &Message,
    run: impl FnOnce(&[&dyn ToSql]) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    run(params![
        m.id.0,
        m.parent_id.map(|p| p.0),
        m.conversation_id.0,
        m.bot_id.as_str(),
        m.turn_id.map(|t| t.0),
        m.sender.as_str(),
        m.state.as_str(),
        m.tokens,
        m.created_at.0,
        json(&m.metadata),
        &*m.content,
        m.thinking.as_deref(),
        m.tool_calls.as_ref().map(json),
        m.images.as_ref().map(json)
    ])
}

pub(super) fn append_messages(
    db: &Connection,
    ends: &mut Ends,
    messages: &[Message],
    last: &Message,
) -> rusqlite::Result<Applied> {
    let Some(first) = messages.first() else { return Ok(Applied::NO) };
    if !ends.takes(db, last.conversation_id, first.parent_id)? {
        return Ok(Applied::NO);
    }
    let mut written = 0;
    for message in messages {
        written += ends.insert(db, message)?;
    }
    Ok(Applied::if_any(written))
}

/// Puts a conversation under legal hold or lifts it.
pub(super) fn hold(
    db: &Connection,
    id: ConversationId,
    bot: &BotId,
    held: bool,
) -> rusqlite::Result<Applied> {
    db.prepare_cached(
        "UPDATE conversations SET legal_hold = ?3 WHERE id = ?1 AND bot_id = ?2 AND legal_hold <> ?3",
    )?
    .execute(params![id.0, bot.as_str(), held])
    .map(Applied::if_any)
}

/// Whether a conversation of a bot of this id is held.
pub(super) fn has_held(db: &Connection, bot: &BotId) -> rusqlite::Result<bool> {
    db.prepare_cached("SELECT 1 FROM conversations WHERE bot_id = ?1 AND legal_hold")?.exists([bot.as_str()])
}

/// Deletes a conversation with everything in it, unless an open turn is of it or answers a message of it, or a hold reaches it.
pub(super) fn delete_conversation(db: &Connection, id: ConversationId) -> rusqlite::Result<Applied> {
    let owner: Option<String> = db
        .prepare_cached("SELECT bot_id FROM conversations WHERE id = ?1")?
        .query_row([id.0], |row| row.get(0))
        .optional()?;
    let Some(owner) = owner.and_then(|owner| BotId::parse(&owner).ok()) else { return Ok(Applied::NO) };
    let busy = db
        .prepare_cached(
            "SELECT 1 FROM turns t WHERE t.bot_id = ?1 AND t.ended_at IS NULL AND (t.conversation_id = ?2 \
                 OR (SELECT m.conversation_id FROM chat_messages m WHERE m.id = t.message_id) = ?2)",
        )?
        .exists(params![owner.as_str(), id.0])?;
    if busy || held(db, &owner)?.contains(&id) {
        return Ok(Applied::NO);
    }
    let gone = delete_contents(db, id)?;
    db.prepare_cached("DELETE FROM conversations WHERE id = ?1")?.execute([id.0])?;
    let mended = mend_behind(db, owner.as_str(), &gone)?;
    let events = mended.into_iter().map(|fork| cleared_event(&owner, fork, 0)).collect();
    Ok(Applied { events, ..Applied::deleted(count(&gone)) })
}

/// Deletes everything of a bot, also of earlier bots of this id.
pub(super) fn purge(db: &Connection, bot: &BotId) -> rusqlite::Result<u64> {
    let conversations: Vec<ConversationId> = db
        .prepare_cached("SELECT id FROM conversations WHERE bot_id = ?1")?
        .query_map([bot.as_str()], |row| row.get(0).map(ConversationId))?
        .collect::<rusqlite::Result<_>>()?;
    let mut deleted = 0;
    for id in conversations {
        deleted += count(&delete_contents(db, id)?);
    }
    db.prepare_cached("DELETE FROM conversations WHERE bot_id = ?1")?.execute([bot.as_str()])?;
    Ok(deleted)
}

/// Deletes what a conversation that goes consists of.
fn delete_contents(db: &Connection, id: ConversationId) -> rusqlite::Result<Vec<Gone>> {
    delete_turns(
        db,
        "DELETE FROM turns WHERE id IN (SELECT turn_id FROM chat_messages WHERE conversation_id = ?1) RETURNING id",
        id.0,
    )?;
    let mut delete =
        db.prepare_cached("DELETE FROM chat_messages WHERE conversation_id = ?1 RETURNING id")?;
    let gone = gone(id, delete.query([id.0])?)?;
    redact(db, id)?;
    forget_head(db, &Topic::Conversation(id))?;
    Ok(gone)
}

/// Deletes turns by a statement that answers their ids, and the numbers of their topics.
pub(super) fn delete_turns(db: &Connection, sql: &'static str, which: Uuid) -> rusqlite::Result<()> {
    let deleted: Vec<TurnId> = db
        .prepare_cached(sql)?
        .query_map([which], |row| row.get(0).map(TurnId))?
        .collect::<rusqlite::Result<_>>()?;
    deleted.into_iter().try_for_each(|turn| forget_head(db, &Topic::Turn(turn)))
}

/// Messages of a conversation, by the ids that a deletion answers.
fn gone(home: ConversationId, mut deleted: Rows<'_>) -> rusqlite::Result<Vec<Gone>> {
    let mut gone = vec![];
    while let Some(row) = deleted.next()? {
        gone.push(Gone { id: row.get(0)?, home });
    }
    Ok(gone)
}

fn count(gone: &[Gone]) -> u64 {
    u64::try_from(gone.len()).unwrap_or(u64::MAX)
}

/// Deletes the messages and ended turns of one or all conversations of a bot that are in its list and that no hold reaches.
pub(super) fn clear(
    db: &Connection,
    bot: &BotId,
    conversation: Option<ConversationId>,
) -> rusqlite::Result<Applied> {
    let mut cleared: Vec<ConversationId> = db
        .prepare_cached(
            "SELECT id FROM conversations WHERE bot_id = ?1 AND retired_at IS NULL \
                 AND (?2 IS NULL OR id = ?2) ORDER BY id",
        )?
        .query_map(params![bot.as_str(), conversation.map(|c| c.0)], |row| row.get(0).map(ConversationId))?
        .collect::<rusqlite::Result<_>>()?;
    let held = held(db, bot)?;
    cleared.retain(|id| !held.contains(id));
    if cleared.is_empty() {
        return Ok(Applied::NO);
    }
    let (mut lost, mut gone_of_all) = (BTreeMap::new(), vec![]);
    for id in cleared {
        delete_turns(
            db,
            "DELETE FROM turns WHERE ended_at IS NOT NULL \
                AND id IN (SELECT turn_id FROM chat_messages WHERE conversation_id = ?1) RETURNING id",
            id.0,
        )?;
        // What still has a turn belongs to one that runs. A regenerated answer runs under another
        // turn than its question, so the messages that an open turn names are kept as well.
        let mut delete = db.prepare_cached(
            "DELETE FROM chat_messages WHERE conversation_id = ?1 \
                 AND (turn_id IS NULL OR turn_id NOT IN (SELECT id FROM turns WHERE bot_id = ?2 AND ended_at IS NULL)) \
                 AND id NOT IN (SELECT message_id FROM turns WHERE bot_id = ?2 AND ended_at IS NULL) RETURNING id",
        )?;
        let gone = gone(id, delete.query(params![id.0, bot.as_str()])?)?;
        redact(db, id)?;
        lost.insert(id, count(&gone));
        gone_of_all.extend(gone);
        db.prepare_cached(
            "UPDATE conversations SET \
                 message_count = (SELECT count(*) FROM chat_messages WHERE conversation_id = ?1), \
                 last_at = (SELECT max(created_at) FROM chat_messages WHERE conversation_id = ?1), \
                 leaf_message_id = coalesce((SELECT id FROM chat_messages WHERE id = leaf_message_id), \
                     (SELECT id FROM chat_messages WHERE conversation_id = ?1 ORDER BY id DESC LIMIT 1)) \
             WHERE id = ?1",
        )?
        .execute([id.0])?;
    }
    for fork in mend_behind(db, bot.as_str(), &gone_of_all)? {
        lost.entry(fork).or_default();
    }
    let events = lost.iter().map(|(id, deleted)| cleared_event(bot, *id, *deleted)).collect();
    Ok(Applied { events, ..Applied::deleted(lost.values().sum()) })
}

/// Clears a conversation in favour of these messages.
pub(super) fn begin_anew(
    db: &Connection,
    ends: &mut Ends,
    messages: &[Message],
    clears: u64,
) -> rusqlite::Result<Applied> {
    let (Some(first), Some(last)) = (messages.first(), messages.last()) else { return Ok(Applied::NO) };
    let (home, bot) = (first.conversation_id, &first.bot_id);
    let idle = db
        .prepare_cached(
            "SELECT 1 FROM conversations c WHERE c.id = ?1 AND c.bot_id = ?2 AND c.message_count = ?3 \
                 AND NOT EXISTS (SELECT 1 FROM turns t WHERE t.bot_id = c.bot_id AND t.conversation_id = c.id \
                     AND t.ended_at IS NULL)",
        )?
        .exists(params![home.0, bot.as_str(), int(clears)])?;
    if !idle {
        return Ok(Applied::NO);
    }
    let cleared = clear(db, bot, Some(home))?;
    if cleared.applied {
        append_messages(db, ends, messages, last)?;
    }
    Ok(cleared)
}
