//! Chat: `POST /api/chat/send` · `GET`, `DELETE /api/chat/:bot` · `GET /api/chat/:bot/:message` ·
//! `GET`, `POST /api/chat/:bot/conversations` · `PATCH`, `DELETE …/conversations/:id` · `POST /api/chat/:bot/export`, `…/import`.

mod conversations;
mod export;
mod history;
mod import;
pub(super) mod send;

use http::Method;
use warp::Filter;

use super::{
    Api,
    extract::{body, headers, optional_body, query, with},
    problem::respond,
    route::Endpoint,
};

pub(super) fn endpoints(api: &Api) -> Vec<Endpoint> {
    let controller = || with(&api.controller);
    let limit = api.max_body_bytes;
    vec![
        Endpoint::new(Method::POST, "/api/chat/send", |at| {
            at.and(with(api))
                .and(headers())
                .and(query())
                .and(body::<send::SendBody>(limit))
                .then(async |_, api, headers, query, body| {
                    respond(send::send(api, headers, query, body).await)
                })
                .boxed()
        }),
        Endpoint::new(Method::GET, "/api/chat/:bot_id", |at| {
            at.and(controller())
                .and(query())
                .then(async |path, chat, query| respond(history::page(path, chat, query).await))
                .boxed()
        }),
        Endpoint::new(Method::DELETE, "/api/chat/:bot_id", |at| {
            at.and(controller())
                .and(query())
                .then(async |path, chat, query| respond(history::clear(path, chat, query).await))
                .boxed()
        }),
        Endpoint::new(Method::GET, "/api/chat/:bot_id/conversations", |at| {
            at.and(controller())
                .then(async |path, chat| respond(conversations::list(path, chat).await))
                .boxed()
        }),
        Endpoint::new(Method::POST, "/api/chat/:bot_id/conversations", |at| {
            at.and(controller())
                .and(optional_body::<conversations::NewBody>(limit))
                .then(async |path, chat, body| respond(conversations::create(path, chat, body).await))
                .boxed()
        }),
        Endpoint::new(Method::PATCH, "/api/chat/:bot_id/conversations/:id", |at| {
            at.and(controller())
                .and(body::<conversations::PatchBody>(limit))
                .then(async |path, chat, body| respond(conversations::patch(path, chat, body).await))
                .boxed()
        }),
        Endpoint::new(Method::DELETE, "/api/chat/:bot_id/conversations/:id", |at| {
            at.and(controller())
                .then(async |path, chat| respond(conversations::delete(path, chat).await))
                .boxed()
        }),
        Endpoint::new(Method::POST, "/api/chat/:bot_id/export", |at| {
            at.and(with(api))
                .and(body::<export::ExportBody>(limit))
                .then(async |path, api, body| respond(export::export(path, api, body).await))
                .boxed()
        }),
        Endpoint::new(Method::POST, "/api/chat/:bot_id/import", |at| {
            at.and(with(api))
                .and(headers())
                .and(warp::body::stream())
                .then(async |path, api, headers, body| {
                    respond(import::import(path, api, headers, body).await)
                })
                .boxed()
        }),
        Endpoint::new(Method::GET, "/api/chat/:bot_id/:message_id", |at| {
            at.and(controller())
                .and(query())
                .then(async |path, chat, query| respond(history::message(path, chat, query).await))
                .boxed()
        }),
    ]
}
