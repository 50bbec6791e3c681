//! What a gate knows of its server and of those who wait: changed only under the gate's lock.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Comes, Waiter, count, is_called, missing::Missing, now};
use crate::{
    domain::{ids::TurnId, model::ServerState, time::Timestamp},
    inference::{
        Known,
        breaker::{Breaker, BreakerRules, BreakerState, Verdict},
        outlook::Outlook,
        pauses::ModelPauses,
        queue::FairQueue,
        service_times::ServiceTimes,
        slots::AdaptiveSlots,
    },
    ports::chat_model::{LoadedModel, ModelError, ModelSummary},
};

/// The first pause after a 503, before jitter, and the longest; doubled by each 503 until a turn goes well.
const HOLD: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A turn that holds a slot.
#[derive(Debug)]
pub(super) struct Running {
    slot: u64,
    pub(super) turn: TurnId,
    pub(super) model: String,
    since: Instant,
}

impl Running {
    /// How long it has held its slot.
    pub(super) fn held_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }
}

pub(super) struct State {
    pub(super) up: bool,
    /// Takes no new turns; what runs goes on.
    pub(super) draining: bool,
    /// Its server was removed: it takes no new turns ever again.
    pub(super) retired: bool,
    pub(super) since: Timestamp,
    pub(super) version: Option<String>,
    pub(super) latency: Option<Duration>,
    pub(super) models: Vec<ModelSummary>,
    /// Raised whenever its list names other models than the one before.
    pub(super) lists: u64,
    pub(super) loaded: Vec<LoadedModel>,
    /// By the name that it lists.
    pub(super) details: HashMap<String, Known>,
    pub(super) refreshed: Option<Instant>,
    /// When a turn was answered last.
    pub(super) answered: Option<Instant>,
    /// Who holds a slot.
    pub(super) running: Vec<Running>,
    /// Numbers the slots that were given out.
    slots_given: u64,
    /// Turns that were let in while their acceptance is stored; they come to the line in a moment.
    pub(super) coming: usize,
    /// Turns that wait behind another one of their conversation.
    pub(super) behind: usize,
    pub(super) line: FairQueue<Waiter>,
    pub(super) slots: AdaptiveSlots,
    pub(super) breaker: Breaker,
    pub(super) pauses: ModelPauses,
    /// What it lists and does not have.
    pub(super) missing: Missing,
    /// Why the last probe failed, and when the next one is due, while the server is down.
    pub(super) silence: (Option<Arc<str>>, Option<Instant>),
    pub(super) times: ServiceTimes,
    /// Since a 503 nobody is sent before this.
    pub(super) held_until: Option<Instant>,
    /// 503s since a turn went well.
    pub(super) holds: u32,
}

impl State {
    /// Down, until a probe says otherwise. No pause will be longer than `longest_pause`.
    pub(super) fn new(slots: u32, longest_pause: Duration) -> Self {
        Self {
            up: false,
            draining: false,
            retired: false,
            since: Timestamp::now(),
            version: None,
            latency: None,
            models: vec![],
            lists: 0,
            loaded: vec![],
            details: HashMap::new(),
            refreshed: None,
            answered: None,
            running: vec![],
            slots_given: 0,
            coming: 0,
            behind: 0,
            // The limit is for those who come anew (`reserve`); who was acknowledged always finds a place.
            line: FairQueue::new(usize::MAX),
            slots: AdaptiveSlots::new(slots),
            breaker: Breaker::new(BreakerRules { longest: longest_pause, ..BreakerRules::DEFAULT }),
            pauses: ModelPauses::new(longest_pause),
            missing: Missing::default(),
            silence: (None, None),
            times: ServiceTimes::default(),
            held_until: None,
            holds: 0,
        }
    }

    /// Room of the line that is taken, also by those who do not stand in it yet.
    pub(super) fn taken(&self) -> usize {
        self.line.len() + self.coming + self.behind
    }

    pub(super) fn expected(&mut self, comes: Comes) -> &mut usize {
        match comes {
            Comes::AtOnce => &mut self.coming,
            Comes::Later => &mut self.behind,
        }
    }

    /// Slots that are taken.
    pub(super) fn busy(&self) -> u32 {
        count(self.running.len())
    }

    /// Takes a slot; with the answer it is given back.
    pub(super) fn begin(&mut self, turn: TurnId, model: &str) -> u64 {
        self.slots_given += 1;
        self.running.push(Running { slot: self.slots_given, turn, model: model.to_owned(), since: now() });
        self.slots_given
    }

    /// Gives a slot back; how long it was held.
    pub(super) fn end(&mut self, slot: u64) -> Duration {
        let at = self.running.iter().position(|running| running.slot == slot);
        at.map(|at| self.running.swap_remove(at).held_for(now())).unwrap_or_default()
    }

    /// When slots come free, as expected.
    pub(super) fn outlook(&self) -> Outlook<'_> {
        let now = now();
        let pauses = [self.held_until, self.breaker.retry_at()].into_iter().flatten();
        let pause = pauses.map(|until| until.saturating_duration_since(now)).max();
        let running = self.running.iter().map(|turn| (turn.model.as_str(), turn.held_for(now)));
        Outlook::new(&self.times, self.slots.now(), running, pause.unwrap_or_default())
    }

    pub(super) fn has_room(&self, now: Instant) -> bool {
        self.is_open() && self.busy() < self.slots.now() && self.held_until.is_none_or(|at| now >= at)
    }

    pub(super) fn is_open(&self) -> bool {
        self.up && !self.draining && !self.retired
    }

    /// What others have to hear of.
    pub(super) fn standing(&self) -> (ServerState, u64, Option<Instant>) {
        let turns = self.breaker.turns() + self.pauses.turns() + self.missing.turns() + self.lists;
        (self.server_state(), turns, self.held_until)
    }

    /// Whether a turn that waits here may hope: somebody is let through, or will be after the one who is on trial.
    pub(super) fn takes(&self) -> bool {
        self.is_open() && (self.breaker.admits(now()) || self.breaker.state() == BreakerState::HalfOpen)
    }

    /// Whether a turn for this model may hope here.
    pub(super) fn takes_for(&self, model: &str) -> bool {
        self.takes() && !self.pauses.is_paused(model, now())
    }

    /// What an error says about the server; what it says about the model is noted ([`super::pauses`]).
    pub(super) fn blame(&mut self, model: &str, error: &ModelError) -> Verdict {
        let verdict = Verdict::of(error);
        if verdict != Verdict::Failed || matches!(error, ModelError::Unreachable(_)) || self.models.len() < 2
        {
            return verdict;
        }
        if self.pauses.failed(model, &error.to_string(), now(), rand::random()) {
            // Whoever waits here for this model looks for another way.
            for turn in self.line.positions() {
                if self.line.get(turn).is_some_and(|r| r.payload.model == model) {
                    self.line.cancel(turn);
                }
            }
        }
        // Where a second model fails in the same time, it is the server.
        if self.pauses.failing(now()) > 1 { Verdict::Failed } else { Verdict::Unclear }
    }

    pub(super) fn turn(&mut self, up: bool) {
        if self.up != up {
            (self.up, self.since) = (up, Timestamp::now());
        }
    }

    /// Nobody is sent for a while. Turns that were turned away together count once.
    pub(super) fn hold(&mut self) {
        let now = now();
        if self.held_until.is_none_or(|at| at <= now) {
            let pause = HOLD.0.saturating_mul(2u32.saturating_pow(self.holds)).min(HOLD.1);
            self.held_until = Some(now + pause.mul_f64(0.5 + rand::random::<f64>() / 2.0));
            self.holds = self.holds.saturating_add(1);
        }
    }

    pub(super) fn server_state(&self) -> ServerState {
        match (self.up, self.draining || self.retired) {
            (false, _) => ServerState::Down,
            (true, true) => ServerState::Draining,
            (true, false) => ServerState::Up,
        }
    }

    /// Whether its list names the model.
    pub(super) fn names(&self, model: &str) -> bool {
        self.models.iter().any(|m| is_called(&m.name, model))
    }

    /// What is known of a model, whose tag may be left out.
    pub(super) fn details_of(&self, model: &str) -> Option<&Known> {
        // Not by way of the list, which may be long.
        self.details.get(model).or_else(|| self.details.get(&format!("{model}:latest")))
    }

    pub(super) fn is_loaded(&self, model: &str) -> bool {
        self.loaded.iter().any(|m| is_called(&m.name, model))
    }
}
