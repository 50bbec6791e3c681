//! The system: `GET /api/commands` · `/api/tree` · `/api/config`.

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
    let controller = || with(&api.controller);
    let config = api.config_view.clone();
    vec![
        Endpoint::new(Method::GET, "/api/commands", |at| {
            at.and(controller())
                .map(|_, tree: Controller| respond(answer(&json!({ "items": tree.commands() }))))
                .boxed()
        }),
        Endpoint::new(Method::GET, "/api/tree", |at| {
            at.and(controller()).map(|_, tree: Controller| respond(answer(&tree.tree()))).boxed()
        }),
        Endpoint::new(Method::GET, "/api/config", |at| {
            at.map(move |_: PathValues| respond(answer(&config()))).boxed()
        }),
    ]
}
