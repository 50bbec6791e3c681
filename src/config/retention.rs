//! `[retention]`: how long what is kept.

use std::time::Duration;

use super::{error::ConfigError, reader::Reader};

/// Ten years in hours: longer than anybody keeps events.
const HOURS_MAX: u64 = 10 * 366 * 24;
/// Ten years in days.
const DAYS_MAX: u64 = 10 * 366;

/// How long what is kept; none = for ever.
#[derive(Debug, Clone)]
pub struct Retention {
    /// Messages of conversations without a legal hold.
    pub chat: Option<Duration>,
    /// The audit log.
    pub audit: Option<Duration>,
    /// The last status of deleted bots.
    pub status: Option<Duration>,
    /// Events for readers that come back.
    pub outbox: Option<Duration>,
    /// The same by their number, per topic.
    pub outbox_events: Option<u64>,
    /// From one look for old rows to the next.
    pub interval: Duration,
}

impl Retention {
    pub(super) fn read(reader: &mut Reader) -> Result<Self, ConfigError> {
        let mut section = reader.section("retention");
        let time = |n: u64, hours: u64| (n > 0).then(|| Duration::from_hours(n * hours));
        Ok(Self {
            chat: time(
                section
                    .key("chat_days", "Days that messages are kept; 0: for ever.")
                    .number(90, 0..=DAYS_MAX)?,
                24,
            ),
            audit: time(
                section
                    .key("audit_days", "Days that the audit log is kept; 0: for ever.")
                    .number(180, 0..=DAYS_MAX)?,
                24,
            ),
            status: time(
                section
                    .key("status_days", "Days that the last status of a deleted bot is kept; 0: for ever.")
                    .number(7, 0..=DAYS_MAX)?,
                24,
            ),
            outbox: time(
                section
                    .key(
                        "outbox_hours",
                        "Hours that events are kept for readers that come back; 0: for ever.",
                    )
                    .number(24, 0..=HOURS_MAX)?,
                1,
            ),
            outbox_events: Some(
                section
                    .key(
                        "outbox_events",
                        "Events that are kept of each topic for readers that come back; 0: any number.",
                    )
                    .number(10_000, 0..=1_000_000_000)?,
            )
            .filter(|n| *n > 0),
            interval: section
                .key("interval_s", "Seconds from one look for old rows to the next.")
                .seconds(3600, 1..=86_400)?,
        })
    }
}
