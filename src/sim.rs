//! `deia sim`: an HTTP server that speaks Ollama's API from a script, with faults on demand.
//!
//! It lets the first run work with no Ollama installed, and it is what tests and benchmarks talk to; so it is cheap:
//! an answer is composed once, its lines are spliced from a prefix, and what is ready leaves in one write.
//!
//! The model's name carries the script: plain names such as `simulated` answer a person, `sim:echo`,
//! `sim:tokens=200,gap_ms=5`, `sim:error_at=10`, `sim:tools=3,calls=2`, `sim:misform` and so on play what they say; the keys are in `sim/script.rs`.
//! The same request gets the same answer, always.
//!
//! Owned tasks: one accept loop, one task for each connection; [`Sim::stop`] waits for all of them.

use std::{io, net::SocketAddr, sync::Arc, time::Instant};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

mod answer;
mod catalogue;
mod masked;
mod playback;
mod pull;
mod reply;
mod request;
mod run;
mod schema;
mod script;
mod server;
mod speech;
mod stats;
mod wire;

pub use stats::SimStats;

/// Where the simulator listens and what it offers.
#[derive(Debug, Clone)]
pub struct SimConfig {
    /// The address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The listed models; `sim:…` names are accepted without being listed.
    pub models: Vec<String>,
}

impl Default for SimConfig {
    /// A free port on loopback, with the model `simulated`.
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 0)), models: vec!["simulated".to_owned()] }
    }
}

/// A running simulator. Dropping it stops it without waiting; [`Sim::stop`] waits.
#[derive(Debug)]
pub struct Sim {
    address: SocketAddr,
    shared: Arc<server::Shared>,
    stop: CancellationToken,
    accept: Option<JoinHandle<()>>,
}

impl Sim {
    /// Binds the address and serves from now on.
    ///
    /// # Errors
    /// The address can't be bound.
    pub async fn start(config: SimConfig) -> io::Result<Self> {
        let listener = tokio::net::TcpListener::bind(config.listen).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(server::Shared::new(config.models));
        let stop = CancellationToken::new();
        let accept = tokio::spawn(server::serve(listener, Arc::clone(&shared), stop.clone()));
        Ok(Self { address, shared, stop, accept: Some(accept) })
    }

    /// The address that it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base URL: `http://` and the address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The counters as they are now.
    #[must_use]
    pub fn stats(&self) -> SimStats {
        self.shared.counters.read()
    }

    /// When a client last went away before the end of its answer.
    #[must_use]
    pub fn last_left(&self) -> Option<Instant> {
        self.shared.counters.left()
    }

    /// Lets every answer go on that waits at its `hold_at`, and every pull of a `held` model, those to come included: what has
    /// to happen in the middle of one has happened.
    pub fn let_go(&self) {
        self.shared.let_go.cancel();
    }

    /// Stops accepting, closes idle connections, gives running answers a quarter of a second, and waits for the end.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Some(accept) = self.accept.take()
            && let Err(error) = accept.await
        {
            tracing::error!(%error, "sim.accept_loop_failed");
        }
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Serves until `shutdown`, then ends as [`Sim::stop`] does. Whoever needs the address of port 0 uses [`Sim::start`].
///
/// # Errors
/// The address can't be bound.
pub async fn run(config: SimConfig, shutdown: CancellationToken) -> io::Result<()> {
    let sim = Sim::start(config).await?;
    tracing::info!(address = %sim.address(), "sim.listening");
    shutdown.cancelled().await;
    sim.stop().await;
    Ok(())
}

#[cfg(test)]
mod tests;
