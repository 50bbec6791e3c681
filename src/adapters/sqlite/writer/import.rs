//! Parts of archives: what is not there is written, what is there must be the same.

use std::collections::HashMap;

use deia_actors::{
    domain::{
        event::Topic,
        ids::{BotId, ConversationId},
        message::{Conversation, Message},
    },
    ports::archive::{ArchivedTurn, ImportPart},
};
use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

use super::{
    super::words::json,
    history::{bind_message, insert_message, place},
    outbox::forget_head,
};
use crate::adapters::applied::Applied;

/// Stores a part, all of it or nothing.
pub(super) fn import(db: &Connection, part: &ImportPart) -> rusqlite::Result<Applied> {
    db.execute_batch("SAVEPOINT import")?;
    if store(db, part)? {
        db.execute_batch("RELEASE import")?;
        return Ok(Applied::YES);
    }
    db.execute_batch("ROLLBACK TO import; RELEASE import")?;
    Ok(Applied::NO)
}

/// False where something contradicts or is missing.
fn store(db: &Connection, part: &ImportPart) -> rusqlite::Result<bool> {
    for conversation in &part.conversations {
        if !store_conversation(db, &part.bot_id, conversation)? {
            return Ok(false);
        }
    }
    let in_roster = db
        .prepare("SELECT 1 FROM bots WHERE id = ?1 AND deleted_at IS NULL")?
        .exists([part.bot_id.as_str()])?;
    Ok(in_roster
        && store_messages(db, &part.messages)?
        && leaves_are_stored(db, &part.conversations)?
        && store_turns(db, &part.turns)?)
}

fn store_conversation(db: &Connection, bot: &BotId, c: &Conversation) -> rusqlite::Result<bool> {
    let stored: Option<(String, i64)> = db
        .prepare("SELECT bot_id, created_at FROM conversations WHERE id = ?1")?
        .query_row([c.id.0], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    if stored.is_some_and(|stored| stored != (bot.to_string(), c.created_at.0)) {
        return Ok(false);
    }
    // The bot's main conversation, and whether it was used.
    let main: Option<(Uuid, bool)> = db
        .prepare(
            "SELECT main_conversation_id, EXISTS (SELECT 1 FROM conversations WHERE id = main_conversation_id \
                 AND (message_count > 0 OR leaf_message_id IS NOT NULL OR legal_hold)) \
             FROM bots WHERE id = ?1 AND deleted_at IS NULL",
        )?
        .query_row([bot.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((main, used)) = main else { return Ok(false) };
    let becomes_main = main != c.id.0 && c.main && !used;
    if becomes_main {
        db.prepare("UPDATE bots SET main_conversation_id = ?2 WHERE id = ?1")?
            .execute(params![bot.as_str(), c.id.0])?;
        db.prepare("DELETE FROM conversations WHERE id = ?1")?.execute([main])?;
        forget_head(db, &Topic::Conversation(ConversationId(main)))?;
    }
    db.prepare(
        "INSERT INTO conversations (id, bot_id, title, main, leaf_message_id, message_count, archived, created_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6, ?7) \
         ON CONFLICT (id) DO UPDATE SET retired_at = NULL, main = excluded.main, \
             leaf_message_id = coalesce(leaf_message_id, excluded.leaf_message_id)",
    )?
    .execute(params![
        c.id.0,
        bot.as_str(),
        c.title,
        becomes_main || main == c.id.0,
        c.leaf_message_id.map(|m| m.0),
        c.archived,
        c.created_at.0
    ])?;
    Ok(true)
}

fn leaves_are_stored(db: &Connection, conversations: &[Conversation]) -> rusqlite::Result<bool> {
    let mut stored = db.prepare("SELECT 1 FROM chat_messages WHERE id = ?1")?;
    for leaf in conversations.iter().filter_map(|c| c.leaf_message_id) {
        if !stored.exists([leaf.0])? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// False where one is stored with other content, or its conversation is not.
fn store_messages(db: &Connection, messages: &[Message]) -> rusqlite::Result<bool> {
    // Text that was written by the same writer from the same value is the same text.
    let mut same = db.prepare(
        "SELECT 1 FROM chat_messages WHERE id = ?1 AND parent_id IS ?2 AND conversation_id = ?3 AND bot_id = ?4 \
             AND turn_id IS ?5 AND sender = ?6 AND state = ?7 AND tokens = ?8 AND created_at = ?9 \
             AND metadata = ?10 AND content = ?11 AND thinking IS ?12 AND tool_calls IS ?13 AND images IS ?14",
    )?;
    let mut grown: HashMap<ConversationId, (i64, i64)> = HashMap::new();
    for message in messages {
        if insert_message(db, message, place(db, message)?)? > 0 {
            let (count, last_at) = grown.entry(message.conversation_id).or_insert((0, i64::MIN));
            *count += 1;
            *last_at = (*last_at).max(message.created_at.0);
        } else if !bind_message(message, |values| same.exists(values))? {
            return Ok(false);
        }
    }
    let mut grow = db.prepare(
        "UPDATE conversations SET message_count = message_count + ?2, last_at = max(coalesce(last_at, ?3), ?3) \
         WHERE id = ?1",
    )?;
    for (id, (count, last_at)) in grown {
        if grow.execute(params![id.0, count, last_at])? == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

fn store_turns(db: &Connection, turns: &[ArchivedTurn]) -> rusqlite::Result<bool> {
    let columns = "id, bot_id, conversation_id, message_id, reply_id, state, model, server, attempt_of, \
         prompt_tokens, completion_tokens, queued_ms, first_token_ms, total_ms, num_ctx, context_used, \
         trimmed_messages, trimmed_tokens, error, created_at, ended_at, overrides";
    // No event tells of it: the number of its last one is 0.
    let mut insert = db.prepare(&format!(
        "INSERT INTO turns ({columns}, event_seq) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, \
             ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, 0) ON CONFLICT DO NOTHING"
    ))?;
    let mut same = db.prepare(&format!(
        "SELECT 1 FROM turns WHERE ({columns}) IS (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, \
             ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22)"
    ))?;
    for ArchivedTurn { turn: t, overrides } in turns {
        let (attempt_of, error, overrides) =
            (t.attempt_of.map(|a| a.0), t.error.as_ref().map(json), overrides.as_ref().map(json));
        let values = params![
            t.id.0,
            t.bot_id.as_str(),
            t.conversation_id.0,
            t.message_id.0,
            t.reply_id.0,
            t.state.as_str(),
            t.model,
            t.server,
            attempt_of,
            t.usage.prompt_tokens,
            t.usage.completion_tokens,
            t.timings.queued_ms,
            t.timings.first_token_ms,
            t.timings.total_ms,
            t.context.num_ctx,
            t.context.used,
            t.context.trimmed_messages,
            t.context.trimmed_tokens,
            error,
            t.created_at.0,
            t.ended_at.map(|at| at.0),
            overrides
        ];
        if insert.execute(values)? == 0 && !same.exists(values)? {
            return Ok(false);
        }
    }
    Ok(true)
}
