//! Idempotency keys, stored with what their requests did.

use deia_actors::domain::{
    idempotency::{Idempotency, expiry},
    ids::{BotId, TurnId},
    message::Message,
};
use rusqlite::{Connection, params};

use crate::adapters::applied::Applied;

/// Does `work` unless its key is taken, and takes the key where it applied.
pub(super) fn once(
    db: &Connection,
    idempotency: Option<&Idempotency>,
    turn: Option<TurnId>,
    message: &Message,
    reply: &Message,
    work: impl FnOnce() -> rusqlite::Result<Applied>,
) -> rusqlite::Result<Applied> {
    let Some(Idempotency { user, key, fingerprint, at }) = idempotency else { return work() };
    let bot = message.bot_id.as_str();
    let taken = db
        .prepare_cached(
            "SELECT 1 FROM idempotency_keys WHERE user_id = ?1 AND bot_id = ?2 AND key = ?3 AND created_at > ?4",
        )?
        .exists(params![user, bot, key.as_str(), expiry(*at).0])?;
    if taken {
        return Ok(Applied::NO);
    }
    let applied = work()?;
    if applied.applied {
        db.prepare_cached(
            "INSERT OR REPLACE INTO idempotency_keys (user_id, bot_id, key, fingerprint, turn_id, message_id, \
                 reply_id, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            user,
            bot,
            key.as_str(),
            fingerprint.0,
            turn.map(|t| t.0),
            message.id.0,
            reply.id.0,
            at.0
        ])?;
    }
    Ok(applied)
}

/// Forgets the keys of a bot that is gone.
pub(super) fn forget(db: &Connection, bot: &BotId) -> rusqlite::Result<()> {
    db.prepare_cached("DELETE FROM idempotency_keys WHERE bot_id = ?1")?.execute([bot.as_str()]).map(drop)
}
