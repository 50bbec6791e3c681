//! What can be read of the record.

use std::collections::BTreeSet;

use super::{
    CommittedEvent, Conversation, Cursor, Message, MessagePage, Record, Siblings, Span, Topic, Turn,
};
use crate::{
    domain::ids::{BotId, ConversationId, MessageId},
    ports::history_store::PAGE_BYTES,
};

impl Record {
    /// Number of the last event of a topic.
    pub(in super::super) fn head(&self, topic: &Topic) -> u64 {
        self.heads.get(topic).copied().unwrap_or(0)
    }

    /// Events of a topic, where all of the span are kept.
    pub(in super::super) fn topic_events(
        &self,
        topic: &Topic,
        span: Span,
        limit: u32,
        max_bytes: usize,
    ) -> Option<Vec<CommittedEvent>> {
        let wanted = |e: &&CommittedEvent| {
            e.seqs.iter().any(|(t, seq)| t == topic && *seq > span.after && *seq <= span.through)
        };
        let kept: Vec<_> = self.events.iter().filter(wanted).collect();
        if kept.len() as u64 != span.len() {
            return None;
        }
        let mut bytes = 0;
        let fits = |e: &&&CommittedEvent| {
            let fits = bytes <= max_bytes;
            bytes += e.data.len();
            fits
        };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Some(kept.iter().take(limit).take_while(fits).map(|e| (*e).clone()).collect())
    }

    /// A message with its place among its siblings of its conversation.
    pub(in super::super) fn message(&self, id: MessageId) -> Option<Message> {
        let message = self.messages.get(&id)?.clone();
        let siblings = self.own_children(message.conversation_id, message.parent_id);
        Some(placed(message, &siblings))
    }

    /// Messages of a conversation with this parent, oldest first.
    fn own_children(&self, conversation: ConversationId, parent: Option<MessageId>) -> BTreeSet<MessageId> {
        let own =
            self.messages.values().filter(|m| m.conversation_id == conversation && m.parent_id == parent);
        own.map(|m| m.id).collect()
    }

    /// As a conversation has them: with the one that it shares.
    pub(in super::super) fn children(
        &self,
        conversation: ConversationId,
        parent: Option<MessageId>,
    ) -> BTreeSet<MessageId> {
        let mut children = self.own_children(conversation, parent);
        let shared = self.path(self.shared_end(conversation));
        children.extend(shared.iter().filter(|m| m.parent_id == parent).map(|m| m.id));
        children
    }

    /// The end of what a conversation shares.
    fn shared_end(&self, home: ConversationId) -> Option<MessageId> {
        let own = self.messages.values().filter(|m| m.conversation_id == home);
        let begins = own.filter_map(|m| m.parent_id).filter(|parent| parent.0 < home.0);
        begins.filter(|p| self.messages.get(p).is_some_and(|p| p.conversation_id != home)).max()
    }

    /// The newest message of a conversation at or below this one.
    pub(in super::super) fn newest_below(&self, home: ConversationId, id: MessageId) -> Option<MessageId> {
        let shared = self.path(self.shared_end(home));
        let mut below = BTreeSet::new();
        if self.messages.get(&id).is_some_and(|m| m.conversation_id == home) {
            below.insert(id);
        }
        if let Some(at) = shared.iter().position(|m| m.id == id) {
            below.extend(shared.iter().take(at + 1).map(|m| m.id));
        }
        // A child is newer than its parent, so one walk in the order of creation meets parents first.
        for message in self.messages.values().filter(|m| m.conversation_id == home) {
            if message.parent_id.is_some_and(|parent| below.contains(&parent)) {
                below.insert(message.id);
            }
        }
        below.last().copied()
    }

    /// From a leaf up to the first message.
    pub(in super::super) fn path(&self, leaf: Option<MessageId>) -> Vec<Message> {
        let mut path = vec![];
        let mut next = leaf;
        while let Some(message) = next.and_then(|id| self.message(id)) {
            next = message.parent_id;
            path.push(message);
        }
        path
    }

    /// A page of the active path.
    pub(in super::super) fn page(
        &self,
        id: ConversationId,
        cursor: Cursor,
        limit: u32,
    ) -> Option<MessagePage> {
        let mut path = self.path(self.conversations.get(&id).and_then(|c| c.leaf_message_id));
        path.reverse();
        for message in &mut path {
            let mut siblings = self.children(id, message.parent_id);
            siblings.insert(message.id);
            *message = placed(message.clone(), &siblings);
        }
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let place = |id| path.iter().position(|m| m.id == id);
        let older = |to: usize| {
            let from = to - fitting(path.iter().take(to).rev().take(limit));
            (from, to, from > 0)
        };
        let (from, to, has_more) = match cursor {
            Cursor::Newest { offset } => {
                older(path.len().saturating_sub(usize::try_from(offset).unwrap_or(usize::MAX)))
            }
            Cursor::Before(id) => older(place(id)?),
            Cursor::After(id) => {
                let from = place(id)? + 1;
                let to = from + fitting(path.iter().skip(from).take(limit));
                (from, to, to < path.len())
            }
        };
        Some(MessagePage { items: path.get(from..to).unwrap_or_default().to_vec(), has_more })
    }

    /// One conversation.
    pub(in super::super) fn conversation(&self, id: ConversationId) -> Option<Conversation> {
        self.conversations.get(&id).cloned()
    }

    /// Conversations of a bot of the roster: the main one, then by last use.
    pub(in super::super) fn conversations_of(&self, bot: &BotId) -> Vec<Conversation> {
        let own = self.conversations.values().filter(|c| c.bot_id == *bot && !self.retired.contains(&c.id));
        let mut own: Vec<_> = own.cloned().collect();
        own.sort_by_key(|c| std::cmp::Reverse((c.main, c.last_at.unwrap_or(c.created_at), c.id)));
        own
    }

    /// Turns that have not ended, with their messages.
    pub(in super::super) fn open_turns(&self, bot: Option<&BotId>) -> Vec<(Turn, Message, Message)> {
        let open = self.turns.values().filter(|t| {
            t.ended_at.is_none()
                && bot.is_none_or(|b| *b == t.bot_id)
                && !self.retired.contains(&t.conversation_id)
        });
        let mut open: Vec<_> = open
            .filter_map(|t| Some((t.clone(), self.message(t.message_id)?, self.message(t.reply_id)?)))
            .collect();
        open.sort_by_key(|(turn, ..)| (turn.created_at, turn.id));
        open
    }
}

/// A message with its place among these.
fn placed(message: Message, siblings: &BTreeSet<MessageId>) -> Message {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let (index, count) = (siblings.range(..=message.id).count(), siblings.len());
    Message { siblings: Siblings { index: number(index), count: number(count) }, ..message }
}

/// How many of these messages, from the first one on, are a page.
pub fn fitting<'a>(messages: impl Iterator<Item = &'a Message>) -> usize {
    let mut weight = 0;
    let fits = |(n, message): &(usize, &Message)| {
        weight += message.weight();
        *n == 0 || weight <= PAGE_BYTES
    };
    messages.enumerate().take_while(fits).count()
}
