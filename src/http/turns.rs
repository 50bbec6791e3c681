//! Turns: `GET /api/turn/:id` · `GET /api/turn/:id/events` · `POST /api/turn/:id/stop`.

use deia_actors::{
    controller::Controller,
    domain::problem::{Code, Problem},
};
use http::{HeaderMap, Method};
use warp::Filter;

use super::{
    Api,
    accept::accepts_events,
    extract::{headers, query, with},
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
    ]
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
