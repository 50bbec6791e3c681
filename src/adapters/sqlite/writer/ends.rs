//! Where conversations end by now. Written once a transaction, however many messages a conversation got in it; and kept, so
//! that what is put behind the end looks up neither the conversation nor its parent.

use std::collections::HashMap;

use deia_actors::domain::{
    ids::{ConversationId, MessageId},
    message::Message,
    time::Timestamp,
};
use rusqlite::{Connection, params};

/// Conversations kept before all are forgotten at once.
const REMEMBERED: usize = 100_000;

/// The end of a conversation that takes messages.
struct End {
    /// Its last message, which is stored.
    leaf: MessageId,
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

    /// Moves the end of a conversation that takes messages behind new ones.
    pub(super) fn grow(&mut self, id: ConversationId, leaf: &Message, messages: usize) {
        let new = End { leaf: leaf.id, messages: 0, last_at: leaf.created_at };
        let end = self.known.entry(id).or_insert(new);
        if end.messages == 0 {
            self.grown.push(id);
            end.last_at = leaf.created_at;
        }
        end.leaf = leaf.id;
        end.messages += i64::try_from(messages).unwrap_or(i64::MAX);
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
