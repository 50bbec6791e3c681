//! The gate in front of one model server: `slots` turns at once, the others in a fair, bounded line ([`super::queue`]). A
//! permit is a slot; dropping it lets the next one in. Kept apart from the actor that probes the server, so that a crash of
//! that actor takes no slot and no place in the line.
//!
//! A slot is handed out while the server is up, the breaker lets somebody through, fewer turns run than the adaptive slots
//! allow, and no pause after a 503 is on. Every change of the state looks for somebody to let in ([`Gate::with`]); what
//! needs time (the end of a pause) is a timer of the actor.

use std::{
    collections::HashSet,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use metrics::gauge;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};

use super::{
    InferenceLimits,
    breaker::{Verdict, longest_pause},
    queue::Request,
};
use crate::{
    domain::{
        ids::{BotId, ConversationId, TurnId},
        problem::Problem,
        time::Timestamp,
        turn::QueuePlace,
    },
    inference::queue::Class,
    metrics::{QUEUE_DEPTH, SLOTS_BUSY},
    ports::chat_model::{ChatModel, LoadedModel, ModelError, ModelSummary},
    supervision::{ActorSlot, tidy_reason},
};

mod missing;
mod permit;
mod state;
#[cfg(test)]
mod tests;
mod views;

pub(crate) use permit::{Claim, Comes, SlotPermit, Ticket};
use permit::{PutBack, Reserved};
use state::State;
pub(in crate::inference) use views::count;
pub(crate) use views::is_near;

/// Models of one server that are used; the first ones of its list.
const MODELS: usize = 4096;
/// What is left at least of the longest wait for a turn that begins to wait again: a slot that is free is not refused it.
const LAST_CHANCE: Duration = Duration::from_millis(50);
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
    /// How long it has stood in lines before this one: the longest wait is that of all of them together.
    pub waited: Duration,
    /// The place that was told last; none where nobody was told that it waits.
    pub told: Option<QueuePlace>,
    /// Servers that failed the turn with this model.
    pub tried: Vec<String>,
}

impl Want {
    /// Bots weigh the same; inside a bot its conversations share alike.
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
    /// Servers that failed it with this model: no better places for it.
    tried: Vec<String>,
    permit: oneshot::Sender<SlotPermit>,
    told: Option<QueuePlace>,
}

/// The gate of one server.
pub(crate) struct Gate {
    pub spec: ServerSpec,
    gauges: Gauges,
    /// Where its actor is.
    pub actor: ActorSlot<super::GateMessage>,
    limit: usize,
    /// Longest wait in its line.
    queue_wait: Option<Duration>,
    state: Mutex<State>,
    /// Whether it was said that its list is cut short.
    lists_too_many: AtomicBool,
    /// Told when somebody had to stand in line.
    stood: Notify,
    /// Raised whenever the gate takes turns that it did not take before, no longer takes any, or lists other models; turns that
    /// wait look again.
    changed: watch::Sender<u64>,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("name", &self.spec.name).finish_non_exhaustive()
    }
}

/// What metrics tell of a gate. Looked up each time: a recorder may have forgotten what nobody has set for long, as it does
/// with the gauges of servers that are gone.
struct Gauges {
    server: Arc<str>,
}

impl Gauges {
    fn show(&self, state: &State) {
        let gauge = |name| gauge!(name, "server" => self.server.clone());
        gauge(QUEUE_DEPTH.name).set(f64::from(count(state.line.len())));
        gauge(SLOTS_BUSY.name).set(f64::from(state.busy()));
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
    pub fn new(spec: ServerSpec, limits: InferenceLimits, changed: watch::Sender<u64>) -> Self {
        let gauges = Gauges { server: spec.name.as_str().into() };
        let state = Mutex::new(State::new(spec.slots, longest_pause(limits.offline_wait)));
        let (actor, limit, queue_wait) = (ActorSlot::new(), limits.queue_limit, limits.queue_wait);
        let (lists_too_many, stood) = (AtomicBool::new(false), Notify::new());
        Self { spec, gauges, actor, limit, queue_wait, state, lists_too_many, stood, changed }
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
        // Whoever holds the ticket of one that is dropped here sees that its time is over.
        state.line.expire(now());
        while !state.line.is_empty() && state.has_room(now()) {
            let Some(pass) = state.breaker.admit(now()) else { return };
            let Some((request, popped)) = state.line.pop() else { return };
            let Waiter { model, permit, .. } = request.payload;
            let slot = state.begin(request.turn, &model);
            if let Err(mut unused) = permit.send(SlotPermit::new(self.clone(), model, pass, popped, slot)) {
                // Nobody waits there any more: undone here, as its own end would wait for this lock.
                state.end(unused.disarm());
                state.breaker.verdict(pass, Verdict::Unclear, "", now(), 0.0);
            }
        }
    }

    /// A slot for this turn, if one is free and nobody waits.
    pub fn try_acquire(self: &Arc<Self>, turn: TurnId, model: &str) -> Option<SlotPermit> {
        self.with(|state| {
            if !state.line.is_empty() || !state.has_room(now()) {
                return None;
            }
            let pass = state.breaker.admit(now())?;
            let slot = state.begin(turn, model);
            Some(SlotPermit::new(self.clone(), model.to_owned(), pass, state.line.passed_by(), slot))
        })
    }

    /// Room in the line for a turn that is not stored yet.
    ///
    /// # Errors
    /// `inference_queue_full`.
    pub fn reserve(self: &Arc<Self>, model: &str, comes: Comes) -> Result<Reserved, Problem> {
        let mut state = self.state.lock();
        if state.taken() >= self.limit {
            return Err(self.full(&state, model));
        }
        *state.expected(comes) += 1;
        drop(state);
        Ok(Reserved::new(self.clone(), comes))
    }

    /// Stands in the line, above its limit if need be: whoever comes here was acknowledged. A slot that is free is handed
    /// over at once.
    pub fn enqueue(self: &Arc<Self>, want: &Want, claim: Claim) -> Ticket {
        let (permit, receiver) = oneshot::channel();
        let conversation = (want.class != Class::Background).then_some(want.conversation);
        let (model, tried) = (want.model.clone(), want.tried.clone());
        let waiter = Waiter { conversation, model, tried, permit, told: want.told.clone() };
        let deadline =
            self.queue_wait.map(|longest| now() + longest.saturating_sub(want.waited).max(LAST_CHANCE));
        let request = Request { deadline, ..want.request(waiter) };
        let stands = self.with(|state| {
            let refused = match &claim {
                Claim::Back(PutBack { gate, popped }) if Arc::ptr_eq(gate, self) => {
                    state.line.put_back(request, *popped)
                }
                Claim::Back(_) | Claim::Reserved(_) | Claim::Away(_) | Claim::Nothing => {
                    state.line.push(request)
                }
            };
            refused.is_ok()
        });
        if !stands {
            tracing::error!(turn.id = %want.turn, server.name = %self.spec.name, "a turn stands in a line twice; this is a defect");
        }
        self.stood.notify_waiters();
        Ticket::new(self.clone(), want.turn, receiver, deadline)
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
        state.line.cancel(turn);
        self.gauges.show(&state);
    }

    /// A probe's result; `asked` says when it began.
    pub fn probed(self: &Arc<Self>, mut found: Result<ProbeResult, ModelError>, asked: Instant) {
        if let Ok(found) = &mut found {
            self.shorten(found);
        }
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
            let names: HashSet<_> = found.models.iter().map(|m| m.name.as_str()).collect();
            state.details.retain(|name, _| names.contains(name.as_str()));
            let before: HashSet<_> = state.models.iter().map(|m| m.name.as_str()).collect();
            state.lists += u64::from(before != names);
            state.missing.listed(&state.models, &found.models);
            state.models = found.models;
            state.loaded = found.loaded;
            state.refreshed = Some(now());
        });
    }

    /// A list that never seems to end is somebody else's fault, and nobody's memory.
    fn shorten(&self, found: &mut ProbeResult) {
        let listed = found.models.len();
        found.models.truncate(MODELS);
        found.loaded.truncate(MODELS);
        if listed > MODELS && !self.lists_too_many.swap(true, Ordering::Relaxed) {
            tracing::warn!(server.name = %self.spec.name, listed, used = MODELS, "the model server lists too many models; the others are left out");
        }
    }

    /// A model was pulled there: its list may be right now.
    pub fn pulled(self: &Arc<Self>) {
        self.with(|state| state.missing.forgive());
    }

    /// Somebody looked after the server: what failed before counts no more.
    pub fn forgive(self: &Arc<Self>) {
        self.with(|state| {
            state.breaker.reset();
            state.pauses.forgive();
            state.missing.forgive();
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

    /// Sends away who waited too long.
    pub fn expire(self: &Arc<Self>) {
        self.with(|_| ());
    }

    /// The next probe is due in so long.
    pub fn probes_in(&self, pause: Duration) {
        self.state.lock().silence.1 = Some(now() + pause);
    }

    /// When to [`look`](Self::look) again; never a moment that is past.
    pub fn next_look(&self) -> Option<Instant> {
        let (state, now) = (self.state.lock(), now());
        let ends = [
            state.held_until,
            state.breaker.retry_at(),
            state.pauses.next_end(now),
            state.missing.next_end(now),
        ];
        ends.into_iter().flatten().filter(|at| *at > now).min()
    }

    /// What came of a request, as far as it did not go well.
    fn failed(self: &Arc<Self>, permit: &SlotPermit, error: &ModelError) {
        self.with(|state| {
            match error {
                ModelError::Busy(_) => {
                    state.slots.busy(state.busy().saturating_sub(1));
                    state.hold();
                }
                ModelError::Unreachable(_) => {
                    state.turn(false);
                    state.silence.0 = Some(tidy_reason(&error.to_string()));
                    state.loaded.clear();
                }
                // Only what it lists, so that there is an end to it.
                ModelError::ModelNotFound(_) if state.names(permit.model()) => {
                    state.missing.found_out(permit.model(), now());
                }
                _ => {}
            }
            let verdict = state.blame(permit.model(), error);
            state.breaker.verdict(permit.pass(), verdict, &error.to_string(), now(), rand::random());
        });
    }
}

/// Whether a listed name is meant by `model`, which may leave out `:latest`.
fn is_called(listed: &str, model: &str) -> bool {
    listed.strip_prefix(model).is_some_and(|rest| rest.is_empty() || rest == ":latest")
}
