//! The adapters: one for each technology behind a port of `deia-actors`. Only the composition root names them.

mod applied;
mod holds;
pub mod migrations;
pub mod ollama;
pub mod postgres;
mod quarantine;
pub mod scratch;
mod shares;
mod spans;
pub mod sqlite;
pub mod tools;
mod words;
