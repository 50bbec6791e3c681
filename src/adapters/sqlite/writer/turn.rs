//! Turns: the hot path. Accepting and finishing are the two commits of an ordinary answer.

use deia_actors::domain::{
    bot::StoredStatus,
    event::{NewEvent, Topic},
    ids::{BotId, MessageId},
    message::Message,
    time::Timestamp,
    turn::Turn,
};
use rusqlite::{Connection, params};
use serde_json::Value;

use super::{super::words::json, change::save_status, ends::Ends, outbox::Outbox};
use crate::adapters::applied::Applied;

/// Stores a turn with its question and its empty answer. Behind a message that could not be stored it is not either.
pub(super) fn accept(
    db: &Connection,
    outbox: &mut Outbox,
    ends: &mut Ends,
    t: &Turn,
    message: &Message,
    reply: &Message,
    overrides: Option<&Value>,
) -> rusqlite::Result<Applied> {
    let rows = db
        .prepare_cached(
            "INSERT INTO turns (id, bot_id, conversation_id, message_id, reply_id, state, model, server, \
                 attempt_of, queue, prompt_tokens, completion_tokens, queued_ms, first_token_ms, total_ms, \
                 num_ctx, context_used, trimmed_messages, trimmed_tokens, error, created_at, ended_at, overrides) \
             SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, \
                 ?21, ?22, ?23 \
             WHERE EXISTS (SELECT 1 FROM conversations WHERE id = ?3 AND retired_at IS NULL) \
                 AND (?24 IS NULL OR EXISTS (SELECT 1 FROM chat_messages WHERE id = ?24)) \
                 AND (?25 IS NULL OR EXISTS (SELECT 1 FROM chat_messages WHERE id = ?25)) \
             ON CONFLICT DO NOTHING",
        )?
        .execute(params![
            t.id.0,
            t.bot_id.as_str(),
            t.conversation_id.0,
            t.message_id.0,
            t.reply_id.0,
            t.state.as_str(),
            t.model,
            t.server,
            t.attempt_of.map(|a| a.0),
            t.queue.as_ref().map(json),
            t.usage.prompt_tokens,
            t.usage.completion_tokens,
            t.timings.queued_ms,
            t.timings.first_token_ms,
            t.timings.total_ms,
            t.context.num_ctx,
            t.context.used,
            t.context.trimmed_messages,
            t.context.trimmed_tokens,
            t.error.as_ref().map(json),
            t.created_at.0,
            t.ended_at.map(|at| at.0),
            overrides.map(json),
            message.parent_id.map(|p| p.0),
            // One that is answered once more belongs to another turn, and is there.
            (message.turn_id != Some(t.id)).then_some(message.id.0)
        ])?;
    if rows == 0 {
        return Ok(Applied::NO);
    }
    // A regenerated answer comes with a question that is there already.
    ends.insert(db, message)?;
    ends.insert(db, reply)?;
    outbox.turn_is_new(t.id);
    Ok(Applied::YES)
}

/// Stores where a turn stands now.
pub(super) fn start(db: &Connection, t: &Turn) -> rusqlite::Result<Applied> {
    db.prepare_cached(
        "UPDATE turns SET state = ?2, model = ?3, server = ?4, queue = ?5, queued_ms = ?6, num_ctx = ?7, \
             context_used = ?8, trimmed_messages = ?9, trimmed_tokens = ?10 \
         WHERE id = ?1 AND ended_at IS NULL",
    )?
    .execute(params![
        t.id.0,
        t.state.as_str(),
        t.model,
        t.server,
        t.queue.as_ref().map(json),
        t.timings.queued_ms,
        t.context.num_ctx,
        t.context.used,
        t.context.trimmed_messages,
        t.context.trimmed_tokens
    ])
    .map(Applied::if_any)
}

/// Stores the text so far of a running answer.
pub(super) fn checkpoint(
    db: &Connection,
    reply: MessageId,
    content: &str,
    thinking: Option<&str>,
) -> rusqlite::Result<Applied> {
    db.prepare_cached(
        "UPDATE chat_messages SET content = ?2, thinking = ?3 WHERE id = ?1 AND state = 'pending'",
    )?
    .execute(params![reply.0, content, thinking])
    .map(Applied::if_any)
}

/// Stores the end of a turn, once.
pub(super) fn finish(
    db: &Connection,
    outbox: &mut Outbox,
    t: &Turn,
    reply: &Message,
    status: &StoredStatus,
    events: &[NewEvent],
) -> rusqlite::Result<Applied> {
    let open = outbox.remembers(t.id)
        || db.prepare_cached("SELECT 1 FROM turns WHERE id = ?1 AND ended_at IS NULL")?.exists([t.id.0])?;
    if !open {
        return Ok(Applied::NO);
    }
    let own = events.iter().filter(|e| e.topics.contains(&Topic::Turn(t.id))).count();
    let head = outbox.turn_head(db, t.id, Some(t.conversation_id))?;
    let rows = db
        .prepare_cached(
            "UPDATE turns SET state = ?2, model = ?3, server = ?4, queue = NULL, prompt_tokens = ?5, \
                 completion_tokens = ?6, queued_ms = ?7, first_token_ms = ?8, total_ms = ?9, num_ctx = ?10, \
                 context_used = ?11, trimmed_messages = ?12, trimmed_tokens = ?13, error = ?14, ended_at = ?15, \
                 event_seq = ?16 \
             WHERE id = ?1 AND ended_at IS NULL",
        )?
        .execute(params![
            t.id.0,
            t.state.as_str(),
            t.model,
            t.server,
            t.usage.prompt_tokens,
            t.usage.completion_tokens,
            t.timings.queued_ms,
            t.timings.first_token_ms,
            t.timings.total_ms,
            t.context.num_ctx,
            t.context.used,
            t.context.trimmed_messages,
            t.context.trimmed_tokens,
            t.error.as_ref().map(json),
            // An end without its time would leave the turn open.
            t.ended_at.unwrap_or_else(Timestamp::now).0,
            head + i64::try_from(own).unwrap_or(i64::MAX)
        ])?;
    if rows == 0 {
        return Ok(Applied::NO);
    }
    db.prepare_cached(
        "UPDATE chat_messages SET state = ?2, tokens = ?3, metadata = ?4, content = ?5, thinking = ?6, \
             tool_calls = ?7 WHERE id = ?1",
    )?
    .execute(params![
        reply.id.0,
        reply.state.as_str(),
        reply.tokens,
        json(&reply.metadata),
        &*reply.content,
        reply.thinking.as_deref(),
        reply.tool_calls.as_ref().map(json)
    ])?;
    save_status(db, status)?;
    Ok(Applied::YES)
}

/// Ends what a deleted bot left open, so that the next bot of its id does not find it.
pub(super) fn interrupt_all(db: &Connection, bot: &BotId, at: Timestamp) -> rusqlite::Result<()> {
    db.prepare_cached(
        "UPDATE chat_messages SET state = 'partial' WHERE state = 'pending' \
             AND id IN (SELECT reply_id FROM turns WHERE bot_id = ?1 AND ended_at IS NULL)",
    )?
    .execute([bot.as_str()])?;
    db.prepare_cached(
        "UPDATE turns SET state = 'interrupted', queue = NULL, ended_at = ?2 \
         WHERE bot_id = ?1 AND ended_at IS NULL",
    )?
    .execute(params![bot.as_str(), at.0])
    .map(drop)
}
