//! `[supervision]`: how often what crashes is started again.

use std::time::Duration;

use super::{error::ConfigError, reader::Reader};

/// Restart budgets.
#[derive(Debug, Clone)]
pub struct Supervision {
    /// Restarts that a bot may use within `bot_within` before it is quarantined.
    pub bot_restarts: u32,
    /// The window of `bot_restarts`.
    pub bot_within: Duration,
    /// Restarts that the root may use within `root_within` before the process gives up with exit code 70.
    pub root_restarts: u32,
    /// The window of `root_restarts`.
    pub root_within: Duration,
    /// Whether bots may be crashed on purpose over the API.
    pub allow_kill: bool,
}

impl Supervision {
    /// `open`: whether the service is an open one on the loopback, where whoever calls is the administrator.
    pub(super) fn read(reader: &mut Reader, open: bool) -> Result<Self, ConfigError> {
        let mut section = reader.section("supervision");
        Ok(Self {
            bot_restarts: section
                .key("bot_restarts", "Crashes of one bot within bot_within_s that are answered by a restart; one more and it is quarantined.")
                .number(5, 0..=1000)?,
            bot_within: section.key("bot_within_s", "Window of bot_restarts in seconds.").seconds(60, 1..=86_400)?,
            root_restarts: section
                .key("root_restarts", "Restarts of the services below the root within root_within_s; one more and the process ends with exit code 70.")
                .number(3, 0..=1000)?,
            root_within: section.key("root_within_s", "Window of root_restarts in seconds.").seconds(30, 1..=86_400)?,
            allow_kill: section
                .key("allow_kill", "Whether POST /api/bot/:id/kill may crash a bot on purpose. Without it only on a loopback address without users.")
                .flag(open)?,
        })
    }
}
