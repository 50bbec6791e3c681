//! Turns: `GET /api/turn/:id` · `GET /api/turn/:id/events` · `POST /api/turn/:id/stop` · `POST /api/turn/:id/regenerate`.

use deia_actors::{
    controller::Controller,
    domain::problem::{Code, Problem},
};
use http::{HeaderMap, Method};
use serde::Deserialize;
use warp::Filter;

use super::{
    Api,
    accept::accepts_events,
    chat::send::{accept, idempotency_key, mark},
    extract::{headers, optional_body, query, with},
    problem::{Answer, json, respond},
    query::Params,
    route::{Endpoint, PathValues},
    sse,
};

pub(super) fn endpoints(api: &Api) -> Vec<Endpoint> {
    vec![
        Endpoint::new(Method::GET, "/api/turn/:turn_id", |at| {
            at.and(with(&api.controller))
                .then(async |path: PathValues, turns: Controller| {
                    respond(async { json(&turns.turn(path.turn()?).await?) }.await)
                })
                .boxed()
        }),
        Endpoint::new(Method::GET, "/api/turn/:turn_id/events", |at| {
            at.and(with(api))
                .and(headers())
                .and(query())
                .then(async |path, api, headers, query| respond(events(path, api, headers, query).await))
                .boxed()
        }),
        Endpoint::new(Method::POST, "/api/turn/:turn_id/stop", |at| {
            at.and(with(&api.controller))
                .then(async |path: PathValues, turns: Controller| {
                    respond(async { json(&turns.stop_turn(path.turn()?).await?) }.await)
                })
                .boxed()
        }),
        Endpoint::new(Method::POST, "/api/turn/:turn_id/regenerate", |at| {
            at.and(with(&api.controller))
                .and(headers())
                .and(query())
                .and(optional_body::<Nothing>(api.max_body_bytes))
                .then(async |path, turns, headers, query, body| {
                    respond(regenerate(path, turns, headers, query, body).await)
                })
                .boxed()
        }),
    ]
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

async fn regenerate(
    path: PathValues,
    turns: Controller,
    headers: HeaderMap,
    query: Result<Params, Problem>,
    body: Result<Nothing, Problem>,
) -> Answer {
    let (id, mut query, Nothing {}) = (path.turn()?, query?, body?);
    let html = query.html()?;
    query.end()?;
    let accepted = turns.regenerate(id, idempotency_key(&headers)?).await?;
    mark(accept(&accepted, html).await, accepted.replayed)
}

async fn events(path: PathValues, api: Api, headers: HeaderMap, query: Result<Params, Problem>) -> Answer {
    let (id, mut query) = (path.turn()?, query?);
    let html = query.html()?;
    query.end()?;
    if !accepts_events(&headers) {
        return Err(Problem::new(Code::NotAcceptable, "the answer is text/event-stream"));
    }
    let last = headers.get("last-event-id").map(|v| v.to_str().unwrap_or("?").to_owned());
    sse::turn(&api, id, last.as_deref(), html).await
}
