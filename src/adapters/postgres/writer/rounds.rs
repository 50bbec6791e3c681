//! Rounds of tools: messages between a running answer and what it hung on.

use deia_actors::domain::{ids::MessageId, message::Message};
use sqlx::PgConnection;
use uuid::Uuid;

use super::import::store_messages;
use crate::adapters::applied::Applied;

/// Puts messages in front of a running answer. It begins a branch of its own, and what stands below it goes with it; the
/// messages go on where it stood.
pub(super) async fn store(
    db: &mut PgConnection,
    reply: MessageId,
    messages: &[Message],
) -> sqlx::Result<Applied> {
    let (Some(first), Some(last)) = (messages.first(), messages.last()) else { return Ok(Applied::NO) };
    let stood: Option<(Uuid, i64)> = sqlx::query_as(
        "UPDATE chat_messages SET parent_id = $3 \
         WHERE id = $1 AND state = 'pending' AND parent_id IS NOT DISTINCT FROM $2 RETURNING branch, depth",
    )
    .bind(reply.0)
    .bind(first.parent_id.map(|p| p.0))
    .bind(last.id.0)
    .fetch_optional(&mut *db)
    .await?;
    let Some((branch, depth)) = stood else { return Ok(Applied::NO) };
    if branch != reply.0 {
        sqlx::query(
            "UPDATE chat_messages SET branch = $1, depth = depth - $3 WHERE branch = $2 AND depth >= $3",
        )
        .bind(reply.0)
        .bind(branch)
        .bind(depth)
        .execute(&mut *db)
        .await?;
    }
    store_messages(db, messages).await?;
    Ok(Applied::YES)
}
