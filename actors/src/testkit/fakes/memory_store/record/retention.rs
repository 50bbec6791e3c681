//! What is too old, taken out of the record.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::Record;
use crate::{
    domain::{
        event::{CommittedEvent, Topic},
        ids::{BotId, ConversationId, MessageId, TurnId},
        time::Timestamp,
    },
    ports::retention::{Held, Prune, Pruned},
};

impl Record {
    /// Deletes a piece.
    pub(in super::super) fn prune(&mut self, what: Prune, limit: u32) -> Pruned {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        match what {
            Prune::Chat { before } => self.prune_chat(before, limit),
            Prune::Audit { before } => {
                let all = self.audit.iter().filter(|e| e.at < before).count();
                let mut left = limit;
                self.audit.retain(|e| {
                    let goes = e.at < before && left > 0;
                    left -= usize::from(goes);
                    !goes
                });
                gone(all, limit)
            }
            Prune::Status { before } => {
                let mut old: Vec<_> = self.departed.iter().filter(|(_, at)| **at < before).collect();
                old.sort_by_key(|(_, at)| **at);
                let all = old.len();
                let cut: Vec<BotId> = old.into_iter().take(limit).map(|(id, _)| id.clone()).collect();
                self.departed.retain(|id, _| !cut.contains(id));
                gone(all, limit)
            }
            Prune::Events { before } => {
                let all = self.events.iter().take_while(|e| e.time < before).count();
                self.events.drain(..all.min(limit));
                gone(all, limit)
            }
            Prune::SurplusEvents { keep } => {
                let surplus: Vec<_> = self.events.iter().filter(|e| self.is_surplus(e, keep)).collect();
                let all = surplus.len();
                let cut: HashSet<_> = surplus.into_iter().take(limit).map(|e| e.position).collect();
                self.events.retain(|e| !cut.contains(&e.position));
                gone(all, limit)
            }
            Prune::IdempotencyKeys { .. } => Pruned::default(),
        }
    }

    /// Not among the newest of any topic, turns apart.
    fn is_surplus(&self, event: &CommittedEvent, keep: u64) -> bool {
        let mut topics = event.seqs.iter().filter(|(topic, _)| !matches!(topic, Topic::Turn(_))).peekable();
        topics.peek().is_some() && topics.all(|(topic, seq)| seq + keep <= self.head(topic))
    }

    fn prune_chat(&mut self, before: Timestamp, limit: usize) -> Pruned {
        let open: Vec<_> = self.turns.values().filter(|t| t.ended_at.is_none()).collect();
        let open_turns: HashSet<TurnId> = open.iter().map(|t| t.id).collect();
        let needed: HashSet<_> = open.iter().flat_map(|t| [t.message_id, t.reply_id]).collect();
        let shown: HashSet<_> = self.shown().into_values().flatten().collect();
        let old = self.messages.values().filter(|m| {
            m.created_at < before
                && !shown.contains(&m.id)
                && !needed.contains(&m.id)
                && m.turn_id.is_none_or(|t| !open_turns.contains(&t))
        });
        let mut old: Vec<_> =
            old.map(|m| (m.created_at, m.id, m.conversation_id, m.bot_id.clone(), m.turn_id)).collect();
        old.sort_unstable();
        let all = old.len();
        old.truncate(limit);
        let cut: HashSet<_> = old.iter().map(|(_, id, ..)| *id).collect();
        self.delete_messages(|m| cut.contains(&m.id));
        let turns: HashSet<_> = old.iter().filter_map(|(.., turn)| *turn).collect();
        let messages = &self.messages;
        self.turns.retain(|id, t| {
            !turns.contains(id) || t.ended_at.is_none() || messages.contains_key(&t.reply_id)
        });
        let homes: BTreeSet<_> = old.iter().map(|(_, _, home, ..)| *home).collect();
        for home in homes {
            self.redact(home);
            self.count(home);
        }
        let bots: BTreeSet<_> = old.into_iter().map(|(_, _, _, bot, _)| bot).collect();
        for bot in &bots {
            self.mend_where(bot, |id| cut.contains(&id));
        }
        Pruned { bots: bots.into_iter().collect(), ..gone(all, limit) }
    }

    /// What each held conversation shows: its messages, and every path that leads to them or to its leaf.
    fn shown(&self) -> BTreeMap<ConversationId, BTreeSet<MessageId>> {
        let held = self.conversations.values().filter(|c| c.legal_hold);
        held.map(|home| {
            let own = self.messages.values().filter(|m| m.conversation_id == home.id).map(|m| m.id);
            let mut shown = BTreeSet::new();
            for end in own.chain(home.leaf_message_id) {
                let mut next = self.messages.get(&end);
                while let Some(message) = next.filter(|m| shown.insert(m.id)) {
                    next = message.parent_id.and_then(|parent| self.messages.get(&parent));
                }
            }
            (home.id, shown)
        })
        .collect()
    }

    /// What may lose nothing.
    pub(in super::super) fn held(&self, bot: &BotId) -> Vec<Held> {
        let own = |id: &ConversationId| self.conversations.get(id).is_some_and(|c| c.bot_id == *bot);
        let mut held = BTreeSet::new();
        for (by, shown) in self.shown().into_iter().filter(|(id, _)| own(id)) {
            let homes = shown.iter().filter_map(|id| self.messages.get(id)).map(|m| m.conversation_id);
            held.extend(homes.chain([by]).map(|conversation| (conversation, by)));
        }
        held.into_iter().map(|(conversation, by)| Held { conversation, by }).collect()
    }

    /// Whether a hold reaches a conversation.
    pub(super) fn is_reached(&self, id: ConversationId) -> bool {
        let Some(owner) = self.conversations.get(&id).map(|c| &c.bot_id) else { return false };
        self.held(owner).iter().any(|held| held.conversation == id)
    }
}

fn gone(all: usize, limit: usize) -> Pruned {
    Pruned { rows: all.min(limit) as u64, more: all > limit, bots: vec![] }
}
