//! What a turn needs of the tree, and how it reads the record: patiently, because an acknowledged message is not given up.

use std::{sync::Arc, time::Duration};

use super::context::{ContextEntry, Path};
use crate::{
    broadcast::Hubs,
    domain::{
        ids::{MessageId, TurnId},
        message::Message,
        problem::Problem,
        turn::TurnState,
    },
    history::{History, storage_problem},
    inference::{Inference, tokens::PER_MESSAGE},
    ports::{
        history_store::{HistoryStore, StoreError},
        tool_runner::ToolRunner,
    },
    state::BotEntry,
};

/// Pauses between attempts to read.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// What the whole tree shares, as a turn needs it.
#[derive(Clone)]
pub(crate) struct TurnContext {
    pub entry: Arc<BotEntry>,
    pub history: History,
    pub hubs: Arc<Hubs>,
    pub inference: Inference,
    pub store: Arc<dyn HistoryStore>,
    pub tools: Arc<dyn ToolRunner>,
}

impl TurnContext {
    /// Reads the record, with the time limit.
    pub async fn read<T>(&self, ask: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.history.watch().read(ask).await
    }

    /// Reads the record, however long the database is away: an acknowledged message is not given up for that.
    async fn read_at_last<T, F>(&self, ask: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut pause = AGAIN.0;
        loop {
            match ask().await {
                Err(StoreError::Unavailable(_) | StoreError::Busy(_)) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(AGAIN.1);
                }
                read => return read,
            }
        }
    }

    /// Reads the path that ends with `leaf`.
    pub async fn load_path(&self, leaf: Option<MessageId>, keep_bytes: usize) -> Result<Path, Problem> {
        let Some(leaf) = leaf else { return Ok(Path::default()) };
        self.read_at_last(|| self.read_path(leaf, keep_bytes)).await.map_err(|e| storage_problem(&e))
    }

    /// Whether a turn generates, as storage has it.
    pub async fn generates(&self, turn: TurnId) -> bool {
        let stored = self.read_at_last(|| self.read(self.store.turn_snapshot(turn))).await;
        stored.is_ok_and(|found| found.is_some_and(|found| found.turn.state == TurnState::Generating))
    }

    async fn read_path(&self, leaf: MessageId, keep_bytes: usize) -> Result<Path, StoreError> {
        let store = &self.store;
        let mut messages = self.read(store.path(leaf, keep_bytes)).await?;
        let above = match messages.last().filter(|oldest| oldest.parent_id.is_some()) {
            Some(oldest) => self.read(store.messages_above(oldest.id)).await?,
            None => 0,
        };
        let rest = (above, tokens_like(&messages, above));
        messages.reverse();
        Ok(Path { entries: messages.iter().filter_map(ContextEntry::of).collect(), rest, leaf: Some(leaf) })
    }
}

/// Estimated tokens of so many messages as long as these are: to add up those that are not read would mean to read them.
fn tokens_like(messages: &[Message], count: u32) -> u32 {
    let tokens: u64 = messages.iter().map(|m| u64::from(m.tokens) + u64::from(PER_MESSAGE)).sum();
    let mean = tokens as f64 / messages.len().max(1) as f64;
    (mean * f64::from(count)) as u32
}
