//! Inference: one gate per model server, and the choice among them.
//!
//! InferenceSupervisor (one-for-one) → one [`GateActor`] per server. It probes its server, ends pauses and tells waiting turns
//! their new places; slots and line are the [`gate::Gate`]'s, which outlives it.
//!
//! Parent: root. Ports: ChatModel.
//!
//! Invariants: a slot is held exactly as long as its permit lives; a turn is in at most one line; a turn that was
//! acknowledged is never refused a place.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use metrics::{counter, histogram};
use parking_lot::RwLock;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::{
    domain::{
        bot::BotConfig,
        ids::TurnId,
        problem::{Code, Problem},
        turn::QueuePlace,
    },
    metrics::{CONTEXT_ESTIMATE_ERROR, REFUSALS},
    ports::chat_model::ModelError,
};

mod actor;
mod away;
mod blocked;
pub mod breaker;
mod catalogue;
pub(crate) mod gate;
pub mod outlook;
pub mod pauses;
mod preference;
pub mod queue;
pub mod routing;
mod servers;
pub mod service_times;
pub mod slots;
pub(crate) mod tokens;

pub(crate) use actor::{GateActor, GateArgs, GateMessage, probe, probe_within};
pub(crate) use away::Room;
use away::{Away, Stand, Stay};
pub(crate) use catalogue::Known;
use catalogue::Unshown;
pub use gate::ServerSpec;
pub(crate) use gate::{Claim, Comes, Gate, SlotPermit, Want, is_near};
pub(crate) use preference::Preference;
use queue::Class;
use routing::{ModelAt, ServerView};
pub(crate) use servers::{GateHouse, Gates};
use tokens::{Counted, Estimates, Estimator};

/// When to come back where as many wait for a server to answer as may, in seconds.
const AWAY_RETRY_S: u32 = 5;
/// Generations for nobody in particular that may run or wait at a time: the lines are for turns.
const BACKGROUND: usize = 8;

/// Limits of inference.
#[derive(Debug, Clone, Copy)]
pub struct InferenceLimits {
    /// Turns that may wait for one server.
    pub queue_limit: usize,
    /// How long a turn waits while no server can be asked. Bounds the pauses of servers and models, too.
    pub offline_wait: Duration,
    /// How long a turn waits in the lines of servers at most, all its waits together; none where it may wait for ever. Waits
    /// for any server to answer have a bound of their own.
    pub queue_wait: Option<Duration>,
}

impl Default for InferenceLimits {
    fn default() -> Self {
        Self { queue_limit: 512, offline_wait: Duration::from_secs(30), queue_wait: None }
    }
}

/// All gates. Shared; outlives the actors.
#[derive(Debug, Clone)]
pub(crate) struct Inference {
    gates: Arc<RwLock<Gates>>,
    changed: watch::Sender<u64>,
    limits: InferenceLimits,
    /// The turns that wait for a server to come back.
    away: Away,
    /// What is known of the tokens of each model.
    estimates: Estimates,
    /// Models whose details could not be had lately.
    unshown: Unshown,
    /// One permit for each generation that may run beside the turns.
    background: Arc<Semaphore>,
    /// Set when the process ends: what has not begun stays in the line, for the next start.
    closed: Arc<AtomicBool>,
}

impl Inference {
    pub fn new(servers: Vec<ServerSpec>, limits: InferenceLimits) -> Self {
        let changed = watch::Sender::new(0);
        let gates = servers.into_iter().map(|s| Arc::new(Gate::new(s, limits, changed.clone()))).collect();
        Self {
            gates: Arc::new(RwLock::new(gates)),
            changed,
            limits,
            away: Away::default(),
            estimates: Estimates::default(),
            unshown: Unshown::default(),
            background: Arc::new(Semaphore::new(BACKGROUND)),
            closed: Arc::default(),
        }
    }

    /// The server for a turn with this model ([`routing::choose`]), those in `tried` left out. Where no server lists the
    /// model, a real one that answers, whose refusal then names the reason. `None` while none can be asked.
    pub fn route(&self, model: &str, tried: &[String]) -> Option<Arc<Gate>> {
        let (now, gates) = (gate::now(), self.gates());
        let known = !tried.is_empty() || gates.iter().any(|g| g.knows(model));
        let comes_into_question = |(gate, view): &(&Arc<Gate>, ServerView<'_>)| match view.model {
            ModelAt::Loaded | ModelAt::Present => true,
            ModelAt::Absent => !known && !gate.spec.simulated,
        };
        let views = gates.iter().map(|g| (g, g.view(model, now))).filter(comes_into_question);
        let mut views: Vec<_> = views.map(|(_, view)| view).collect();
        let named = |name: &str| gates.iter().find(|g| g.spec.name == name);
        if let Some(name) = routing::choose(&views, tried) {
            return named(name).cloned();
        }
        // Nobody is let through now, but behind one who is on trial one can stand in line.
        views.iter_mut().for_each(|view| view.admits = named(view.name).is_some_and(|g| g.takes(model)));
        named(routing::choose(&views, tried)?).cloned()
    }

    /// Sends as many of those who wait at a server elsewhere as would begin there at once: one that answers slowly, or hangs
    /// and is not known to, must not keep turns waiting that another has a free slot for.
    pub fn relieve(&self, here: &Arc<Gate>) {
        let gates = self.gates();
        let mut free: Vec<(&str, u32)> = gates.iter().map(|g| (g.spec.name.as_str(), g.free())).collect();
        if free.iter().all(|(_, slots)| *slots == 0) {
            return;
        }
        for (turn, model, tried) in here.line() {
            let Some(better) = self.route(&model, &tried).filter(|g| !Arc::ptr_eq(g, here)) else { continue };
            let room = free.iter_mut().find(|(name, slots)| *name == better.spec.name && *slots > 0);
            if let Some((_, slots)) = room {
                *slots -= 1;
                here.dismiss(turn);
            }
        }
    }

    /// Whether a server that this turn has not tried has the model and takes turns.
    pub fn has_another(&self, model: &str, tried: &[String]) -> bool {
        self.gates().iter().any(|g| g.offers(model) && !tried.contains(&g.spec.name))
    }

    /// True where some server that answers lists the model.
    pub fn has(&self, model: &str) -> bool {
        self.gates().iter().any(|g| g.serves(model))
    }

    /// The first of these models that a server has which takes turns now; else the first.
    pub fn choose<'a>(&self, model: &'a str, fallback: &'a [String]) -> &'a str {
        std::iter::once(model)
            .chain(fallback.iter().map(String::as_str))
            .find(|m| self.gates().iter().any(|g| g.offers(m)))
            .unwrap_or(model)
    }

    /// The model that a turn of a bot with this configuration is for now.
    pub fn model_for(&self, config: &BotConfig) -> String {
        match config.model.as_str() {
            "" => self.any_model().unwrap_or_default(),
            named => self.choose(named, &config.fallback).to_owned(),
        }
    }

    /// The first model that any server offers and that is not known to be unable to chat, a real one before a simulated one.
    pub fn any_model(&self) -> Option<String> {
        let first = |simulated| {
            let gates = self.gates();
            let mut up = gates.iter().filter(|g| g.is_up() && g.spec.simulated == simulated);
            up.find_map(|g| g.first_that_chats())
        };
        first(false).or_else(|| first(true))
    }

    /// A slot for this turn at once, if one is free and nobody waits.
    pub fn try_acquire(&self, turn: TurnId, model: &str) -> Option<SlotPermit> {
        if self.closed.load(Ordering::Acquire) {
            return None;
        }
        let seen = *self.changed.borrow();
        self.let_in(seen);
        self.route(model, &[])?.try_acquire(turn, model)
    }

    /// Room in a line for a message that is not stored yet.
    ///
    /// # Errors
    /// `inference_queue_full`: so many wait for the server that it would go to, or for any server to come back.
    pub fn reserve(&self, model: &str, comes: Comes) -> Result<Claim, Problem> {
        if let Some(gate) = self.route(model, &[]) {
            return gate.reserve(model, comes).map(Claim::Reserved).inspect_err(refused);
        }
        self.away.reserve(self.limits.queue_limit, comes).map(Claim::Away).ok_or_else(|| {
            let waiting = format!(
                "{} turns wait for a model server to answer. This message was not stored; send it again later.",
                self.limits.queue_limit
            );
            Problem::new(Code::InferenceQueueFull, waiting).retry_after(AWAY_RETRY_S)
        }).inspect_err(refused)
    }

    /// Leave for a generation that is no turn; none while there are enough.
    pub fn background(&self) -> Option<OwnedSemaphorePermit> {
        self.background.clone().try_acquire_owned().ok()
    }

    /// Whether the process is ending.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Lets nobody in any more; those who wait go on waiting.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Place of a waiting turn.
    pub fn place(&self, turn: TurnId) -> Option<QueuePlace> {
        self.gates().iter().find_map(|g| g.place(turn)).or_else(|| self.away.place(turn))
    }

    /// Place that a new turn would get.
    pub fn next_place(&self, want: &Want) -> QueuePlace {
        self.route(&want.model, &[]).map_or_else(
            || QueuePlace {
                offline: Some(away::offline(self.limits.offline_wait)),
                ..QueuePlace::new(self.away.next_position(), None)
            },
            |g| g.next_place(want),
        )
    }

    /// Places of turns that wait behind the `running` one of their conversation, in their order. Their waits are what goes before
    /// them there, and the line of the server that the next one would go to now; which one it will be is not known.
    pub fn places_behind(&self, running: TurnId, waiting: &[&Want]) -> Vec<QueuePlace> {
        let gate = waiting.first().and_then(|next| self.route(&next.model, &[]));
        let waits = gate.map_or_else(
            || vec![None; waiting.len()],
            |gate| gate.waits_behind(self.gates().iter().find_map(|g| g.end_of(running)), waiting),
        );
        (1..).zip(waits).map(|(position, wait)| QueuePlace::new(position, wait)).collect()
    }

    /// The first of the models that a server takes turns for which it did not fail, and that server. Where there is none, what is
    /// to be said of the preferred one ([`Self::route`]); one without a name stands for the first that any server offers.
    fn way(&self, preference: &Preference) -> Option<(Arc<Gate>, String)> {
        let models = preference.models();
        let open = models.iter().find(|m| self.has_another(m, &preference.tried(m)));
        let model = match open.or_else(|| models.first())?.as_str() {
            "" => self.any_model()?,
            named => named.to_owned(),
        };
        Some((self.route(&model, &preference.tried(&model))?, model))
    }

    /// Whether some model of these can be had at a server that did not fail with it.
    pub fn has_way(&self, preference: &Preference) -> bool {
        preference.models().iter().any(|m| self.has_another(m, &preference.tried(m)))
    }

    /// Waits for a slot of a server that has the first of the models that can be had ([`Self::way`]); the permit says which. Moves
    /// on to another server where the one that it waits for takes nobody any more. `told` hears of a wait for any server, and
    /// of one in a server's line where nobody was told yet that it waits.
    ///
    /// # Errors
    /// `ollama_offline` after `offline_wait` without any server, `inference_queue_timeout` after `queue_wait` in line (of all
    /// servers together, and with what it had waited before).
    pub async fn acquire(
        &self,
        want: &Want,
        preference: &Preference,
        mut claim: Claim,
        told: impl Fn(QueuePlace),
    ) -> Result<SlotPermit, Problem> {
        let mut want = want.clone();
        let mut changes = self.changed.subscribe();
        loop {
            let seen = *changes.borrow_and_update();
            // Who came before goes before.
            self.let_in(seen);
            let mut stand = match self.way(preference) {
                Some(way) => Stand::at(way, &want, preference, std::mem::take(&mut claim)),
                // Another occasion comes sooner than a server, for what is nobody's turn.
                None if want.class == Class::Background => return Err(self.in_vain(preference)),
                None => {
                    let claim = std::mem::take(&mut claim);
                    let mut stay = self.away.enter(&want, preference, claim, seen, self.limits.offline_wait);
                    want.told = Some(stay.place.clone());
                    told(stay.place.clone());
                    self.let_in_at(&mut changes, &mut stay)
                        .await
                        .ok_or_else(|| self.in_vain(preference))
                        .inspect_err(refused)?
                }
            };
            if want.told.is_none()
                && want.class != Class::Background
                && let Some(place) = stand.gate.place(want.turn)
            {
                want.told = Some(place.clone());
                told(place);
            }
            let permit = tokio::select! {
                permit = stand.ticket.permit() => permit,
                () = route_changed(self, &mut changes, &stand.gate, &stand.model) => None,
            };
            want.waited += stand.ticket.held_for();
            if let Some(mut permit) = permit {
                permit.waited = want.waited;
                if self.closed.load(Ordering::Acquire) {
                    std::future::pending::<()>().await;
                }
                return Ok(permit);
            }
            if stand.ticket.is_over() {
                return Err(self.too_long(&stand.gate.spec.name)).inspect_err(refused);
            }
        }
    }

    /// Has everybody who waits for any server stand in the line of one that takes him now.
    fn let_in(&self, seen: u64) {
        self.away.let_in(seen, |preference| self.way(preference));
    }

    /// Waits until a server takes one who waits for any; `None` where that took too long.
    async fn let_in_at(&self, changes: &mut watch::Receiver<u64>, stay: &mut Stay) -> Option<Stand> {
        let looks = async {
            while changes.changed().await.is_ok() {
                // Not as an argument: the value is locked as long as it is borrowed, and whoever is let in changes it.
                let seen = *changes.borrow_and_update();
                self.let_in(seen);
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            stand = &mut stay.stands => stand.ok(),
            () = looks => None,
            () = tokio::time::sleep_until(stay.until) => None,
        }
    }

    /// How to estimate tokens for the prompts of a bot with this model.
    pub fn estimator(&self, model: &str, config: &BotConfig) -> Estimator {
        self.estimates.of(model, !config.tools.is_empty(), || self.family(model))
    }

    fn family(&self, model: &str) -> String {
        self.gates().iter().find_map(|g| g.family(model)).unwrap_or_default()
    }

    /// Whether it can be the count of a whole prompt of this bot.
    pub fn believes(&self, model: &str, config: &BotConfig, counted: Counted) -> bool {
        self.estimator(model, config).believes(counted)
    }

    /// A server counted the tokens of a prompt without images that was estimated before: learns from that.
    pub fn counted(&self, model: &str, config: &BotConfig, counted: Counted, estimated: u32) {
        if counted.tokens > 0 {
            let off = f64::from(estimated.abs_diff(counted.tokens)) / f64::from(counted.tokens);
            histogram!(CONTEXT_ESTIMATE_ERROR.name).record(off);
            self.estimates.learn(model, !config.tools.is_empty(), counted);
        }
    }
}

/// Counts what is answered to one whom inference does not take.
fn refused(problem: &Problem) {
    counter!(REFUSALS.name, "code" => problem.code.as_str()).increment(1);
}

/// Resolves once there is a better way than waiting here: the server takes nobody any more, or another one came up with the
/// model that this one lacks.
async fn route_changed(inference: &Inference, changes: &mut watch::Receiver<u64>, here: &Gate, model: &str) {
    loop {
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        if !here.takes(model) || (!here.serves(model) && inference.has(model)) {
            return;
        }
    }
}

/// A model server's error, as a turn fails with it.
pub(crate) fn model_problem(error: &ModelError, model: &str, server: &str) -> Problem {
    match error {
        ModelError::Unreachable(_) => {
            Problem::new(Code::OllamaOffline, format!("{server} can't be reached. Is Ollama running?"))
        }
        ModelError::ModelNotFound(_) => Problem::new(
            Code::ModelNotFound,
            format!("{server} has no model {model}. Pull it there, or choose another model."),
        ),
        ModelError::Busy(_) => {
            Problem::new(Code::UpstreamError, format!("{server} stayed busy and took no work."))
        }
        ModelError::ContextExceeded(_) => Problem::new(
            Code::PromptTooLong,
            "The message does not fit the context of the model. Shorten it or raise num_ctx.",
        ),
        ModelError::Refused { message, .. } if message.contains("does not support") => {
            Problem::new(Code::ModelCapability, format!("{model} can't do this: {message}"))
        }
        ModelError::Refused { status, message } => {
            Problem::new(Code::UpstreamError, format!("{server} refused the request ({status}): {message}"))
        }
        ModelError::Failed(message) => {
            Problem::new(Code::UpstreamError, format!("{server} failed: {message}."))
        }
        ModelError::DiskFull => Problem::new(
            Code::ServerDiskFull,
            format!(
                "The disk of {server} has no room for {model}. Delete models there that nobody needs, then try again."
            ),
        ),
        ModelError::Cut => Problem::new(
            Code::UpstreamError,
            format!("{server} closed the connection before the answer was whole."),
        ),
        ModelError::Timeout(wait) => {
            let what = match wait {
                crate::ports::chat_model::Wait::FirstByte => "did not begin to answer in time",
                crate::ports::chat_model::Wait::Idle => "stopped in the middle of the answer",
            };
            Problem::new(Code::UpstreamTimeout, format!("{server} {what}."))
        }
        ModelError::Protocol(reason) => Problem::new(
            Code::UpstreamError,
            format!("{server} answered something that is not its protocol ({reason})."),
        ),
    }
}

#[cfg(test)]
mod tests;
