//! The harness: a real `deia` process on a free port with a folder of its own, and clients for its two doors.
//!
//! ```ignore
//! let sim = Sim::start(SimConfig::default()).await?;          // deia's own simulator, in this process
//! let home = Home::new().env("DEIA_INFERENCE__SERVERS", sim.url());
//! let deia = home.start().await;                              // ready, on a free port
//! deia.api().launch("ada", "sim:echo").await;
//! let answer = deia.api().send("ada", "hello").await;
//! deia.kill().await;                                          // kill -9
//! let deia = home.start().await;                              // the same data again
//! ```
//!
//! The record is an SQLite file in the folder; with `TEST_DATABASE=postgres` it is a database of its own on the server of
//! `scripts/with-postgres`. A test may also run a PostgreSQL of its own ([`PostgresServer`]) and mistreat it.
//!
//! A process dies with its handle. When the test fails, what it wrote to standard error is printed.

#![allow(dead_code, unused_imports, reason = "not every test file uses every helper")]

mod api;
mod database;
mod postgres;
mod process;
mod socket;
mod stage;

use std::{future::Future, time::Duration};

pub use self::{
    api::{Answer, Api, ServerSentEvent, ServerSentEvents},
    database::{Database, PostgresDatabase, server_url},
    postgres::PostgresServer,
    process::{Deia, Home, Signal, send_signal},
    socket::Socket,
    stage::{InProcess, Stage, numbered},
};

/// How long anything may take that happens in milliseconds on an idle machine; a busy one, with debug builds, may need a
/// thousand times as long.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// After how many seconds without an answer of the database a service gives up: the disk of a busy machine may take longer
/// than the usual five, and only tests of an outage want to be told of that.
const DATABASE_S: &str = "60";

/// Awaits `work` and fails the test, naming `what`, when it takes longer than [`DEADLINE`].
pub async fn soon<F: Future>(what: &str, work: F) -> F::Output {
    match tokio::time::timeout(DEADLINE, work).await {
        Ok(output) => output,
        Err(_) => panic!("not within {DEADLINE:?}: {what}"),
    }
}

/// Asks again and again until `probe` has an answer, and fails the test when it has none within [`DEADLINE`].
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut probe: impl FnMut() -> F) -> T {
    soon(what, async {
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            // Between processes there is nothing to await; the pause only keeps the question from taking the core.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
}
