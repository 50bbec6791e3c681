//! The migrations of PostgreSQL and their application.

use deia_actors::ports::history_store::StoreError;
use sqlx::{ConnectOptions, Connection, PgConnection};

use super::{
    super::migrations::{self, MigrationState, Numbered},
    connect::{self, LOCK_TIMEOUT, MIGRATION_LOCK, PostgresConfig, WRITER_LOCK},
    error,
};

/// Every migration, in order.
const MIGRATIONS: &[Numbered] = &[
    (1, "foundations", include_str!("../../../migrations/postgres/0001_foundations.sql")),
    (2, "durable_events", include_str!("../../../migrations/postgres/0002_durable_events.sql")),
    (3, "idempotency", include_str!("../../../migrations/postgres/0003_idempotency.sql")),
    (4, "search", include_str!("../../../migrations/postgres/0004_search.sql")),
    (5, "branches", include_str!("../../../migrations/postgres/0005_branches.sql")),
    (6, "holds", include_str!("../../../migrations/postgres/0006_holds.sql")),
    (8, "servers", include_str!("../../../migrations/postgres/0008_servers.sql")),
];

/// Brings the database to this version. Of two processes that do so at once, one waits for the other; a database that is
/// in use by a process of another version is left alone.
pub(super) async fn prepare(config: &PostgresConfig) -> Result<(), StoreError> {
    let mut connection = open(config).await?;
    let done = migrate(&mut connection).await;
    // An error while closing says nothing that the migration did not say. The locks go with the connection.
    connection.close().await.ok();
    done
}

async fn migrate(connection: &mut PgConnection) -> Result<(), StoreError> {
    take(connection, MIGRATION_LOCK).await.map_err(error::sort)?;
    let states = migrations::states(MIGRATIONS, applied(connection).await.map_err(error::sort)?);
    if states.iter().any(|m| !m.applied) {
        let timeout = LOCK_TIMEOUT.as_millis().to_string();
        limit(connection, &timeout).await.map_err(error::sort)?;
        take(connection, WRITER_LOCK).await.map_err(|e| {
            if !error::is_locked(&e) {
                return error::sort(e);
            }
            StoreError::Unavailable(
                "it has to be migrated, but another process uses it; stop that first".into(),
            )
        })?;
        limit(connection, "0").await.map_err(error::sort)?;
    }
    // Not `run`: its future is not Send.
    let done = migrations::migrator(MIGRATIONS).run_direct(None, connection, false).await;
    done.map_err(|e| migrations::refusal(MIGRATIONS, e, error::sort))
}

async fn take(connection: &mut PgConnection, lock: (i32, i32)) -> sqlx::Result<()> {
    sqlx::query("SELECT pg_advisory_lock($1, $2)")
        .bind(lock.0)
        .bind(lock.1)
        .execute(connection)
        .await
        .map(drop)
}

/// Sets how long a lock is waited for.
async fn limit(connection: &mut PgConnection, timeout: &str) -> sqlx::Result<()> {
    sqlx::query("SELECT set_config('lock_timeout', $1, false)")
        .bind(timeout)
        .execute(connection)
        .await
        .map(drop)
}

/// Which migrations the database has.
pub(super) async fn status(config: &PostgresConfig) -> Result<Vec<MigrationState>, StoreError> {
    let mut connection = open(config).await?;
    let applied = applied(&mut connection).await;
    connection.close().await.ok();
    Ok(migrations::states(MIGRATIONS, applied.map_err(error::sort)?))
}

async fn applied(connection: &mut PgConnection) -> sqlx::Result<Vec<(i64, String)>> {
    let known = "SELECT to_regclass('_sqlx_migrations') IS NOT NULL";
    if !sqlx::query_scalar(known).fetch_one(&mut *connection).await? {
        return Ok(vec![]);
    }
    sqlx::query_as("SELECT version, description FROM _sqlx_migrations WHERE success ORDER BY version")
        .fetch_all(connection)
        .await
}

/// A migration may take as long as it needs.
async fn open(config: &PostgresConfig) -> Result<PgConnection, StoreError> {
    let options = connect::options(config)?.options([("statement_timeout", "0")]);
    connect::within(config.acquire_timeout, options.connect()).await.map_err(error::sort)
}
