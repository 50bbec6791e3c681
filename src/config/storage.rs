//! `[storage]`: where history and state are kept.

mod postgres;

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

pub use self::postgres::PostgresUrl;
use super::{
    error::ConfigError,
    reader::{Raw, Reader},
};

/// Settings of the storage.
#[derive(Debug, Clone)]
pub struct Storage {
    /// Which database.
    pub url: StorageUrl,
    /// Connections to PostgreSQL that are kept open.
    pub pool_min: u32,
    /// Connections to PostgreSQL at most.
    pub pool_max: u32,
    /// How long a request waits for a connection to PostgreSQL.
    pub acquire_timeout: Duration,
    /// How long PostgreSQL may work on one statement.
    pub statement_timeout: Duration,
}

/// A database that can be used. Its text shows no password.
#[derive(Debug, Clone)]
pub enum StorageUrl {
    /// An SQLite file; made if missing.
    Sqlite(PathBuf),
    /// A PostgreSQL database, which must exist.
    Postgres(PostgresUrl),
}

impl fmt::Display for StorageUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(url) => url.fmt(f),
        }
    }
}

impl Storage {
    pub(super) fn read(reader: &mut Reader, data_dir: &Path) -> Result<Self, ConfigError> {
        let mut section = reader.section("storage");
        let url = section
            .key(
                "url",
                "Database: sqlite:PATH, made if missing, or postgres://USER:PASSWORD@HOST/DATABASE. \
                 Without it deia.db in data_dir.",
            )
            .secret()
            .read(StorageUrl::Sqlite(data_dir.join("deia.db")), storage_url, |url| {
                Value::from(url.to_string())
            })?;
        let pool_min =
            section.key("pool_min", "Connections to PostgreSQL that are kept open.").number(10, 0..=1000)?;
        let pool_max = section.key("pool_max", "Connections to PostgreSQL at most.").number(50, 2..=1000)?;
        let acquire_timeout = section
            .key("acquire_timeout_s", "Seconds that a request waits for a connection to PostgreSQL.")
            .seconds(5, 1..=300)?;
        let statement_timeout = section
            .key("statement_timeout_s", "Seconds that PostgreSQL may work on one statement.")
            .seconds(30, 1..=3600)?;
        if pool_min > pool_max {
            return Err(if reader.sets("storage.pool_min") {
                let reason = format!("must not be more than storage.pool_max, which is {pool_max}");
                reader.blame("storage.pool_min", reason)
            } else {
                let reason = format!("must not be less than storage.pool_min, which is {pool_min}");
                reader.blame("storage.pool_max", reason)
            });
        }
        Ok(Self { url, pool_min, pool_max, acquire_timeout, statement_timeout })
    }
}

fn storage_url(raw: &Raw) -> Result<StorageUrl, String> {
    let text = raw.text().unwrap_or_default().trim();
    if text.starts_with("postgres:") || text.starts_with("postgresql:") {
        return PostgresUrl::parse(text).map(StorageUrl::Postgres);
    }
    let path = text.strip_prefix("sqlite:").map(|rest| rest.strip_prefix("//").unwrap_or(rest));
    match path {
        // A database in memory would forget acknowledged messages.
        Some(path) if !path.is_empty() && !path.contains(":memory:") && !path.contains('?') => {
            Ok(StorageUrl::Sqlite(PathBuf::from(path)))
        }
        _ => Err("sqlite:PATH, naming a file, or postgres://USER:PASSWORD@HOST/DATABASE".to_owned()),
    }
}
