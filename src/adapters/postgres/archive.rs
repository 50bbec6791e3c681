//! Whole conversations, and what is stored of some ids.

use deia_actors::{
    domain::{
        ids::{ConversationId, MessageId, TurnId},
        message::Message,
    },
    ports::{
        archive::{ArchivedTurn, Arrival, Place, Stretch},
        history_store::StoreError,
    },
};
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::{
    super::quarantine::{Keyed, Quarantine},
    error,
    reader::Reader,
    rows::{self, message_columns, siblings, turn_columns, weight},
};

/// Messages of a conversation behind one of them: how many at most, and about how many bytes.
#[derive(Clone, Copy)]
struct Rest {
    conversation: ConversationId,
    after: Option<Place>,
    by: i64,
    limit: usize,
    bytes: usize,
}

impl Reader {
    pub(super) async fn arrived(&self) -> Result<Arrival, StoreError> {
        self.number("SELECT coalesce(max(arrival), 0) FROM chat_messages").await.map(Arrival)
    }
}

/// The index on conversation, parent and id has this order; only first messages, without a parent, are apart.
pub(super) async fn messages_after(
    quarantine: &Quarantine,
    at: &mut PgConnection,
    conversation: ConversationId,
    after: Option<Place>,
    by: Arrival,
    limit: u32,
    max_bytes: usize,
) -> Result<Stretch, StoreError> {
    let by = i64::try_from(by.0).unwrap_or(i64::MAX);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let (mut messages, mut left_out, mut left, mut after) = (vec![], vec![], Some(max_bytes), after);
    // The stored form of a message may be longer than the message, and some can't be read: then there is room for more.
    while let Some(bytes) = left
        && messages.len() < limit
    {
        let rest = Rest { conversation, after, by, limit: limit - messages.len(), bytes };
        let mut rows = vec![];
        if after.is_none_or(|place| place.parent_id.is_none()) {
            rows = first(at, rest).await?;
        }
        if rows.is_empty() {
            rows = next(at, rest).await?;
        }
        let Some(last) = rows.last() else { break };
        let parent: Option<Uuid> = last.try_get(3).map_err(error::sort)?;
        let id = last.try_get(0).map_err(error::sort)?;
        after = Some(Place { parent_id: parent.map(MessageId), id: MessageId(id) });
        for row in &rows {
            if let Some(message) = quarantine.sift("chat_messages", row, rows::message(row))? {
                left = left.and_then(|bytes| bytes.checked_sub(message.weight()));
                messages.push(message);
            } else {
                left_out.push(MessageId(Uuid::from_slice(&row.key()).unwrap_or_default()));
            }
        }
    }
    Ok(Stretch { messages, left_out })
}

/// The rows of a page (`- 1` keeps the index on the arrival from being used); what does not fit is not sent: `before` is the size of the messages in front of one.
macro_rules! page {
    ($where:literal, $order:literal) => {
        concat!(
            "SELECT ",
            message_columns!(),
            " FROM (SELECT found.*, sum(bytes) OVER (ORDER BY ",
            $order,
            ") - bytes AS before FROM (SELECT m.*, ",
            weight!(),
            " AS bytes FROM chat_messages m WHERE conversation_id = $1 AND arrival - 1 < $4 AND ",
            $where,
            " ORDER BY ",
            $order,
            " LIMIT $2) found) m WHERE m.before <= $3 ORDER BY m.parent_id, m.id"
        )
    };
}

async fn first(at: &mut PgConnection, rest: Rest) -> Result<Vec<sqlx::postgres::PgRow>, StoreError> {
    let page = sqlx::query(page!("parent_id IS NULL AND id > $5", "id"));
    let after = rest.after.map_or(Uuid::nil(), |place| place.id.0);
    let page =
        page.bind(rest.conversation.0).bind(int(rest.limit)).bind(int(rest.bytes)).bind(rest.by).bind(after);
    page.fetch_all(at).await.map_err(error::sort)
}

async fn next(at: &mut PgConnection, rest: Rest) -> Result<Vec<sqlx::postgres::PgRow>, StoreError> {
    let page = sqlx::query(page!("(parent_id, id) > ($5, $6)", "parent_id, id"));
    let after = rest.after.and_then(|place| place.parent_id.map(|parent| (parent.0, place.id.0)));
    let (parent, id) = after.unwrap_or((Uuid::nil(), Uuid::nil()));
    let page = page
        .bind(rest.conversation.0)
        .bind(int(rest.limit))
        .bind(int(rest.bytes))
        .bind(rest.by)
        .bind(parent)
        .bind(id);
    page.fetch_all(at).await.map_err(error::sort)
}

fn int(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) async fn messages_with(
    quarantine: &Quarantine,
    at: &mut PgConnection,
    ids: &[MessageId],
) -> Result<Vec<Message>, StoreError> {
    sqlx::query(concat!(
        "SELECT ",
        message_columns!(),
        " FROM chat_messages m WHERE m.id = ANY($1) ORDER BY m.id"
    ))
    .bind(ids.iter().map(|id| id.0).collect::<Vec<_>>())
    .fetch_all(at)
    .await
    .map_err(error::sort)?
    .iter()
    .filter_map(|row| quarantine.sift("chat_messages", row, rows::message(row)).transpose())
    .collect()
}

pub(super) async fn turns_with(
    quarantine: &Quarantine,
    at: &mut PgConnection,
    ids: &[TurnId],
) -> Result<Vec<ArchivedTurn>, StoreError> {
    sqlx::query(concat!(
        "SELECT ",
        turn_columns!(),
        ", t.overrides FROM turns t WHERE t.id = ANY($1) ORDER BY t.id"
    ))
    .bind(ids.iter().map(|id| id.0).collect::<Vec<_>>())
    .fetch_all(at)
    .await
    .map_err(error::sort)?
    .iter()
    .filter_map(|row| quarantine.sift("turns", row, rows::archived_turn(row)).transpose())
    .collect()
}
