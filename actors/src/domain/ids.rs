//! Identifiers. Bots carry a human id; everything else a UUIDv7, whose order is the order of creation.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

/// Longest bot id, in characters.
pub const BOT_ID_MAX: usize = 50;
/// Ids that would shadow a route.
const RESERVED: [&str; 2] = ["launch", "send"];

/// A bot's id: `[A-Za-z0-9_-]{1,50}`, not `launch` or `send`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BotId(Arc<str>);

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// Not 1 to 50 characters of `[A-Za-z0-9_-]`.
    #[error("a bot id has 1 to {BOT_ID_MAX} characters of A-Z, a-z, 0-9, '_' and '-'")]
    BotId,
    /// A word that is part of a route.
    #[error("this bot id is reserved; choose another than launch or send")]
    Reserved,
    /// Not a UUID.
    #[error("not a UUID")]
    Uuid,
}

impl BotId {
    /// Checks and wraps a text.
    ///
    /// # Errors
    /// [`InvalidId`] names the rule that the text breaks.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if text.is_empty() || text.len() > BOT_ID_MAX || !text.bytes().all(allowed) {
            return Err(InvalidId::BotId);
        }
        if RESERVED.contains(&text) {
            return Err(InvalidId::Reserved);
        }
        Ok(Self(text.into()))
    }

    /// The `n`-th generated id: `BOT-001`, `BOT-002`, … `BOT-1000`.
    #[must_use]
    pub fn numbered(n: u64) -> Self {
        Self(format!("BOT-{n:03}").into())
    }

    /// The text of the id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for BotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl FromStr for BotId {
    type Err = InvalidId;
    fn from_str(s: &str) -> Result<Self, InvalidId> {
        Self::parse(s)
    }
}
impl Serialize for BotId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}
impl<'de> Deserialize<'de> for BotId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);
        impl $name {
            /// A new id, later in order than every earlier one of this process.
            #[must_use]
            #[allow(clippy::new_without_default, reason = "a default that differs each time would surprise")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(s: &str) -> Result<Self, InvalidId> {
                Uuid::try_parse(s).map(Self).map_err(|_| InvalidId::Uuid)
            }
        }
    };
}

impl MessageId {
    /// The id that stands so many places before this one: for what belongs before a message whose id was given earlier.
    #[must_use]
    pub fn before(self, places: u128) -> Self {
        Self(Uuid::from_u128(self.0.as_u128().saturating_sub(places)))
    }
}

uuid_id!(
    /// A conversation of one bot.
    ConversationId
);
uuid_id!(
    /// One message.
    MessageId
);
uuid_id!(
    /// One turn: a user's message and the answer to it.
    TurnId
);
uuid_id!(
    /// One durable event.
    EventId
);
uuid_id!(
    /// A pull of a model.
    PullId
);
uuid_id!(
    /// The numbering of events that a database began; `seq` is gap-free within it.
    Epoch
);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_bot_id_is_a_short_plain_word() {
        for good in ["a", "BOT-001", "my_bot", &"x".repeat(50)] {
            assert_eq!(BotId::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "../x", "a b", "é", &"x".repeat(51), "a\0"] {
            assert_eq!(BotId::parse(bad), Err(InvalidId::BotId), "{bad:?}");
        }
        assert_eq!(BotId::parse("launch"), Err(InvalidId::Reserved));
    }

    #[test]
    fn generated_ids_count_with_three_digits_and_more() {
        assert_eq!(BotId::numbered(7).as_str(), "BOT-007");
        assert_eq!(BotId::numbered(1234).as_str(), "BOT-1234");
    }
}
