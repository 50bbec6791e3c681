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
    history::{lost_oldest, mend_behind},
    outbox::redact,
};

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
            // The table comes with migration 3.
            let known = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'idempotency_keys'";
            if !db.prepare_cached(known)?.exists([])? {
                return Ok(Pruned::default());
            }
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
    id: Uuid,
    home: ConversationId,
    bot: String,
    turn: Option<Uuid>,
}

fn prune_chat(db: &Connection, before: Timestamp, limit: u32) -> rusqlite::Result<Pruned> {
    // The same messages that clearing spares.
    let old: Vec<Old> = db
        .prepare_cached(
            "SELECT m.id, m.conversation_id, m.bot_id, m.turn_id FROM chat_messages m WHERE m.created_at < ?1 \
                 AND NOT EXISTS (SELECT 1 FROM conversations c WHERE c.id = m.conversation_id AND c.legal_hold) \
                 AND (m.turn_id IS NULL OR m.turn_id NOT IN (SELECT id FROM turns WHERE ended_at IS NULL)) \
                 AND m.id NOT IN (SELECT message_id FROM turns WHERE ended_at IS NULL) \
             ORDER BY m.created_at, m.id LIMIT ?2",
        )?
        .query_map(params![before.0, limit], |row| {
            Ok(Old { id: row.get(0)?, home: ConversationId(row.get(1)?), bot: row.get(2)?, turn: row.get(3)? })
        })?
        .collect::<rusqlite::Result<_>>()?;
    for message in &old {
        db.prepare_cached("DELETE FROM chat_messages WHERE id = ?1")?.execute([message.id])?;
    }
    for turn in old.iter().filter_map(|m| m.turn).collect::<BTreeSet<_>>() {
        db.prepare_cached(
            "DELETE FROM turns WHERE id = ?1 AND ended_at IS NOT NULL \
                 AND NOT EXISTS (SELECT 1 FROM chat_messages m WHERE m.id = turns.reply_id)",
        )?
        .execute([turn])?;
    }
    let mut homes: BTreeMap<Uuid, u32> = BTreeMap::new();
    let mut bots: BTreeMap<&str, Vec<Uuid>> = BTreeMap::new();
    for message in &old {
        *homes.entry(message.home.0).or_default() += 1;
        bots.entry(&message.bot).or_default().push(message.id);
    }
    for (home, deleted) in homes {
        redact(db, ConversationId(home))?;
        lost_oldest(db, ConversationId(home), deleted, before)?;
    }
    for (bot, gone) in &bots {
        mend_behind(db, bot, gone)?;
    }
    let bots = bots.into_keys().filter_map(|bot| BotId::parse(bot).ok()).collect();
    Ok(Pruned { bots, ..piece(old.len(), limit) })
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

/// Deletes events and keeps the numbers of their topics.
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
             b.id, e.conversation_id, t.id \
         FROM outbox_events e LEFT JOIN bots b ON b.key = e.bot_key \
             LEFT JOIN turns t ON t.id = e.turn_id AND t.ended_at IS NULL WHERE e.position = ?1",
    )?;
    let mut rows = statement.query([position])?;
    let Some(row) = rows.next()? else { return Ok(()) };
    let bot = row.get::<_, Option<String>>(7)?.and_then(|id| BotId::parse(&id).ok()).map(Topic::Bot);
    let conversation = row.get::<_, Option<Uuid>>(8)?.map(|id| Topic::Conversation(ConversationId(id)));
    let turn = row.get::<_, Option<Uuid>>(9)?.map(|id| Topic::Turn(TurnId(id)));
    let single = [Topic::Bots, Topic::Tree, Topic::Models, Topic::Tasks].map(Some);
    for (column, topic) in single.into_iter().chain([bot, conversation, turn]).enumerate() {
        if let (Some(topic), Some(seq)) = (topic, row.get::<_, Option<i64>>(column)?) {
            let head = heads.entry(topic.to_string()).or_default();
            *head = seq.max(*head);
        }
    }
    Ok(())
}
