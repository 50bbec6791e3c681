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

use super::{
    super::error,
    Writer,
    conversations::{forget_heads, redact},
    mend::{Gone, lost_oldest, mend_behind},
    session::Session,
};
use crate::adapters::holds;

/// What one transaction deletes.
pub(in super::super) enum Piece {
    /// At most so many rows of what it finds.
    Oldest(Prune, u32),
    /// The events at these positions.
    Events(Vec<i64>),
}

impl Writer {
    /// Deletes a piece. Where the connection is lost at the end of the transaction it is done again.
    pub(in super::super) async fn prune(&self, piece: &Piece) -> Result<Pruned, StoreError> {
        let mut slot = self.session.lock().await;
        self.closed()?;
        let mut again = slot.is_some();
        loop {
            let mut session = match slot.take() {
                Some(session) => session,
                None => Session::open(&self.target).await?,
            };
            match session.prune(piece, &self.untold).await {
                Err(error) if error::is_lost(&error) && again => again = false,
                Err(error) if error::is_lost(&error) => return Err(error::sort(error)),
                Err(error) => {
                    *slot = Some(session);
                    return Err(error::sort(error));
                }
                Ok(mut pruned) => {
                    *slot = Some(session);
                    if matches!(piece, Piece::Oldest(Prune::Chat { .. }, _)) {
                        pruned.bots = std::mem::take(&mut *self.untold.lock()).into_iter().collect();
                    }
                    return Ok(pruned);
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
    let old = old_messages(db, before, limit).await?;
    if old.is_empty() {
        return Ok(Pruned::default());
    }
    let (mut gone, mut lost) = (Gone::default(), BTreeMap::new());
    for (id, home, .., at) in &old {
        gone.add(*home, vec![*id]);
        let (count, newest) = lost.entry(*home).or_insert((0, Timestamp(*at)));
        (*count, *newest) = (*count + 1, Timestamp(*at).max(*newest));
    }
    sqlx::query("DELETE FROM chat_messages WHERE id = ANY($1)").bind(&gone.ids).execute(&mut *db).await?;
    let turns: BTreeSet<Uuid> = old.iter().filter_map(|m| m.3).collect();
    let turns: Vec<Uuid> = sqlx::query_scalar(
        "DELETE FROM turns WHERE id = ANY($1) AND ended_at IS NOT NULL \
             AND NOT EXISTS (SELECT 1 FROM chat_messages m WHERE m.id = turns.reply_id) RETURNING id",
    )
    .bind(turns.into_iter().collect::<Vec<_>>())
    .fetch_all(&mut *db)
    .await?;
    forget_heads(db, &[], &turns).await?;
    redact(db, &lost.keys().copied().collect::<Vec<_>>()).await?;
    lost_oldest(db, lost).await?;
    let bots: BTreeSet<&str> = old.iter().map(|m| m.2.as_str()).collect();
    mend_behind(db, &bots.iter().copied().collect::<Vec<_>>(), &gone).await?;
    let bots = bots.into_iter().filter_map(|bot| BotId::parse(bot).ok()).collect();
    Ok(Pruned { bots, ..piece(gone.count(), limit) })
}

/// Id, conversation, bot, turn and time of a message.
type Old = (Uuid, Uuid, String, Option<Uuid>, i64);

/// The oldest messages, but not what a hold reaches, nor what clearing spares.
async fn old_messages(db: &mut PgConnection, before: Timestamp, limit: u32) -> sqlx::Result<Vec<Old>> {
    sqlx::query_as(concat!(
        holds::shown!(""),
        "SELECT m.id, m.conversation_id, m.bot_id, m.turn_id, m.created_at FROM chat_messages m \
             WHERE m.created_at < $1 \
                 AND NOT EXISTS (SELECT 1 FROM conversations c WHERE c.id = m.conversation_id AND c.legal_hold) \
                 AND NOT (",
        holds::is_shown!(),
        ") AND (m.turn_id IS NULL OR m.turn_id NOT IN (SELECT id FROM turns WHERE ended_at IS NULL)) \
                 AND m.id NOT IN (SELECT message_id FROM turns WHERE ended_at IS NULL) \
             ORDER BY m.created_at, m.id LIMIT $2"
    ))
    .bind(before.0)
    .bind(i64::from(limit))
    .fetch_all(db)
    .await
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

/// Deletes events and keeps the numbers of their topics, as long as there is the topic. An ended turn keeps its last number
/// itself.
async fn delete_events(db: &mut PgConnection, positions: &[i64]) -> sqlx::Result<u64> {
    let deleted: i64 = sqlx::query_scalar(
        "WITH gone AS (DELETE FROM outbox_events WHERE position = ANY($1) RETURNING *), \
         heads AS (SELECT 'bots' AS topic, bots_seq AS seq FROM gone \
             UNION ALL SELECT 'tree', tree_seq FROM gone \
             UNION ALL SELECT 'models', models_seq FROM gone \
             UNION ALL SELECT 'tasks', tasks_seq FROM gone \
             UNION ALL SELECT 'bot:' || b.id, g.bot_seq FROM gone g JOIN bots b ON b.key = g.bot_key \
             UNION ALL SELECT 'conversation:' || c.id, g.conversation_seq FROM gone g \
                 JOIN conversations c ON c.id = g.conversation_id \
             UNION ALL SELECT 'turn:' || t.id, g.turn_seq FROM gone g \
                 JOIN turns t ON t.id = g.turn_id AND t.ended_at IS NULL), \
         kept AS (INSERT INTO topic_heads (topic, seq) \
             SELECT topic, max(seq) FROM heads WHERE topic IS NOT NULL AND seq IS NOT NULL GROUP BY topic \
             ON CONFLICT (topic) DO UPDATE SET seq = greatest(topic_heads.seq, excluded.seq)), \
         over AS (DELETE FROM topic_heads WHERE topic IN (SELECT 'turn:' || t.id FROM gone g \
             JOIN turns t ON t.id = g.turn_id AND t.event_seq IS NOT NULL)) \
         SELECT count(*) FROM gone",
    )
    .bind(positions)
    .fetch_one(db)
    .await?;
    Ok(u64::try_from(deleted).unwrap_or(0))
}
