//! Deletes what is too old, a piece per transaction.

use std::collections::{BTreeMap, BTreeSet};

use deia_actors::{
    domain::{ids::BotId, time::Timestamp},
    ports::{
        history_store::StoreError,
        retention::{Prune, Pruned},
    },
};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{super::error, Writer, conversations::redact, session::Session};

/// What one transaction deletes.
pub(in super::super) enum Piece {
    /// At most so many rows of what it finds.
    Oldest(Prune, u32),
    /// The events at these positions.
    Events(Vec<i64>),
}

impl Writer {
    /// Deletes a piece.
    pub(in super::super) async fn prune(&self, piece: &Piece) -> Result<Pruned, StoreError> {
        let mut slot = self.session.lock().await;
        self.closed()?;
        let mut again = slot.is_some();
        loop {
            let mut session = match slot.take() {
                Some(session) => session,
                None => Session::open(&self.target).await?,
            };
            match session.prune(piece).await {
                Err(error) if error::is_lost(&error) && again => again = false,
                Err(error) if error::is_lost(&error) => return Err(error::sort(error)),
                answer => {
                    *slot = Some(session);
                    return answer.map_err(error::sort);
                }
            }
        }
    }
}

/// Deletes a piece, inside a transaction.
pub(super) async fn prune(db: &mut PgConnection, piece: &Piece) -> sqlx::Result<Pruned> {
    match piece {
        Piece::Oldest(what, limit) => prune_oldest(db, *what, *limit).await,
        Piece::Events(positions) => {
            Ok(Pruned { rows: delete_events(db, positions).await?, ..Pruned::default() })
        }
    }
}

async fn prune_oldest(db: &mut PgConnection, what: Prune, limit: u32) -> sqlx::Result<Pruned> {
    match what {
        Prune::Chat { before } => prune_chat(db, before, limit).await,
        Prune::Audit { before } => {
            let sql = "DELETE FROM audit_logs WHERE id IN \
                           (SELECT id FROM audit_logs WHERE created_at < $1 ORDER BY created_at, id LIMIT $2)";
            delete(db, sql, before, limit).await
        }
        Prune::Status { before } => {
            let sql = "DELETE FROM bot_status WHERE bot_id IN (SELECT s.bot_id FROM bot_status s \
                           JOIN bots b ON b.id = s.bot_id WHERE b.deleted_at < $1 ORDER BY b.deleted_at LIMIT $2)";
            delete(db, sql, before, limit).await
        }
        Prune::Events { before } => {
            let positions = old_events(db, before, limit).await?;
            delete_events(db, &positions).await.map(|rows| piece(rows, limit))
        }
        // Found by a reader, then deleted by their positions.
        Prune::SurplusEvents { .. } => Ok(Pruned::default()),
        Prune::IdempotencyKeys { before } => {
            let sql = "DELETE FROM idempotency_keys WHERE (user_id, bot_id, key) IN (SELECT user_id, bot_id, key \
                           FROM idempotency_keys WHERE created_at < $1 ORDER BY created_at LIMIT $2)";
            delete(db, sql, before, limit).await
        }
    }
}

async fn delete(
    db: &mut PgConnection,
    sql: &'static str,
    before: Timestamp,
    limit: u32,
) -> sqlx::Result<Pruned> {
    let done = sqlx::query(sql).bind(before.0).bind(i64::from(limit)).execute(db).await?;
    Ok(piece(done.rows_affected(), limit))
}

/// A full piece may have been the last; the next one finds out.
fn piece(rows: u64, limit: u32) -> Pruned {
    Pruned { rows, more: rows > 0 && rows >= u64::from(limit), bots: vec![] }
}

async fn prune_chat(db: &mut PgConnection, before: Timestamp, limit: u32) -> sqlx::Result<Pruned> {
    // The same messages that clearing spares.
    let old: Vec<(Uuid, Uuid, String, Option<Uuid>)> = sqlx::query_as(
        "SELECT m.id, m.conversation_id, m.bot_id, m.turn_id FROM chat_messages m WHERE m.created_at < $1 \
             AND NOT EXISTS (SELECT 1 FROM conversations c WHERE c.id = m.conversation_id AND c.legal_hold) \
             AND (m.turn_id IS NULL OR m.turn_id NOT IN (SELECT id FROM turns WHERE ended_at IS NULL)) \
             AND m.id NOT IN (SELECT message_id FROM turns WHERE ended_at IS NULL) \
         ORDER BY m.created_at, m.id LIMIT $2",
    )
    .bind(before.0)
    .bind(i64::from(limit))
    .fetch_all(&mut *db)
    .await?;
    if old.is_empty() {
        return Ok(Pruned::default());
    }
    let gone: Vec<Uuid> = old.iter().map(|m| m.0).collect();
    sqlx::query("DELETE FROM chat_messages WHERE id = ANY($1)").bind(&gone).execute(&mut *db).await?;
    let turns: BTreeSet<Uuid> = old.iter().filter_map(|m| m.3).collect();
    sqlx::query(
        "DELETE FROM turns WHERE id = ANY($1) AND ended_at IS NOT NULL \
             AND NOT EXISTS (SELECT 1 FROM chat_messages m WHERE m.id = turns.reply_id)",
    )
    .bind(turns.into_iter().collect::<Vec<_>>())
    .execute(&mut *db)
    .await?;
    let mut lost: BTreeMap<Uuid, i64> = BTreeMap::new();
    for (_, home, ..) in &old {
        *lost.entry(*home).or_default() += 1;
    }
    let (homes, counts): (Vec<_>, Vec<_>) = lost.into_iter().unzip();
    redact(db, &homes).await?;
    lost_oldest(db, &homes, &counts, before).await?;
    let bots: BTreeSet<&str> = old.iter().map(|m| m.2.as_str()).collect();
    mend_behind(db, &bots.iter().copied().collect::<Vec<_>>(), &gone).await?;
    let bots = bots.into_iter().filter_map(|bot| BotId::parse(bot).ok()).collect();
    Ok(Pruned { bots, ..piece(u64::try_from(old.len()).unwrap_or(u64::MAX), limit) })
}

/// The oldest messages of conversations went away. The newest is still there, unless none is, or those that are left are
/// old too and were spared for an open turn: only then they are looked through.
async fn lost_oldest(
    db: &mut PgConnection,
    homes: &[Uuid],
    counts: &[i64],
    before: Timestamp,
) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE conversations c SET message_count = greatest(c.message_count - n.lost, 0), last_at = CASE \
             WHEN c.message_count <= n.lost THEN NULL \
             WHEN c.last_at < $3 AND EXISTS (SELECT 1 FROM turns t WHERE t.bot_id = c.bot_id \
                 AND t.conversation_id = c.id AND t.ended_at IS NULL) \
             THEN (SELECT max(m.created_at) FROM chat_messages m WHERE m.conversation_id = c.id) \
             ELSE c.last_at END \
         FROM UNNEST($1::uuid[], $2::int8[]) n(id, lost) WHERE c.id = n.id",
    )
    .bind(homes)
    .bind(counts)
    .bind(before.0)
    .execute(db)
    .await
    .map(drop)
}

/// What stood behind these messages, in every conversation of their bots: it is a first one now, and a conversation that
/// ended with one of them ends with its newest.
async fn mend_behind(db: &mut PgConnection, bots: &[&str], gone: &[Uuid]) -> sqlx::Result<()> {
    let homes: Vec<Uuid> = sqlx::query_scalar("SELECT id FROM conversations WHERE bot_id = ANY($1)")
        .bind(bots)
        .fetch_all(&mut *db)
        .await?;
    sqlx::query(
        "UPDATE chat_messages SET parent_id = NULL WHERE conversation_id = ANY($1) AND parent_id = ANY($2)",
    )
    .bind(&homes)
    .bind(gone)
    .execute(&mut *db)
    .await?;
    sqlx::query(
        "UPDATE conversations SET leaf_message_id = (SELECT m.id FROM chat_messages m \
             WHERE m.conversation_id = conversations.id ORDER BY m.id DESC LIMIT 1) \
         WHERE id = ANY($1) AND leaf_message_id = ANY($2)",
    )
    .bind(&homes)
    .bind(gone)
    .execute(db)
    .await
    .map(drop)
}

/// The oldest events, up to the first that is young: what stays has no holes.
async fn old_events(db: &mut PgConnection, before: Timestamp, limit: u32) -> sqlx::Result<Vec<i64>> {
    let oldest: Vec<(i64, i64)> =
        sqlx::query_as("SELECT position, created_at FROM outbox_events ORDER BY position LIMIT $1")
            .bind(i64::from(limit))
            .fetch_all(db)
            .await?;
    Ok(oldest.into_iter().take_while(|(_, at)| *at < before.0).map(|(position, _)| position).collect())
}

/// Deletes events and keeps the numbers of their topics. An ended turn keeps its last number itself.
async fn delete_events(db: &mut PgConnection, positions: &[i64]) -> sqlx::Result<u64> {
    let deleted: i64 = sqlx::query_scalar(
        "WITH gone AS (DELETE FROM outbox_events WHERE position = ANY($1) RETURNING *), \
         heads AS (SELECT 'bots' AS topic, bots_seq AS seq FROM gone \
             UNION ALL SELECT 'tree', tree_seq FROM gone \
             UNION ALL SELECT 'models', models_seq FROM gone \
             UNION ALL SELECT 'tasks', tasks_seq FROM gone \
             UNION ALL SELECT 'bot:' || b.id, g.bot_seq FROM gone g JOIN bots b ON b.key = g.bot_key \
             UNION ALL SELECT 'conversation:' || conversation_id, conversation_seq FROM gone \
             UNION ALL SELECT 'turn:' || t.id, g.turn_seq FROM gone g \
                 JOIN turns t ON t.id = g.turn_id AND t.ended_at IS NULL), \
         kept AS (INSERT INTO topic_heads (topic, seq) \
             SELECT topic, max(seq) FROM heads WHERE topic IS NOT NULL AND seq IS NOT NULL GROUP BY topic \
             ON CONFLICT (topic) DO UPDATE SET seq = greatest(topic_heads.seq, excluded.seq)) \
         SELECT count(*) FROM gone",
    )
    .bind(positions)
    .fetch_one(db)
    .await?;
    Ok(u64::try_from(deleted).unwrap_or(0))
}
