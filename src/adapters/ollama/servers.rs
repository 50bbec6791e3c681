//! Ollama servers that are added while the process runs, behind the port `ServerFactory`.

use std::{net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use deia_actors::ports::server_factory::{AddressRefused, Connection, ServerFactory};
use reqwest::Url;

use super::{Limits, Ollama};
use crate::model_address::{host_and_port, is_own, parse_address};

/// Makes [`Ollama`]s from addresses.
#[derive(Debug, Clone, Copy)]
pub struct OllamaServers {
    /// How long to wait for them.
    pub limits: Limits,
    /// Answers that one makes at once where nobody says how many.
    pub slots: u32,
    /// Where this process listens, which is no model server.
    pub own: SocketAddr,
}

impl OllamaServers {
    fn parse(&self, url: &str) -> Result<Url, AddressRefused> {
        let url = parse_address(url)?;
        if is_own(&url, &[], self.own) { Err(AddressRefused::Itself) } else { Ok(url) }
    }

    fn make(&self, url: &Url) -> Result<(Connection, Ollama), AddressRefused> {
        let ollama = Ollama::new(url, self.limits).map_err(|e| AddressRefused::Unknown(e.to_string()))?;
        let connection = Connection {
            url: url.as_str().trim_end_matches('/').to_owned(),
            name: host_and_port(url),
            slots: self.slots,
            model: Arc::new(ollama.clone()),
        };
        Ok((connection, ollama))
    }
}

#[async_trait]
impl ServerFactory for OllamaServers {
    async fn connect(&self, url: &str) -> Result<Connection, AddressRefused> {
        let url = self.parse(url)?;
        let (connection, ollama) = self.make(&url)?;
        match is_own(&url, &ollama.find(&url).await?, self.own) {
            true => Err(AddressRefused::Itself),
            false => Ok(connection),
        }
    }

    fn reconnect(&self, url: &str) -> Result<Connection, AddressRefused> {
        self.make(&self.parse(url)?).map(|(connection, _)| connection)
    }
}
