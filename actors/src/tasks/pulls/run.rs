//! Carrying a pull out: the server is asked, its steps become progress, its end becomes a fact.

use std::{sync::Arc, time::Instant};

use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;

use super::{PullTask, meter::Meter};
use crate::{
    domain::{
        event::{EventBody, NewEvent, Topic},
        problem::{Code, Problem},
        pull::PullState,
    },
    history::{History, storage_problem},
    inference::{model_problem, probe},
    ports::{
        chat_model::{ModelError, Wait},
        history_store::{Change, Fact},
    },
};

/// Carries it out until it ends, is cancelled, or `stop` says that its actor is gone: then it still runs, and the next
/// actor takes it up.
pub(super) async fn carry_out(pull: Arc<PullTask>, history: History, stop: CancellationToken) {
    // The successor of an actor may come before the work of the actor has ended.
    let _alone = tokio::select! {
        alone = pull.at_work.lock() => alone,
        () = stop.cancelled() => return,
    };
    if !pull.runs() {
        return;
    }
    let _guard = Unfinished { pull: &pull, stop: &stop };
    let (model, server) = (&pull.name, &pull.gate.spec.name);
    // What is dropped here has closed its connection before anybody is told of the end.
    let ended = tokio::select! {
        biased;
        () = pull.cancelled.cancelled() => None,
        () = stop.cancelled() => return,
        ended = fetch(&pull, &history) => Some(ended),
    };
    match ended {
        None => {
            tracing::info!(%model, server, "pull cancelled");
            pull.end(PullState::Cancelled, None);
        }
        Some(Ok(())) => {
            tracing::info!(%model, server, "model pulled");
            pull.end(PullState::Done, None);
        }
        Some(Err(problem)) => {
            tracing::warn!(%model, server, code = %problem.code, "a pull failed");
            pull.end(PullState::Failed, Some(problem));
        }
    }
}

/// Ends a pull whose task was ended by a defect.
struct Unfinished<'a> {
    pull: &'a PullTask,
    stop: &'a CancellationToken,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.stop.is_cancelled() {
            let detail = "An internal fault ended the pull; the log has more. Pull the model again: it goes on where it stopped.";
            self.pull.end(PullState::Failed, Some(Problem::new(Code::Internal, detail)));
        }
    }
}

async fn fetch(pull: &PullTask, history: &History) -> Result<(), Problem> {
    let (name, gate) = (pull.name.to_string(), &pull.gate);
    let began = Instant::now();
    // Nothing is pulled that is not in the audit log.
    let audit = Some(pull.audit.clone());
    history.append(Fact { change: Change::None, events: vec![], audit }).await?;
    let told = |error: &ModelError| pull_problem(error, &name, &gate.spec.name);
    let mut steps = gate.spec.model.pull(&name).await.map_err(|e| told(&e))?;
    let mut meter = Meter::default();
    while let Some(step) = steps.next().await {
        let step = step.map_err(|e| told(&e))?;
        pull.progress(meter.take(began.elapsed(), &step));
    }
    // Whoever is told finds the model in the lists.
    gate.pulled();
    probe(gate).await;
    let body = EventBody::ModelPulled {
        model: pull.name.clone(),
        server: gate.spec.name.clone(),
        took_ms: began.elapsed().as_secs_f64() * 1e3,
    };
    let fact = Fact::new(Change::None, vec![NewEvent::new(vec![Topic::Models], &body)]);
    history.persist(history.submit(fact)).await.map(drop).map_err(|e| storage_problem(&e))
}

/// A model server's error, as a pull fails with it.
fn pull_problem(error: &ModelError, model: &str, server: &str) -> Problem {
    const AGAIN: &str = "Pull it again: it goes on where it stopped.";
    let upstream = |detail| Problem::new(Code::UpstreamError, detail);
    match error {
        ModelError::ModelNotFound(_) => Problem::new(
            Code::ModelNotInRegistry,
            format!(
                "The registry has no model {model}. Check name and tag; Ollama's own models are listed at https://ollama.com/library."
            ),
        ),
        ModelError::Failed(words) => upstream(format!(
            "{server} could not pull {model}: {words}. Check its connection to the registry. {AGAIN}"
        )),
        ModelError::Refused { status, message } => {
            upstream(format!("{server} refused to pull {model} ({status}): {message}"))
        }
        ModelError::Cut => upstream(format!("{server} broke off the pull of {model}. {AGAIN}")),
        ModelError::Timeout(wait) => {
            let what = match wait {
                Wait::FirstByte => "did not begin to pull",
                Wait::Idle => "fell silent while it pulled",
            };
            Problem::new(
                Code::UpstreamTimeout,
                format!("{server} {what} {model}. Look at the server. {AGAIN}"),
            )
        }
        ModelError::Unreachable(_)
        | ModelError::Busy(_)
        | ModelError::ContextExceeded(_)
        | ModelError::DiskFull
        | ModelError::Protocol(_) => model_problem(error, model, server),
    }
}
