//! GateActor: probes one model server, ends the pauses of its gate, tells those who wait their places and everybody else how
//! the server stands.
//!
//! Parent: InferenceSupervisor. Ports: ChatModel.
//!
//! Invariant: every change of a server's state is told once, whoever caused it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use ractor::{Actor, ActorProcessingErr, ActorRef, MessagingErr, concurrency::JoinHandle};
use tokio_util::task::TaskTracker;

use super::{
    Inference,
    gate::{Gate, ProbeResult, now},
};
use crate::{
    broadcast::Hubs,
    domain::{
        event::{EventBody, NewEvent, Topic},
        model::{BreakerState, Server, ServerState},
    },
    history::History,
    ports::{
        chat_model::{ModelError, Wait},
        history_store::{Change, Fact},
    },
};

/// Between two probes of a server that answers.
const PROBE_UP: Duration = Duration::from_secs(5);
/// Between two probes of a server that does not.
const PROBE_DOWN: Duration = Duration::from_millis(500);
/// How long a probe may take.
pub(super) const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// Between two looks at the line: `queue_moved` comes at most twice a second.
const MOVED_EVERY: Duration = Duration::from_millis(500);

async fn ask(gate: &Gate) -> Result<ProbeResult, ModelError> {
    let server = &gate.spec.model;
    let begun = Instant::now();
    let version = server.version().await?;
    let latency = begun.elapsed();
    let (models, loaded) = tokio::join!(server.models(), server.loaded());
    Ok(ProbeResult { version, latency, models: models?, loaded: loaded.unwrap_or_default() })
}

/// Asks a server how it is. True where it answered.
pub(crate) async fn probe(gate: &Arc<Gate>) -> bool {
    probe_within(gate, PROBE_TIMEOUT).await
}

/// As [`probe`], where it may take so long.
pub(crate) async fn probe_within(gate: &Arc<Gate>, limit: Duration) -> bool {
    let asked = now();
    let found = tokio::time::timeout(limit, ask(gate)).await;
    let found = found.unwrap_or(Err(ModelError::Timeout(Wait::FirstByte)));
    let answered = found.is_ok();
    gate.probed(found, asked);
    answered
}

/// Messages of [`GateActor`].
#[derive(Debug)]
pub(crate) enum GateMessage {
    /// Time to probe.
    ProbeDue,
    /// A probe ended.
    Probed,
    /// The gate stands otherwise than before.
    Turned,
    /// A pause of the gate is over.
    PauseOver,
    /// Time to look at the line.
    MovedDue,
}

/// What a [`GateActor`] starts with.
#[derive(Debug, Clone)]
pub(crate) struct GateArgs {
    pub gate: Arc<Gate>,
    pub inference: Inference,
    pub hubs: Arc<Hubs>,
    pub history: History,
    pub tasks: TaskTracker,
}

/// Tells the actor that its probe ended, also where a defect ended it by a panic: the next one comes all the same.
struct ProbeEnded {
    me: ActorRef<GateMessage>,
    probing: Arc<AtomicBool>,
}

impl Drop for ProbeEnded {
    fn drop(&mut self) {
        self.probing.store(false, Ordering::Release);
        // An actor that ended meanwhile needs no result.
        let _ = self.me.cast(GateMessage::Probed);
    }
}

/// State of [`GateActor`].
pub(crate) struct GateState {
    args: GateArgs,
    probing: Arc<AtomicBool>,
    /// How the server stood when it was told last.
    told: (ServerState, BreakerState, Vec<String>),
    /// When the next pause ends, and who says so then; none while no pause is on.
    armed: Option<(Instant, Alarm)>,
}

/// A message that is on its way; called off by dropping it.
struct Alarm(JoinHandle<Result<(), MessagingErr<GateMessage>>>);

impl Drop for Alarm {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl GateState {
    fn probe(&self, me: &ActorRef<GateMessage>) {
        if self.probing.swap(true, Ordering::AcqRel) {
            return;
        }
        let gate = self.args.gate.clone();
        let ended = ProbeEnded { me: me.clone(), probing: self.probing.clone() };
        self.args.tasks.spawn(async move {
            probe(&gate).await;
            drop(ended);
        });
    }

    fn probed(&mut self, me: &ActorRef<GateMessage>) {
        let pause = if self.args.gate.is_up() { PROBE_UP } else { PROBE_DOWN };
        self.args.gate.probes_in(pause);
        // The first probe may end before anybody knows where this actor is.
        self.turned(me);
        me.send_after(pause, || GateMessage::ProbeDue);
    }

    /// Tells how the server stands, where that is news, and sees to the end of its pause.
    fn turned(&mut self, me: &ActorRef<GateMessage>) {
        self.tell();
        let next = self.args.gate.next_look();
        if next != self.armed.as_ref().map(|(at, _)| *at) {
            self.armed = next.map(|at| {
                let left = at.saturating_duration_since(now());
                (at, Alarm(me.send_after(left, || GateMessage::PauseOver)))
            });
        }
    }

    fn tell(&mut self) {
        let server = self.args.gate.server();
        let stands = standing(&server);
        // The removal is the last that is told of a server.
        if self.told != stands && !self.args.gate.is_retired() {
            self.told = stands;
            tracing::info!(
                server.name = %server.name, state = ?server.state, breaker = ?server.breaker.state,
                reason = server.breaker.reason, "model server changed state"
            );
            let event =
                NewEvent::new(vec![Topic::Models], &EventBody::ServerStateChanged { server, removed: false });
            self.args.history.note(Fact::new(Change::None, vec![event]));
        }
    }

    fn pause_over(&mut self, me: &ActorRef<GateMessage>) {
        self.armed = None;
        self.args.gate.look();
        // Another one may go on.
        self.turned(me);
    }

    fn moved(&self, me: &ActorRef<GateMessage>) {
        self.args.gate.expire();
        self.args.inference.relieve(&self.args.gate);
        for (conversation, moved) in self.args.gate.moved() {
            self.args.hubs.publish_moved(conversation, &moved);
        }
        me.send_after(MOVED_EVERY, || GateMessage::MovedDue);
    }
}

/// What is told when it changes: state, breaker, models that are paused.
fn standing(server: &Server) -> (ServerState, BreakerState, Vec<String>) {
    let paused = server.breaker.paused_models.iter().map(|p| p.model.clone()).collect();
    (server.state, server.breaker.state, paused)
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
        let server = args.gate.server();
        let told = standing(&server);
        let mut state = GateState { args, probing: Arc::default(), told, armed: None };
        state.probe(&me);
        // A pause may have ended while nobody was there to say so.
        state.args.gate.look();
        state.turned(&me);
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
            GateMessage::Probed => state.probed(&me),
            GateMessage::Turned => state.turned(&me),
            GateMessage::PauseOver => state.pause_over(&me),
            GateMessage::MovedDue => state.moved(&me),
        }
        Ok(())
    }
}
