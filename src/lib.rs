//! deia: many LLM chat bots on Ollama in one process, under an actor supervision tree.
//!
//! The program is a thin shell around this library, and a host can take as much of it as it wants:
//!
//! - [`App`]: everything that `deia serve` is (database, model servers, tree, HTTP, dashboard) from a [`Config`];
//!   README shows it;
//! - [`Controller`]: the tree alone, on a store and model servers of the host's choice.
//!
//! The library installs nothing global: no log, no panic hook, no recorder of metrics, no signal handler. Those are the program's
//! ([`telemetry`], [`signal`]).
//!
//! The tree alone, with the SQLite store and one model server (here the scripted one; an Ollama is the same with its
//! own address):
//!
//! ```
//! use std::{sync::Arc, time::Duration};
//!
//! use deia::{
//!     Controller, ServerSpec,
//!     adapters::{ollama, sqlite::SqliteStore},
//!     requests::{LaunchBot, SendMessage, Sent},
//!     sim::{Sim, SimConfig},
//! };
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("bots.db");
//! let sim = Sim::start(SimConfig::default()).await?;
//! let url = ollama::parse_address(&sim.url())?;
//! let model = ollama::Ollama::new(&url, ollama::Limits::default())?;
//! let server =
//!     ServerSpec { name: "local".into(), url: sim.url(), slots: 1, simulated: false, model: Arc::new(model) };
//!
//! let store = Arc::new(SqliteStore::open(&path).await?);
//! let bots = Controller::builder(store.clone()).server(server).start().await?;
//! let ada = bots.launch(LaunchBot { bot_id: Some("ada".parse()?), ..Default::default() }).await?;
//! if let Sent::Turn(turn) = bots.send(SendMessage::text(ada.id, "hello")).await? {
//!     let reply = turn.ended().await.and_then(|end| end.reply.clone());
//!     assert!(reply.is_some_and(|reply| reply.content.starts_with("Hello!")));
//! }
//!
//! // In this order: the tree stores what it still has to say before the store closes.
//! bots.shutdown(Duration::from_secs(10)).await;
//! store.close().await;
//! sim.stop().await;
//! # Ok(())
//! # }
//! ```

pub mod adapters;
pub mod app;
pub mod cli;
pub mod config;
pub mod http;
pub mod model_address;
pub mod signal;
pub mod sim;
pub mod telemetry;

pub use app::App;
pub use config::Config;
pub use deia_actors::{
    broadcast::reader,
    controller::{Controller, ControllerError, InferenceLimits, ServerSpec, Settings, requests},
    domain, ports,
};

/// The Rust in README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
