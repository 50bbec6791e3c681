//! Keys that make a request safe to repeat: the same key does the same thing once.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{
    ids::{MessageId, TurnId},
    time::Timestamp,
};

/// Longest key, in characters.
pub const IDEMPOTENCY_KEY_MAX: usize = 255;
/// How long a key is remembered, in microseconds: 24 hours.
const KEPT_MICROS: i64 = 24 * 60 * 60 * 1_000_000;

/// A key that a client chose for a request: 1 to 255 printable ASCII characters. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IdempotencyKey(Arc<str>);

/// Why a text is not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to {IDEMPOTENCY_KEY_MAX} printable ASCII characters")]
pub struct InvalidKey;

impl IdempotencyKey {
    /// Checks and wraps a text.
    ///
    /// # Errors
    /// [`InvalidKey`] says the rule.
    pub fn parse(text: &str) -> Result<Self, InvalidKey> {
        let printable = text.bytes().all(|b| (b' '..=b'~').contains(&b));
        if text.is_empty() || text.len() > IDEMPOTENCY_KEY_MAX || !printable {
            return Err(InvalidKey);
        }
        Ok(Self(text.into()))
    }

    /// The text of the key.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a request asks for, as a number that differs where the request differs: the SHA-256 of its JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The fingerprint of a value. Maps must be written in an order of their own, which those of `serde_json` are.
    #[must_use]
    pub fn of(value: &impl Serialize) -> Self {
        // Neither making nor writing plain data as JSON can fail.
        let value = sorted(serde_json::to_value(value).unwrap_or_default());
        Self(Sha256::digest(value.to_string()).into())
    }
}

/// Objects with their members in order, however a map keeps them.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let members: BTreeMap<_, _> = members.into_iter().map(|(name, v)| (name, sorted(v))).collect();
            Value::Object(members.into_iter().collect())
        }
        Value::Array(entries) => entries.into_iter().map(sorted).collect(),
        plain => plain,
    }
}

/// A key on its way into the record, together with what its request does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// Whose key.
    pub user: Arc<str>,
    /// The key.
    pub key: IdempotencyKey,
    /// What the request asks for.
    pub fingerprint: Fingerprint,
    /// When it came.
    pub at: Timestamp,
}

/// What a request of the same key did before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentBefore {
    /// What it asked for.
    pub fingerprint: Fingerprint,
    /// Its turn; none for a slash command.
    pub turn_id: Option<TurnId>,
    /// The user's message.
    pub message_id: MessageId,
    /// The reply.
    pub reply_id: MessageId,
    /// When it came.
    pub created_at: Timestamp,
}

impl SentBefore {
    /// Whether the key may be used anew at this time.
    #[must_use]
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.created_at <= expiry(now)
    }
}

/// Keys that came at this time or before are forgotten `now`.
#[must_use]
pub fn expiry(now: Timestamp) -> Timestamp {
    Timestamp(now.0.saturating_sub(KEPT_MICROS))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_is_short_printable_ascii() {
        for good in ["a", "4f3c-1", "with space", "~!\"", &"x".repeat(255)] {
            assert_eq!(IdempotencyKey::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "é", "a\tb", "a\nb", "\u{7f}", &"x".repeat(256)] {
            assert_eq!(IdempotencyKey::parse(bad), Err(InvalidKey), "{bad:?}");
        }
    }

    #[test]
    fn a_fingerprint_depends_on_the_values_and_not_on_the_order_of_a_map() {
        let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        let same = [read(r#"{"a": 1, "b": [true]}"#), read(r#"{"b":[true],"a":1}"#)];
        assert_eq!(Fingerprint::of(&same[0]), Fingerprint::of(&same[1]));
        for other in [json!({"a": 1}), json!({"a": 1, "b": [false]}), json!(["a", 1]), json!(null)] {
            assert_ne!(Fingerprint::of(&same[0]), Fingerprint::of(&other), "{other}");
        }
    }

    #[test]
    fn a_key_is_kept_for_a_day() {
        let at = |created_at| SentBefore {
            fingerprint: Fingerprint([0; 32]),
            turn_id: None,
            message_id: MessageId::new(),
            reply_id: MessageId::new(),
            created_at: Timestamp(created_at),
        };
        let now = Timestamp(1_700_000_000_000_000);
        assert!(!at(now.0).is_expired(now));
        assert!(!at(now.0 - KEPT_MICROS + 1).is_expired(now));
        assert!(at(now.0 - KEPT_MICROS).is_expired(now));
    }
}
