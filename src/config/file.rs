//! A TOML file as flat keys (`server.listen`), each with the line where it stands.

use std::{fs, io, path::Path};

use serde_json::{Map, Value};
use toml::de::{DeTable, DeValue};

use super::error::ConfigError;

/// One value of a file.
#[derive(Debug)]
pub(super) struct FileEntry {
    /// Dotted key.
    pub key: String,
    /// Line, from 1.
    pub line: usize,
    /// The value; dates and infinite numbers, which no key takes, become text and `null`.
    pub value: Value,
}

/// A parsed file.
#[derive(Debug)]
pub(super) struct FileLayer {
    /// The name under which the file was asked for.
    pub name: String,
    /// Its values in the order of their keys.
    pub entries: Vec<FileEntry>,
}

impl FileLayer {
    /// Reads and parses the file, which must exist.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let name = path.display().to_string();
        let text = fs::read_to_string(path)
            .map_err(|error| ConfigError::file(&name, format!("the file can't be read: {error}")))?;
        Self::parse(name, &text)
    }

    /// Reads and parses the file if there is one.
    pub fn read_if_exists(path: &Path) -> Result<Option<Self>, ConfigError> {
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            _ => Self::read(path).map(Some),
        }
    }

    /// Parses the text of a file called `name`.
    pub fn parse(name: String, text: &str) -> Result<Self, ConfigError> {
        let root = DeTable::parse(text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_of(text, span.start));
            ConfigError::file(format!("{name}:{line}"), format!("this is not TOML: {}", error.message()))
        })?;
        let mut entries = Vec::new();
        flatten(root.get_ref(), "", text, &mut entries);
        Ok(Self { name, entries })
    }
}

fn flatten(table: &DeTable<'_>, prefix: &str, text: &str, entries: &mut Vec<FileEntry>) {
    for (name, value) in table {
        let key = format!("{prefix}{}", name.get_ref());
        match value.get_ref() {
            DeValue::Table(inner) if !inner.is_empty() => flatten(inner, &format!("{key}."), text, entries),
            other => {
                let line = line_of(text, name.span().start);
                entries.push(FileEntry { key, line, value: to_json(other) });
            }
        }
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
}

fn to_json(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::from(text.as_ref()),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).map_or(Value::Null, Value::from)
        }
        DeValue::Float(number) => number.as_str().parse::<f64>().map_or(Value::Null, Value::from),
        DeValue::Boolean(flag) => Value::from(*flag),
        DeValue::Datetime(date) => Value::from(date.to_string()),
        DeValue::Array(items) => items.iter().map(|item| to_json(item.get_ref())).collect(),
        DeValue::Table(table) => Value::Object(
            table
                .iter()
                .map(|(name, item)| (name.get_ref().to_string(), to_json(item.get_ref())))
                .collect::<Map<_, _>>(),
        ),
    }
}
