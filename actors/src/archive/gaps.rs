//! Rows that an export has to leave out because they can't be read or were deleted under it: how many, and what what hangs
//! on an unreadable one hangs on instead.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    domain::{
        ids::{BotId, ConversationId, MessageId, TurnId},
        problem::Problem,
    },
    history::storage_problem,
    ports::{history_store::StoreError, storage::Storage},
};

/// What one export left out. Grows with that, not with the export.
#[derive(Debug, Clone, Default)]
pub(super) struct Gaps {
    /// Rows so far.
    pub(super) count: Arc<AtomicU64>,
    messages: HashSet<MessageId>,
    turns: HashSet<TurnId>,
    /// What was looked up: the nearest message that can be read, from a message on.
    above: HashMap<MessageId, Option<MessageId>>,
}

impl Gaps {
    fn one_more(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes note of messages that can't be read; answers how many of them are new.
    pub(super) fn messages(&mut self, ids: Vec<MessageId>) -> u64 {
        let before = self.messages.len();
        self.messages.extend(ids);
        let new = u64::try_from(self.messages.len() - before).unwrap_or(u64::MAX);
        self.count.fetch_add(new, Ordering::Relaxed);
        new
    }

    /// Takes note of messages that were deleted before they were read.
    pub(super) fn deleted(&self, rows: u64) {
        self.count.fetch_add(rows, Ordering::Relaxed);
    }

    /// A conversation that is not in the list; it may also be gone by now.
    pub(super) async fn conversation(&self, store: &dyn Storage, id: ConversationId) -> Result<(), Problem> {
        match store.conversation(id).await {
            Err(StoreError::Corrupt(_)) => self.one_more(),
            read => drop(read.map_err(|e| storage_problem(&e))?),
        }
        Ok(())
    }

    /// A turn that was not found; with its question and its reply it is asked for twice.
    pub(super) async fn turn(&mut self, store: &dyn Storage, id: TurnId) -> Result<(), Problem> {
        let there = match store.turn_snapshot(id).await {
            Err(StoreError::Corrupt(_)) => true,
            read => read.map_err(|e| storage_problem(&e))?.is_some_and(|read| read.turn.ended_at.is_some()),
        };
        if there && self.turns.insert(id) {
            self.one_more();
        }
        Ok(())
    }

    /// The end of a path: this, or what is before it.
    pub(super) async fn leaf(
        &mut self,
        store: &dyn Storage,
        bot: &BotId,
        leaf: MessageId,
    ) -> Result<Option<MessageId>, Problem> {
        match store.message(bot, leaf).await {
            Err(StoreError::Corrupt(_)) => self.nearest(store, leaf).await,
            read => read.map(|_| Some(leaf)).map_err(|e| storage_problem(&e)),
        }
    }

    /// What a message hangs on: this, or what is before it.
    pub(super) async fn above(
        &mut self,
        store: &dyn Storage,
        parent: MessageId,
    ) -> Result<Option<MessageId>, Problem> {
        if self.messages.contains(&parent) { self.nearest(store, parent).await } else { Ok(Some(parent)) }
    }

    async fn nearest(&mut self, store: &dyn Storage, id: MessageId) -> Result<Option<MessageId>, Problem> {
        if let Some(known) = self.above.get(&id) {
            return Ok(*known);
        }
        let path = store.path(id, 0).await.map_err(|e| storage_problem(&e))?;
        let nearest = path.first().map(|m| m.id);
        self.above.insert(id, nearest);
        Ok(nearest)
    }
}
