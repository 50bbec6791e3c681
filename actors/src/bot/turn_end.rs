//! The end of a turn: what is stored, who is told, and how it is stored however long the database is away.

use std::time::Duration;

use super::{BotMessage, context::ContextEntry, turn::TurnJob, turn_events};
use crate::{
    domain::{
        event::TurnEnd,
        message::{Message, MessageState},
        problem::{Code, Problem},
        time::Timestamp,
        turn::{Turn, TurnState, TurnStep},
    },
    history::{History, Submitted, storage_problem},
    ports::{
        chat_model::ChatDone,
        history_store::{Change, Fact},
    },
    state::{BotEntry, TurnTally},
};

/// How a turn ends.
pub(super) enum End {
    Completed(ChatDone),
    Stopped,
    Failed(Problem),
    /// The model ended by itself, and what it wrote is not what was asked for.
    Invalid(ChatDone, Problem),
    /// The process is ending, or the bot is: somebody else ends it.
    Abandoned,
    /// It has ended or was deleted behind this task's back.
    Gone,
}

/// Milliseconds with three decimals.
pub(super) fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// Submits the end of a turn together with the bot's totals.
fn submit_end(entry: &BotEntry, history: &History, turn: Turn, reply: Message) -> Submitted {
    let tally = TurnTally {
        turn: turn.id,
        failed: matches!(turn.state, TurnState::Failed | TurnState::Interrupted),
        prompt: turn.usage.prompt_tokens,
        completion: turn.usage.completion_tokens,
    };
    let end = turn_events::ended(&turn, &reply);
    entry.turn_ended(tally, |status, changed| {
        let events = std::iter::once(end).chain(changed).collect();
        history.submit(Fact::new(Change::FinishTurn { turn, reply, status }, events))
    })
}

impl TurnJob {
    /// Lets go of a turn that ended without this task, and tells whoever waits for it.
    async fn let_go(self: Box<Self>) {
        let mut turn = self.turn();
        let _ = self.bot.cast(BotMessage::TurnGone { turn: turn.id });
        self.shared.live.seal();
        let stored = self.context.read(self.context.store.turn_snapshot(turn.id)).await.ok().flatten();
        let end = stored.filter(|s| s.turn.state.is_terminal()).map_or_else(
            || {
                turn.state = TurnState::Interrupted;
                turn.error = Some(Problem::new(
                    Code::TurnInterrupted,
                    "The conversation was deleted before the answer.",
                ));
                TurnEnd { turn: turn.clone(), reply: None }
            },
            |s| TurnEnd { turn: s.turn, reply: s.reply },
        );
        self.context.hubs.tell_end(end);
    }

    /// Leaves a turn to others. Where the process goes on its bot is told: nothing behind it waits for it then, and if
    /// nobody ended it, it begins anew.
    fn abandon(&self) {
        if !self.context.inference.is_closed() {
            let turn = self.shared.turn.lock().id;
            let _ = self.bot.cast(BotMessage::TurnGone { turn });
            let _ = self.bot.cast(BotMessage::LookForStrays);
        }
    }

    /// The ended turn and reply, as they will be stored.
    fn ended(&self, end: End) -> Option<(Turn, Message)> {
        let (step, done, problem) = match end {
            End::Completed(done) => (TurnStep::Complete, done, None),
            End::Stopped => (TurnStep::Stop, ChatDone::default(), None),
            End::Failed(problem) => (TurnStep::Fail, ChatDone::default(), Some(problem)),
            End::Invalid(done, problem) => (TurnStep::Fail, done, Some(problem)),
            End::Abandoned | End::Gone => return None,
        };
        let text = self.shared.live.seal();
        let mut reply = self.reply.clone();
        reply.state = if step == TurnStep::Complete { MessageState::Complete } else { MessageState::Partial };
        let spent = self.rounds.spent;
        reply.tokens = match done.completion_tokens {
            Some(tokens) => tokens.saturating_add(spent.completion_tokens),
            None => self.estimator().text(&text.content).max(spent.completion_tokens),
        };
        reply.content = text.content.into();
        reply.thinking = (!text.thinking.is_empty()).then(|| text.thinking.into());
        if done.is_cut() {
            reply.mark_cut();
        }
        let mut turn = self.turn();
        let never_began = turn.state == TurnState::Queued;
        turn.state = turn.state.after(step)?;
        turn.queue = None;
        turn.error = problem;
        // Where the server did not come to count, the estimates stand: the work was done all the same.
        let began = turn.timings.first_token_ms.is_some();
        let prompt = done.prompt_tokens.unwrap_or(if began { turn.context.used } else { 0 });
        turn.usage.prompt_tokens = prompt.saturating_add(spent.prompt_tokens);
        turn.usage.completion_tokens = reply.tokens;
        turn.context.used = done.prompt_tokens.unwrap_or(turn.context.used);
        turn.timings.total_ms = Some(millis(self.shared.accepted.elapsed()));
        if never_began {
            turn.timings.queued_ms = turn.timings.total_ms;
        }
        turn.ended_at = Some(Timestamp::now());
        Some((turn, reply))
    }

    pub(super) async fn finish(mut self: Box<Self>, end: End) {
        // What is on its way comes before the end.
        let end = match self.settle().await {
            Ok(()) => end,
            Err(lost) => lost,
        };
        if matches!(end, End::Gone) {
            return self.let_go().await;
        }
        let Some((turn, reply)) = self.ended(end) else { return self.abandon() };
        if let Some(problem) = &turn.error {
            tracing::info!(bot.id = %turn.bot_id, turn.id = %turn.id, code = %problem.code, "turn failed");
        }
        tracing::debug!(
            bot.id = %turn.bot_id, turn.id = %turn.id, action = turn.state.as_str(), tokens = turn.usage.completion_tokens,
            duration_ms = turn.timings.total_ms, "turn ended"
        );
        let context = &self.context;
        // The bot may die before the database hears of it; its successor stores this end then.
        self.shared.live.decide(TurnEnd { turn: turn.clone(), reply: Some(reply.clone()) });
        let said = [&self.shared.message].into_iter().chain(&self.rounds.messages).chain([&reply]);
        let entries = said.filter_map(ContextEntry::of).collect();
        let submitted = submit_end(&context.entry, &context.history, turn.clone(), reply.clone());
        // The lane is free as soon as the end is on its way: what follows is behind it in the same line.
        let _ = self.bot.cast(BotMessage::TurnEnded {
            turn: turn.id,
            conversation: turn.conversation_id,
            leaf: reply.id,
            parent: self.shared.message.parent_id,
            entries,
            path: self.path.take(),
        });
        // Nothing is lost while this task lives: it tries until the database is back.
        let mut decided = context.history.persist(submitted).await;
        let (mut turn, mut reply) = (turn, reply);
        if let Err(error) = &decided {
            // The text can't be stored, ever; that the turn has ended can. What is not in the record is not in a prompt.
            let _ = self.bot.cast(BotMessage::Forget { conversation: turn.conversation_id });
            (turn, reply) = without_text(turn, reply, storage_problem(error));
            let end = turn_events::ended(&turn, &reply);
            let status = context.entry.count_error();
            let change = Change::FinishTurn { turn: turn.clone(), reply: reply.clone(), status };
            decided = context.history.persist(context.history.submit(Fact::new(change, vec![end]))).await;
        }
        if let Err(error) = &decided {
            tracing::error!(bot.id = %turn.bot_id, turn.id = %turn.id, %error, "the end of a turn was not stored");
        }
        if !decided.is_ok_and(|done| done.applied) {
            // Somebody else ended it first, or its history was deleted under it.
            context.hubs.forget_reply(turn.id);
            context.hubs.tell_end(TurnEnd { turn, reply: Some(reply) });
        }
    }
}

/// The end of a turn whose answer the database refuses.
pub(super) fn without_text(mut turn: Turn, mut reply: Message, problem: Problem) -> (Turn, Message) {
    turn.state = TurnState::Failed;
    turn.error = Some(problem);
    reply.state = MessageState::Partial;
    reply.content = "".into();
    (reply.thinking, reply.tool_calls) = (None, None);
    (turn, reply)
}
