//! What the tree needs from outside, as traits. Each states its obligations (MUST …); one
//! conformance suite per port runs on every adapter and on the fake.

pub mod archive;
pub mod chat_model;
pub mod history_store;
pub mod retention;
pub mod scratch;
pub mod search;
pub mod server_factory;
pub mod state_store;
pub mod storage;
pub mod tool_runner;
