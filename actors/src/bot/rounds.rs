//! Rounds of tools: what a model called is run and told to it, and it goes on.
//!
//! Before a call is run it is stored, with its event and its entry in the audit log; its result is stored before the model is told. Both are messages
//! that stand between the question and the reply, so every later prompt has them together; the reply itself stays one
//! message with all text of the turn, as its readers see it. While tools run, no slot of a model server is held.

use std::{collections::HashSet, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream};
use serde_json::{Map, Value, json};
use tokio::time::{Instant, timeout};

use super::{
    context::window::Behind,
    output,
    stop::Phase,
    turn::TurnJob,
    turn_end::{End, millis},
    turn_events,
};
use crate::{
    domain::{
        bot::AuditEntry,
        event::{EventBody, NewEvent, Topic},
        message::{Message, MessageState, Sender, Siblings},
        time::Timestamp,
        tool::{Answered, Call, ToolCalled, ToolReturned, name_of},
        turn::Usage,
    },
    history::{CommitResult, storage_problem},
    ports::{
        chat_model::{ChatDone, PromptMessage, Role},
        history_store::{Change, Fact},
        tool_runner::{ToolCall, ToolError, ToolRunner},
    },
};

/// Rounds of a turn. The request after the last of them offers no tools, so that the model comes to an answer.
pub(crate) const MAX_TOOL_ROUNDS: u32 = 8;
/// Calls of one round.
pub(crate) const MAX_CALLS: usize = 16;
/// All calls of one round together, in bytes of JSON.
pub(crate) const MAX_CALLS_BYTES: usize = 256 * 1024;
/// What is told of a result, in bytes.
pub(crate) const MAX_RESULT: usize = 64 * 1024;
/// The longest that a tool may take.
pub(crate) const TOOL_TIME: Duration = Duration::from_secs(30);
/// Calls of a round that run at the same time.
const AT_ONCE: usize = 4;
/// Ids for the messages of rounds, just before that of the reply: more than there can be.
const IDS: u128 = 1024;

/// What a turn has done with tools so far.
#[derive(Default)]
pub(crate) struct Rounds {
    /// How many there were.
    pub count: u32,
    /// What the model is shown of them.
    pub prompt: Vec<PromptMessage>,
    /// How long that is.
    pub behind: Behind,
    /// Their messages, as stored.
    pub messages: Vec<Message>,
    /// Ids of the calls.
    pub ids: HashSet<String>,
    /// What they cost.
    pub spent: Usage,
    /// Where the text of the round that runs begins in that of the reply.
    pub from: usize,
    /// Messages on their way to storage.
    storing: Option<(Vec<Message>, BoxFuture<'static, CommitResult>)>,
}

impl Rounds {
    fn show(&mut self, message: PromptMessage) {
        self.behind = self.behind.with(&message);
        self.prompt.push(message);
    }
}

/// What comes after a whole answer.
pub(super) enum Then {
    End(End),
    /// Tools have answered: ask again.
    Ask,
}

impl TurnJob {
    /// Runs the tools that an answer called.
    pub(super) async fn round(&mut self, done: ChatDone) -> Then {
        let Some(Value::Array(written)) = self.reply.tool_calls.take() else {
            return Then::End(self.judged(done).await);
        };
        let calls = told_apart(&written, self.rounds.count + 1, &mut self.rounds.ids);
        let runner = self.context.tools.clone();
        let declared = |name: &str| self.config.tools.iter().any(|tool| name_of(tool) == Some(name));
        let foreign = calls.iter().any(|call| declared(&call.name) && !runner.knows(&call.name));
        if foreign || self.rounds.count >= MAX_TOOL_ROUNDS {
            // Whoever declared them knows what to do.
            self.reply.tool_calls = Some(calls.iter().map(Call::written).collect());
            return Then::End(self.judged(done).await);
        }
        let known: Vec<bool> = calls.iter().map(|call| declared(&call.name)).collect();
        self.phase = Phase::Tools;
        self.rounds.count += 1;
        let spent = &mut self.rounds.spent;
        spent.prompt_tokens = spent.prompt_tokens.saturating_add(done.prompt_tokens.unwrap_or(0));
        spent.completion_tokens = spent.completion_tokens.saturating_add(done.completion_tokens.unwrap_or(0));
        match self.carry_out(calls, known, runner).await {
            Ok(()) => Then::Ask,
            Err(end) => Then::End(end),
        }
    }

    /// Judges the text of the reply as it will be stored: that of all rounds.
    async fn judged(&mut self, done: ChatDone) -> End {
        let text = self.shared.live.text().content;
        if self.reply.tool_calls.is_some() && text.trim().is_empty() {
            // It only calls; whoever runs that gets the answer.
            return End::Completed(done);
        }
        output::judged(self.format.clone(), text, done).await
    }

    async fn carry_out(
        &mut self,
        calls: Vec<Call>,
        known: Vec<bool>,
        runner: Arc<dyn ToolRunner>,
    ) -> Result<(), End> {
        self.store_calls(&calls).await?;
        let turn = self.turn();
        let jobs = calls.into_iter().zip(known).map(|(call, known)| {
            let wanted = ToolCall {
                bot_id: turn.bot_id.clone(),
                conversation_id: turn.conversation_id,
                turn_id: turn.id,
                id: call.id.clone(),
                name: call.name.clone(),
                arguments: call.arguments.clone(),
            };
            let runner = runner.clone();
            async move {
                let began = Instant::now();
                let result = if known { run(&*runner, &wanted).await } else { Err(ToolError::Unknown) };
                (call, result, began.elapsed())
            }
        });
        let mut results = stream::iter(jobs).buffered(AT_ONCE).boxed();
        while let Some((call, result, took)) = results.next().await {
            self.store_result(call, result, took).await?;
        }
        Ok(())
    }

    /// Stores what the model called, before anything of it is run.
    async fn store_calls(&mut self, calls: &[Call]) -> Result<(), End> {
        let text = self.shared.live.text();
        // What was said before the calls is as safe as they are.
        drop(self.checkpoint());
        let written: Value = calls.iter().map(Call::written).collect();
        let mut message = self.between(Sender::Bot, "".into());
        message.tool_calls = Some(written.clone());
        // Where in the text of the reply they stand.
        let place = json!({"content": text.content.len(), "thinking": text.thinking.len()});
        message.metadata = Map::from_iter([("text".to_owned(), place)]);
        let said = text.content.get(self.rounds.from..).unwrap_or_default();
        self.rounds.show(PromptMessage {
            role: Role::Assistant,
            content: said.into(),
            images: vec![],
            tool_calls: Some(written),
            answers: None,
        });
        self.rounds.from = text.content.len();
        let turn_id = self.turn().id;
        let events = calls.iter().map(|call| {
            EventBody::ToolCalled(ToolCalled {
                message_id: message.id,
                turn_id,
                call_id: call.id.clone(),
                name: call.name.clone(),
                arguments: call.arguments.clone(),
            })
        });
        let events = events.collect();
        let names = calls.iter().map(|call| Value::from(call.name.as_str())).collect();
        let audit = AuditEntry {
            at: message.created_at,
            actor: format!("bot:{}", message.bot_id),
            action: "tool.call".into(),
            target: format!("turn:{turn_id}"),
            reason: None,
            detail: Map::from_iter([("tools".to_owned(), Value::Array(names))]),
        };
        self.store(message, events, Some(audit)).await
    }

    async fn store_result(
        &mut self,
        call: Call,
        result: Result<String, ToolError>,
        took: Duration,
    ) -> Result<(), End> {
        let (content, error) = match result {
            Ok(result) => (bounded(result), None),
            Err(error) => (format!("error: {error}"), Some(error.to_string())),
        };
        let answered = Answered { call_id: call.id.clone(), name: call.name, error: error.clone() };
        let mut message = self.between(Sender::Tool, content.as_str().into());
        message.metadata = answered.metadata();
        self.rounds.show(PromptMessage {
            role: Role::Tool,
            content: message.content.clone(),
            images: vec![],
            tool_calls: None,
            answers: Some(answered),
        });
        let returned = ToolReturned {
            message_id: message.id,
            turn_id: self.turn().id,
            call_id: call.id,
            result: content,
            error,
            took_ms: millis(took),
        };
        self.store(message, vec![EventBody::ToolReturned(returned)], None).await
    }

    /// A message between those that are there and the reply.
    fn between(&self, sender: Sender, content: Arc<str>) -> Message {
        let nth = u128::try_from(self.rounds.messages.len()).unwrap_or(0);
        Message {
            id: self.reply.id.before(IDS.saturating_sub(nth).max(1)),
            sender,
            tokens: self.estimator().text(&content),
            content,
            state: MessageState::Complete,
            created_at: Timestamp::now(),
            ..self.reply.clone()
        }
    }

    async fn store(
        &mut self,
        message: Message,
        bodies: Vec<EventBody>,
        audit: Option<AuditEntry>,
    ) -> Result<(), End> {
        let turn = self.turn();
        let received = EventBody::MessageReceived { message: message.clone() };
        let mut events = vec![NewEvent::new(turn_events::topics(&turn), &received)];
        let topics = || vec![Topic::Conversation(turn.conversation_id), Topic::Turn(turn.id)];
        events.extend(bodies.iter().map(|body| NewEvent::new(topics(), body)));
        let change = Change::ToolRound { reply_id: self.reply.id, messages: vec![message.clone()] };
        let history = self.context.history.clone();
        let submitted = history.submit(Fact { change, events, audit });
        let persisted = async move { history.persist(submitted).await }.boxed();
        self.rounds.storing = Some((vec![message], persisted));
        self.settle().await
    }

    /// Waits until what is on its way is stored. A turn that was stopped meanwhile waits for it, too: its end comes after.
    pub(super) async fn settle(&mut self) -> Result<(), End> {
        let Some((_, persisted)) = &mut self.rounds.storing else { return Ok(()) };
        let outcome = persisted.await;
        let Some((messages, _)) = self.rounds.storing.take() else { return Ok(()) };
        let turn = self.turn().id;
        match outcome {
            // Not applied, and there all the same: it was stored before, and nobody could say so.
            Ok(done) if done.applied || self.context.generates(turn).await => {
                if let Some(last) = messages.last() {
                    (self.reply.parent_id, self.reply.siblings) =
                        (Some(last.id), Siblings { index: 1, count: 1 });
                }
                self.rounds.messages.extend(messages);
                Ok(())
            }
            Ok(_) => Err(End::Gone),
            Err(error) => Err(End::Failed(storage_problem(&error))),
        }
    }
}

/// Reads the calls of a round, each with an id of its own in the turn: many servers begin to count anew with every answer,
/// or give all calls the same one.
fn told_apart(written: &[Value], round: u32, used: &mut HashSet<String>) -> Vec<Call> {
    let read = |(at, written): (usize, &Value)| {
        let fresh = format!("call_{round}_{at}");
        let mut call = Call::read(written, fresh.clone());
        let mut nth = 0;
        while !used.insert(call.id.clone()) {
            call.id = if nth == 0 { fresh.clone() } else { format!("{fresh}_{nth}") };
            nth += 1;
        }
        call
    };
    written.iter().enumerate().map(read).collect()
}

/// Runs a tool within its time; whatever it does, the turn goes on.
async fn run(runner: &dyn ToolRunner, call: &ToolCall) -> Result<String, ToolError> {
    let running = AssertUnwindSafe(runner.run(call)).catch_unwind();
    match timeout(TOOL_TIME, running).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => {
            tracing::error!(bot.id = %call.bot_id, turn.id = %call.turn_id, tool = %call.name, "a tool panicked");
            Err(ToolError::Failed("it came to an unexpected end".into()))
        }
        Err(_) => Err(ToolError::Failed(format!("it took longer than {} s", TOOL_TIME.as_secs()))),
    }
}

/// A result that models and databases take.
fn bounded(mut result: String) -> String {
    if result.contains('\0') {
        result = result.replace('\0', "\u{FFFD}");
    }
    if result.len() > MAX_RESULT {
        result.truncate(result.floor_char_boundary(MAX_RESULT));
        result.push_str("\n[cut: the result is longer]");
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_keep_their_ids_unless_one_was_used_before_in_the_turn() {
        let call = |id: &str| json!({"id": id, "function": {"name": "f"}});
        let mut used = HashSet::new();
        let mut ids = |round: u32, all: &[&str]| -> Vec<String> {
            let written: Vec<_> = all.iter().map(|id| call(id)).collect();
            told_apart(&written, round, &mut used).into_iter().map(|call| call.id).collect()
        };
        assert_eq!(ids(1, &["a", "a", "call_1_3", ""]), ["a", "call_1_1", "call_1_3", "call_1_3_1"]);
        assert_eq!(ids(2, &["a", "b"]), ["call_2_0", "b"]);
    }

    #[test]
    fn a_long_result_is_cut_between_characters_and_says_so() {
        assert_eq!(bounded("a\0b".into()), "a\u{FFFD}b");
        let long = bounded("é".repeat(MAX_RESULT));
        assert!(long.len() < MAX_RESULT + 40 && long.ends_with("longer]"));
    }
}
