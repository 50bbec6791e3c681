//! Parts of archives: what is not there is written, what is there must be the same.

use std::collections::BTreeSet;

use deia_actors::{
    domain::{ids::BotId, message::Conversation, message::Message},
    ports::archive::{ArchivedTurn, ImportPart},
};
use sqlx::{PgConnection, Postgres, QueryBuilder, postgres::PgBindIterExt};
use uuid::Uuid;

use super::{
    super::{super::words::json, text::pack},
    batch::unnest,
    conversations,
    lookup::{LookUp, Spot},
};
use crate::adapters::applied::Applied;

/// Stores a part, all of it or nothing.
pub(super) async fn import(db: &mut PgConnection, part: &ImportPart) -> sqlx::Result<Applied> {
    sqlx::raw_sql("SAVEPOINT import").execute(&mut *db).await?;
    let stored = store(db, part).await?;
    let end = if stored { "RELEASE import" } else { "ROLLBACK TO import; RELEASE import" };
    sqlx::raw_sql(end).execute(db).await?;
    Ok(if stored { Applied::YES } else { Applied::NO })
}

/// False where something contradicts or is missing.
async fn store(db: &mut PgConnection, part: &ImportPart) -> sqlx::Result<bool> {
    for conversation in &part.conversations {
        if !store_conversation(db, &part.bot_id, conversation).await? {
            return Ok(false);
        }
    }
    let homes: BTreeSet<Uuid> = part.messages.iter().map(|m| m.conversation_id.0).collect();
    let has_its_place: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM bots WHERE id = $1 AND deleted_at IS NULL) \
             AND (SELECT count(*) FROM conversations WHERE id = ANY($2)) = cardinality($2)",
    )
    .bind(part.bot_id.as_str())
    .bind(homes.into_iter().collect::<Vec<_>>())
    .fetch_one(&mut *db)
    .await?;
    Ok(has_its_place
        && store_messages(db, &part.messages).await?
        && leaves_are_stored(db, &part.conversations).await?
        && store_turns(db, &part.turns).await?)
}

async fn leaves_are_stored(db: &mut PgConnection, conversations: &[Conversation]) -> sqlx::Result<bool> {
    let leaves: BTreeSet<Uuid> =
        conversations.iter().filter_map(|c| c.leaf_message_id).map(|leaf| leaf.0).collect();
    sqlx::query_scalar("SELECT count(*) = cardinality($1) FROM chat_messages WHERE id = ANY($1)")
        .bind(leaves.into_iter().collect::<Vec<_>>())
        .fetch_one(db)
        .await
}

async fn store_conversation(db: &mut PgConnection, bot: &BotId, c: &Conversation) -> sqlx::Result<bool> {
    let stored: Option<(String, i64)> =
        sqlx::query_as("SELECT bot_id, created_at FROM conversations WHERE id = $1")
            .bind(c.id.0)
            .fetch_optional(&mut *db)
            .await?;
    if stored.is_some_and(|stored| stored != (bot.to_string(), c.created_at.0)) {
        return Ok(false);
    }
    // The bot's main conversation, and whether it was used.
    let main: Option<(Uuid, bool)> = sqlx::query_as(
        "SELECT main_conversation_id, EXISTS (SELECT 1 FROM conversations c WHERE c.id = main_conversation_id \
             AND (c.message_count > 0 OR c.leaf_message_id IS NOT NULL OR c.legal_hold)) \
         FROM bots WHERE id = $1 AND deleted_at IS NULL",
    )
    .bind(bot.as_str())
    .fetch_optional(&mut *db)
    .await?;
    let Some((main, used)) = main else { return Ok(false) };
    let becomes_main = main != c.id.0 && c.main && !used;
    if becomes_main {
        sqlx::query("UPDATE bots SET main_conversation_id = $2 WHERE id = $1")
            .bind(bot.as_str())
            .bind(c.id.0)
            .execute(&mut *db)
            .await?;
        sqlx::query("DELETE FROM conversations WHERE id = $1").bind(main).execute(&mut *db).await?;
        conversations::forget_heads(db, &[main], &[]).await?;
    }
    sqlx::query(
        "INSERT INTO conversations (id, bot_id, title, main, leaf_message_id, message_count, archived, created_at) \
         VALUES ($1, $2, $3, $4, $5, 0, $6, $7) \
         ON CONFLICT (id) DO UPDATE SET retired_at = NULL, main = excluded.main, \
             leaf_message_id = coalesce(conversations.leaf_message_id, excluded.leaf_message_id)",
    )
    .bind(c.id.0)
    .bind(bot.as_str())
    .bind(c.title.as_deref().map(pack))
    .bind(becomes_main || main == c.id.0)
    .bind(c.leaf_message_id.map(|m| m.0))
    .bind(c.archived)
    .bind(c.created_at.0)
    .execute(db)
    .await?;
    Ok(true)
}

macro_rules! message_columns {
    () => {
        "id, parent_id, conversation_id, bot_id, turn_id, sender, state, tokens, created_at, metadata, content, \
         thinking, tool_calls, images, branch, depth"
    };
}

fn message_cells(q: &mut QueryBuilder<Postgres>, messages: &[(&Message, Option<Spot>)]) {
    unnest!(q, messages, m =>
        m.0.id.0, m.0.parent_id.map(|p| p.0), m.0.conversation_id.0, m.0.bot_id.as_str(), m.0.turn_id.map(|t| t.0),
        m.0.sender.as_str(), m.0.state.as_str(), i64::from(m.0.tokens), m.0.created_at.0, json(&m.0.metadata),
        pack(&m.0.content), m.0.thinking.as_deref().map(pack), m.0.tool_calls.as_ref().map(json),
        m.0.images.as_ref().map(json), m.1.map(|spot| spot.branch), m.1.map_or(0, |spot| spot.depth)
    );
}

/// Adds messages that are not there yet; false where one is there with other content.
pub(super) async fn store_messages(db: &mut PgConnection, messages: &[Message]) -> sqlx::Result<bool> {
    if messages.is_empty() {
        return Ok(true);
    }
    let mut look_up = LookUp::default();
    messages.iter().for_each(|m| look_up.message(m));
    let mut known = look_up.run(&mut *db).await?;
    let messages: Vec<_> = messages.iter().map(|m| (m, known.add(m))).collect();
    let mut q = QueryBuilder::new(concat!(
        "WITH new AS (INSERT INTO chat_messages (",
        message_columns!(),
        ") SELECT * FROM "
    ));
    message_cells(&mut q, &messages);
    q.push(
        " ON CONFLICT DO NOTHING RETURNING conversation_id, created_at), \
         grown AS (UPDATE conversations c SET message_count = c.message_count + n.messages, \
             last_at = greatest(c.last_at, n.last_at) \
             FROM (SELECT conversation_id, count(*) AS messages, max(created_at) AS last_at FROM new \
                 GROUP BY conversation_id) n WHERE c.id = n.conversation_id) \
         SELECT count(*) FROM new",
    );
    let written: i64 = q.build_query_scalar().fetch_one(&mut *db).await?;
    if is_all(written, &messages) {
        return Ok(true);
    }
    // Text that was written by the same writer from the same value is the same text.
    let mut q = QueryBuilder::new("SELECT count(*) FROM ");
    message_cells(&mut q, &messages);
    q.push(concat!(
        "(",
        message_columns!(),
        ") JOIN chat_messages m ON m.id = n.id WHERE (m.parent_id, m.conversation_id, m.bot_id, m.turn_id, m.sender, \
             m.state, m.tokens, m.created_at, m.metadata, m.content, m.thinking, m.tool_calls, m.images) \
         IS NOT DISTINCT FROM (n.parent_id, n.conversation_id, n.bot_id, n.turn_id, n.sender, n.state, n.tokens, \
             n.created_at, n.metadata, n.content, n.thinking, n.tool_calls, n.images)"
    ));
    Ok(is_all(q.build_query_scalar().fetch_one(db).await?, &messages))
}

macro_rules! turn_columns {
    () => {
        "id, bot_id, conversation_id, message_id, reply_id, state, model, server, attempt_of, prompt_tokens, \
         completion_tokens, queued_ms, first_token_ms, total_ms, num_ctx, context_used, trimmed_messages, \
         trimmed_tokens, error, created_at, ended_at, overrides"
    };
}

fn turn_cells(q: &mut QueryBuilder<Postgres>, turns: &[ArchivedTurn]) {
    unnest!(q, turns, a =>
        a.turn.id.0, a.turn.bot_id.as_str(), a.turn.conversation_id.0, a.turn.message_id.0, a.turn.reply_id.0,
        a.turn.state.as_str(), pack(&a.turn.model), a.turn.server.as_deref().map(pack),
        a.turn.attempt_of.map(|t| t.0), i64::from(a.turn.usage.prompt_tokens),
        i64::from(a.turn.usage.completion_tokens), a.turn.timings.queued_ms, a.turn.timings.first_token_ms,
        a.turn.timings.total_ms, i64::from(a.turn.context.num_ctx), i64::from(a.turn.context.used),
        i64::from(a.turn.context.trimmed_messages), i64::from(a.turn.context.trimmed_tokens),
        a.turn.error.as_ref().map(json), a.turn.created_at.0, a.turn.ended_at.map(|t| t.0),
        a.overrides.as_ref().map(json)
    );
}

async fn store_turns(db: &mut PgConnection, turns: &[ArchivedTurn]) -> sqlx::Result<bool> {
    if turns.is_empty() {
        return Ok(true);
    }
    // No event tells of it: the number of its last one is 0.
    let mut q = QueryBuilder::new(concat!(
        "INSERT INTO turns (",
        turn_columns!(),
        ", event_seq) SELECT n.*, 0 FROM "
    ));
    turn_cells(&mut q, turns);
    q.push(" ON CONFLICT DO NOTHING");
    let written = q.build().execute(&mut *db).await?.rows_affected();
    if i64::try_from(written).is_ok_and(|written| is_all(written, turns)) {
        return Ok(true);
    }
    let mut q = QueryBuilder::new("SELECT count(*) FROM ");
    turn_cells(&mut q, turns);
    q.push(concat!(
        "(",
        turn_columns!(),
        ") JOIN turns t ON t.id = n.id WHERE (t.bot_id, t.conversation_id, t.message_id, t.reply_id, t.state, t.model, \
             t.server, t.attempt_of, t.prompt_tokens, t.completion_tokens, t.queued_ms, t.first_token_ms, t.total_ms, \
             t.num_ctx, t.context_used, t.trimmed_messages, t.trimmed_tokens, t.error, t.created_at, t.ended_at, \
             t.overrides) IS NOT DISTINCT FROM (n.bot_id, n.conversation_id, n.message_id, n.reply_id, n.state, \
             n.model, n.server, n.attempt_of, n.prompt_tokens, n.completion_tokens, n.queued_ms, n.first_token_ms, \
             n.total_ms, n.num_ctx, n.context_used, n.trimmed_messages, n.trimmed_tokens, n.error, n.created_at, \
             n.ended_at, n.overrides)"
    ));
    Ok(is_all(q.build_query_scalar().fetch_one(db).await?, turns))
}

fn is_all<T>(count: i64, rows: &[T]) -> bool {
    usize::try_from(count).is_ok_and(|count| count == rows.len())
}
