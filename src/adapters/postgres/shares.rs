//! What a conversation has of a tree that others have a part in: the children of a message, where a branch was last continued.
//! See [`shares`](crate::adapters::shares) for what a fork shares.

use deia_actors::{
    domain::{
        ids::{ConversationId, MessageId},
        message::Message,
    },
    ports::history_store::StoreError,
};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    super::shares,
    error,
    pages::{messages_above, place},
};

/// Ids of the children that a conversation has, the shared one included.
pub(super) async fn children(
    at: &mut PgConnection,
    home: ConversationId,
    parent: Option<MessageId>,
) -> Result<Vec<MessageId>, StoreError> {
    let own = match parent {
        Some(parent) => sqlx::query_scalar(
            "SELECT id FROM chat_messages WHERE conversation_id = $1 AND parent_id = $2 ORDER BY id",
        )
        .bind(home.0)
        .bind(parent.0),
        None => sqlx::query_scalar(
            "SELECT id FROM chat_messages WHERE conversation_id = $1 AND parent_id IS NULL ORDER BY id",
        )
        .bind(home.0),
    };
    let ids: Vec<Uuid> = own.fetch_all(&mut *at).await.map_err(error::sort)?;
    let mut ids: Vec<MessageId> = ids.into_iter().map(MessageId).collect();
    if let Some(shared) = shared(at, home, parent).await?
        && let Err(place) = ids.binary_search(&shared)
    {
        ids.insert(place, shared);
    }
    Ok(ids)
}

/// Counts on a page of a conversation what its rows do not: of each of them the siblings that the conversation has of its own
/// were counted.
pub(super) async fn count_shared(
    at: &mut PgConnection,
    home: ConversationId,
    items: &mut [Message],
) -> Result<(), StoreError> {
    for message in items {
        let shared = match message.conversation_id == home {
            // Once a page at most: where the path leaves what is shared, or begins.
            true => shared(at, home, message.parent_id).await?,
            false => Some(message.id),
        };
        if let Some(shared) = shared {
            message.siblings.count += 1;
            message.siblings.index += u32::from(shared <= message.id);
        }
    }
    Ok(())
}

/// End of what a conversation shares.
async fn end(at: &mut PgConnection, home: ConversationId) -> Result<Option<MessageId>, StoreError> {
    let end: Option<Uuid> =
        sqlx::query_scalar(shares::end!()).bind(home.0).fetch_optional(at).await.map_err(error::sort)?;
    Ok(end.map(MessageId))
}

/// The message with this parent that a conversation shares.
async fn shared(
    at: &mut PgConnection,
    home: ConversationId,
    parent: Option<MessageId>,
) -> Result<Option<MessageId>, StoreError> {
    // Nothing that is younger than the conversation is shared, nor what hangs on that.
    if parent.is_some_and(|parent| parent.0 >= home.0) {
        return Ok(None);
    }
    let Some(end) = end(at, home).await? else { return Ok(None) };
    let below = match parent {
        Some(parent) => place(at, end, parent).await?.map(|below| below - 1),
        None => Some(i64::from(messages_above(at, end).await?)),
    };
    let Some(below) = below.filter(|below| *below >= 0) else { return Ok(None) };
    let shared: Option<Uuid> = sqlx::query_scalar(shares::nth!())
        .bind(end.0)
        .bind(below)
        .bind(below + 1)
        .fetch_optional(at)
        .await
        .map_err(error::sort)?;
    Ok(shared.map(MessageId))
}

/// The newest message of a conversation at or below `id`, which is of the conversation or shared by it.
pub(super) async fn newest_below(
    at: &mut PgConnection,
    home: ConversationId,
    id: MessageId,
) -> Result<Option<MessageId>, StoreError> {
    let own: Option<Uuid> = sqlx::query_scalar(
        "WITH RECURSIVE down(id) AS ( \
             SELECT id FROM chat_messages WHERE id = $1 AND conversation_id = $2 \
             UNION ALL \
             SELECT m.id FROM down JOIN chat_messages m ON m.conversation_id = $2 AND m.parent_id = down.id) \
         SELECT id FROM down ORDER BY id DESC LIMIT 1",
    )
    .bind(id.0)
    .bind(home.0)
    .fetch_optional(&mut *at)
    .await
    .map_err(error::sort)?;
    if own.is_some() {
        return Ok(own.map(MessageId));
    }
    let Some(end) = end(at, home).await? else { return Ok(None) };
    if place(at, end, id).await?.is_none() {
        return Ok(None);
    }
    let behind: Option<Uuid> = sqlx::query_scalar(shares::newest_behind!())
        .bind(id.0)
        .bind(home.0)
        .fetch_optional(at)
        .await
        .map_err(error::sort)?;
    Ok(Some(behind.map_or(end, MessageId)))
}
