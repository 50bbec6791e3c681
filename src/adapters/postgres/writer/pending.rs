//! A commit whose answer was lost: what became of it.

use std::collections::HashMap;

use deia_actors::ports::history_store::Committed;
use sqlx::PgConnection;
use uuid::Uuid;

use super::super::error;

/// A group whose transaction may have been committed.
pub(super) struct Pending {
    pub(super) committed: Vec<Committed>,
    /// The position before that of its first event.
    pub(super) after: i64,
    /// The transaction, where it has a number.
    pub(super) transaction: Option<i64>,
}

impl Pending {
    /// What became of the group. Its connection must be gone from the server, so that this is decided: the lock it held
    /// has passed to another session. None where it is not stored.
    pub(super) async fn outcome(
        &mut self,
        connection: &mut PgConnection,
    ) -> sqlx::Result<Option<Vec<Committed>>> {
        let mut events: Vec<_> = self.committed.iter_mut().flat_map(|c| &mut c.events).collect();
        let stored = if events.is_empty() {
            let Some(transaction) = self.transaction else { return Ok(None) };
            let status =
                sqlx::query_scalar("SELECT txid_status($1)").bind(transaction).fetch_one(connection).await;
            match status {
                Ok::<Option<String>, _>(status) => status.is_some_and(|status| status == "committed"),
                // A number that the server never gave out: it took over from one that had not passed it on.
                Err(error) if error.as_database_error().is_some() && !error::is_lost(&error) => false,
                Err(error) => return Err(error),
            }
        } else {
            let ids: Vec<_> = events.iter().map(|event| event.id.0).collect();
            let positions: HashMap<Uuid, i64> = sqlx::query_as::<_, (Uuid, i64)>(
                "SELECT id, position FROM outbox_events WHERE position > $1 AND id = ANY($2)",
            )
            .bind(self.after)
            .bind(ids)
            .fetch_all(connection)
            .await?
            .into_iter()
            .collect();
            for event in &mut events {
                if let Some(position) = positions.get(&event.id.0) {
                    event.position = u64::try_from(*position).unwrap_or(0);
                }
            }
            !positions.is_empty()
        };
        Ok(stored.then(|| std::mem::take(&mut self.committed)))
    }
}
