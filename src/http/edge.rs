//! What happens to every request before and after its route: request id, hosts and origins, the alias `/api/v1`,
//! HEAD, panics, headers.

use std::{convert::Infallible, panic::AssertUnwindSafe, time::Instant};

use deia_actors::domain::problem::{Code, Problem};
use futures_util::FutureExt;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri,
    header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS},
    uri::PathAndQuery,
};
use tower::{Service, ServiceExt};
use uuid::Uuid;
use warp::reply::Response;

use super::{
    hosts,
    problem::{fill, refuse},
};

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static CORP: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// The routes with what surrounds them.
#[derive(Clone)]
pub(super) struct Edge<S> {
    pub(super) routes: S,
}

impl<S> Edge<S> {
    /// Answers, always.
    pub(super) async fn handle<B>(self, mut request: Request<B>) -> Response
    where
        S: Service<Request<B>, Response = Response, Error = Infallible>,
    {
        let began = Instant::now();
        let id = request_id(request.headers());
        let method = request.method().clone();
        let mut response = match self.prepare(&mut request) {
            Err(problem) => refuse(problem),
            Ok(()) => {
                let routes = self.routes;
                // `oneshot` inside the block: a panic while the route is searched is caught, too.
                match AssertUnwindSafe(async move { routes.oneshot(request).await }).catch_unwind().await {
                    Ok(Ok(response)) => response,
                    Ok(Err(never)) => match never {},
                    Err(panic) => {
                        let reason = panic_text(panic.as_ref());
                        tracing::error!(request.id = id, panic = reason, "a request handler panicked");
                        refuse(Problem::new(Code::Internal, "the log has the reason under this request id"))
                    }
                }
            }
        };
        fill(&mut response, &id);
        finish(response.headers_mut(), &id);
        let duration_ms = began.elapsed().as_secs_f64() * 1000.0;
        tracing::debug!(
            request.id = id,
            http.method = %method,
            http.status = response.status().as_u16(),
            duration_ms,
            "request answered"
        );
        response
    }

    fn prepare<B>(&self, request: &mut Request<B>) -> Result<(), Problem> {
        let path = request.uri().path();
        // Probes reach a process by whatever name the platform gives it.
        if path != "/ready" && !path.starts_with("/health") {
            let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
            let changes = !reads || path == "/ws";
            hosts::check(request.headers(), request.uri(), changes)?;
        }
        if let Some(rest) = request.uri().path_and_query().and_then(|p| p.as_str().strip_prefix("/api/v1/")) {
            let path: PathAndQuery = format!("/api/{rest}")
                .parse()
                .map_err(|_| Problem::new(Code::NotFound, "no route has this path"))?;
            *request.uri_mut() = Uri::from(path);
        }
        // The connection leaves the body out by itself.
        if request.method() == Method::HEAD {
            *request.method_mut() = Method::GET;
        }
        Ok(())
    }
}

fn finish(headers: &mut HeaderMap, id: &str) {
    if let Ok(value) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID.clone(), value);
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(CORP.clone()).or_insert(HeaderValue::from_static("same-origin"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}

/// The caller's id where it is a plain short word, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let plain =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':' | b'/' | b'+' | b'=');
    let given = headers.get(&REQUEST_ID).and_then(|v| v.to_str().ok());
    match given.filter(|id| (1..=128).contains(&id.len()) && id.bytes().all(plain)) {
        Some(id) => id.to_owned(),
        None => Uuid::now_v7().simple().to_string(),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use bytes::Bytes;
    use http::header::{HOST, ORIGIN};
    use http_body_util::Empty;
    use warp::Filter;

    use super::*;
    use crate::http::problem::tests::body;

    async fn ask(request: http::request::Builder) -> Response {
        let seen = warp::method().and(warp::path::full()).map(|m: Method, p: warp::path::FullPath| {
            assert_ne!(p.as_str(), "/boom", "on purpose");
            Response::new(format!("{{\"seen\":\"{m} {}\"}}", p.as_str()).into())
        });
        let edge = Edge { routes: warp::service(seen) };
        edge.handle(request.body(Empty::<Bytes>::new()).unwrap()).await
    }

    fn get(path: &str) -> http::request::Builder {
        Request::get(path).header(HOST, "127.0.0.1:8000")
    }

    #[tokio::test]
    async fn the_old_name_of_a_route_is_the_route_and_head_is_get() {
        assert_eq!(body(ask(get("/api/v1/bots?limit=1")).await).await["seen"], "GET /api/bots");
        assert_eq!(body(ask(get("/api/v11/bots")).await).await["seen"], "GET /api/v11/bots");
        assert_eq!(body(ask(get("/x").method(Method::HEAD)).await).await["seen"], "GET /x");
    }

    #[tokio::test]
    async fn a_request_id_comes_back_if_it_is_sane_and_a_new_one_otherwise() {
        let given = ask(get("/x").header("x-request-id", "abc-1")).await;
        assert_eq!(given.headers()["x-request-id"], "abc-1");
        for bad in ["", "a b", "\"x\"", &"x".repeat(129)] {
            let made = ask(get("/x").header("x-request-id", bad)).await;
            assert_eq!(made.headers()["x-request-id"].len(), 32, "{bad}");
        }
    }

    #[tokio::test]
    async fn a_panic_is_a_problem_with_the_request_id_and_nothing_of_the_panic() {
        let response = ask(get("/boom").header("x-request-id", "r9")).await;
        assert_eq!(response.status(), 500);
        let body = body(response).await;
        assert_eq!((body["code"].as_str(), body["request_id"].as_str()), (Some("internal"), Some("r9")));
        assert!(!body.to_string().contains("on purpose"));
    }

    #[tokio::test]
    async fn a_foreign_host_or_page_is_refused_but_probes_are_answered() {
        let foreign = ask(Request::get("/api/bots").header(HOST, "evil.example")).await;
        assert_eq!(body(foreign).await["code"], "origin_not_allowed");
        let page = get("/api/bot/A/stop").method(Method::POST).header(ORIGIN, "https://evil.example");
        assert_eq!(ask(page).await.status(), 403);
        assert_eq!(ask(get("/ws").header(ORIGIN, "https://evil.example")).await.status(), 403);
        assert_eq!(ask(Request::get("/health").header(HOST, "deia.svc")).await.status(), 200);
    }
}
