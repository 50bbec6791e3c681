//! How a turn gets its answer: it waits for its conversation and for a slot, stores its start, asks, and asks again where that
//! is safe.
//!
//! A request is repeated only while not one byte of its answer has come, and only where the server is not at work on it: it was
//! busy (503), could not be reached, failed at once (5xx), has no such model although it lists it, answered something that is no
//! model's answer, or went away (a connection that is gone before the answer's head is that of a server which just died). After a timeout the server may still be at
//! work, so that is no reason for a second run.
//!
//! Where no server is left for the bot's model, its fallback models come in their order. The turn says which model answers,
//! and a `turn_started` says so again where that changed after the first one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    context::{self, window::Plan},
    rounds::Then,
    stop::Phase,
    turn::{Asked, TurnJob, TurnShared},
    turn_end::{End, millis},
    turn_events,
};
use crate::{
    domain::{
        bot::DEFAULT_NUM_CTX,
        event::QueueMoved,
        problem::{Code, Problem},
        turn::{QueuePlace, Turn, TurnState, TurnStep},
    },
    history::storage_problem,
    inference::{Claim, Preference, SlotPermit, Want},
    ports::{
        chat_model::{ChatStream, ModelError},
        history_store::{Change, Fact},
    },
};

/// Requests that one turn sends at most, those to other servers and with shorter prompts included. With the pauses of a gate
/// whose server stays busy, they are over after half a minute to a minute.
pub(crate) const MAX_ATTEMPTS: usize = 16;

/// What a turn has tried.
#[derive(Debug, Default)]
struct Attempts {
    sent: usize,
    /// The models that it may use, and the servers that failed it with them.
    preference: Preference,
}

/// A turn that has begun waits for another slot. Counted however it ends: a stop drops it.
struct Waits {
    shared: Arc<TurnShared>,
    since: tokio::time::Instant,
}

impl Waits {
    fn of(shared: &Arc<TurnShared>) -> Self {
        Self { shared: shared.clone(), since: tokio::time::Instant::now() }
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        let timings = &mut self.shared.turn.lock().timings;
        let before = Duration::from_secs_f64(timings.queued_ms.unwrap_or_default() / 1e3);
        timings.queued_ms = Some(millis(before + self.since.elapsed()));
    }
}

impl TurnShared {
    /// The turn, where it had begun and nothing answers it any more. Once for each time that it comes to stand in line: what
    /// is told of that line later is no news of the turn.
    fn stands_again(&self) -> Option<Turn> {
        let mut turn = self.turn.lock();
        turn.server.take().filter(|_| turn.state == TurnState::Generating)?;
        Some(turn.clone())
    }
}

/// What to do about a request that was not taken.
enum Next {
    /// Ask the same server with a shorter prompt.
    Shorten,
    /// Stand in line again: before everybody else at the same server, or at a better one.
    Again,
    /// Stand in line at a server that was not tried, or for another model.
    Elsewhere,
    GiveUp,
}

impl TurnJob {
    pub(super) async fn generate(&mut self) -> End {
        let (permit, plan) = match self.begun.take() {
            Some(begun) => begun,
            None => match self.begin().await {
                Ok(begun) => begun,
                Err(end) => return end,
            },
        };
        // Boxed: hundreds wait for each that is here, and they hold no room for it.
        Box::pin(self.answer(permit, plan)).await
    }

    /// Asks, with a slot, until there is an answer or nobody left to ask.
    async fn answer(&mut self, mut permit: SlotPermit, mut plan: Plan) -> End {
        let mut attempts = Attempts { preference: self.preference(), ..Attempts::default() };
        loop {
            let Some(gate) = permit.gate().cloned() else { return End::Abandoned };
            let server = &gate.spec.name;
            attempts.sent += 1;
            let (asked, answer) = self.ask(&permit, &plan).await;
            let error = match answer {
                Ok(stream) => match self.stream(stream, &plan, asked, &mut permit).await {
                    Ok(End::Completed(done)) => {
                        // What has begun is gone on with by the same model.
                        attempts.preference.settle_on(permit.model());
                        // Tools may take their time: others have the slot meanwhile.
                        drop(permit);
                        match self.round(done).await {
                            Then::End(end) => return end,
                            Then::Ask if attempts.sent >= MAX_ATTEMPTS => {
                                return End::Failed(too_many_requests());
                            }
                            Then::Ask => {}
                        }
                        plan = match self.plan_anew().await {
                            Ok(plan) => plan,
                            Err(problem) => return End::Failed(problem),
                        };
                        permit = match self.stand(Claim::Nothing, &mut plan, &attempts.preference).await {
                            Ok(permit) => permit,
                            Err(problem) => return End::Failed(problem),
                        };
                        continue;
                    }
                    Ok(end) => return end,
                    Err(error) => {
                        permit.failed(&error);
                        return End::Failed(self.problem(&error, server, &plan));
                    }
                },
                Err(error) => error,
            };
            permit.failed(&error);
            let next = self.next(&mut attempts, &error, permit.model(), server);
            match next {
                Next::Shorten => match self.shorten(&plan).await {
                    Ok(Some(shorter)) => plan = shorter,
                    Ok(None) => return End::Failed(self.problem(&error, server, &plan)),
                    Err(problem) => return End::Failed(problem),
                },
                Next::Again | Next::Elsewhere => {
                    permit = match self.stand(permit.give_back(), &mut plan, &attempts.preference).await {
                        Ok(permit) => permit,
                        Err(problem) => return End::Failed(problem),
                    }
                }
                Next::GiveUp => return End::Failed(self.problem(&error, server, &plan)),
            }
        }
    }

    async fn ask(&mut self, permit: &SlotPermit, plan: &Plan) -> (Instant, Result<ChatStream, ModelError>) {
        self.phase =
            Phase::asked(permit.gate().is_some_and(|g| g.has_loaded(&self.shared.turn.lock().model)));
        if let Some(Asked { at, answer }) = self.asked.take() {
            return (at, answer.await);
        }
        let (at, request) = (Instant::now(), self.request(plan));
        match permit.gate() {
            Some(gate) => (at, gate.spec.model.chat(request).await),
            None => (at, Err(ModelError::Cut)),
        }
    }

    fn next(&self, attempts: &mut Attempts, error: &ModelError, model: &str, server: &str) -> Next {
        if attempts.sent >= MAX_ATTEMPTS {
            return Next::GiveUp;
        }
        match error {
            ModelError::ContextExceeded(_) => Next::Shorten,
            // The gate sends nobody there before a pause is over, or before a probe was answered.
            ModelError::Busy(_) | ModelError::Unreachable(_) => Next::Again,
            ModelError::Failed(_)
            | ModelError::ModelNotFound(_)
            | ModelError::Cut
            | ModelError::Protocol(_) => {
                attempts.preference.failed(model, server);
                match self.context.inference.has_way(&attempts.preference) {
                    true => Next::Elsewhere,
                    false => Next::GiveUp,
                }
            }
            _ => Next::GiveUp,
        }
    }

    /// What the bot would be answered by: its model, then its fallbacks.
    fn preference(&self) -> Preference {
        let turn = self.shared.turn.lock();
        let own = if self.config.model.is_empty() { &turn.model } else { &self.config.model };
        Preference::new(own, &self.config.fallback)
    }

    /// Waits for another slot. Where that is of another server or for another model, the turn starts anew for those who
    /// watch it, with a prompt that suits it.
    async fn stand(
        &mut self,
        claim: Claim,
        plan: &mut Plan,
        preference: &Preference,
    ) -> Result<SlotPermit, Problem> {
        self.phase = Phase::Queued;
        let waits = Waits::of(&self.shared);
        let permit = self.wait_for_slot(plan, preference, claim).await?;
        drop(waits);
        let before = self.turn();
        if let Some(suited) = self.suited(&permit, plan).await.map_err(|problem| self.kept(problem))? {
            *plan = suited;
            self.holds(plan);
        }
        let turn = self.turn();
        if (&turn.model, &turn.server) != (&before.model, &before.server) {
            self.context.history.note(Fact::new(Change::None, vec![turn_events::started(&turn)]));
        }
        Ok(permit)
    }

    /// The turn says what answers it from now on. Where that is another model than the prompt was made for, or has less
    /// room, it is made anew.
    async fn suited(&mut self, permit: &SlotPermit, plan: &Plan) -> Result<Option<Plan>, Problem> {
        let other = {
            let mut turn = self.shared.turn.lock();
            let other = turn.model != permit.model();
            permit.model().clone_into(&mut turn.model);
            turn.server = permit.gate().map(|g| g.spec.name.clone());
            other
        };
        let inference = self.context.inference.clone();
        self.largest = match permit.gate().and_then(|gate| gate.context_length(permit.model())) {
            // Learnt once per model; hardly any has less than the default.
            None if other && context::budget(&self.options).0 > DEFAULT_NUM_CTX => {
                inference.learnt(permit.model()).await.and_then(|details| details.context_length)
            }
            known => known,
        };
        if other {
            self.trusts_estimates();
        }
        if other || self.largest.is_some_and(|largest| largest < plan.usage.num_ctx) {
            return self.plan().await.map(Some);
        }
        Ok(None)
    }

    /// What a refusal said of its prompts says nothing any more: their tokens were counted, or another model answers.
    pub(super) fn trusts_estimates(&mut self) {
        (self.refuted, self.most) = (false, u32::MAX);
    }

    async fn wait_for_slot(
        &mut self,
        plan: &Plan,
        preference: &Preference,
        claim: Claim,
    ) -> Result<SlotPermit, Problem> {
        let (want, context) = (self.want(plan.usage.used), &self.context);
        let (turn_id, conversation, hubs) = (want.turn, want.conversation, context.hubs.clone());
        let (shared, history) = (&self.shared, &context.history);
        let told = |place: QueuePlace| {
            if let Some(waits) = shared.stands_again() {
                // Readers were told that it began, and who comes later reads that too.
                let events = vec![turn_events::queued(&waits, &place)];
                return history.note(Fact::new(Change::None, events));
            }
            // In the line of a server it is told by that.
            if place.offline.is_some() {
                hubs.publish_moved(conversation, &QueueMoved::new(turn_id, place));
            }
        };
        let permit = context.inference.acquire(&want, preference, claim, told).await?;
        self.waited = permit.waited;
        Ok(permit)
    }

    /// Waits for the conversation and for a slot, then stores the start.
    async fn begin(&mut self) -> Result<(SlotPermit, Plan), End> {
        if let Some(go) = self.go.take() {
            // An error means that the bot is gone, and this task with it in a moment.
            self.path = Some(go.await.map_err(|_| End::Abandoned)?);
        }
        let inference = self.context.inference.clone();
        {
            let mut turn = self.shared.turn.lock();
            turn.model = match turn.model.as_str() {
                "" => inference.any_model().unwrap_or_default(),
                named => inference.choose(named, &self.config.fallback).to_owned(),
            };
        }
        let mut plan = self.plan().await.map_err(End::Failed)?;
        let claim = std::mem::take(&mut self.claim);
        let preference = self.preference();
        let permit = self.wait_for_slot(&plan, &preference, claim).await.map_err(End::Failed)?;
        if let Some(suited) = self.suited(&permit, &plan).await.map_err(End::Failed)? {
            plan = suited;
        }
        let turn = {
            let mut turn = self.shared.turn.lock();
            turn.state = turn.state.after(TurnStep::Start).ok_or(End::Abandoned)?;
            turn.queue = None;
            turn.timings.queued_ms = Some(millis(self.shared.accepted.elapsed()));
            turn.context = plan.usage;
            turn.clone()
        };
        let started = turn_events::started(&turn);
        let trimmed = turn_events::trimmed(&turn, plan.summary);
        let submitted = self.context.entry.turn_began(turn.id, |changed| {
            let events = changed.into_iter().chain(trimmed).chain([started]).collect();
            self.context.history.submit(Fact::new(Change::StartTurn(turn.clone()), events))
        });
        // An acknowledged message is not given up because the database is away for a moment.
        match self.context.history.persist(submitted).await {
            // Not applied, and begun all the same: it was stored before, and nobody could say so.
            Ok(done) if done.applied || self.context.generates(turn.id).await => Ok((permit, plan)),
            Ok(_) => Err(End::Gone),
            Err(error) => Err(End::Failed(storage_problem(&error))),
        }
    }

    /// What it wants of a server, with so many tokens of prompt.
    pub(super) fn want(&self, prompt: u32) -> Want {
        let turn = self.shared.turn.lock();
        Want {
            turn: turn.id,
            conversation: turn.conversation_id,
            bot: turn.bot_id.clone(),
            class: self.class,
            model: turn.model.clone(),
            cost: context::cost(prompt, &self.options),
            waited: self.waited,
            told: turn.queue.clone(),
            tried: vec![],
        }
    }
}

/// Rounds of tools count, and so do requests that were repeated between them.
fn too_many_requests() -> Problem {
    Problem::new(
        Code::UpstreamError,
        format!("The turn has sent {MAX_ATTEMPTS} requests and is not at its end. What came before is kept."),
    )
}
