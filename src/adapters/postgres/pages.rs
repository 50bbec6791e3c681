//! Walks along `parent_id`. A walk reads ids only and stops as soon as it may; contents are read
//! for the messages that are returned.

use deia_actors::{
    domain::{
        ids::{ConversationId, MessageId},
        message::Message,
    },
    ports::history_store::{Cursor, MessagePage, StoreError},
};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    error,
    rows::{self, message_columns, siblings},
};

/// End of the active path of a conversation.
pub(super) async fn leaf(
    at: &mut PgConnection,
    conversation: ConversationId,
) -> Result<Option<MessageId>, StoreError> {
    let leaf: Option<Option<Uuid>> =
        sqlx::query_scalar("SELECT leaf_message_id FROM conversations WHERE id = $1")
            .bind(conversation.0)
            .fetch_optional(at)
            .await
            .map_err(error::sort)?;
    Ok(leaf.flatten().map(MessageId))
}

/// A page of the path that ends with `leaf`.
pub(super) async fn page(
    at: &mut PgConnection,
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
    at: &mut PgConnection,
    leaf: MessageId,
    max_bytes: usize,
) -> Result<Vec<Message>, StoreError> {
    let (mut messages, mut left, mut next) = (vec![], Some(max_bytes), Some(leaf));
    // Once, unless the stored form of a text was longer than the text.
    while let (Some(room), Some(from)) = (left, next) {
        let rows = sqlx::query(concat!(
            "WITH RECURSIVE up(id, parent_id, depth, bytes) AS ( \
                 SELECT id, parent_id, 0, octet_length(content)::int8 FROM chat_messages WHERE id = $1 \
                 UNION ALL \
                 SELECT m.id, m.parent_id, up.depth + 1, up.bytes + octet_length(m.content) \
                 FROM up JOIN chat_messages m ON m.id = up.parent_id WHERE up.bytes <= $2) \
             SELECT ",
            message_columns!(),
            " FROM up JOIN chat_messages m ON m.id = up.id ORDER BY up.depth"
        ))
        .bind(from.0)
        .bind(i64::try_from(room).unwrap_or(i64::MAX))
        .fetch_all(&mut *at)
        .await
        .map_err(error::sort)?;
        next = None;
        for row in &rows {
            let message = rows::message(row)?;
            left = left.and_then(|room| room.checked_sub(message.content.len()));
            next = message.parent_id;
            messages.push(message);
        }
    }
    Ok(messages)
}

/// Number and tokens of the messages above `above`.
pub(super) async fn path_rest(at: &mut PgConnection, above: MessageId) -> Result<(u32, u32), StoreError> {
    let (count, tokens): (i64, i64) = sqlx::query_as(
        "WITH RECURSIVE up(parent_id, tokens) AS ( \
             SELECT parent_id, 0::int8 FROM chat_messages WHERE id = $1 \
             UNION ALL \
             SELECT m.parent_id, m.tokens FROM up JOIN chat_messages m ON m.id = up.parent_id) \
         SELECT greatest(count(*) - 1, 0), coalesce(sum(tokens), 0)::int8 FROM up",
    )
    .bind(above.0)
    .fetch_one(at)
    .await
    .map_err(error::sort)?;
    Ok((u32::try_from(count).unwrap_or(u32::MAX), u32::try_from(tokens).unwrap_or(u32::MAX)))
}

/// Messages `from` (included) to `to` (excluded) of the path, counted from the leaf.
async fn slice(
    at: &mut PgConnection,
    leaf: MessageId,
    from: i64,
    to: i64,
) -> Result<Vec<Message>, StoreError> {
    sqlx::query(concat!(
        "WITH RECURSIVE up(id, parent_id, depth) AS ( \
             SELECT id, parent_id, 1::int8 FROM chat_messages WHERE id = $1 \
             UNION ALL \
             SELECT m.id, m.parent_id, up.depth + 1 FROM up JOIN chat_messages m ON m.id = up.parent_id \
             WHERE up.depth < $2) \
         SELECT ",
        message_columns!(),
        " FROM up JOIN chat_messages m ON m.id = up.id WHERE up.depth > $3 AND up.depth <= $2 ORDER BY up.depth"
    ))
    .bind(leaf.0)
    .bind(to)
    .bind(from)
    .fetch_all(at)
    .await
    .map_err(error::sort)?
    .iter()
    .map(rows::message)
    .collect()
}

/// Messages between the leaf and `id`; none where `id` is not on the path.
async fn depth(at: &mut PgConnection, leaf: MessageId, id: MessageId) -> Result<Option<i64>, StoreError> {
    sqlx::query_scalar(
        "WITH RECURSIVE up(id, parent_id, depth) AS ( \
             SELECT id, parent_id, 0::int8 FROM chat_messages WHERE id = $1 \
             UNION ALL \
             SELECT m.id, m.parent_id, up.depth + 1 FROM up JOIN chat_messages m ON m.id = up.parent_id \
             WHERE up.id <> $2) \
         SELECT depth FROM up WHERE id = $2",
    )
    .bind(leaf.0)
    .bind(id.0)
    .fetch_optional(at)
    .await
    .map_err(error::sort)
}

async fn parent(at: &mut PgConnection, id: MessageId) -> Result<Option<MessageId>, StoreError> {
    let parent: Option<Option<Uuid>> =
        sqlx::query_scalar("SELECT parent_id FROM chat_messages WHERE id = $1")
            .bind(id.0)
            .fetch_optional(at)
            .await
            .map_err(error::sort)?;
    Ok(parent.flatten().map(MessageId))
}
