//! What turns hold of a gate: a reservation until their acceptance is stored, a place in the line, a slot. Each is given
//! back by dropping it.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{Gate, LOADED_WITHIN, now};
use crate::{
    domain::ids::TurnId,
    inference::{
        Room,
        breaker::{BreakerState, Pass, Verdict},
        queue::Popped,
    },
    ports::chat_model::ModelError,
};

/// A slot of a server. The turn says what came of it; dropped without a word it was given up, which says nothing about the
/// server. Dropping it lets the next turn in.
pub(crate) struct SlotPermit {
    /// `None` only while it is being dropped.
    gate: Option<Arc<Gate>>,
    model: String,
    pass: Pass,
    popped: Popped,
    slot: u64,
    answered: bool,
    load: Duration,
    /// How long its turn has stood in lines by now.
    pub waited: Duration,
}

impl fmt::Debug for SlotPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlotPermit").field("gate", &self.gate).finish_non_exhaustive()
    }
}

impl SlotPermit {
    pub(super) fn new(gate: Arc<Gate>, model: String, pass: Pass, popped: Popped, slot: u64) -> Self {
        let gate = Some(gate);
        Self {
            gate,
            model,
            pass,
            popped,
            slot,
            answered: false,
            load: Duration::ZERO,
            waited: Duration::ZERO,
        }
    }

    /// The gate that it is a slot of; `None` only while it is being dropped.
    pub fn gate(&self) -> Option<&Arc<Gate>> {
        self.gate.as_ref()
    }

    /// The model that it was asked for.
    pub fn model(&self) -> &str {
        &self.model
    }

    pub(super) fn pass(&self) -> Pass {
        self.pass
    }

    /// Ends it without a release; with the answer its slot is given back.
    pub(super) fn disarm(&mut self) -> u64 {
        self.gate = None;
        self.slot
    }

    /// The answer begins. One that is on trial has passed it; failures in a row are forgotten only at the end of an answer, so
    /// that a server which begins every answer and ends none is found out.
    pub fn answered(&mut self) {
        let first = !std::mem::replace(&mut self.answered, true);
        if let Some(gate) = self.gate.as_ref().filter(|_| first) {
            gate.with(|state| {
                state.answered = Some(now());
                if state.breaker.state() == BreakerState::HalfOpen {
                    state.breaker.verdict(self.pass, Verdict::Answered, "", now(), 0.0);
                }
            });
        }
    }

    /// The answer is whole; `load` is what the server says of loading the model.
    pub fn done(&mut self, load: Option<Duration>) {
        self.load = load.filter(|load| *load >= LOADED_WITHIN).unwrap_or_default();
        self.answered = true;
        if let Some(gate) = &self.gate {
            gate.with(|state| {
                state.answered = Some(now());
                state.breaker.verdict(self.pass, Verdict::Answered, "", now(), 0.0);
                state.pauses.answered(&self.model);
                state.missing.answered(&self.model);
                state.slots.succeeded();
                (state.held_until, state.holds) = (None, 0);
            });
        }
    }

    /// The server did not answer, or not to the end.
    pub fn failed(&mut self, error: &ModelError) {
        if let Some(gate) = &self.gate {
            gate.failed(self, error);
        }
    }

    /// Gives the slot back for another try; with the answer the turn comes before everybody else at the same server.
    pub fn give_back(self) -> Claim {
        match &self.gate {
            Some(gate) => Claim::Back(PutBack { gate: gate.clone(), popped: self.popped }),
            None => Claim::Nothing,
        }
    }
}

impl Drop for SlotPermit {
    fn drop(&mut self) {
        let Some(gate) = self.gate.take() else { return };
        gate.with(|state| {
            let held = state.end(self.slot);
            state.breaker.verdict(self.pass, Verdict::Unclear, "", now(), 0.0);
            // How soon a server refuses says nothing about how long turns take.
            if self.answered {
                state.times.measured(&self.model, held, self.load);
            }
        });
    }
}

/// What a turn brings along to a line.
#[derive(Debug, Default)]
pub(crate) enum Claim {
    /// Nothing: its place is behind the others.
    #[default]
    Nothing,
    /// The reservation from before it was stored; over as soon as it stands in a line.
    Reserved(#[allow(dead_code, reason = "kept for its end")] Reserved),
    /// The same, among those who wait for any server.
    Away(#[allow(dead_code, reason = "kept for its end")] Room),
    /// The turn that it had before.
    Back(PutBack),
}

/// The turn that somebody had in the line of a gate.
#[derive(Debug)]
pub(crate) struct PutBack {
    pub(super) gate: Arc<Gate>,
    pub(super) popped: Popped,
}

/// When a turn comes to the line that it has room in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comes {
    /// As soon as it is stored.
    AtOnce,
    /// When those before it in its conversation are answered: until then it is before nobody.
    Later,
}

/// Room in the line for a turn that does not stand in it yet.
#[derive(Debug)]
pub(crate) struct Reserved {
    gate: Arc<Gate>,
    comes: Comes,
}

impl Reserved {
    /// Counted by the caller.
    pub(super) fn new(gate: Arc<Gate>, comes: Comes) -> Self {
        Self { gate, comes }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut state = self.gate.state.lock();
        let expected = state.expected(self.comes);
        *expected = expected.saturating_sub(1);
    }
}

/// A place in the line. Dropping it leaves the line.
#[derive(Debug)]
pub(crate) struct Ticket {
    gate: Arc<Gate>,
    turn: TurnId,
    permit: oneshot::Receiver<SlotPermit>,
    since: Instant,
    /// When the place is lost.
    deadline: Option<Instant>,
}

impl Ticket {
    pub(super) fn new(
        gate: Arc<Gate>,
        turn: TurnId,
        permit: oneshot::Receiver<SlotPermit>,
        deadline: Option<Instant>,
    ) -> Self {
        Self { gate, turn, permit, since: now(), deadline }
    }

    /// How long it has been held.
    pub fn held_for(&self) -> Duration {
        now().saturating_duration_since(self.since)
    }

    /// Whether the place is lost because its time is over.
    pub fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now())
    }

    /// Waits for the slot; `None` if the place is lost.
    pub async fn permit(&mut self) -> Option<SlotPermit> {
        (&mut self.permit).await.ok()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.gate.dismiss(self.turn);
    }
}
