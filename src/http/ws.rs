//! The socket: `GET /ws`, upgraded by hand (small read buffer, Origin check, subprotocol, limits).
//!
//! A frame above 64 KiB is answered with an `error` frame and the socket goes on. One above 256 KiB is not even read to its
//! end, so nothing that follows it could be told apart: the `error` frame is the last answer, then the socket closes with
//! 1009 (a client may reconnect, but should send less).

mod frame;
mod socket;

use deia_actors::domain::problem::{Code, Problem};
use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{
        CONNECTION, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
        SEC_WEBSOCKET_VERSION, UPGRADE,
    },
};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::derive_accept_key,
        protocol::{Role, WebSocketConfig},
    },
};
use warp::{Filter, reply::Response};

use super::{
    Api,
    extract::{headers, with},
    hosts::allows_origin,
    problem::{Answer, respond},
    route::{Endpoint, PathValues},
    server::Connection,
};

/// The one protocol that is spoken here.
const PROTOCOL: &str = "deia.v1";
/// Largest frame that is still read to the end; above, the socket closes at once.
const READ_MAX_BYTES: usize = 256 * 1024;
/// tungstenite's read buffer: with its default of 128 KiB an idle socket costs ten times as much.
const READ_BUFFER: usize = 4 * 1024;
/// Written frames are gathered up to this size before a system call.
const WRITE_BUFFER: usize = 32 * 1024;

pub(super) fn endpoints(api: &Api) -> Vec<Endpoint> {
    vec![Endpoint::new(Method::GET, "/ws", |at| {
        at.and(with(api))
            .and(headers())
            .and(warp::ext::optional::<OnUpgrade>())
            .and(warp::ext::optional::<Connection>())
            .map(|_: PathValues, api, headers: HeaderMap, upgrade, connection| {
                respond(accept(api, &headers, upgrade, connection))
            })
            .boxed()
    })]
}

fn accept(
    api: Api,
    headers: &HeaderMap,
    upgrade: Option<OnUpgrade>,
    connection: Option<Connection>,
) -> Answer {
    let host = headers.get(HOST).and_then(|v| v.to_str().ok());
    if !allows_origin(headers, host) {
        return Err(Problem::new(
            Code::OriginNotAllowed,
            "this page may not open sockets here: only the service's own pages may",
        ));
    }
    let response = handshake(headers)?;
    let (Some(upgrade), Some(connection)) = (upgrade, connection) else {
        return Err(Problem::new(Code::InvalidRequest, "this connection can't be upgraded; use HTTP/1.1"));
    };
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_frame_size(Some(READ_MAX_BYTES))
        .max_message_size(Some(READ_MAX_BYTES));
    let address = connection.peer();
    connection.spawn(async move {
        match upgrade.await {
            Ok(upgraded) => {
                let io = TokioIo::new(upgraded);
                let io = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
                socket::run(api, io).await;
            }
            Err(error) => tracing::debug!(client.address = %address, %error, "an upgrade failed"),
        }
    });
    Ok(response)
}

/// The answer to a correct handshake.
fn handshake(headers: &HeaderMap) -> Result<Response, Problem> {
    let wrong =
        |reason: &str| Err(Problem::new(Code::InvalidRequest, format!("not a socket's handshake: {reason}")));
    if !has(headers, CONNECTION.as_str(), "upgrade") || !has(headers, UPGRADE.as_str(), "websocket") {
        return wrong("Connection: upgrade and Upgrade: websocket are missing");
    }
    if !has(headers, SEC_WEBSOCKET_VERSION.as_str(), "13") {
        return wrong("Sec-WebSocket-Version must be 13");
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).unwrap_or_default();
    // 16 bytes in base64.
    if key.len() != 24 || !key.ends_with(b"==") {
        return wrong("Sec-WebSocket-Key must be 16 bytes in base64");
    }
    let mut response = Response::default();
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let out = response.headers_mut();
    out.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    out.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key)) {
        out.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    if has(headers, SEC_WEBSOCKET_PROTOCOL.as_str(), PROTOCOL) {
        out.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    }
    Ok(response)
}

/// Whether a comma-separated header names this word.
fn has(headers: &HeaderMap, name: &str, word: &str) -> bool {
    let lines = headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|w| w.trim().eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn asked(change: impl FnOnce(&mut HeaderMap)) -> Result<Response, Problem> {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        change(&mut headers);
        handshake(&headers)
    }

    #[test]
    fn the_handshake_is_that_of_rfc_6455() {
        let response = asked(|_| {}).unwrap();
        assert_eq!(response.status(), 101);
        assert_eq!(response.headers()[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(!response.headers().contains_key(SEC_WEBSOCKET_PROTOCOL));
    }

    #[test]
    fn the_known_subprotocol_is_echoed_and_no_other() {
        let of = |offered: &str| {
            let response =
                asked(|h| drop(h.insert(SEC_WEBSOCKET_PROTOCOL, offered.parse().unwrap()))).unwrap();
            response.headers().get(SEC_WEBSOCKET_PROTOCOL).map(|v| v.to_str().unwrap().to_owned())
        };
        assert_eq!(of("other, deia.v1"), Some("deia.v1".into()));
        assert_eq!(of("other"), None);
    }

    #[test]
    fn a_wrong_handshake_is_a_problem() {
        assert_eq!(asked(|h| drop(h.remove(UPGRADE))).unwrap_err().status, 400);
        assert_eq!(asked(|h| drop(h.insert(SEC_WEBSOCKET_VERSION, 8.into()))).unwrap_err().status, 400);
        assert_eq!(
            asked(|h| drop(h.insert(SEC_WEBSOCKET_KEY, "x".parse().unwrap()))).unwrap_err().status,
            400
        );
    }
}
