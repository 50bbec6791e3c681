//! A conversation that begins anew with the command that cleared it: one change, so that its key stands for both or neither.

use deia_actors::domain::{
    idempotency::{Idempotency, expiry},
    message::Message,
};
use sqlx::PgConnection;

use super::{super::text::pack, conversations, import::store_messages, int};
use crate::adapters::applied::Applied;

/// Clears a conversation in favour of these messages.
pub(super) async fn begin(
    db: &mut PgConnection,
    messages: &[Message],
    clears: u64,
    idempotency: Option<&Idempotency>,
) -> sqlx::Result<Applied> {
    let (Some(first), Some(last)) = (messages.first(), messages.last()) else { return Ok(Applied::NO) };
    let idle: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM conversations c WHERE c.id = $1 AND c.bot_id = $2 AND c.message_count = $3 \
             AND NOT EXISTS (SELECT 1 FROM turns t WHERE t.bot_id = c.bot_id AND t.conversation_id = c.id \
                 AND t.ended_at IS NULL))",
    )
    .bind(first.conversation_id.0)
    .bind(first.bot_id.as_str())
    .bind(int(clears))
    .fetch_one(&mut *db)
    .await?;
    if !idle || is_taken(db, first, idempotency).await? {
        return Ok(Applied::NO);
    }
    let applied = conversations::clear(db, &first.bot_id, Some(first.conversation_id)).await?;
    if !applied.applied {
        return Ok(Applied::NO);
    }
    store_messages(db, messages).await?;
    sqlx::query("UPDATE conversations SET leaf_message_id = $2 WHERE id = $1")
        .bind(first.conversation_id.0)
        .bind(last.id.0)
        .execute(&mut *db)
        .await?;
    if let Some(idempotency) = idempotency {
        take_key(db, idempotency, first, last).await?;
    }
    Ok(applied)
}

/// Whether a key stands against a change.
async fn is_taken(
    db: &mut PgConnection,
    message: &Message,
    idempotency: Option<&Idempotency>,
) -> sqlx::Result<bool> {
    let Some(Idempotency { user, key, at, .. }) = idempotency else { return Ok(false) };
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM idempotency_keys \
             WHERE user_id = $1 AND bot_id = $2 AND key = $3 AND created_at > $4)",
    )
    .bind(pack(user))
    .bind(message.bot_id.as_str())
    .bind(key.as_str())
    .bind(expiry(*at).0)
    .fetch_one(db)
    .await
}

/// Stores a key that is free with what its request did.
async fn take_key(
    db: &mut PgConnection,
    idempotency: &Idempotency,
    message: &Message,
    reply: &Message,
) -> sqlx::Result<()> {
    let Idempotency { user, key, fingerprint, at } = idempotency;
    sqlx::query(
        "INSERT INTO idempotency_keys (user_id, bot_id, key, fingerprint, message_id, reply_id, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (user_id, bot_id, key) DO UPDATE SET \
             fingerprint = excluded.fingerprint, turn_id = NULL, message_id = excluded.message_id, \
             reply_id = excluded.reply_id, created_at = excluded.created_at",
    )
    .bind(pack(user))
    .bind(message.bot_id.as_str())
    .bind(key.as_str())
    .bind(&fingerprint.0[..])
    .bind(message.id.0)
    .bind(reply.id.0)
    .bind(at.0)
    .execute(db)
    .await
    .map(drop)
}
