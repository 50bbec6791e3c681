//! Takes stored messages into the full-text index, some at a time: when nobody writes, and before a search.

use deia_actors::{
    domain::{ids::ConversationId, search::words},
    ports::history_store::StoreError,
};
use sqlx::{PgConnection, Row, postgres::PgRow};
use uuid::Uuid;

use super::{
    super::{
        super::quarantine::{Keyed, Quarantine},
        error, search,
        text::unpack,
    },
    Writer,
    session::Session,
};

/// Messages of one statement, and about how many bytes of text: what a commit may have to wait for.
const SLICE: i64 = 256;
const SLICE_BYTES: i64 = 512 * 1024;

impl Writer {
    /// Takes a slice in; answers whether there is more. Commits go on between two of them.
    pub(in super::super) async fn index(&self) -> Result<bool, StoreError> {
        let mut slot = self.session.lock().await;
        self.closed()?;
        let mut again = slot.is_some();
        loop {
            let mut session = match slot.take() {
                Some(session) => session,
                None => Session::open(&self.target).await?,
            };
            match session.index(&self.quarantine).await {
                Err(error) if error::is_lost(&error) && again => again = false,
                Err(error) if error::is_lost(&error) => return Err(error::sort(error)),
                answer => {
                    *slot = Some(session);
                    return answer.map_err(error::sort);
                }
            }
        }
    }
}

/// What goes into the index, column by column.
#[derive(Default)]
struct Entries {
    ids: Vec<Uuid>,
    conversations: Vec<Uuid>,
    lexemes: Vec<String>,
    words: Vec<String>,
    lengths: Vec<i64>,
}

impl Entries {
    /// A message without words adds nothing, and one that can't be read is passed over and counted.
    fn add(&mut self, row: &PgRow, quarantine: &Quarantine) {
        if let Err(error) = self.try_add(row) {
            quarantine.report("chat_messages", row.key(), &error.to_string());
        }
    }

    fn try_add(&mut self, row: &PgRow) -> sqlx::Result<()> {
        let (id, bot, conversation) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let words = words(&unpack(row.try_get(4)?));
        if !words.is_empty() {
            let (lexemes, text) = search::entry(bot, ConversationId(conversation), &words);
            self.ids.push(id);
            self.conversations.push(conversation);
            self.lexemes.push(lexemes);
            self.words.push(text);
            self.lengths.push(i64::try_from(words.len()).unwrap_or(i64::MAX));
        }
        Ok(())
    }
}

/// So many messages that are about so large, in the order of their arrival.
macro_rules! take {
    ($which:literal) => {
        concat!(
            "SELECT id, bot_id::text, conversation_id, coalesce(state = 'pending', false), content, arrival FROM ( \
                 SELECT found.*, sum(coalesce(octet_length(content), 0)) OVER (ORDER BY arrival) \
                     - coalesce(octet_length(content), 0) AS before \
                 FROM (SELECT m.* FROM ",
            $which,
            " ORDER BY m.arrival LIMIT $1) found) slice WHERE before <= $2 ORDER BY arrival"
        )
    };
}

/// Takes in what ended since it was passed over, then what arrived behind the watermark.
pub(super) async fn slice(at: &mut PgConnection, quarantine: &Quarantine) -> sqlx::Result<bool> {
    let ended = sqlx::query(take!(
        "search_waiting w CROSS JOIN LATERAL (SELECT * FROM chat_messages WHERE id = w.message_id OFFSET 0) m \
         WHERE m.state <> 'pending'"
    ));
    let ended = ended.bind(SLICE).bind(SLICE_BYTES).fetch_all(&mut *at).await?;
    let new = sqlx::query(take!("chat_messages m WHERE m.arrival > (SELECT watermark FROM search_state)"));
    let new = new.bind(SLICE).bind(SLICE_BYTES).fetch_all(&mut *at).await?;
    let (mut done, mut wait, mut watermark) = (vec![], vec![], 0i64);
    let mut entries = Entries::default();
    for row in &ended {
        done.push(row.try_get::<Uuid, _>(0)?);
        entries.add(row, quarantine);
    }
    for row in &new {
        watermark = row.try_get(5)?;
        if row.try_get(3)? {
            wait.push(row.try_get::<Uuid, _>(0)?);
        } else {
            entries.add(row, quarantine);
        }
    }
    if ended.is_empty() && new.is_empty() {
        return Ok(false);
    }
    // One statement, so all of it or nothing; what is there already stays.
    sqlx::query(
        "WITH done AS (DELETE FROM search_waiting WHERE message_id = ANY($1)), \
             wait AS (INSERT INTO search_waiting (message_id) SELECT unnest($2::uuid[]) ON CONFLICT DO NOTHING), \
             added AS (INSERT INTO search_messages (message_id, conversation_id, lexemes, words, length) \
                 SELECT id, home, array_to_tsvector(string_to_array(lexemes, ' ')), words, length \
                 FROM unnest($3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::int8[]) \
                     AS e(id, home, lexemes, words, length) \
                 ON CONFLICT DO NOTHING) \
         UPDATE search_state SET watermark = greatest(watermark, $8)",
    )
    .bind(done)
    .bind(wait)
    .bind(entries.ids)
    .bind(entries.conversations)
    .bind(entries.lexemes)
    .bind(entries.words)
    .bind(entries.lengths)
    .bind(watermark)
    .execute(&mut *at)
    .await?;
    search::is_behind(at).await
}
