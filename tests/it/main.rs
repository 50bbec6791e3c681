//! Behaviour of the real binary, seen from outside: one file per behaviour, all on the harness in `support`.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

mod actor_death;
mod bad_input;
mod bot_crash;
mod bot_life;
mod command_line;
mod events;
mod fsync;
mod full_disk;
mod history;
mod http_events;
mod http_requests;
mod migrate;
mod ollama_real;
mod postgres;
mod process;
mod process_death;
mod shutdown;
mod turns;
mod upstream;
