//! Port: full-text search over the messages of a bot.

use async_trait::async_trait;

use super::history_store::StoreError;
use crate::domain::{
    ids::{BotId, ConversationId},
    message::Message,
    search::Query,
};

/// A page of what was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Messages, best match first; equally good ones newest first.
    pub items: Vec<Message>,
    /// How many of those that were found are before the next page; none where this is the last one.
    pub next: Option<u32>,
}

/// Finds messages by their words.
///
/// * Text MUST be indexed by [`words`](crate::domain::search::words) alone, each message up to
///   [`MAX_WORDS`](crate::domain::search::MAX_WORDS), and a message is found where
///   [`Query::matches`] says so: every database finds the same messages. Their order may differ in
///   fine points; a message in which a word stands more often, among fewer others, MUST NOT come behind.
/// * What was committed before a search MUST be found by it; a reply, once it has ended. What was deleted MUST NOT be.
/// * Only conversations of the bot in the roster are searched, all branches, archived ones too.
/// * A search may take as long as its index is behind; whoever waits for one bounds that. What is behind MUST be taken in all
///   the same once nobody writes, also after a search that was given up.
/// * A commit MUST NOT become slower by it: indexing comes later, at the latest with the next search.
#[async_trait]
pub trait SearchIndex: Send + Sync + 'static {
    /// Searches one conversation of a bot, or all of them: a page of at most `limit` messages, and no more than weigh
    /// [`PAGE_BYTES`](super::history_store::PAGE_BYTES) together, but for one that is too heavy by itself. Pages that begin where
    /// the one before says MUST meet, whatever can't be read.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn search(
        &self,
        bot: &BotId,
        conversation: Option<ConversationId>,
        query: &Query,
        limit: u32,
        offset: u32,
    ) -> Result<Found, StoreError>;

    /// About how many messages the index lacks, rather too many than too few.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn unindexed(&self) -> Result<u64, StoreError>;
}
