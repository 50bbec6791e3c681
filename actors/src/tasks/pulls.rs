//! Pulls of models: which run, which ended lately, and who watches them. Shared memory that outlives [`PullActor`], so
//! that a crash of it loses neither a pull nor a watcher.

mod actor;
mod meter;
mod run;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(crate) use self::actor::{PullActor, PullArgs, PullMessage};
use crate::{
    domain::{
        bot::AuditEntry,
        ids::PullId,
        model_name::ModelName,
        problem::{Code, Problem},
        pull::{Pull, PullProgress, PullState},
        time::Timestamp,
    },
    inference::Gate,
};

/// Pulls that run at once to one server: they share its line and its disk.
const PER_SERVER: usize = 3;
/// Ended pulls that are still listed.
const ENDED: usize = 50;
/// How long they are.
const ENDED_FOR: Duration = Duration::from_hours(1);

/// All pulls, the oldest first. Shared.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pulls(Arc<Mutex<VecDeque<Arc<PullTask>>>>);

/// One pull.
#[derive(Debug)]
pub(crate) struct PullTask {
    id: PullId,
    name: ModelName,
    gate: Arc<Gate>,
    /// Written when it is begun.
    audit: AuditEntry,
    view: watch::Sender<Pull>,
    /// Somebody ended it.
    cancelled: CancellationToken,
    /// Held by the one task that carries it out.
    at_work: tokio::sync::Mutex<()>,
}

impl Pulls {
    /// The pull of this model to this server: the one that runs, or a new one. True where it is new.
    ///
    /// # Errors
    /// `too_many_pulls`.
    pub fn join(
        &self,
        name: &ModelName,
        gate: &Arc<Gate>,
        audit: AuditEntry,
    ) -> Result<(Arc<PullTask>, bool), Problem> {
        let mut all = self.0.lock();
        forget(&mut all, Timestamp::now());
        let server = gate.spec.name.as_str();
        // Not by name: another server may have it by now.
        let here = || all.iter().filter(|p| p.runs() && Arc::ptr_eq(&p.gate, gate));
        if let Some(pull) = here().find(|p| p.name == *name) {
            return Ok((pull.clone(), false));
        }
        if here().count() >= PER_SERVER {
            let detail = format!(
                "{PER_SERVER} models are being pulled to {server}. Wait for one of them or cancel it (GET /api/models/pulls)."
            );
            let soonest = here().filter_map(|p| p.view.borrow().progress.eta_s).min().unwrap_or(30);
            let wait = u32::try_from(soonest).unwrap_or(u32::MAX).clamp(1, 3600);
            return Err(Problem::new(Code::TooManyPulls, detail).retry_after(wait));
        }
        let pull = Arc::new(PullTask::new(name.clone(), gate.clone(), audit));
        all.push_back(pull.clone());
        Ok((pull, true))
    }

    /// The pull with this id.
    pub fn get(&self, id: PullId) -> Option<Arc<PullTask>> {
        self.0.lock().iter().find(|p| p.id == id).cloned()
    }

    /// All that run, and those that ended lately; the newest first.
    pub fn list(&self) -> Vec<Pull> {
        let mut all = self.0.lock();
        forget(&mut all, Timestamp::now());
        all.iter().rev().map(|p| p.shown()).collect()
    }

    fn running(&self) -> Vec<Arc<PullTask>> {
        self.0.lock().iter().filter(|p| p.runs()).cloned().collect()
    }

    /// The process ends: so does every pull.
    pub fn close(&self) {
        for pull in self.running() {
            let detail = "The service ended before the pull did. Pull the model again when it is back: it goes on where it stopped.";
            pull.end(PullState::Failed, Some(Problem::new(Code::ShuttingDown, detail)));
        }
    }
}

/// Forgets what ended long ago.
fn forget(all: &mut VecDeque<Arc<PullTask>>, now: Timestamp) {
    let old = |p: &Arc<PullTask>| p.view.borrow().ended_at.is_some_and(|at| now.since(at) > ENDED_FOR);
    all.retain(|p| !old(p));
    let mut surplus = all.iter().filter(|p| !p.runs()).count().saturating_sub(ENDED);
    all.retain(|p| {
        let goes = surplus > 0 && !p.runs();
        surplus -= usize::from(goes);
        !goes
    });
}

impl PullTask {
    fn new(name: ModelName, gate: Arc<Gate>, audit: AuditEntry) -> Self {
        let id = PullId::new();
        let view = Pull {
            id,
            model: name.clone(),
            server: gate.spec.name.clone(),
            state: PullState::Running,
            progress: PullProgress { status: "starting".into(), ..PullProgress::default() },
            watchers: 0,
            error: None,
            began_at: Timestamp::now(),
            ended_at: None,
        };
        let view = watch::Sender::new(view);
        Self {
            id,
            name,
            gate,
            audit,
            view,
            cancelled: CancellationToken::new(),
            at_work: tokio::sync::Mutex::default(),
        }
    }

    fn runs(&self) -> bool {
        self.view.borrow().state == PullState::Running
    }

    /// As it is now.
    pub fn shown(&self) -> Pull {
        let watchers = u32::try_from(self.view.receiver_count()).unwrap_or(u32::MAX);
        Pull { watchers, ..self.view.borrow().clone() }
    }

    /// Watches it from now on.
    pub fn watch(&self) -> PullWatch {
        let mut view = self.view.subscribe();
        view.mark_changed();
        PullWatch { id: self.id, view, over: false }
    }

    /// Asks it to end; what is there of the model stays on the server for another pull.
    pub fn cancel(&self) {
        self.cancelled.cancel();
    }

    fn progress(&self, progress: PullProgress) {
        self.view.send_if_modified(|pull| {
            let news = pull.state == PullState::Running && pull.progress != progress;
            if news {
                pull.progress = progress;
            }
            news
        });
    }

    /// The one end of a pull: the first wins.
    fn end(&self, state: PullState, error: Option<Problem>) {
        self.view.send_if_modified(|pull| {
            let first = pull.state == PullState::Running;
            if first {
                (pull.state, pull.error, pull.ended_at) = (state, error, Some(Timestamp::now()));
                (pull.progress.rate_bytes_s, pull.progress.eta_s) = (None, None);
            }
            first
        });
    }
}

/// Somebody who watches a pull. Dropping it leaves the pull alone.
#[derive(Debug)]
pub struct PullWatch {
    id: PullId,
    view: watch::Receiver<Pull>,
    over: bool,
}

impl PullWatch {
    /// The pull's id.
    #[must_use]
    pub fn id(&self) -> PullId {
        self.id
    }

    /// How it is now, at once, then each time that it changed; what changed several times meanwhile is told once. Its
    /// end is the last; none after it.
    pub async fn next(&mut self) -> Option<Pull> {
        if self.over || self.view.changed().await.is_err() {
            return None;
        }
        let pull = self.view.borrow_and_update().clone();
        self.over = pull.state != PullState::Running;
        Some(pull)
    }
}
