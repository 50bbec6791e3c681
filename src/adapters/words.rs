//! Enumerations and JSON as they stand in columns, whatever the database.

use deia_actors::{
    domain::message::{MessageState, Sender},
    ports::history_store::StoreError,
};
use serde::{
    Deserialize, Serialize,
    de::{DeserializeOwned, IntoDeserializer, value::Error},
};

/// The word of a sender.
pub(super) fn sender(sender: Sender) -> &'static str {
    match sender {
        Sender::User => "user",
        Sender::Bot => "bot",
        Sender::System => "system",
        Sender::Tool => "tool",
    }
}

/// The word of a message's state.
pub(super) fn message_state(state: MessageState) -> &'static str {
    match state {
        MessageState::Pending => "pending",
        MessageState::Complete => "complete",
        MessageState::Partial => "partial",
    }
}

/// Reads a word of a unit-only enumeration.
pub(super) fn parse_word<T: for<'de> Deserialize<'de>>(word: &str) -> Result<T, StoreError> {
    T::deserialize(word.into_deserializer()).map_err(|e: Error| unexpected("word", e))
}

/// Writes JSON. Our types have text keys and no failing writers.
pub(super) fn json<T: Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned())
}

/// Reads JSON.
pub(super) fn parse_json<T: DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|e| unexpected("json", e))
}

/// A stored value that this version would not have written.
pub(super) fn unexpected(what: &str, error: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(format!("{what}: {error}"))
}
