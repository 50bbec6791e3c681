//! The migrations of SQLite and their application.

use std::{path::Path, time::Duration};

use deia_actors::ports::history_store::StoreError;
use sqlx::{
    ConnectOptions, Connection, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use super::{
    super::migrations::{self, MigrationState, Numbered},
    error,
};

/// Every migration, in order.
const MIGRATIONS: &[Numbered] = &[
    (1, "foundations", include_str!("../../../migrations/sqlite/0001_foundations.sql")),
    (2, "durable_events", include_str!("../../../migrations/sqlite/0002_durable_events.sql")),
    (3, "idempotency", include_str!("../../../migrations/sqlite/0003_idempotency.sql")),
    (4, "search", include_str!("../../../migrations/sqlite/0004_search.sql")),
    (5, "branches", include_str!("../../../migrations/sqlite/0005_branches.sql")),
    (6, "holds", include_str!("../../../migrations/sqlite/0006_holds.sql")),
    (8, "servers", include_str!("../../../migrations/sqlite/0008_servers.sql")),
];

/// Creates the database if there is none and brings it to this version.
pub(super) async fn prepare(path: &Path) -> Result<(), StoreError> {
    let mut connection = connect(options(path).create_if_missing(true)).await?;
    // Not `run`: its future is not Send.
    let applied = migrations::migrator(MIGRATIONS).run_direct(None, &mut connection, false).await;
    // An error while closing says nothing that the migration did not say.
    connection.close().await.ok();
    applied.map_err(|e| migrations::refusal(MIGRATIONS, e, error::of_reader))
}

/// Which migrations a database has; none where there is no database yet.
pub(super) async fn status(path: &Path) -> Result<Vec<MigrationState>, StoreError> {
    if !path.exists() {
        return Ok(migrations::states(MIGRATIONS, vec![]));
    }
    let mut connection = connect(options(path)).await?;
    let applied = applied(&mut connection).await;
    connection.close().await.ok();
    Ok(migrations::states(MIGRATIONS, applied.map_err(error::of_reader)?))
}

async fn applied(connection: &mut SqliteConnection) -> sqlx::Result<Vec<(i64, String)>> {
    let known = "SELECT count(*) FROM sqlite_master WHERE name = '_sqlx_migrations'";
    let known: i64 = sqlx::query_scalar(known).fetch_one(&mut *connection).await?;
    if known == 0 {
        return Ok(vec![]);
    }
    sqlx::query_as("SELECT version, description FROM _sqlx_migrations WHERE success ORDER BY version")
        .fetch_all(connection)
        .await
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(5))
        .disable_statement_logging()
}

async fn connect(options: SqliteConnectOptions) -> Result<SqliteConnection, StoreError> {
    options.connect().await.map_err(error::of_reader)
}
