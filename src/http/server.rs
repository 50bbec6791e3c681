//! The accept loop: HTTP/1.1 on plain TCP, bounded connections, a time limit for headers, and an end in order.
//!
//! Invariants: every connection and every socket is a task of one tracker; a connection's permit lives until its last
//! user is gone, also after an upgrade; nothing outlives [`Bound::serve`].

use std::{convert::Infallible, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream, ToSocketAddrs, lookup_host},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service;
use warp::reply::Response;

use super::{Api, edge::Edge, routes};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4096;
/// Connections at once; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 8192;
/// Longest wait for the head of a request, and for the next request on an idle connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Read buffer of a connection: bounds the head of a request.
const MAX_BUFFER: usize = 64 * 1024;
/// Pause after an accept that failed (no file handles left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Time for streams and sockets to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

/// The HTTP server.
#[derive(Debug)]
pub struct Server;

/// A server that has its address and does not serve yet.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
    max_connections: usize,
    header_timeout: Duration,
}

/// What a connection gives its requests: kept by an upgraded socket, it keeps the connection's permit.
#[derive(Clone)]
pub(super) struct Connection(Arc<Shared>);

struct Shared {
    peer: SocketAddr,
    tasks: TaskTracker,
    kill: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    /// The other end.
    pub(super) fn peer(&self) -> SocketAddr {
        self.0.peer
    }

    /// Runs a task that belongs to this connection, until its end or that of the server.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let connection = self.clone();
        // In a box: a future that is moved into another one takes its space twice, for as long as the task lives.
        let task = Box::pin(task);
        self.0.tasks.spawn(async move {
            tokio::select! {
                () = task => {}
                () = connection.0.kill.cancelled() => {}
            }
        });
    }
}

impl Server {
    /// Takes the address; port 0 = any free one.
    ///
    /// # Errors
    /// The address is taken or not of this machine.
    pub async fn bind(address: impl ToSocketAddrs) -> io::Result<Bound> {
        let mut refused = io::Error::new(io::ErrorKind::InvalidInput, "no address to listen on");
        for address in lookup_host(address).await? {
            match listen(address) {
                Ok(listener) => return Self::bound(listener),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    fn bound(listener: TcpListener) -> io::Result<Bound> {
        let address = listener.local_addr()?;
        Ok(Bound { listener, address, max_connections: MAX_CONNECTIONS, header_timeout: HEADER_TIMEOUT })
    }
}

/// Listens with room for a crowd that comes at once: those behind a full backlog would be reset without a word.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

impl Bound {
    /// The address, with the real port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Other limits: connections at once, and the wait for the head of a request.
    #[must_use]
    pub fn with_limits(mut self, max_connections: usize, header_timeout: Duration) -> Self {
        (self.max_connections, self.header_timeout) = (max_connections, header_timeout);
        self
    }

    /// Serves until `api.stopping` is cancelled, then takes no more connections and waits at most `drain` for the
    /// requests that run. Streams and sockets go on until `api.closing` is cancelled (by the one who ends the tree, once
    /// the turns have ended) or `drain` is over. True if everything ended by itself.
    pub async fn serve(self, api: Api, drain: Duration) -> bool {
        let edge = Edge { routes: warp::service(routes(&api)) };
        self.serve_edge(edge, &api.stopping, &api.closing, drain).await
    }

    async fn serve_edge<S>(
        self,
        edge: Edge<S>,
        stopping: &CancellationToken,
        closing: &CancellationToken,
        drain: Duration,
    ) -> bool
    where
        S: Service<Request<Incoming>, Response = Response, Error = Infallible>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send,
    {
        let permits = Arc::new(Semaphore::new(self.max_connections));
        let (tasks, kill) = (TaskTracker::new(), CancellationToken::new());
        loop {
            let accepted = async {
                // The permit first: the kernel's backlog is then the queue.
                let permit = permits.clone().acquire_owned().await.ok()?;
                Some((permit, self.listener.accept().await))
            };
            let (permit, accepted) = tokio::select! {
                () = stopping.cancelled() => break,
                accepted = accepted => match accepted { Some(accepted) => accepted, None => break },
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let shared = Shared { peer, tasks: tasks.clone(), kill: kill.clone(), _permit: permit };
            let connection = Connection(Arc::new(shared));
            let run = run(stream, connection.clone(), edge.clone(), self.header_timeout, stopping.clone());
            connection.spawn(run);
        }
        drop(self.listener);
        tasks.close();
        tokio::select! {
            () = tasks.wait() => {}
            () = closing.cancelled() => {}
            () = sleep(drain) => {}
        }
        closing.cancel();
        let all_ended = timeout(GOODBYE, tasks.wait()).await.is_ok();
        kill.cancel();
        tasks.wait().await;
        all_ended
    }
}

async fn run<S>(
    stream: TcpStream,
    connection: Connection,
    edge: Edge<S>,
    header_timeout: Duration,
    stopping: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    // Without it every small write waits for the acknowledgement of the one before.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection ended before it began");
        return;
    }
    let peer = connection.peer();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(connection.clone());
        let edge = edge.clone();
        async move { Ok::<_, Infallible>(edge.handle(request).await) }
    });
    let mut served = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(header_timeout)
            .max_buf_size(MAX_BUFFER)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
    );
    let result = tokio::select! {
        result = served.as_mut() => result,
        () = stopping.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(client.address = %peer, %error, "a connection broke off");
    }
}

#[cfg(test)]
mod tests;
