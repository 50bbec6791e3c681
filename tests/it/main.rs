//! Behaviour of the real binary, seen from outside: one file per behaviour, all on the harness in `support`.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

mod actor_death;
mod bad_input;
mod bot_crash;
mod bot_life;
mod branches;
mod command_line;
mod context;
mod events;
mod export;
mod faults;
mod fsync;
mod full_disk;
mod history;
mod http_events;
mod http_requests;
mod idempotency;
mod import_cut;
mod migrate;
mod models;
mod ollama_real;
mod outage;
mod output;
mod postgres;
mod process;
mod process_death;
mod retention;
mod search;
mod servers;
mod servers_at_run_time;
mod shutdown;
mod stop;
mod tools;
mod turns;
mod upstream;
