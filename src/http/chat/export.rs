//! History as a file: `POST /api/chat/:bot/export`.

use std::io;

use deia_actors::{
    controller::ExportFormat,
    domain::{ids::ConversationId, problem::Problem},
};
use futures_util::{StreamExt, stream::unfold};
use http::{
    HeaderValue,
    header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS},
};
use parking_lot::Mutex;
use serde::Deserialize;
use warp::Reply;

use crate::http::{Api, problem::Answer, route::PathValues, sse::Exclusive};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct ExportBody {
    format: ExportFormat,
    conversation_id: Option<ConversationId>,
}

/// The head is sent once the export has begun; what goes wrong later breaks the connection off, so that nobody takes a
/// part for the whole.
pub(in crate::http) async fn export(path: PathValues, api: Api, body: Result<ExportBody, Problem>) -> Answer {
    let (bot, ExportBody { format, conversation_id }) = (path.bot()?, body?);
    let export = api.controller.export(&bot, format, conversation_id).await?;
    let state = (Some(export.body), api.closing.clone());
    let chunks = unfold(state, async |(body, closing)| {
        let mut body = body?;
        tokio::select! {
            biased;
            () = closing.cancelled() => {
                let end = io::Error::new(io::ErrorKind::ConnectionAborted, "the service is shutting down");
                Some((Err(end), (None, closing)))
            }
            next = body.next() => match next? {
                Ok(chunk) => Some((Ok(chunk), (Some(body), closing))),
                Err(problem) => {
                    tracing::warn!(code = %problem.code, error = %problem, "an export broke off");
                    Some((Err(io::Error::other(problem)), (None, closing)))
                }
            }
        }
    });
    let mut response = warp::reply::stream(Exclusive(Mutex::new(Box::pin(chunks)))).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(export.content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(name) = HeaderValue::from_str(&format!("attachment; filename=\"{}\"", export.file_name)) {
        headers.insert(CONTENT_DISPOSITION, name);
    }
    Ok(response)
}
