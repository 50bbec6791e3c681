//! `Accept`: JSON or a stream of events.

use deia_actors::domain::problem::{Code, Problem};
use http::{HeaderMap, header::ACCEPT};

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `application/json`.
    Json,
    /// `text/event-stream`.
    Events,
}

/// What the client asked for: JSON unless it prefers events. Among equals the first named wins.
pub(super) fn form(headers: &HeaderMap) -> Result<Form, Problem> {
    let mut named = false;
    let (mut json, mut events) = (0.0_f32, 0.0_f32);
    let (mut json_at, mut events_at) = (usize::MAX, usize::MAX);
    let lines = headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok());
    for (at, part) in lines.flat_map(|line| line.split(',')).enumerate() {
        let mut pieces = part.split(';').map(str::trim);
        let kind = pieces.next().unwrap_or_default().to_ascii_lowercase();
        if kind.is_empty() {
            continue;
        }
        named = true;
        let q = pieces.find_map(|p| p.strip_prefix("q=").or_else(|| p.strip_prefix("Q=")));
        let q = q.map_or(1.0, |q| q.parse::<f32>().unwrap_or(0.0)).clamp(0.0, 1.0);
        let (for_json, for_events) = match kind.as_str() {
            "application/json" | "application/*" | "*/*" => (true, false),
            "text/event-stream" | "text/*" => (false, true),
            _ => (false, false),
        };
        if for_json && q > json {
            (json, json_at) = (q, at);
        }
        if for_events && q > events {
            (events, events_at) = (q, at);
        }
    }
    match (named, json > 0.0, events > 0.0) {
        (false, ..) | (true, true, false) => Ok(Form::Json),
        (true, false, true) => Ok(Form::Events),
        (true, true, true) if events > json || (events >= json && events_at < json_at) => Ok(Form::Events),
        (true, true, true) => Ok(Form::Json),
        (true, false, false) => {
            Err(Problem::new(Code::NotAcceptable, "the answer is application/json or text/event-stream"))
        }
    }
}

/// Whether a route that has only events to give may answer.
pub(super) fn accepts_events(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok()).peekable();
    lines.peek().is_none()
        || lines.any(|l| l.contains("*/*") || l.contains("text/*") || l.contains("text/event-stream"))
}

/// True where a person's browser navigates.
pub(super) fn wants_page(headers: &HeaderMap) -> bool {
    headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok()).any(|v| v.contains("text/html"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_form_is_the_one_that_the_client_likes_best() {
        let of = |accept: &str| {
            form(&HeaderMap::from_iter([(ACCEPT, accept.parse().unwrap())])).map_err(|p| p.code)
        };
        assert_eq!(form(&HeaderMap::new()).unwrap(), Form::Json);
        assert_eq!(of("*/*"), Ok(Form::Json));
        assert_eq!(of("text/event-stream"), Ok(Form::Events));
        assert_eq!(of("text/event-stream, application/json"), Ok(Form::Events));
        assert_eq!(of("application/json, text/event-stream"), Ok(Form::Json));
        assert_eq!(of("application/json;q=0.5, text/event-stream"), Ok(Form::Events));
        assert_eq!(of("text/event-stream;q=0.1, */*"), Ok(Form::Json));
        assert_eq!(of("text/event-stream, */*;q=0.1"), Ok(Form::Events));
        assert_eq!(of("text/html"), Err(Code::NotAcceptable));
        assert_eq!(of("application/json;q=0"), Err(Code::NotAcceptable));
    }

    #[test]
    fn events_alone_are_given_to_everybody_who_does_not_rule_them_out() {
        let of = |accept: &str| accepts_events(&HeaderMap::from_iter([(ACCEPT, accept.parse().unwrap())]));
        assert!(accepts_events(&HeaderMap::new()));
        assert!(of("text/event-stream") && of("*/*") && of("text/html, */*;q=0.1"));
        assert!(!of("application/json"));
    }
}
