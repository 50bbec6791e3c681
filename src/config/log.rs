//! `[log]`: what the process says about itself on standard error.

use std::fmt;

use serde_json::Value;
use tracing_subscriber::EnvFilter;

use super::{
    error::ConfigError,
    reader::{Raw, Reader},
};

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Settings of the log.
#[derive(Debug, Clone)]
pub struct Log {
    /// A level, or levels per target (`info,deia::http=debug`), in the syntax of `tracing`'s `EnvFilter`.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
}

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For eyes.
    Text,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Json => "json",
            Self::Text => "text",
        })
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Json }
    }
}

impl Log {
    pub(super) fn read(reader: &mut Reader) -> Result<Self, ConfigError> {
        let default = Self::default();
        let mut section = reader.section("log");
        Ok(Self {
            level: section
                .key("level", "off, error, warn, info, debug or trace; or levels per target, like info,deia::http=debug.")
                .read(default.level, level, |level| Value::from(level.as_str()))?,
            format: section
                .key("format", "json: one object a line; text: for eyes.")
                .read(default.format, format, |format| Value::from(format.to_string()))?,
        })
    }
}

fn level(raw: &Raw) -> Result<String, String> {
    let expected =
        || format!("one of {}, or levels per target like info,deia::http=debug", LEVELS.join(", "));
    let text = raw.text().unwrap_or_default().trim();
    // `EnvFilter` takes a misspelt level for the name of a target, and then says nothing at all.
    let directives = text.split(',').map(str::trim);
    let plain = directives.filter(|directive| !directive.contains(['=', '[']));
    if text.is_empty()
        || plain.into_iter().any(|level| LEVELS.iter().all(|known| !known.eq_ignore_ascii_case(level)))
        || EnvFilter::try_new(text).is_err()
    {
        return Err(expected());
    }
    Ok(text.to_owned())
}

fn format(raw: &Raw) -> Result<LogFormat, String> {
    match raw.text() {
        Some("json") => Ok(LogFormat::Json),
        Some("text") => Ok(LogFormat::Text),
        _ => Err("json or text".to_owned()),
    }
}
