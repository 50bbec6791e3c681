//! One turn, from its acceptance to its one end. Runs as linked work of the bot: told to stop, it
//! ends in order; killed with its bot, it leaves the rest to [`super::recovery`].
//!
//! Invariant: this task is the only one that appends to its reply, and it asks for the end of the turn only
//! after the last piece is published, so no reader sees text behind the end.

use std::{
    future::ready,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, OptionFuture},
};
use parking_lot::Mutex;
use ractor::{ActorRef, RpcReplyPort};
use tokio::sync::oneshot;

use super::{
    BotMessage,
    context::{
        self, ContextEntry, Path,
        window::{self, Plan, Said},
    },
    rounds::{MAX_CALLS, MAX_CALLS_BYTES, MAX_TOOL_ROUNDS, Rounds},
    stop::{Phase, Stop},
    summary::Summaries,
    turn_context::TurnContext,
    turn_end::{End, millis},
    turn_events,
};
use crate::{
    broadcast::LiveReply,
    controller::requests::{AcceptedTurn, Sent},
    domain::{
        bot::{BotConfig, Options, Overflow},
        event::TurnEnd,
        message::Message,
        problem::{Code, Problem},
        turn::Turn,
    },
    history::{CommitResult, Submitted, Unsaved, read_problem, storage_problem},
    inference::{
        Claim, SlotPermit, model_problem,
        queue::Class,
        tokens::{Counted, Estimator},
    },
    ports::{
        chat_model::{ChatRequest, ChatStream, ModelError, Piece},
        history_store::{Change, Fact},
    },
};

/// Bytes of content and thinking in one answer, all rounds together: what a context of a million tokens may hold. A server
/// that goes on beyond that is out of order; the memory and the record are everybody's.
const MAX_ANSWER: usize = 8 << 20;

/// A partial reply is stored at least this often while it grows.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);
/// And at least every so many bytes.
const CHECKPOINT_BYTES: usize = 2048;

/// A turn in progress: where it stands, its message, its text.
pub(crate) struct TurnShared {
    pub turn: Arc<Mutex<Turn>>,
    pub message: Message,
    pub live: Arc<LiveReply>,
    pub accepted: Instant,
}

impl TurnShared {
    pub fn new(turn: Turn, message: Message, live: Arc<LiveReply>) -> Arc<Self> {
        Arc::new(Self { turn: Arc::new(Mutex::new(turn)), message, live, accepted: Instant::now() })
    }
}

/// A turn that has to be driven to its end.
pub(crate) struct TurnJob {
    pub context: TurnContext,
    pub bot: ActorRef<BotMessage>,
    pub shared: Arc<TurnShared>,
    /// The pending reply as stored.
    pub reply: Message,
    pub config: Arc<BotConfig>,
    /// Options of the bot, overlaid by those of the message.
    pub options: Options,
    pub think: Option<serde_json::Value>,
    pub format: Option<serde_json::Value>,
    pub summaries: Summaries,
    pub stop: Stop,
    /// What it does now.
    pub phase: Phase,
    /// The acceptance on its way to storage, and who waits for it; none for a turn found in storage.
    pub accept: Option<(Submitted, RpcReplyPort<Result<Sent, Problem>>)>,
    /// The conversation's turn to run; none if it is already there.
    pub go: Option<oneshot::Receiver<Arc<Path>>>,
    /// The history that it continues, if it is in memory.
    pub path: Option<Arc<Path>>,
    /// How its requests stand in the line of a server.
    pub class: Class,
    /// Its room in that line, from before it was stored.
    pub claim: Claim,
    /// Slot and prompt of a turn whose start is part of its acceptance.
    pub begun: Option<(SlotPermit, Plan)>,
    /// The request to the model server that was begun while the acceptance was on its way to storage.
    pub asked: Option<Asked>,
    /// The largest context of what answers it, where that is known.
    pub largest: Option<u32>,
    /// A server refused its prompt as too long, though it was estimated to fit.
    pub refuted: bool,
    /// Tokens of its largest prompt, as they were estimated, once a server refused a longer one and none has said yet how many they were.
    pub most: u32,
    /// How long it has stood in the lines of servers.
    pub waited: Duration,
    /// What it did with tools.
    pub rounds: Rounds,
    /// How much of the text is stored nowhere else.
    pub unsaved: Unsaved,
}

/// A request on its way to a model server.
pub(crate) struct Asked {
    pub(super) at: Instant,
    pub(super) answer: BoxFuture<'static, Result<ChatStream, ModelError>>,
}

/// Drives a turn to its end.
pub(crate) async fn run(mut job: Box<TurnJob>) {
    let waits = match job.accept.take() {
        None => None,
        Some((submitted, reply)) => match job.accepted(submitted).await {
            Ok(done) if done.applied => Some(reply),
            Ok(_) => return Box::pin(job.already_there(reply)).await,
            Err(error) => return job.refused(reply, storage_problem(&error)),
        },
    };
    job.shared.live.stands(job.shared.turn.clone());
    if let Some(reply) = waits {
        job.acknowledge(reply);
    }
    let end = job.drive().await;
    // Boxed: while a turn waits it holds no room for this.
    Box::pin(job.finish(end)).await;
}

impl TurnJob {
    pub(super) fn turn(&self) -> Turn {
        self.shared.turn.lock().clone()
    }

    /// Waits for the acceptance. A turn that has its slot asks the model server meanwhile: the commit and the way there
    /// overlap. Nothing of the answer is shown before the acceptance is durable; if it is refused, the request is dropped.
    async fn accepted(&mut self, submitted: Submitted) -> CommitResult {
        let Some((permit, plan)) = &self.begun else { return submitted.outcome().await };
        let Some(gate) = permit.gate().cloned() else { return submitted.outcome().await };
        let request = self.request(plan);
        let at = Instant::now();
        let mut answer = async move { gate.spec.model.chat(request).await }.boxed();
        let mut outcome = pin!(submitted.outcome());
        tokio::select! {
            biased;
            outcome = &mut outcome => {
                self.asked = Some(Asked { at, answer });
                outcome
            }
            early = &mut answer => {
                self.asked = Some(Asked { at, answer: ready(early).boxed() });
                outcome.await
            }
        }
    }

    fn acknowledge(&self, reply: RpcReplyPort<Result<Sent, Problem>>) {
        let turn = self.turn();
        let end = self.context.hubs.watch_end(turn.id);
        let accepted = AcceptedTurn { turn, message: self.shared.message.clone(), replayed: false, end };
        // The caller may be gone; the turn runs all the same.
        let _ = reply.send(Ok(Sent::Turn(accepted)));
    }

    /// The acceptance had been stored before (by an actor that died before it could say so).
    async fn already_there(self: Box<Self>, reply: RpcReplyPort<Result<Sent, Problem>>) {
        let id = self.shared.turn.lock().id;
        let end = self.context.hubs.watch_end(id);
        let answer = match self.context.read(self.context.store.turn_snapshot(id)).await {
            Ok(Some(found)) => {
                let turn = found.turn;
                if turn.state.is_terminal() {
                    self.context.hubs.tell_end(TurnEnd { turn: turn.clone(), reply: found.reply });
                }
                let message = self.shared.message.clone();
                Ok(Sent::Turn(AcceptedTurn { turn, message, replayed: false, end }))
            }
            unknown => {
                self.context.hubs.unwatch_end(id, end);
                Err(unknown.err().map_or_else(behind_a_lost_one, |error| read_problem(&error)))
            }
        };
        let _ = self.bot.cast(BotMessage::TurnGone { turn: id });
        // Nobody may run it.
        let _ = self.bot.cast(BotMessage::LookForStrays);
        let _ = reply.send(answer);
    }

    fn refused(self: Box<Self>, reply: RpcReplyPort<Result<Sent, Problem>>, problem: Problem) {
        let id = self.shared.turn.lock().id;
        self.context.hubs.forget_end(id);
        let _ = self.bot.cast(BotMessage::TurnGone { turn: id });
        // The commit may have got through, and only its answer not: then the turn is there and wants to be run.
        let _ = self.bot.cast(BotMessage::LookForStrays);
        let _ = reply.send(Err(problem));
    }

    pub(super) fn estimator(&self) -> Estimator {
        self.context.inference.estimator(&self.shared.turn.lock().model, &self.config)
    }

    async fn drive(&mut self) -> End {
        let stop = self.stop.clone();
        let ended = tokio::select! {
            biased;
            () = stop.asked() => None,
            end = self.generate() => Some(end),
        };
        ended.unwrap_or_else(|| {
            // What it had before it came to use it. The rest went with the work that was dropped just now.
            (self.begun, self.asked, self.claim) = (None, None, Claim::Nothing);
            stop.let_go(self.phase);
            End::Stopped
        })
    }

    /// Its options, with no more context than is known of what answers it.
    fn options_here(&self) -> Options {
        let (num_ctx, _) = context::budget(&self.options);
        let num_ctx = self.largest.map_or(num_ctx, |largest| num_ctx.min(largest));
        Options { num_ctx: Some(num_ctx), ..self.options.clone() }
    }

    /// The prompt, up to its message; reads the history where it is not in memory.
    pub(super) async fn plan(&mut self) -> Result<Plan, Problem> {
        self.plan_within(self.most, self.estimator()).await
    }

    /// The prompt with no more history than so many tokens of it leave room for, by this estimator.
    async fn plan_within(&mut self, most: u32, estimator: Estimator) -> Result<Plan, Problem> {
        let message = ContextEntry::of(&self.shared.message).ok_or_else(|| {
            Problem::new(Code::Internal, "A message without a turn can't be answered; this is a defect.")
        })?;
        let parent = self.shared.message.parent_id;
        let path = match self.path.take().filter(|p| p.leaf == parent) {
            Some(path) => path,
            None => {
                let (num_ctx, _) = context::budget(&self.options);
                let keep = context::worth_keeping(num_ctx);
                // The answer before this one may still be on its way to storage.
                self.context.history.barrier().await;
                Arc::new(self.context.load_path(parent, keep).await?)
            }
        };
        let summary = self.summaries.for_use(&self.config, &path);
        let said = Said { path: &path, summary: summary.as_deref(), most };
        let (options, behind) = (self.options_here(), self.rounds.behind);
        let plan = window::plan(&self.config, &options, said, &message, behind, estimator);
        self.path = Some(path);
        plan
    }

    /// The prompt of a turn that has begun, and what it holds is told.
    pub(super) async fn plan_anew(&mut self) -> Result<Plan, Problem> {
        let plan = self.plan().await.map_err(|problem| self.kept(problem))?;
        self.holds(&plan);
        Ok(plan)
    }

    /// A prompt that is shorter by a quarter, or has no history, after the server refused one; `None` where there is nothing
    /// left to leave out. Its count is not known and the estimate was wrong, so what is left out is measured by the prompt
    /// that was refused; the count of the one that is taken then teaches.
    ///
    /// # Errors
    /// Where the history can't be read.
    pub(super) async fn shorten(&mut self, before: &Plan) -> Result<Option<Plan>, Problem> {
        self.refuted = true;
        if self.config.context.overflow == Overflow::Refuse {
            return Ok(None);
        }
        self.most = before.usage.used / 4 * 3;
        let shorter =
            self.plan_within(self.most, before.estimator).await.map_err(|problem| self.kept(problem))?;
        if shorter.usage.used >= before.usage.used {
            return Ok(None);
        }
        Ok(Some(shorter))
    }

    /// The turn says what its prompt holds.
    pub(super) fn holds(&self, plan: &Plan) {
        let (before, turn) = {
            let mut turn = self.shared.turn.lock();
            (std::mem::replace(&mut turn.context, plan.usage), turn.clone())
        };
        if plan.usage.trimmed_messages > before.trimmed_messages {
            let events = turn_events::trimmed(&turn, plan.summary).into_iter().collect();
            self.context.history.note(Fact::new(Change::None, events));
        }
    }

    /// The tools that its next request offers.
    fn offered(&self) -> &[serde_json::Value] {
        if self.rounds.count < MAX_TOOL_ROUNDS { &self.config.tools } else { &[] }
    }

    pub(super) fn request(&self, plan: &Plan) -> ChatRequest {
        let options = Options { num_ctx: Some(plan.usage.num_ctx), ..self.options.clone() };
        ChatRequest {
            model: self.shared.turn.lock().model.clone(),
            messages: plan.messages.iter().chain(&self.rounds.prompt).cloned().collect(),
            options: options_as_sent(&options),
            think: self.think.clone(),
            format: self.format.clone(),
            tools: self.offered().to_vec(),
            keep_alive: self.config.keep_alive.clone(),
        }
    }

    pub(super) async fn stream(
        &mut self,
        mut stream: ChatStream,
        plan: &Plan,
        asked: Instant,
        permit: &mut SlotPermit,
    ) -> Result<End, ModelError> {
        // A server took it: those that it refused before are nobody's context.
        self.holds(plan);
        let mut due = tokio::time::Instant::now() + CHECKPOINT_EVERY;
        // Bytes that are stored, the length at which more are sent, and the one checkpoint on its way: a slow database
        // gets the next one after it.
        let (mut stored, mut next, mut checkpoint) = (0, CHECKPOINT_BYTES, None);
        loop {
            let length = self.shared.live.len();
            if !self.unsaved.is_now(length - stored) {
                return Ok(End::Failed(too_much_unsaved()));
            }
            let grown = checkpoint.is_none() && length > stored;
            if grown && (length >= next || tokio::time::Instant::now() >= due) {
                checkpoint = Some(self.checkpoint());
                due = tokio::time::Instant::now() + CHECKPOINT_EVERY;
                continue;
            }
            let burst = tokio::select! {
                biased;
                outcome = OptionFuture::from(checkpoint.as_mut()), if checkpoint.is_some() => {
                    checkpoint = None;
                    // What the database did not take is sent again when it is due, not with the next piece.
                    (stored, next) = outcome.flatten().map_or((stored, usize::MAX), |bytes| (bytes, bytes + CHECKPOINT_BYTES));
                    continue;
                }
                burst = stream.next() => burst,
                () = tokio::time::sleep_until(due), if grown => continue,
            };
            let mut burst = burst.unwrap_or(Err(ModelError::Cut))?;
            permit.answered();
            burst.pieces.iter_mut().for_each(without_nul);
            if length + burst.pieces.iter().map(|piece| piece.text.len()).sum::<usize>() > MAX_ANSWER {
                return Err(ModelError::Protocol(format!("an answer of more than {MAX_ANSWER} bytes")));
            }
            if let Some(last) = burst.pieces.last() {
                self.phase = Phase::of(last.kind);
                if stored == 0 && self.shared.live.len() == 0 {
                    let mut turn = self.shared.turn.lock();
                    turn.timings.first_token_ms = Some(millis(asked.elapsed()));
                    due = tokio::time::Instant::now() + CHECKPOINT_EVERY;
                }
                if !self.shared.live.append(&burst.pieces) {
                    return Ok(End::Abandoned);
                }
            }
            if !burst.tool_calls.is_empty() {
                let calls = self.reply.tool_calls.get_or_insert_with(|| serde_json::Value::Array(vec![]));
                if let Some(calls) = calls.as_array_mut() {
                    calls.extend(burst.tool_calls);
                    if calls.len() > MAX_CALLS
                        || calls.iter().map(|call| call.to_string().len()).sum::<usize>() > MAX_CALLS_BYTES
                    {
                        self.reply.tool_calls = None;
                        return Err(ModelError::Protocol(format!(
                            "more than {MAX_CALLS} calls of tools at once, or more than {MAX_CALLS_BYTES} bytes of them"
                        )));
                    }
                }
            }
            if let Some(mut done) = burst.done {
                permit.done(done.load);
                // What is not the count of the whole prompt says less than the estimate.
                done.prompt_tokens = done.prompt_tokens.filter(|tokens| self.counted(plan, *tokens));
                return Ok(End::Completed(done));
            }
        }
    }

    /// Learns from the count of a prompt; false where it can't be that of the whole one.
    fn counted(&mut self, plan: &Plan, tokens: u32) -> bool {
        let (inference, model) = (&self.context.inference, self.shared.turn.lock().model.clone());
        let tools = window::tools_size(self.offered());
        let messages = plan.messages.len() + self.rounds.prompt.len();
        let counted = Counted { size: plan.size, tools, messages, tokens, refuted: self.refuted };
        let believed = inference.believes(&model, &self.config, counted);
        // Only text says how long a token is.
        if believed && plan.messages.iter().all(|m| m.images.is_empty()) {
            inference.counted(&model, &self.config, counted, plan.usage.used);
            if tokens > 0 {
                self.trusts_estimates();
            }
        }
        believed
    }

    /// Sends the text so far on its way to storage; answers with the bytes of it once they are stored.
    pub(super) fn checkpoint(&self) -> BoxFuture<'static, Option<usize>> {
        let text = self.shared.live.text();
        let bytes = text.content.len() + text.thinking.len();
        let thinking = (!text.thinking.is_empty()).then_some(text.thinking);
        let change = Change::Checkpoint { reply_id: self.reply.id, content: text.content, thinking };
        let submitted = self.context.history.offer(Fact::new(change, vec![]));
        async move { submitted.outcome().await.ok().map(|_| bytes) }.boxed()
    }

    /// What a turn fails with where a server does not take this prompt.
    pub(super) fn problem(&self, error: &ModelError, server: &str, plan: &Plan) -> Problem {
        let model = self.shared.turn.lock().model.clone();
        self.kept(match error {
            ModelError::ContextExceeded(_) => {
                self.shared.turn.lock().context = plan.usage;
                window::refused(plan, &self.options_here())
            }
            ModelError::ModelNotFound(_) => self.context.inference.no_such_model(&model, server),
            _ => model_problem(error, &model, server),
        })
    }

    pub(super) fn kept(&self, mut problem: Problem) -> Problem {
        if self.shared.live.len() > 0 {
            problem.detail.push_str(" What came before is kept.");
        }
        problem
    }
}

/// Options in the form of the port: those that are set.
pub(super) fn options_as_sent(options: &Options) -> serde_json::Value {
    let mut options = serde_json::to_value(options).unwrap_or_default();
    if let Some(options) = options.as_object_mut() {
        options.retain(|_, value| !value.is_null());
    }
    options
}

/// The problem of a message that hangs on one which the database did not take.
pub(crate) fn behind_a_lost_one() -> Problem {
    Problem::new(
        Code::StorageUnavailable,
        "The message before this one could not be stored, so this one was not either. Send it again.",
    )
}

/// Some databases take no NUL in a text, and what readers see is what is stored.
fn without_nul(piece: &mut Piece) {
    if piece.text.contains('\0') {
        piece.text = piece.text.replace('\0', "\u{FFFD}");
    }
}

/// The database has been away for so long that the text of the running answers has no more room.
fn too_much_unsaved() -> Problem {
    Problem::new(
        Code::StorageUnavailable,
        "The database is away and the answers that wait to be stored have become too long. What came before is kept and \
         stored when it is back.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_that_waits_takes_little_memory() {
        fn of<A, F: Future>(_: impl Fn(A) -> F) -> usize {
            size_of::<F>()
        }
        let bytes = of(run) + size_of::<TurnJob>();
        assert!(bytes <= 4096, "{bytes} bytes, and hundreds wait at the same time");
    }
}
