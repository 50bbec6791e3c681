//! Full-text search. Candidates come from a GIN index of the begins of words; whether and how often a message has what is
//! asked for its words say, as they stand in one text. How messages get there: `writer/index.rs`.

use deia_actors::{
    domain::{
        ids::{BotId, ConversationId},
        message::Message,
        search::{Phrase, Query, Word},
    },
    ports::{
        history_store::{PAGE_BYTES, StoreError},
        search::Found,
    },
};
use sqlx::{PgConnection, Row};

use super::{
    super::quarantine::Quarantine,
    error,
    reader::Reader,
    rows::{self, message_columns, siblings, weight},
};

/// Characters of a word that are looked for in the index. All words of a message stay within the megabyte of a tsvector.
const BEGIN: usize = 12;

/// The lexeme that stands for a bot. No word has a colon.
fn bot_lexeme(bot: &str) -> String {
    format!(":b{bot}")
}

/// The lexeme that stands for a conversation.
fn conversation_lexeme(id: ConversationId) -> String {
    format!(":c{}", id.0.simple())
}

/// The part of a word that is a lexeme, and whether it is only a part.
fn begin(word: &str) -> (&str, bool) {
    match word.char_indices().nth(BEGIN) {
        Some((end, _)) => (word.get(..end).unwrap_or(word), true),
        None => (word, false),
    }
}

/// A message as it is stored in the index: its lexemes, parted by spaces, and its words.
pub(super) fn entry(bot: &str, conversation: ConversationId, words: &[Word]) -> (String, String) {
    let mut lexemes = format!("{} {}", bot_lexeme(bot), conversation_lexeme(conversation));
    let mut text = String::new();
    for Word { text: word, .. } in words {
        lexemes.push(' ');
        lexemes.push_str(begin(word).0);
        text.extend([" ", word, " "]);
    }
    (lexemes, text)
}

/// Which lexemes a message must have, as a tsquery. Nothing in them is a sign in there.
fn candidates(bot: &BotId, conversation: Option<ConversationId>, query: &Query) -> String {
    let mut all = vec![format!("'{}'", bot_lexeme(bot.as_str()))];
    all.extend(conversation.map(|id| format!("'{}'", conversation_lexeme(id))));
    for Phrase { words, prefix } in query.phrases() {
        for (n, word) in words.iter().enumerate() {
            let (begin, cut) = begin(word);
            let open = *prefix && n + 1 == words.len() && !cut;
            all.push(format!("'{begin}'{}", if open { ":*" } else { "" }));
        }
    }
    all.join(" & ")
}

/// A phrase as a part of the text of [`entry`].
fn part(phrase: &Phrase) -> String {
    let mut part: String = phrase.words.iter().map(|word| format!(" {word} ")).collect();
    if phrase.prefix {
        part.pop();
    }
    part
}

impl Reader {
    pub(super) async fn unindexed(&self) -> Result<u64, StoreError> {
        self.number(
            "SELECT greatest((SELECT coalesce(max(arrival), 0) FROM chat_messages) - watermark, 0) \
                 + (SELECT count(*) FROM search_waiting w JOIN chat_messages m ON m.id = w.message_id \
                     WHERE m.state <> 'pending') FROM search_state",
        )
        .await
    }
}

pub(super) async fn search(
    quarantine: &Quarantine,
    at: &mut PgConnection,
    bot: &BotId,
    conversation: Option<ConversationId>,
    query: &Query,
    limit: u32,
    offset: u32,
) -> Result<Found, StoreError> {
    // In this order whatever the statistics say: candidates, their ranks, one look at each. The last of a page is the one that does
    // not fit any more, or the one behind the limit; the last column is how many there are, up to that.
    let found = sqlx::query(concat!(
        "SELECT ",
        message_columns!(),
        ", m.hits FROM (SELECT found.*, count(*) OVER () AS hits, \
             sum(bytes) OVER (ORDER BY rank DESC, id DESC) - bytes AS before \
         FROM (SELECT m.*, hit.rank, ",
        weight!(),
        " AS bytes FROM (SELECT s.message_id AS id, hit.rank FROM \
                 (SELECT * FROM search_messages WHERE lexemes @@ $1::tsquery OFFSET 0) s \
             CROSS JOIN LATERAL ( \
                 SELECT CASE WHEN bool_and(n > 0) THEN sum(n / (n + 0.3 + 0.02 * s.length)) END AS rank FROM ( \
                     SELECT ((octet_length(s.words) - octet_length(replace(s.words, p, ''))) / octet_length(p))::float8 \
                     FROM unnest($2::text[]) AS parts(p)) AS counts(n)) hit \
             WHERE hit.rank IS NOT NULL AND \
                 (SELECT c.retired_at IS NULL FROM conversations c WHERE c.id = s.conversation_id) \
             ORDER BY hit.rank DESC, s.message_id DESC LIMIT $3 OFFSET $4) hit \
         CROSS JOIN LATERAL (SELECT * FROM chat_messages WHERE id = hit.id OFFSET 0) m) found) m \
         WHERE m.before <= $5 ORDER BY m.rank DESC, m.id DESC"
    ))
    .bind(candidates(bot, conversation, query))
    .bind(query.phrases().iter().map(part).collect::<Vec<_>>())
    .bind(i64::from(limit) + 1)
    .bind(i64::from(offset))
    .bind(i64::try_from(PAGE_BYTES).unwrap_or(i64::MAX))
    .fetch_all(at)
    .await
    .map_err(error::sort)?;
    let hits: i64 = match found.first() {
        Some(row) => row.try_get(row.len() - 1).map_err(error::sort)?,
        None => 0,
    };
    let (mut items, mut weight, mut read) = (vec![], 0usize, 0);
    for row in &found {
        let message = quarantine.sift("chat_messages", row, rows::message(row))?;
        weight = weight.saturating_add(message.as_ref().map_or(0, Message::weight));
        if read == limit || (weight > PAGE_BYTES && !items.is_empty()) {
            break;
        }
        items.extend(message);
        read += 1;
    }
    Ok(Found { items, next: (i64::from(read) < hits).then(|| offset.saturating_add(read)) })
}

/// Whether something can be taken in now.
pub(super) async fn is_behind(at: &mut PgConnection) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM chat_messages WHERE arrival > (SELECT watermark FROM search_state)) \
             OR EXISTS (SELECT 1 FROM search_waiting w \
                 WHERE (SELECT m.state FROM chat_messages m WHERE m.id = w.message_id) <> 'pending')",
    )
    .fetch_one(at)
    .await
}
