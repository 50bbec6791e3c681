//! A pull as `text/event-stream`: `pull {id, model, server}`, `progress …` whenever something changed, then `done`,
//! `failed {problem}` or `cancelled`. Plain events, without the envelope of the topics. A client that goes away cancels
//! nothing: asking for the same pull again watches it again. There is no other form: who does not take it is refused, and
//! nothing is pulled.

use std::{fmt::Write as _, time::Duration};

use bytes::Bytes;
use deia_actors::{
    controller::PullWatch,
    domain::{
        problem::{Code, Problem},
        pull::{Pull, PullState},
    },
};
use futures_util::stream::unfold;
use http::HeaderMap;
use serde::Serialize;
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::ModelBody;
use crate::http::{Api, SSE_HEARTBEAT, accept::accepts_events, problem::Answer, query::Params, sse};

/// Between two reports: a person reads no faster.
const PACE: Duration = Duration::from_millis(100);

pub(super) async fn begin(
    api: Api,
    headers: HeaderMap,
    query: Result<Params, Problem>,
    body: Result<ModelBody, Problem>,
) -> Answer {
    query?.end()?;
    if !accepts_events(&headers) {
        return Err(Problem::new(Code::NotAcceptable, "the answer is text/event-stream"));
    }
    let ModelBody { model, server } = body?;
    let watch = api.controller.pull_model(&model, server.as_deref()).await?;
    let feed = Feed { watch, closing: api.closing.clone(), told: None, over: false, next: Instant::now() };
    Ok(sse::respond(unfold(feed, |mut feed| async move {
        let chunk = feed.chunk().await?;
        Some((Bytes::from(chunk), feed))
    })))
}

struct Feed {
    watch: PullWatch,
    closing: CancellationToken,
    /// What was written last.
    told: Option<Pull>,
    over: bool,
    /// When the next report may go out.
    next: Instant,
}

impl Feed {
    /// What to send next; none at the end.
    async fn chunk(&mut self) -> Option<String> {
        if self.over {
            return None;
        }
        sleep_until(self.next).await;
        self.next = Instant::now() + PACE;
        let mut out = String::new();
        tokio::select! {
            biased;
            pull = self.watch.next() => match pull {
                Some(pull) => self.write(&mut out, pull),
                None => return None,
            },
            () = self.closing.cancelled() => {
                self.over = true;
                out.push_str(": the service is shutting down, come back\n\n");
            }
            () = sleep(SSE_HEARTBEAT) => out.push_str(": alive\n\n"),
        }
        Some(out)
    }

    fn write(&mut self, out: &mut String, pull: Pull) {
        if self.told.is_none() {
            event(out, "pull", &json!({"id": pull.id, "model": pull.model, "server": pull.server}));
        }
        if self.told.as_ref().is_none_or(|told| told.progress.status != pull.progress.status)
            || pull.state == PullState::Running
        {
            event(out, "progress", &pull.progress);
        }
        self.over = true;
        match pull.state {
            PullState::Running => self.over = false,
            PullState::Done => event(out, "done", &json!({"id": pull.id})),
            PullState::Failed => event(out, "failed", &json!({ "problem": pull.error })),
            PullState::Cancelled => event(out, "cancelled", &json!({"id": pull.id})),
        }
        self.told = Some(pull);
    }
}

/// JSON has no line breaks of its own, so one `data:` line carries it.
fn event(out: &mut String, name: &str, data: &impl Serialize) {
    let data = serde_json::to_string(data).unwrap_or_default();
    // Writing to a string can't fail.
    let _ = write!(out, "event: {name}\ndata: {data}\n\n");
}
