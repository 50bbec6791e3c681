//! Configuration: what may be set, where it came from, and one clear line when it is wrong.
//!
//! Layers, later ones win: the defaults written beside each key · one TOML file (`--config`, else `$DEIA_CONFIG`, else
//! `./config.toml` if it exists) · the environment, `DEIA_<SECTION>__<KEY>`, for every key.
//!
//! Invariants:
//! - A key is declared once, in the `read` function of its section: name, meaning, default and range in one expression.
//!   The list behind `GET /api/config`, the check for unknown keys and the environment names all come from there.
//! - Whatever is not understood is refused: an unknown key or variable, a wrong type, a value out of range.

mod bots;
mod error;
mod file;
mod inference;
mod log;
mod reader;
mod retention;
mod server;
mod storage;
mod supervision;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

pub use self::{
    bots::Bots,
    error::ConfigError,
    inference::{Inference, ModelServer, Simulated},
    log::{Log, LogFormat},
    reader::{Item, Source},
    retention::Retention,
    server::Server,
    storage::{PostgresUrl, Storage, StorageUrl},
    supervision::Supervision,
};
use self::{file::FileLayer, reader::Reader};
use crate::model_address::{is_own, of_ollama_host};

/// Names the configuration file; the one `DEIA_` variable that is no key.
const FILE_VARIABLE: &str = "DEIA_CONFIG";
/// Ollama's own variable: where it listens, and so where it is found.
const OLLAMA_VARIABLE: &str = "OLLAMA_HOST";
/// Read where neither `--config` nor `DEIA_CONFIG` names a file, if it exists.
const DEFAULT_FILE: &str = "config.toml";

/// Everything that can be set, checked and complete.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the process keeps what it writes.
    pub data_dir: PathBuf,
    /// The HTTP service.
    pub server: Server,
    /// Where history and state are kept.
    pub storage: Storage,
    /// The model servers and what waits for them.
    pub inference: Inference,
    /// Limits of bots and conversations.
    pub bots: Bots,
    /// How often what crashes is started again.
    pub supervision: Supervision,
    /// How long what is kept.
    pub retention: Retention,
    /// What the process says about itself.
    pub log: Log,
    items: Vec<Item>,
}

impl Config {
    /// Reads the configuration of this process: `file`, else the file that `DEIA_CONFIG` names, else `./config.toml` if
    /// it exists, and over it the environment.
    ///
    /// # Errors
    /// The first thing that is unknown, of the wrong type, out of range or unreadable, as one line.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        #[allow(clippy::disallowed_methods, reason = "the one place that reads the environment")]
        let environment: Vec<_> = std::env::vars_os().collect();
        let named = file.map(Path::to_path_buf).or_else(|| {
            let (_, path) =
                environment.iter().find(|(name, value)| name == FILE_VARIABLE && !value.is_empty())?;
            Some(PathBuf::from(path))
        });
        let layer = match named {
            Some(path) => Some(FileLayer::read(&path)?),
            None => FileLayer::read_if_exists(Path::new(DEFAULT_FILE))?,
        };
        Self::from_layers(layer, environment)
    }

    /// The defaults with some keys set, for a program that embeds deia; reads no file and no environment.
    ///
    /// ```
    /// let config = deia::config::Config::with([("server.listen", "127.0.0.1:0"), ("bots.max_running", "10")])?;
    /// assert_eq!(config.bots.max_running, 10);
    /// # Ok::<(), deia::config::ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn with<K, V>(values: impl IntoIterator<Item = (K, V)>) -> Result<Self, ConfigError>
    where
        K: Into<String>,
        V: Into<String>,
    {
        let mut reader = Reader::default();
        for (key, value) in values {
            reader.add_code(key.into(), value.into());
        }
        Self::read(reader)
    }

    /// Every key with its effective value (secrets redacted) and where that came from, in the order of `config.toml`.
    #[must_use]
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    fn from_layers(
        file: Option<FileLayer>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let mut reader = Reader::default();
        if let Some(file) = file {
            reader.add_file(file);
        }
        let mut ollama_host = None;
        for (name, value) in environment {
            if name == OLLAMA_VARIABLE {
                ollama_host = Some(value).filter(|value| !value.is_empty());
            } else if name != FILE_VARIABLE {
                reader.add_variable(&name, &value)?;
            }
        }
        if let Some(value) = ollama_host {
            let here = value.to_str().map(|text| OsString::from(of_ollama_host(text)));
            reader.add_fallback("inference.servers", OLLAMA_VARIABLE, &here.unwrap_or(value));
        }
        Self::read(reader)
    }

    fn read(mut reader: Reader) -> Result<Self, ConfigError> {
        let data_dir = reader
            .top_level()
            .key(
                "data_dir",
                "Folder for the database and everything else that the process writes; made if missing.",
            )
            .path("./data")?;
        let server = Server::read(&mut reader)?;
        let storage = Storage::read(&mut reader, &data_dir)?;
        let inference = Inference::read(&mut reader)?;
        if let Some(own) = inference.servers.iter().find(|s| is_own(&s.url, &[], server.listen)) {
            let reason = format!(
                "must be servers other than deia itself (server.listen is {}, so it would ask itself at {})",
                server.listen,
                own.shown_url()
            );
            return Err(reader.blame("inference.servers", reason));
        }
        let bots = Bots::read(&mut reader)?;
        let supervision = Supervision::read(&mut reader, server.listen.ip().is_loopback())?;
        let retention = Retention::read(&mut reader)?;
        let log = Log::read(&mut reader)?;
        let items = reader.finish()?;
        Ok(Self { data_dir, server, storage, inference, bots, supervision, retention, log, items })
    }
}

#[cfg(test)]
mod tests;
