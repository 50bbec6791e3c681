//! The responses of the simulator and their bodies.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Response, StatusCode, header::CONTENT_TYPE};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use serde::Serialize;

use super::{playback::Playback, pull::PullBody};

/// The body of any response.
pub(crate) enum ReplyBody {
    Whole(Full<Bytes>),
    Answer(Box<Playback>),
    Pull(Box<PullBody>),
    /// Cuts the connection at once.
    Cut(io::ErrorKind),
}

pub(crate) type Reply = Response<ReplyBody>;

/// A response that is the reason for not going on; boxed, since the other way out is the usual one.
pub(crate) type Refusal = Box<Reply>;

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Self::Whole(body) => {
                Pin::new(&mut body.map_err(|never: Infallible| match never {})).poll_frame(cx)
            }
            Self::Answer(body) => Pin::new(body.as_mut()).poll_frame(cx),
            Self::Pull(body) => Pin::new(body.as_mut()).poll_frame(cx),
            Self::Cut(kind) => Poll::Ready(Some(Err(io::Error::new(*kind, "cut by the script")))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Answer(body) => body.is_end_stream(),
            Self::Pull(_) | Self::Cut(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            _ => SizeHint::default(),
        }
    }
}

/// A response of one content type.
pub(crate) fn with(status: StatusCode, kind: &'static str, body: ReplyBody) -> Reply {
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    reply
}

/// Bytes that are JSON already.
pub(crate) fn raw_json(status: StatusCode, bytes: impl Into<Bytes>) -> Reply {
    with(status, "application/json; charset=utf-8", ReplyBody::Whole(Full::new(bytes.into())))
}

/// Any value as JSON.
pub(crate) fn json(value: &impl Serialize) -> Reply {
    match serde_json::to_vec(value) {
        Ok(bytes) => raw_json(StatusCode::OK, bytes),
        Err(e) => error(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string()),
    }
}

/// `{"error": text}`.
pub(crate) fn error(status: StatusCode, text: &str) -> Reply {
    raw_json(status, serde_json::json!({ "error": text }).to_string())
}

/// [`error`], as the reason for not going on.
pub(crate) fn refuse(status: StatusCode, text: &str) -> Refusal {
    Box::new(error(status, text))
}

/// 404 in Ollama's words.
pub(crate) fn not_found(model: &str) -> Reply {
    error(StatusCode::NOT_FOUND, &format!("model '{model}' not found"))
}

/// Plain text.
pub(crate) fn text(status: StatusCode, text: &'static str) -> Reply {
    with(
        status,
        "text/plain; charset=utf-8",
        ReplyBody::Whole(Full::new(Bytes::from_static(text.as_bytes()))),
    )
}

/// Lines of JSON.
pub(crate) fn lines(body: ReplyBody) -> Reply {
    with(StatusCode::OK, "application/x-ndjson", body)
}
