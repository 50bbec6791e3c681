//! Reads: a pool of connections. What must be of one moment is read in one REPEATABLE READ transaction.

use std::sync::Arc;

use deia_actors::{
    domain::{
        bot::{BotRecord, StoredStatus},
        event::{CommittedEvent, Topic},
        idempotency::{IdempotencyKey, SentBefore},
        ids::{BotId, ConversationId, Epoch, MessageId, TurnId},
        message::{Conversation, Message},
        model::ServerRecord,
        search::Query,
        turn::Turn,
    },
    ports::{
        archive::{ArchivedTurn, Arrival, Place, Stretch},
        history_store::{ConversationSnapshot, Cursor, MessagePage, Span, StoreError, TurnSnapshot},
        retention::Held,
        search::Found,
    },
};
use serde_json::Value;
use sqlx::{PgConnection, PgPool, Postgres, Row, Transaction, pool::PoolConnection};
use uuid::Uuid;

use super::{
    super::{
        holds,
        quarantine::Quarantine,
        words::{parse_json, unexpected},
    },
    archive,
    connect::{self, PostgresConfig},
    error, events, pages,
    rows::{self, bot_columns, conversation_columns, message_columns, siblings, turn_columns},
    search, shares, text,
};

/// The reading half of the store.
pub(super) struct Reader {
    pool: PgPool,
    quarantine: Arc<Quarantine>,
}

impl Reader {
    /// A pool on an existing database.
    pub(super) fn new(config: &PostgresConfig, quarantine: Arc<Quarantine>) -> Result<Self, StoreError> {
        Ok(Self { pool: connect::pool(config)?, quarantine })
    }

    /// Rows met so far that can't be read.
    pub(super) fn quarantined_rows(&self) -> u64 {
        self.quarantine.rows()
    }

    /// Closes every connection, after the running reads.
    pub(super) async fn close(&self) {
        self.pool.close().await;
    }

    /// Everything read in it is of one moment: that of its first read.
    async fn moment(&self) -> Result<Transaction<'static, Postgres>, StoreError> {
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY";
        // On a task of its own, so that it comes to its end although the caller may not: of a BEGIN that was sent and not
        // awaited sqlx 0.9 knows nothing, and the connection would go back into the pool inside of a transaction, where it
        // answers for ever what was true then.
        let pool = self.pool.clone();
        let begun = tokio::spawn(async move { pool.begin_with(begin).await });
        match begun.await {
            Ok(begun) => begun.map_err(error::sort),
            Err(ended) => Err(StoreError::Unavailable(ended.to_string())),
        }
    }

    /// A connection for a single statement: that is of one moment by itself, and saves the round trip that the begin of
    /// a transaction would be.
    async fn single(&self) -> Result<PoolConnection<Postgres>, StoreError> {
        self.pool.acquire().await.map_err(error::sort)
    }

    pub(super) async fn number(&self, sql: &'static str) -> Result<u64, StoreError> {
        let number: i64 = sqlx::query_scalar(sql).fetch_one(&self.pool).await.map_err(error::sort)?;
        u64::try_from(number).map_err(|e| unexpected("number", e))
    }

    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        self.number("SELECT count(*) FROM meta").await.map(drop)
    }

    pub(super) async fn epoch(&self) -> Result<Epoch, StoreError> {
        let epoch: Vec<u8> = sqlx::query_scalar("SELECT value FROM meta WHERE name = 'epoch'")
            .fetch_one(&self.pool)
            .await
            .map_err(error::sort)?;
        Uuid::from_slice(&epoch).map(Epoch).map_err(|e| unexpected("epoch", e))
    }

    pub(super) async fn head(&self, topic: &Topic) -> Result<u64, StoreError> {
        events::head(&mut *self.single().await?, topic).await
    }

    pub(super) async fn events_after(
        &self,
        position: u64,
        limit: u32,
    ) -> Result<Vec<CommittedEvent>, StoreError> {
        events::after(&self.quarantine, &mut *self.single().await?, position, limit).await
    }

    pub(super) async fn topic_events(
        &self,
        topic: &Topic,
        span: Span,
        limit: u32,
        max_bytes: usize,
    ) -> Result<Option<Vec<CommittedEvent>>, StoreError> {
        let mut moment = self.moment().await?;
        events::of_topic(&self.quarantine, &mut moment, topic, span, limit, max_bytes).await
    }

    pub(super) async fn surplus_events(&self, keep: u64, limit: u32) -> Result<Vec<i64>, StoreError> {
        events::surplus(&mut *self.single().await?, keep, limit).await
    }

    pub(super) async fn held(&self, bot: &BotId) -> Result<Vec<Held>, StoreError> {
        let held: Vec<(Uuid, Uuid)> = sqlx::query_as(holds::held!())
            .bind(bot.as_str())
            .fetch_all(&self.pool)
            .await
            .map_err(error::sort)?;
        Ok(holds::kept(held))
    }

    pub(super) async fn page(
        &self,
        conversation: ConversationId,
        cursor: Cursor,
        limit: u32,
    ) -> Result<Option<MessagePage>, StoreError> {
        let mut moment = self.moment().await?;
        let leaf = pages::leaf(&mut moment, conversation).await?;
        pages::page(&mut moment, &self.quarantine, conversation, leaf, cursor, limit).await
    }

    pub(super) async fn messages_after(
        &self,
        conversation: ConversationId,
        after: Option<Place>,
        by: Arrival,
        limit: u32,
        max_bytes: usize,
    ) -> Result<Stretch, StoreError> {
        let mut moment = self.moment().await?;
        archive::messages_after(&self.quarantine, &mut moment, conversation, after, by, limit, max_bytes)
            .await
    }

    pub(super) async fn conversation_ids(&self, bot: &BotId) -> Result<Vec<ConversationId>, StoreError> {
        let ids: Vec<Uuid> =
            sqlx::query_scalar("SELECT id FROM conversations WHERE bot_id = $1 AND retired_at IS NULL")
                .bind(bot.as_str())
                .fetch_all(&self.pool)
                .await
                .map_err(error::sort)?;
        Ok(ids.into_iter().map(ConversationId).collect())
    }

    pub(super) async fn messages_with(&self, ids: &[MessageId]) -> Result<Vec<Message>, StoreError> {
        archive::messages_with(&self.quarantine, &mut *self.single().await?, ids).await
    }

    pub(super) async fn turns_with(&self, ids: &[TurnId]) -> Result<Vec<ArchivedTurn>, StoreError> {
        archive::turns_with(&self.quarantine, &mut *self.single().await?, ids).await
    }

    pub(super) async fn search(
        &self,
        bot: &BotId,
        conversation: Option<ConversationId>,
        query: &Query,
        limit: u32,
        offset: u32,
    ) -> Result<Found, StoreError> {
        search::search(&self.quarantine, &mut *self.single().await?, bot, conversation, query, limit, offset)
            .await
    }

    pub(super) async fn search_is_behind(&self) -> Result<bool, StoreError> {
        search::is_behind(&mut *self.single().await?).await.map_err(error::sort)
    }

    pub(super) async fn path(&self, leaf: MessageId, max_bytes: usize) -> Result<Vec<Message>, StoreError> {
        pages::path(&mut *self.single().await?, &self.quarantine, leaf, max_bytes).await
    }

    pub(super) async fn messages_above(&self, above: MessageId) -> Result<u32, StoreError> {
        pages::messages_above(&mut *self.single().await?, above).await
    }

    pub(super) async fn message(&self, bot: &BotId, id: MessageId) -> Result<Option<Message>, StoreError> {
        let found = self.one_message(&mut *self.single().await?, id).await?;
        Ok(found.filter(|m| m.bot_id == *bot))
    }

    pub(super) async fn children(
        &self,
        conversation: ConversationId,
        parent: Option<MessageId>,
    ) -> Result<Vec<MessageId>, StoreError> {
        shares::children(&mut *self.moment().await?, conversation, parent).await
    }

    pub(super) async fn newest_below(
        &self,
        conversation: ConversationId,
        id: MessageId,
    ) -> Result<Option<MessageId>, StoreError> {
        shares::newest_below(&mut *self.moment().await?, conversation, id).await
    }

    pub(super) async fn conversations(&self, bot: &BotId) -> Result<Vec<Conversation>, StoreError> {
        sqlx::query(concat!(
            "SELECT ",
            conversation_columns!(),
            " FROM conversations c WHERE c.bot_id = $1 AND c.retired_at IS NULL \
             ORDER BY c.main DESC, coalesce(c.last_at, c.created_at) DESC, c.id DESC"
        ))
        .bind(bot.as_str())
        .fetch_all(&self.pool)
        .await
        .map_err(error::sort)?
        .iter()
        .filter_map(|row| self.quarantine.sift("conversations", row, rows::conversation(row)).transpose())
        .collect()
    }

    pub(super) async fn conversation(&self, id: ConversationId) -> Result<Option<Conversation>, StoreError> {
        self.one_conversation(&mut *self.single().await?, id).await
    }

    pub(super) async fn conversation_snapshot(
        &self,
        id: ConversationId,
        limit: u32,
    ) -> Result<Option<ConversationSnapshot>, StoreError> {
        let mut moment = self.moment().await?;
        let Some(conversation) = self.one_conversation(&mut moment, id).await? else { return Ok(None) };
        let seq = events::head(&mut moment, &Topic::Conversation(id)).await?;
        let newest = Cursor::Newest { offset: 0 };
        let leaf = conversation.leaf_message_id;
        let page = pages::page(&mut moment, &self.quarantine, id, leaf, newest, limit).await?;
        let MessagePage { items: messages, has_more } = page.unwrap_or_default();
        Ok(Some(ConversationSnapshot { conversation, messages, has_more, seq }))
    }

    pub(super) async fn turn_snapshot(&self, id: TurnId) -> Result<Option<TurnSnapshot>, StoreError> {
        let mut moment = self.moment().await?;
        let row = sqlx::query(concat!("SELECT ", turn_columns!(), " FROM turns t WHERE t.id = $1"))
            .bind(id.0)
            .fetch_optional(&mut *moment)
            .await
            .map_err(error::sort)?;
        let turn = row.as_ref().map(|row| self.quarantine.seen("turns", row, rows::turn(row)));
        let Some(turn) = turn.transpose()? else { return Ok(None) };
        let seq = events::head(&mut moment, &Topic::Turn(id)).await?;
        let reply = match self.one_message(&mut moment, turn.reply_id).await {
            Err(StoreError::Corrupt(_)) => None,
            read => read?,
        };
        Ok(Some(TurnSnapshot { turn, reply, seq }))
    }

    pub(super) async fn sent_before(
        &self,
        user: &str,
        bot: &BotId,
        key: &IdempotencyKey,
    ) -> Result<Option<SentBefore>, StoreError> {
        let row = sqlx::query(
            "SELECT fingerprint, turn_id, message_id, reply_id, created_at FROM idempotency_keys \
             WHERE user_id = $1 AND bot_id = $2 AND key = $3",
        )
        .bind(text::pack(user))
        .bind(bot.as_str())
        .bind(key.as_str())
        .fetch_optional(&self.pool)
        .await
        .map_err(error::sort)?;
        row.as_ref().map(rows::sent_before).transpose()
    }

    pub(super) async fn turn_overrides(&self, id: TurnId) -> Result<Option<Value>, StoreError> {
        let mut moment = self.moment().await?;
        let row = sqlx::query("SELECT overrides FROM turns WHERE id = $1 AND overrides IS NOT NULL")
            .bind(id.0)
            .fetch_optional(&mut *moment)
            .await
            .map_err(error::sort)?;
        let Some(row) = row else { return Ok(None) };
        let text = row.try_get::<&str, _>(0).map_err(error::sort);
        match text.and_then(parse_json) {
            Err(StoreError::Corrupt(reason)) => {
                self.quarantine.report("turns", id.0.as_bytes().to_vec(), &reason);
                Err(StoreError::Corrupt(reason))
            }
            read => read.map(Some),
        }
    }

    pub(super) async fn open_turns(
        &self,
        bot: Option<&BotId>,
    ) -> Result<Vec<(Turn, Message, Message)>, StoreError> {
        // A retired conversation is not its id's any more: the bot that has the id now is another.
        macro_rules! open {
            ($more:literal) => {
                sqlx::query(concat!(
                    "SELECT ",
                    turn_columns!(),
                    " FROM turns t WHERE t.ended_at IS NULL",
                    $more,
                    " AND NOT EXISTS (SELECT 1 FROM conversations c \
                         WHERE c.id = t.conversation_id AND c.retired_at IS NOT NULL) \
                     ORDER BY t.created_at, t.id"
                ))
            };
        }
        let mut moment = self.moment().await?;
        let open = match bot {
            Some(bot) => open!(" AND t.bot_id = $1").bind(bot.as_str()),
            None => open!(""),
        };
        let turns = open.fetch_all(&mut *moment).await.map_err(error::sort)?;
        let mut open = Vec::with_capacity(turns.len());
        for row in &turns {
            let read = match rows::turn(row) {
                Ok(turn) => self.with_messages(&mut moment, turn).await,
                Err(error) => Err(error),
            };
            open.extend(self.quarantine.sift("turns", row, read)?);
        }
        Ok(open)
    }

    pub(super) async fn roster(&self) -> Result<Vec<(BotRecord, StoredStatus)>, StoreError> {
        sqlx::query(concat!(
            "SELECT ",
            bot_columns!(),
            " FROM bots b JOIN bot_status s ON s.bot_id = b.id WHERE b.deleted_at IS NULL \
             ORDER BY b.created_at, b.key"
        ))
        .fetch_all(&self.pool)
        .await
        .map_err(error::sort)?
        .iter()
        .filter_map(|row| self.quarantine.bot(row, rows::bot(row), rows::status(row)).transpose())
        .collect()
    }

    pub(super) async fn servers(&self) -> Result<Vec<ServerRecord>, StoreError> {
        let rows =
            sqlx::query("SELECT name, url, slots, created_at FROM model_servers ORDER BY created_at, name")
                .fetch_all(&self.pool)
                .await
                .map_err(error::sort)?;
        rows.iter().map(rows::server).collect()
    }

    /// An open turn with its messages.
    async fn with_messages(
        &self,
        at: &mut PgConnection,
        turn: Turn,
    ) -> Result<(Turn, Message, Message), StoreError> {
        let asked = self.one_message(at, turn.message_id).await?;
        let reply = self.one_message(at, turn.reply_id).await?;
        let missing = || StoreError::Corrupt("an open turn has lost a message".into());
        let (asked, reply) = (asked.ok_or_else(missing)?, reply.ok_or_else(missing)?);
        Ok((turn, asked, reply))
    }

    async fn one_message(&self, at: &mut PgConnection, id: MessageId) -> Result<Option<Message>, StoreError> {
        let row =
            sqlx::query(concat!("SELECT ", message_columns!(), " FROM chat_messages m WHERE m.id = $1"))
                .bind(id.0)
                .fetch_optional(at)
                .await
                .map_err(error::sort)?;
        row.as_ref().map(|row| self.quarantine.seen("chat_messages", row, rows::message(row))).transpose()
    }

    async fn one_conversation(
        &self,
        at: &mut PgConnection,
        id: ConversationId,
    ) -> Result<Option<Conversation>, StoreError> {
        let row =
            sqlx::query(concat!("SELECT ", conversation_columns!(), " FROM conversations c WHERE c.id = $1"))
                .bind(id.0)
                .fetch_optional(at)
                .await
                .map_err(error::sort)?;
        row.as_ref()
            .map(|row| self.quarantine.seen("conversations", row, rows::conversation(row)))
            .transpose()
    }
}
