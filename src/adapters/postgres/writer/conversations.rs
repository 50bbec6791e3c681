//! Conversations, and what is deleted with them.

use std::collections::{BTreeMap, HashSet};

use deia_actors::{
    domain::{
        event::Topic,
        ids::{BotId, ConversationId, TurnId},
        message::Conversation,
    },
    ports::history_store::{REDACTED, cleared_event},
};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    super::text::pack,
    int,
    mend::{Gone, mend_behind},
};
use crate::adapters::applied::Applied;

/// Whether a conversation is stored, retired ones included.
pub(super) async fn exists(db: &mut PgConnection, id: ConversationId) -> sqlx::Result<bool> {
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM conversations WHERE id = $1)")
        .bind(id.0)
        .fetch_one(db)
        .await
}

/// A conversation of a bot that is in the roster.
pub(super) async fn create(db: &mut PgConnection, c: &Conversation) -> sqlx::Result<Applied> {
    let done = sqlx::query(
        "INSERT INTO conversations (id, bot_id, title, main, leaf_message_id, message_count, archived, \
             created_at, last_at) \
         SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9 \
         WHERE EXISTS (SELECT 1 FROM bots WHERE id = $2 AND deleted_at IS NULL) \
             AND ($5::uuid IS NULL OR EXISTS (SELECT 1 FROM chat_messages WHERE id = $5)) ON CONFLICT DO NOTHING",
    )
    .bind(c.id.0)
    .bind(c.bot_id.as_str())
    .bind(c.title.as_deref().map(pack))
    .bind(c.main)
    .bind(c.leaf_message_id.map(|m| m.0))
    .bind(int(c.message_count))
    .bind(c.archived)
    .bind(c.created_at.0)
    .bind(c.last_at.map(|t| t.0))
    .execute(db)
    .await?;
    Ok(Applied::if_any(done.rows_affected()))
}

pub(super) async fn update(db: &mut PgConnection, c: &Conversation) -> sqlx::Result<Applied> {
    let done = sqlx::query(
        "UPDATE conversations SET title = $2, leaf_message_id = $3, archived = $4 \
         WHERE id = $1 AND retired_at IS NULL AND (leaf_message_id IS NOT DISTINCT FROM $3 OR (\
             ($3::uuid IS NULL OR EXISTS (SELECT 1 FROM chat_messages m WHERE m.id = $3)) \
             AND NOT EXISTS (SELECT 1 FROM turns t WHERE t.bot_id = conversations.bot_id \
                AND t.conversation_id = $1 AND t.ended_at IS NULL)))",
    )
    .bind(c.id.0)
    .bind(c.title.as_deref().map(pack))
    .bind(c.leaf_message_id.map(|m| m.0))
    .bind(c.archived)
    .execute(db)
    .await?;
    Ok(Applied::if_any(done.rows_affected()))
}

/// Puts a conversation under legal hold or lifts it.
pub(super) async fn hold(
    db: &mut PgConnection,
    id: ConversationId,
    bot: &BotId,
    held: bool,
) -> sqlx::Result<Applied> {
    let sql = "UPDATE conversations SET legal_hold = $3 WHERE id = $1 AND bot_id = $2 AND legal_hold <> $3";
    let done = sqlx::query(sql).bind(id.0).bind(bot.as_str()).bind(held).execute(db).await?;
    Ok(Applied::if_any(done.rows_affected()))
}

/// Whether a conversation of a bot of this id is held.
pub(super) async fn has_held(db: &mut PgConnection, bot: &BotId) -> sqlx::Result<bool> {
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM conversations WHERE bot_id = $1 AND legal_hold)")
        .bind(bot.as_str())
        .fetch_one(db)
        .await
}

/// Every conversation of a bot that a legal hold reaches.
async fn held(db: &mut PgConnection, bot: &BotId) -> sqlx::Result<HashSet<Uuid>> {
    let held: Vec<(Uuid, Uuid)> =
        sqlx::query_as(crate::adapters::holds::held!()).bind(bot.as_str()).fetch_all(db).await?;
    Ok(held.into_iter().map(|(conversation, _)| conversation).collect())
}

/// Deletes a conversation with everything in it, unless an open turn is of it or answers a message of it, or a hold reaches it.
pub(super) async fn delete(db: &mut PgConnection, id: ConversationId) -> sqlx::Result<Applied> {
    let found: Option<(String, bool)> = sqlx::query_as(
        "SELECT c.bot_id, EXISTS (SELECT 1 FROM turns t WHERE t.bot_id = c.bot_id AND t.ended_at IS NULL \
             AND (t.conversation_id = c.id OR \
                 (SELECT m.conversation_id FROM chat_messages m WHERE m.id = t.message_id) = c.id)) \
         FROM conversations c WHERE c.id = $1",
    )
    .bind(id.0)
    .fetch_optional(&mut *db)
    .await?;
    let Some((owner, false)) = found else { return Ok(Applied::NO) };
    let Ok(owner) = BotId::parse(&owner) else { return Ok(Applied::NO) };
    if held(db, &owner).await?.contains(&id.0) {
        return Ok(Applied::NO);
    }
    let mut gone = Gone::default();
    gone.add(id.0, delete_contents(db, &[id.0]).await?);
    sqlx::query("DELETE FROM conversations WHERE id = $1").bind(id.0).execute(&mut *db).await?;
    let mended = mend_behind(db, &[owner.as_str()], &gone).await?;
    let events = mended.into_iter().map(|fork| cleared_event(&owner, fork, 0)).collect();
    Ok(Applied { events, ..Applied::deleted(gone.count()) })
}

/// Deletes everything of a bot, also of earlier bots of this id.
pub(super) async fn purge(db: &mut PgConnection, bot: &BotId) -> sqlx::Result<u64> {
    let all: Vec<Uuid> = sqlx::query_scalar("SELECT id FROM conversations WHERE bot_id = $1")
        .bind(bot.as_str())
        .fetch_all(&mut *db)
        .await?;
    let deleted = delete_contents(db, &all).await?;
    sqlx::query("DELETE FROM conversations WHERE bot_id = $1").bind(bot.as_str()).execute(db).await?;
    Ok(u64::try_from(deleted.len()).unwrap_or(u64::MAX))
}

/// Deletes what conversations that go consist of; answers the messages.
async fn delete_contents(db: &mut PgConnection, homes: &[Uuid]) -> sqlx::Result<Vec<Uuid>> {
    let turns: Vec<Uuid> = sqlx::query_scalar(
        "DELETE FROM turns WHERE id IN (SELECT turn_id FROM chat_messages WHERE conversation_id = ANY($1)) \
         RETURNING id",
    )
    .bind(homes)
    .fetch_all(&mut *db)
    .await?;
    forget_heads(db, homes, &turns).await?;
    let gone = sqlx::query_scalar("DELETE FROM chat_messages WHERE conversation_id = ANY($1) RETURNING id")
        .bind(homes)
        .fetch_all(&mut *db)
        .await?;
    redact(db, homes).await?;
    Ok(gone)
}

/// Forgets the numbers of topics that are gone.
pub(super) async fn forget_heads(
    db: &mut PgConnection,
    conversations: &[Uuid],
    turns: &[Uuid],
) -> sqlx::Result<()> {
    let conversations = conversations.iter().map(|id| Topic::Conversation(ConversationId(*id)));
    let turns = turns.iter().map(|id| Topic::Turn(TurnId(*id)));
    let topics: Vec<String> = conversations.chain(turns).map(|topic| topic.to_string()).collect();
    if topics.is_empty() {
        return Ok(());
    }
    sqlx::query("DELETE FROM topic_heads WHERE topic = ANY($1)").bind(topics).execute(db).await.map(drop)
}

/// Deletes the messages and ended turns of one or all conversations of a bot that are in its list and that no hold reaches.
pub(super) async fn clear(
    db: &mut PgConnection,
    bot: &BotId,
    conversation: Option<ConversationId>,
) -> sqlx::Result<Applied> {
    let mut cleared: Vec<Uuid> = sqlx::query_scalar(
        "SELECT id FROM conversations WHERE bot_id = $1 AND retired_at IS NULL \
             AND ($2::uuid IS NULL OR id = $2) ORDER BY id",
    )
    .bind(bot.as_str())
    .bind(conversation.map(|c| c.0))
    .fetch_all(&mut *db)
    .await?;
    let held = held(db, bot).await?;
    cleared.retain(|id| !held.contains(id));
    if cleared.is_empty() {
        return Ok(Applied::NO);
    }
    let (mut lost, mut gone) = (BTreeMap::new(), Gone::default());
    for id in cleared {
        let turns: Vec<Uuid> = sqlx::query_scalar(
            "DELETE FROM turns WHERE ended_at IS NOT NULL \
                AND id IN (SELECT turn_id FROM chat_messages WHERE conversation_id = $1) RETURNING id",
        )
        .bind(id)
        .fetch_all(&mut *db)
        .await?;
        forget_heads(db, &[], &turns).await?;
        // What still has a turn belongs to one that runs. A regenerated answer runs under another
        // turn than its question, so the messages that an open turn names are kept as well.
        let deleted: Vec<Uuid> = sqlx::query_scalar(
            "DELETE FROM chat_messages m WHERE m.conversation_id = $1 AND NOT EXISTS (SELECT 1 FROM turns t \
                 WHERE t.bot_id = $2 AND t.ended_at IS NULL AND (t.id = m.turn_id OR t.message_id = m.id)) \
             RETURNING m.id",
        )
        .bind(id)
        .bind(bot.as_str())
        .fetch_all(&mut *db)
        .await?;
        redact(db, &[id]).await?;
        lost.insert(ConversationId(id), u64::try_from(deleted.len()).unwrap_or(u64::MAX));
        gone.add(id, deleted);
        sqlx::query(
            "UPDATE conversations SET (message_count, last_at) = \
                 (SELECT count(*), max(created_at) FROM chat_messages WHERE conversation_id = $1), \
                 leaf_message_id = coalesce((SELECT m.id FROM chat_messages m WHERE m.id = leaf_message_id), \
                     (SELECT m.id FROM chat_messages m WHERE m.conversation_id = $1 ORDER BY m.id DESC LIMIT 1)) \
             WHERE id = $1",
        )
        .bind(id)
        .execute(&mut *db)
        .await?;
    }
    for fork in mend_behind(db, &[bot.as_str()], &gone).await? {
        lost.entry(fork).or_default();
    }
    let events = lost.iter().map(|(id, deleted)| cleared_event(bot, *id, *deleted)).collect();
    Ok(Applied { events, ..Applied::deleted(lost.values().sum()) })
}

/// Takes the texts out of the events of conversations whose messages are gone. The rows stay for their numbers. The id
/// that an event is about stands among its first fields, before any text of a person: found by its place and not by
/// parsing, which would fail at "\u0000" and at what somebody broke.
pub(super) async fn redact(db: &mut PgConnection, homes: &[Uuid]) -> sqlx::Result<()> {
    const ABOUT: &str = r#"^\{"(?:message":\{"|message_|turn":\{.*"reply_)id":"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})""#;
    sqlx::query(
        "UPDATE outbox_events SET data = $2 WHERE conversation_id = ANY($1) AND data <> $2 \
             AND event IN ('message_received', 'tool_called', 'tool_returned', 'turn_completed', 'turn_stopped', 'turn_failed', \
                 'turn_interrupted') \
             AND NOT EXISTS (SELECT 1 FROM chat_messages m \
                 WHERE m.id = substring(left(outbox_events.data, 512) from $3)::uuid)",
    )
    .bind(homes)
    .bind(REDACTED)
    .bind(ABOUT)
    .execute(db)
    .await
    .map(drop)
}
