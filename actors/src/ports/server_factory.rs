//! Port: from the address of a model server to the server, for those that are added while the process runs.
//!
//! * An address that must not be called (see docs/SECURITY.md) MUST be refused, by both methods, however it is written. So MUST
//!   that of this process itself.
//! * `connect` MUST look the host up and refuse a name that leads only to such addresses, or nowhere.
//! * `reconnect` MUST NOT wait for the network: a name is looked up by the first call, which fails as `Unreachable` where that
//!   gives nothing that may be called.
//! * What was looked up MUST stay the same for the calls of the server while connections to it can be made.
//! * Nothing that a server answers MUST make a call go elsewhere.

use std::sync::Arc;

use async_trait::async_trait;

use super::chat_model::ChatModel;

/// A model server that can be called.
pub struct Connection {
    /// Its address in one fixed form.
    pub url: String,
    /// How it is called where nobody gave it a name: host and port.
    pub name: String,
    /// Turns that it runs at once where nobody said how many.
    pub slots: u32,
    /// The server.
    pub model: Arc<dyn ChatModel>,
}

/// Why an address is not called; the text says so to whoever gave it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressRefused {
    /// Not a URL.
    #[error("must be a URL like http://127.0.0.1:11434")]
    Malformed,
    /// Another scheme.
    #[error("must begin with http:// or https://, not {0}:")]
    Scheme(String),
    /// A user or a password.
    #[error("must not contain a user or a password")]
    Credentials,
    /// A query or a fragment.
    #[error("must not have a query or a fragment")]
    Extra,
    /// An address that is no place of a model server.
    #[error("must not be {what}")]
    Forbidden {
        /// Which kind of address.
        what: &'static str,
    },
    /// A name that leads only to such addresses.
    #[error("must not be a name of {what}")]
    LeadsToForbidden {
        /// Which kind of address.
        what: &'static str,
    },
    /// Where this process itself listens.
    #[error("must not be deia's own address: it would ask itself")]
    Itself,
    /// A name that leads nowhere.
    #[error("names a host that can't be found: {0}")]
    Unknown(String),
}

/// Makes model servers from addresses.
#[async_trait]
pub trait ServerFactory: Send + Sync + 'static {
    /// A server that somebody adds now.
    ///
    /// # Errors
    /// See [`AddressRefused`].
    async fn connect(&self, url: &str) -> Result<Connection, AddressRefused>;

    /// A server that was added before the process started.
    ///
    /// # Errors
    /// See [`AddressRefused`]; never `Unknown`.
    fn reconnect(&self, url: &str) -> Result<Connection, AddressRefused>;
}
