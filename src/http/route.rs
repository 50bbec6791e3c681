//! Routes: a pattern and a method each, declared once. The same declarations answer 404 and 405 with `Allow`, so
//! that the two can't drift apart.

use std::{future::ready, sync::Arc};

use deia_actors::domain::{
    ids::{BotId, ConversationId, InvalidId, MessageId, PullId, TurnId},
    problem::{Code, Problem},
};
use http::{HeaderValue, Method, header::ALLOW};
use percent_encoding::percent_decode_str;
use uuid::Uuid;
use warp::{Filter, filters::BoxedFilter, path::FullPath, reply::Response};

use super::problem::refuse;

/// A filter that answers.
pub type Route = BoxedFilter<(Response,)>;

/// One method of one pattern, and what answers it.
pub(super) struct Endpoint {
    pub(super) method: Method,
    pub(super) pattern: &'static str,
    pub(super) route: Route,
}

impl Endpoint {
    /// `build` gets a filter that matches this method and pattern and extracts the values of the pattern's names.
    pub(super) fn new(
        method: Method,
        pattern: &'static str,
        build: impl FnOnce(BoxedFilter<(PathValues,)>) -> Route,
    ) -> Self {
        Self { route: build(at(method.clone(), pattern)), method, pattern }
    }
}

fn at(method: Method, pattern: &'static str) -> BoxedFilter<(PathValues,)> {
    warp::method()
        .and(warp::path::full())
        .and_then(move |asked: Method, path: FullPath| {
            let values = if asked == method { matches(pattern, path.as_str()) } else { None };
            ready(values.ok_or_else(warp::reject::not_found))
        })
        .boxed()
}

/// The values of a pattern's names, in their order, as they stand in the path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PathValues(Vec<String>);

impl PathValues {
    fn decoded(&self, index: usize) -> String {
        let raw = self.0.get(index).map(String::as_str).unwrap_or_default();
        percent_decode_str(raw).decode_utf8_lossy().into_owned()
    }
    /// The rest of the path, for patterns that end with `/*`.
    pub(super) fn tail(&self) -> String {
        self.decoded(self.0.len().saturating_sub(1))
    }
    pub(super) fn bot(&self) -> Result<BotId, Problem> {
        self.decoded(0).parse().map_err(|e: InvalidId| Problem::field("bot_id", e.to_string()))
    }
    /// Name of a model server, whatever was written.
    pub(super) fn server(&self) -> String {
        self.decoded(0)
    }
    pub(super) fn turn(&self) -> Result<TurnId, Problem> {
        self.decoded(0).parse().map_err(|e: InvalidId| Problem::field("turn_id", e.to_string()))
    }
    pub(super) fn pull(&self) -> Result<PullId, Problem> {
        self.decoded(0).parse().map_err(|e: InvalidId| Problem::field("pull_id", e.to_string()))
    }
    pub(super) fn message(&self) -> Result<MessageId, Problem> {
        self.decoded(1).parse().map_err(|e: InvalidId| Problem::field("message_id", e.to_string()))
    }
    pub(super) fn conversation(&self) -> Result<ConversationId, Problem> {
        self.decoded(1).parse().map_err(|e: InvalidId| Problem::field("conversation_id", e.to_string()))
    }
}

/// Words that are routes of their own where a bot id could stand.
const NOT_A_BOT: [&str; 2] = ["launch", "send"];
/// The same where a message id could stand.
const NOT_A_MESSAGE: [&str; 3] = ["conversations", "export", "import"];

/// The values of the names in `pattern` if `path` has its form. `:name` is one segment, `/*` at the end everything
/// below.
fn matches(pattern: &str, path: &str) -> Option<PathValues> {
    let mut values = vec![];
    let mut rest = path.strip_prefix('/')?;
    let mut pattern = pattern.strip_prefix('/')?;
    loop {
        let (wanted, after) = split(pattern);
        if wanted == "*" {
            values.push(rest.to_owned());
            return Some(PathValues(values));
        }
        let (segment, below) = split(rest);
        match wanted.strip_prefix(':') {
            Some(name) => {
                let shadowed = (name == "bot_id" && NOT_A_BOT.contains(&segment))
                    || (name == "message_id" && NOT_A_MESSAGE.contains(&segment));
                if segment.is_empty() || shadowed {
                    return None;
                }
                values.push(segment.to_owned());
            }
            None if wanted != segment => return None,
            None => {}
        }
        match (after, below) {
            (Some(a), Some(b)) => (pattern, rest) = (a, b),
            (None, None) => return Some(PathValues(values)),
            _ => return None,
        }
    }
}

fn split(path: &str) -> (&str, Option<&str>) {
    path.split_once('/').map_or((path, None), |(head, tail)| (head, Some(tail)))
}

/// Like [`matches`], and the ids in the path are well-formed: what decides between 404 and 405.
fn matches_exactly(pattern: &str, path: &str) -> bool {
    let Some(PathValues(values)) = matches(pattern, path) else { return false };
    let names = pattern.split('/').filter_map(|s| s.strip_prefix(':'));
    names.zip(&values).all(|(name, value)| match name {
        "bot_id" => BotId::parse(value).is_ok(),
        "server" => true,
        _ => Uuid::try_parse(value).is_ok(),
    })
}

/// What exists: patterns with their methods.
#[derive(Debug, Clone, Default)]
pub(super) struct Table(Arc<Vec<(&'static str, Vec<Method>)>>);

impl Table {
    pub(super) fn new(endpoints: &[Endpoint]) -> Self {
        let mut rows: Vec<(&'static str, Vec<Method>)> = vec![];
        for endpoint in endpoints {
            match rows.iter_mut().find(|(pattern, _)| *pattern == endpoint.pattern) {
                Some((_, methods)) => methods.push(endpoint.method.clone()),
                None => rows.push((endpoint.pattern, vec![endpoint.method.clone()])),
            }
        }
        Self(Arc::new(rows))
    }

    /// Methods of the patterns that `path` fits; empty where nothing is.
    pub(super) fn allowed(&self, path: &str) -> Vec<&Method> {
        let fitting = self.0.iter().filter(|(pattern, _)| matches_exactly(pattern, path));
        fitting.flat_map(|(_, methods)| methods).collect()
    }

    /// The answer where no route matched.
    pub(super) fn unmatched(&self, method: &Method, path: &str) -> Response {
        let allowed = self.allowed(path);
        if allowed.is_empty() {
            return refuse(Problem::new(Code::NotFound, "no route has this path"));
        }
        let mut names: Vec<&str> = allowed.iter().map(|m| m.as_str()).collect();
        if names.contains(&"GET") {
            names.push("HEAD");
        }
        let names = names.join(", ");
        let detail = format!("{method} is not allowed here; allowed: {names}");
        let mut response = refuse(Problem::new(Code::MethodNotAllowed, detail));
        if let Ok(value) = HeaderValue::from_str(&names) {
            response.headers_mut().insert(ALLOW, value);
        }
        response
    }
}

/// All endpoints as one route that always answers. The order is the order of the search.
pub(super) fn combine(endpoints: Vec<Endpoint>) -> Route {
    let table = Table::new(&endpoints);
    let unmatched: Route = warp::method()
        .and(warp::path::full())
        .map(move |method: Method, path: FullPath| table.unmatched(&method, path.as_str()))
        .boxed();
    // From the right, so that the first endpoint is the outermost and a match ends the search.
    endpoints.into_iter().rev().fold(unmatched, |rest, endpoint| endpoint.route.or(rest).unify().boxed())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tower::ServiceExt;

    use super::*;

    fn values(pattern: &str, path: &str) -> Option<Vec<String>> {
        matches(pattern, path).map(|v| v.0)
    }

    #[test]
    fn a_pattern_matches_its_own_paths_only() {
        assert_eq!(values("/api/bots", "/api/bots"), Some(vec![]));
        assert_eq!(values("/api/bots", "/api/bots/"), None);
        assert_eq!(values("/api/bot/:bot_id", "/api/bot/A-1"), Some(vec!["A-1".into()]));
        assert_eq!(values("/api/bot/:bot_id", "/api/bot/"), None);
        assert_eq!(values("/api/bot/:bot_id", "/api/bot/launch"), None);
        assert_eq!(values("/api/chat/:bot_id/:message_id", "/api/chat/A/conversations"), None);
        assert_eq!(values("/assets/*", "/assets/css/a.css"), Some(vec!["css/a.css".into()]));
        assert_eq!(values("/", "/"), Some(vec![]));
        assert_eq!(values("/", "/x"), None);
    }

    #[test]
    fn an_id_in_a_path_is_decoded_and_checked_by_its_rule() {
        let of = |raw: &str| PathValues(vec![raw.into(), "1".into()]);
        assert_eq!(of("BOT%2D001").bot().unwrap().as_str(), "BOT-001");
        for bad in ["..", "..%2F..", &"x".repeat(51), "a%00"] {
            let problem = of(bad).bot().unwrap_err();
            assert_eq!((problem.status, problem.errors[0].field.as_str()), (400, "bot_id"), "{bad}");
        }
        assert_eq!(of("x").message().unwrap_err().errors[0].field, "message_id");
    }

    fn endpoint(method: Method, pattern: &'static str) -> Endpoint {
        Endpoint::new(method, pattern, |at| {
            at.map(|values: PathValues| Response::new(values.tail().into())).boxed()
        })
    }

    #[tokio::test]
    async fn what_does_not_exist_is_404_and_a_wrong_method_405_with_the_right_ones() {
        let route = combine(vec![
            endpoint(Method::POST, "/api/bot/launch"),
            endpoint(Method::GET, "/api/bot/:bot_id"),
            endpoint(Method::PATCH, "/api/bot/:bot_id"),
            endpoint(Method::GET, "/api/chat/:bot_id/:message_id"),
        ]);
        let ask = async |method: Method, path: &str| {
            let request = http::Request::builder().method(method).uri(path);
            let request = request.body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap();
            let response = warp::service(route.clone()).oneshot(request).await.unwrap();
            let allow = response.headers().get(ALLOW).map(|v| v.to_str().unwrap().to_owned());
            (response.status().as_u16(), allow)
        };
        assert_eq!(ask(Method::GET, "/api/bot/A").await, (200, None));
        assert_eq!(ask(Method::PUT, "/api/bot/A").await, (405, Some("GET, PATCH, HEAD".into())));
        assert_eq!(ask(Method::GET, "/api/bot/launch").await, (405, Some("POST".into())));
        assert_eq!(ask(Method::GET, "/nope").await, (404, None));
        // A route of a later version: no such message id, so nothing is there.
        assert_eq!(ask(Method::POST, "/api/chat/A/later").await, (404, None));
        let message = format!("/api/chat/A/{}", MessageId::new());
        assert_eq!(ask(Method::POST, &message).await, (405, Some("GET, HEAD".into())));
    }
}
