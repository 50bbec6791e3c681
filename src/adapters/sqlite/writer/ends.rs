//! Where conversations end by now. Written once a transaction, however many messages a conversation got in it; and kept, so
//! that what is put behind the end looks up neither the conversation nor its parent nor its own place.

use std::collections::HashMap;

use deia_actors::domain::{
    ids::{ConversationId, MessageId},
    message::Message,
    time::Timestamp,
};
use rusqlite::{Connection, params};

use super::history::{Spot, insert_message, place};

/// Conversations kept before all are forgotten at once.
const REMEMBERED: usize = 100_000;

/// The end of a conversation that takes messages.
struct End {
    /// Its last message, which is stored, and behind which nothing is or was.
    leaf: MessageId,
    /// Where that stands.
    spot: Spot,
    /// Messages that its row does not count yet.
    messages: i64,
    /// The time of the newest of them.
    last_at: Timestamp,
}

/// What the writer remembers of conversations.
#[derive(Default)]
pub(super) struct Ends {
    known: HashMap<ConversationId, End>,
    /// Those that got messages in the running transaction.
    grown: Vec<ConversationId>,
}

impl Ends {
    /// Whether a conversation is stored and not retired, and the message that would be the parent is stored.
    pub(super) fn takes(
        &self,
        db: &Connection,
        id: ConversationId,
        parent: Option<MessageId>,
    ) -> rusqlite::Result<bool> {
        if self.known.get(&id).is_some_and(|end| parent.is_none_or(|parent| parent == end.leaf)) {
            return Ok(true);
        }
        db.prepare_cached(
            "SELECT 1 FROM conversations WHERE id = ?1 AND retired_at IS NULL \
                 AND (?2 IS NULL OR EXISTS (SELECT 1 FROM chat_messages WHERE id = ?2))",
        )?
        .exists(params![id.0, parent.map(|p| p.0)])
    }

    /// Writes a message into a conversation that takes it, unless it is there already; 1 where it was written.
    pub(super) fn insert(&mut self, db: &Connection, message: &Message) -> rusqlite::Result<usize> {
        let end = self.known.get(&message.conversation_id).filter(|end| message.parent_id == Some(end.leaf));
        let spot = end.map_or_else(|| place(db, message), |end| Ok(end.spot.below()))?;
        let written = insert_message(db, message, spot)?;
        if written > 0 {
            self.grow(message, spot);
        }
        Ok(written)
    }

    /// Moves the end of a conversation behind a message that was just written.
    fn grow(&mut self, leaf: &Message, spot: Spot) {
        let id = leaf.conversation_id;
        let new = End { leaf: leaf.id, spot, messages: 0, last_at: leaf.created_at };
        let end = self.known.entry(id).or_insert(new);
        if end.messages == 0 {
            self.grown.push(id);
            end.last_at = leaf.created_at;
        }
        (end.leaf, end.spot) = (leaf.id, spot);
        end.messages += 1;
        end.last_at = end.last_at.max(leaf.created_at);
    }

    /// Writes what grew.
    pub(super) fn write(&mut self, db: &Connection) -> rusqlite::Result<()> {
        if self.grown.is_empty() {
            return Ok(());
        }
        let mut update = db.prepare_cached(
            "UPDATE conversations SET leaf_message_id = ?2, message_count = message_count + ?3, \
                 last_at = max(coalesce(last_at, ?4), ?4) WHERE id = ?1",
        )?;
        for id in self.grown.drain(..) {
            if let Some(end) = self.known.get_mut(&id) {
                update.execute(params![id.0, end.leaf.0, end.messages, end.last_at.0])?;
                end.messages = 0;
            }
        }
        if self.known.len() > REMEMBERED {
            self.known.clear();
        }
        Ok(())
    }

    /// Somebody changes conversations or deletes messages, or the transaction did not happen. What grew was written before,
    /// or shall not be.
    pub(super) fn forget(&mut self) {
        self.known.clear();
        self.grown.clear();
    }
}
