//! `POST /api/pull`: progress as the real server reports it, about two seconds long, then the model is listed.
//!
//! What was pulled before the client left, or before a fault, is kept: the next pull of that model goes on there.
//! The begin of a name says what shall happen: `nope` and `missing` are not in the registry, `full-disk` ends with a full
//! disk half-way, `cut` with a cut connection, `stalls` falls silent there, `held` does until [`super::Sim::let_go`], `slow`
//! takes twenty times as long.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame};
use serde_json::{Value, json};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{
    catalogue::{Catalogue, digest},
    stats::OpenCall,
};

const STEPS: u64 = 40;
const STEP_BYTES: u64 = 50_000_000;
const STEP: Duration = Duration::from_millis(50);
const SLOW_STEP: Duration = Duration::from_secs(1);
/// Stands for "never".
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// The small layer that every model has besides its weights.
const TEMPLATE: u64 = 1_429;

/// What comes when.
struct Line {
    wait: Duration,
    what: What,
}

enum What {
    Say(Value),
    /// Says that so many steps are there.
    Step(Value, u64),
    /// Says nothing until it is let go.
    Hold,
    Cut,
}

/// The script of a pull of which `done` steps are there already.
fn script(model: &str, done: u64) -> Vec<Line> {
    let is = |prefix: &str| model.starts_with(prefix);
    let step = if is("slow") { SLOW_STEP } else { STEP };
    let mut lines = vec![];
    let mut then = |wait, what| lines.push(Line { wait, what });
    then(Duration::ZERO, What::Say(json!({"status": "pulling manifest"})));
    if is("nope") || is("missing") {
        then(STEP, What::Say(json!({"error": "pull model manifest: file does not exist"})));
        return lines;
    }
    let weights = digest(model);
    let status = format!("pulling {}", &weights[..12]);
    let (layer, total) = (format!("sha256:{weights}"), STEPS * STEP_BYTES);
    let done = done.min(STEPS);
    let half = (STEPS / 2).max(done);
    for at in done..=STEPS {
        let (mut line, wait) = (
            json!({"status": status, "digest": layer, "total": total}),
            if at == done { STEP } else { step },
        );
        if at > 0 {
            line["completed"] = (at * STEP_BYTES).into();
        }
        then(wait, What::Step(line, at));
        if at == half && is("full-disk") {
            let error = format!("write /models/blobs/sha256-{weights}-partial: no space left on device");
            then(step, What::Say(json!({ "error": error })));
            return lines;
        }
        if at == half && is("cut") {
            then(step, What::Cut);
            return lines;
        }
        if at == half && is("held") {
            then(Duration::ZERO, What::Hold);
        }
        if at == half && is("stalls") {
            then(NEVER, What::Cut);
            return lines;
        }
    }
    let template = digest(&format!("template of {model}"));
    let status = format!("pulling {}", &template[..12]);
    let layer = format!("sha256:{template}");
    let line = json!({"status": status, "digest": layer, "total": TEMPLATE, "completed": TEMPLATE});
    then(STEP, What::Say(line));
    for status in ["verifying sha256 digest", "writing manifest", "success"] {
        then(STEP, What::Say(json!({ "status": status })));
    }
    lines
}

/// Runs a pull to its end and answers with its last line.
pub(crate) async fn pull_whole(
    model: &str,
    catalogue: &Catalogue,
    let_go: &CancellationToken,
    mut call: OpenCall,
) -> Value {
    let mut last = Value::Null;
    for Line { wait, what } in script(model, catalogue.part(model)) {
        tokio::time::sleep(wait).await;
        last = match what {
            What::Say(line) => line,
            What::Step(line, steps) => {
                catalogue.keep_part(model, steps);
                line
            }
            What::Hold => {
                let_go.cancelled().await;
                continue;
            }
            What::Cut => json!({"error": "unexpected EOF"}),
        };
    }
    call.end();
    finish(model, catalogue, last)
}

/// Lists the model on success.
fn finish(model: &str, catalogue: &Catalogue, line: Value) -> Value {
    if line["status"] == "success" && !catalogue.add(model) {
        return json!({"error": "no room for another model"});
    }
    line
}

/// The streamed form.
pub(crate) struct PullBody {
    model: String,
    catalogue: Arc<Catalogue>,
    call: OpenCall,
    lines: std::vec::IntoIter<Line>,
    next: Option<(Pin<Box<Sleep>>, What)>,
    let_go: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl PullBody {
    pub(crate) fn new(
        model: &str,
        catalogue: Arc<Catalogue>,
        let_go: &CancellationToken,
        call: OpenCall,
    ) -> Self {
        let lines = script(model, catalogue.part(model)).into_iter();
        let let_go = Box::pin(let_go.clone().cancelled_owned());
        Self { model: model.to_owned(), catalogue, call, lines, next: None, let_go }
    }
}

impl Body for PullBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        if this.next.is_none() {
            let Some(Line { wait, what }) = this.lines.next() else { return Poll::Ready(None) };
            this.next = Some((Box::pin(tokio::time::sleep_until(Instant::now() + wait)), what));
        }
        if let Some((sleep, _)) = &mut this.next {
            std::task::ready!(sleep.as_mut().poll(cx));
        }
        if let Some((_, What::Hold)) = &this.next {
            std::task::ready!(this.let_go.as_mut().poll(cx));
            this.next = None;
            return Pin::new(this).poll_frame(cx);
        }
        let line = match this.next.take().map(|(_, what)| what) {
            Some(What::Say(line)) => line,
            Some(What::Step(line, steps)) => {
                this.catalogue.keep_part(&this.model, steps);
                line
            }
            Some(What::Cut | What::Hold) | None => {
                this.call.end();
                let cut = io::Error::new(io::ErrorKind::ConnectionAborted, "cut by the script");
                return Poll::Ready(Some(Err(cut)));
            }
        };
        if this.lines.len() == 0 {
            // With the last line the simulator has said all that it wanted to say.
            this.call.end();
        }
        let mut line = finish(&this.model, &this.catalogue, line).to_string();
        line.push('\n');
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(line)))))
    }
}
