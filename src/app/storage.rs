//! The database that the configuration names: waited for, opened, tried, migrated and closed, of either kind.

use std::{sync::Arc, time::Duration};

use deia_actors::ports::{
    history_store::{HistoryStore, StoreError},
    storage::Storage,
};
use tokio::time::Instant;

use super::AppError;
use crate::{
    adapters::{
        migrations::MigrationState,
        postgres::{self, Obstacle, PostgresConfig, PostgresStore, Reached},
        sqlite::SqliteStore,
    },
    config::{self, PostgresUrl, StorageUrl},
};

/// How long a PostgreSQL that does not answer yet is waited for at the start.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it is left alone between two tries.
const PAUSE: Duration = Duration::from_secs(1);

/// An open database.
pub(super) enum Database {
    Sqlite(Arc<SqliteStore>),
    Postgres(Arc<PostgresStore>),
}

impl Database {
    /// Opens it, once it is there, and brings it to this version.
    pub(super) async fn open(settings: &config::Storage) -> Result<Self, AppError> {
        let failed = |source| failure(settings, source);
        match &settings.url {
            StorageUrl::Sqlite(path) => {
                Ok(Self::Sqlite(Arc::new(SqliteStore::open(path).await.map_err(failed)?)))
            }
            StorageUrl::Postgres(url) => {
                let config = postgres_config(settings, url);
                wait_for(settings, &config).await?;
                Ok(Self::Postgres(Arc::new(PostgresStore::open(&config).await.map_err(failed)?)))
            }
        }
    }

    /// What the tree works on.
    pub(super) fn storage(&self) -> Arc<dyn Storage> {
        match self {
            Self::Sqlite(store) => store.clone(),
            Self::Postgres(store) => store.clone(),
        }
    }

    /// Finishes what was given to it and lets go of it.
    pub(super) async fn close(&self) {
        match self {
            Self::Sqlite(store) => store.close().await,
            Self::Postgres(store) => store.close().await,
        }
    }
}

fn failure(
    settings: &config::Storage,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> AppError {
    AppError::Storage { database: settings.url.to_string(), source: source.into() }
}

fn postgres_config(settings: &config::Storage, url: &PostgresUrl) -> PostgresConfig {
    PostgresConfig {
        url: url.expose().to_owned(),
        pool_min: settings.pool_min,
        pool_max: settings.pool_max,
        acquire_timeout: settings.acquire_timeout,
        statement_timeout: settings.statement_timeout,
    }
}

/// Waits for a server that is still starting, as it is after a boot or in a compose file; what is wrong is told at once.
async fn wait_for(settings: &config::Storage, config: &PostgresConfig) -> Result<(), AppError> {
    let until = Instant::now() + PATIENCE;
    let mut attempt = 1_u32;
    loop {
        match postgres::reach(config).await {
            Ok(_) => return Ok(()),
            Err(Obstacle::Away(why)) if Instant::now() + PAUSE < until => {
                tracing::warn!(database = %settings.url, attempt, error = why, "the database is not there yet");
                tokio::time::sleep(PAUSE).await;
                attempt += 1;
            }
            Err(obstacle) => return Err(failure(settings, obstacle)),
        }
    }
}

/// Which migrations the database has, after it was brought to this version if that is wanted.
pub(super) async fn migrate(settings: &config::Storage, up: bool) -> Result<Vec<MigrationState>, AppError> {
    let states = match &settings.url {
        StorageUrl::Sqlite(path) if up => SqliteStore::migrate_up(path).await,
        StorageUrl::Sqlite(path) => SqliteStore::migration_status(path).await,
        StorageUrl::Postgres(url) => {
            let config = postgres_config(settings, url);
            postgres::reach(&config).await.map_err(|obstacle| failure(settings, obstacle))?;
            if up {
                PostgresStore::migrate_up(&config).await
            } else {
                PostgresStore::migration_status(&config).await
            }
        }
    };
    states.map_err(|error| failure(settings, error))
}

/// Tries it as `deia check` does: what works, or what is wrong and what to do.
pub(super) async fn check(settings: &config::Storage) -> Result<String, String> {
    match &settings.url {
        StorageUrl::Sqlite(path) => match SqliteStore::open(path).await {
            Ok(store) => {
                let probe = store.probe().await;
                store.close().await;
                probe.map_err(|error| {
                    format!("{}: {error}. Check free space and permissions.", settings.url)
                })?;
                Ok(format!("{} takes writes", settings.url))
            }
            Err(error @ StoreError::Corrupt(_)) => Err(format!(
                "{}. Name deia's own file, or a new one, in storage.url; or put a backup in its place.",
                failure(settings, error)
            )),
            Err(error) => Err(format!(
                "{}. If deia is running, stop it first; else check the folder's permissions, or set storage.url.",
                failure(settings, error)
            )),
        },
        StorageUrl::Postgres(url) => check_postgres(settings, url).await,
    }
}

/// Changes nothing there: a service may be at work on it.
async fn check_postgres(settings: &config::Storage, url: &PostgresUrl) -> Result<String, String> {
    let config = postgres_config(settings, url);
    let Reached { connections } = postgres::reach(&config).await.map_err(|obstacle| match obstacle {
        Obstacle::Away(_) => {
            format!("{url}: {obstacle}. Start PostgreSQL, or correct host and port in storage.url.")
        }
        Obstacle::Wrong { .. } => format!("{url}: {obstacle}"),
    })?;
    let states = PostgresStore::migration_status(&config).await.map_err(|error| format!("{url}: {error}"))?;
    if let Some(newer) = states.iter().find(|state| !state.known) {
        return Err(format!(
            "{url}: it was written by a newer version of deia (schema {}). Use that version, or another database.",
            newer.version
        ));
    }
    // One more connection writes, one may be an administrator's.
    if settings.pool_max.saturating_add(2) > connections {
        return Err(format!(
            "{url}: the server allows {connections} connections, too few for storage.pool_max = {}. Lower that, or raise \
             max_connections there.",
            settings.pool_max
        ));
    }
    Ok(match states.iter().filter(|state| !state.applied).count() {
        0 => format!("{url} can be used"),
        n => format!("{url} can be used; the start will apply {n} migrations (or: deia migrate up)"),
    })
}
