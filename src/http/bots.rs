//! Bots: `GET /api/bots` · `POST /api/bot/launch` · `GET`, `PATCH`, `DELETE /api/bot/:id` · `GET …/status` ·
//! `POST …/start`, `…/stop`, `…/restart`, `…/kill`.

use deia_actors::{
    controller::{
        Controller,
        requests::{KillHow, LaunchBot, ListBots, PatchBot},
    },
    domain::{
        bot::{Bot, BotConfig, BotState},
        ids::BotId,
        problem::{Code, Problem},
    },
};
use http::{HeaderValue, Method, StatusCode, header::LOCATION};
use serde::Deserialize;
use serde_json::{Map, Value};
use warp::Filter;

use super::{
    Api,
    decode::{from_map, nullable, present},
    extract::{body, optional_body, query, with},
    problem::{Answer, json, json_with, respond},
    query::Params,
    route::{Endpoint, PathValues},
};

pub(super) fn endpoints(api: &Api) -> Vec<Endpoint> {
    let controller = || with(&api.controller);
    let limit = api.max_body_bytes;
    macro_rules! lifecycle {
        ($pattern:literal, $method:ident) => {
            Endpoint::new(Method::POST, $pattern, |at| {
                at.and(controller())
                    .then(async |path: PathValues, bots: Controller| {
                        respond(async { json(&bots.$method(&path.bot()?).await?) }.await)
                    })
                    .boxed()
            })
        };
    }
    vec![
        Endpoint::new(Method::GET, "/api/bots", |at| {
            at.and(controller()).and(query()).map(|_, bots, query| respond(list(&bots, query))).boxed()
        }),
        Endpoint::new(Method::POST, "/api/bot/launch", |at| {
            at.and(controller())
                .and(body::<LaunchBody>(limit))
                .then(async |_, bots, body| respond(launch(bots, body).await))
                .boxed()
        }),
        Endpoint::new(Method::GET, "/api/bot/:bot_id", |at| {
            at.and(controller())
                .map(|path: PathValues, bots: Controller| {
                    respond(path.bot().and_then(|id| json(&bots.bot(&id)?)))
                })
                .boxed()
        }),
        Endpoint::new(Method::GET, "/api/bot/:bot_id/status", |at| {
            at.and(controller())
                .map(|path: PathValues, bots: Controller| {
                    respond(path.bot().and_then(|id| json(&bots.status(&id)?)))
                })
                .boxed()
        }),
        Endpoint::new(Method::PATCH, "/api/bot/:bot_id", |at| {
            at.and(controller())
                .and(body::<PatchBody>(limit))
                .then(async |path, bots, body| respond(patch(path, bots, body).await))
                .boxed()
        }),
        Endpoint::new(Method::DELETE, "/api/bot/:bot_id", |at| {
            at.and(controller())
                .and(query())
                .then(async |path, bots, query| respond(delete(path, bots, query).await))
                .boxed()
        }),
        lifecycle!("/api/bot/:bot_id/start", start),
        lifecycle!("/api/bot/:bot_id/stop", stop),
        lifecycle!("/api/bot/:bot_id/restart", restart),
        Endpoint::new(Method::POST, "/api/bot/:bot_id/kill", |at| {
            at.and(controller())
                .and(with(&api.allow_kill))
                .and(optional_body::<KillBody>(limit))
                .then(async |path, bots, allowed, body| respond(kill(path, bots, allowed, body).await))
                .boxed()
        }),
    ]
}

fn list(bots: &Controller, query: Result<Params, Problem>) -> Answer {
    let mut query = query?;
    let state = match query.text("state") {
        None => None,
        Some(name) => Some(state(&name)?),
    };
    let wanted = ListBots { state, limit: query.limit()?, after: query.value("after", "must be a bot id")? };
    query.end()?;
    json(&bots.bots(&wanted)?)
}

fn state(name: &str) -> Result<BotState, Problem> {
    serde_json::from_value(name.into()).map_err(|error| {
        let known = error.to_string();
        let known = known.split_once("expected one of ").map_or("", |(_, known)| known);
        Problem::field("state", format!("must be one of {}", known.replace('`', "")))
    })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LaunchBody {
    bot_id: Option<BotId>,
    name: Option<String>,
    config: Option<Map<String, Value>>,
    metadata: Option<Map<String, Value>>,
}

async fn launch(bots: Controller, body: Result<LaunchBody, Problem>) -> Answer {
    let mut body = body?;
    refuse_nul(body.metadata.as_ref())?;
    if let Some(config) = &mut body.config {
        // As in a patch, null is the default.
        config.retain(|_, value| !value.is_null());
        check_config(config)?;
    }
    let LaunchBody { bot_id, name, config, metadata } = body;
    let bot: Bot = bots.launch(LaunchBot { bot_id, name, config, metadata }).await?;
    let mut response = json_with(StatusCode::CREATED, &bot)?;
    if let Ok(place) = HeaderValue::from_str(&format!("/api/bot/{}", bot.id)) {
        response.headers_mut().insert(LOCATION, place);
    }
    Ok(response)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PatchBody {
    #[serde(default, deserialize_with = "nullable")]
    name: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    config: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    metadata: Option<Value>,
}

async fn patch(path: PathValues, bots: Controller, body: Result<PatchBody, Problem>) -> Answer {
    let (id, PatchBody { name, config, metadata }) = (path.bot()?, body?);
    refuse_nul(metadata.as_ref().and_then(Value::as_object))?;
    if let Some(mut map) = config.as_ref().and_then(Value::as_object).cloned() {
        drop_nulls(&mut map);
        check_config(&map)?;
    }
    json(&bots.patch(&id, PatchBot { name, config, metadata }).await?)
}

/// Null means "as if absent" in a patch; inside free values (schemas, tools) it is a value.
fn drop_nulls(config: &mut Map<String, Value>) {
    config.retain(|_, value| !value.is_null());
    for name in ["options", "context"] {
        if let Some(Value::Object(map)) = config.get_mut(name) {
            map.retain(|_, value| !value.is_null());
        }
    }
}

/// Names and types of a configuration; what it means is checked where it is merged.
fn check_config(config: &Map<String, Value>) -> Result<(), Problem> {
    for name in ["options", "context"] {
        if config.get(name).is_some_and(|v| !v.is_object()) {
            return Err(Problem::field(format!("config.{name}"), "must be an object"));
        }
    }
    from_map::<BotConfig>(config, "config").map(drop)
}

async fn delete(path: PathValues, bots: Controller, query: Result<Params, Problem>) -> Answer {
    let (id, mut query) = (path.bot()?, query?);
    let purge = query.flag("purge")?.unwrap_or(false);
    query.end()?;
    json(&bots.delete(&id, purge).await?)
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct KillBody {
    how: KillHow,
    reason: Option<String>,
}

async fn kill(path: PathValues, bots: Controller, allowed: bool, body: Result<KillBody, Problem>) -> Answer {
    if !allowed {
        return Err(Problem::new(
            Code::KillNotAllowed,
            "set supervision.allow_kill = true to crash bots on purpose",
        ));
    }
    let (id, KillBody { how, reason }) = (path.bot()?, body?);
    if reason.as_ref().is_some_and(|r| r.chars().any(char::is_control)) {
        return Err(Problem::field("reason", "must not contain control characters"));
    }
    json(&bots.kill(&id, how, reason).await?)
}

/// JSON can say NUL; not every database can keep it.
pub(super) fn refuse_nul(metadata: Option<&Map<String, Value>>) -> Result<(), Problem> {
    fn in_map(map: &Map<String, Value>) -> bool {
        map.iter().any(|(name, value)| name.contains('\0') || in_value(value))
    }
    fn in_value(value: &Value) -> bool {
        match value {
            Value::String(text) => text.contains('\0'),
            Value::Array(items) => items.iter().any(in_value),
            Value::Object(map) => in_map(map),
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }
    if metadata.is_some_and(in_map) {
        return Err(Problem::field("metadata", "must not contain NUL"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;
    use crate::http::decode::from_json;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn a_configuration_with_an_unknown_or_wrong_key_is_refused_by_its_path() {
        let refused = |config: Value| check_config(&map(config)).unwrap_err().errors[0].clone();
        assert_eq!(refused(json!({"modl": "x"})).field, "config.modl");
        assert_eq!(refused(json!({"modl": "x"})).reason, "is not known; did you mean model?");
        assert_eq!(refused(json!({"options": {"num_ctx": "a"}})).field, "config.options.num_ctx");
        assert_eq!(refused(json!({"options": {"numctx": 1}})).field, "config.options.numctx");
        assert_eq!(refused(json!({"options": [1.0]})).field, "config.options");
        assert!(check_config(&map(json!({"model": "m", "options": {"num_ctx": 512}}))).is_ok());
    }

    #[test]
    fn a_patch_tells_absent_from_null() {
        let patch: PatchBody = from_json(br#"{"name":null,"config":null}"#).unwrap();
        assert_eq!(patch.name, Some(None));
        assert_eq!(patch.config, Some(Value::Null));
        assert_eq!(patch.metadata, None);
        let mut config = map(json!({"model": null, "options": {"seed": null, "top_k": 1}, "think": null}));
        drop_nulls(&mut config);
        assert_eq!(Value::Object(config), json!({"options": {"top_k": 1}}));
    }

    #[test]
    fn free_data_without_nul_is_taken() {
        for bad in [json!({"a": "\u{0}"}), json!({"\u{0}": 1}), json!({"a": [{"b": "x\u{0}"}]})] {
            assert_eq!(refuse_nul(Some(&map(bad))).unwrap_err().errors[0].field, "metadata");
        }
        let written = map(json!({"a": "the six characters \\u0000"}));
        assert!(refuse_nul(Some(&written)).is_ok() && refuse_nul(None).is_ok());
    }

    #[test]
    fn a_state_is_one_of_the_known_ones() {
        assert_eq!(state("ready").unwrap(), BotState::Ready);
        let problem = state("rady").unwrap_err();
        assert!(problem.errors[0].reason.contains("ready"), "{}", problem.detail);
    }
}
