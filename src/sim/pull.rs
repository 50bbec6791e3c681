//! `POST /api/pull`: progress as the real server reports it, about two seconds long, then the model is listed.

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

use super::catalogue::{Catalogue, digest};

const STEPS: u64 = 40;
const STEP_BYTES: u64 = 50_000_000;
const STEP: Duration = Duration::from_millis(50);

/// Names that begin so are not in the simulated registry, so that a failing pull can be tried.
const MISSING: [&str; 2] = ["nope", "missing"];

/// The script of a pull: what comes when, and whether the model is there in the end.
fn script(model: &str) -> Vec<(Duration, Value)> {
    let mut lines = vec![(Duration::ZERO, json!({"status": "pulling manifest"}))];
    if MISSING.iter().any(|prefix| model.starts_with(prefix)) {
        lines.push((STEP, json!({"error": "pull model manifest: file does not exist"})));
        return lines;
    }
    let digest = digest(model);
    let status = format!("pulling {}", &digest[..12]);
    let (digest, total) = (format!("sha256:{digest}"), STEPS * STEP_BYTES);
    lines.push((STEP, json!({"status": status, "digest": digest, "total": total})));
    for step in 1..=STEPS {
        let completed = step * STEP_BYTES;
        lines.push((
            STEP,
            json!({"status": status, "digest": digest, "total": total, "completed": completed}),
        ));
    }
    for status in ["verifying sha256 digest", "writing manifest", "success"] {
        lines.push((STEP, json!({ "status": status })));
    }
    lines
}

/// Runs a pull to its end and answers with its last line.
pub(crate) async fn pull_whole(model: &str, catalogue: &Catalogue) -> Value {
    let mut last = Value::Null;
    for (wait, line) in script(model) {
        tokio::time::sleep(wait).await;
        last = line;
    }
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
    lines: std::vec::IntoIter<(Duration, Value)>,
    next: Option<(Pin<Box<Sleep>>, Value)>,
}

impl PullBody {
    pub(crate) fn new(model: &str, catalogue: Arc<Catalogue>) -> Self {
        Self { model: model.to_owned(), catalogue, lines: script(model).into_iter(), next: None }
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
            let Some((wait, line)) = this.lines.next() else { return Poll::Ready(None) };
            this.next = Some((Box::pin(tokio::time::sleep_until(Instant::now() + wait)), line));
        }
        if let Some((sleep, _)) = &mut this.next {
            std::task::ready!(sleep.as_mut().poll(cx));
        }
        let line = this.next.take().map(|(_, line)| line).unwrap_or_default();
        let mut line = finish(&this.model, &this.catalogue, line).to_string();
        line.push('\n');
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(line)))))
    }
}
