//! The accept loop, the connections and the routes.

use std::{convert::Infallible, error::Error, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFutureOwned},
    task::TaskTracker,
};

use super::{
    catalogue::Catalogue,
    pull::{PullBody, pull_whole},
    reply::{self, Refusal, Reply, ReplyBody},
    request::{Copy, Named},
    run,
    stats::Counters,
    wire::Dialect,
};

/// The most connections at a time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 4096;
/// The largest request body: room for a few images in base64.
const MAX_BODY: usize = 64 << 20;
/// How long answers may go on after the stop before they are cut.
const GRACE: Duration = Duration::from_millis(250);
/// How long a head may take, and how long an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// The version of Ollama whose API is spoken; the suffix says that this is not it.
const VERSION: &str = "0.17.4+deia.sim";

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) counters: Arc<Counters>,
    /// What is held goes on, now and from now on.
    pub(crate) let_go: CancellationToken,
    /// What is held goes on, of the answers that have begun since the last time.
    begun: Mutex<CancellationToken>,
}

impl Shared {
    pub(crate) fn new(models: Vec<String>) -> Self {
        let let_go = CancellationToken::new();
        let begun = Mutex::new(let_go.child_token());
        Self { catalogue: Arc::new(Catalogue::new(models)), counters: Arc::default(), let_go, begun }
    }

    /// For an answer that begins: until when it is held.
    pub(crate) fn held(&self) -> WaitForCancellationFutureOwned {
        self.begun.lock().clone().cancelled_owned()
    }

    /// Lets every answer go on that has begun; those to come are held again.
    fn let_go_begun(&self) {
        let next = self.let_go.child_token();
        std::mem::replace(&mut *self.begun.lock(), next).cancel();
    }
}

/// Accepts until `stop`, then ends the connections and waits for their tasks.
pub(crate) async fn serve(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let tasks = TaskTracker::new();
    loop {
        let permit = tokio::select! {
            () = stop.cancelled() => break,
            permit = Arc::clone(&permits).acquire_owned() => permit,
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (shared, stop) = (Arc::clone(&shared), stop.clone());
                tasks.spawn(async move {
                    connection(stream, shared, stop).await;
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of file descriptors, mostly: give connections a moment to end instead of spinning.
                tracing::warn!(%error, "sim.accept_failed");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

async fn connection(stream: TcpStream, shared: Arc<Shared>, stop: CancellationToken) {
    // Without it the second small write of an answer waits for the client's delayed acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "sim.nodelay_failed");
    }
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(route(request, &shared).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        // One flat buffer: what is ready leaves with one write.
        .writev(false)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = connection;
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stop.cancelled() => {
            std::pin::Pin::new(&mut connection).graceful_shutdown();
            let ended = tokio::time::timeout(GRACE, &mut connection).await;
            ended.unwrap_or(Ok(()))
        }
    };
    if ended.as_ref().is_err_and(is_reset) {
        // Closed with bytes to be sent and no time to send them: the other end gets a reset instead of an end.
        let stream = connection.into_parts().io.into_inner();
        if let Err(error) = stream.set_zero_linger() {
            tracing::debug!(%error, "sim.reset_failed");
        }
    }
    log_end(ended);
}

/// Whether the script asked for a reset.
fn is_reset(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::ConnectionReset)
}

fn log_end(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::trace!(%error, "sim.connection_ended");
    }
}

async fn route(request: Request<Incoming>, shared: &Shared) -> Reply {
    let (head, body) = request.into_parts();
    let (method, path) = (&head.method, head.uri.path());
    let get = method == Method::GET || method == Method::HEAD;
    match path {
        "/" if get => reply::text(StatusCode::OK, "Ollama is running"),
        "/api/tags" if get => reply::json(&shared.catalogue.tags()),
        "/api/ps" if get => reply::json(&shared.catalogue.ps()),
        "/api/version" if get => reply::json(&json!({ "version": VERSION })),
        "/sim/stats" if get => reply::json(&shared.counters.read()),
        "/sim/let_go" if method == Method::POST => {
            shared.let_go_begun();
            reply::json(&json!({}))
        }
        "/api/chat" | "/api/generate" | "/api/embed" | "/api/show" | "/api/pull" | "/api/copy"
            if method == Method::POST =>
        {
            with_body(path, body, shared).await
        }
        "/api/delete" if method == Method::DELETE => with_body(path, body, shared).await,
        "/" | "/api/tags" | "/api/ps" | "/api/version" | "/sim/stats" | "/sim/let_go" | "/api/chat"
        | "/api/generate" | "/api/embed" | "/api/show" | "/api/pull" | "/api/copy" | "/api/delete" => {
            reply::text(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed")
        }
        _ => reply::text(StatusCode::NOT_FOUND, "404 page not found"),
    }
}

async fn with_body(path: &str, body: Incoming, shared: &Shared) -> Reply {
    let bytes = match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => {
            return reply::error(
                StatusCode::PAYLOAD_TOO_LARGE,
                "the request body is too large or was cut off",
            );
        }
    };
    match path {
        "/api/chat" => run::run(Dialect::Chat, &bytes, shared).await,
        "/api/generate" => run::run(Dialect::Generate, &bytes, shared).await,
        "/api/embed" => run::embed(&bytes, &shared.catalogue, &shared.counters),
        "/api/show" => show(&bytes, shared).unwrap_or_else(|refusal| *refusal),
        "/api/pull" => pull(&bytes, shared).await.unwrap_or_else(|refusal| *refusal),
        "/api/copy" => copy(&bytes, shared).unwrap_or_else(|refusal| *refusal),
        _ => delete(&bytes, shared).unwrap_or_else(|refusal| *refusal),
    }
}

fn show(body: &[u8], shared: &Shared) -> Result<Reply, Refusal> {
    let named: Named = run::parse(body)?;
    if named.model().is_empty() {
        return Err(reply::refuse(StatusCode::BAD_REQUEST, "model is required"));
    }
    let script = run::resolve(named.model(), &shared.catalogue)?;
    Ok(reply::json(&shared.catalogue.show(named.model(), &script)))
}

async fn pull(body: &[u8], shared: &Shared) -> Result<Reply, Refusal> {
    let named: Named = run::parse(body)?;
    let model = named.model();
    if model.is_empty() || model.starts_with(super::script::PREFIX) {
        return Err(reply::refuse(StatusCode::BAD_REQUEST, "invalid model name"));
    }
    if named.stream == Some(false) {
        let last = pull_whole(model, &shared.catalogue, &shared.let_go, shared.counters.begin()).await;
        let failed = last["error"].as_str();
        return Ok(
            failed.map_or_else(|| reply::json(&last), |e| reply::error(StatusCode::INTERNAL_SERVER_ERROR, e))
        );
    }
    let body = PullBody::new(model, Arc::clone(&shared.catalogue), &shared.let_go, shared.counters.begin());
    Ok(reply::lines(ReplyBody::Pull(Box::new(body))))
}

fn copy(body: &[u8], shared: &Shared) -> Result<Reply, Refusal> {
    let copy: Copy = run::parse(body)?;
    for (what, name) in [("source", &copy.source), ("destination", &copy.destination)] {
        if name.is_empty() || name.starts_with(super::script::PREFIX) {
            return Err(reply::refuse(StatusCode::BAD_REQUEST, &format!("{what} {name:?} is invalid")));
        }
    }
    if shared.catalogue.resolve(&copy.source).is_err() {
        return Err(reply::refuse(StatusCode::NOT_FOUND, &format!("model {:?} not found", copy.source)));
    }
    if !shared.catalogue.add(&copy.destination) {
        return Err(reply::refuse(StatusCode::INTERNAL_SERVER_ERROR, "no room for another model"));
    }
    Ok(empty())
}

fn delete(body: &[u8], shared: &Shared) -> Result<Reply, Refusal> {
    let named: Named = run::parse(body)?;
    if shared.catalogue.remove(named.model()) {
        Ok(empty())
    } else {
        Err(Box::new(reply::not_found(named.model())))
    }
}

fn empty() -> Reply {
    Reply::new(ReplyBody::Whole(http_body_util::Full::new(Bytes::new())))
}
