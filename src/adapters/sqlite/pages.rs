//! Walks along `parent_id`. A walk reads ids only and stops as soon as it may; contents are read
//! for the messages that are returned.

use deia_actors::{
    domain::{
        ids::{ConversationId, MessageId},
        message::Message,
    },
    ports::history_store::{Cursor, MessagePage, StoreError},
};
use futures_util::TryStreamExt;
use sqlx::{SqliteConnection, sqlite::SqliteRow};
use uuid::Uuid;

use super::{
    error,
    rows::{self, message_columns},
};

/// End of the active path of a conversation.
pub(super) async fn leaf(
    at: &mut SqliteConnection,
    conversation: ConversationId,
) -> Result<Option<MessageId>, StoreError> {
    let leaf: Option<Option<Uuid>> =
        sqlx::query_scalar("SELECT leaf_message_id FROM conversations WHERE id = $1")
            .bind(conversation.0)
            .fetch_optional(at)
            .await
            .map_err(error::of_reader)?;
    Ok(leaf.flatten().map(MessageId))
}

/// A page of the path that ends with `leaf`.
pub(super) async fn page(
    at: &mut SqliteConnection,
    leaf: Option<MessageId>,
    cursor: Cursor,
    limit: u32,
) -> Result<Option<MessagePage>, StoreError> {
    let (limit, wanted) = (usize::try_from(limit).unwrap_or(usize::MAX), i64::from(limit));
    let Some(leaf) = leaf else {
        let empty = MessagePage { items: vec![], has_more: false };
        return Ok(matches!(cursor, Cursor::Newest { .. }).then_some(empty));
    };
    let (mut items, has_more) = match cursor {
        Cursor::Newest { offset } => {
            let skip = i64::from(offset);
            older(slice(at, leaf, skip, skip + wanted + 1).await?, limit)
        }
        Cursor::Before(id) => {
            if depth(at, leaf, id).await?.is_none() {
                return Ok(None);
            }
            match parent(at, id).await? {
                Some(parent) => older(slice(at, parent, 0, wanted + 1).await?, limit),
                None => (vec![], false),
            }
        }
        Cursor::After(id) => {
            let Some(depth) = depth(at, leaf, id).await? else { return Ok(None) };
            let from = (depth - wanted).max(0);
            (slice(at, leaf, from, depth).await?, from > 0)
        }
    };
    items.reverse();
    Ok(Some(MessagePage { items, has_more }))
}

/// Cuts the one message that was read to see whether there are more.
fn older(mut items: Vec<Message>, limit: usize) -> (Vec<Message>, bool) {
    let has_more = items.len() > limit;
    items.truncate(limit);
    (items, has_more)
}

/// The path that ends with `leaf`, newest first, until more than `max_bytes` of content were read.
pub(super) async fn path(
    at: &mut SqliteConnection,
    leaf: MessageId,
    max_bytes: usize,
) -> Result<Vec<Message>, StoreError> {
    let mut rows = walk(at, leaf, 0, -1);
    let (mut messages, mut bytes) = (vec![], 0usize);
    while let Some(row) = rows.try_next().await.map_err(error::of_reader)? {
        let message = rows::message(&row)?;
        bytes = bytes.saturating_add(message.content.len());
        messages.push(message);
        if bytes > max_bytes {
            break;
        }
    }
    Ok(messages)
}

/// Number and tokens of the messages above `above`.
pub(super) async fn path_rest(at: &mut SqliteConnection, above: MessageId) -> Result<(u32, u32), StoreError> {
    let (count, tokens): (i64, i64) = sqlx::query_as(
        "WITH RECURSIVE up(parent_id, tokens) AS ( \
             SELECT parent_id, 0 FROM chat_messages WHERE id = $1 \
             UNION ALL \
             SELECT m.parent_id, m.tokens FROM up JOIN chat_messages m ON m.id = up.parent_id) \
         SELECT max(count(*) - 1, 0), coalesce(sum(tokens), 0) FROM up",
    )
    .bind(above.0)
    .fetch_one(at)
    .await
    .map_err(error::of_reader)?;
    Ok((u32::try_from(count).unwrap_or(u32::MAX), u32::try_from(tokens).unwrap_or(u32::MAX)))
}

/// The newest message of its conversation at or below `id`.
pub(super) async fn newest_below(
    at: &mut SqliteConnection,
    id: MessageId,
) -> Result<Option<MessageId>, StoreError> {
    let newest: Option<Uuid> = sqlx::query_scalar(
        "WITH RECURSIVE down(id, conversation_id) AS ( \
             SELECT id, conversation_id FROM chat_messages WHERE id = $1 \
             UNION ALL \
             SELECT m.id, m.conversation_id FROM down JOIN chat_messages m \
                 ON m.conversation_id = down.conversation_id AND m.parent_id = down.id) \
         SELECT max(id) FROM down",
    )
    .bind(id.0)
    .fetch_one(at)
    .await
    .map_err(error::of_reader)?;
    Ok(newest.map(MessageId))
}

/// Messages `from` (included) to `to` (excluded) of the path, counted from the leaf.
async fn slice(
    at: &mut SqliteConnection,
    leaf: MessageId,
    from: i64,
    to: i64,
) -> Result<Vec<Message>, StoreError> {
    walk(at, leaf, from, to)
        .map_err(error::of_reader)
        .and_then(async |row: SqliteRow| rows::message(&row))
        .try_collect()
        .await
}

/// Rows of the path from `from` on until `to`; a negative `to` is the first message. The recursion
/// yields parents in their order, and CROSS JOIN keeps it outermost.
fn walk(
    at: &mut SqliteConnection,
    leaf: MessageId,
    from: i64,
    to: i64,
) -> futures_util::stream::BoxStream<'_, Result<SqliteRow, sqlx::Error>> {
    sqlx::query(concat!(
        "WITH RECURSIVE up(id, parent_id, depth) AS ( \
             SELECT id, parent_id, 0 FROM chat_messages WHERE id = $1 \
             UNION ALL \
             SELECT m.id, m.parent_id, up.depth + 1 FROM up JOIN chat_messages m ON m.id = up.parent_id \
             LIMIT $2) \
         SELECT ",
        message_columns!(),
        " FROM up CROSS JOIN chat_messages m ON m.id = up.id WHERE up.depth >= $3"
    ))
    .bind(leaf.0)
    .bind(to)
    .bind(from)
    .fetch(at)
}

/// Messages between the leaf and `id`; none where `id` is not on the path.
async fn depth(at: &mut SqliteConnection, leaf: MessageId, id: MessageId) -> Result<Option<i64>, StoreError> {
    sqlx::query_scalar(
        "WITH RECURSIVE up(id, parent_id, depth) AS ( \
             SELECT id, parent_id, 0 FROM chat_messages WHERE id = $1 \
             UNION ALL \
             SELECT m.id, m.parent_id, up.depth + 1 FROM up JOIN chat_messages m ON m.id = up.parent_id \
             WHERE up.id <> $2) \
         SELECT depth FROM up WHERE id = $2",
    )
    .bind(leaf.0)
    .bind(id.0)
    .fetch_optional(at)
    .await
    .map_err(error::of_reader)
}

async fn parent(at: &mut SqliteConnection, id: MessageId) -> Result<Option<MessageId>, StoreError> {
    let parent: Option<Option<Uuid>> =
        sqlx::query_scalar("SELECT parent_id FROM chat_messages WHERE id = $1")
            .bind(id.0)
            .fetch_optional(at)
            .await
            .map_err(error::of_reader)?;
    Ok(parent.flatten().map(MessageId))
}
