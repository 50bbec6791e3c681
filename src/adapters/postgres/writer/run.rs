//! Facts of the hot path, decided in memory: what the database says of their targets is looked up for a whole run of them
//! at once, and what the run does to those is kept beside it.

use deia_actors::{
    domain::{
        bot::StoredStatus,
        event::Topic,
        message::{Message, MessageState},
    },
    ports::history_store::{Change, Fact},
};

use super::{
    batch::{Batch, MessageText, TurnStep},
    lookup::{Found, FoundTurn, LookUp},
    outbox::Outbox,
};

/// Whether a run can hold the change.
pub(super) fn holds(change: &Change) -> bool {
    match change {
        Change::None
        | Change::SaveStatus(_)
        | Change::AcceptTurn { .. }
        | Change::AppendMessages(_)
        | Change::StartTurn(_)
        | Change::Checkpoint { .. }
        | Change::FinishTurn { .. } => true,
        Change::CreateBot { .. }
        | Change::UpdateBot(_)
        | Change::DeleteBot { .. }
        | Change::CreateConversation(_)
        | Change::UpdateConversation(_)
        | Change::DeleteConversation(_)
        | Change::ClearHistory { .. } => false,
    }
}

/// Adds what has to be known to decide a change.
pub(super) fn want(change: &Change, look_up: &mut LookUp) {
    match change {
        Change::SaveStatus(status) => look_up.statuses.push(status.bot_id.as_str().to_owned()),
        Change::AcceptTurn { turn, message, reply, .. } => {
            look_up.turns.push(turn.id.0);
            look_up.messages.extend([message.id.0, reply.id.0]);
            look_up.messages.extend(message.parent_id.map(|p| p.0));
            look_up.conversations.push(turn.conversation_id.0);
        }
        Change::AppendMessages(messages) => {
            look_up.messages.extend(messages.iter().map(|m| m.id.0));
            look_up.conversations.extend(messages.last().map(|m| m.conversation_id.0));
        }
        Change::StartTurn(turn) => look_up.turns.push(turn.id.0),
        Change::Checkpoint { reply_id, .. } => look_up.messages.push(reply_id.0),
        Change::FinishTurn { turn, reply, status } => {
            look_up.turns.push(turn.id.0);
            look_up.messages.push(reply.id.0);
            look_up.statuses.push(status.bot_id.as_str().to_owned());
        }
        // Nothing to know, and what no run holds.
        Change::None
        | Change::CreateBot { .. }
        | Change::UpdateBot(_)
        | Change::DeleteBot { .. }
        | Change::CreateConversation(_)
        | Change::UpdateConversation(_)
        | Change::DeleteConversation(_)
        | Change::ClearHistory { .. } => {}
    }
}

/// Decides a change; false where it does not apply. `known` is what the facts before it left behind.
pub(super) fn decide<'f>(
    fact: &'f Fact,
    known: &mut Found,
    outbox: &mut Outbox,
    batch: &mut Batch<'f>,
) -> bool {
    match &fact.change {
        Change::None => true,
        Change::SaveStatus(status) => save_status(status, known, batch),
        Change::AcceptTurn { turn, message, reply, overrides } => {
            let parent = message.parent_id.is_none_or(|p| known.messages.contains_key(&p.0));
            let home = known.conversations.get(&turn.conversation_id.0).is_some_and(|open| *open);
            if known.turns.contains_key(&turn.id.0) || !home || !parent {
                return false;
            }
            known.turns.insert(turn.id.0, FoundTurn { open: turn.ended_at.is_none(), head: 0 });
            batch.add_turn(turn, overrides.as_ref());
            // A regenerated answer comes with a question that is there already.
            let written = [message, reply].into_iter().filter(|m| add(m, known, batch)).count();
            if written > 0 {
                batch.grow(turn.conversation_id, reply, written);
            }
            outbox.turn_is_new(turn.id);
            true
        }
        Change::AppendMessages(messages) => {
            let Some(last) = messages.last() else { return false };
            if !known.conversations.get(&last.conversation_id.0).is_some_and(|open| *open) {
                return false;
            }
            let written = messages.iter().filter(|m| add(m, known, batch)).count();
            if written > 0 {
                batch.grow(last.conversation_id, last, written);
            }
            written > 0
        }
        Change::StartTurn(turn) => {
            let open = known.turns.get(&turn.id.0).is_some_and(|t| t.open);
            if open {
                batch.move_turn(turn.id, TurnStep::Started(turn));
            }
            open
        }
        Change::Checkpoint { reply_id, content, thinking } => {
            let pending = known.messages.get(&reply_id.0).is_some_and(|pending| *pending);
            if pending {
                batch.write_message(*reply_id, MessageText::Partial(content, thinking.as_deref()));
            }
            pending
        }
        Change::FinishTurn { turn, reply, status } => {
            let Some(stored) = known.turns.get_mut(&turn.id.0).filter(|t| t.open) else { return false };
            stored.open = false;
            let own = fact.events.iter().filter(|e| e.topics.contains(&Topic::Turn(turn.id))).count();
            let last = outbox.turn_head(turn.id) + i64::try_from(own).unwrap_or(0);
            batch.move_turn(turn.id, TurnStep::Ended(turn, last));
            if let Some(pending) = known.messages.get_mut(&reply.id.0) {
                *pending = reply.state == MessageState::Pending;
                batch.write_message(reply.id, MessageText::Final(reply));
            }
            save_status(status, known, batch);
            true
        }
        Change::CreateBot { .. }
        | Change::UpdateBot(_)
        | Change::DeleteBot { .. }
        | Change::CreateConversation(_)
        | Change::UpdateConversation(_)
        | Change::DeleteConversation(_)
        | Change::ClearHistory { .. } => false,
    }
}

/// Adds a message that is not there yet.
fn add<'f>(message: &'f Message, known: &mut Found, batch: &mut Batch<'f>) -> bool {
    let new = !known.messages.contains_key(&message.id.0);
    if new {
        known.messages.insert(message.id.0, message.state == MessageState::Pending);
        batch.add_message(message);
    }
    new
}

/// Overwrites the status of a bot that is in the roster, unless it has a newer one.
fn save_status<'f>(status: &'f StoredStatus, known: &mut Found, batch: &mut Batch<'f>) -> bool {
    let Some(stored) = known.statuses.get_mut(&status.bot_id).filter(|at| **at <= status.updated_at.0) else {
        return false;
    };
    *stored = status.updated_at.0;
    batch.save_status(status);
    true
}
