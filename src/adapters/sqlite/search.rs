//! Full-text search on FTS5. How messages get into the index: `writer/index.rs`.

use deia_actors::{
    domain::{
        ids::{BotId, ConversationId},
        message::Message,
        search::{Phrase, Query},
    },
    ports::{
        history_store::{PAGE_BYTES, StoreError},
        search::Found,
    },
};
use futures_util::TryStreamExt;
use sqlx::SqliteConnection;

use super::{
    error,
    quarantine::Quarantine,
    reader::Reader,
    rows::{self, message_columns},
};

/// The word that stands for a bot: ids tell capitals apart, the tokenizer does not.
pub(super) fn bot_word(bot: &str) -> String {
    let hex: String = bot.bytes().map(|b| format!("{b:02x}")).collect();
    format!("b{hex}")
}

/// The word that stands for a conversation.
pub(super) fn conversation_word(id: ConversationId) -> String {
    format!("c{}", id.0.simple())
}

/// A query in FTS5's own language. Our words have nothing in them that it would take for a sign.
fn expression(bot: &BotId, conversation: Option<ConversationId>, query: &Query) -> String {
    let phrase = |p: &Phrase| format!("\"{}\"{}", p.words.join(" "), if p.prefix { " *" } else { "" });
    let phrases: Vec<String> = query.phrases().iter().map(phrase).collect();
    let home = conversation.map(|id| format!(" AND home : {}", conversation_word(id))).unwrap_or_default();
    format!("home : {}{home} AND words : ({})", bot_word(bot.as_str()), phrases.join(" AND "))
}

impl Reader {
    pub(super) async fn unindexed(&self) -> Result<u64, StoreError> {
        self.number(
            "SELECT max((SELECT coalesce(max(rowid), 0) FROM chat_messages) - watermark, 0) \
                 + (SELECT count(*) FROM search_waiting w JOIN chat_messages m ON m.id = w.message_id \
                     WHERE m.state <> 'pending') FROM search_state",
        )
        .await
    }
}

pub(super) async fn search(
    quarantine: &Quarantine,
    at: &mut SqliteConnection,
    bot: &BotId,
    conversation: Option<ConversationId>,
    query: &Query,
    limit: u32,
    offset: u32,
) -> Result<Found, StoreError> {
    // Row by row, in the order of the hits, which CROSS JOIN keeps outermost: sorted afterwards all of them would be in memory.
    let mut rows = sqlx::query(concat!(
        "SELECT ",
        message_columns!(),
        " FROM (SELECT h.id, bm25(search_text, 0.0, 1.0) AS rank FROM search_text \
             JOIN search_messages s ON s.row = search_text.rowid \
             JOIN chat_messages h ON h.id = s.message_id \
             JOIN conversations c ON c.id = h.conversation_id AND c.retired_at IS NULL \
             WHERE search_text MATCH $1 ORDER BY rank, h.id DESC LIMIT $2 OFFSET $3) hit \
         CROSS JOIN chat_messages m ON m.id = hit.id"
    ))
    .bind(expression(bot, conversation, query))
    .bind(i64::from(limit) + 1)
    .bind(offset)
    .fetch(at);
    let (mut items, mut weight, mut read) = (vec![], 0usize, 0);
    while let Some(row) = rows.try_next().await.map_err(error::of_reader)? {
        let message = quarantine.sift("chat_messages", &row, rows::message(&row))?;
        weight = weight.saturating_add(message.as_ref().map_or(0, Message::weight));
        if read == limit || (weight > PAGE_BYTES && !items.is_empty()) {
            return Ok(Found { items, next: Some(offset.saturating_add(read)) });
        }
        items.extend(message);
        read += 1;
    }
    Ok(Found { items, next: None })
}
