//! Applies one change that no run holds. Every statement is conditional: what had been made before, or has lost its
//! target, writes nothing and is reported as not applied.

use deia_actors::{
    domain::{
        bot::{BotRecord, StoredStatus},
        ids::BotId,
        message::Conversation,
        model::ServerRecord,
        time::Timestamp,
    },
    ports::history_store::{Change, Fact},
};
use sqlx::PgConnection;

use super::{
    super::{super::words::json, text::pack},
    anew, conversations, import, int, rounds,
};
use crate::adapters::applied::Applied;

/// Applies the change of a fact.
pub(super) async fn apply(db: &mut PgConnection, fact: &Fact) -> sqlx::Result<Applied> {
    match &fact.change {
        Change::CreateBot { bot, main, status } => create_bot(db, bot, main, status).await,
        Change::UpdateBot(bot) => update_bot(db, bot).await,
        Change::DeleteBot { bot_id, purge } => delete_bot(db, bot_id, *purge, fact.time()).await,
        Change::CreateConversation(conversation) => conversations::create(db, conversation).await,
        Change::UpdateConversation(conversation) => conversations::update(db, conversation).await,
        Change::DeleteConversation(id) => conversations::delete(db, *id).await,
        Change::HoldConversation { conversation_id, bot_id, held } => {
            conversations::hold(db, *conversation_id, bot_id, *held).await
        }
        Change::ClearHistory { bot_id, conversation_id } => {
            conversations::clear(db, bot_id, *conversation_id).await
        }
        Change::BeginAnew { messages, clears, idempotency } => {
            anew::begin(db, messages, *clears, idempotency.as_ref()).await
        }
        Change::ToolRound { reply_id, messages } => rounds::store(db, *reply_id, messages).await,
        Change::Import(part) => import::import(db, part).await,
        Change::AddServer(server) => add_server(db, server).await,
        Change::RemoveServer(name) => {
            sqlx::query("DELETE FROM model_servers WHERE name = $1").bind(name).execute(db).await?;
            Ok(Applied::YES)
        }
        // What a run holds.
        Change::None
        | Change::SaveStatus(_)
        | Change::AcceptTurn { .. }
        | Change::AppendMessages { .. }
        | Change::StartTurn(_)
        | Change::Checkpoint { .. }
        | Change::FinishTurn { .. } => Ok(Applied::NO),
    }
}

/// A deleted bot's row is used again, so that its key stays.
async fn create_bot(
    db: &mut PgConnection,
    bot: &BotRecord,
    main: &Conversation,
    status: &StoredStatus,
) -> sqlx::Result<Applied> {
    if conversations::exists(db, main.id).await? {
        return Ok(Applied::NO);
    }
    let rows = sqlx::query(
        "INSERT INTO bots (id, name, config, config_version, main_conversation_id, metadata, created_at, \
             updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
         ON CONFLICT (id) DO UPDATE SET name = excluded.name, config = excluded.config, \
             config_version = excluded.config_version, metadata = excluded.metadata, \
             main_conversation_id = excluded.main_conversation_id, created_at = excluded.created_at, \
             updated_at = excluded.updated_at, deleted_at = NULL \
         WHERE bots.deleted_at IS NOT NULL",
    )
    .bind(bot.id.as_str())
    .bind(pack(&bot.name))
    .bind(json(&bot.config))
    .bind(int(bot.config_version))
    .bind(bot.main_conversation_id.0)
    .bind(json(&bot.metadata))
    .bind(bot.created_at.0)
    .bind(bot.updated_at.0)
    .execute(&mut *db)
    .await?
    .rows_affected();
    if rows == 0 {
        return Ok(Applied::NO);
    }
    conversations::create(db, main).await?;
    sqlx::query(
        "INSERT INTO bot_status (bot_id, status, last_message, error_count, restart_count, prompt_tokens, \
             completion_tokens, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
         ON CONFLICT (bot_id) DO UPDATE SET status = excluded.status, last_message = excluded.last_message, \
             error_count = excluded.error_count, restart_count = excluded.restart_count, \
             prompt_tokens = excluded.prompt_tokens, completion_tokens = excluded.completion_tokens, \
             updated_at = excluded.updated_at",
    )
    .bind(status.bot_id.as_str())
    .bind(status.state.as_str())
    .bind(status.last_message.map(|t| t.0))
    .bind(int(status.error_count))
    .bind(int(status.restart_count))
    .bind(int(status.tokens.prompt))
    .bind(int(status.tokens.completion))
    .bind(status.updated_at.0)
    .execute(db)
    .await?;
    Ok(Applied::YES)
}

async fn update_bot(db: &mut PgConnection, bot: &BotRecord) -> sqlx::Result<Applied> {
    let done = sqlx::query(
        "UPDATE bots SET name = $2, config = $3, config_version = $4, metadata = $5, updated_at = $6 \
         WHERE id = $1 AND deleted_at IS NULL",
    )
    .bind(bot.id.as_str())
    .bind(pack(&bot.name))
    .bind(json(&bot.config))
    .bind(int(bot.config_version))
    .bind(json(&bot.metadata))
    .bind(bot.updated_at.0)
    .execute(db)
    .await?;
    Ok(Applied::if_any(done.rows_affected()))
}

/// The last status of a bot stays for a while, unless nothing of it shall; retention takes it.
async fn delete_bot(db: &mut PgConnection, bot: &BotId, purge: bool, at: Timestamp) -> sqlx::Result<Applied> {
    if purge && conversations::has_held(db, bot).await? {
        return Ok(Applied::NO);
    }
    let rows = sqlx::query("UPDATE bots SET deleted_at = $2 WHERE id = $1 AND deleted_at IS NULL")
        .bind(bot.as_str())
        .bind(at.0)
        .execute(&mut *db)
        .await?
        .rows_affected();
    if rows == 0 {
        return Ok(Applied::NO);
    }
    sqlx::query("DELETE FROM idempotency_keys WHERE bot_id = $1")
        .bind(bot.as_str())
        .execute(&mut *db)
        .await?;
    if !purge {
        sqlx::query("UPDATE conversations SET retired_at = $2 WHERE bot_id = $1 AND retired_at IS NULL")
            .bind(bot.as_str())
            .bind(at.0)
            .execute(&mut *db)
            .await?;
        interrupt_turns(db, bot, at).await?;
        return Ok(Applied::YES);
    }
    sqlx::query("DELETE FROM bot_status WHERE bot_id = $1").bind(bot.as_str()).execute(&mut *db).await?;
    // The row stays for its key; what the caller wrote into it goes.
    sqlx::query("UPDATE bots SET name = '', config = '{}', metadata = '{}' WHERE id = $1")
        .bind(bot.as_str())
        .execute(&mut *db)
        .await?;
    conversations::purge(db, bot).await.map(Applied::deleted)
}

/// Ends what a deleted bot left open, so that the next bot of its id does not find it.
async fn interrupt_turns(db: &mut PgConnection, bot: &BotId, at: Timestamp) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE chat_messages SET state = 'partial' WHERE state = 'pending' \
             AND id IN (SELECT reply_id FROM turns WHERE bot_id = $1 AND ended_at IS NULL)",
    )
    .bind(bot.as_str())
    .execute(&mut *db)
    .await?;
    sqlx::query(
        "UPDATE turns SET state = 'interrupted', queue = NULL, ended_at = $2 \
         WHERE bot_id = $1 AND ended_at IS NULL",
    )
    .bind(bot.as_str())
    .bind(at.0)
    .execute(db)
    .await
    .map(drop)
}

async fn add_server(db: &mut PgConnection, server: &ServerRecord) -> sqlx::Result<Applied> {
    let done = sqlx::query(
        "INSERT INTO model_servers (name, url, slots, created_at) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (name) DO UPDATE SET url = excluded.url, slots = excluded.slots, created_at = excluded.created_at",
    )
    .bind(&server.name)
    .bind(&server.url)
    .bind(i64::from(server.slots))
    .bind(server.created_at.0)
    .execute(db)
    .await?;
    Ok(Applied::if_any(done.rows_affected()))
}
