//! Reads of the outbox: the heads of topics and the events that readers missed.
//!
//! Events of a turn have no index of their own: every one of them is an event of its conversation, where they stand close
//! together and near the end, so they are found from there backwards.

use deia_actors::{
    domain::event::{CommittedEvent, Topic},
    ports::history_store::{Span, StoreError},
};
use futures_util::TryStreamExt;
use sqlx::{Sqlite, SqliteConnection, query::QueryScalar, sqlite::SqliteArguments};

use super::{
    error,
    quarantine::Quarantine,
    rows::{self, event_columns},
    words::unexpected,
};

fn number(number: i64) -> Result<u64, StoreError> {
    u64::try_from(number).map_err(|e| unexpected("number", e))
}

fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The newest number of a topic that is one for all. Without the condition, which goes without saying, SQLite does not take
/// the index of the topic and reads every event.
macro_rules! newest {
    ($seq:literal) => {
        concat!("SELECT max(", $seq, ") FROM outbox_events WHERE ", $seq, " IS NOT NULL")
    };
}
pub(super) use newest;

/// Number of the last event of a topic: of the newest that is kept, or of the last that retention deleted.
pub(super) async fn head(at: &mut SqliteConnection, topic: &Topic) -> Result<u64, StoreError> {
    macro_rules! last {
        ($newest:expr) => {
            sqlx::query_scalar(concat!(
                "SELECT coalesce((",
                $newest,
                "), (SELECT seq FROM topic_heads WHERE topic = $1), 0)"
            ))
            .bind(topic.to_string())
        };
    }
    let last: QueryScalar<'_, Sqlite, i64, SqliteArguments> = match topic {
        Topic::Bots => last!(newest!("bots_seq")),
        Topic::Tree => last!(newest!("tree_seq")),
        Topic::Models => last!(newest!("models_seq")),
        Topic::Tasks => last!(newest!("tasks_seq")),
        Topic::Bot(id) => last!(
            "SELECT max(bot_seq) FROM outbox_events WHERE bot_key = (SELECT key FROM bots WHERE id = $2)"
        )
        .bind(id.as_str()),
        Topic::Conversation(id) => {
            last!("SELECT max(conversation_seq) FROM outbox_events WHERE conversation_id = $2").bind(id.0)
        }
        // An ended turn carries its last number; that of an open one is among the newest of its conversation.
        Topic::Turn(id) => sqlx::query_scalar(
            "SELECT coalesce(t.event_seq, \
                 (SELECT e.turn_seq FROM outbox_events e WHERE e.conversation_id = t.conversation_id \
                    AND e.turn_id = t.id ORDER BY e.conversation_seq DESC LIMIT 1), \
                 (SELECT seq FROM topic_heads WHERE topic = $1), 0) \
             FROM turns t WHERE t.id = $2",
        )
        .bind(topic.to_string())
        .bind(id.0),
    };
    number(last.fetch_optional(at).await.map_err(error::of_reader)?.unwrap_or(0))
}

/// Positions of events that are not among the newest `keep` of any of their topics, turns apart; the oldest, at most
/// `limit`. Nothing is looked at where there are not that many in all.
pub(super) async fn surplus(
    at: &mut SqliteConnection,
    keep: u64,
    limit: u32,
) -> Result<Vec<i64>, StoreError> {
    let all: i64 = sqlx::query_scalar(
        "SELECT coalesce((SELECT max(position) FROM outbox_events) - (SELECT min(position) FROM outbox_events) + 1, 0)",
    )
    .fetch_one(&mut *at)
    .await
    .map_err(error::of_reader)?;
    if all <= int(keep) {
        return Ok(vec![]);
    }
    macro_rules! beyond {
        ($seq:literal) => {
            concat!(" AND (e.", $seq, " IS NULL OR e.", $seq, " <= (", newest!($seq), ") - $1)")
        };
    }
    sqlx::query_scalar(concat!(
        "WITH conversations_over AS (SELECT conversation_id AS id, max(conversation_seq) - $1 AS through \
             FROM outbox_events WHERE conversation_id IS NOT NULL GROUP BY conversation_id HAVING count(*) > $1), \
         bots_over AS (SELECT bot_key AS id, max(bot_seq) - $1 AS through \
             FROM outbox_events WHERE bot_key IS NOT NULL GROUP BY bot_key HAVING count(*) > $1) \
         SELECT e.position FROM outbox_events e LEFT JOIN conversations_over c ON c.id = e.conversation_id \
             LEFT JOIN bots_over b ON b.id = e.bot_key \
         WHERE (e.conversation_id IS NULL OR e.conversation_seq <= c.through) \
             AND (e.bot_key IS NULL OR e.bot_seq <= b.through) \
             AND coalesce(e.conversation_seq, e.bot_seq, e.bots_seq, e.tree_seq, e.models_seq, e.tasks_seq) IS NOT NULL",
        beyond!("bots_seq"),
        beyond!("tree_seq"),
        beyond!("models_seq"),
        beyond!("tasks_seq"),
        " ORDER BY e.position LIMIT $2"
    ))
    .bind(int(keep))
    .bind(limit)
    .fetch_all(at)
    .await
    .map_err(error::of_reader)
}

/// Events behind a position.
pub(super) async fn after(
    quarantine: &Quarantine,
    at: &mut SqliteConnection,
    position: u64,
    limit: u32,
) -> Result<Vec<CommittedEvent>, StoreError> {
    sqlx::query(concat!(
        "SELECT ",
        event_columns!(),
        " FROM outbox_events e LEFT JOIN bots b ON b.key = e.bot_key WHERE e.position > $1 \
         ORDER BY e.position LIMIT $2"
    ))
    .bind(int(position))
    .bind(limit)
    .fetch_all(at)
    .await
    .map_err(error::of_reader)?
    .iter()
    .map(|row| rows::event(row).map(|read| quarantine.event(read)))
    .collect()
}

/// The events of a topic, as [`HistoryStore::topic_events`](deia_actors::ports::history_store::HistoryStore::topic_events)
/// asks for them. `at` is of one moment.
pub(super) async fn of_topic(
    quarantine: &Quarantine,
    at: &mut SqliteConnection,
    topic: &Topic,
    span: Span,
    limit: u32,
    max_bytes: usize,
) -> Result<Option<Vec<CommittedEvent>>, StoreError> {
    if kept(at, topic, span).await? != span.len() {
        return Ok(None);
    }
    macro_rules! page {
        ($of:literal, $seq:literal) => {
            sqlx::query(concat!(
                "SELECT ",
                event_columns!(),
                " FROM outbox_events e LEFT JOIN bots b ON b.key = e.bot_key WHERE ",
                $of,
                $seq,
                " > $1 AND ",
                $seq,
                " <= $2 ORDER BY ",
                $seq
            ))
        };
    }
    // Exactly so many: they are all there.
    let through = span.through.min(span.after.saturating_add(u64::from(limit)));
    let page = match topic {
        Topic::Bots => page!("", "e.bots_seq"),
        Topic::Tree => page!("", "e.tree_seq"),
        Topic::Models => page!("", "e.models_seq"),
        Topic::Tasks => page!("", "e.tasks_seq"),
        Topic::Bot(_) => page!("e.bot_key = (SELECT key FROM bots WHERE id = $3) AND ", "e.bot_seq"),
        Topic::Conversation(_) => page!("e.conversation_id = $3 AND ", "e.conversation_seq"),
        // Sorted afterwards: the order of the index ends the search as soon as all are found.
        Topic::Turn(_) => sqlx::query(concat!(
            "SELECT * FROM (SELECT ",
            event_columns!(),
            " FROM outbox_events e LEFT JOIN bots b ON b.key = e.bot_key \
             WHERE e.conversation_id = (SELECT conversation_id FROM turns WHERE id = $3) AND e.turn_id = $3 \
                 AND e.turn_seq > $1 AND e.turn_seq <= $2 ORDER BY e.conversation_seq DESC LIMIT $2 - $1) \
             ORDER BY position"
        )),
    };
    let page = page.bind(int(span.after)).bind(int(through));
    let page = match topic {
        Topic::Bots | Topic::Tree | Topic::Models | Topic::Tasks => page,
        Topic::Bot(id) => page.bind(id.as_str()),
        Topic::Conversation(id) => page.bind(id.0),
        Topic::Turn(id) => page.bind(id.0),
    };
    let mut rows = page.fetch(at);
    let (mut events, mut bytes) = (vec![], 0usize);
    while bytes <= max_bytes
        && let Some(row) = rows.try_next().await.map_err(error::of_reader)?
    {
        let event = quarantine.event(rows::event(&row)?);
        bytes = bytes.saturating_add(event.data.len());
        events.push(event);
    }
    Ok(Some(events))
}

/// How many events of a span there are. Reads nothing but an index, turns apart.
async fn kept(at: &mut SqliteConnection, topic: &Topic, span: Span) -> Result<u64, StoreError> {
    macro_rules! count {
        ($of:literal, $seq:literal) => {
            sqlx::query_scalar(concat!(
                "SELECT count(*) FROM outbox_events WHERE ",
                $of,
                $seq,
                " > $1 AND ",
                $seq,
                " <= $2"
            ))
        };
    }
    let count: QueryScalar<'_, Sqlite, i64, SqliteArguments> = match topic {
        Topic::Bots => count!("", "bots_seq"),
        Topic::Tree => count!("", "tree_seq"),
        Topic::Models => count!("", "models_seq"),
        Topic::Tasks => count!("", "tasks_seq"),
        Topic::Bot(_) => count!("bot_key = (SELECT key FROM bots WHERE id = $3) AND ", "bot_seq"),
        Topic::Conversation(_) => count!("conversation_id = $3 AND ", "conversation_seq"),
        Topic::Turn(_) => sqlx::query_scalar(
            "SELECT count(*) FROM (SELECT 1 FROM outbox_events \
                 WHERE conversation_id = (SELECT conversation_id FROM turns WHERE id = $3) AND turn_id = $3 \
                     AND turn_seq > $1 AND turn_seq <= $2 ORDER BY conversation_seq DESC LIMIT max($2 - $1, 0))",
        ),
    };
    let count = count.bind(int(span.after)).bind(int(span.through));
    let count = match topic {
        Topic::Bots | Topic::Tree | Topic::Models | Topic::Tasks => count,
        Topic::Bot(id) => count.bind(id.as_str()),
        Topic::Conversation(id) => count.bind(id.0),
        Topic::Turn(id) => count.bind(id.0),
    };
    number(count.fetch_one(at).await.map_err(error::of_reader)?)
}
