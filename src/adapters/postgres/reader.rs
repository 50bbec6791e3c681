//! Reads: a pool of connections. What must be of one moment is read in one REPEATABLE READ transaction.

use deia_actors::{
    domain::{
        bot::{BotRecord, StoredStatus},
        event::{CommittedEvent, Topic},
        ids::{BotId, ConversationId, Epoch, MessageId, TurnId},
        message::{Conversation, Message},
        turn::Turn,
    },
    ports::history_store::{ConversationSnapshot, Cursor, MessagePage, StoreError, TurnSnapshot},
};
use serde_json::Value;
use sqlx::{PgConnection, PgPool, Postgres, Transaction, pool::PoolConnection};
use uuid::Uuid;

use super::{
    super::words::{parse_json, unexpected},
    connect::{self, PostgresConfig},
    error, pages,
    rows::{self, bot_columns, conversation_columns, event_columns, message_columns, siblings, turn_columns},
};

/// The reading half of the store.
pub(super) struct Reader {
    pool: PgPool,
}

impl Reader {
    /// A pool on an existing database.
    pub(super) fn new(config: &PostgresConfig) -> Result<Self, StoreError> {
        Ok(Self { pool: connect::pool(config)? })
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

    async fn number(&self, sql: &'static str) -> Result<u64, StoreError> {
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
        match topic {
            Topic::Bots => self.number("SELECT coalesce(max(bots_seq), 0) FROM outbox_events").await,
            Topic::Tree => self.number("SELECT coalesce(max(tree_seq), 0) FROM outbox_events").await,
            Topic::Models => self.number("SELECT coalesce(max(models_seq), 0) FROM outbox_events").await,
            Topic::Bot(id) => {
                let head: i64 = sqlx::query_scalar(
                    "SELECT coalesce(max(bot_seq), 0) FROM outbox_events \
                     WHERE bot_key = (SELECT key FROM bots WHERE id = $1)",
                )
                .bind(id.as_str())
                .fetch_one(&self.pool)
                .await
                .map_err(error::sort)?;
                u64::try_from(head).map_err(|e| unexpected("number", e))
            }
            Topic::Conversation(id) => conversation_head(&mut *self.single().await?, *id).await,
            Topic::Turn(id) => turn_head(&mut *self.single().await?, *id).await,
        }
    }

    pub(super) async fn events_after(
        &self,
        position: u64,
        limit: u32,
    ) -> Result<Vec<CommittedEvent>, StoreError> {
        sqlx::query(concat!(
            "SELECT ",
            event_columns!(),
            " FROM outbox_events e LEFT JOIN bots b ON b.key = e.bot_key WHERE e.position > $1 \
             ORDER BY e.position LIMIT $2"
        ))
        .bind(i64::try_from(position).unwrap_or(i64::MAX))
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await
        .map_err(error::sort)?
        .iter()
        .map(rows::event)
        .collect()
    }

    pub(super) async fn page(
        &self,
        conversation: ConversationId,
        cursor: Cursor,
        limit: u32,
    ) -> Result<Option<MessagePage>, StoreError> {
        let mut moment = self.moment().await?;
        let leaf = pages::leaf(&mut moment, conversation).await?;
        pages::page(&mut moment, leaf, cursor, limit).await
    }

    pub(super) async fn path(&self, leaf: MessageId, max_bytes: usize) -> Result<Vec<Message>, StoreError> {
        pages::path(&mut *self.single().await?, leaf, max_bytes).await
    }

    pub(super) async fn path_rest(&self, above: MessageId) -> Result<(u32, u32), StoreError> {
        pages::path_rest(&mut *self.single().await?, above).await
    }

    pub(super) async fn message(&self, bot: &BotId, id: MessageId) -> Result<Option<Message>, StoreError> {
        let found = message(&mut *self.single().await?, id).await?;
        Ok(found.filter(|m| m.bot_id == *bot))
    }

    pub(super) async fn children(
        &self,
        conversation: ConversationId,
        parent: Option<MessageId>,
    ) -> Result<Vec<MessageId>, StoreError> {
        let children = match parent {
            Some(parent) => sqlx::query_scalar(
                "SELECT id FROM chat_messages WHERE conversation_id = $1 AND parent_id = $2 ORDER BY id",
            )
            .bind(conversation.0)
            .bind(parent.0),
            None => sqlx::query_scalar(
                "SELECT id FROM chat_messages WHERE conversation_id = $1 AND parent_id IS NULL ORDER BY id",
            )
            .bind(conversation.0),
        };
        let ids: Vec<Uuid> = children.fetch_all(&self.pool).await.map_err(error::sort)?;
        Ok(ids.into_iter().map(MessageId).collect())
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
        .map(rows::conversation)
        .collect()
    }

    pub(super) async fn conversation(&self, id: ConversationId) -> Result<Option<Conversation>, StoreError> {
        conversation(&mut *self.single().await?, id).await
    }

    pub(super) async fn conversation_snapshot(
        &self,
        id: ConversationId,
        limit: u32,
    ) -> Result<Option<ConversationSnapshot>, StoreError> {
        let mut moment = self.moment().await?;
        let Some(conversation) = conversation(&mut moment, id).await? else { return Ok(None) };
        let seq = conversation_head(&mut moment, id).await?;
        let newest = Cursor::Newest { offset: 0 };
        let page = pages::page(&mut moment, conversation.leaf_message_id, newest, limit).await?;
        let messages = page.map(|p| p.items).unwrap_or_default();
        Ok(Some(ConversationSnapshot { conversation, messages, seq }))
    }

    pub(super) async fn turn_snapshot(&self, id: TurnId) -> Result<Option<TurnSnapshot>, StoreError> {
        let mut moment = self.moment().await?;
        let row = sqlx::query(concat!("SELECT ", turn_columns!(), " FROM turns t WHERE t.id = $1"))
            .bind(id.0)
            .fetch_optional(&mut *moment)
            .await
            .map_err(error::sort)?;
        let Some(turn) = row.as_ref().map(rows::turn).transpose()? else { return Ok(None) };
        let seq = turn_head(&mut moment, id).await?;
        let reply = message(&mut moment, turn.reply_id).await?;
        Ok(Some(TurnSnapshot { turn, reply, seq }))
    }

    pub(super) async fn turn_overrides(&self, id: TurnId) -> Result<Option<Value>, StoreError> {
        let overrides: Option<Option<String>> =
            sqlx::query_scalar("SELECT overrides FROM turns WHERE id = $1")
                .bind(id.0)
                .fetch_optional(&self.pool)
                .await
                .map_err(error::sort)?;
        overrides.flatten().as_deref().map(parse_json).transpose()
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
            let turn = rows::turn(row)?;
            let asked = message(&mut moment, turn.message_id).await?;
            let reply = message(&mut moment, turn.reply_id).await?;
            let missing = || StoreError::Corrupt(format!("turn {} has lost a message", turn.id));
            let (asked, reply) = (asked.ok_or_else(missing)?, reply.ok_or_else(missing)?);
            open.push((turn, asked, reply));
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
        .map(rows::bot)
        .collect()
    }
}

async fn message(at: &mut PgConnection, id: MessageId) -> Result<Option<Message>, StoreError> {
    let row = sqlx::query(concat!("SELECT ", message_columns!(), " FROM chat_messages m WHERE m.id = $1"))
        .bind(id.0)
        .fetch_optional(at)
        .await
        .map_err(error::sort)?;
    row.as_ref().map(rows::message).transpose()
}

async fn conversation(at: &mut PgConnection, id: ConversationId) -> Result<Option<Conversation>, StoreError> {
    let row =
        sqlx::query(concat!("SELECT ", conversation_columns!(), " FROM conversations c WHERE c.id = $1"))
            .bind(id.0)
            .fetch_optional(at)
            .await
            .map_err(error::sort)?;
    row.as_ref().map(rows::conversation).transpose()
}

async fn conversation_head(at: &mut PgConnection, id: ConversationId) -> Result<u64, StoreError> {
    let head: i64 = sqlx::query_scalar(
        "SELECT coalesce(max(conversation_seq), 0) FROM outbox_events WHERE conversation_id = $1",
    )
    .bind(id.0)
    .fetch_one(at)
    .await
    .map_err(error::sort)?;
    u64::try_from(head).map_err(|e| unexpected("number", e))
}

/// An ended turn carries its last number; that of an open one is among the newest of its conversation.
async fn turn_head(at: &mut PgConnection, id: TurnId) -> Result<u64, StoreError> {
    let head: Option<i64> = sqlx::query_scalar(
        "SELECT coalesce(t.event_seq, \
             (SELECT e.turn_seq FROM outbox_events e WHERE e.conversation_id = t.conversation_id \
                AND e.turn_id = t.id ORDER BY e.conversation_seq DESC LIMIT 1), 0) \
         FROM turns t WHERE t.id = $1",
    )
    .bind(id.0)
    .fetch_optional(at)
    .await
    .map_err(error::sort)?;
    u64::try_from(head.unwrap_or(0)).map_err(|e| unexpected("number", e))
}
