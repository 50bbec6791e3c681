//! Rows as the words of the domain. Columns are read by position, in the order of the lists below.

use std::borrow::Cow;

use deia_actors::{
    domain::{
        bot::{BotRecord, StoredStatus, TokenTotals},
        event::{CommittedEvent, Topic},
        idempotency::{Fingerprint, SentBefore},
        ids::{BotId, ConversationId, EventId, MessageId, TurnId},
        message::{Conversation, Message, Siblings},
        model::ServerRecord,
        time::Timestamp,
        turn::{ContextUse, Timings, Turn, Usage},
    },
    ports::{
        archive::ArchivedTurn,
        history_store::{REDACTED, StoreError},
    },
};
use serde::de::{DeserializeOwned, IgnoredAny};
use sqlx::{Decode, Postgres, Row, Type, postgres::PgRow};
use uuid::Uuid;

use super::{
    super::words::{parse_json, parse_word, time, unexpected},
    error, text,
};

/// How many siblings a message `m` has in a conversation, up to some of them. Not `IS NOT DISTINCT FROM`, which no index
/// serves.
macro_rules! siblings {
    ($home:literal, $which:literal) => {
        concat!(
            "CASE WHEN m.parent_id IS NULL \
                 THEN (SELECT count(*) FROM chat_messages s WHERE s.conversation_id = ",
            $home,
            " AND s.parent_id IS NULL",
            $which,
            ") ELSE (SELECT count(*) FROM chat_messages s WHERE s.conversation_id = ",
            $home,
            " AND s.parent_id = m.parent_id",
            $which,
            ") END"
        )
    };
}
/// Columns of a message `m`, its place among the children of its parent in its conversation, or in the one named, included.
macro_rules! message_columns {
    () => {
        message_columns!("m.conversation_id")
    };
    ($home:literal) => {
        concat!(
            "m.id, m.bot_id, m.conversation_id, m.parent_id, m.turn_id, m.sender, m.content, m.thinking, \
             m.tool_calls, m.images, m.tokens, m.state, m.created_at, m.metadata, ",
            siblings!($home, " AND s.id <= m.id"),
            ", ",
            siblings!($home, "")
        )
    };
}
/// About the weight of a message `m`, never less: what is stored may be longer than what it says.
macro_rules! weight {
    () => {
        "(octet_length(m.content)::int8 + coalesce(octet_length(m.tool_calls), 0) \
             + coalesce(octet_length(m.thinking), 0) + coalesce(octet_length(m.images), 0))"
    };
}
/// Columns of a conversation `c`.
macro_rules! conversation_columns {
    () => {
        "c.id, c.bot_id, c.title, c.main, c.leaf_message_id, c.message_count, c.archived, c.created_at, c.last_at, \
         c.legal_hold"
    };
}
/// Columns of a turn `t`.
macro_rules! turn_columns {
    () => {
        "t.id, t.bot_id, t.conversation_id, t.message_id, t.reply_id, t.state, t.model, t.server, t.attempt_of, \
         t.queue, t.prompt_tokens, t.completion_tokens, t.queued_ms, t.first_token_ms, t.total_ms, t.num_ctx, \
         t.context_used, t.trimmed_messages, t.trimmed_tokens, t.error, t.created_at, t.ended_at"
    };
}
/// Columns of an event `e` and the id of its bot `b`.
macro_rules! event_columns {
    () => {
        "e.position, e.id, e.created_at, e.event, e.data, e.bots_seq, e.tree_seq, e.models_seq, e.tasks_seq, b.id, \
         e.bot_seq, e.conversation_id, e.conversation_seq, e.turn_id, e.turn_seq"
    };
}
/// Columns of a bot `b` and its status `s`.
macro_rules! bot_columns {
    () => {
        "b.id, b.name, b.config, b.config_version, b.main_conversation_id, b.metadata, b.created_at, b.updated_at, \
         s.status, s.last_message, s.error_count, s.restart_count, s.prompt_tokens, s.completion_tokens, s.updated_at"
    };
}
pub(super) use {
    bot_columns, conversation_columns, event_columns, message_columns, siblings, turn_columns, weight,
};

/// A row that is read from left to right.
struct Cells<'r> {
    row: &'r PgRow,
    next: usize,
}

impl<'r> Cells<'r> {
    fn take<T: Decode<'r, Postgres> + Type<Postgres>>(&mut self) -> Result<T, StoreError> {
        let cell = self.row.try_get(self.next).map_err(error::sort);
        // Also behind one that can't be read: the next cell is the next column.
        self.next += 1;
        cell
    }

    fn number<T: TryFrom<i64>>(&mut self) -> Result<T, StoreError>
    where
        T::Error: std::fmt::Display,
    {
        T::try_from(self.take::<i64>()?).map_err(|e| unexpected("number", e))
    }

    /// A text of a person or a model.
    fn text(&mut self) -> Result<Cow<'r, str>, StoreError> {
        self.take().map(text::unpack)
    }

    fn text_if_any(&mut self) -> Result<Option<Cow<'r, str>>, StoreError> {
        Ok(self.take::<Option<&str>>()?.map(text::unpack))
    }

    fn time(&mut self) -> Result<Timestamp, StoreError> {
        time(self.take()?)
    }

    fn time_if_any(&mut self) -> Result<Option<Timestamp>, StoreError> {
        self.take::<Option<i64>>()?.map(time).transpose()
    }

    fn bot_id(&mut self) -> Result<BotId, StoreError> {
        BotId::parse(self.take()?).map_err(|e| unexpected("bot id", e))
    }

    fn word<T: DeserializeOwned>(&mut self) -> Result<T, StoreError> {
        parse_word(self.take()?)
    }

    fn json<T: DeserializeOwned>(&mut self) -> Result<T, StoreError> {
        parse_json(self.take()?)
    }

    fn json_if_any<T: DeserializeOwned>(&mut self) -> Result<Option<T>, StoreError> {
        self.take::<Option<&str>>()?.map(parse_json).transpose()
    }
}

/// Reads [`message_columns`].
pub(super) fn message(row: &PgRow) -> Result<Message, StoreError> {
    let mut cells = Cells { row, next: 0 };
    Ok(Message {
        id: MessageId(cells.take()?),
        bot_id: cells.bot_id()?,
        conversation_id: ConversationId(cells.take()?),
        parent_id: cells.take::<Option<Uuid>>()?.map(MessageId),
        turn_id: cells.take::<Option<Uuid>>()?.map(TurnId),
        sender: cells.word()?,
        content: cells.text()?.into(),
        thinking: cells.text_if_any()?.map(Into::into),
        tool_calls: cells.json_if_any()?,
        images: cells.json_if_any()?,
        tokens: cells.number()?,
        state: cells.word()?,
        created_at: cells.time()?,
        metadata: cells.json()?,
        siblings: Siblings { index: cells.number()?, count: cells.number()? },
    })
}

/// Reads [`conversation_columns`].
pub(super) fn conversation(row: &PgRow) -> Result<Conversation, StoreError> {
    let mut cells = Cells { row, next: 0 };
    Ok(Conversation {
        id: ConversationId(cells.take()?),
        bot_id: cells.bot_id()?,
        title: cells.text_if_any()?.map(Cow::into_owned),
        main: cells.take()?,
        leaf_message_id: cells.take::<Option<Uuid>>()?.map(MessageId),
        // A counter, of nothing that is decided by it.
        message_count: cells.take::<i64>()?.try_into().unwrap_or_default(),
        archived: cells.take()?,
        created_at: cells.time()?,
        last_at: cells.time_if_any()?,
        legal_hold: cells.take()?,
    })
}

/// Reads `fingerprint, turn_id, message_id, reply_id, created_at` of a key.
pub(super) fn sent_before(row: &PgRow) -> Result<SentBefore, StoreError> {
    let mut cells = Cells { row, next: 0 };
    let fingerprint: Vec<u8> = cells.take()?;
    Ok(SentBefore {
        fingerprint: Fingerprint(
            fingerprint.try_into().map_err(|_| unexpected("fingerprint", "not 32 bytes"))?,
        ),
        turn_id: cells.take::<Option<Uuid>>()?.map(TurnId),
        message_id: MessageId(cells.take()?),
        reply_id: MessageId(cells.take()?),
        created_at: Timestamp(cells.take()?),
    })
}

/// Reads [`turn_columns`].
pub(super) fn turn(row: &PgRow) -> Result<Turn, StoreError> {
    let mut cells = Cells { row, next: 0 };
    Ok(Turn {
        id: TurnId(cells.take()?),
        bot_id: cells.bot_id()?,
        conversation_id: ConversationId(cells.take()?),
        message_id: MessageId(cells.take()?),
        reply_id: MessageId(cells.take()?),
        state: cells.word()?,
        model: cells.text()?.into_owned(),
        server: cells.text_if_any()?.map(Cow::into_owned),
        attempt_of: cells.take::<Option<Uuid>>()?.map(TurnId),
        queue: cells.json_if_any()?,
        usage: Usage { prompt_tokens: cells.number()?, completion_tokens: cells.number()? },
        timings: Timings { queued_ms: cells.take()?, first_token_ms: cells.take()?, total_ms: cells.take()? },
        context: ContextUse {
            num_ctx: cells.number()?,
            used: cells.number()?,
            trimmed_messages: cells.number()?,
            trimmed_tokens: cells.number()?,
        },
        error: cells.json_if_any()?,
        created_at: cells.time()?,
        ended_at: cells.time_if_any()?,
        stale: false,
    })
}

/// Reads [`turn_columns`] and the overrides behind them.
pub(super) fn archived_turn(row: &PgRow) -> Result<ArchivedTurn, StoreError> {
    let mut last = Cells { row, next: row.len().saturating_sub(1) };
    Ok(ArchivedTurn { turn: turn(row)?, overrides: last.json_if_any()? })
}

/// Reads [`event_columns`]. An event is never left out, because its number would be a gap: where something of it can't
/// be read it comes without data, and with the reason.
pub(super) fn event(row: &PgRow) -> Result<(CommittedEvent, Option<String>), StoreError> {
    let mut cells = Cells { row, next: 0 };
    let position = cells.number()?;
    let mut spoilt = Spoilt(None);
    let id = EventId(spoilt.or(cells.take(), Uuid::nil()));
    let time = spoilt.or(cells.time(), Timestamp(0));
    let name: &str = spoilt.or(cells.take(), "unknown");
    let data = cells.take::<&str>().and_then(|data| parse_json::<IgnoredAny>(data).map(|_| data));
    let data = spoilt.or(data, REDACTED);
    let mut seqs = Vec::with_capacity(3);
    for topic in [Topic::Bots, Topic::Tree, Topic::Models, Topic::Tasks] {
        if let Some(seq) = cells.take::<Option<i64>>()? {
            seqs.push((topic, seq));
        }
    }
    let bot = cells
        .take::<Option<&str>>()
        .and_then(|id| id.map(|id| BotId::parse(id).map_err(|e| unexpected("bot id", e))).transpose());
    let seq = cells.take::<Option<i64>>()?;
    seqs.extend(spoilt.or(bot, None).map(Topic::Bot).zip(seq));
    let conversation = spoilt.or(cells.take::<Option<Uuid>>(), None);
    let seq = cells.take::<Option<i64>>()?;
    seqs.extend(conversation.map(|id| Topic::Conversation(ConversationId(id))).zip(seq));
    let turn = spoilt.or(cells.take::<Option<Uuid>>(), None).map(TurnId);
    let seq = cells.take::<Option<i64>>()?;
    seqs.extend(turn.map(Topic::Turn).zip(seq));
    let seqs = seqs
        .into_iter()
        .map(|(topic, seq)| u64::try_from(seq).map(|seq| (topic, seq)))
        .collect::<Result<_, _>>()
        .map_err(|e| unexpected("number", e))?;
    let ends = turn
        .filter(|_| matches!(name, "turn_completed" | "turn_stopped" | "turn_failed" | "turn_interrupted"));
    let event = CommittedEvent { position, id, time, name: name.into(), data: data.into(), seqs, ends };
    Ok((event, spoilt.0))
}

/// Why something of a row can't be read.
struct Spoilt(Option<String>);

impl Spoilt {
    /// What was read, or this instead of it.
    fn or<T>(&mut self, read: Result<T, StoreError>, instead: T) -> T {
        read.unwrap_or_else(|error| {
            self.0.get_or_insert(error.to_string());
            instead
        })
    }
}

/// Reads the bot of [`bot_columns`].
pub(super) fn bot(row: &PgRow) -> Result<BotRecord, StoreError> {
    let mut cells = Cells { row, next: 0 };
    Ok(BotRecord {
        id: cells.bot_id()?,
        name: cells.text()?.into_owned(),
        config: cells.json()?,
        config_version: cells.number()?,
        main_conversation_id: ConversationId(cells.take()?),
        metadata: cells.json()?,
        created_at: cells.time()?,
        updated_at: cells.time()?,
    })
}

/// Reads a model server: name, url, slots, created_at.
pub(super) fn server(row: &PgRow) -> Result<ServerRecord, StoreError> {
    let mut cells = Cells { row, next: 0 };
    Ok(ServerRecord {
        name: cells.text()?.into_owned(),
        url: cells.text()?.into_owned(),
        slots: cells.number()?,
        created_at: cells.time()?,
    })
}

/// Reads the status of [`bot_columns`].
pub(super) fn status(row: &PgRow) -> Result<StoredStatus, StoreError> {
    let bot_id = Cells { row, next: 0 }.bot_id()?;
    let mut cells = Cells { row, next: 8 };
    Ok(StoredStatus {
        bot_id,
        state: cells.word()?,
        last_message: cells.time_if_any()?,
        error_count: cells.number()?,
        restart_count: cells.number()?,
        tokens: TokenTotals { prompt: cells.number()?, completion: cells.number()? },
        updated_at: cells.time()?,
    })
}
