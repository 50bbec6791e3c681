//! The migrations of PostgreSQL and their application.

use deia_actors::ports::history_store::StoreError;
use sqlx::{ConnectOptions, Connection, PgConnection};

use super::{
    super::migrations::{self, MigrationState, Numbered},
    connect::{self, PostgresConfig},
    error,
};

/// Every migration, in order.
const MIGRATIONS: &[Numbered] =
    &[(1, "foundations", include_str!("../../../migrations/postgres/0001_foundations.sql"))];

/// Brings the database to this version. Of two processes that do so at once, one waits for the other.
pub(super) async fn prepare(config: &PostgresConfig) -> Result<(), StoreError> {
    let mut connection = open(config).await?;
    // Not `run`: its future is not Send. It holds an advisory lock, which goes with the connection.
    let applied = migrations::migrator(MIGRATIONS).run_direct(None, &mut connection, false).await;
    // An error while closing says nothing that the migration did not say.
    connection.close().await.ok();
    applied.map_err(|e| migrations::refusal(MIGRATIONS, e, error::sort))
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
