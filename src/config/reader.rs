//! Reads keys out of the layers and keeps book: what is known, what is set, and where it came from.

use std::{
    borrow::Cow, collections::BTreeMap, ffi::OsStr, ops::RangeInclusive, path::PathBuf, time::Duration,
};

use serde::{Serialize, Serializer};
use serde_json::Value;

use super::{error::ConfigError, file::FileLayer};

const PREFIX: &str = "DEIA_";
/// How alike two names must be (0 to 1) for one to be offered instead of the other.
const ALIKE: f64 = 0.6;

/// Where an effective value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nobody set it.
    Default,
    /// The configuration file of this name.
    File(String),
    /// A variable.
    Environment,
    /// The program that embeds deia.
    Code,
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self {
            Self::Default => "default",
            Self::File(name) => name,
            Self::Environment => "environment",
            Self::Code => "code",
        })
    }
}

/// One key with its effective value, as `GET /api/config` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct Item {
    /// Dotted key (`server.listen`).
    pub key: String,
    /// The value in use; secrets are redacted.
    pub value: Value,
    /// Who set it.
    pub source: Source,
    /// The variable that sets it.
    pub env: String,
    /// What it means.
    pub description: &'static str,
}

/// A value as somebody gave it.
#[derive(Debug)]
struct Given {
    raw: Raw,
    source: Source,
    /// `config.toml:12`, `environment`, `code`.
    place: String,
    /// The name to blame: a key or a variable.
    name: String,
}

/// A value before it has a type: text can mean a number or a list, a value of a file can't.
#[derive(Debug)]
pub(super) enum Raw {
    /// From the environment or from code.
    Text(String),
    /// From a file.
    Typed(Value),
}

impl Raw {
    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Typed(value) => value.as_str(),
        }
    }

    fn integer(&self) -> Option<i64> {
        match self {
            Self::Text(text) => text.trim().parse().ok(),
            Self::Typed(value) => value.as_i64(),
        }
    }

    /// Whether this is a section of a file with nothing in it.
    fn is_empty_section(&self) -> bool {
        matches!(self, Self::Typed(Value::Object(table)) if table.is_empty())
    }

    fn boolean(&self) -> Option<bool> {
        match self {
            Self::Text(text) => text.trim().parse().ok(),
            Self::Typed(value) => value.as_bool(),
        }
    }

    /// The parts of a list; text is cut at commas, and empty text is an empty list.
    pub fn list(&self) -> Option<Cow<'_, [Value]>> {
        match self {
            Self::Text(text) => {
                let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
                Some(parts.map(Value::from).collect())
            }
            Self::Typed(Value::Array(items)) => Some(Cow::Borrowed(items)),
            Self::Typed(_) => None,
        }
    }

    /// The value for a message: quoted, on one line, not endless.
    fn quoted(&self) -> String {
        let text = hide_credentials(&match self {
            Self::Text(text) => format!("{text:?}"),
            Self::Typed(value) => value.to_string(),
        });
        match text.char_indices().nth(80) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    }
}

/// The text with `user:password@` of every URL in it blotted out.
fn hide_credentials(text: &str) -> String {
    let mut parts = text.split("://");
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let authority = part.find(['/', '?', '#', ',', '"', ' ']).unwrap_or(part.len());
        let host = part[..authority].rfind('@').map_or(0, |at| at + 1);
        shown += "://";
        shown += if host > 0 { "[redacted]@" } else { "" };
        shown += &part[host..];
    }
    shown
}

/// The layers, and the keys that were read from them.
#[derive(Debug, Default)]
pub(super) struct Reader {
    given: BTreeMap<String, Given>,
    items: Vec<Item>,
}

impl Reader {
    /// Adds the values of a file.
    pub fn add_file(&mut self, file: FileLayer) {
        for entry in file.entries {
            let place = format!("{}:{}", file.name, entry.line);
            let source = Source::File(file.name.clone());
            let given = Given { raw: Raw::Typed(entry.value), source, place, name: entry.key.clone() };
            self.given.insert(entry.key, given);
        }
    }

    /// Adds a variable if it is one of ours; it wins over what was added before.
    pub fn add_variable(&mut self, name: &OsStr, value: &OsStr) -> Result<(), ConfigError> {
        let name = name.to_string_lossy();
        let Some(rest) = name.strip_prefix(PREFIX) else { return Ok(()) };
        let Some(text) = value.to_str() else {
            return Err(ConfigError::value("environment", name, "the value is not UTF-8"));
        };
        // Names are exact: `DEIA_server__listen` keeps a key that does not exist and is refused with the right one.
        let exact =
            rest.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
        let key = if exact { rest.to_ascii_lowercase().replace("__", ".") } else { name.to_string() };
        let raw = Raw::Text(text.to_owned());
        let given = Given {
            raw,
            source: Source::Environment,
            place: "environment".to_owned(),
            name: name.into_owned(),
        };
        self.given.insert(key, given);
        Ok(())
    }

    /// Adds a variable of somebody else's that stands for `key` where nobody set the key itself.
    pub fn add_fallback(&mut self, key: &str, name: &str, value: &OsStr) {
        let raw = Raw::Text(value.to_string_lossy().into_owned());
        let place = "environment".to_owned();
        let given = Given { raw, source: Source::Environment, place, name: name.to_owned() };
        self.given.entry(key.to_owned()).or_insert(given);
    }

    /// Adds a value given by the program.
    pub fn add_code(&mut self, key: String, value: String) {
        let given = Given {
            raw: Raw::Text(value),
            source: Source::Code,
            place: "code".to_owned(),
            name: key.clone(),
        };
        self.given.insert(key, given);
    }

    /// Keys outside of any section.
    pub fn top_level(&mut self) -> Section<'_> {
        Section { reader: self, name: "" }
    }

    /// Keys of `[name]`.
    pub fn section(&mut self, name: &'static str) -> Section<'_> {
        Section { reader: self, name }
    }

    /// Whether somebody set this key.
    pub fn sets(&self, key: &str) -> bool {
        self.given.contains_key(key)
    }

    /// A problem with a key that was read: blames the place that set it.
    pub fn blame(&self, key: &str, reason: impl Into<String>) -> ConfigError {
        match self.given.get(key) {
            Some(given) => ConfigError::value(&given.place, &given.name, reason),
            None => ConfigError::value("default", key, reason),
        }
    }

    /// Refuses what was given and never read; returns every key that was.
    pub fn finish(self) -> Result<Vec<Item>, ConfigError> {
        let unknown = self.given.iter().find(|(key, given)| {
            let of_section =
                |item: &Item| item.key.strip_prefix(key.as_str()).is_some_and(|rest| rest.starts_with('.'));
            let empty = given.raw.is_empty_section();
            !self.items.iter().any(|item| item.key == **key || (empty && of_section(item)))
        });
        let Some((key, given)) = unknown else { return Ok(self.items) };
        let variable = given.source == Source::Environment;
        let reason = if variable { "there is no such variable" } else { "there is no such key" };
        let nearest = self.items.iter().map(|item| (likeness(key, &given.name, item), item));
        let nearest = nearest.filter(|(alike, _)| *alike >= ALIKE).max_by(|(a, _), (b, _)| a.total_cmp(b));
        Err(ConfigError {
            nearest: nearest.map(|(_, item)| if variable { item.env.clone() } else { item.key.clone() }),
            ..ConfigError::value(&given.place, &given.name, reason)
        })
    }
}

/// How near an unknown name is to a key. The right name in the wrong section counts as near.
fn likeness(key: &str, name: &str, item: &Item) -> f64 {
    fn last(key: &str) -> &str {
        key.rsplit('.').next().unwrap_or(key)
    }
    let whole = strsim::normalized_damerau_levenshtein(key, &item.key);
    let variable = strsim::normalized_damerau_levenshtein(&name.to_ascii_uppercase(), &item.env);
    let moved = if last(key) == last(&item.key) { 0.9 } else { 0.0 };
    whole.max(variable).max(moved)
}

/// A section while it is read.
pub(super) struct Section<'r> {
    reader: &'r mut Reader,
    name: &'static str,
}

impl Section<'_> {
    /// Declares a key; one of the methods of [`Key`] says its type and reads it.
    pub fn key(&mut self, name: &'static str, description: &'static str) -> Key<'_> {
        let (key, env) = match self.name {
            "" => (name.to_owned(), format!("{PREFIX}{}", name.to_ascii_uppercase())),
            section => (
                format!("{section}.{name}"),
                format!("{PREFIX}{}__{}", section.to_ascii_uppercase(), name.to_ascii_uppercase()),
            ),
        };
        Key { reader: self.reader, key, env, description, secret: false }
    }
}

/// A declared key, not yet read.
pub(super) struct Key<'r> {
    reader: &'r mut Reader,
    key: String,
    env: String,
    description: &'static str,
    secret: bool,
}

impl Key<'_> {
    /// No message repeats the value.
    pub fn secret(self) -> Self {
        Self { secret: true, ..self }
    }

    /// A whole number within `range`.
    pub fn number<N: TryFrom<u64>>(self, default: u64, range: RangeInclusive<u64>) -> Result<N, ConfigError> {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        let parse = |raw: &Raw| {
            let number = raw.integer().and_then(|number| u64::try_from(number).ok());
            number.filter(|number| range.contains(number)).ok_or_else(|| expected.clone())
        };
        let (place, key) = (self.place(), self.key.clone());
        let number = self.read(default, parse, |number| Value::from(*number))?;
        N::try_from(number).map_err(|_| ConfigError::value(place, key, "the number is too large"))
    }

    /// A length of time, written as whole seconds.
    pub fn seconds(self, default: u64, range: RangeInclusive<u64>) -> Result<Duration, ConfigError> {
        self.number(default, range).map(Duration::from_secs)
    }

    /// `true` or `false`.
    pub fn flag(self, default: bool) -> Result<bool, ConfigError> {
        self.read(
            default,
            |raw| raw.boolean().ok_or_else(|| "true or false".to_owned()),
            |flag| Value::from(*flag),
        )
    }

    /// A path that is not empty.
    pub fn path(self, default: &str) -> Result<PathBuf, ConfigError> {
        let parse = |raw: &Raw| match raw.text() {
            Some(text) if !text.is_empty() => Ok(PathBuf::from(text)),
            _ => Err("a path".to_owned()),
        };
        self.read(PathBuf::from(default), parse, |path| Value::from(path.to_string_lossy()))
    }

    /// Text that may be missing; empty text counts as missing.
    pub fn optional_text(self) -> Result<Option<String>, ConfigError> {
        let parse = |raw: &Raw| match raw.text() {
            Some(text) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
            None => Err("text".to_owned()),
        };
        self.read(None, parse, |text| text.clone().map_or(Value::Null, Value::from))
    }

    /// Any type: `parse` answers what was expected (`a whole number from 1 to 5`), `show` must hide secrets.
    pub fn read<T>(
        self,
        default: T,
        parse: impl FnOnce(&Raw) -> Result<T, String>,
        show: impl FnOnce(&T) -> Value,
    ) -> Result<T, ConfigError> {
        let Self { reader, key, env, description, secret } = self;
        let (value, source) = match reader.given.get(&key) {
            None => (default, Source::Default),
            Some(given) => {
                let value = parse(&given.raw).map_err(|expected| {
                    let instead =
                        if secret { String::new() } else { format!(", not {}", given.raw.quoted()) };
                    let reason = format!("must be {expected}{instead}");
                    ConfigError::value(&given.place, &given.name, reason)
                })?;
                (value, given.source.clone())
            }
        };
        reader.items.push(Item { key, value: show(&value), source, env, description });
        Ok(value)
    }

    fn place(&self) -> String {
        self.reader.given.get(&self.key).map_or_else(|| "default".to_owned(), |given| given.place.clone())
    }
}
