//! `[server]`: the HTTP service.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;

use super::{
    error::ConfigError,
    reader::{Raw, Reader},
};

/// Settings of the HTTP service.
#[derive(Debug, Clone)]
pub struct Server {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// How long running turns may take to end on shutdown.
    pub drain: Duration,
    /// Largest request body, in bytes.
    pub max_body_bytes: usize,
    /// Largest file that can be imported, in bytes.
    pub max_import_bytes: u64,
}

impl Server {
    pub(super) fn read(reader: &mut Reader) -> Result<Self, ConfigError> {
        let mut section = reader.section("server");
        let listen = section.key("listen", "Address and port to listen on; port 0 takes a free one.").read(
            SocketAddr::from(([127, 0, 0, 1], 8000)),
            address,
            |address| Value::from(address.to_string()),
        )?;
        let drain = section
            .key(
                "drain_s",
                "Seconds that running turns get to end on shutdown; the rest is kept and marked interrupted.",
            )
            .seconds(10, 0..=3600)?;
        let max_body_bytes = section
            .key("max_body_bytes", "Largest request body in bytes.")
            .number(2 << 20, 1024..=1 << 30)?;
        let max_import_bytes = section
            .key("max_import_bytes", "Largest file that POST /api/chat/:bot_id/import takes, in bytes.")
            .number(1 << 30, 1024..=1 << 40)?;
        if !listen.ip().is_loopback() {
            let reason = format!(
                "{listen} is not a loopback address, and this version has no users yet who could log in: \
                 listen on 127.0.0.1 or [::1]"
            );
            return Err(reader.blame("server.listen", reason));
        }
        Ok(Self { listen, drain, max_body_bytes, max_import_bytes })
    }
}

fn address(raw: &Raw) -> Result<SocketAddr, String> {
    let text = raw.text().map(|text| text.trim().replacen("localhost:", "127.0.0.1:", 1));
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| "an address with a port, like 127.0.0.1:8000".to_owned())
}
