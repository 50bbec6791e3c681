//! Model servers: `GET /api/servers` · `POST /api/server/:name/probe` · `POST …/drain` and `…/resume`: no new turns, and turns
//! again.

use deia_actors::controller::Controller;
use http::Method;
use serde_json::json;
use warp::Filter;

use super::{
    Api,
    extract::with,
    problem::{json as answer, respond},
    route::{Endpoint, PathValues},
};

pub(super) fn endpoints(api: &Api) -> Vec<Endpoint> {
    vec![
        Endpoint::new(Method::GET, "/api/servers", |at| {
            at.and(with(&api.controller))
                .map(|_, servers: Controller| respond(answer(&json!({ "items": servers.servers() }))))
                .boxed()
        }),
        Endpoint::new(Method::POST, "/api/server/:server/probe", |at| {
            at.and(with(&api.controller))
                .then(async |path: PathValues, servers: Controller| {
                    respond(async { answer(&servers.probe_server(&path.server()).await?) }.await)
                })
                .boxed()
        }),
        Endpoint::new(Method::POST, "/api/server/:server/drain", |at| {
            at.and(with(&api.controller))
                .map(|path: PathValues, servers: Controller| {
                    respond(servers.drain_server(&path.server()).and_then(|server| answer(&server)))
                })
                .boxed()
        }),
        Endpoint::new(Method::POST, "/api/server/:server/resume", |at| {
            at.and(with(&api.controller))
                .map(|path: PathValues, servers: Controller| {
                    respond(servers.resume_server(&path.server()).and_then(|server| answer(&server)))
                })
                .boxed()
        }),
    ]
}
