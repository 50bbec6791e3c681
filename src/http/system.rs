//! The system: `GET /api/commands` · `/api/tree` · `/api/models`, `/api/models/loaded`, `/api/models/show` ·
//! `/api/config`.

use deia_actors::{controller::Controller, domain::problem::Problem};
use http::Method;
use serde_json::json;
use warp::Filter;

use super::{
    Api,
    extract::{query, with},
    problem::{Answer, json as answer, respond},
    query::Params,
    route::{Endpoint, PathValues},
};

/// Longest name of a model, in bytes.
const MODEL_NAME_MAX: usize = 200;

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
        Endpoint::new(Method::GET, "/api/models", |at| {
            at.and(controller())
                .then(async |_, models: Controller| {
                    respond(async { answer(&json!({ "items": models.models().await? })) }.await)
                })
                .boxed()
        }),
        Endpoint::new(Method::GET, "/api/models/loaded", |at| {
            at.and(controller()).then(async |_, models| respond(loaded(models).await)).boxed()
        }),
        Endpoint::new(Method::GET, "/api/models/show", |at| {
            at.and(controller())
                .and(query())
                .then(async |_, models, query| respond(show(models, query).await))
                .boxed()
        }),
        Endpoint::new(Method::GET, "/api/config", |at| {
            at.map(move |_: PathValues| respond(answer(&config()))).boxed()
        }),
    ]
}

async fn loaded(models: Controller) -> Answer {
    let items: Vec<_> = models
        .loaded_models()
        .await?
        .into_iter()
        .map(|(server, model)| {
            json!({
                "server": server,
                "name": model.name,
                "size_vram": model.size_vram,
                "expires_at": model.expires_at,
            })
        })
        .collect();
    answer(&json!({ "items": items }))
}

async fn show(models: Controller, query: Result<Params, Problem>) -> Answer {
    let mut query = query?;
    let name = query.text("model").unwrap_or_default();
    query.end()?;
    if name.is_empty() {
        return Err(Problem::field("model", "is missing"));
    }
    if name.len() > MODEL_NAME_MAX || name.chars().any(char::is_control) {
        let rule = format!("at most {MODEL_NAME_MAX} bytes, without control characters");
        return Err(Problem::field("model", rule));
    }
    let details = models.show_model(&name).await?;
    answer(&json!({
        "name": name,
        "capabilities": details.capabilities,
        "context_length": details.context_length,
        "details": details.raw,
    }))
}
