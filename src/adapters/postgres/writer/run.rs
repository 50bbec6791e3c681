//! Facts of the hot path, decided in memory: what the database says of their targets is looked up for a whole run of them
//! at once, unless it is known from the runs before; and what the run does to those is kept beside it.

use std::collections::HashSet;

use deia_actors::{
    domain::{
        bot::StoredStatus,
        event::Topic,
        idempotency::{Idempotency, expiry},
        ids::{BotId, ConversationId, MessageId, TurnId},
        message::{Message, MessageState},
    },
    ports::history_store::{Change, Fact},
};
use uuid::Uuid;

use super::{
    batch::{Batch, MessageText, TakenKey, TurnStep},
    lookup::{Found, FoundTurn, LookUp, RequestKey},
    outbox::Outbox,
};

/// Adds what has to be known to decide a change and is not known yet. Where it `trusts` the ids of what is new they are not
/// looked for: a row that has one of them already makes the statement fail, and the group is tried again without trust.
pub(super) fn want(change: &Change, known: &Found, outbox: &Outbox, trusts: bool, look_up: &mut LookUp) {
    let mut want = Want { known, outbox, look_up };
    match change {
        Change::SaveStatus(status) => want.status(&status.bot_id),
        Change::AcceptTurn { turn, message, reply, idempotency, .. } => {
            want.key(idempotency.as_ref(), message);
            if !trusts {
                want.turn(turn.id);
                want.message(reply.id);
            }
            if !trusts || message.turn_id != Some(turn.id) {
                want.message(message.id);
            }
            want.parent(message, trusts);
            [message, reply].into_iter().for_each(|m| want.place(m, trusts));
            want.conversation(turn.conversation_id);
        }
        Change::AppendMessages { messages, idempotency } => {
            let (Some(first), Some(last)) = (messages.first(), messages.last()) else { return };
            want.key(idempotency.as_ref(), first);
            if !trusts {
                messages.iter().for_each(|message| want.message(message.id));
            }
            want.parent(first, trusts);
            messages.iter().for_each(|m| want.place(m, trusts));
            want.conversation(last.conversation_id);
        }
        Change::StartTurn(turn) => want.turn(turn.id),
        Change::Checkpoint { reply_id, .. } => want.message(*reply_id),
        Change::FinishTurn { turn, reply, status } => {
            want.turn(turn.id);
            want.message(reply.id);
            want.status(&status.bot_id);
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
        | Change::ToolRound { .. }
        | Change::ClearHistory { .. }
        | Change::BeginAnew { .. }
        | Change::Import(_)
        | Change::AddServer(_)
        | Change::RemoveServer(_) => {}
    }
}

/// What has to be known after all where a change comes behind a message of the same run that was not added: it may have been
/// stored before.
pub(super) fn want_after_all(change: &Change, known: &Found, coming: &HashSet<Uuid>) -> Option<LookUp> {
    let message = match change {
        Change::AcceptTurn { message, .. } => message,
        Change::AppendMessages { messages, .. } => messages.first()?,
        _ => return None,
    };
    let parent = message.parent_id?.0;
    let missing = coming.contains(&parent) && !known.messages.contains_key(&parent);
    missing.then(|| LookUp {
        messages: vec![parent],
        tips: vec![(parent, message.conversation_id.0)],
        ..LookUp::default()
    })
}

/// The turn that a change makes.
pub(super) fn new_turn(change: &Change) -> Option<TurnId> {
    match change {
        Change::AcceptTurn { turn, .. } => Some(turn.id),
        _ => None,
    }
}

/// Asks for what is not known.
struct Want<'a> {
    known: &'a Found,
    outbox: &'a Outbox,
    look_up: &'a mut LookUp,
}

impl Want<'_> {
    /// Also where the number of its last event was forgotten.
    fn turn(&mut self, id: TurnId) {
        if !self.known.turns.contains_key(&id.0) || !self.outbox.has(&Topic::Turn(id)) {
            self.look_up.turns.push(id.0);
        }
    }

    fn message(&mut self, id: MessageId) {
        if !self.known.messages.contains_key(&id.0) {
            self.look_up.messages.push(id.0);
        }
    }

    /// Whether something comes in the same run and is new: then it is known once what brings it is decided.
    fn comes(&self, id: MessageId, trusts: bool) -> bool {
        trusts && self.look_up.coming.contains(&id.0)
    }

    /// What a message is put behind.
    fn parent(&mut self, m: &Message, trusts: bool) {
        if let Some(parent) = m.parent_id.filter(|parent| !self.comes(*parent, trusts)) {
            self.message(parent);
        }
    }

    /// Where a new message will stand.
    fn place(&mut self, m: &Message, trusts: bool) {
        if let Some(parent) = m.parent_id.filter(|parent| !self.comes(*parent, trusts)) {
            let behind = (parent.0, m.conversation_id.0);
            if !self.known.tips.contains_key(&behind) {
                self.look_up.tips.push(behind);
            }
        }
        self.look_up.coming.insert(m.id.0);
    }

    fn conversation(&mut self, id: ConversationId) {
        if !self.known.conversations.contains_key(&id.0) {
            self.look_up.conversations.push(id.0);
        }
    }

    fn status(&mut self, bot: &BotId) {
        if !self.known.statuses.contains_key(bot) {
            self.look_up.statuses.push(bot.as_str().to_owned());
        }
    }

    fn key(&mut self, idempotency: Option<&Idempotency>, message: &Message) {
        let key = idempotency.map(|i| RequestKey::of(i, message));
        self.look_up.keys.extend(key.filter(|key| !self.known.keys.contains_key(key)));
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
        | Change::ToolRound { .. }
        | Change::ClearHistory { .. }
        | Change::BeginAnew { .. }
        | Change::Import(_)
        | Change::AddServer(_)
        | Change::RemoveServer(_) => false,
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
