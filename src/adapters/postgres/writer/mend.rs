//! What is left when messages went away is made whole: parents, leaves, counts.

use std::collections::{BTreeMap, BTreeSet};

use deia_actors::domain::{ids::ConversationId, time::Timestamp};
use sqlx::PgConnection;
use uuid::Uuid;

/// Messages that are gone.
#[derive(Default)]
pub(super) struct Gone {
    pub(super) ids: Vec<Uuid>,
    /// The conversation of each.
    pub(super) homes: Vec<Uuid>,
}

impl Gone {
    pub(super) fn add(&mut self, home: Uuid, ids: Vec<Uuid>) {
        self.homes.extend(ids.iter().map(|_| home));
        self.ids.extend(ids);
    }

    pub(super) fn count(&self) -> u64 {
        u64::try_from(self.ids.len()).unwrap_or(u64::MAX)
    }
}

/// A message whose parent is gone is a first one, and a conversation whose leaf is gone ends with its newest message. Also
/// in forks, which share the path. Answers where there were any.
///
/// Looks behind each message in its own conversation and among the messages that begin a branch, as those do that stand
/// behind it in another one.
pub(super) async fn mend_behind(
    db: &mut PgConnection,
    bots: &[&str],
    gone: &Gone,
) -> sqlx::Result<BTreeSet<ConversationId>> {
    let mut mended: Vec<Uuid> = sqlx::query_scalar(
        "UPDATE chat_messages m SET parent_id = NULL FROM UNNEST($1::uuid[], $2::uuid[]) gone(id, home) \
         WHERE m.conversation_id = gone.home AND m.parent_id = gone.id RETURNING m.conversation_id",
    )
    .bind(&gone.ids)
    .bind(&gone.homes)
    .fetch_all(&mut *db)
    .await?;
    let forks: Vec<Uuid> = sqlx::query_scalar(
        "UPDATE chat_messages SET parent_id = NULL WHERE parent_id = ANY($1) AND depth = 0 \
         RETURNING conversation_id",
    )
    .bind(&gone.ids)
    .fetch_all(&mut *db)
    .await?;
    let ended: Vec<Uuid> = sqlx::query_scalar(
        "UPDATE conversations SET leaf_message_id = (SELECT m.id FROM chat_messages m \
             WHERE m.conversation_id = conversations.id ORDER BY m.id DESC LIMIT 1) \
         WHERE bot_id = ANY($1) AND leaf_message_id = ANY($2) RETURNING id",
    )
    .bind(bots)
    .bind(&gone.ids)
    .fetch_all(db)
    .await?;
    mended.extend(forks.into_iter().chain(ended));
    Ok(mended.into_iter().map(ConversationId).collect())
}

/// Some of the oldest messages of conversations went away: of each how many, and when the newest of them was created. If
/// that was the newest of all and older ones were spared, these are looked through.
pub(super) async fn lost_oldest(
    db: &mut PgConnection,
    lost: BTreeMap<Uuid, (i64, Timestamp)>,
) -> sqlx::Result<()> {
    let (homes, lost): (Vec<_>, Vec<_>) = lost.into_iter().unzip();
    let (counts, newest): (Vec<_>, Vec<_>) = lost.into_iter().map(|(count, at)| (count, at.0)).unzip();
    sqlx::query(
        "UPDATE conversations c SET message_count = greatest(c.message_count - n.lost, 0), last_at = CASE \
             WHEN c.message_count <= n.lost THEN NULL \
             WHEN c.last_at <= n.newest \
             THEN (SELECT max(m.created_at) FROM chat_messages m WHERE m.conversation_id = c.id) \
             ELSE c.last_at END \
         FROM UNNEST($1::uuid[], $2::int8[], $3::int8[]) n(id, lost, newest) WHERE c.id = n.id",
    )
    .bind(homes)
    .bind(counts)
    .bind(newest)
    .execute(db)
    .await
    .map(drop)
}
