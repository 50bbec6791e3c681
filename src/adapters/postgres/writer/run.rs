//! Facts of the hot path, decided in memory: what the database says of their targets is looked up for a whole run of them
//! at once, and what the run does to those is kept beside it.

use deia_actors::{
    domain::{
        bot::StoredStatus,
        event::Topic,
        idempotency::{Idempotency, expiry},
        ids::TurnId,
        message::{Message, MessageState},
    },
    ports::history_store::{Change, Fact},
};

use super::{
    batch::{Batch, MessageText, TakenKey, TurnStep},
    lookup::{Found, FoundTurn, LookUp, RequestKey},
    outbox::Outbox,
};

/// Whether a run can hold the change.
pub(super) fn holds(change: &Change) -> bool {
    match change {
        Change::None
        | Change::SaveStatus(_)
        | Change::AcceptTurn { .. }
        | Change::AppendMessages { .. }
        | Change::StartTurn(_)
        | Change::Checkpoint { .. }
        | Change::FinishTurn { .. } => true,
        Change::CreateBot { .. }
        | Change::UpdateBot(_)
        | Change::DeleteBot { .. }
        | Change::CreateConversation(_)
        | Change::UpdateConversation(_)
        | Change::DeleteConversation(_)
        | Change::HoldConversation { .. }
        | Change::ClearHistory { .. }
        | Change::Import(_) => false,
    }
}

/// Adds what has to be known to decide a change.
pub(super) fn want(change: &Change, look_up: &mut LookUp) {
    match change {
        Change::SaveStatus(status) => look_up.statuses.push(status.bot_id.as_str().to_owned()),
        Change::AcceptTurn { turn, message, reply, idempotency, .. } => {
            look_up.keys.extend(idempotency.as_ref().map(|i| RequestKey::of(i, message)));
            look_up.turns.push(turn.id.0);
            [message, reply].into_iter().for_each(|m| look_up.message(m));
            look_up.messages.extend(message.parent_id.map(|p| p.0));
            look_up.conversations.push(turn.conversation_id.0);
        }
        Change::AppendMessages { messages, idempotency } => {
            let first = messages.first();
            look_up.keys.extend(idempotency.as_ref().zip(first).map(|(i, first)| RequestKey::of(i, first)));
            messages.iter().for_each(|m| look_up.message(m));
            look_up.messages.extend(first.and_then(|first| first.parent_id).map(|p| p.0));
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
        | Change::HoldConversation { .. }
        | Change::ClearHistory { .. }
        | Change::Import(_) => {}
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
        Change::AcceptTurn { turn, message, reply, overrides, idempotency } => {
            let parent = message.parent_id.is_none_or(|p| known.messages.contains_key(&p.0));
            // One that is answered once more belongs to another turn, and is there.
            let question = message.turn_id == Some(turn.id) || known.messages.contains_key(&message.id.0);
            let home = known.conversations.get(&turn.conversation_id.0).is_some_and(|open| *open);
            let new = !known.turns.contains_key(&turn.id.0);
            if !(new && home && parent && question && is_free(idempotency.as_ref(), message, known)) {
                return false;
            }
            if let Some(idempotency) = idempotency {
                take_key(idempotency, Some(turn.id), message, reply, known, batch);
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
        Change::AppendMessages { messages, idempotency } => {
            let (Some(first), Some(last)) = (messages.first(), messages.last()) else { return false };
            let parent = first.parent_id.is_none_or(|p| known.messages.contains_key(&p.0));
            let home = known.conversations.get(&last.conversation_id.0).is_some_and(|open| *open);
            if !(home && parent && is_free(idempotency.as_ref(), first, known)) {
                return false;
            }
            let written = messages.iter().filter(|m| add(m, known, batch)).count();
            if written > 0 {
                batch.grow(last.conversation_id, last, written);
                if let Some(idempotency) = idempotency {
                    take_key(idempotency, None, first, last, known, batch);
                }
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
        | Change::HoldConversation { .. }
        | Change::ClearHistory { .. }
        | Change::Import(_) => false,
    }
}

/// Adds a message that is not there yet.
fn add<'f>(message: &'f Message, known: &mut Found, batch: &mut Batch<'f>) -> bool {
    let spot = known.add(message);
    if let Some(spot) = spot {
        batch.add_message(message, spot);
    }
    spot.is_some()
}

/// Whether no key stands against a change.
fn is_free(idempotency: Option<&Idempotency>, message: &Message, known: &Found) -> bool {
    idempotency.is_none_or(|i| {
        known.keys.get(&RequestKey::of(i, message)).is_none_or(|came| *came <= expiry(i.at).0)
    })
}

/// Stores a key with what its request did.
fn take_key<'f>(
    idempotency: &'f Idempotency,
    turn: Option<TurnId>,
    message: &Message,
    reply: &Message,
    known: &mut Found,
    batch: &mut Batch<'f>,
) {
    let key = RequestKey::of(idempotency, message);
    known.keys.insert(key.clone(), idempotency.at.0);
    let taken = TakenKey { by: idempotency, turn, message: message.id, reply: reply.id };
    batch.take_key(key, taken);
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
