//! Names of model servers: looked up once, judged, and kept.
//!
//! A name is looked up by the first connection to it. Of what it leads to, addresses that are never called are left out;
//! where none is left the connection fails. What is left is kept for all further connections, so whoever owns the name can't
//! move a server to another address under our feet (DNS rebinding). It is looked up again, and judged again, only after
//! no connection could be made: a machine may get another address.

use std::{
    error::Error,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use deia_actors::ports::server_factory::AddressRefused;
use futures_util::{FutureExt, future::BoxFuture};
use parking_lot::RwLock;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::model_address::forbidden;

/// How long a name may take.
const LOOKUP: Duration = Duration::from_secs(5);

/// Asks for the addresses of a name.
pub(super) type Lookup = Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync>;

/// The name service of this machine.
pub(super) fn system() -> Lookup {
    Arc::new(|name| {
        async move { Ok(tokio::net::lookup_host((name, 0)).await?.map(|found| found.ip()).collect()) }.boxed()
    })
}

/// The addresses of one server's name. Clones share them.
#[derive(Clone)]
pub(super) struct Pinned {
    lookup: Lookup,
    held: Arc<RwLock<Option<Vec<IpAddr>>>>,
}

impl std::fmt::Debug for Pinned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Pinned").field(&self.held).finish()
    }
}

impl Pinned {
    pub(super) fn new(lookup: Lookup) -> Self {
        Self { lookup, held: Arc::default() }
    }

    /// The addresses that may be called.
    ///
    /// # Errors
    /// `LeadsToForbidden`, `Unknown`.
    pub(super) async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, AddressRefused> {
        if let Some(held) = self.held.read().clone() {
            return Ok(held);
        }
        let found = tokio::time::timeout(LOOKUP, (self.lookup)(name.to_owned())).await;
        let found = found.unwrap_or_else(|_| Err(io::Error::other("no answer")));
        let mut allowed = found.map_err(|error| AddressRefused::Unknown(error.to_string()))?;
        let refused = allowed.iter().find_map(|ip| forbidden(*ip));
        allowed.retain(|ip| forbidden(*ip).is_none());
        if allowed.is_empty() {
            return Err(refused.map_or_else(
                || AddressRefused::Unknown("it has no address".to_owned()),
                |what| AddressRefused::LeadsToForbidden { what },
            ));
        }
        // Two at once see the same.
        Ok(self.held.write().get_or_insert(allowed).clone())
    }

    /// The next connection looks the name up again.
    pub(super) fn forget(&self) {
        *self.held.write() = None;
    }
}

impl Resolve for Pinned {
    fn resolve(&self, name: Name) -> Resolving {
        let me = self.clone();
        async move {
            match me.addresses(name.as_str()).await {
                // Port 0 stands for the one of the URL.
                Ok(found) => {
                    let all: Addrs = Box::new(found.into_iter().map(|ip| SocketAddr::new(ip, 0)));
                    Ok(all)
                }
                Err(refused) => Err(Box::new(Refused(refused)) as Box<dyn Error + Send + Sync>),
            }
        }
        .boxed()
    }
}

/// In the words of a server that can't be reached.
#[derive(Debug, thiserror::Error)]
#[error("its address {0}")]
struct Refused(AddressRefused);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use parking_lot::Mutex;

    use super::*;

    /// A name service that says one thing after the other, and the last one for ever.
    fn says(answers: &[&[&str]]) -> Pinned {
        let answers: Vec<Vec<IpAddr>> =
            answers.iter().map(|list| list.iter().map(|ip| ip.parse().unwrap()).collect()).collect();
        let asked = Mutex::new(0);
        Pinned::new(Arc::new(move |_| {
            let mut asked = asked.lock();
            let answer = answers[(*asked).min(answers.len() - 1)].clone();
            *asked += 1;
            async move { Ok(answer) }.boxed()
        }))
    }

    #[tokio::test]
    async fn a_name_that_moves_is_followed_only_after_no_connection_could_be_made() {
        let name = says(&[&["127.0.0.1"], &["10.0.0.7"]]);
        for _ in 0..3 {
            assert_eq!(name.addresses("a").await.unwrap(), ["127.0.0.1".parse::<IpAddr>().unwrap()]);
        }
        name.forget();
        assert_eq!(name.addresses("a").await.unwrap(), ["10.0.0.7".parse::<IpAddr>().unwrap()]);
    }

    #[tokio::test]
    async fn a_name_is_judged_whenever_it_is_looked_up() {
        let name = says(&[&["127.0.0.1"], &["169.254.169.254"], &["::ffff:169.254.169.254", "192.168.0.2"]]);
        assert!(name.addresses("a").await.is_ok());
        name.forget();
        assert!(matches!(name.addresses("a").await, Err(AddressRefused::LeadsToForbidden { .. })));
        assert_eq!(
            name.addresses("a").await.unwrap(),
            ["192.168.0.2".parse::<IpAddr>().unwrap()],
            "what may be called is called, and nothing else"
        );
    }

    #[tokio::test]
    async fn a_name_of_nothing_is_unknown() {
        assert!(matches!(says(&[&[]]).addresses("a").await, Err(AddressRefused::Unknown(_))));
    }
}
