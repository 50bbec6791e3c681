//! Search by looking at every message.

use std::cmp::Reverse;

use async_trait::async_trait;

use super::{MemoryStore, record::fitting};
use crate::{
    domain::{
        ids::{BotId, ConversationId},
        message::{Message, MessageState},
        search::{Query, words},
    },
    ports::{
        history_store::StoreError,
        search::{Found, SearchIndex},
    },
};

#[async_trait]
impl SearchIndex for MemoryStore {
    async fn search(
        &self,
        bot: &BotId,
        conversation: Option<ConversationId>,
        query: &Query,
        limit: u32,
        offset: u32,
    ) -> Result<Found, StoreError> {
        self.reach().await?;
        // The sender lives as long as self does.
        self.shared.unindexed.subscribe().wait_for(|left| *left == 0).await.ok();
        let record = self.shared.record.lock();
        let searched = |m: &&Message| {
            let listed = record.conversations.get(&m.conversation_id).is_some_and(|c| c.bot_id == *bot)
                && !record.retired.contains(&m.conversation_id);
            listed && conversation.is_none_or(|c| c == m.conversation_id) && m.state != MessageState::Pending
        };
        let mut found: Vec<_> = record
            .messages
            .values()
            .filter(searched)
            .filter_map(|m| {
                let words = words(&m.content);
                let share = query.matches(&words)? as u64 * 1_000_000 / words.len().max(1) as u64;
                Some((Reverse(share), Reverse(m.id)))
            })
            .collect();
        found.sort_unstable();
        let number = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
        let rest = found.get(number(offset)..).unwrap_or_default();
        let mut items: Vec<Message> =
            rest.iter().take(number(limit)).filter_map(|(_, Reverse(id))| record.message(*id)).collect();
        items.truncate(fitting(items.iter()));
        let next =
            (items.len() < rest.len()).then(|| offset + u32::try_from(items.len()).unwrap_or(u32::MAX));
        Ok(Found { items, next })
    }

    async fn unindexed(&self) -> Result<u64, StoreError> {
        self.reach().await?;
        Ok(*self.shared.unindexed.borrow())
    }
}
