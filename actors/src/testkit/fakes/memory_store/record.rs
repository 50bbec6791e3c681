//! The record itself: maps, and every rule of the port in its plainest form.

mod reads;
mod retention;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

pub(super) use reads::fitting;

use crate::{
    domain::{
        bot::{AuditEntry, BotRecord, StoredStatus},
        event::{CommittedEvent, EventBody, NewEvent, Topic},
        idempotency::{Idempotency, IdempotencyKey, SentBefore},
        ids::{BotId, ConversationId, EventId, MessageId, TurnId},
        message::{Conversation, Message, MessageState, Siblings},
        model::ServerRecord,
        time::Timestamp,
        turn::{Turn, TurnState},
    },
    ports::{
        archive::Arrival,
        history_store::{Change, Committed, Cursor, Fact, MessagePage, REDACTED, Span, cleared_event},
    },
};

/// Everything that is stored.
#[derive(Default)]
pub(super) struct Record {
    /// Bots in the roster.
    pub(super) bots: HashMap<BotId, (BotRecord, StoredStatus)>,
    pub(super) conversations: BTreeMap<ConversationId, Conversation>,
    /// Conversations of bots that were deleted.
    pub(super) retired: HashSet<ConversationId>,
    pub(super) messages: BTreeMap<MessageId, Message>,
    /// When each of them came.
    pub(super) arrivals: HashMap<MessageId, Arrival>,
    pub(super) arrived: Arrival,
    /// Turns.
    pub(super) turns: BTreeMap<TurnId, Turn>,
    pub(super) overrides: BTreeMap<TurnId, serde_json::Value>,
    /// Bots that were deleted with their history kept, and when: their last status is still there.
    departed: HashMap<BotId, Timestamp>,
    keys: HashMap<(Arc<str>, BotId, IdempotencyKey), SentBefore>,
    /// Model servers that were added, the first one first.
    pub(super) servers: Vec<ServerRecord>,
    /// The outbox.
    pub(super) events: Vec<CommittedEvent>,
    position: u64,
    heads: HashMap<Topic, u64>,
    seen: HashSet<EventId>,
    /// The audit log.
    pub(super) audit: Vec<AuditEntry>,
    /// Groups committed.
    pub(super) groups: u64,
}

impl Record {
    /// Applies a group.
    pub(super) fn commit(&mut self, facts: Vec<Fact>) -> Vec<Committed> {
        self.groups += 1;
        facts.into_iter().map(|fact| self.apply(fact)).collect()
    }

    fn apply(&mut self, fact: Fact) -> Committed {
        let (at, mut told) = (fact.time(), vec![]);
        let repeated = fact.events.first().is_some_and(|e| self.seen.contains(&e.id));
        let outcome = if repeated { None } else { self.change(fact.change, at, &mut told) };
        let Some(deleted) = outcome else { return Committed { applied: false, deleted: 0, events: vec![] } };
        self.audit.extend(fact.audit);
        let events = told.into_iter().chain(fact.events).map(|event| self.number(event)).collect();
        Committed { applied: true, deleted, events }
    }

    fn number(&mut self, event: NewEvent) -> CommittedEvent {
        self.seen.insert(event.id);
        self.position += 1;
        let mut topics = event.topics;
        topics.sort_unstable();
        let mut next = |topic: Topic| {
            let head = self.heads.entry(topic.clone()).or_default();
            *head += 1;
            (topic, *head)
        };
        let committed = CommittedEvent {
            position: self.position,
            id: event.id,
            time: event.time,
            name: event.name.into(),
            data: event.data,
            seqs: topics.into_iter().map(&mut next).collect(),
            ends: event.ends,
        };
        self.events.push(committed.clone());
        committed
    }

    /// Number of deleted messages, or none where the change does not apply. Adds to `told` what the store tells by itself.
    fn change(&mut self, change: Change, at: Timestamp, told: &mut Vec<NewEvent>) -> Option<u64> {
        match change {
            Change::None => Some(0),
            Change::CreateBot { bot, main, status } => {
                if self.bots.contains_key(&bot.id) || self.conversations.contains_key(&main.id) {
                    return None;
                }
                self.conversations.insert(main.id, main);
                self.departed.remove(&bot.id);
                self.bots.insert(bot.id.clone(), (bot, status));
                Some(0)
            }
            Change::UpdateBot(bot) => {
                let stored = &mut self.bots.get_mut(&bot.id)?.0;
                let (created_at, main) = (stored.created_at, stored.main_conversation_id);
                *stored = BotRecord { created_at, main_conversation_id: main, ..bot };
                Some(0)
            }
            Change::DeleteBot { bot_id, purge } => self.delete_bot(&bot_id, purge, at),
            Change::SaveStatus(status) => self.save_status(status).then_some(0),
            Change::CreateConversation(conversation) => {
                let known = self.conversations.contains_key(&conversation.id);
                let leafless = conversation.leaf_message_id.is_some_and(|l| !self.messages.contains_key(&l));
                if known || leafless || !self.bots.contains_key(&conversation.bot_id) {
                    return None;
                }
                self.conversations.insert(conversation.id, conversation);
                Some(0)
            }
            Change::UpdateConversation(new) => {
                let busy = self.is_busy(new.id);
                let leafless = new.leaf_message_id.is_some_and(|l| !self.messages.contains_key(&l));
                let stored = self.open_conversation(new.id)?;
                if (busy || leafless) && stored.leaf_message_id != new.leaf_message_id {
                    return None;
                }
                (stored.title, stored.leaf_message_id, stored.archived) =
                    (new.title, new.leaf_message_id, new.archived);
                Some(0)
            }
            Change::HoldConversation { conversation_id, bot_id, held } => {
                let own = self.conversations.get_mut(&conversation_id).filter(|c| c.bot_id == bot_id)?;
                (std::mem::replace(&mut own.legal_hold, held) != held).then_some(0)
            }
            Change::DeleteConversation(id) => {
                let asked =
                    |t: &Turn| self.messages.get(&t.message_id).is_some_and(|m| m.conversation_id == id);
                let answered = self.turns.values().any(|t| t.ended_at.is_none() && asked(t));
                if self.is_busy(id) || answered || self.is_reached(id) {
                    return None;
                }
                let owner = self.conversations.remove(&id)?.bot_id;
                let deleted = self.delete_messages(|m| m.conversation_id == id);
                self.redact(id);
                self.turns.retain(|_, t| t.conversation_id != id);
                let mended = self.mend(&owner);
                told.extend(mended.into_iter().map(|fork| cleared_event(&owner, fork, 0)));
                Some(deleted)
            }
            Change::AcceptTurn { turn, message, reply, overrides, idempotency } => {
                let orphaned = message.parent_id.is_some_and(|p| !self.messages.contains_key(&p));
                let gone = message.turn_id != Some(turn.id) && !self.messages.contains_key(&message.id);
                if self.turns.contains_key(&turn.id) || orphaned || gone {
                    return None;
                }
                self.open_conversation(turn.conversation_id)?;
                self.take_key(idempotency, Some(turn.id), &message, &reply)?;
                if let Some(overrides) = overrides {
                    self.overrides.insert(turn.id, overrides);
                }
                self.turns.insert(turn.id, turn);
                self.add(vec![message, reply]);
                Some(0)
            }
            Change::AppendMessages { messages, idempotency } => {
                let (first, last) = (messages.first()?.clone(), messages.last()?.clone());
                self.open_conversation(last.conversation_id)?;
                if messages.iter().all(|m| self.messages.contains_key(&m.id)) {
                    return None;
                }
                if first.parent_id.is_some_and(|parent| !self.messages.contains_key(&parent)) {
                    return None;
                }
                self.take_key(idempotency, None, &first, &last)?;
                self.add(messages).then_some(0)
            }
            Change::StartTurn(turn) => {
                let stored = self.open_turn(turn.id)?;
                stored.state = turn.state;
                stored.model = turn.model;
                stored.server = turn.server;
                stored.queue = turn.queue;
                stored.timings.queued_ms = turn.timings.queued_ms;
                stored.context = turn.context;
                Some(0)
            }
            Change::Checkpoint { reply_id, content, thinking } => {
                let reply = self.messages.get_mut(&reply_id)?;
                if reply.state != MessageState::Pending {
                    return None;
                }
                reply.content = content.into();
                reply.thinking = thinking.map(Into::into);
                Some(0)
            }
            Change::ToolRound { reply_id, messages } => {
                let (first, last) = (messages.first()?, messages.last()?.clone());
                let reply = self.messages.get_mut(&reply_id)?;
                if reply.state != MessageState::Pending || reply.parent_id != first.parent_id {
                    return None;
                }
                reply.parent_id = Some(last.id);
                let leaf = self.conversations.get(&last.conversation_id)?.leaf_message_id;
                self.add(messages);
                self.conversations.get_mut(&last.conversation_id)?.leaf_message_id = leaf;
                Some(0)
            }
            Change::FinishTurn { turn, reply, status } => {
                let stored = self.open_turn(turn.id)?;
                *stored = Turn {
                    attempt_of: stored.attempt_of,
                    created_at: stored.created_at,
                    queue: None,
                    ..turn
                };
                if let Some(stored) = self.messages.get_mut(&reply.id) {
                    *stored = Message {
                        parent_id: stored.parent_id,
                        created_at: stored.created_at,
                        images: stored.images.clone(),
                        ..reply
                    };
                }
                self.save_status(status);
                Some(0)
            }
            Change::ClearHistory { bot_id, conversation_id } => self.clear(&bot_id, conversation_id, told),
            Change::BeginAnew { messages, clears, idempotency } => {
                let (first, last) = (messages.first()?.clone(), messages.last()?.clone());
                let home = self.open_conversation(first.conversation_id)?;
                let idle = home.message_count == clears && !self.is_busy(first.conversation_id);
                if !idle || self.is_reached(first.conversation_id) {
                    return None;
                }
                self.take_key(idempotency, None, &first, &last)?;
                let deleted = self.clear(&first.bot_id, Some(first.conversation_id), told);
                self.add(messages);
                deleted
            }
            Change::Import(part) => self.import(part).then_some(0),
            Change::AddServer(server) => {
                self.servers.retain(|s| s.name != server.name);
                self.servers.push(server);
                Some(0)
            }
            Change::RemoveServer(name) => {
                self.servers.retain(|s| s.name != name);
                Some(0)
            }
        }
    }

    /// False where the bot is gone or has a newer status.
    fn save_status(&mut self, new: StoredStatus) -> bool {
        let Some((_, stored)) = self.bots.get_mut(&new.bot_id) else { return false };
        let newer = new.updated_at >= stored.updated_at;
        if newer {
            *stored = new;
        }
        newer
    }

    /// Stores a key with what its request does; none where it is taken.
    fn take_key(
        &mut self,
        taken: Option<Idempotency>,
        turn_id: Option<TurnId>,
        message: &Message,
        reply: &Message,
    ) -> Option<()> {
        let Some(Idempotency { user, key, fingerprint, at }) = taken else { return Some(()) };
        let name = (user, message.bot_id.clone(), key);
        if self.keys.get(&name).is_some_and(|before| !before.is_expired(at)) {
            return None;
        }
        let (message_id, reply_id) = (message.id, reply.id);
        self.keys.insert(name, SentBefore { fingerprint, turn_id, message_id, reply_id, created_at: at });
        Some(())
    }

    /// What a request with this key did.
    pub(super) fn sent_before(&self, user: &str, bot: &BotId, key: &IdempotencyKey) -> Option<SentBefore> {
        self.keys.get(&(user.into(), bot.clone(), key.clone())).cloned()
    }

    fn delete_bot(&mut self, bot: &BotId, purge: bool, at: Timestamp) -> Option<u64> {
        if purge && !self.held(bot).is_empty() {
            return None;
        }
        self.bots.remove(bot)?;
        self.keys.retain(|(_, owner, _), _| owner != bot);
        let own: HashSet<_> =
            self.conversations.values().filter(|c| c.bot_id == *bot).map(|c| c.id).collect();
        if !purge {
            self.retired.extend(own);
            self.departed.insert(bot.clone(), at);
            for turn in self.turns.values_mut().filter(|t| t.bot_id == *bot && t.ended_at.is_none()) {
                (turn.state, turn.queue, turn.ended_at) = (TurnState::Interrupted, None, Some(at));
                if let Some(reply) = self.messages.get_mut(&turn.reply_id) {
                    reply.state = MessageState::Partial;
                }
            }
            return Some(0);
        }
        self.conversations.retain(|id, _| !own.contains(id));
        self.turns.retain(|_, t| !own.contains(&t.conversation_id));
        let deleted = self.delete_messages(|m| own.contains(&m.conversation_id));
        own.into_iter().for_each(|id| self.redact(id));
        Some(deleted)
    }

    fn clear(&mut self, bot: &BotId, only: Option<ConversationId>, told: &mut Vec<NewEvent>) -> Option<u64> {
        let cleared: BTreeSet<_> = self
            .conversations
            .values()
            .filter(|c| c.bot_id == *bot && !self.retired.contains(&c.id) && only.is_none_or(|id| id == c.id))
            .filter(|c| !self.is_reached(c.id))
            .map(|c| c.id)
            .collect();
        if cleared.is_empty() {
            return None;
        }
        self.turns.retain(|_, t| t.ended_at.is_none() || !cleared.contains(&t.conversation_id));
        let open = || self.turns.values().filter(|t| t.ended_at.is_none());
        let running: HashSet<_> = open().map(|t| t.id).collect();
        let questions: HashSet<_> = open().map(|t| t.message_id).collect();
        let mut lost = BTreeMap::new();
        for id in cleared {
            let deleted = self.delete_messages(|m| {
                let kept = questions.contains(&m.id) || m.turn_id.is_some_and(|t| running.contains(&t));
                m.conversation_id == id && !kept
            });
            self.redact(id);
            lost.insert(id, deleted);
            self.count(id);
        }
        for fork in self.mend(bot) {
            lost.entry(fork).or_default();
        }
        told.extend(lost.iter().map(|(id, deleted)| cleared_event(bot, *id, *deleted)));
        Some(lost.values().sum())
    }

    /// Counts anew what is left in a conversation.
    fn count(&mut self, id: ConversationId) {
        let left: Vec<_> = self.messages.values().filter(|m| m.conversation_id == id).collect();
        let (count, last_at) = (left.len() as u64, left.iter().map(|m| m.created_at).max());
        if let Some(conversation) = self.conversations.get_mut(&id) {
            (conversation.message_count, conversation.last_at) = (count, last_at);
        }
    }

    fn delete_messages(&mut self, which: impl Fn(&Message) -> bool) -> u64 {
        let before = self.messages.len();
        self.messages.retain(|_, m| !which(m));
        (before - self.messages.len()) as u64
    }

    /// Takes the texts of messages that are gone out of the events of a conversation.
    fn redact(&mut self, id: ConversationId) {
        let home = Topic::Conversation(id);
        for event in self.events.iter_mut().filter(|e| e.seqs.iter().any(|(topic, _)| *topic == home)) {
            let about = match event.body() {
                Ok(EventBody::MessageReceived { message }) => message.id,
                Ok(EventBody::ToolCalled(called)) => called.message_id,
                Ok(EventBody::ToolReturned(returned)) => returned.message_id,
                Ok(
                    EventBody::TurnCompleted(end)
                    | EventBody::TurnStopped(end)
                    | EventBody::TurnFailed(end)
                    | EventBody::TurnInterrupted(end),
                ) => end.turn.reply_id,
                _ => continue,
            };
            if !self.messages.contains_key(&about) {
                event.data = REDACTED.into();
            }
        }
    }

    /// Parents and leaves that are gone; the conversations where there were any.
    fn mend(&mut self, bot: &BotId) -> BTreeSet<ConversationId> {
        let ids: HashSet<_> = self.messages.keys().copied().collect();
        self.mend_where(bot, |id| !ids.contains(&id))
    }

    fn mend_where(&mut self, bot: &BotId, gone: impl Fn(MessageId) -> bool) -> BTreeSet<ConversationId> {
        let mut mended = BTreeSet::new();
        for message in self.messages.values_mut().filter(|m| m.bot_id == *bot) {
            if message.parent_id.is_some_and(&gone) {
                message.parent_id = None;
                mended.insert(message.conversation_id);
            }
        }
        for conversation in self.conversations.values_mut().filter(|c| c.bot_id == *bot) {
            if conversation.leaf_message_id.is_some_and(&gone) {
                let mut own = self.messages.values().filter(|m| m.conversation_id == conversation.id);
                conversation.leaf_message_id = own.next_back().map(|m| m.id);
                mended.insert(conversation.id);
            }
        }
        mended
    }

    fn open_conversation(&mut self, id: ConversationId) -> Option<&mut Conversation> {
        self.conversations.get_mut(&id).filter(|_| !self.retired.contains(&id))
    }

    fn is_busy(&self, id: ConversationId) -> bool {
        self.turns.values().any(|t| t.conversation_id == id && t.ended_at.is_none())
    }

    fn open_turn(&mut self, id: TurnId) -> Option<&mut Turn> {
        self.turns.get_mut(&id).filter(|t| t.ended_at.is_none())
    }
}
