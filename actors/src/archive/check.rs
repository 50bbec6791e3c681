//! What must be true of a whole file before anything of it is stored: its order, its references, no circle. Pure.

use std::collections::HashMap;

use super::invalid;
use crate::{
    domain::{
        ids::{ConversationId, MessageId},
        message::{Conversation, Message},
        problem::Problem,
    },
    ports::archive::Place,
};

/// Collects what is needed to judge a file: 32 bytes per message.
#[derive(Default)]
pub(super) struct Checker {
    /// Conversations with their place in the file.
    conversations: HashMap<ConversationId, usize>,
    leaves: Vec<MessageId>,
    main: Option<ConversationId>,
    last_conversation: Option<ConversationId>,
    last: Option<(usize, Place)>,
    nodes: Vec<(MessageId, Option<MessageId>)>,
}

impl Checker {
    pub(super) fn conversation(&mut self, c: &Conversation) -> Result<(), Problem> {
        if self.last_conversation.replace(c.id).is_some_and(|last| last >= c.id) {
            return Err(invalid(format!("Conversation {} is not in the order of the ids", c.id)));
        }
        if c.main && self.main.replace(c.id).is_some() {
            return Err(invalid("The file has two main conversations"));
        }
        self.conversations.insert(c.id, self.conversations.len());
        self.leaves.extend(c.leaf_message_id);
        Ok(())
    }

    pub(super) fn message(&mut self, m: &Message) -> Result<(), Problem> {
        let home = self.conversations.get(&m.conversation_id).copied();
        let home = home.ok_or_else(|| {
            invalid(format!(
                "Message {} is of conversation {}, which the file lacks",
                m.id, m.conversation_id
            ))
        })?;
        let place = (home, Place::of(m));
        if self.last.replace(place).is_some_and(|last| last >= place) {
            return Err(invalid(format!("Message {} does not stand where it belongs", m.id)));
        }
        self.nodes.push((m.id, m.parent_id));
        Ok(())
    }

    /// Answers with the messages that others of the file hang on and that must be stored already.
    pub(super) fn end(mut self) -> Result<Vec<MessageId>, Problem> {
        self.nodes.sort_unstable();
        if let Some(twice) = self.nodes.windows(2).find(|w| matches!(w, [a, b] if a.0 == b.0)) {
            return Err(invalid(format!("Message {} is in it twice", twice[0].0)));
        }
        let find = |id: &MessageId| self.nodes.binary_search_by_key(id, |node| node.0).ok();
        let outside = self.nodes.iter().filter_map(|node| node.1).chain(self.leaves.iter().copied());
        let mut outside: Vec<MessageId> = outside.filter(|id| find(id).is_none()).collect();
        outside.sort_unstable();
        outside.dedup();
        // From each message up to the first one; a message that is met again on the same way closes a circle.
        let mut walked = vec![0usize; self.nodes.len()];
        for start in 0..self.nodes.len() {
            let mut at = Some(start);
            while let Some(index) = at {
                match walked.get_mut(index) {
                    Some(mark @ 0) => *mark = start + 1,
                    Some(mark) if *mark == start + 1 => {
                        let id = self.nodes.get(index).map_or_else(String::new, |node| node.0.to_string());
                        return Err(invalid(format!("Message {id} comes before itself")));
                    }
                    _ => break,
                }
                at = self.nodes.get(index).and_then(|node| node.1).as_ref().and_then(find);
            }
        }
        Ok(outside)
    }
}
