//! `[inference]`: the model servers, and what waits for them.

mod servers;

use std::{fmt, time::Duration};

use serde_json::Value;

pub use self::servers::ModelServer;
use super::{
    error::ConfigError,
    reader::{Raw, Reader},
};

/// Settings of the model servers.
#[derive(Debug, Clone)]
pub struct Inference {
    /// The servers, at least one; names and addresses are unique.
    pub servers: Vec<ModelServer>,
    /// Answers at once of a server where nobody said how many.
    pub slots: usize,
    /// Turns that may wait per server.
    pub queue_limit: usize,
    /// How long the first byte of an answer may take, loading the model included.
    pub first_byte: Duration,
    /// How long an answer may pause between two lines.
    pub idle: Duration,
    /// How long a turn waits while no server answers.
    pub offline_wait: Duration,
    /// How long a turn waits in lines at most, all its waits together; none: for ever.
    pub queue_wait: Option<Duration>,
    /// Whether the built-in scripted model is offered.
    pub simulated: Simulated,
}

/// When the built-in scripted model is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Simulated {
    /// When no model server answers at start.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

impl fmt::Display for Simulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::On => "on",
            Self::Off => "off",
        })
    }
}

impl Inference {
    pub(super) fn read(reader: &mut Reader) -> Result<Self, ConfigError> {
        let mut section = reader.section("inference");
        let servers = section
            .key(
                "servers",
                "Ollama servers: URLs, or tables {name, url, slots}. Without it $OLLAMA_HOST, else http://127.0.0.1:11434.",
            )
            .read(servers::default(), servers::parse, |list| servers::show(list))?;
        let slots: usize = section
            .key("slots", "Answers that one server makes at once, where its table says nothing; Ollama's own default is 1.")
            .number(1, 1..=1024)?;
        Ok(Self {
            servers: servers.into_iter().map(|server| server.complete(slots)).collect(),
            slots,
            queue_limit: section
                .key("queue_limit", "Turns that may wait per server.")
                .number(512, 1..=1_000_000)?,
            first_byte: section
                .key("first_byte_s", "Seconds until the first byte of an answer, loading the model included.")
                .seconds(120, 1..=86_400)?,
            idle: section.key("idle_s", "Seconds between two lines of an answer.").seconds(30, 1..=86_400)?,
            offline_wait: section
                .key("offline_wait_s", "Seconds that a turn waits while no server answers.")
                .seconds(30, 0..=86_400)?,
            queue_wait: Some(
                section
                    .key(
                        "queue_wait_s",
                        "Longest wait of a turn in the lines of servers, all its waits together, in seconds; 0: no limit.",
                    )
                    .seconds(0, 0..=86_400)?,
            )
            .filter(|wait| !wait.is_zero()),
            simulated: section
                .key(
                    "simulated",
                    "The built-in scripted model: auto offers it when no server answers at start; on; off.",
                )
                .read(Simulated::Auto, simulated, |simulated| Value::from(simulated.to_string()))?,
        })
    }
}

fn simulated(raw: &Raw) -> Result<Simulated, String> {
    match raw.text() {
        Some("auto") => Ok(Simulated::Auto),
        Some("on") => Ok(Simulated::On),
        Some("off") => Ok(Simulated::Off),
        _ => Err("auto, on or off".to_owned()),
    }
}
