//! Whole conversations out of memory, and parts of archives into it.

use std::collections::BTreeSet;

use async_trait::async_trait;

use super::{MemoryStore, record::Record};
use crate::{
    archive::{same_conversation, same_message},
    domain::{
        ids::{BotId, ConversationId, MessageId, TurnId},
        message::{Conversation, Message},
    },
    ports::{
        archive::{Archive, ArchivedTurn, Arrival, ImportPart, Place, Stretch},
        history_store::StoreError,
    },
};

#[async_trait]
impl Archive for MemoryStore {
    async fn arrived(&self) -> Result<Arrival, StoreError> {
        self.reach().await?;
        Ok(self.shared.record.lock().arrived)
    }

    async fn messages_after(
        &self,
        conversation: ConversationId,
        after: Option<Place>,
        by: Arrival,
        limit: u32,
        max_bytes: usize,
    ) -> Result<Stretch, StoreError> {
        let record = self.shared.record.lock();
        let there = |m: &&Message| record.arrivals.get(&m.id).is_some_and(|at| *at <= by);
        let own = record.messages.values().filter(|m| m.conversation_id == conversation).filter(there);
        let places: BTreeSet<Place> =
            own.map(Place::of).filter(|place| after.is_none_or(|after| *place > after)).collect();
        let (mut page, mut bytes) = (vec![], 0usize);
        for message in places.into_iter().filter_map(|place| record.message(place.id)) {
            if page.len() == usize::try_from(limit).unwrap_or(usize::MAX) || bytes > max_bytes {
                break;
            }
            bytes += message.weight();
            page.push(message);
        }
        Ok(Stretch { messages: page, left_out: vec![] })
    }

    async fn conversation_ids(&self, bot: &BotId) -> Result<Vec<ConversationId>, StoreError> {
        let record = self.shared.record.lock();
        Ok(record.conversations.values().filter(|c| c.bot_id == *bot).map(|c| c.id).collect())
    }

    async fn messages_with(&self, ids: &[MessageId]) -> Result<Vec<Message>, StoreError> {
        let record = self.shared.record.lock();
        let ids: BTreeSet<_> = ids.iter().collect();
        Ok(ids.into_iter().filter_map(|id| record.message(*id)).collect())
    }

    async fn turns_with(&self, ids: &[TurnId]) -> Result<Vec<ArchivedTurn>, StoreError> {
        let record = self.shared.record.lock();
        let ids: BTreeSet<_> = ids.iter().collect();
        Ok(ids.into_iter().filter_map(|id| record.archived(*id)).collect())
    }
}

impl Record {
    fn archived(&self, id: TurnId) -> Option<ArchivedTurn> {
        let turn = self.turns.get(&id)?.clone();
        Some(ArchivedTurn { turn, overrides: self.overrides.get(&id).cloned() })
    }

    /// Adds a message; false where it is there.
    fn arrive(&mut self, message: Message) -> bool {
        if self.messages.contains_key(&message.id) {
            return false;
        }
        self.arrived.0 += 1;
        self.arrivals.insert(message.id, self.arrived);
        self.messages.insert(message.id, message);
        true
    }

    /// Adds the messages that are not there; the last becomes the leaf. False where all were there.
    pub(super) fn add(&mut self, messages: Vec<Message>) -> bool {
        let Some((home, leaf, at)) = messages.last().map(|m| (m.conversation_id, m.id, m.created_at)) else {
            return false;
        };
        let before = self.messages.len();
        for message in messages {
            self.arrive(message);
        }
        let added = (self.messages.len() - before) as u64;
        if let Some(conversation) = self.conversations.get_mut(&home).filter(|_| added > 0) {
            conversation.leaf_message_id = Some(leaf);
            conversation.message_count += added;
            conversation.last_at = conversation.last_at.max(Some(at));
        }
        added > 0
    }

    /// False where the bot is gone, something is missing or stored with other content; then nothing changed.
    pub(super) fn import(&mut self, part: ImportPart) -> bool {
        let contradicts = part
            .conversations
            .iter()
            .any(|c| self.conversations.get(&c.id).is_some_and(|stored| !same_conversation(stored, c)))
            || part.messages.iter().any(|m| self.messages.get(&m.id).is_some_and(|s| !same_message(s, m)))
            || part.turns.iter().any(|t| self.archived(t.turn.id).is_some_and(|stored| stored != *t));
        let home = |m: &Message| {
            self.conversations.contains_key(&m.conversation_id)
                || part.conversations.iter().any(|c| c.id == m.conversation_id)
        };
        let given: BTreeSet<MessageId> = part.messages.iter().map(|m| m.id).collect();
        let mut leaves = part.conversations.iter().filter_map(|c| c.leaf_message_id);
        let lacks = !part.messages.iter().all(home)
            || leaves.any(|id| !given.contains(&id) && !self.messages.contains_key(&id));
        if contradicts || lacks || !self.bots.contains_key(&part.bot_id) {
            return false;
        }
        for conversation in part.conversations {
            self.import_conversation(conversation);
        }
        for message in part.messages {
            let (home, at) = (message.conversation_id, message.created_at);
            if !self.arrive(message) {
                continue;
            }
            if let Some(home) = self.conversations.get_mut(&home) {
                home.message_count += 1;
                home.last_at = home.last_at.max(Some(at));
            }
        }
        for ArchivedTurn { turn, overrides } in part.turns {
            if let Some(overrides) = overrides {
                self.overrides.insert(turn.id, overrides);
            }
            self.turns.entry(turn.id).or_insert(turn);
        }
        true
    }

    fn import_conversation(&mut self, given: Conversation) {
        let Some((bot, _)) = self.bots.get_mut(&given.bot_id) else { return };
        let current = bot.main_conversation_id;
        let empty = |c: &Conversation| c.message_count == 0 && c.leaf_message_id.is_none() && !c.legal_hold;
        let main = current == given.id || (given.main && self.conversations.get(&current).is_none_or(empty));
        if main && current != given.id {
            bot.main_conversation_id = given.id;
            self.conversations.remove(&current);
        }
        self.retired.remove(&given.id);
        let stored = self.conversations.entry(given.id).or_insert_with(|| Conversation {
            message_count: 0,
            last_at: None,
            ..given.clone()
        });
        stored.main = main;
        stored.leaf_message_id = stored.leaf_message_id.or(given.leaf_message_id);
    }
}
