//! `[storage]`: where history and state are kept.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    error::ConfigError,
    reader::{Raw, Reader},
};

/// Settings of the storage.
#[derive(Debug, Clone)]
pub struct Storage {
    /// Which database.
    pub url: StorageUrl,
}

/// A database that this version can use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorageUrl {
    /// An SQLite file; made if missing.
    Sqlite(PathBuf),
}

impl fmt::Display for StorageUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
        }
    }
}

impl Storage {
    pub(super) fn read(reader: &mut Reader, data_dir: &Path) -> Result<Self, ConfigError> {
        let mut section = reader.section("storage");
        let url = section
            .key("url", "Database, as sqlite:PATH; made if missing. Without it deia.db in data_dir.")
            .read(StorageUrl::Sqlite(data_dir.join("deia.db")), storage_url, |url| {
                Value::from(url.to_string())
            })?;
        Ok(Self { url })
    }
}

fn storage_url(raw: &Raw) -> Result<StorageUrl, String> {
    let text = raw.text().unwrap_or_default().trim();
    if text.starts_with("postgres:") || text.starts_with("postgresql:") {
        return Err("sqlite:PATH (PostgreSQL is not supported yet in this version)".to_owned());
    }
    let path = text.strip_prefix("sqlite:").map(|rest| rest.strip_prefix("//").unwrap_or(rest));
    match path {
        // A database in memory would forget acknowledged messages.
        Some(path) if !path.is_empty() && !path.contains(":memory:") && !path.contains('?') => {
            Ok(StorageUrl::Sqlite(PathBuf::from(path)))
        }
        _ => Err("sqlite:PATH, naming a file".to_owned()),
    }
}
