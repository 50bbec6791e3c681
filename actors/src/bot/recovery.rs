//! After a crash: turns that nobody runs any more are ended or found again. Runs once for each new
//! actor of a bot, and once when a bot is quarantined.

use std::time::Duration;

use super::{accept::Overrides, turn_context::TurnContext, turn_end::without_text, turn_events};
use crate::{
    controller::requests::AcceptedTurn,
    domain::{
        bot::{BotStep, StoredStatus},
        event::TurnEnd,
        ids::{MessageId, TurnId},
        message::{Message, MessageState},
        problem::{Code, Problem},
        time::Timestamp,
        turn::{Turn, TurnState, TurnStep},
    },
    history::storage_problem,
    ports::history_store::{Change, Fact, StoreError},
};

/// A waiting turn found in storage.
#[derive(Debug)]
pub(crate) struct FoundTurn {
    pub turn: Turn,
    pub message: Message,
    /// The pending reply.
    pub reply: Message,
    pub overrides: Overrides,
    /// End of its conversation's path.
    pub leaf: Option<MessageId>,
}

/// Why turns are found without anybody who runs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The bot crashed; all of its waiting turns go on.
    BotCrashed,
    /// The process ended; turns older than this are not begun any more.
    ProcessEnded { max_age: Duration },
    /// The bot was stopped on purpose; nothing of it goes on.
    BotStopped,
}

/// How a found turn ends.
struct Verdict {
    step: TurnStep,
    problem: Option<Problem>,
}

/// How a found turn ends; none where it goes on.
fn verdict(turn: &Turn, cause: Cause, now: Timestamp) -> Option<Verdict> {
    let interrupted = |detail: String| {
        let problem = Some(Problem::new(Code::TurnInterrupted, detail));
        Some(Verdict { step: TurnStep::Interrupt, problem })
    };
    match (turn.state, cause) {
        (_, Cause::BotStopped) => Some(Verdict { step: TurnStep::Stop, problem: None }),
        (TurnState::Generating, Cause::BotCrashed) => {
            interrupted("The bot crashed in the middle of the answer. What came before is kept.".into())
        }
        (TurnState::Generating, Cause::ProcessEnded { .. }) => {
            interrupted("The service ended in the middle of the answer. What came before is kept.".into())
        }
        (_, Cause::ProcessEnded { max_age }) if now.since(turn.created_at) > max_age => interrupted(format!(
            "The service was away for too long: the message waited more than {} s and was not begun.",
            max_age.as_secs()
        )),
        _ => None,
    }
}

/// As [`recover`], for a bot without an actor: nothing is done where it was started again meanwhile, because its new
/// actor does it then.
pub(crate) async fn settle(context: &TurnContext, cause: Cause) -> Result<(), Problem> {
    let _alone = context.entry.recovering.lock().await;
    if !context.entry.state().accepts_messages() {
        recover_alone(context, cause).await?;
    }
    Ok(())
}

/// Ends what was being generated, with the text that readers saw, and answers with the turns that wait,
/// oldest first.
pub(crate) async fn recover(context: &TurnContext, cause: Cause) -> Result<Vec<FoundTurn>, Problem> {
    let _alone = context.entry.recovering.lock().await;
    recover_alone(context, cause).await
}

/// The open turns of a bot that nobody runs, each with its message and its pending reply.
async fn left_behind(context: &TurnContext) -> Result<Vec<(Turn, Message, Message)>, Problem> {
    // Tasks of the actor before: killed with it, but perhaps still on their way out.
    let tasks = context.entry.turns.lock().clone();
    tasks.close();
    tasks.wait().await;
    tasks.reopen();
    // What they submitted is decided before the record is read.
    context.history.barrier().await;
    let id = context.entry.id();
    context.read(context.store.open_turns(Some(&id))).await.map_err(|e| storage_problem(&e))
}

async fn recover_alone(context: &TurnContext, cause: Cause) -> Result<Vec<FoundTurn>, Problem> {
    let open = left_behind(context).await?;
    let id = context.entry.id();
    let ids: Vec<TurnId> = open.iter().map(|(turn, ..)| turn.id).collect();
    context.hubs.forget_replies(&id, &ids);
    let now = Timestamp::now();
    let (mut ended, mut waiting) = (vec![], vec![]);
    for (turn, message, reply) in open {
        if let Some(decided) = decided(context, turn.id) {
            ended.push(decided);
        } else if let Some(verdict) = verdict(&turn, cause, now) {
            ended.push(judged(context, verdict, turn, reply));
        } else {
            waiting.push((turn, message, reply));
        }
    }
    context.entry.reset_turns(u32::try_from(waiting.len()).unwrap_or(u32::MAX));
    for (turn, reply, status) in ended {
        end(context, turn, reply, status).await?;
    }
    // A bot that had turns shows it is free again.
    context.entry.step(BotStep::TurnsEnded, None, |status, event| {
        context.history.note(Fact::new(Change::SaveStatus(status), vec![event]));
    });
    let mut found = Vec::with_capacity(waiting.len());
    for open in waiting {
        found.push(complete(context, open).await?);
    }
    Ok(found)
}

/// A turn as storage has it, with what it needs to go on.
async fn complete(
    context: &TurnContext,
    (turn, message, reply): (Turn, Message, Message),
) -> Result<FoundTurn, Problem> {
    let asked = readable(context.read(context.store.turn_overrides(turn.id)).await)?;
    let overrides = asked.and_then(|v| serde_json::from_value(v).ok()).unwrap_or_default();
    let home = readable(context.read(context.store.conversation(turn.conversation_id)).await)?;
    let leaf = home.and_then(|c| c.leaf_message_id);
    Ok(FoundTurn { turn, message, reply, overrides, leaf })
}

/// Open turns that nobody runs, because the answers to their commits got lost. They begin anew: nothing of them was shown.
pub(crate) async fn strays(context: &TurnContext) -> Result<Vec<FoundTurn>, Problem> {
    let bot = context.entry.id();
    let open = context.read(context.store.open_turns(Some(&bot))).await.map_err(|e| storage_problem(&e))?;
    let mut found = vec![];
    // What has a live reply is run, or its end is on its way. One that lost it meanwhile has ended.
    for (turn, message, reply) in open.into_iter().filter(|(turn, ..)| context.hubs.live(turn.id).is_none()) {
        let now =
            context.read(context.store.turn_snapshot(turn.id)).await.map_err(|e| storage_problem(&e))?;
        if now.is_some_and(|now| !now.turn.state.is_terminal()) {
            let turn = Turn { state: TurnState::Queued, ..turn };
            found.push(complete(context, (turn, message, reply)).await?);
        }
    }
    Ok(found)
}

/// What is stored, or nothing where it can't be read: a spoilt row must not keep its bot from coming back.
fn readable<T>(read: Result<Option<T>, StoreError>) -> Result<Option<T>, Problem> {
    match read {
        Err(StoreError::Corrupt(reason)) => {
            tracing::warn!(%reason, "a turn goes on without what can't be read of it");
            Ok(None)
        }
        read => read.map_err(|e| storage_problem(&e)),
    }
}

/// The end of a turn whose task died before the database heard of it.
fn decided(context: &TurnContext, turn: TurnId) -> Option<(Turn, Message, StoredStatus)> {
    let live = context.hubs.live(turn)?;
    let TurnEnd { turn, reply } = live.decided()?.clone();
    Some((turn, reply?, context.entry.stored_status()))
}

/// The end of a turn that nobody runs, with the text that readers saw, and the bot's totals after it.
fn judged(
    context: &TurnContext,
    verdict: Verdict,
    mut turn: Turn,
    mut reply: Message,
) -> (Turn, Message, StoredStatus) {
    if let Some(live) = context.hubs.live(turn.id) {
        let text = live.seal();
        reply.content = text.content.into();
        reply.thinking = (!text.thinking.is_empty()).then(|| text.thinking.into());
    }
    reply.state = MessageState::Partial;
    turn.state = turn.state.after(verdict.step).unwrap_or(turn.state);
    turn.queue = None;
    turn.error = verdict.problem;
    turn.ended_at = Some(Timestamp::now());
    let status = match turn.error {
        Some(_) => context.entry.count_error(),
        None => context.entry.stored_status(),
    };
    (turn, reply, status)
}

/// Stores the end of a turn that nobody runs.
async fn end(
    context: &TurnContext,
    mut turn: Turn,
    mut reply: Message,
    status: StoredStatus,
) -> Result<(), Problem> {
    tracing::info!(bot.id = %turn.bot_id, turn.id = %turn.id, action = turn.state.as_str(), "turn ended without its task");
    let store = async |turn: &Turn, reply: &Message| {
        let event = turn_events::ended(turn, reply);
        let change = Change::FinishTurn { turn: turn.clone(), reply: reply.clone(), status: status.clone() };
        context.history.append(Fact::new(change, vec![event])).await
    };
    let mut stored = store(&turn, &reply).await;
    if let Err(problem) = &stored
        && problem.code == Code::StorageRefused
    {
        (turn, reply) = without_text(turn, reply, problem.clone());
        stored = store(&turn, &reply).await;
    }
    match stored {
        Err(problem) if problem.code != Code::StorageRefused => return Err(problem),
        Ok(done) if done.applied => return Ok(()),
        Err(problem) => {
            tracing::error!(turn.id = %turn.id, code = %problem.code, "the end of a turn was not stored")
        }
        // It was ended or deleted before; whoever waits is told all the same.
        Ok(_) => {}
    }
    context.hubs.tell_end(TurnEnd { turn, reply: Some(reply) });
    Ok(())
}

/// Stops a turn whose bot has no actor. Nothing is done where the bot has one: false, and that one is to be asked.
pub(crate) async fn stop_waiting(context: &TurnContext, id: TurnId) -> Result<bool, Problem> {
    // An actor that starts meanwhile reads the record behind this.
    let _alone = context.entry.recovering.lock().await;
    if context.entry.actor.get().is_some() {
        return Ok(false);
    }
    let open = left_behind(context).await?;
    if let Some((turn, _, reply)) = open.into_iter().find(|(turn, ..)| turn.id == id) {
        let (turn, reply, status) = match decided(context, id) {
            Some(decided) => decided,
            None => {
                if turn.state == TurnState::Queued {
                    context.entry.forget_waiting();
                }
                judged(context, Verdict { step: TurnStep::Stop, problem: None }, turn, reply)
            }
        };
        end(context, turn, reply, status).await?;
    }
    Ok(true)
}

/// The acknowledgement of a message that is stored although nobody could say so at the time.
pub(crate) async fn found(
    context: &TurnContext,
    turn: TurnId,
    message: MessageId,
) -> Result<AcceptedTurn, Problem> {
    // Watched before the look: an end in between is told either here or there.
    let end = context.hubs.watch_end(turn);
    let bot = context.entry.id();
    let read = async {
        let snapshot =
            context.read(context.store.turn_snapshot(turn)).await.map_err(|e| storage_problem(&e))?;
        let message =
            context.read(context.store.message(&bot, message)).await.map_err(|e| storage_problem(&e))?;
        snapshot.zip(message).ok_or_else(|| {
            Problem::new(Code::MessageNotFound, "The history was cleared while the message was on its way.")
        })
    };
    match read.await {
        Ok((snapshot, message)) => {
            let (turn, reply) = (snapshot.turn, snapshot.reply);
            if turn.state.is_terminal() {
                context.hubs.tell_end(TurnEnd { turn: turn.clone(), reply });
            }
            Ok(AcceptedTurn { turn, message, replayed: false, end })
        }
        Err(problem) => {
            context.hubs.unwatch_end(turn, end);
            Err(problem)
        }
    }
}
