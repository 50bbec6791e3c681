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
use futures_util::{TryStreamExt, stream::BoxStream};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};
use uuid::Uuid;

use super::{
    error,
    quarantine::{Keyed, Quarantine},
    reader::Reader,
    rows::{self, message_columns, turn_columns},
};

impl Reader {
    pub(super) async fn arrived(&self) -> Result<Arrival, StoreError> {
        self.number("SELECT coalesce(max(rowid), 0) FROM chat_messages").await.map(Arrival)
    }
}

/// The index on conversation, parent and id has this order; only first messages, without a parent, are apart. Rows arrive in
/// the order of their rowids (the `+` keeps the table from being read in that order).
pub(super) async fn messages_after(
    quarantine: &Quarantine,
    at: &mut SqliteConnection,
    conversation: ConversationId,
    after: Option<Place>,
    by: Arrival,
    limit: u32,
    max_bytes: usize,
) -> Result<Stretch, StoreError> {
    let by = i64::try_from(by.0).unwrap_or(i64::MAX);
    let mut page = Page { read: Stretch::default(), bytes: 0, after, limit, max_bytes };
    // Some rows can't be read: then there is room for more.
    while !page.is_full() {
        let before = page.after;
        if before.is_none_or(|place| place.parent_id.is_none()) {
            let first = sqlx::query(concat!(
                "SELECT ",
                message_columns!(),
                " FROM chat_messages m WHERE m.conversation_id = $1 AND m.parent_id IS NULL AND m.id > $2 \
                 AND +m.rowid <= $4 ORDER BY m.id LIMIT $3"
            ))
            .bind(conversation.0)
            .bind(before.map_or(Uuid::nil(), |place| place.id.0))
            .bind(limit)
            .bind(by);
            page.fill(quarantine, first.fetch(&mut *at)).await?;
        }
        if page.after == before && !page.is_full() {
            let place = before.and_then(|place| place.parent_id.map(|parent| (parent.0, place.id.0)));
            let (parent, id) = place.unwrap_or((Uuid::nil(), Uuid::nil()));
            let next = sqlx::query(concat!(
                "SELECT ",
                message_columns!(),
                " FROM chat_messages m WHERE m.conversation_id = $1 AND (m.parent_id, m.id) > ($2, $3) \
                 AND +m.rowid <= $5 ORDER BY m.parent_id, m.id LIMIT $4"
            ))
            .bind(conversation.0)
            .bind(parent)
            .bind(id)
            .bind(limit)
            .bind(by);
            page.fill(quarantine, next.fetch(&mut *at)).await?;
        }
        if page.after == before {
            break;
        }
    }
    Ok(page.read)
}

struct Page {
    read: Stretch,
    bytes: usize,
    /// The last row so far, readable or not.
    after: Option<Place>,
    limit: u32,
    max_bytes: usize,
}

impl Page {
    fn is_full(&self) -> bool {
        self.read.messages.len() >= usize::try_from(self.limit).unwrap_or(usize::MAX)
            || self.bytes > self.max_bytes
    }

    async fn fill(
        &mut self,
        quarantine: &Quarantine,
        mut rows: BoxStream<'_, Result<SqliteRow, sqlx::Error>>,
    ) -> Result<(), StoreError> {
        while !self.is_full()
            && let Some(row) = rows.try_next().await.map_err(error::of_reader)?
        {
            if let (Ok(id), Ok(parent)) = (row.try_get(0), row.try_get::<Option<Uuid>, _>(3)) {
                self.after = Some(Place { parent_id: parent.map(MessageId), id: MessageId(id) });
            }
            if let Some(message) = quarantine.sift("chat_messages", &row, rows::message(&row))? {
                self.bytes = self.bytes.saturating_add(message.weight());
                self.read.messages.push(message);
            } else {
                self.read.left_out.push(MessageId(Uuid::from_slice(&row.key()).unwrap_or_default()));
            }
        }
        Ok(())
    }
}

/// Ids as one parameter.
fn list(ids: impl Iterator<Item = Uuid>) -> String {
    let ids: Vec<String> = ids.map(|id| format!("\"{}\"", id.simple())).collect();
    format!("[{}]", ids.join(","))
}

pub(super) async fn messages_with(
    quarantine: &Quarantine,
    at: &mut SqliteConnection,
    ids: &[MessageId],
) -> Result<Vec<Message>, StoreError> {
    sqlx::query(concat!(
        "SELECT ",
        message_columns!(),
        " FROM chat_messages m WHERE m.id IN (SELECT unhex(value) FROM json_each($1)) ORDER BY m.id"
    ))
    .bind(list(ids.iter().map(|id| id.0)))
    .fetch_all(at)
    .await
    .map_err(error::of_reader)?
    .iter()
    .filter_map(|row| quarantine.sift("chat_messages", row, rows::message(row)).transpose())
    .collect()
}

pub(super) async fn turns_with(
    quarantine: &Quarantine,
    at: &mut SqliteConnection,
    ids: &[TurnId],
) -> Result<Vec<ArchivedTurn>, StoreError> {
    sqlx::query(concat!(
        "SELECT ",
        turn_columns!(),
        ", t.overrides FROM turns t WHERE t.id IN (SELECT unhex(value) FROM json_each($1)) ORDER BY t.id"
    ))
    .bind(list(ids.iter().map(|id| id.0)))
    .fetch_all(at)
    .await
    .map_err(error::of_reader)?
    .iter()
    .filter_map(|row| quarantine.sift("turns", row, rows::archived_turn(row)).transpose())
    .collect()
}
