//! Models: `GET /api/models`, `…/loaded`, `…/show`, `…/pulls` · `POST …/preload`, `…/unload`, `…/delete`, `…/pull` ·
//! `DELETE …/pull/:id`.

mod pull;

use deia_actors::{
    controller::Controller,
    domain::{
        model::OrderDone,
        model_name::{MODEL_NAME_MAX, ModelName},
        problem::Problem,
    },
};
use http::Method;
use serde::Deserialize;
use serde_json::json;
use warp::Filter;

use super::{
    Api,
    extract::{body, headers, query, with},
    problem::{Answer, json as answer, respond},
    query::Params,
    route::{Endpoint, PathValues},
};

pub(super) fn endpoints(api: &Api) -> Vec<Endpoint> {
    let controller = || with(&api.controller);
    let limit = api.max_body_bytes;
    macro_rules! order {
        ($pattern:literal, $handler:ident) => {
            Endpoint::new(Method::POST, $pattern, |at| {
                at.and(controller())
                    .and(query())
                    .and(body::<ModelBody>(limit))
                    .then(async |_, models, query, body| respond($handler(models, query, body).await))
                    .boxed()
            })
        };
    }
    vec![
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
        order!("/api/models/preload", preload),
        order!("/api/models/unload", unload),
        order!("/api/models/delete", delete),
        Endpoint::new(Method::GET, "/api/models/pulls", |at| {
            at.and(controller())
                .map(|_, models: Controller| respond(answer(&json!({ "items": models.pulls() }))))
                .boxed()
        }),
        Endpoint::new(Method::POST, "/api/models/pull", |at| {
            at.and(with(api))
                .and(headers())
                .and(query())
                .and(body::<ModelBody>(limit))
                .then(async |_, api, headers, query, body| {
                    respond(pull::begin(api, headers, query, body).await)
                })
                .boxed()
        }),
        Endpoint::new(Method::DELETE, "/api/models/pull/:pull_id", |at| {
            at.and(controller())
                .then(async |path: PathValues, models: Controller| {
                    respond(async { answer(&models.cancel_pull(path.pull()?).await?) }.await)
                })
                .boxed()
        }),
    ]
}

/// A model, and a server where only that one is meant.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelBody {
    model: ModelName,
    server: Option<String>,
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

/// What was done, where, and where not.
fn done(model: &ModelName, done: &OrderDone) -> Answer {
    let mut said = json!({ "model": model, "servers": done.servers });
    if !done.failed.is_empty() {
        said["failed"] = json!(done.failed);
    }
    answer(&said)
}

async fn preload(
    models: Controller,
    query: Result<Params, Problem>,
    body: Result<ModelBody, Problem>,
) -> Answer {
    query?.end()?;
    let ModelBody { model, server } = body?;
    done(&model, &models.preload_model(&model, server.as_deref()).await?)
}

async fn unload(
    models: Controller,
    query: Result<Params, Problem>,
    body: Result<ModelBody, Problem>,
) -> Answer {
    query?.end()?;
    let ModelBody { model, server } = body?;
    done(&model, &models.unload_model(&model, server.as_deref()).await?)
}

async fn delete(
    models: Controller,
    query: Result<Params, Problem>,
    body: Result<ModelBody, Problem>,
) -> Answer {
    let mut query = query?;
    let force = query.flag("force")?.unwrap_or(false);
    query.end()?;
    let ModelBody { model, server } = body?;
    done(&model, &models.delete_model(&model, server.as_deref(), force).await?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::http::decode::from_json;

    #[test]
    fn a_name_that_is_none_is_refused_by_its_field_and_not_repeated() {
        let refused = |model: &str| {
            let body = json!({ "model": model }).to_string();
            from_json::<ModelBody>(body.as_bytes()).unwrap_err()
        };
        for bad in ["../x", "a b", &"x".repeat(10_000), ""] {
            let problem = refused(bad);
            assert_eq!((problem.status, problem.errors[0].field.as_str()), (400, "model"), "{bad}");
            assert!(problem.detail.len() < 400, "{}", problem.detail);
        }
        assert_eq!(refused(&"x".repeat(10_000)).errors[0].reason, "has at most 255 bytes");
        assert_eq!(from_json::<ModelBody>(br#"{"server":"a"}"#).unwrap_err().errors[0].reason, "is missing");
        let unknown = from_json::<ModelBody>(br#"{"model":"a","servr":"a"}"#).unwrap_err();
        assert_eq!(unknown.errors[0].reason, "is not known; did you mean server?");
    }
}
