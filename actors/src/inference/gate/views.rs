//! What a gate shows: to the choice among servers, to those who wait, to the outside.

use std::time::{Duration, Instant};

use super::{Gate, State, Want, is_called, now};
use crate::{
    domain::{
        event::QueueMoved,
        ids::{ConversationId, TurnId},
        model::{BreakerState, BreakerView, PausedModel, QueueDepth, Server, Slots},
        problem::{Code, Problem},
        time::Timestamp,
        turn::{QueuePlace, seconds},
    },
    inference::{
        Known,
        blocked::Blocked,
        outlook::Outlook,
        routing::{ModelAt, ServerView},
    },
    ports::chat_model::{LoadedModel, ModelSummary},
};

/// A foretold wait is told anew when it differs by more than this share of it, and by at least a second.
const ETA_MOVED: f64 = 0.05;
/// When to come back where the line is full and nothing was measured yet, in seconds.
const COME_BACK: f64 = 5.0;
/// And the longest time that is asked for.
const COME_BACK_MAX: f64 = 600.0;

impl Gate {
    pub fn is_up(&self) -> bool {
        self.state.lock().up
    }

    /// Whether its server was removed.
    pub fn is_retired(&self) -> bool {
        self.state.lock().retired
    }

    /// Whether the server answers and lists the model.
    pub fn serves(&self, model: &str) -> bool {
        let state = self.state.lock();
        state.up && self.lists(&state, model)
    }

    /// Whether it lists the model, or did when it answered last.
    pub fn knows(&self, model: &str) -> bool {
        self.lists(&self.state.lock(), model)
    }

    /// Whether a turn for this model would be let through, now or when its time comes.
    pub fn offers(&self, model: &str) -> bool {
        let state = self.state.lock();
        state.takes_for(model) && self.lists(&state, model)
    }

    /// Whether whoever waits here for this model may hope.
    pub fn takes(&self, model: &str) -> bool {
        self.state.lock().takes_for(model)
    }

    /// Whether the server had the model in memory when it was probed last.
    pub fn has_loaded(&self, model: &str) -> bool {
        self.state.lock().is_loaded(model)
    }

    /// Why it gets no turns for this model though its server answers and lists it; none where the server does not, or where
    /// turns are let through.
    pub(in crate::inference) fn blocked(&self, model: &str) -> Option<Blocked> {
        let (state, now) = (self.state.lock(), now());
        if !state.up || state.retired || !self.lists(&state, model) {
            return None;
        }
        let name = &self.spec.name;
        if state.draining {
            return Some(Blocked { why: format!("{name} is drained: it gets no new turns"), until: None });
        }
        if let Some(until) = state.breaker.retry_at().filter(|until| now < *until) {
            let reason = state.breaker.reason().map_or("no reason known", |reason| &**reason);
            let why =
                format!("{name} gets no turns for a while, because several failed there in a row ({reason})");
            return Some(Blocked { why, until: Some(until) });
        }
        let paused = state.pauses.of(model, now)?;
        let why = format!(
            "{model} is paused at {name}, because it failed there several times in a row ({}); the server itself is up",
            paused.reason
        );
        Some(Blocked { why, until: Some(paused.until) })
    }

    fn lists(&self, state: &State, model: &str) -> bool {
        let named = state.names(model) || (self.spec.simulated && model.starts_with("sim:"));
        named && !state.missing.has(model, now())
    }

    /// As the choice among servers needs it.
    pub fn view(&self, model: &str, now: Instant) -> ServerView<'_> {
        let state = self.state.lock();
        let at = match self.lists(&state, model) {
            true if state.is_loaded(model) => ModelAt::Loaded,
            true => ModelAt::Present,
            false => ModelAt::Absent,
        };
        let waiting = state.line.len() + state.coming;
        ServerView {
            name: &self.spec.name,
            state: state.server_state(),
            admits: state.breaker.admits(now) && !state.pauses.is_paused(model, now),
            model: at,
            full: state.taken() >= self.limit,
            wait: state.outlook().nth(model, at == ModelAt::Loaded, waiting + 1),
            turns: state.busy().saturating_add(count(waiting)),
            slots: state.slots.now(),
        }
    }

    /// Slots that a new turn would get at once.
    pub fn free(&self) -> u32 {
        let state = self.state.lock();
        let now = now();
        let open =
            state.line.is_empty() && state.has_room(now) && state.breaker.state() == BreakerState::Closed;
        if open { state.slots.now() - state.busy() } else { 0 }
    }

    /// Those who wait, the next one first: each with its model, and the servers that failed it with that.
    pub fn line(&self) -> Vec<(TurnId, String, Vec<String>)> {
        let state = self.state.lock();
        let wants = |turn: TurnId| {
            let waiter = &state.line.get(turn)?.payload;
            Some((turn, waiter.model.clone(), waiter.tried.clone()))
        };
        state.line.positions().into_iter().filter_map(wants).collect()
    }

    /// The refusal of one who came too late for a place. He may come back when about a tenth of the line has moved on.
    pub(super) fn full(&self, state: &State, model: &str) -> Problem {
        let moved_on = state.outlook().nth(model, true, (self.limit / 10).max(1));
        let seconds = moved_on.map_or(COME_BACK, |eta| eta.as_secs_f64()).clamp(1.0, COME_BACK_MAX);
        Problem::new(
            Code::InferenceQueueFull,
            format!(
                "{} turns wait for {}. This message was not stored; send it again later.",
                state.taken(),
                self.spec.name
            ),
        )
        .retry_after(seconds.ceil() as u32)
    }

    /// Place of a turn in the line.
    pub fn place(&self, turn: TurnId) -> Option<QueuePlace> {
        let state = self.state.lock();
        state.line.get(turn)?;
        let (_, place) = state.places().into_iter().find(|(id, _)| *id == turn)?;
        Some(place.at(&self.spec.name))
    }

    /// Place that a turn would get.
    pub fn next_place(&self, want: &Want) -> QueuePlace {
        let state = self.state.lock();
        let before = if state.line.is_empty() { vec![] } else { state.line.before(&want.request(())) };
        let mut outlook = state.outlook();
        state.begins(&mut outlook, &before);
        // Itself included; of the others that come it is not known what they want.
        let coming = state.coming.max(1);
        let eta = outlook.nth(&want.model, state.is_loaded(&want.model), coming);
        let eta = eta.filter(|_| state.times.knows(&want.model));
        QueuePlace::new(count(before.len() + coming), eta).at(&self.spec.name)
    }

    /// When a turn that runs or waits here is expected to give its slot back.
    pub fn end_of(&self, turn: TurnId) -> Option<Duration> {
        let state = self.state.lock();
        if let Some(running) = state.running.iter().find(|running| running.turn == turn) {
            return state.times.left(&running.model, running.held_for(now()));
        }
        let held = state.times.held(&state.line.get(turn)?.payload.model)?;
        let line = state.line.positions();
        let begins = state.begins(&mut state.outlook(), &line);
        let begins = line.iter().zip(begins).find(|(other, _)| **other == turn)?.1;
        begins?.checked_add(held)
    }

    /// Expected waits of turns that come here one after the other, each when the one before it has ended; the first one when
    /// what it stands behind has: at `ends`, or, where that is not known, after a turn of its like that is still to come here.
    pub fn waits_behind(&self, ends: Option<Duration>, waiting: &[&Want]) -> Vec<Option<Duration>> {
        let Some(first) = waiting.first() else { return vec![] };
        let state = self.state.lock();
        let before = if state.line.is_empty() { vec![] } else { state.line.before(&first.request(())) };
        let mut outlook = state.outlook();
        state.begins(&mut outlook, &before);
        // Whoever goes before in the conversation has loaded the model.
        let mut next = |model: &str, after| {
            let begins = outlook.next(model, true, after)?;
            Some((begins, begins.saturating_add(state.times.held(model)?)))
        };
        let mut after = ends.or_else(|| next(&first.model, Duration::ZERO).map(|(_, ends)| ends));
        let one = |want: &&Want| {
            let (begins, ends) = next(&want.model, after?)?;
            after = Some(ends);
            state.times.knows(&want.model).then_some(begins)
        };
        waiting.iter().map(one).collect()
    }

    /// Places and waits that are not any more what was told: waits get shorter by themselves.
    pub fn moved(&self) -> Vec<(ConversationId, QueueMoved)> {
        let mut state = self.state.lock();
        if state.line.is_empty() {
            return vec![];
        }
        let mut moved = vec![];
        for (turn_id, place) in state.places() {
            let Some(waiter) = state.line.payload_mut(turn_id) else { continue };
            let Some(conversation) = waiter.conversation else { continue };
            let place = place.at(&self.spec.name);
            if waiter.told.as_ref().is_some_and(|told| is_near(told, &place)) {
                continue;
            }
            waiter.told = Some(place.clone());
            moved.push((conversation, QueueMoved::new(turn_id, place)));
        }
        moved
    }

    /// How long ago its models were listed.
    pub fn age(&self) -> Option<Duration> {
        self.state.lock().refreshed.map(|at| now().saturating_duration_since(at))
    }

    pub fn models(&self) -> Vec<ModelSummary> {
        self.state.lock().models.clone()
    }

    /// The first model of its list that can chat, or may be able to.
    pub fn first_that_chats(&self) -> Option<String> {
        let state = self.state.lock();
        let chats = |m: &&ModelSummary| {
            let known = state.details.get(&m.name).map_or(&m.capabilities, |details| &details.capabilities);
            known.is_empty() || known.iter().any(|ability| ability == "completion")
        };
        state.models.iter().find(chats).map(|m| m.name.clone())
    }

    /// The largest context of a model, as far as it told.
    pub fn context_length(&self, model: &str) -> Option<u32> {
        let state = self.state.lock();
        let listed =
            || state.models.iter().find(|m| is_called(&m.name, model)).and_then(|m| m.context_length);
        state.details_of(model).and_then(|details| details.context_length).or_else(listed)
    }

    /// The family of a model that it lists.
    pub fn family(&self, model: &str) -> Option<String> {
        let state = self.state.lock();
        state.models.iter().find(|m| is_called(&m.name, model)).map(|m| m.family.clone())
    }

    pub fn loaded(&self) -> Vec<LoadedModel> {
        self.state.lock().loaded.clone()
    }

    pub fn details(&self, model: &str) -> Option<Known> {
        self.state.lock().details_of(model).cloned()
    }

    /// Keeps them as long as the model is listed.
    pub fn keep_details(&self, model: &str, details: Known) {
        let mut state = self.state.lock();
        let listed = state.models.iter().find(|m| is_called(&m.name, model)).map(|m| m.name.clone());
        state.details.insert(listed.unwrap_or_else(|| model.to_owned()), details);
    }

    /// As shown outside. The wait is that of a new turn with a model of usual length that is in memory.
    pub fn server(&self) -> Server {
        let state = self.state.lock();
        let waiting = state.line.len();
        let next_probe = state.silence.1.filter(|_| !state.up);
        let reason = state.breaker.reason().or(state.silence.0.as_ref().filter(|_| !state.up));
        let paused = state.pauses.paused(now()).into_iter();
        let paused_models = paused
            .map(|p| PausedModel {
                model: p.model,
                retry_at: on_clock(p.until),
                reason: p.reason.to_string(),
            })
            .collect();
        Server {
            name: self.spec.name.clone(),
            url: self.spec.url.clone(),
            state: state.server_state(),
            version: state.version.clone(),
            latency_ms: state.latency.map(|l| l.as_secs_f64() * 1000.0),
            breaker: BreakerView {
                state: state.breaker.state(),
                retry_at: state.breaker.retry_at().or(next_probe).map(on_clock),
                reason: reason.map(|reason| reason.to_string()),
                paused_models,
            },
            slots: Slots { total: state.slots.now(), busy: state.busy() },
            queue: QueueDepth {
                depth: count(waiting),
                limit: count(self.limit),
                eta_s: state.outlook().nth("", true, waiting + 1).map(seconds),
            },
            since: state.since,
        }
    }
}

impl State {
    /// Everybody in the line in the order in which slots will be given out.
    fn places(&self) -> Vec<(TurnId, QueuePlace)> {
        let order = self.line.positions();
        let etas = self.begins(&mut self.outlook(), &order);
        let known = |turn| self.line.get(turn).is_some_and(|r| self.times.knows(&r.payload.model));
        let places = (1..).zip(order.iter().zip(etas));
        places.map(|(n, (turn, eta))| (*turn, QueuePlace::new(n, eta.filter(|_| known(*turn))))).collect()
    }

    /// When these of the line begin to be answered, one after the other.
    fn begins(&self, outlook: &mut Outlook<'_>, line: &[TurnId]) -> Vec<Option<Duration>> {
        let models = line.iter().filter_map(|turn| self.line.get(*turn)).map(|r| r.payload.model.as_str());
        models.map(|model| outlook.next(model, self.is_loaded(model), Duration::ZERO)).collect()
    }
}

/// Whether a place need not be told anew.
pub(crate) fn is_near(told: &QueuePlace, place: &QueuePlace) -> bool {
    let near = match (told.eta_s, place.eta_s) {
        (Some(told), Some(eta)) => (told - eta).abs() < (told * ETA_MOVED).max(1.0),
        (told, eta) => told.is_none() && eta.is_none(),
    };
    (told.position, told.offline, &told.server) == (place.position, place.offline, &place.server) && near
}

pub(in crate::inference) fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// A moment that is to come, as a time of day.
fn on_clock(at: Instant) -> Timestamp {
    let left = at.saturating_duration_since(now());
    Timestamp(Timestamp::now().0.saturating_add(i64::try_from(left.as_micros()).unwrap_or(i64::MAX)))
}
