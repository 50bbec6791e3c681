//! Paths and their pages. A walk along `parent_id` begins close to what is wanted (see `spans`), reads ids only and stops as
//! soon as it may; contents are read for the messages that are returned.

use std::collections::VecDeque;

use deia_actors::{
    domain::{
        ids::{ConversationId, MessageId},
        message::Message,
    },
    ports::history_store::{Cursor, MessagePage, PAGE_BYTES, PATH_BYTES, StoreError},
};
use futures_util::TryStreamExt;
use sqlx::{SqliteConnection, sqlite::SqliteRow};
use uuid::Uuid;

use super::{
    super::spans,
    error,
    quarantine::Quarantine,
    rows::{self, message_columns},
    shares::count_shared,
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

/// A page of the path of a conversation that ends with `leaf`.
pub(super) async fn page(
    at: &mut SqliteConnection,
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
    items.reverse();
    count_shared(at, home, &mut items).await?;
    Ok(Some(MessagePage { items, has_more }))
}

/// So many messages from `skip` on that can be read and fit a page, newest first, and whether there are more. What can't be
/// read takes no place: else a page of nothing would be the end.
async fn older(
    at: &mut SqliteConnection,
    quarantine: &Quarantine,
    (home, leaf): (ConversationId, MessageId),
    skip: i64,
    wanted: i64,
) -> Result<(Vec<Message>, bool), StoreError> {
    let (mut items, mut weight, mut from) = (vec![], 0usize, skip);
    // One more than wanted says that there are more.
    loop {
        let missing = wanted + 1 - count(items.len());
        let mut rows = walk(at, Some(home), leaf, from, from + missing);
        let mut read = 0;
        while let Some(row) = rows.try_next().await.map_err(error::of_reader)? {
            read += 1;
            let Some(message) = quarantine.sift("chat_messages", &row, rows::message(&row))? else {
                continue;
            };
            weight = weight.saturating_add(message.weight());
            if count(items.len()) == wanted || (weight > PAGE_BYTES && !items.is_empty()) {
                return Ok((items, true));
            }
            items.push(message);
        }
        if read < missing {
            return Ok((items, false));
        }
        from += missing;
    }
}

/// So many messages of the `below` newest that can be read and fit a page, the oldest of them, newest first, and whether
/// there are more.
async fn newer(
    at: &mut SqliteConnection,
    quarantine: &Quarantine,
    (home, leaf): (ConversationId, MessageId),
    below: i64,
    wanted: i64,
) -> Result<(Vec<Message>, bool), StoreError> {
    let (mut items, mut weight, mut to) = (VecDeque::<Message>::new(), 0usize, below);
    while count(items.len()) < wanted && to > 0 {
        let from = (to - (wanted - count(items.len()))).max(0);
        // They come newest first, so those that are too much are let go as older ones come.
        let mut more = VecDeque::new();
        let mut rows = walk(at, Some(home), leaf, from, to);
        let mut cut = false;
        while let Some(row) = rows.try_next().await.map_err(error::of_reader)? {
            let Some(message) = quarantine.sift("chat_messages", &row, rows::message(&row))? else {
                continue;
            };
            weight = weight.saturating_add(message.weight());
            more.push_back(message);
            while weight > PAGE_BYTES
                && more.len() + items.len() > 1
                && let Some(newest) = more.pop_front()
            {
                weight -= newest.weight();
                cut = true;
            }
        }
        more.append(&mut items);
        (items, to) = (more, from);
        if cut {
            return Ok((items.into(), true));
        }
    }
    Ok((items.into(), to > 0))
}

fn count(items: usize) -> i64 {
    i64::try_from(items).unwrap_or(i64::MAX)
}

/// The path that ends with `leaf`, newest first, until more than `max_bytes` of text or [`PATH_BYTES`] of weight were read.
pub(super) async fn path(
    at: &mut SqliteConnection,
    quarantine: &Quarantine,
    leaf: MessageId,
    max_bytes: usize,
) -> Result<Vec<Message>, StoreError> {
    let mut rows = walk(at, None, leaf, 0, i64::MAX);
    let (mut messages, mut bytes, mut weight) = (vec![], 0usize, 0usize);
    while let Some(row) = rows.try_next().await.map_err(error::of_reader)? {
        let Some(message) = quarantine.sift("chat_messages", &row, rows::message(&row))? else {
            continue;
        };
        bytes = bytes.saturating_add(message.text_bytes());
        weight = weight.saturating_add(message.weight());
        messages.push(message);
        if bytes > max_bytes || weight > PATH_BYTES {
            break;
        }
    }
    Ok(messages)
}

/// How many messages are above `above`.
pub(super) async fn messages_above(at: &mut SqliteConnection, above: MessageId) -> Result<u32, StoreError> {
    let count: i64 =
        sqlx::query_scalar(spans::above!()).bind(above.0).fetch_one(at).await.map_err(error::of_reader)?;
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Rows of the path from `from` on until `to`, counted from the leaf, with the siblings that `home` has, or else the
/// conversation of each. The recursion yields parents in their order, and CROSS JOIN
/// keeps it outermost.
fn walk(
    at: &mut SqliteConnection,
    home: Option<ConversationId>,
    leaf: MessageId,
    from: i64,
    to: i64,
) -> futures_util::stream::BoxStream<'_, Result<SqliteRow, sqlx::Error>> {
    sqlx::query(concat!(
        spans::walk!(),
        " SELECT ",
        message_columns!("coalesce($4, m.conversation_id)"),
        " FROM up CROSS JOIN chat_messages m ON m.id = up.id WHERE up.below >= $2"
    ))
    .bind(leaf.0)
    .bind(from)
    .bind(to)
    .bind(home.map(|home| home.0))
    .fetch(at)
}

/// Messages between the leaf and `id`; none where `id` is not on the path.
pub(super) async fn place(
    at: &mut SqliteConnection,
    leaf: MessageId,
    id: MessageId,
) -> Result<Option<i64>, StoreError> {
    sqlx::query_scalar(spans::place!())
        .bind(leaf.0)
        .bind(id.0)
        .fetch_optional(at)
        .await
        .map_err(error::of_reader)
}
