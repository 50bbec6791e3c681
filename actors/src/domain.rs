//! The words of the problem: ids, bots, messages, turns, events, problems. Pure data with its own
//! validation; no actor, no effect. Field names are those of the public contract, so the same
//! types serve the store, the events and every front end.

pub mod bot;
pub mod event;
pub mod idempotency;
pub mod ids;
pub mod image;
pub mod message;
pub mod model;
pub mod model_name;
pub mod output_format;
pub mod problem;
pub mod pull;
pub mod search;
pub mod task;
pub mod time;
pub mod tool;
pub mod tree;
pub mod turn;
