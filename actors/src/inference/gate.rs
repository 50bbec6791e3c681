//! The gate in front of one model server: `slots` turns at once, the others in a fair, bounded line ([`super::queue`]). A
//! permit is a slot; dropping it lets the next one in. Kept apart from the actor that probes the server, so that a crash of
//! that actor takes no slot and no place in the line.
//!
//! A slot is handed out while the server is up, the breaker lets somebody through, fewer turns run than the adaptive slots
//! allow, and no pause after a 503 is on. Every change of the state looks for somebody to let in ([`Gate::with`]); what
//! needs time (the end of a pause) is a timer of the actor.

use std::{
    collections::HashMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use metrics::gauge;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};

use super::{
    breaker::{Breaker, BreakerRules, BreakerState, Verdict},
    pauses::ModelPauses,
    queue::{FairQueue, Request},
    service_times::ServiceTimes,
    slots::AdaptiveSlots,
};
use crate::{
    domain::{
        ids::{BotId, ConversationId, TurnId},
        model::ServerState,
        problem::Problem,
        time::Timestamp,
        turn::QueuePlace,
    },
    inference::queue::Class,
    metrics::{QUEUE_DEPTH, SLOTS_BUSY},
    ports::chat_model::{ChatModel, LoadedModel, ModelDetails, ModelError, ModelSummary},
    supervision::{ActorSlot, tidy_reason},
};

mod permit;
#[cfg(test)]
mod tests;
mod views;

pub(crate) use permit::{Claim, SlotPermit, Ticket};
use permit::{PutBack, Reserved};
pub(in crate::inference) use views::count;

/// The first pause after a 503, before jitter, and the longest; doubled by each 503 until a turn goes well.
const HOLD: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// A model that was in memory is reported as loaded within less than this.
const LOADED_WITHIN: Duration = Duration::from_millis(250);

/// A model server to run turns on.
#[derive(Clone)]
pub struct ServerSpec {
    /// Unique name.
    pub name: String,
    /// Base URL, for display.
    pub url: String,
    /// Turns that may run at once.
    pub slots: u32,
    /// True for the built-in scripted server.
    pub simulated: bool,
    /// The server itself.
    pub model: Arc<dyn ChatModel>,
}

impl fmt::Debug for ServerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerSpec")
            .field("name", &self.name)
            .field("slots", &self.slots)
            .finish_non_exhaustive()
    }
}

/// What a turn wants of a server.
#[derive(Debug, Clone)]
pub(crate) struct Want {
    pub turn: TurnId,
    pub conversation: ConversationId,
    pub bot: BotId,
    pub class: Class,
    pub model: String,
    /// Estimated tokens of prompt and answer.
    pub cost: u32,
    /// The place that was told last.
    pub told: Option<QueuePlace>,
}

impl Want {
    /// Bots weigh the same; inside a bot its conversations share alike. An acknowledged turn has no deadline.
    fn request<T>(&self, payload: T) -> Request<T> {
        Request {
            turn: self.turn,
            class: self.class,
            bot: self.bot.clone(),
            weight: 1,
            user: self.conversation.to_string().into(),
            cost: self.cost,
            deadline: None,
            payload,
        }
    }
}

struct Waiter {
    /// Whose readers are told its places; none for what is no turn.
    conversation: Option<ConversationId>,
    model: String,
    permit: oneshot::Sender<SlotPermit>,
    told: Option<QueuePlace>,
}

struct State {
    up: bool,
    /// Takes no new turns; what runs goes on.
    draining: bool,
    /// Its server was removed: it takes no new turns ever again.
    retired: bool,
    since: Timestamp,
    version: Option<String>,
    latency: Option<Duration>,
    models: Vec<ModelSummary>,
    loaded: Vec<LoadedModel>,
    details: HashMap<String, Arc<ModelDetails>>,
    refreshed: Option<Instant>,
    /// When a turn was answered last.
    answered: Option<Instant>,
    busy: u32,
    /// Turns that were let in while their acceptance is stored; they come to the line in a moment.
    coming: usize,
    line: FairQueue<Waiter>,
    /// The line changed since its places were told.
    moved: bool,
    slots: AdaptiveSlots,
    breaker: Breaker,
    pauses: ModelPauses,
    /// Why the last probe failed, and when the next one is due, while the server is down.
    silence: (Option<Arc<str>>, Option<Instant>),
    times: ServiceTimes,
    /// Since a 503 nobody is sent before this.
    held_until: Option<Instant>,
    /// 503s since a turn went well.
    holds: u32,
}

/// The gate of one server.
pub(crate) struct Gate {
    pub spec: ServerSpec,
    gauges: Gauges,
    /// Where its actor is.
    pub actor: ActorSlot<super::GateMessage>,
    limit: usize,
    state: Mutex<State>,
    /// Told when somebody had to stand in line.
    stood: Notify,
    /// Raised whenever the gate takes turns that it did not take before, or no longer takes any; turns that wait look again.
    changed: watch::Sender<u64>,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("name", &self.spec.name).finish_non_exhaustive()
    }
}

/// What metrics tell of a gate.
struct Gauges {
    waiting: metrics::Gauge,
    busy: metrics::Gauge,
}

impl Gauges {
    fn of(server: &str) -> Self {
        let gauge = |name| gauge!(name, "server" => server.to_owned());
        Self { waiting: gauge(QUEUE_DEPTH.name), busy: gauge(SLOTS_BUSY.name) }
    }

    fn show(&self, state: &State) {
        self.waiting.set(f64::from(count(state.line.len())));
        self.busy.set(state.busy);
    }
}

/// What a probe found.
#[derive(Debug)]
pub(crate) struct ProbeResult {
    pub version: String,
    pub latency: Duration,
    pub models: Vec<ModelSummary>,
    pub loaded: Vec<LoadedModel>,
}

/// The clock of all gates; a test may stop it.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Gate {
    pub fn new(spec: ServerSpec, limit: usize, changed: watch::Sender<u64>) -> Self {
        let state = State {
            up: false,
            draining: false,
            retired: false,
            since: Timestamp::now(),
            version: None,
            latency: None,
            models: vec![],
            loaded: vec![],
            details: HashMap::new(),
            refreshed: None,
            answered: None,
            busy: 0,
            coming: 0,
            // The limit is for those who come anew (`reserve`); who was acknowledged always finds a place.
            line: FairQueue::new(usize::MAX),
            moved: false,
            slots: AdaptiveSlots::new(spec.slots),
            breaker: Breaker::new(BreakerRules::DEFAULT),
            pauses: ModelPauses::default(),
            silence: (None, None),
            times: ServiceTimes::default(),
            held_until: None,
            holds: 0,
        };
        let gauges = Gauges::of(&spec.name);
        let (actor, state) = (ActorSlot::new(), Mutex::new(state));
        Self { spec, gauges, actor, limit, state, stood: Notify::new(), changed }
    }

    /// Changes the state, lets in whom the change made room for, and tells who waits elsewhere, and the actor.
    fn with<R>(self: &Arc<Self>, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.lock();
        let before = state.standing();
        let result = change(&mut state);
        self.dispatch(&mut state);
        let after = state.standing();
        self.gauges.show(&state);
        drop(state);
        if (before.0, before.1) != (after.0, after.1) {
            self.changed.send_modify(|n| *n += 1);
        }
        if before != after
            && let Some(actor) = self.actor.get()
        {
            // An actor that is being started looks by itself.
            let _ = actor.cast(super::GateMessage::Turned);
        }
        result
    }

    fn dispatch(self: &Arc<Self>, state: &mut State) {
        while !state.line.is_empty() && state.has_room(now()) {
            let Some(pass) = state.breaker.admit(now()) else { return };
            let Some((request, popped)) = state.line.pop() else { return };
            let Waiter { model, permit, .. } = request.payload;
            state.busy += 1;
            state.moved = true;
            if let Err(mut unused) = permit.send(SlotPermit::new(self.clone(), model, pass, popped)) {
                // Nobody waits there any more: undone here, as its own end would wait for this lock.
                unused.disarm();
                state.busy -= 1;
                state.breaker.verdict(pass, Verdict::Unclear, "", now(), 0.0);
            }
        }
    }

    /// A slot, if one is free and nobody waits.
    pub fn try_acquire(self: &Arc<Self>, model: &str) -> Option<SlotPermit> {
        self.with(|state| {
            if !state.line.is_empty() || !state.has_room(now()) {
                return None;
            }
            let pass = state.breaker.admit(now())?;
            state.busy += 1;
            Some(SlotPermit::new(self.clone(), model.to_owned(), pass, state.line.passed_by()))
        })
    }

    /// A place in the line for a turn that is not stored yet.
    ///
    /// # Errors
    /// `inference_queue_full`.
    pub fn reserve(self: &Arc<Self>, model: &str) -> Result<Reserved, Problem> {
        let mut state = self.state.lock();
        if state.line.len() + state.coming >= self.limit {
            return Err(self.full(&state, model));
        }
        state.coming += 1;
        drop(state);
        Ok(Reserved::new(self.clone()))
    }

    /// Stands in the line, above its limit if need be: whoever comes here was acknowledged. A slot that is free is handed
    /// over at once.
    pub fn enqueue(self: &Arc<Self>, want: &Want, claim: Claim) -> Ticket {
        let (permit, receiver) = oneshot::channel();
        let conversation = (want.class != Class::Background).then_some(want.conversation);
        let waiter = Waiter { conversation, model: want.model.clone(), permit, told: want.told };
        let request = want.request(waiter);
        let stands = self.with(|state| {
            state.moved = true;
            let refused = match &claim {
                Claim::Back(PutBack { gate, popped }) if Arc::ptr_eq(gate, self) => {
                    state.line.put_back(request, *popped)
                }
                Claim::Back(_) | Claim::Reserved(_) | Claim::Nothing => state.line.push(request),
            };
            refused.is_ok()
        });
        if !stands {
            tracing::error!(turn.id = %want.turn, server.name = %self.spec.name, "a turn stands in a line twice; this is a defect");
        }
        self.stood.notify_waiters();
        Ticket::new(self.clone(), want.turn, receiver)
    }

    /// Resolves once a turn waits here: who works in the background gives way to it.
    pub async fn wanted(&self) {
        loop {
            // Listened for before the look, so that nobody comes in between unnoticed.
            let mut stood = std::pin::pin!(self.stood.notified());
            stood.as_mut().enable();
            if self.state.lock().line.iter().any(|request| request.class != Class::Background) {
                return;
            }
            stood.await;
        }
    }

    /// Sends one who waits elsewhere: the place is lost, and whoever holds the ticket looks for another one.
    pub fn dismiss(&self, turn: TurnId) {
        let mut state = self.state.lock();
        state.moved |= state.line.cancel(turn).is_some();
        self.gauges.show(&state);
    }

    /// A probe's result; `asked` says when it began.
    pub fn probed(self: &Arc<Self>, found: Result<ProbeResult, ModelError>, asked: Instant) {
        self.with(|state| {
            if found.is_err() && state.answered.is_some_and(|at| at > asked) {
                // Too busy with answers to answer a probe.
                return;
            }
            state.turn(found.is_ok());
            let found = match found {
                Ok(found) => found,
                Err(error) => {
                    state.silence.0 = Some(tidy_reason(&error.to_string()));
                    return state.loaded.clear();
                }
            };
            state.silence = (None, None);
            state.version = Some(found.version);
            state.latency = Some(found.latency);
            state.details.retain(|name, _| found.models.iter().any(|m| m.name == *name));
            state.models = found.models;
            state.loaded = found.loaded;
            state.refreshed = Some(now());
        });
    }

    /// Somebody looked after the server: what failed before counts no more.
    pub fn forgive(self: &Arc<Self>) {
        self.with(|state| {
            state.breaker.reset();
            state.pauses.forgive();
            (state.held_until, state.holds) = (None, 0);
        });
    }

    /// Takes no new turns any more, or takes them again. What runs goes on; who waits here moves on.
    pub fn drain(self: &Arc<Self>, draining: bool) {
        self.with(|state| {
            if std::mem::replace(&mut state.draining, draining) != draining {
                state.since = Timestamp::now();
            }
        });
    }

    /// Its server was removed: as if drained, for ever.
    pub fn retire(self: &Arc<Self>) {
        self.with(|state| state.retired = true);
        // One that was drained before stands as it stood; whoever waits for it to come back looks again all the same.
        self.changed.send_modify(|n| *n += 1);
    }

    /// A pause may be over: whoever waits here or elsewhere looks again.
    pub fn look(self: &Arc<Self>) {
        self.with(|_| ());
        self.changed.send_modify(|n| *n += 1);
    }

    /// The next probe is due in so long.
    pub fn probes_in(&self, pause: Duration) {
        self.state.lock().silence.1 = Some(now() + pause);
    }

    /// When to [`look`](Self::look) again.
    pub fn next_look(&self) -> Option<Instant> {
        let state = self.state.lock();
        let held = state.held_until.filter(|at| *at > now());
        held.into_iter().chain(state.breaker.retry_at()).chain(state.pauses.next_end(now())).min()
    }

    /// What came of a request, as far as it did not go well.
    fn failed(self: &Arc<Self>, permit: &SlotPermit, error: &ModelError) {
        self.with(|state| {
            match error {
                ModelError::Busy(_) => {
                    state.slots.busy(state.busy.saturating_sub(1));
                    state.hold();
                }
                ModelError::Unreachable(_) => {
                    state.turn(false);
                    state.silence.0 = Some(tidy_reason(&error.to_string()));
                    state.loaded.clear();
                }
                _ => {}
            }
            let verdict = state.blame(permit.model(), error);
            state.breaker.verdict(permit.pass(), verdict, &error.to_string(), now(), rand::random());
        });
    }
}

impl State {
    fn has_room(&self, now: Instant) -> bool {
        self.is_open() && self.busy < self.slots.now() && self.held_until.is_none_or(|at| now >= at)
    }

    fn is_open(&self) -> bool {
        self.up && !self.draining && !self.retired
    }

    /// What others have to hear of.
    fn standing(&self) -> (ServerState, u64, Option<Instant>) {
        (self.server_state(), self.breaker.turns() + self.pauses.turns(), self.held_until)
    }

    /// Whether a turn that waits here may hope: somebody is let through, or will be after the one who is on trial.
    fn takes(&self) -> bool {
        self.is_open() && (self.breaker.admits(now()) || self.breaker.state() == BreakerState::HalfOpen)
    }

    /// Whether a turn for this model may hope here.
    fn takes_for(&self, model: &str) -> bool {
        self.takes() && !self.pauses.is_paused(model, now())
    }

    /// What an error says about the server; what it says about the model is noted ([`super::pauses`]).
    fn blame(&mut self, model: &str, error: &ModelError) -> Verdict {
        let verdict = Verdict::of(error);
        if verdict != Verdict::Failed || matches!(error, ModelError::Unreachable(_)) || self.models.len() < 2
        {
            return verdict;
        }
        if self.pauses.failed(model, &error.to_string(), now(), rand::random()) {
            // Whoever waits here for this model looks for another way.
            for turn in self.line.positions() {
                if self.line.get(turn).is_some_and(|r| r.payload.model == model) {
                    self.moved |= self.line.cancel(turn).is_some();
                }
            }
        }
        // While a second model fails as well, it is the server.
        if self.pauses.failing() > 1 { Verdict::Failed } else { Verdict::Unclear }
    }

    fn turn(&mut self, up: bool) {
        if self.up != up {
            (self.up, self.since) = (up, Timestamp::now());
        }
    }

    /// Nobody is sent for a while. Turns that were turned away together count once.
    fn hold(&mut self) {
        let now = now();
        if self.held_until.is_none_or(|at| at <= now) {
            let pause = HOLD.0.saturating_mul(2u32.saturating_pow(self.holds)).min(HOLD.1);
            self.held_until = Some(now + pause.mul_f64(0.5 + rand::random::<f64>() / 2.0));
            self.holds = self.holds.saturating_add(1);
        }
    }

    fn server_state(&self) -> ServerState {
        match (self.up, self.draining || self.retired) {
            (false, _) => ServerState::Down,
            (true, true) => ServerState::Draining,
            (true, false) => ServerState::Up,
        }
    }

    fn is_loaded(&self, model: &str) -> bool {
        self.loaded.iter().any(|m| is_called(&m.name, model))
    }
}

/// Whether a listed name is meant by `model`, which may leave out `:latest`.
fn is_called(listed: &str, model: &str) -> bool {
    listed.strip_prefix(model).is_some_and(|rest| rest.is_empty() || rest == ":latest")
}
