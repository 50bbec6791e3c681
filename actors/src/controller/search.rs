//! The façade: full-text search.

use tokio::time::timeout;

use super::{chat::PAGE, *};
use crate::domain::search::Query;

impl Controller {
    /// Searches the messages of a bot, in one conversation or in all of them, all branches. Best match first.
    ///
    /// # Errors
    /// `bot_not_found`, `conversation_not_found`, `conversation_retired`, `invalid_request`, `search_behind`, `storage_unavailable`.
    pub async fn search(&self, bot: &BotId, asked: SearchHistory) -> Result<SearchPage, ControllerError> {
        self.entry(bot)?;
        let limit = asked.limit.unwrap_or(PAGE.0);
        if !(1..=PAGE.1).contains(&limit) {
            return Err(Problem::field("limit", format!("must be from 1 to {}", PAGE.1)));
        }
        let query = Query::parse(&asked.q).map_err(|e| Problem::field("q", e.to_string()))?;
        if let Some(id) = asked.conversation_id {
            self.conversation_of(bot, Some(id)).await?;
        }
        self.check_readable()?;
        let store = &self.inner.store;
        let found = store.search(bot, asked.conversation_id, &query, limit, asked.offset.unwrap_or(0));
        let found = match timeout(self.inner.settings.storage_timeout, found).await {
            Ok(found) => found.map_err(|e| read_problem(&e))?,
            Err(_) => return Err(self.search_gave_up().await),
        };
        // What an earlier bot left is in no search, which must not look as if nothing were there.
        if let (Some(id), true) = (asked.conversation_id, found.items.is_empty()) {
            self.not_retired(bot, id).await?;
        }
        let hit = |message: Message| SearchHit { snippet: query.snippet(&message.content), message };
        Ok(SearchPage {
            items: found.items.into_iter().map(hit).collect(),
            has_more: found.next.is_some(),
            next_offset: found.next,
            before: None,
            after: None,
        })
    }

    /// Why a search was not answered in time.
    async fn search_gave_up(&self) -> Problem {
        let waited = self.inner.settings.storage_timeout;
        match self.inner.history.watch().glance(self.inner.store.unindexed()).await {
            Ok(0) => storage_problem(&silent(waited)),
            Ok(left) => {
                let detail = format!(
                    "About {left} messages are not in the index of the search yet. It takes them in by itself, and goes on \
                     after this; search again."
                );
                Problem::new(Code::SearchBehind, detail)
            }
            Err(error) => storage_problem(&error),
        }
    }
}
