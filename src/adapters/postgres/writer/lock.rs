//! How the writer connects, and the lock that only one process on a database can hold.

use std::time::Duration;

use deia_actors::ports::history_store::StoreError;
use sqlx::{ConnectOptions, PgConnection, postgres::PgConnectOptions};
use uuid::Uuid;

use super::super::{
    connect::{self, LOCK_TIMEOUT, WRITER_LOCK},
    error,
};

/// What the writer's sessions are told beside the usual: the server finds out within half a minute that a machine is gone
/// without a word, and passes the lock on.
const SETTINGS: [(&str, &str); 3] =
    [("tcp_keepalives_idle", "15"), ("tcp_keepalives_interval", "5"), ("tcp_keepalives_count", "3")];

/// Where and how the writer connects.
#[derive(Clone)]
pub(super) struct Target {
    options: PgConnectOptions,
    /// The name of this writer's sessions, that of no other.
    name: String,
    connect_timeout: Duration,
    /// How long a group may take before its connection counts as dead: the server gives up on a statement long before.
    patience: Duration,
}

impl Target {
    pub(super) fn new(config: &connect::PostgresConfig) -> Result<Self, StoreError> {
        let name = format!("deia writer {}", Uuid::now_v7());
        let options = connect::options(config)?
            .application_name(&name)
            .options(SETTINGS)
            .options([("lock_timeout", LOCK_TIMEOUT.as_millis())]);
        let patience = config.statement_timeout * 2 + Duration::from_secs(5);
        Ok(Self { options, name, connect_timeout: config.acquire_timeout, patience })
    }

    pub(super) fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    /// A connection; it writes nothing before it holds the lock.
    pub(super) async fn connect(&self) -> Result<PgConnection, StoreError> {
        let mut connection =
            connect::within(self.connect_timeout, self.options.connect()).await.map_err(error::sort)?;
        connect::within(self.connect_timeout, async { Ok(connect::check(&mut connection).await) })
            .await
            .map_err(error::sort)??;
        Ok(connection)
    }
}

/// Who may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lock {
    /// This connection.
    Ours,
    /// A connection that this writer has lost, but the server has not noticed yet.
    OfOurPast,
    /// Another process.
    OfAnother,
}

/// Takes the lock. Ends what is left of an earlier connection of this writer.
pub(super) async fn take(connection: &mut PgConnection, target: &Target) -> Result<Lock, StoreError> {
    let limit = target.connect_timeout + LOCK_TIMEOUT;
    connect::within(limit, try_take(connection, target)).await.map_err(error::sort)
}

async fn try_take(connection: &mut PgConnection, target: &Target) -> sqlx::Result<Lock> {
    sqlx::query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE application_name = $1 AND datname = current_database() AND pid <> pg_backend_pid()",
    )
    .bind(&target.name)
    .execute(&mut *connection)
    .await?;
    let locked = sqlx::query("SELECT pg_advisory_lock($1, $2)")
        .bind(WRITER_LOCK.0)
        .bind(WRITER_LOCK.1)
        .execute(&mut *connection)
        .await;
    match locked {
        Ok(_) => return Ok(Lock::Ours),
        Err(error) if error::is_locked(&error) => {}
        Err(error) => return Err(error),
    }
    let holder: Option<Option<String>> = sqlx::query_scalar(
        "SELECT a.application_name FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid \
         WHERE l.locktype = 'advisory' AND l.granted AND l.classid = $1::int8::oid AND l.objid = $2::int8::oid \
             AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())",
    )
    .bind(i64::from(WRITER_LOCK.0))
    .bind(i64::from(WRITER_LOCK.1))
    .fetch_optional(connection)
    .await?;
    let ours = holder.flatten().is_some_and(|name| name == target.name);
    Ok(if ours { Lock::OfOurPast } else { Lock::OfAnother })
}
