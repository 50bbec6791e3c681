//! What is left when messages went away is made whole: parents, leaves, counts.

use std::collections::{BTreeSet, HashSet};

use deia_actors::domain::{
    ids::{BotId, ConversationId},
    time::Timestamp,
};
use rusqlite::{Connection, params};
use uuid::Uuid;

/// A message that is gone.
pub(super) struct Gone {
    pub(super) id: Uuid,
    /// Its conversation.
    pub(super) home: ConversationId,
}

/// A message whose parent is gone is a first one, and a conversation whose leaf is gone ends with its newest message. Also
/// in forks, which share the path. Answers where there were any.
///
/// Looks behind each message in its own conversation and among the messages that begin a branch, as those do that stand
/// behind it in another one.
pub(super) fn mend_behind(
    db: &Connection,
    bot: &str,
    gone: &[Gone],
) -> rusqlite::Result<BTreeSet<ConversationId>> {
    let mut mended = BTreeSet::new();
    let mut next = db.prepare_cached(
        "UPDATE chat_messages SET parent_id = NULL WHERE conversation_id = ?1 AND parent_id = ?2",
    )?;
    let mut forks = db.prepare_cached(
        "UPDATE chat_messages SET parent_id = NULL WHERE parent_id = ?1 AND depth = 0 RETURNING conversation_id",
    )?;
    for Gone { id, home } in gone {
        if next.execute(params![home.0, id])? > 0 {
            mended.insert(*home);
        }
        for fork in forks.query_map([id], |row| row.get(0).map(ConversationId))? {
            mended.insert(fork?);
        }
    }
    let gone: HashSet<Uuid> = gone.iter().map(|gone| gone.id).collect();
    let leaves: Vec<(ConversationId, Uuid)> = db
        .prepare_cached(
            "SELECT id, leaf_message_id FROM conversations WHERE bot_id = ?1 AND leaf_message_id IS NOT NULL",
        )?
        .query_map([bot], |row| Ok((ConversationId(row.get(0)?), row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (home, _) in leaves.into_iter().filter(|(_, leaf)| gone.contains(leaf)) {
        db.prepare_cached(
            "UPDATE conversations SET leaf_message_id = \
                 (SELECT max(m.id) FROM chat_messages m WHERE m.conversation_id = ?1) WHERE id = ?1",
        )?
        .execute([home.0])?;
        mended.insert(home);
    }
    Ok(mended)
}

/// Some of the oldest messages of a conversation went away, the newest of them created at `newest`. If it was the newest
/// of all and older ones were spared, these are looked through.
pub(super) fn lost_oldest(
    db: &Connection,
    id: ConversationId,
    deleted: u32,
    newest: Timestamp,
) -> rusqlite::Result<()> {
    db.prepare_cached(
        "UPDATE conversations SET message_count = max(message_count - ?2, 0), last_at = CASE \
             WHEN message_count <= ?2 THEN NULL \
             WHEN last_at <= ?3 THEN (SELECT max(created_at) FROM chat_messages WHERE conversation_id = ?1) \
             ELSE last_at END \
         WHERE id = ?1",
    )?
    .execute(params![id.0, deleted, newest.0])
    .map(drop)
}

/// Every conversation of a bot that a legal hold reaches.
pub(super) fn held(db: &Connection, bot: &BotId) -> rusqlite::Result<HashSet<ConversationId>> {
    db.prepare_cached(crate::adapters::holds::held!())?
        .query_map([bot.as_str()], |row| row.get(0).map(ConversationId))?
        .collect()
}
