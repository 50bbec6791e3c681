//! Applies one change. Every statement is conditional: what had been made before, or has lost its
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
use rusqlite::{Connection, params};

use super::{super::words::json, ends::Ends, history, import, keys, outbox::Outbox, rounds, turn};
use crate::adapters::applied::Applied;

/// Counters as SQLite has them.
pub(super) fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Applies the change of a fact.
pub(super) fn apply(
    db: &Connection,
    outbox: &mut Outbox,
    ends: &mut Ends,
    fact: &Fact,
) -> rusqlite::Result<Applied> {
    if !fact.change.is_frequent() {
        ends.write(db)?;
        ends.forget();
    }
    match &fact.change {
        Change::None => Ok(Applied::YES),
        Change::CreateBot { bot, main, status } => create_bot(db, bot, main, status),
        Change::UpdateBot(bot) => update_bot(db, bot),
        Change::DeleteBot { bot_id, purge } => delete_bot(db, bot_id, *purge, fact.time()),
        Change::SaveStatus(status) if !is_in_roster(db, &status.bot_id)? => Ok(Applied::NO),
        Change::SaveStatus(status) => save_status(db, status),
        Change::CreateConversation(conversation) => history::create_conversation(db, conversation),
        Change::UpdateConversation(conversation) => history::update_conversation(db, conversation),
        Change::DeleteConversation(id) => history::delete_conversation(db, *id),
        Change::HoldConversation { conversation_id, bot_id, held } => {
            history::hold(db, *conversation_id, bot_id, *held)
        }
        Change::AcceptTurn { turn, message, reply, overrides, idempotency } => {
            keys::once(db, idempotency.as_ref(), Some(turn.id), message, reply, || {
                turn::accept(db, outbox, ends, turn, message, reply, overrides.as_ref())
            })
        }
        Change::AppendMessages { messages, idempotency } => match &messages[..] {
            [] => Ok(Applied::NO),
            [first, ..] => {
                let last = messages.last().unwrap_or(first);
                keys::once(db, idempotency.as_ref(), None, first, last, || {
                    history::append_messages(db, ends, messages, last)
                })
            }
        },
        Change::StartTurn(turn) => turn::start(db, turn),
        Change::Checkpoint { reply_id, content, thinking } => {
            turn::checkpoint(db, *reply_id, content, thinking.as_deref())
        }
        Change::ToolRound { reply_id, messages } => rounds::store(db, *reply_id, messages),
        Change::FinishTurn { turn, reply, status } => {
            turn::finish(db, outbox, turn, reply, status, &fact.events)
        }
        Change::ClearHistory { bot_id, conversation_id } => history::clear(db, bot_id, *conversation_id),
        Change::BeginAnew { messages, clears, idempotency } => match &messages[..] {
            [] => Ok(Applied::NO),
            [first, ..] => {
                let last = messages.last().unwrap_or(first);
                keys::once(db, idempotency.as_ref(), None, first, last, || {
                    history::begin_anew(db, ends, messages, *clears)
                })
            }
        },
        Change::Import(part) => import::import(db, part),
        Change::AddServer(server) => add_server(db, server),
        Change::RemoveServer(name) => {
            db.prepare_cached("DELETE FROM model_servers WHERE name = ?1")?.execute([name])?;
            Ok(Applied::YES)
        }
    }
}

/// A deleted bot's row is used again, so that its key stays.
fn create_bot(
    db: &Connection,
    bot: &BotRecord,
    main: &Conversation,
    status: &StoredStatus,
) -> rusqlite::Result<Applied> {
    if history::exists(db, main.id)? {
        return Ok(Applied::NO);
    }
    let rows = db
        .prepare_cached(
            "INSERT INTO bots (id, name, config, config_version, main_conversation_id, metadata, created_at, \
                 updated_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) \
             ON CONFLICT (id) DO UPDATE SET name = excluded.name, config = excluded.config, \
                 config_version = excluded.config_version, metadata = excluded.metadata, \
                 main_conversation_id = excluded.main_conversation_id, created_at = excluded.created_at, \
                 updated_at = excluded.updated_at, deleted_at = NULL \
             WHERE deleted_at IS NOT NULL",
        )?
        .execute(params![
            bot.id.as_str(),
            bot.name,
            json(&bot.config),
            int(bot.config_version),
            bot.main_conversation_id.0,
            json(&bot.metadata),
            bot.created_at.0,
            bot.updated_at.0
        ])?;
    if rows == 0 {
        return Ok(Applied::NO);
    }
    history::create_conversation(db, main)?;
    db.prepare_cached(
        "INSERT INTO bot_status (bot_id, status, last_message, error_count, restart_count, prompt_tokens, \
             completion_tokens, updated_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) \
         ON CONFLICT (bot_id) DO UPDATE SET status = excluded.status, last_message = excluded.last_message, \
             error_count = excluded.error_count, restart_count = excluded.restart_count, \
             prompt_tokens = excluded.prompt_tokens, completion_tokens = excluded.completion_tokens, \
             updated_at = excluded.updated_at",
    )?
    .execute(params![
        status.bot_id.as_str(),
        status.state.as_str(),
        status.last_message.map(|t| t.0),
        int(status.error_count),
        int(status.restart_count),
        int(status.tokens.prompt),
        int(status.tokens.completion),
        status.updated_at.0
    ])?;
    Ok(Applied::YES)
}

fn update_bot(db: &Connection, bot: &BotRecord) -> rusqlite::Result<Applied> {
    db.prepare_cached(
        "UPDATE bots SET name = ?2, config = ?3, config_version = ?4, metadata = ?5, updated_at = ?6 \
         WHERE id = ?1 AND deleted_at IS NULL",
    )?
    .execute(params![
        bot.id.as_str(),
        bot.name,
        json(&bot.config),
        int(bot.config_version),
        json(&bot.metadata),
        bot.updated_at.0
    ])
    .map(Applied::if_any)
}

fn is_in_roster(db: &Connection, bot: &BotId) -> rusqlite::Result<bool> {
    db.prepare_cached("SELECT 1 FROM bots WHERE id = ?1 AND deleted_at IS NULL")?.exists([bot.as_str()])
}

/// The last status of a bot stays for a while, unless nothing of it shall; retention takes it.
fn delete_bot(db: &Connection, bot: &BotId, purge: bool, at: Timestamp) -> rusqlite::Result<Applied> {
    if purge && history::has_held(db, bot)? {
        return Ok(Applied::NO);
    }
    let rows = db
        .prepare_cached("UPDATE bots SET deleted_at = ?2 WHERE id = ?1 AND deleted_at IS NULL")?
        .execute(params![bot.as_str(), at.0])?;
    if rows == 0 {
        return Ok(Applied::NO);
    }
    keys::forget(db, bot)?;
    if !purge {
        db.prepare_cached(
            "UPDATE conversations SET retired_at = ?2 WHERE bot_id = ?1 AND retired_at IS NULL",
        )?
        .execute(params![bot.as_str(), at.0])?;
        turn::interrupt_all(db, bot, at)?;
        return Ok(Applied::YES);
    }
    db.prepare_cached("DELETE FROM bot_status WHERE bot_id = ?1")?.execute([bot.as_str()])?;
    // The row stays for its key; what the caller wrote into it goes.
    db.prepare_cached("UPDATE bots SET name = '', config = '{}', metadata = '{}' WHERE id = ?1")?
        .execute([bot.as_str()])?;
    history::purge(db, bot).map(Applied::deleted)
}

fn add_server(db: &Connection, server: &ServerRecord) -> rusqlite::Result<Applied> {
    db.prepare_cached(
        "INSERT INTO model_servers (name, url, slots, created_at) VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT (name) DO UPDATE SET url = excluded.url, slots = excluded.slots, created_at = excluded.created_at",
    )?
    .execute(params![server.name, server.url, server.slots, server.created_at.0])
    .map(Applied::if_any)
}

/// Overwrites the status of a bot that is in the roster, unless it has a newer one.
pub(super) fn save_status(db: &Connection, status: &StoredStatus) -> rusqlite::Result<Applied> {
    db.prepare_cached(
        "UPDATE bot_status SET status = ?2, last_message = ?3, error_count = ?4, restart_count = ?5, \
             prompt_tokens = ?6, completion_tokens = ?7, updated_at = ?8 WHERE bot_id = ?1 AND updated_at <= ?8",
    )?
    .execute(params![
        status.bot_id.as_str(),
        status.state.as_str(),
        status.last_message.map(|t| t.0),
        int(status.error_count),
        int(status.restart_count),
        int(status.tokens.prompt),
        int(status.tokens.completion),
        status.updated_at.0
    ])
    .map(Applied::if_any)
}
