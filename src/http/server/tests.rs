//! Tests of the accept loop against a few small routes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Notify,
    task::JoinHandle,
};
use warp::Filter;

use super::*;

struct Running {
    address: SocketAddr,
    stopping: CancellationToken,
    closing: CancellationToken,
    /// Told when `/slow` began; `/slow` ends when `release` is.
    began: Arc<Notify>,
    release: Arc<Notify>,
    server: JoinHandle<bool>,
}

async fn start(max_connections: usize, header_timeout: Duration, drain: Duration) -> Running {
    let bound = Server::bind("127.0.0.1:0").await.unwrap().with_limits(max_connections, header_timeout);
    let address = bound.address();
    let (stopping, closing) = (CancellationToken::new(), CancellationToken::new());
    let (began, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (b, r) = (began.clone(), release.clone());
    let slow = warp::path("slow").then(move || {
        let (b, r) = (b.clone(), r.clone());
        async move {
            b.notify_one();
            r.notified().await;
            Response::new("slow done".into())
        }
    });
    let quick = warp::any().map(|| Response::new("quick".into()));
    let edge = Edge { routes: warp::service(slow.or(quick).unify().boxed()) };
    let (s, c) = (stopping.clone(), closing.clone());
    let server = tokio::spawn(async move { bound.serve_edge(edge, &s, &c, drain).await });
    Running { address, stopping, closing, began, release, server }
}

async fn ask(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_request_that_runs_is_answered_and_no_new_one_is_taken_while_stopping() {
    let running = start(8, LONG, LONG).await;
    let slow = tokio::spawn(ask(running.address, "/slow"));
    running.began.notified().await;
    running.stopping.cancel();
    while TcpStream::connect(running.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    running.release.notify_one();
    assert!(slow.await.unwrap().ends_with("slow done"));
    assert!(running.server.await.unwrap(), "everything ended by itself");
}

#[tokio::test]
async fn an_idle_connection_does_not_hold_the_end_up() {
    let running = start(8, LONG, LONG).await;
    let mut idle = TcpStream::connect(running.address).await.unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut some = [0; 64];
    assert!(idle.read(&mut some).await.unwrap() > 0);
    running.stopping.cancel();
    assert!(running.server.await.unwrap());
}

#[tokio::test]
async fn a_request_that_never_ends_is_cut_off_after_the_drain_time() {
    let running = start(8, LONG, Duration::from_millis(20)).await;
    let slow = tokio::spawn(async move {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        stream.write_all(b"GET /slow HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let mut answer = vec![];
        let _ = stream.read_to_end(&mut answer).await;
        answer
    });
    running.began.notified().await;
    running.stopping.cancel();
    assert!(!running.server.await.unwrap(), "it did not end by itself");
    assert!(slow.await.unwrap().is_empty());
    assert!(running.closing.is_cancelled());
}

#[tokio::test]
async fn a_client_that_never_ends_its_head_is_hung_up_on() {
    let running = start(8, Duration::from_millis(50), LONG).await;
    for head in ["", "GET", "GET / HTTP/1.1\r\nhost: x"] {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![];
        timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await.expect("hung up").ok();
    }
    running.stopping.cancel();
    running.server.await.unwrap();
}

#[tokio::test]
async fn above_the_limit_of_connections_the_next_waits_for_one_to_end() {
    let running = start(1, LONG, LONG).await;
    let slow = tokio::spawn(ask(running.address, "/slow"));
    running.began.notified().await;
    let second = tokio::spawn(ask(running.address, "/quick"));
    tokio::task::yield_now().await;
    assert!(!second.is_finished());
    running.release.notify_one();
    assert!(slow.await.unwrap().ends_with("slow done"));
    assert!(second.await.unwrap().ends_with("quick"));
    running.stopping.cancel();
    assert!(running.server.await.unwrap());
}
