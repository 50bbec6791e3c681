//! Why a configuration is refused: one line with the place, the key, the reason and the nearest match.

use std::fmt;

/// A configuration that can't be used. Its text is one line, fit for a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Where it stands: `config.toml:12` or `environment`.
    pub place: String,
    /// The key or variable, where one is to blame.
    pub key: Option<String>,
    /// What is wrong and what would be right.
    pub reason: String,
    /// The known name that was probably meant.
    pub nearest: Option<String>,
}

impl ConfigError {
    /// A value that is not as it must be.
    pub(super) fn value(place: impl Into<String>, key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { place: place.into(), key: Some(key.into()), reason: reason.into(), nearest: None }
    }

    /// A file that can't be used as a whole.
    pub(super) fn file(place: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { place: place.into(), key: None, reason: reason.into(), nearest: None }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = self.place.clone();
        if let Some(key) = &self.key {
            line += ": ";
            line += key;
        }
        line += ": ";
        line += &self.reason;
        if let Some(nearest) = &self.nearest {
            line += ", did you mean ";
            line += nearest;
            line.push('?');
        }
        // Keys and parser messages may hold line breaks; the promise is one line.
        for part in line.split(|c: char| c.is_control()).filter(|part| !part.is_empty()).enumerate() {
            let gap = if part.0 == 0 { "" } else { " " };
            write!(f, "{gap}{}", part.1)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
