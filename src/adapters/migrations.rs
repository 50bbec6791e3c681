//! Numbered migrations as both databases keep them: what is applied, and why a database is refused. Migrations are
//! never edited once landed, and have the same numbers and names in both dialects.

use std::borrow::Cow;

use deia_actors::ports::history_store::StoreError;
use sqlx::{
    SqlSafeStr,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
};

/// Number, name and text of a migration.
pub(super) type Numbered = (i64, &'static str, &'static str);

/// Where a database stands with one migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationState {
    /// Its number.
    pub version: i64,
    /// Its name.
    pub name: String,
    /// Whether the database has it.
    pub applied: bool,
    /// Whether this version of deia has it; one that it does not know was applied by a newer one.
    pub known: bool,
}

/// What brings a database to this version.
pub(super) fn migrator(all: &[Numbered]) -> Migrator {
    let migrations = all.iter().map(|&(version, name, sql)| {
        Migration::new(version, Cow::Borrowed(name), MigrationType::Simple, sql.into_sql_str(), false)
    });
    Migrator::with_migrations(migrations.collect())
}

/// All migrations of this version, and those that only a newer one knows; `applied` is what the database says.
pub(super) fn states(all: &[Numbered], applied: Vec<(i64, String)>) -> Vec<MigrationState> {
    let has = |version: i64| applied.iter().any(|(v, _)| *v == version);
    let mut states: Vec<_> = all
        .iter()
        .map(|&(version, name, _)| MigrationState {
            version,
            name: name.into(),
            applied: has(version),
            known: true,
        })
        .collect();
    let foreign = applied.into_iter().filter(|(version, _)| all.iter().all(|m| m.0 != *version));
    states.extend(foreign.map(|(version, name)| MigrationState {
        version,
        name,
        applied: true,
        known: false,
    }));
    states
}

/// Why a database can't be used by this version; `sort` knows the errors of its dialect.
pub(super) fn refusal(
    all: &[Numbered],
    error: MigrateError,
    sort: fn(sqlx::Error) -> StoreError,
) -> StoreError {
    let newest = all.last().map_or(0, |m| m.0);
    match error {
        MigrateError::VersionMissing(version) if version > newest => StoreError::Corrupt(format!(
            "it was written by a newer version of deia (schema {version}, this one knows {newest}); \
             use that version or another database"
        )),
        MigrateError::VersionMissing(version) | MigrateError::VersionMismatch(version) => {
            StoreError::Corrupt(format!("its migration {version} is not the one of this version"))
        }
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => sort(error),
        other => StoreError::Corrupt(other.to_string()),
    }
}
