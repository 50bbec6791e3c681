//! The actor tree of deia: supervision, turns, events, history, admission.

pub mod archive;
mod bot;
mod bot_supervisor;
pub mod broadcast;
pub mod commands;
pub mod controller;
pub mod domain;
mod history;
pub mod inference;
pub mod metrics;
pub mod ports;
mod root;
mod state;
pub mod supervision;
mod tasks;
#[cfg(any(test, feature = "test-support"))]
pub mod testkit;
mod tree;
