//! Enumerations and JSON as they stand in columns, whatever the database.

use deia_actors::{domain::time::Timestamp, ports::history_store::StoreError};
use serde::{
    Deserialize, Serialize,
    de::{DeserializeOwned, IntoDeserializer, value::Error},
};

/// Reads a word of a unit-only enumeration.
pub(super) fn parse_word<T: for<'de> Deserialize<'de>>(word: &str) -> Result<T, StoreError> {
    T::deserialize(word.into_deserializer()).map_err(|_: Error| unexpected("word", "not one of this version"))
}

/// Writes JSON. Our types have text keys and no failing writers.
pub(super) fn json<T: Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned())
}

/// Reads JSON.
pub(super) fn parse_json<T: DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    // Its own words may quote what is stored.
    serde_json::from_str(text)
        .map_err(|e| unexpected("json", format_args!("{:?} error in column {}", e.classify(), e.column())))
}

/// Reads a time that can be shown.
pub(super) fn time(micros: i64) -> Result<Timestamp, StoreError> {
    let time = Timestamp(micros);
    if time.can_be_shown() { Ok(time) } else { Err(unexpected("time", "not in the years 0 to 9999")) }
}

/// A stored value that this version would not have written.
pub(super) fn unexpected(what: &str, error: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(format!("{what}: {error}"))
}
