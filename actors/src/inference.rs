//! Inference: one gate per model server, and the choice among them.
//!
//! InferenceSupervisor (one-for-one) → one GateActor per server. A GateActor probes its server and
//! tells waiting turns their new places; slots and line are the [`gate::Gate`]'s, which outlives it.
//!
//! Parent: root. Ports: ChatModel.
//!
//! Invariants: a slot is held exactly as long as its permit lives; a turn is in at most one line.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::{
    broadcast::Hubs,
    domain::{
        event::{EventBody, NewEvent, Topic},
        ids::{ConversationId, TurnId},
        model::{Model, ModelPlace},
        problem::{Code, Problem},
        turn::QueuePlace,
    },
    history::History,
    ports::{
        chat_model::{LoadedModel, ModelDetails, ModelError},
        history_store::{Change, Fact},
    },
};

pub mod breaker;
pub(crate) mod gate;
pub mod queue;
pub mod routing;
pub mod service_times;
pub mod slots;

pub use gate::ServerSpec;
pub(crate) use gate::{Gate, ProbeResult, SlotPermit};

/// Between two probes of a server that answers.
const PROBE_UP: Duration = Duration::from_secs(5);
/// Between two probes of a server that does not.
const PROBE_DOWN: Duration = Duration::from_millis(500);
/// How long a probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// Between two looks at the line: `queue_moved` comes at most twice a second.
const MOVED_EVERY: Duration = Duration::from_millis(500);
/// A list of models younger than this is not asked for again.
const FRESH: Duration = Duration::from_millis(1000);

/// Limits of inference.
#[derive(Debug, Clone, Copy)]
pub struct InferenceLimits {
    /// Turns that may wait for one server.
    pub queue_limit: usize,
    /// How long a turn waits while no server answers.
    pub offline_wait: Duration,
}

/// All gates. Shared; outlives the actors.
#[derive(Debug, Clone)]
pub(crate) struct Inference {
    gates: Arc<Vec<Arc<Gate>>>,
    changed: watch::Sender<u64>,
    limits: InferenceLimits,
    /// Set when the process ends: what has not begun stays in the line, for the next start.
    closed: Arc<AtomicBool>,
}

impl Inference {
    pub fn new(servers: Vec<ServerSpec>, limits: InferenceLimits) -> Self {
        let changed = watch::Sender::new(0);
        let gates = servers
            .into_iter()
            .map(|s| Arc::new(Gate::new(s, limits.queue_limit, changed.clone())))
            .collect();
        Self { gates: Arc::new(gates), changed, limits, closed: Arc::default() }
    }

    pub fn gates(&self) -> &[Arc<Gate>] {
        &self.gates
    }

    /// The server for a model: one that has it, the least loaded first; where none lists it, the first
    /// real one that answers, whose refusal then names the reason. `None` while none answers.
    pub fn route(&self, model: &str) -> Option<&Arc<Gate>> {
        let least = |a: &&Arc<Gate>, b: &&Arc<Gate>| a.load().total_cmp(&b.load());
        self.gates
            .iter()
            .filter(|g| g.serves(model))
            .min_by(least)
            .or_else(|| self.gates.iter().find(|g| g.is_up() && !g.spec.simulated))
    }

    /// True where some server that answers lists the model.
    pub fn has(&self, model: &str) -> bool {
        self.gates.iter().any(|g| g.serves(model))
    }

    /// The first of these models that a server has; else the first.
    pub fn choose<'a>(&self, model: &'a str, fallback: &'a [String]) -> &'a str {
        std::iter::once(model)
            .chain(fallback.iter().map(String::as_str))
            .find(|m| self.has(m))
            .unwrap_or(model)
    }

    /// The first model that any server offers, a real one before a simulated one.
    pub fn any_model(&self) -> Option<String> {
        let first = |simulated| {
            self.gates
                .iter()
                .filter(|g| g.is_up() && g.spec.simulated == simulated)
                .find_map(|g| g.models().first().map(|m| m.name.clone()))
        };
        first(false).or_else(|| first(true))
    }

    /// A slot at once, if one is free and nobody waits.
    pub fn try_acquire(&self, model: &str) -> Option<SlotPermit> {
        if self.closed.load(Ordering::Acquire) {
            return None;
        }
        self.route(model)?.try_acquire()
    }

    /// Lets nobody in any more; those who wait go on waiting.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Place of a waiting turn.
    pub fn place(&self, turn: TurnId) -> Option<QueuePlace> {
        self.gates.iter().find_map(|g| g.place(turn))
    }

    /// Place that a new turn for this model would get.
    pub fn next_place(&self, model: &str) -> QueuePlace {
        self.route(model).map_or(QueuePlace { position: 1, eta_s: None }, |g| g.next_place())
    }

    /// Waits for a slot of a server that has the model.
    ///
    /// # Errors
    /// `queue_full`, or `ollama_offline` after `offline_wait` without any server.
    pub async fn acquire(
        &self,
        model: &str,
        turn: TurnId,
        conversation: ConversationId,
    ) -> Result<SlotPermit, Problem> {
        let mut changes = self.changed.subscribe();
        let mut offline_since: Option<tokio::time::Instant> = None;
        loop {
            changes.borrow_and_update();
            match self.route(model).cloned() {
                Some(gate) => {
                    offline_since = None;
                    let mut ticket = gate.enqueue(turn, conversation)?;
                    tokio::select! {
                        permit = ticket.permit() => if let Some(permit) = permit {
                            if self.closed.load(Ordering::Acquire) {
                                std::future::pending::<()>().await;
                            }
                            return Ok(permit);
                        },
                        () = route_changed(self, &mut changes, &gate, model) => {}
                    }
                }
                None => {
                    let since = *offline_since.get_or_insert_with(tokio::time::Instant::now);
                    let wait = tokio::time::timeout_at(since + self.limits.offline_wait, changes.changed());
                    if !matches!(wait.await, Ok(Ok(()))) {
                        return Err(self.offline());
                    }
                }
            }
        }
    }

    /// The problem of a turn that waited in vain.
    pub fn offline(&self) -> Problem {
        let waited = self.limits.offline_wait.as_secs();
        Problem::new(
            Code::OllamaOffline,
            format!(
                "No model server answered for {waited} s. The message is kept; start Ollama and send it again."
            ),
        )
    }

    pub fn offline_wait(&self) -> Duration {
        self.limits.offline_wait
    }

    /// Probes servers whose lists are older than a second.
    pub async fn refresh(&self) {
        let stale = self.gates.iter().filter(|g| g.age().is_none_or(|age| age > FRESH));
        futures_util::future::join_all(stale.map(probe)).await;
    }

    /// Details of a model, asked for once.
    ///
    /// # Errors
    /// `model_not_found` where no server has it, `ollama_offline` where none answers.
    pub async fn details(&self, model: &str) -> Result<Arc<ModelDetails>, Problem> {
        let gate = self.route(model).ok_or_else(|| {
            Problem::new(Code::OllamaOffline, "No model server answers, so the model can't be looked up.")
        })?;
        if let Some(details) = gate.details(model) {
            return Ok(details);
        }
        let shown = tokio::time::timeout(PROBE_TIMEOUT, gate.spec.model.show(model)).await;
        match shown.unwrap_or(Err(ModelError::Timeout(crate::ports::chat_model::Wait::FirstByte))) {
            Ok(details) => {
                let details = Arc::new(details);
                gate.keep_details(model, details.clone());
                Ok(details)
            }
            Err(error) => Err(model_problem(&error, model, &gate.spec.name)),
        }
    }

    /// The largest context of a model, if it has been learnt.
    pub fn known_context(&self, model: &str) -> Option<u32> {
        let gate = self.route(model)?;
        let listed = || gate.models().iter().find(|m| m.name == model).and_then(|m| m.context_length);
        gate.details(model).and_then(|d| d.context_length).or_else(listed)
    }

    /// Models over all servers, by name.
    pub fn models(&self) -> Vec<Model> {
        let mut models: Vec<Model> = vec![];
        for gate in self.gates.iter().filter(|g| g.is_up()) {
            let loaded = gate.loaded();
            for m in gate.models() {
                let in_memory = loaded.iter().find(|l| l.name == m.name);
                let place = ModelPlace {
                    name: gate.spec.name.clone(),
                    loaded: in_memory.is_some(),
                    expires_at: in_memory.and_then(|l| l.expires_at.clone()),
                    size_vram: in_memory.map_or(0, |l| l.size_vram),
                };
                if let Some(known) = models.iter_mut().find(|k| k.name == m.name) {
                    known.servers.push(place);
                    continue;
                }
                let details = gate.details(&m.name);
                models.push(Model {
                    capabilities: details.as_ref().map_or(m.capabilities, |d| d.capabilities.clone()),
                    context_length: details.as_ref().and_then(|d| d.context_length).or(m.context_length),
                    name: m.name,
                    size: m.size,
                    digest: m.digest,
                    family: m.family,
                    parameter_size: m.parameter_size,
                    quantization: m.quantization,
                    simulated: m.simulated || gate.spec.simulated,
                    servers: vec![place],
                });
            }
        }
        models.sort_by(|a, b| a.name.cmp(&b.name));
        models
    }

    /// Loaded models, with their servers.
    pub fn loaded(&self) -> Vec<(String, LoadedModel)> {
        let per_gate =
            |g: &Arc<Gate>| g.loaded().into_iter().map(|l| (g.spec.name.clone(), l)).collect::<Vec<_>>();
        self.gates.iter().flat_map(per_gate).collect()
    }
}

/// Resolves once there is a better way than waiting here: the server went down, or another one came up with the model.
async fn route_changed(inference: &Inference, changes: &mut watch::Receiver<u64>, here: &Gate, model: &str) {
    loop {
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        if !here.is_up() || (!here.serves(model) && inference.has(model)) {
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

async fn ask(gate: &Gate) -> Option<ProbeResult> {
    let server = &gate.spec.model;
    let begun = Instant::now();
    let version = server.version().await.ok()?;
    let latency = begun.elapsed();
    let (models, loaded) = tokio::join!(server.models(), server.loaded());
    Some(ProbeResult { version, latency, models: models.ok()?, loaded: loaded.unwrap_or_default() })
}

/// Asks a server how it is. True where its state changed.
pub(crate) async fn probe(gate: &Arc<Gate>) -> bool {
    let found = tokio::time::timeout(PROBE_TIMEOUT, ask(gate)).await.ok().flatten();
    gate.probed(found)
}

/// Messages of [`GateActor`].
#[derive(Debug)]
pub(crate) enum GateMessage {
    /// Time to probe.
    ProbeDue,
    /// A probe ended; with true the server's state changed.
    Probed(bool),
    /// Time to look at the line.
    MovedDue,
}

/// What a [`GateActor`] starts with.
#[derive(Debug, Clone)]
pub(crate) struct GateArgs {
    pub gate: Arc<Gate>,
    pub hubs: Arc<Hubs>,
    pub history: History,
    pub tasks: TaskTracker,
}

/// Tells the actor that its probe ended, also where a defect ended it by a panic: the next one comes all the same.
struct ProbeEnded {
    me: ActorRef<GateMessage>,
    probing: Arc<AtomicBool>,
    changed: bool,
}

impl Drop for ProbeEnded {
    fn drop(&mut self) {
        self.probing.store(false, Ordering::Release);
        // An actor that ended meanwhile needs no result.
        let _ = self.me.cast(GateMessage::Probed(self.changed));
    }
}

/// State of [`GateActor`].
pub(crate) struct GateState {
    args: GateArgs,
    probing: Arc<AtomicBool>,
}

impl GateState {
    fn probe(&self, me: &ActorRef<GateMessage>) {
        if self.probing.swap(true, Ordering::AcqRel) {
            return;
        }
        let gate = self.args.gate.clone();
        let ended = ProbeEnded { me: me.clone(), probing: self.probing.clone(), changed: false };
        self.args.tasks.spawn(async move {
            // Taken in whole: alone, its flag would be copied and the news sent at once.
            let mut ended = ended;
            ended.changed = probe(&gate).await;
        });
    }

    fn probed(&self, me: &ActorRef<GateMessage>, changed: bool) {
        if changed {
            tell_state(&self.args.history, &self.args.gate);
        }
        let pause = if self.args.gate.is_up() { PROBE_UP } else { PROBE_DOWN };
        me.send_after(pause, || GateMessage::ProbeDue);
    }

    fn moved(&self, me: &ActorRef<GateMessage>) {
        for (conversation, moved) in self.args.gate.moved() {
            self.args.hubs.publish_moved(conversation, &moved);
        }
        me.send_after(MOVED_EVERY, || GateMessage::MovedDue);
    }
}

/// Tells that a server went up or down.
pub(crate) fn tell_state(history: &History, gate: &Gate) {
    let server = gate.server();
    tracing::info!(server.name = %server.name, state = ?server.state, "model server changed state");
    let event = NewEvent::new(vec![Topic::Models], &EventBody::ServerStateChanged { server });
    history.note(Fact::new(Change::None, vec![event]));
}

/// Probes one model server.
pub(crate) struct GateActor;

impl Actor for GateActor {
    type Msg = GateMessage;
    type State = GateState;
    type Arguments = GateArgs;

    async fn pre_start(
        &self,
        me: ActorRef<Self::Msg>,
        args: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let state = GateState { args, probing: Arc::default() };
        state.probe(&me);
        me.send_after(MOVED_EVERY, || GateMessage::MovedDue);
        Ok(state)
    }

    async fn handle(
        &self,
        me: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            GateMessage::ProbeDue => state.probe(&me),
            GateMessage::Probed(changed) => state.probed(&me, changed),
            GateMessage::MovedDue => state.moved(&me),
        }
        Ok(())
    }
}
