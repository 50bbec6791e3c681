//! Problems as answers: `application/problem+json` with the request's id, `Retry-After` on 429 and 503.
//!
//! A handler only names the problem; it travels in the response's extensions to the edge, which knows the
//! request's id and writes the body.

use deia_actors::domain::problem::{Code, Problem};
use http::{
    HeaderValue, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER},
};
use serde::Serialize;
use serde_json::Value;
use warp::reply::Response;

/// What a handler gives.
pub(super) type Answer = Result<Response, Problem>;

#[derive(Clone)]
struct Pending(Box<Problem>);

/// A response that the edge fills with this problem.
pub(super) fn refuse(problem: Problem) -> Response {
    let mut response = Response::default();
    *response.status_mut() =
        StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.extensions_mut().insert(Pending(Box::new(problem)));
    response
}

/// An answer as a response.
pub(super) fn respond(answer: Answer) -> Response {
    answer.unwrap_or_else(refuse)
}

/// JSON with status 200.
pub(super) fn json<T: Serialize>(value: &T) -> Answer {
    json_with(StatusCode::OK, value)
}

/// JSON with another status.
pub(super) fn json_with<T: Serialize>(status: StatusCode, value: &T) -> Answer {
    let body = serde_json::to_vec(value).map_err(|e| {
        tracing::error!(error = %e, "an answer could not be written as JSON");
        Problem::new(Code::Internal, "the answer could not be written")
    })?;
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// A problem with the id of its request, as JSON.
pub(super) fn with_request_id(problem: &Problem, request_id: &str) -> Value {
    let mut value = serde_json::to_value(problem).unwrap_or_default();
    if let Some(object) = value.as_object_mut() {
        object.insert("request_id".into(), request_id.into());
    }
    value
}

/// Whether the detail is of our own making. The other ones may quote a model server or a crash, and with them what people
/// wrote: that is for the caller, not for the log.
fn is_own(code: Code) -> bool {
    matches!(code, Code::Internal | Code::StorageUnavailable | Code::Unavailable | Code::ShuttingDown)
}

/// Writes the body of a response made by [`refuse`].
pub(super) fn fill(response: &mut Response, request_id: &str) {
    let Some(Pending(problem)) = response.extensions_mut().remove::<Pending>() else { return };
    if problem.status >= 500 {
        let detail = is_own(problem.code).then_some(problem.detail.as_str());
        tracing::warn!(request.id = request_id, code = %problem.code, detail, "request failed");
    }
    *response.body_mut() = with_request_id(&problem, request_id).to_string().into();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if matches!(problem.status, 429 | 503) {
        headers.insert(RETRY_AFTER, problem.retry_after_s.unwrap_or(1).max(1).into());
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{io, sync::Arc};

    use http_body_util::BodyExt;
    use parking_lot::Mutex;

    use super::*;

    /// The body of a response as JSON.
    pub(in crate::http) async fn body(response: Response) -> Value {
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[tokio::test]
    async fn a_problem_is_answered_with_its_status_its_id_and_when_to_come_back() {
        let mut response = refuse(Problem::new(Code::OllamaOffline, "nobody answers").retry_after(7));
        fill(&mut response, "r-1");
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()[RETRY_AFTER], "7");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        let body = body(response).await;
        assert_eq!(body["code"], "ollama_offline");
        assert_eq!(body["request_id"], "r-1");
        assert_eq!(body["type"], "urn:deia:problem:ollama_offline");
    }

    #[test]
    fn only_too_many_and_not_available_say_when_to_come_back() {
        for (code, says) in [(Code::BotBusy, true), (Code::BotNotFound, false), (Code::UpstreamError, false)]
        {
            let mut response = refuse(Problem::new(code, ""));
            fill(&mut response, "r");
            assert_eq!(response.headers().contains_key(RETRY_AFTER), says, "{code}");
        }
    }

    /// What is logged meanwhile.
    fn logged(work: impl FnOnce()) -> String {
        #[derive(Clone, Default)]
        struct Lines(Arc<Mutex<Vec<u8>>>);
        impl io::Write for Lines {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, work);
        String::from_utf8(lines.0.lock().clone()).unwrap()
    }

    #[test]
    fn a_failure_is_logged_by_code_and_request_without_the_words_of_a_model_server() {
        for code in Code::ALL.iter().filter(|c| c.status() >= 500) {
            let quoted = format!("{code}: the server said: my secret");
            let log = logged(|| fill(&mut refuse(Problem::new(*code, quoted.clone())), "r-7"));
            assert!(log.contains(code.as_str()) && log.contains("r-7"), "{log}");
            assert_eq!(log.contains("secret"), is_own(*code), "{log}");
        }
        for code in [Code::UpstreamError, Code::UpstreamTimeout, Code::OllamaOffline, Code::TurnInterrupted] {
            assert!(!is_own(code), "{code}");
        }
    }

    /// Every code is explained to the reader.
    #[test]
    fn every_code_has_its_section_in_the_list_of_errors() {
        let list = include_str!("../../docs/ERRORS.md");
        for code in Code::ALL {
            let heading = format!("### `{code}` ({})", code.status());
            assert!(list.contains(&heading), "docs/ERRORS.md has no section {heading:?}");
        }
        let known: Vec<String> = Code::ALL.iter().map(ToString::to_string).collect();
        for line in list.lines().filter_map(|l| l.strip_prefix("### `")) {
            let name = line.split('`').next().unwrap_or_default();
            assert!(known.iter().any(|k| k == name), "docs/ERRORS.md explains {name:?}, which is no code");
        }
    }
}
