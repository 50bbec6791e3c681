//! Model servers: `GET`, `POST /api/servers` · `DELETE /api/server/:name` · `POST …/probe` · `POST …/drain` and `…/resume`: no
//! new turns, and turns again.

use deia_actors::{
    controller::{Controller, requests::AddServer},
    domain::{model::SERVER_SLOTS_MAX, problem::Problem},
};
use http::{HeaderValue, Method, StatusCode, header::LOCATION};
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::json;
use warp::Filter;

use super::{
    Api,
    extract::{body, with},
    problem::{Answer, json as answer, json_with, respond},
    route::{Endpoint, PathValues},
};

pub(super) fn endpoints(api: &Api) -> Vec<Endpoint> {
    vec![
        Endpoint::new(Method::GET, "/api/servers", |at| {
            at.and(with(&api.controller))
                .map(|_, servers: Controller| respond(answer(&json!({ "items": servers.servers() }))))
                .boxed()
        }),
        Endpoint::new(Method::POST, "/api/servers", |at| {
            at.and(with(&api.controller))
                .and(body::<AddBody>(api.max_body_bytes))
                .then(async |_, servers, body| respond(add(servers, body).await))
                .boxed()
        }),
        Endpoint::new(Method::DELETE, "/api/server/:server", |at| {
            at.and(with(&api.controller))
                .then(async |path: PathValues, servers: Controller| {
                    respond(
                        async {
                            servers.remove_server(&path.server()).await?;
                            answer(&json!({ "deleted": path.server() }))
                        }
                        .await,
                    )
                })
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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AddBody {
    name: Option<String>,
    url: String,
    #[serde(default, deserialize_with = "slots")]
    slots: Option<u32>,
}

/// Refused with the range that the controller allows, and not with that of the type.
fn slots<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    let refused = |_| D::Error::custom(format!("a whole number from 1 to {SERVER_SLOTS_MAX}"));
    Option::deserialize(from).map_err(refused)
}

async fn add(servers: Controller, body: Result<AddBody, Problem>) -> Answer {
    let AddBody { name, url, slots } = body?;
    let server = servers.add_server(AddServer { name, url, slots }).await?;
    let mut response = json_with(StatusCode::CREATED, &server)?;
    if let Ok(place) = HeaderValue::from_str(&format!("/api/server/{}", server.name)) {
        response.headers_mut().insert(LOCATION, place);
    }
    Ok(response)
}
