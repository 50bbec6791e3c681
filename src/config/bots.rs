//! `[bots]`: limits of bots and conversations.

use std::time::Duration;

use super::{error::ConfigError, reader::Reader};

/// Limits of bots and conversations.
#[derive(Debug, Clone)]
pub struct Bots {
    /// How many bots may run at once.
    pub max_running: usize,
    /// The model of a bot that is launched without one.
    pub default_model: Option<String>,
    /// How many messages may wait behind the running turn of a conversation.
    pub conversation_queue: usize,
    /// Turns that waited longer than this are not run again after a restart of the process.
    pub requeue_max_age: Duration,
}

impl Bots {
    pub(super) fn read(reader: &mut Reader) -> Result<Self, ConfigError> {
        let mut section = reader.section("bots");
        Ok(Self {
            max_running: section.key("max_running", "How many bots may run at once.").number(100, 1..=100_000)?,
            default_model: section
                .key("default_model", "Model of a bot that is launched without one. Without it the first one found that chats.")
                .optional_text()?,
            conversation_queue: section
                .key("conversation_queue", "How many messages may wait behind the running turn of a conversation.")
                .number(16, 0..=10_000)?,
            requeue_max_age: section
                .key(
                    "requeue_max_age_s",
                    "After a restart of the process, turns that had waited longer than these seconds are marked \
                     interrupted instead of being run.",
                )
                .seconds(900, 0..=31_536_000)?,
        })
    }
}
