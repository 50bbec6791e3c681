//! The gate in front of one model server: `slots` turns at once, the others in a bounded line, first
//! come first served. A permit is a slot; dropping it lets the next one in. Kept apart from the actor that
//! probes the server, so that a crash of that actor takes no slot and no place in the line.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use crate::{
    domain::{
        event::QueueMoved,
        ids::{ConversationId, TurnId},
        model::{QueueDepth, Server, ServerState, Slots},
        problem::{Code, Problem},
        time::Timestamp,
        turn::QueuePlace,
    },
    ports::chat_model::{ChatModel, LoadedModel, ModelDetails, ModelSummary},
    supervision::ActorSlot,
};

/// Weight of the newest turn in the running mean of durations.
const MEAN_WEIGHT: f64 = 0.2;

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

struct Waiter {
    turn: TurnId,
    conversation: ConversationId,
    permit: oneshot::Sender<SlotPermit>,
    shown: u32,
}

struct State {
    up: bool,
    since: Timestamp,
    version: Option<String>,
    latency: Option<Duration>,
    models: Vec<ModelSummary>,
    loaded: Vec<LoadedModel>,
    details: HashMap<String, Arc<ModelDetails>>,
    refreshed: Option<Instant>,
    busy: u32,
    waiters: VecDeque<Waiter>,
    mean_s: Option<f64>,
}

/// The gate of one server.
pub(crate) struct Gate {
    pub spec: ServerSpec,
    /// Where its actor is.
    pub actor: ActorSlot<super::GateMessage>,
    limit: usize,
    state: Mutex<State>,
    /// Raised at every change of the server's state; turns that wait look again.
    changed: watch::Sender<u64>,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("name", &self.spec.name).finish_non_exhaustive()
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

impl Gate {
    pub fn new(spec: ServerSpec, limit: usize, changed: watch::Sender<u64>) -> Self {
        let state = State {
            up: false,
            since: Timestamp::now(),
            version: None,
            latency: None,
            models: vec![],
            loaded: vec![],
            details: HashMap::new(),
            refreshed: None,
            busy: 0,
            waiters: VecDeque::new(),
            mean_s: None,
        };
        Self { spec, actor: ActorSlot::new(), limit, state: Mutex::new(state), changed }
    }

    pub fn is_up(&self) -> bool {
        self.state.lock().up
    }

    pub fn serves(&self, model: &str) -> bool {
        let state = self.state.lock();
        let tagged = |name: &str| name.strip_suffix(":latest").is_some_and(|n| n == model);
        state.up
            && (state.models.iter().any(|m| m.name == model || tagged(&m.name))
                || (self.spec.simulated && model.starts_with("sim:")))
    }

    /// Turns that run and wait per slot: the smaller, the sooner a new one begins.
    pub fn load(&self) -> f64 {
        let state = self.state.lock();
        f64::from(state.busy + u32::try_from(state.waiters.len()).unwrap_or(u32::MAX))
            / f64::from(self.spec.slots)
    }

    /// A slot, if one is free and nobody waits.
    pub fn try_acquire(self: &Arc<Self>) -> Option<SlotPermit> {
        let mut state = self.state.lock();
        if !state.up || state.busy >= self.spec.slots || !state.waiters.is_empty() {
            return None;
        }
        state.busy += 1;
        Some(SlotPermit { gate: Some(self.clone()), taken: Instant::now() })
    }

    /// A place in the line (or a slot at once, through the ticket).
    pub fn enqueue(self: &Arc<Self>, turn: TurnId, conversation: ConversationId) -> Result<Ticket, Problem> {
        let mut state = self.state.lock();
        let (sender, permit) = oneshot::channel();
        if state.up && state.busy < self.spec.slots && state.waiters.is_empty() {
            state.busy += 1;
            // The receiver is held right here, so this can't fail.
            let _ = sender.send(SlotPermit { gate: Some(self.clone()), taken: Instant::now() });
            return Ok(Ticket { gate: self.clone(), turn, permit });
        }
        if state.waiters.len() >= self.limit {
            let eta = state.eta(self.limit, self.spec.slots).map_or(20.0, |s| s.clamp(1.0, 3600.0));
            let problem = Problem::new(
                Code::QueueFull,
                format!(
                    "{} turns wait for {}. This one was not begun; try again later.",
                    self.limit, self.spec.name
                ),
            );
            return Err(problem.retry_after(eta.ceil() as u32));
        }
        let shown = u32::try_from(state.waiters.len() + 1).unwrap_or(u32::MAX);
        state.waiters.push_back(Waiter { turn, conversation, permit: sender, shown });
        drop(state);
        Ok(Ticket { gate: self.clone(), turn, permit })
    }

    fn leave(&self, turn: TurnId) {
        self.state.lock().waiters.retain(|w| w.turn != turn);
    }

    fn release(self: &Arc<Self>, held: Option<Duration>) {
        let mut state = self.state.lock();
        state.busy = state.busy.saturating_sub(1);
        if let Some(held) = held {
            let mean = state.mean_s.unwrap_or(held.as_secs_f64());
            state.mean_s = Some(mean + MEAN_WEIGHT * (held.as_secs_f64() - mean));
        }
        while state.up && state.busy < self.spec.slots {
            let Some(waiter) = state.waiters.pop_front() else { break };
            let permit = SlotPermit { gate: Some(self.clone()), taken: Instant::now() };
            match waiter.permit.send(permit) {
                Ok(()) => state.busy += 1,
                // Nobody waits there any more: the permit ends unused, without a second release.
                Err(mut unused) => unused.gate = None,
            }
        }
    }

    /// Place of a turn in the line.
    pub fn place(&self, turn: TurnId) -> Option<QueuePlace> {
        let state = self.state.lock();
        let at = state.waiters.iter().position(|w| w.turn == turn)?;
        let position = u32::try_from(at + 1).unwrap_or(u32::MAX);
        Some(QueuePlace { position, eta_s: state.eta(at, self.spec.slots) })
    }

    /// Place that a new turn would get.
    pub fn next_place(&self) -> QueuePlace {
        let state = self.state.lock();
        let ahead = state.waiters.len();
        let position = u32::try_from(ahead + 1).unwrap_or(u32::MAX);
        QueuePlace { position, eta_s: state.eta(ahead, self.spec.slots) }
    }

    /// Places that changed since the last call.
    pub fn moved(&self) -> Vec<(ConversationId, QueueMoved)> {
        let mut state = self.state.lock();
        let slots = self.spec.slots;
        let etas: Vec<_> = (0..state.waiters.len()).map(|ahead| state.eta(ahead, slots)).collect();
        let mut moved = vec![];
        for (ahead, waiter) in state.waiters.iter_mut().enumerate() {
            let position = u32::try_from(ahead + 1).unwrap_or(u32::MAX);
            if waiter.shown != position {
                waiter.shown = position;
                let server = self.spec.name.clone();
                let eta_s = etas.get(ahead).copied().flatten();
                moved.push((
                    waiter.conversation,
                    QueueMoved { turn_id: waiter.turn, position, eta_s, server },
                ));
            }
        }
        moved
    }

    /// A probe's result; true where the server's state changed.
    pub fn probed(self: &Arc<Self>, found: Option<ProbeResult>) -> bool {
        let mut state = self.state.lock();
        let was = state.up;
        state.up = found.is_some();
        if was != state.up {
            state.since = Timestamp::now();
        }
        if let Some(found) = found {
            state.version = Some(found.version);
            state.latency = Some(found.latency);
            state.details.retain(|name, _| found.models.iter().any(|m| m.name == *name));
            state.models = found.models;
            state.loaded = found.loaded;
            state.refreshed = Some(Instant::now());
        } else {
            state.loaded.clear();
        }
        let up = state.up;
        drop(state);
        if was != up {
            if up {
                // Wake those that waited here while it was down.
                self.state.lock().busy += 1;
                self.release(None);
            }
            self.changed.send_modify(|n| *n += 1);
        }
        was != up
    }

    /// A turn could not reach it: down until the next probe. True where that is news.
    pub fn lost(self: &Arc<Self>) -> bool {
        self.probed(None)
    }

    /// How long ago its models were listed.
    pub fn age(&self) -> Option<Duration> {
        self.state.lock().refreshed.map(|at| at.elapsed())
    }

    pub fn models(&self) -> Vec<ModelSummary> {
        self.state.lock().models.clone()
    }

    pub fn loaded(&self) -> Vec<LoadedModel> {
        self.state.lock().loaded.clone()
    }

    pub fn details(&self, model: &str) -> Option<Arc<ModelDetails>> {
        self.state.lock().details.get(model).cloned()
    }

    pub fn keep_details(&self, model: &str, details: Arc<ModelDetails>) {
        self.state.lock().details.insert(model.to_owned(), details);
    }

    pub fn server(&self) -> Server {
        let state = self.state.lock();
        let waiting = state.waiters.len();
        Server {
            name: self.spec.name.clone(),
            url: self.spec.url.clone(),
            state: if state.up { ServerState::Up } else { ServerState::Down },
            version: state.version.clone(),
            latency_ms: state.latency.map(|l| l.as_secs_f64() * 1000.0),
            slots: Slots { total: self.spec.slots, busy: state.busy },
            queue: QueueDepth {
                depth: u32::try_from(waiting).unwrap_or(u32::MAX),
                limit: u32::try_from(self.limit).unwrap_or(u32::MAX),
                eta_s: state.eta(waiting, self.spec.slots),
            },
            since: state.since,
        }
    }
}

impl State {
    /// Estimated wait behind `ahead` others: full rounds of the mean duration.
    fn eta(&self, ahead: usize, slots: u32) -> Option<f64> {
        let rounds = (ahead as f64 + 1.0) / f64::from(slots);
        self.mean_s.map(|mean| (mean * rounds * 10.0).round() / 10.0)
    }
}

/// A slot of a server. Dropping it lets the next turn in.
#[derive(Debug)]
pub(crate) struct SlotPermit {
    gate: Option<Arc<Gate>>,
    taken: Instant,
}

impl SlotPermit {
    /// The gate that it is a slot of; `None` only while it is being dropped.
    pub fn gate(&self) -> Option<&Arc<Gate>> {
        self.gate.as_ref()
    }
}

impl Drop for SlotPermit {
    fn drop(&mut self) {
        if let Some(gate) = self.gate.take() {
            gate.release(Some(self.taken.elapsed()));
        }
    }
}

/// A place in the line. Dropping it leaves the line.
#[derive(Debug)]
pub(crate) struct Ticket {
    gate: Arc<Gate>,
    turn: TurnId,
    permit: oneshot::Receiver<SlotPermit>,
}

impl Ticket {
    /// Waits for the slot; `None` if the line was dissolved.
    pub async fn permit(&mut self) -> Option<SlotPermit> {
        (&mut self.permit).await.ok()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.gate.leave(self.turn);
    }
}
