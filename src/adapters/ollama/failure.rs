//! From what HTTP says to the conditions of the port.

use std::{error::Error, time::Duration};

use deia_actors::ports::chat_model::{ModelError, Wait};
use reqwest::{Response, StatusCode, header::CONTENT_ENCODING};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::lines::{cut, words};

/// So much of a refusal's body is read.
const MAX_REFUSAL: usize = 64 << 10;
/// How long the body of a refusal may take: its head has come, so the body is at hand.
const REFUSAL_TIME: Duration = Duration::from_secs(5);

/// A request that got no response. Addresses are left out of the text: they may hold credentials.
pub(super) fn unanswered(error: reqwest::Error) -> ModelError {
    let error = error.without_url();
    if error.is_connect() {
        return ModelError::Unreachable(innermost(&error));
    }
    if error.is_timeout() {
        return ModelError::Timeout(Wait::FirstByte);
    }
    if is_nonsense(&error) { ModelError::Protocol(innermost(&error)) } else { ModelError::Cut }
}

/// A body that broke off.
pub(super) fn broken(error: &reqwest::Error) -> ModelError {
    if is_nonsense(error) { ModelError::Protocol(innermost(error)) } else { ModelError::Cut }
}

/// Passes a success on, unless it is compressed: we ask for none of that, and a few bytes of it may become gigabytes. Reads the words of anything else.
pub(super) async fn check(response: Response, model: &str) -> Result<Response, ModelError> {
    let status = response.status();
    if status.is_success() {
        return match response.headers().get(CONTENT_ENCODING) {
            Some(coding) if coding != "identity" => {
                Err(ModelError::Protocol("a compressed answer, which was not asked for".into()))
            }
            _ => Ok(response),
        };
    }
    let body = refusal_body(response).await;
    Err(refusal(status, &body, model))
}

/// The condition behind a status and the words that came with it.
fn refusal(status: StatusCode, body: &[u8], model: &str) -> ModelError {
    let message = message(status, body);
    match status {
        // A path that the server does not know says "404 page not found"; a model may have a page in its name, too.
        StatusCode::NOT_FOUND
            if !model.is_empty() && message.contains("not found") && !message.contains("page not found") =>
        {
            ModelError::ModelNotFound(model.to_owned())
        }
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => ModelError::Busy(message),
        StatusCode::BAD_REQUEST if message.contains("exceeds the context length") => {
            ModelError::ContextExceeded(message)
        }
        // Somebody else answers there (a login page, a proxy): as good as down.
        status if status.is_server_error() || status.is_redirection() => ModelError::Failed(message),
        status => ModelError::Refused { status: status.as_u16(), message },
    }
}

fn message(status: StatusCode, body: &[u8]) -> String {
    if status.is_redirection() {
        return "redirects are not followed".to_owned();
    }
    if let Ok(Value::Object(mut fields)) = serde_json::from_slice(body)
        && let Some(error) = fields.remove("error")
    {
        return words(error);
    }
    let text = cut(&String::from_utf8_lossy(body));
    if text.is_empty() { status.canonical_reason().unwrap_or("no reason given").to_owned() } else { text }
}

async fn refusal_body(mut response: Response) -> Vec<u8> {
    let (mut body, deadline) = (Vec::new(), Instant::now() + REFUSAL_TIME);
    while let Ok(Ok(Some(chunk))) = timeout_at(deadline, response.chunk()).await {
        let room = MAX_REFUSAL - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if body.len() == MAX_REFUSAL {
            break;
        }
    }
    body
}

/// True where the other side does not speak HTTP as it should.
fn is_nonsense(error: &reqwest::Error) -> bool {
    causes(error).any(|cause| {
        cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse)
            || cause.downcast_ref::<std::io::Error>().is_some_and(|e| {
                matches!(e.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::InvalidInput)
            })
    })
}

fn innermost(error: &reqwest::Error) -> String {
    causes(error).last().map_or_else(|| error.to_string(), ToString::to_string)
}

fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(Some(error as &(dyn Error + 'static)), |error| (*error).source())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_condition() {
        let said = |status: u16, body: &str| {
            refusal(StatusCode::from_u16(status).unwrap_or_default(), body.as_bytes(), "m")
        };
        assert_eq!(said(404, r#"{"error":"model 'm' not found"}"#), ModelError::ModelNotFound("m".into()));
        assert_eq!(
            said(404, "404 page not found"),
            ModelError::Refused { status: 404, message: "404 page not found".into() },
            "a wrong path is not a missing model"
        );
        assert_eq!(
            said(404, r#"{"error":"model 'landing-page:7b' not found"}"#),
            ModelError::ModelNotFound("m".into()),
            "a page in its name"
        );
        assert_eq!(said(503, r#"{"error":"server busy"}"#), ModelError::Busy("server busy".into()));
        assert_eq!(said(429, ""), ModelError::Busy("Too Many Requests".into()));
        assert_eq!(
            said(400, r#"{"error":"the input length exceeds the context length"}"#),
            ModelError::ContextExceeded("the input length exceeds the context length".into())
        );
        assert_eq!(
            said(400, r#"{"error":"\"m\" does not support thinking"}"#),
            ModelError::Refused { status: 400, message: "\"m\" does not support thinking".into() }
        );
        let long = format!(r#"{{"error":"{}"}}"#, "x".repeat(60_000));
        assert_eq!(said(500, &long), ModelError::Failed("x".repeat(300)));
        assert_eq!(said(500, "<h1>no\x07</h1>"), ModelError::Failed("<h1>no</h1>".into()));
        assert_eq!(said(302, "x"), ModelError::Failed("redirects are not followed".into()));
    }
}
