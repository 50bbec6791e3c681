//! Deletes what is too old, a piece per transaction.

use std::collections::{BTreeMap, BTreeSet};

use deia_actors::{
    domain::{
        event::Topic,
        ids::{BotId, ConversationId, TurnId},
        time::Timestamp,
    },
    ports::retention::{Prune, Pruned},
};
use rusqlite::{Connection, params};
use uuid::Uuid;

use super::{
    history::delete_turns,
    mend::{Gone, lost_oldest, mend_behind},
    outbox::{forget_head, redact},
};
use crate::adapters::holds;

/// Deletes a piece of what its own transaction can find.
pub(super) fn prune(db: &Connection, what: Prune, limit: u32) -> rusqlite::Result<Pruned> {
    match what {
        Prune::Chat { before } => prune_chat(db, before, limit),
        Prune::Audit { before } => {
            let sql = "DELETE FROM audit_logs WHERE id IN \
                           (SELECT id FROM audit_logs WHERE created_at < ?1 ORDER BY created_at, id LIMIT ?2)";
            delete(db, sql, before, limit)
        }
        Prune::Status { before } => {
            let sql = "DELETE FROM bot_status WHERE bot_id IN (SELECT s.bot_id FROM bot_status s \
                           JOIN bots b ON b.id = s.bot_id WHERE b.deleted_at < ?1 ORDER BY b.deleted_at LIMIT ?2)";
            delete(db, sql, before, limit)
        }
        Prune::Events { before } => {
            let positions = old_events(db, before, limit)?;
            delete_events(db, &positions).map(|rows| piece(rows, limit))
        }
        // Found by a reader, then deleted by their positions.
        Prune::SurplusEvents { .. } => Ok(Pruned::default()),
        Prune::IdempotencyKeys { before } => {
            let sql = "DELETE FROM idempotency_keys WHERE (user_id, bot_id, key) IN (SELECT user_id, bot_id, key \
                           FROM idempotency_keys WHERE created_at < ?1 ORDER BY created_at LIMIT ?2)";
            delete(db, sql, before, limit)
        }
    }
}

fn delete(db: &Connection, sql: &str, before: Timestamp, limit: u32) -> rusqlite::Result<Pruned> {
    let rows = db.prepare_cached(sql)?.execute(params![before.0, limit])?;
    Ok(piece(rows, limit))
}

/// A full piece may have been the last; the next one finds out.
fn piece(rows: usize, limit: u32) -> Pruned {
    let rows = u64::try_from(rows).unwrap_or(u64::MAX);
    Pruned { rows, more: rows > 0 && rows >= u64::from(limit), bots: vec![] }
}

struct Old {
    message: Gone,
    bot: String,
    turn: Option<Uuid>,
    at: Timestamp,
}

fn prune_chat(db: &Connection, before: Timestamp, limit: u32) -> rusqlite::Result<Pruned> {
    let old = old_messages(db, before, limit)?;
    let pruned = piece(old.len(), limit);
    for old in &old {
        db.prepare_cached("DELETE FROM chat_messages WHERE id = ?1")?.execute([old.message.id])?;
    }
    for turn in old.iter().filter_map(|old| old.turn).collect::<BTreeSet<_>>() {
        delete_turns(
            db,
            "DELETE FROM turns WHERE id = ?1 AND ended_at IS NOT NULL \
                 AND NOT EXISTS (SELECT 1 FROM chat_messages m WHERE m.id = turns.reply_id) RETURNING id",
            turn,
        )?;
    }
    let mut homes: BTreeMap<ConversationId, (u32, Timestamp)> = BTreeMap::new();
    let mut bots: BTreeMap<String, Vec<Gone>> = BTreeMap::new();
    for Old { message, bot, at, .. } in old {
        let (deleted, newest) = homes.entry(message.home).or_insert((0, at));
        (*deleted, *newest) = (*deleted + 1, at.max(*newest));
        bots.entry(bot).or_default().push(message);
    }
    for (home, (deleted, newest)) in homes {
        redact(db, home)?;
        lost_oldest(db, home, deleted, newest)?;
    }
    for (bot, gone) in &bots {
        mend_behind(db, bot, gone)?;
    }
    let bots = bots.into_keys().filter_map(|bot| BotId::parse(&bot).ok()).collect();
    Ok(Pruned { bots, ..pruned })
}

/// The oldest messages, but not what a hold reaches, nor what clearing spares.
fn old_messages(db: &Connection, before: Timestamp, limit: u32) -> rusqlite::Result<Vec<Old>> {
    db.prepare_cached(concat!(
        holds::shown!(""),
        "SELECT m.id, m.conversation_id, m.bot_id, m.turn_id, m.created_at FROM chat_messages m \
             WHERE m.created_at < ?1 \
                 AND NOT EXISTS (SELECT 1 FROM conversations c WHERE c.id = m.conversation_id AND c.legal_hold) \
                 AND NOT (",
        holds::is_shown!(),
        ") AND (m.turn_id IS NULL OR m.turn_id NOT IN (SELECT id FROM turns WHERE ended_at IS NULL)) \
                 AND m.id NOT IN (SELECT message_id FROM turns WHERE ended_at IS NULL) \
             ORDER BY m.created_at, m.id LIMIT ?2"
    ))?
    .query_map(params![before.0, limit], |row| {
        let message = Gone { id: row.get(0)?, home: ConversationId(row.get(1)?) };
        Ok(Old { message, bot: row.get(2)?, turn: row.get(3)?, at: Timestamp(row.get(4)?) })
    })?
    .collect()
}

/// The oldest events, up to the first that is young: what stays has no holes.
fn old_events(db: &Connection, before: Timestamp, limit: u32) -> rusqlite::Result<Vec<i64>> {
    let mut statement =
        db.prepare_cached("SELECT position, created_at FROM outbox_events ORDER BY position LIMIT ?1")?;
    let mut rows = statement.query([limit])?;
    let mut old = vec![];
    while let Some(row) = rows.next()? {
        if row.get::<_, i64>(1)? >= before.0 {
            break;
        }
        old.push(row.get(0)?);
    }
    Ok(old)
}

/// Deletes events and keeps the numbers of their topics, as long as there is the topic.
pub(super) fn delete_events(db: &Connection, positions: &[i64]) -> rusqlite::Result<usize> {
    let mut heads: BTreeMap<String, i64> = BTreeMap::new();
    let mut deleted = 0;
    for position in positions {
        note_heads(db, *position, &mut heads)?;
        deleted += db.prepare_cached("DELETE FROM outbox_events WHERE position = ?1")?.execute([position])?;
    }
    for (topic, seq) in heads {
        db.prepare_cached(
            "INSERT INTO topic_heads (topic, seq) VALUES (?1, ?2) \
             ON CONFLICT (topic) DO UPDATE SET seq = max(seq, excluded.seq)",
        )?
        .execute(params![topic, seq])?;
    }
    Ok(deleted)
}

fn note_heads(db: &Connection, position: i64, heads: &mut BTreeMap<String, i64>) -> rusqlite::Result<()> {
    let mut statement = db.prepare_cached(
        // An ended turn keeps its last number itself.
        "SELECT e.bots_seq, e.tree_seq, e.models_seq, e.tasks_seq, e.bot_seq, e.conversation_seq, e.turn_seq, \
             b.id, c.id, CASE WHEN t.ended_at IS NULL THEN t.id END, \
             CASE WHEN t.event_seq IS NOT NULL THEN t.id END \
         FROM outbox_events e LEFT JOIN bots b ON b.key = e.bot_key \
             LEFT JOIN conversations c ON c.id = e.conversation_id \
             LEFT JOIN turns t ON t.id = e.turn_id WHERE e.position = ?1",
    )?;
    let mut rows = statement.query([position])?;
    let Some(row) = rows.next()? else { return Ok(()) };
    let bot = row.get::<_, Option<String>>(7)?.and_then(|id| BotId::parse(&id).ok()).map(Topic::Bot);
    let conversation = row.get::<_, Option<Uuid>>(8)?.map(|id| Topic::Conversation(ConversationId(id)));
    let turn = row.get::<_, Option<Uuid>>(9)?.map(|id| Topic::Turn(TurnId(id)));
    if let Some(ended) = row.get::<_, Option<Uuid>>(10)? {
        forget_head(db, &Topic::Turn(TurnId(ended)))?;
    }
    let single = [Topic::Bots, Topic::Tree, Topic::Models, Topic::Tasks].map(Some);
    for (column, topic) in single.into_iter().chain([bot, conversation, turn]).enumerate() {
        if let (Some(topic), Some(seq)) = (topic, row.get::<_, Option<i64>>(column)?) {
            let head = heads.entry(topic.to_string()).or_default();
            *head = seq.max(*head);
        }
    }
    Ok(())
}
