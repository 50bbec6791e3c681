//! Conversations and messages.

use std::collections::{BTreeMap, BTreeSet};

use deia_actors::{
    domain::{
        ids::{BotId, ConversationId},
        message::{Conversation, Message},
        time::Timestamp,
    },
    ports::history_store::cleared_event,
};
use rusqlite::{Connection, OptionalExtension, ToSql, params};
use uuid::Uuid;

use super::{super::words::json, change::int, ends::Ends, outbox::redact, session::Applied};

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

/// Writes a message that is not there yet; 1 where it was written.
pub(super) fn insert_message(db: &Connection, m: &Message) -> rusqlite::Result<usize> {
    let (branch, depth) = place(db, m)?;
    let mut insert = db.prepare_cached(
        "INSERT INTO chat_messages (id, parent_id, conversation_id, bot_id, turn_id, sender, state, tokens, \
             created_at, metadata, content, thinking, tool_calls, images, branch, depth) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16) ON CONFLICT (id) DO NOTHING",
    )?;
    bind_message(m, |values| insert.execute(&[values, params![branch, depth]].concat()[..]))
}

/// Branch and depth of a message that is new: those behind its parent, where nothing stands there and nothing ever did (below a
/// message whose parent was deleted the branch is taken), or those of a branch of its own.
fn place(db: &Connection, m: &Message) -> rusqlite::Result<(Uuid, i64)> {
    let Some(parent) = m.parent_id else { return Ok((m.id.0, 0)) };
    let behind = db
        .prepare_cached(
            "SELECT p.branch, p.depth + 1 FROM chat_messages p WHERE p.id = ?1 AND p.conversation_id = ?2 \
                 AND NOT EXISTS (SELECT 1 FROM chat_messages c WHERE c.conversation_id = ?2 AND c.parent_id = ?1) \
                 AND NOT EXISTS (SELECT 1 FROM chat_messages t \
                     WHERE t.branch = p.branch AND t.depth > p.depth AND t.parent_id IS NULL)",
        )?
        .query_row(params![parent.0, m.conversation_id.0], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(behind.unwrap_or((m.id.0, 0)))
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
        written += insert_message(db, message)?;
    }
    if written > 0 {
        ends.grow(last.conversation_id, last, written);
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

/// Deletes a conversation with everything in it, unless a turn of it is open or it is held.
pub(super) fn delete_conversation(db: &Connection, id: ConversationId) -> rusqlite::Result<Applied> {
    let owner: Option<String> = db
        .prepare_cached("SELECT bot_id FROM conversations WHERE id = ?1 AND NOT legal_hold")?
        .query_row([id.0], |row| row.get(0))
        .optional()?;
    let Some(owner) = owner else { return Ok(Applied::NO) };
    let busy = db
        .prepare_cached(
            "SELECT 1 FROM turns WHERE bot_id = ?1 AND conversation_id = ?2 AND ended_at IS NULL",
        )?
        .exists(params![owner, id.0])?;
    if busy {
        return Ok(Applied::NO);
    }
    let deleted = delete_contents(db, id)?;
    db.prepare_cached("DELETE FROM conversations WHERE id = ?1")?.execute([id.0])?;
    let mut applied = Applied::deleted(deleted);
    if let Ok(owner) = BotId::parse(&owner) {
        applied.events.extend(mend(db, &owner)?.into_iter().map(|fork| cleared_event(&owner, fork, 0)));
    }
    Ok(applied)
}

/// Deletes everything of a bot, also of earlier bots of this id.
pub(super) fn purge(db: &Connection, bot: &BotId) -> rusqlite::Result<u64> {
    let mut deleted = 0;
    for id in conversations_of(db, bot)? {
        deleted += delete_contents(db, id)?;
    }
    db.prepare_cached("DELETE FROM conversations WHERE bot_id = ?1")?.execute([bot.as_str()])?;
    Ok(deleted)
}

fn delete_contents(db: &Connection, id: ConversationId) -> rusqlite::Result<u64> {
    db.prepare_cached(
        "DELETE FROM turns WHERE id IN (SELECT turn_id FROM chat_messages WHERE conversation_id = ?1)",
    )?
    .execute([id.0])?;
    let rows = db.prepare_cached("DELETE FROM chat_messages WHERE conversation_id = ?1")?.execute([id.0])?;
    redact(db, id)?;
    Ok(u64::try_from(rows).unwrap_or(u64::MAX))
}

fn conversations_of(db: &Connection, bot: &BotId) -> rusqlite::Result<Vec<ConversationId>> {
    db.prepare_cached("SELECT id FROM conversations WHERE bot_id = ?1")?
        .query_map([bot.as_str()], |row| row.get(0).map(ConversationId))?
        .collect()
}

/// Deletes the messages and ended turns of one or all conversations of a bot that are in its list and not held.
pub(super) fn clear(
    db: &Connection,
    bot: &BotId,
    conversation: Option<ConversationId>,
) -> rusqlite::Result<Applied> {
    let cleared: Vec<ConversationId> = db
        .prepare_cached(
            "SELECT id FROM conversations WHERE bot_id = ?1 AND retired_at IS NULL AND NOT legal_hold \
                 AND (?2 IS NULL OR id = ?2) ORDER BY id",
        )?
        .query_map(params![bot.as_str(), conversation.map(|c| c.0)], |row| row.get(0).map(ConversationId))?
        .collect::<rusqlite::Result<_>>()?;
    if cleared.is_empty() {
        return Ok(Applied::NO);
    }
    let mut lost = BTreeMap::new();
    for id in cleared {
        db.prepare_cached(
            "DELETE FROM turns WHERE ended_at IS NOT NULL \
                AND id IN (SELECT turn_id FROM chat_messages WHERE conversation_id = ?1)",
        )?
        .execute([id.0])?;
        // What still has a turn belongs to one that runs. A regenerated answer runs under another
        // turn than its question, so the messages that an open turn names are kept as well.
        let rows = db
            .prepare_cached(
                "DELETE FROM chat_messages WHERE conversation_id = ?1 \
                     AND (turn_id IS NULL OR turn_id NOT IN (SELECT id FROM turns WHERE bot_id = ?2 AND ended_at IS NULL)) \
                     AND id NOT IN (SELECT message_id FROM turns WHERE bot_id = ?2 AND ended_at IS NULL)",
            )?
            .execute(params![id.0, bot.as_str()])?;
        let deleted = u64::try_from(rows).unwrap_or(u64::MAX);
        redact(db, id)?;
        lost.insert(id, deleted);
        db.prepare_cached(
            "UPDATE conversations SET \
                 message_count = (SELECT count(*) FROM chat_messages WHERE conversation_id = ?1), \
                 last_at = (SELECT max(created_at) FROM chat_messages WHERE conversation_id = ?1) \
             WHERE id = ?1",
        )?
        .execute([id.0])?;
    }
    for fork in mend(db, bot)? {
        lost.entry(fork).or_default();
    }
    let events = lost.iter().map(|(id, deleted)| cleared_event(bot, *id, *deleted)).collect();
    Ok(Applied { events, ..Applied::deleted(lost.values().sum()) })
}

/// The oldest messages of a conversation went away. The newest is still there, unless none is, or those that are left
/// are old too and were spared for an open turn: only then they are looked through.
pub(super) fn lost_oldest(
    db: &Connection,
    id: ConversationId,
    deleted: u32,
    before: Timestamp,
) -> rusqlite::Result<()> {
    db.prepare_cached(
        "UPDATE conversations SET message_count = max(message_count - ?2, 0), last_at = CASE \
             WHEN message_count <= ?2 THEN NULL \
             WHEN last_at < ?3 AND EXISTS (SELECT 1 FROM turns t WHERE t.bot_id = conversations.bot_id \
                 AND t.conversation_id = ?1 AND t.ended_at IS NULL) \
             THEN (SELECT max(created_at) FROM chat_messages WHERE conversation_id = ?1) \
             ELSE last_at END \
         WHERE id = ?1",
    )?
    .execute(params![id.0, deleted, before.0])
    .map(drop)
}

/// As [`mend`], for these messages only: looks at what stood behind each of them, in every conversation of the bot.
pub(super) fn mend_behind(db: &Connection, bot: &str, gone: &[Uuid]) -> rusqlite::Result<()> {
    let homes: Vec<Uuid> = db
        .prepare_cached("SELECT id FROM conversations WHERE bot_id = ?1")?
        .query_map([bot], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let mut orphans = db.prepare_cached(
        "UPDATE chat_messages SET parent_id = NULL WHERE conversation_id = ?1 AND parent_id = ?2",
    )?;
    for home in &homes {
        for id in gone {
            orphans.execute(params![home, id])?;
        }
    }
    let gone: std::collections::HashSet<_> = gone.iter().collect();
    for home in &homes {
        let leaf: Option<Uuid> = db
            .prepare_cached("SELECT leaf_message_id FROM conversations WHERE id = ?1")?
            .query_row([home], |row| row.get(0))?;
        if leaf.is_some_and(|leaf| gone.contains(&leaf)) {
            db.prepare_cached(
                "UPDATE conversations SET leaf_message_id = \
                     (SELECT max(m.id) FROM chat_messages m WHERE m.conversation_id = ?1) WHERE id = ?1",
            )?
            .execute([home])?;
        }
    }
    Ok(())
}

/// After messages went away: a message whose parent is gone is a first one, and a conversation
/// whose leaf is gone ends with its newest message. Also in forks, which share the path. Answers where there were any.
fn mend(db: &Connection, bot: &BotId) -> rusqlite::Result<BTreeSet<ConversationId>> {
    let mut mended = BTreeSet::new();
    for sql in [
        "UPDATE chat_messages SET parent_id = NULL WHERE parent_id IS NOT NULL \
             AND conversation_id IN (SELECT id FROM conversations WHERE bot_id = ?1) \
             AND NOT EXISTS (SELECT 1 FROM chat_messages p WHERE p.id = chat_messages.parent_id) \
         RETURNING conversation_id",
        "UPDATE conversations SET leaf_message_id = \
             (SELECT max(m.id) FROM chat_messages m WHERE m.conversation_id = conversations.id) \
         WHERE bot_id = ?1 AND leaf_message_id IS NOT NULL \
             AND NOT EXISTS (SELECT 1 FROM chat_messages m WHERE m.id = conversations.leaf_message_id) \
         RETURNING id",
    ] {
        let mut statement = db.prepare_cached(sql)?;
        let ids = statement.query_map([bot.as_str()], |row| row.get(0).map(ConversationId))?;
        for id in ids {
            mended.insert(id?);
        }
    }
    Ok(mended)
}
