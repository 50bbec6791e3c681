//! One suite per port, run on every adapter and on the fake. A suite is a set of obligations, each
//! an async function that panics where it is broken; its macro makes one test of each.
//!
//! ```text
//! struct OnDisk { … }
//! impl Subject for OnDisk { … }
//! deia_actors::history_store_suite!(OnDisk);
//! deia_actors::state_store_suite!(OnDisk);
//! deia_actors::retention_store_suite!(OnDisk);
//! deia_actors::archive_suite!(OnDisk);
//! deia_actors::search_suite!(OnDisk);
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a broken obligation ends the test")]

pub mod archive;
pub mod chat_model;
pub mod history_store;
pub mod retention_store;
pub mod samples;
pub mod search;
pub mod state_store;
pub mod tool_runner;

use std::future::Future;

use crate::ports::storage::Storage;
pub use crate::{archive_suite, history_store_suite, retention_store_suite, search_suite, state_store_suite};

/// A store under test with what keeps it alive (a folder, a server).
pub trait Subject: Sized + Send + Sync {
    /// The store.
    type Store: Storage;
    /// A new, empty one.
    fn create() -> impl Future<Output = Self> + Send;
    /// The store.
    fn store(&self) -> &Self::Store;
    /// Closed and opened again on the same data.
    fn reopen(self) -> impl Future<Output = Self> + Send;
}

/// One test per obligation. Used by the suites' own macros.
#[macro_export]
#[doc(hidden)]
macro_rules! conformance_tests {
    ($subject:ty, $suite:ident: $($obligation:ident)+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $obligation() {
                $crate::testkit::conformance::$suite::$obligation::<$subject>().await;
            }
        )+
    };
}
