//! A TCP proxy with a fixed address: what is behind it may move, and its connections can be cut at once, or right after
//! the next message of a client went through to the database.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// What every message of a client has in it. The statement that carries it is a transaction of its own.
const SAID: &[u8] = b" client ";

struct Shared {
    upstream: Mutex<Option<SocketAddr>>,
    /// Changes with every cut.
    cuts: watch::Sender<u64>,
    /// Set where the next message of a client is the last thing that goes through.
    after_commit: AtomicBool,
    /// How often that happened.
    cut_commits: AtomicUsize,
}

/// The proxy; its connections end with it.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Proxy {
    /// On a free port, with nothing behind it yet: connections are closed at once.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            upstream: Mutex::new(None),
            cuts: watch::Sender::new(0),
            after_commit: AtomicBool::new(false),
            cut_commits: AtomicUsize::new(0),
        });
        let accepting = tokio::spawn(accept(listener, shared.clone()));
        Self { address, shared, accepting }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections from now on go there; none = nowhere.
    pub fn lead_to(&self, upstream: Option<SocketAddr>) {
        *self.shared.upstream.lock() = upstream;
    }

    /// Cuts every connection.
    pub fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Cuts every connection as soon as a client's message was passed on to be stored, before the answer is.
    pub fn cut_after_commit(&self) {
        self.shared.after_commit.store(true, Ordering::Release);
    }

    /// How often a connection was cut in this way.
    pub fn cut_commits(&self) -> usize {
        self.shared.cut_commits.load(Ordering::Acquire)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                connections.spawn(pass(client, shared.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn pass(client: TcpStream, shared: Arc<Shared>) {
    let mut cuts = shared.cuts.subscribe();
    let upstream = *shared.upstream.lock();
    let Some(upstream) = upstream else { return };
    let Ok(server) = TcpStream::connect(upstream).await else { return };
    for side in [&client, &server] {
        // One that is gone already fails here, and again where it matters.
        let _ = side.set_nodelay(true);
    }
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let up = async {
        let (mut buffer, mut tail) = (vec![0; 16 * 1024], Vec::new());
        while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
            if to_server.write_all(&buffer[..read]).await.is_err() {
                break;
            }
            tail.extend_from_slice(&buffer[..read]);
            let commits = tail.windows(SAID.len()).any(|window| window == SAID);
            if commits && shared.after_commit.swap(false, Ordering::AcqRel) {
                shared.cut_commits.fetch_add(1, Ordering::AcqRel);
                return;
            }
            tail.drain(..tail.len().saturating_sub(SAID.len() - 1));
        }
        // Whoever closes one way is told so the other way; answers still come.
        let _ = to_server.shutdown().await;
        std::future::pending().await
    };
    tokio::select! {
        _ = cuts.changed() => return,
        _ = tokio::io::copy(&mut from_server, &mut to_client) => return,
        () = up => {}
    }
    // It went through. Nobody hears of it, but closing before the server read it could take it back.
    drop((from_client, to_client));
    shared.cuts.send_modify(|cuts| *cuts += 1);
    let _ = to_server.shutdown().await;
    let _ = tokio::io::copy(&mut from_server, &mut tokio::io::sink()).await;
}
