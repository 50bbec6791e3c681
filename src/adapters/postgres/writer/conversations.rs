//! Conversations, and what is deleted with them.

use deia_actors::{
    domain::{
        ids::{BotId, ConversationId},
        message::Conversation,
    },
    ports::history_store::{REDACTED, cleared_event},
};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{super::text::pack, change::Applied, int};

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
         WHERE EXISTS (SELECT 1 FROM bots WHERE id = $2 AND deleted_at IS NULL) ON CONFLICT DO NOTHING",
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
         WHERE id = $1 AND retired_at IS NULL AND (leaf_message_id IS NOT DISTINCT FROM $3 OR NOT EXISTS \
             (SELECT 1 FROM turns t WHERE t.bot_id = conversations.bot_id \
                AND t.conversation_id = $1 AND t.ended_at IS NULL))",
    )
    .bind(c.id.0)
    .bind(c.title.as_deref().map(pack))
    .bind(c.leaf_message_id.map(|m| m.0))
    .bind(c.archived)
    .execute(db)
    .await?;
    Ok(Applied::if_any(done.rows_affected()))
}

/// Deletes a conversation with everything in it, unless a turn of it is open.
pub(super) async fn delete(db: &mut PgConnection, id: ConversationId) -> sqlx::Result<Applied> {
    let found: Option<(String, bool)> = sqlx::query_as(
        "SELECT c.bot_id, EXISTS (SELECT 1 FROM turns t WHERE t.bot_id = c.bot_id AND t.conversation_id = c.id \
             AND t.ended_at IS NULL) FROM conversations c WHERE c.id = $1",
    )
    .bind(id.0)
    .fetch_optional(&mut *db)
    .await?;
    let Some((owner, false)) = found else { return Ok(Applied::NO) };
    let deleted = delete_contents(db, id).await?;
    sqlx::query("DELETE FROM conversations WHERE id = $1").bind(id.0).execute(&mut *db).await?;
    mend(db, &owner).await?;
    Ok(Applied::deleted(deleted))
}

/// Deletes everything of a bot, also of earlier bots of this id.
pub(super) async fn purge(db: &mut PgConnection, bot: &BotId) -> sqlx::Result<u64> {
    let all: Vec<Uuid> = sqlx::query_scalar("SELECT id FROM conversations WHERE bot_id = $1")
        .bind(bot.as_str())
        .fetch_all(&mut *db)
        .await?;
    let mut deleted = 0;
    for id in all {
        deleted += delete_contents(db, ConversationId(id)).await?;
    }
    sqlx::query("DELETE FROM conversations WHERE bot_id = $1").bind(bot.as_str()).execute(db).await?;
    Ok(deleted)
}

async fn delete_contents(db: &mut PgConnection, id: ConversationId) -> sqlx::Result<u64> {
    sqlx::query(
        "DELETE FROM turns WHERE id IN (SELECT turn_id FROM chat_messages WHERE conversation_id = $1)",
    )
    .bind(id.0)
    .execute(&mut *db)
    .await?;
    let done = sqlx::query("DELETE FROM chat_messages WHERE conversation_id = $1")
        .bind(id.0)
        .execute(&mut *db)
        .await?;
    redact(db, id).await?;
    Ok(done.rows_affected())
}

/// Deletes the messages and ended turns of one or all conversations of a bot that are in its list.
pub(super) async fn clear(
    db: &mut PgConnection,
    bot: &BotId,
    conversation: Option<ConversationId>,
) -> sqlx::Result<Applied> {
    let cleared: Vec<Uuid> = sqlx::query_scalar(
        "SELECT id FROM conversations WHERE bot_id = $1 AND retired_at IS NULL \
             AND ($2::uuid IS NULL OR id = $2) ORDER BY id",
    )
    .bind(bot.as_str())
    .bind(conversation.map(|c| c.0))
    .fetch_all(&mut *db)
    .await?;
    if cleared.is_empty() {
        return Ok(Applied::NO);
    }
    let mut applied = Applied::YES;
    for id in cleared {
        sqlx::query(
            "DELETE FROM turns WHERE ended_at IS NOT NULL \
                AND id IN (SELECT turn_id FROM chat_messages WHERE conversation_id = $1)",
        )
        .bind(id)
        .execute(&mut *db)
        .await?;
        // What still has a turn belongs to one that runs. A regenerated answer runs under another
        // turn than its question, so the messages that an open turn names are kept as well.
        let deleted = sqlx::query(
            "DELETE FROM chat_messages m WHERE m.conversation_id = $1 AND NOT EXISTS (SELECT 1 FROM turns t \
                 WHERE t.bot_id = $2 AND t.ended_at IS NULL AND (t.id = m.turn_id OR t.message_id = m.id))",
        )
        .bind(id)
        .bind(bot.as_str())
        .execute(&mut *db)
        .await?
        .rows_affected();
        let id = ConversationId(id);
        redact(db, id).await?;
        applied.deleted += deleted;
        applied.events.push(cleared_event(bot, id, deleted));
        sqlx::query(
            "UPDATE conversations SET (message_count, last_at) = \
                 (SELECT count(*), max(created_at) FROM chat_messages WHERE conversation_id = $1) WHERE id = $1",
        )
        .bind(id.0)
        .execute(&mut *db)
        .await?;
    }
    mend(db, bot.as_str()).await?;
    Ok(applied)
}

/// After messages went away: a message whose parent is gone is a first one, and a conversation
/// whose leaf is gone ends with its newest message. Also in forks, which share the path.
async fn mend(db: &mut PgConnection, bot: &str) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE chat_messages SET parent_id = NULL WHERE parent_id IS NOT NULL \
             AND conversation_id IN (SELECT id FROM conversations WHERE bot_id = $1) \
             AND NOT EXISTS (SELECT 1 FROM chat_messages p WHERE p.id = chat_messages.parent_id)",
    )
    .bind(bot)
    .execute(&mut *db)
    .await?;
    sqlx::query(
        "UPDATE conversations SET leaf_message_id = (SELECT m.id FROM chat_messages m \
             WHERE m.conversation_id = conversations.id ORDER BY m.id DESC LIMIT 1) \
         WHERE bot_id = $1 AND leaf_message_id IS NOT NULL \
             AND NOT EXISTS (SELECT 1 FROM chat_messages m WHERE m.id = conversations.leaf_message_id)",
    )
    .bind(bot)
    .execute(db)
    .await
    .map(drop)
}

/// Takes the texts out of the events of a conversation whose messages are gone. The rows stay for their numbers. The id
/// that an event is about stands among its first fields, before any text of a person: found by its place and not by
/// parsing, which would fail at "\u0000" and at what somebody broke.
async fn redact(db: &mut PgConnection, conversation: ConversationId) -> sqlx::Result<()> {
    const ABOUT: &str =
        r#"^\{"(?:message":\{"|turn":\{.*"reply_)id":"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})""#;
    sqlx::query(
        "UPDATE outbox_events SET data = $2 WHERE conversation_id = $1 AND data <> $2 \
             AND event IN ('message_received', 'turn_completed', 'turn_stopped', 'turn_failed', \
                 'turn_interrupted') \
             AND NOT EXISTS (SELECT 1 FROM chat_messages m \
                 WHERE m.id = substring(left(outbox_events.data, 512) from $3)::uuid)",
    )
    .bind(conversation.0)
    .bind(REDACTED)
    .bind(ABOUT)
    .execute(db)
    .await
    .map(drop)
}
