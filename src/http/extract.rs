//! Extractors: boxed filters that never reject, so that a wrong body answers at once instead of falling through to
//! the next route.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use deia_actors::domain::problem::{Code, Problem};
use futures_util::{Stream, StreamExt, pin_mut};
use http::{
    HeaderMap,
    header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT},
};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout, timeout_at};
use warp::{Filter, filters::BoxedFilter};

use super::{decode::from_json, query::Params};

/// Longest wait for the next part of a body.
pub(super) const BODY_IDLE: Duration = Duration::from_secs(30);
/// How long a whole body may take: one that trickles for ever holds a connection.
const BODY_WHOLE: Duration = Duration::from_secs(60);
/// How much of an oversized body is read and dropped, so that its sender gets to read the answer.
const DRAIN_BYTES: usize = 8 * 1024 * 1024;
/// For how long.
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// A clone of a handle.
pub(super) fn with<T: Clone + Send + Sync + 'static>(handle: &T) -> BoxedFilter<(T,)> {
    let handle = handle.clone();
    warp::any().map(move || handle.clone()).boxed()
}

/// The query string, taken apart.
pub(super) fn query() -> BoxedFilter<(Result<Params, Problem>,)> {
    warp::query::raw().or(warp::any().map(String::new)).unify().map(|raw: String| Params::parse(&raw)).boxed()
}

/// The headers.
pub(super) fn headers() -> BoxedFilter<(HeaderMap,)> {
    warp::header::headers_cloned().boxed()
}

/// A body that must be a JSON object of this form, `application/json`, at most `limit` bytes.
pub(super) fn body<T: DeserializeOwned + Send + 'static>(limit: usize) -> BoxedFilter<(Result<T, Problem>,)> {
    raw(limit).map(|bytes: Result<Bytes, Problem>| from_json(&bytes?)).boxed()
}

/// As [`body`], where nothing at all means the default.
pub(super) fn optional_body<T>(limit: usize) -> BoxedFilter<(Result<T, Problem>,)>
where
    T: DeserializeOwned + Default + Send + 'static,
{
    raw(limit)
        .map(|bytes: Result<Bytes, Problem>| match bytes? {
            bytes if bytes.is_empty() => Ok(T::default()),
            bytes => from_json(&bytes),
        })
        .boxed()
}

fn raw(limit: usize) -> BoxedFilter<(Result<Bytes, Problem>,)> {
    warp::header::headers_cloned()
        .and(warp::body::stream())
        .then(move |headers: HeaderMap, stream| read(headers, stream, limit))
        .boxed()
}

async fn read<S, B, E>(headers: HeaderMap, stream: S, limit: usize) -> Result<Bytes, Problem>
where
    S: Stream<Item = Result<B, E>>,
    B: Buf,
{
    pin_mut!(stream);
    let too_large = || Problem::new(Code::BodyTooLarge, format!("the body may have at most {limit} bytes"));
    let length = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > limit) {
        // A client that asked before sending has not sent anything.
        if !headers.contains_key(EXPECT) {
            drain(&mut stream).await;
        }
        return Err(too_large());
    }
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    let end = Instant::now() + BODY_WHOLE;
    loop {
        let idle = (Instant::now() + BODY_IDLE).min(end);
        let next = timeout_at(idle, stream.next()).await.map_err(|_| {
            let (idle, whole) = (BODY_IDLE.as_secs(), BODY_WHOLE.as_secs());
            let detail =
                format!("the body did not come: at most {idle} s between two parts, {whole} s for all of it");
            Problem::new(Code::InvalidRequest, detail)
        })?;
        let Some(part) = next else { break };
        let mut part = part.map_err(|_| Problem::new(Code::InvalidRequest, "the body broke off"))?;
        let part = part.copy_to_bytes(part.remaining());
        let so_far = first.as_ref().map_or(0, Bytes::len) + rest.len();
        if so_far + part.len() > limit {
            drain(&mut stream).await;
            return Err(too_large());
        }
        // One part is the usual case, and is not copied.
        match &first {
            None if rest.is_empty() => first = Some(part),
            _ => {
                if let Some(first) = first.take() {
                    rest.extend_from_slice(&first);
                }
                rest.extend_from_slice(&part);
            }
        }
    }
    let bytes = first.unwrap_or_else(|| rest.freeze());
    if !bytes.is_empty() || headers.contains_key(CONTENT_TYPE) {
        check_type(&headers)?;
    }
    Ok(bytes)
}

/// Reads on for a moment and drops what comes.
pub(super) async fn drain<S, B, E>(stream: &mut S)
where
    S: Stream<Item = Result<B, E>> + Unpin,
    B: Buf,
{
    let mut dropped = 0;
    let all = async {
        while let Some(Ok(part)) = stream.next().await {
            dropped += part.remaining();
            if dropped > DRAIN_BYTES {
                break;
            }
        }
    };
    let _ = timeout(DRAIN_TIME, all).await;
}

/// Refuses what is not sent as JSON.
pub(super) fn check_type(headers: &HeaderMap) -> Result<(), Problem> {
    let given = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let kind = given.split(';').next().unwrap_or_default().trim();
    let fits = ["application/json", "application/merge-patch+json"];
    if fits.iter().any(|f| kind.eq_ignore_ascii_case(f)) {
        return Ok(());
    }
    Err(Problem::new(Code::UnsupportedMediaType, "the body must be sent as content-type application/json"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::convert::Infallible;

    use futures_util::stream;

    use super::*;

    fn json_headers() -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_TYPE, "application/json; charset=utf-8".parse().unwrap())])
    }

    async fn read_parts(headers: HeaderMap, parts: &[&'static str]) -> Result<Bytes, Problem> {
        let parts: Vec<Result<Bytes, Infallible>> =
            parts.iter().map(|p| Ok(Bytes::from_static(p.as_bytes()))).collect();
        read(headers, stream::iter(parts), 8).await
    }

    #[tokio::test]
    async fn a_body_up_to_the_limit_is_read_whole_however_it_is_cut() {
        for parts in [&["{\"a\":1}"][..], &["{\"", "a\":", "1}"], &["", "{\"a\"", ":1}"]] {
            assert_eq!(read_parts(json_headers(), parts).await.unwrap(), "{\"a\":1}");
        }
    }

    #[tokio::test]
    async fn a_body_above_the_limit_is_413_also_when_its_length_was_not_told() {
        let chunked = read_parts(json_headers(), &["12345", "6789"]).await.unwrap_err();
        assert_eq!(chunked.code, Code::BodyTooLarge);
        let mut headers = json_headers();
        headers.insert(CONTENT_LENGTH, 9.into());
        let told = read_parts(headers, &["123456789"]).await.unwrap_err();
        assert_eq!(told.code, Code::BodyTooLarge);
        assert!(told.detail.contains("8 bytes"), "{}", told.detail);
    }

    #[tokio::test]
    async fn another_content_type_is_415_and_an_empty_body_needs_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(read_parts(headers.clone(), &["{}"]).await.unwrap_err().code, Code::UnsupportedMediaType);
        assert_eq!(read_parts(headers.clone(), &[]).await.unwrap(), "");
        headers.insert(CONTENT_TYPE, "text/plain".parse().unwrap());
        assert_eq!(read_parts(headers, &["{}"]).await.unwrap_err().code, Code::UnsupportedMediaType);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_coming_is_given_up() {
        let stuck = stream::pending::<Result<Bytes, Infallible>>();
        let problem = read(json_headers(), stuck, 8).await.unwrap_err();
        assert_eq!(problem.status, 400);
        assert!(problem.detail.contains("30 s"), "{}", problem.detail);
    }
}
