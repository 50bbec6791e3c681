//! The numbered migrations and their application. Migrations are never edited once landed.

use std::{borrow::Cow, path::Path, time::Duration};

use deia_actors::ports::history_store::StoreError;
use sqlx::{
    ConnectOptions, Connection, SqlSafeStr,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use super::error;

/// Number, name and text of every migration, in order.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "foundations", include_str!("../../../migrations/sqlite/0001_foundations.sql")),
    (2, "durable_events", include_str!("../../../migrations/sqlite/0002_durable_events.sql")),
    (3, "idempotency", include_str!("../../../migrations/sqlite/0003_idempotency.sql")),
    (4, "search", include_str!("../../../migrations/sqlite/0004_search.sql")),
];

/// Creates the database if there is none and brings it to this version.
pub(super) async fn prepare(path: &Path) -> Result<(), StoreError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(5))
        .disable_statement_logging();
    let mut connection = options.connect().await.map_err(error::of_reader)?;
    let migrations = MIGRATIONS.iter().map(|&(version, name, sql)| {
        Migration::new(version, Cow::Borrowed(name), MigrationType::Simple, sql.into_sql_str(), false)
    });
    // Not `run`: its future is not Send.
    let migrator = Migrator::with_migrations(migrations.collect());
    let applied = migrator.run_direct(None, &mut connection, false).await;
    // An error while closing says nothing that the migration did not say.
    connection.close().await.ok();
    applied.map_err(refusal)
}

/// Why a database can't be used by this version.
fn refusal(error: MigrateError) -> StoreError {
    let newest = MIGRATIONS.last().map_or(0, |m| m.0);
    match error {
        MigrateError::VersionMissing(version) if version > newest => StoreError::Corrupt(format!(
            "it was written by a newer version of deia (schema {version}, this one knows {newest}); \
             use that version or another data directory"
        )),
        MigrateError::VersionMissing(version) | MigrateError::VersionMismatch(version) => {
            StoreError::Corrupt(format!("its migration {version} is not the one of this version"))
        }
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error::of_reader(error),
        other => StoreError::Corrupt(other.to_string()),
    }
}
