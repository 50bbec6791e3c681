//! Paths and their pages. A walk along `parent_id` begins close to what is wanted (see `spans`), reads ids only and stops as
//! soon as it may; contents are read for the messages that are returned.

use deia_actors::{
    domain::{
        ids::{ConversationId, MessageId},
        message::Message,
    },
    ports::history_store::{Cursor, MessagePage, PAGE_BYTES, PATH_BYTES, StoreError},
};
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::{
    super::{quarantine::Quarantine, spans},
    error,
    rows::{self, message_columns, siblings, weight},
    shares::count_shared,
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

/// A page of the path of a conversation that ends with `leaf`.
pub(super) async fn page(
    at: &mut PgConnection,
    quarantine: &Quarantine,
    home: ConversationId,
    leaf: Option<MessageId>,
    cursor: Cursor,
    limit: u32,
) -> Result<Option<MessagePage>, StoreError> {
    let wanted = i64::from(limit);
    let Some(leaf) = leaf else {
        return Ok(matches!(cursor, Cursor::Newest { .. }).then(MessagePage::default));
    };
    let (mut items, has_more) = match cursor {
        Cursor::Newest { offset } => older(at, quarantine, (home, leaf), i64::from(offset), wanted).await?,
        Cursor::Before(id) => {
            let Some(below) = place(at, leaf, id).await? else { return Ok(None) };
            older(at, quarantine, (home, leaf), below + 1, wanted).await?
        }
        Cursor::After(id) => {
            let Some(below) = place(at, leaf, id).await? else { return Ok(None) };
            newer(at, quarantine, (home, leaf), below, wanted).await?
        }
    };
    count_shared(at, home, &mut items).await?;
    Ok(Some(MessagePage { items, has_more }))
}

/// Rows of the path from `$2` (included) to `$3` (excluded), counted from the leaf, in this order: as many as have no more than
/// `$4` bytes before them, with the siblings that the conversation `$5` has. The last column is the bytes up to and with a row.
macro_rules! slice {
    ($order:literal) => {
        concat!(
            spans::walk!(),
            " SELECT ",
            message_columns!("$5"),
            ", (m.before + m.bytes)::int8 FROM (SELECT found.*, sum(bytes) OVER (ORDER BY ",
            $order,
            ") - bytes AS before FROM (SELECT m.*, up.below, ",
            weight!(),
            " AS bytes FROM up JOIN chat_messages m ON m.id = up.id WHERE up.below >= $2) found) m \
             WHERE m.before <= $4 ORDER BY m.",
            $order
        )
    };
}
/// So many messages from `skip` on that can be read and fit a page, oldest first, and whether there are more. What can't be
/// read takes no place: else a page of nothing would be the end.
async fn older(
    at: &mut PgConnection,
    quarantine: &Quarantine,
    path: (ConversationId, MessageId),
    skip: i64,
    wanted: i64,
) -> Result<(Vec<Message>, bool), StoreError> {
    let (mut items, mut weight, mut from) = (vec![], 0usize, skip);
    // One more than wanted says that there are more.
    let has_more = 'full: loop {
        let missing = wanted + 1 - count(&items);
        let read = slice(at, quarantine, path, (from, from + missing), weight, slice!("below")).await?;
        from += read.rows;
        for message in read.messages {
            weight = weight.saturating_add(message.weight());
            if count(&items) == wanted || (weight > PAGE_BYTES && !items.is_empty()) {
                break 'full true;
            }
            items.push(message);
        }
        if read.rows < missing && !read.cut {
            break false;
        }
    };
    items.reverse();
    Ok((items, has_more))
}

/// So many messages of the `below` newest that can be read and fit a page, the oldest of them, oldest first, and whether
/// there are more.
async fn newer(
    at: &mut PgConnection,
    quarantine: &Quarantine,
    path: (ConversationId, MessageId),
    below: i64,
    wanted: i64,
) -> Result<(Vec<Message>, bool), StoreError> {
    let (mut items, mut weight, mut to) = (vec![], 0usize, below);
    while count(&items) < wanted && to > 0 {
        let from = (to - (wanted - count(&items))).max(0);
        let read = slice(at, quarantine, path, (from, to), weight, slice!("below DESC")).await?;
        to = if read.cut { to - read.rows } else { from };
        for message in read.messages {
            weight = weight.saturating_add(message.weight());
            if weight > PAGE_BYTES && !items.is_empty() {
                return Ok((items, true));
            }
            items.push(message);
        }
    }
    Ok((items, to > 0))
}

fn count(items: &[Message]) -> i64 {
    i64::try_from(items.len()).unwrap_or(i64::MAX)
}

/// Bytes of text of a message `m`, as it is stored.
macro_rules! text_bytes {
    () => {
        "(octet_length(m.content)::int8 + coalesce(octet_length(m.tool_calls), 0))"
    };
}

/// The path that ends with `leaf`, newest first, until more than `max_bytes` of text or [`PATH_BYTES`] of weight were read.
pub(super) async fn path(
    at: &mut PgConnection,
    quarantine: &Quarantine,
    leaf: MessageId,
    max_bytes: usize,
) -> Result<Vec<Message>, StoreError> {
    let (mut messages, mut next) = (vec![], Some(leaf));
    let mut left = Some((max_bytes, PATH_BYTES));
    // Once, unless the stored form of a message was longer than the message, or one could not be read.
    while let (Some((text, weight)), Some(from)) = (left, next) {
        let rows = sqlx::query(concat!(
            "WITH RECURSIVE up(id, parent_id, depth, bytes, weight) AS ( \
                 SELECT m.id, m.parent_id, 0, ",
            text_bytes!(),
            ", ",
            weight!(),
            " FROM chat_messages m WHERE m.id = $1 \
                 UNION ALL \
                 SELECT m.id, m.parent_id, up.depth + 1, up.bytes + ",
            text_bytes!(),
            ", up.weight + ",
            weight!(),
            " FROM up JOIN chat_messages m ON m.id = up.parent_id WHERE up.bytes <= $2 AND up.weight <= $3) \
             SELECT ",
            message_columns!(),
            ", up.parent_id FROM up JOIN chat_messages m ON m.id = up.id ORDER BY up.depth"
        ))
        .bind(from.0)
        .bind(int(text))
        .bind(int(weight))
        .fetch_all(&mut *at)
        .await
        .map_err(error::sort)?;
        next = None;
        for row in &rows {
            let parent: Option<Uuid> = row.try_get(row.len() - 1).map_err(error::sort)?;
            next = parent.map(MessageId);
            if let Some(message) = quarantine.sift("chat_messages", row, rows::message(row))? {
                left = left.and_then(|(text, weight)| {
                    text.checked_sub(message.text_bytes()).zip(weight.checked_sub(message.weight()))
                });
                messages.push(message);
            }
        }
    }
    Ok(messages)
}

fn int(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// How many messages are above `above`.
pub(super) async fn messages_above(at: &mut PgConnection, above: MessageId) -> Result<u32, StoreError> {
    let count: i64 =
        sqlx::query_scalar(spans::above!()).bind(above.0).fetch_one(at).await.map_err(error::sort)?;
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
}

/// A part of a path.
struct Slice {
    /// Those that can be read.
    messages: Vec<Message>,
    /// How many were looked at.
    rows: i64,
    /// Behind the last one there was no room for more.
    cut: bool,
}

/// The part of the path from the one place to the other, as far as it fits a page that has so much `weight` already. The one that
/// does not is the last of it, so that there is always something.
async fn slice(
    at: &mut PgConnection,
    quarantine: &Quarantine,
    (home, leaf): (ConversationId, MessageId),
    (from, to): (i64, i64),
    weight: usize,
    sql: &'static str,
) -> Result<Slice, StoreError> {
    let room = int(PAGE_BYTES.saturating_sub(weight));
    let rows = sqlx::query(sql).bind(leaf.0).bind(from).bind(to).bind(room).bind(home.0).fetch_all(at).await;
    let rows = rows.map_err(error::sort)?;
    let through: i64 = match rows.last() {
        Some(last) => last.try_get(last.len() - 1).map_err(error::sort)?,
        None => 0,
    };
    let read =
        rows.iter().filter_map(|row| quarantine.sift("chat_messages", row, rows::message(row)).transpose());
    let messages = read.collect::<Result<_, _>>()?;
    Ok(Slice { messages, rows: i64::try_from(rows.len()).unwrap_or(i64::MAX), cut: through > room })
}

/// Messages between the leaf and `id`; none where `id` is not on the path.
pub(super) async fn place(
    at: &mut PgConnection,
    leaf: MessageId,
    id: MessageId,
) -> Result<Option<i64>, StoreError> {
    sqlx::query_scalar(spans::place!()).bind(leaf.0).bind(id.0).fetch_optional(at).await.map_err(error::sort)
}
