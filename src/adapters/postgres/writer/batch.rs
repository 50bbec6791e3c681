//! The rows that a run of facts makes and changes, each once, however many facts touched it; and the one statement that
//! writes them: a part per table, each with all of its rows.

use std::collections::{HashMap, hash_map::Entry};

use deia_actors::domain::{
    bot::{AuditEntry, StoredStatus},
    idempotency::Idempotency,
    ids::{BotId, ConversationId, MessageId, TurnId},
    message::Message,
    time::Timestamp,
    turn::Turn,
};
use serde_json::Value;
use sqlx::{PgConnection, Postgres, QueryBuilder, postgres::PgBindIterExt};
use uuid::Uuid;

use super::{
    super::{super::words::json, text::pack},
    int,
    lookup::{RequestKey, Spot},
    outbox::EventRow,
};

/// Cells of rows as the table `n`: one array per column. Unnested side by side in a select list they become rows as they are
/// read; `UNNEST` with many arguments in `FROM` first writes each column into a store of its own, and takes twice as long.
macro_rules! unnest {
    ($q:expr, $rows:expr, $row:ident => $($cell:expr),+ $(,)?) => {{
        let rows = &$rows;
        $q.push("(SELECT ");
        let mut columns = $q.separated(", ");
        $(
            columns.push("unnest(");
            columns.push_bind_unseparated(rows.iter().map(|$row| $cell).bind_iter());
            columns.push_unseparated(")");
        )+
        columns.push_unseparated(") n");
    }};
}
pub(super) use unnest;

/// A turn that is new.
pub(super) struct NewTurn<'f> {
    pub(super) turn: &'f Turn,
    pub(super) overrides: Option<&'f Value>,
    /// Where it stands by now.
    pub(super) step: Option<TurnStep<'f>>,
}

/// Where a turn came to in this run.
#[derive(Clone, Copy)]
pub(super) enum TurnStep<'f> {
    /// It has a slot.
    Started(&'f Turn),
    /// It ended, with this number as its last.
    Ended(&'f Turn, i64),
}

/// A message that is new.
pub(super) struct NewMessage<'f> {
    pub(super) message: &'f Message,
    pub(super) spot: Spot,
    /// What it holds by now.
    pub(super) text: Option<MessageText<'f>>,
}

/// What a reply came to in this run.
#[derive(Clone, Copy)]
pub(super) enum MessageText<'f> {
    /// Content and thinking so far.
    Partial(&'f str, Option<&'f str>),
    /// All of it.
    Final(&'f Message),
}

/// How a conversation grew.
pub(super) struct Growth {
    pub(super) leaf: MessageId,
    pub(super) messages: usize,
    pub(super) last_at: Timestamp,
}

/// An idempotency key, and what its request did.
pub(super) struct TakenKey<'f> {
    pub(super) by: &'f Idempotency,
    pub(super) turn: Option<TurnId>,
    pub(super) message: MessageId,
    pub(super) reply: MessageId,
}

/// Everything that is to be written.
#[derive(Default)]
pub(super) struct Batch<'f> {
    new_turns: Vec<NewTurn<'f>>,
    turn_at: HashMap<TurnId, usize>,
    turns: HashMap<TurnId, TurnStep<'f>>,
    new_messages: Vec<NewMessage<'f>>,
    message_at: HashMap<MessageId, usize>,
    messages: HashMap<MessageId, MessageText<'f>>,
    growth: HashMap<ConversationId, Growth>,
    statuses: HashMap<&'f BotId, &'f StoredStatus>,
    keys: HashMap<RequestKey, TakenKey<'f>>,
    audit: Vec<(Uuid, Option<&'f str>, &'f AuditEntry)>,
    /// Events, in order.
    pub(super) events: Vec<EventRow>,
}

impl<'f> Batch<'f> {
    pub(super) fn add_turn(&mut self, turn: &'f Turn, overrides: Option<&'f Value>) {
        self.turn_at.insert(turn.id, self.new_turns.len());
        self.new_turns.push(NewTurn { turn, overrides, step: None });
    }

    pub(super) fn move_turn(&mut self, id: TurnId, step: TurnStep<'f>) {
        match self.turn_at.get(&id).and_then(|at| self.new_turns.get_mut(*at)) {
            Some(new) => new.step = Some(step),
            None => drop(self.turns.insert(id, step)),
        }
    }

    pub(super) fn add_message(&mut self, message: &'f Message, spot: Spot) {
        self.message_at.insert(message.id, self.new_messages.len());
        self.new_messages.push(NewMessage { message, spot, text: None });
    }

    pub(super) fn write_message(&mut self, id: MessageId, text: MessageText<'f>) {
        match self.message_at.get(&id).and_then(|at| self.new_messages.get_mut(*at)) {
            Some(new) => new.text = Some(text),
            None => drop(self.messages.insert(id, text)),
        }
    }

    /// Moves the leaf behind new messages.
    pub(super) fn grow(&mut self, id: ConversationId, leaf: &Message, messages: usize) {
        match self.growth.entry(id) {
            Entry::Occupied(mut grown) => {
                let grown = grown.get_mut();
                grown.leaf = leaf.id;
                grown.messages += messages;
                grown.last_at = grown.last_at.max(leaf.created_at);
            }
            Entry::Vacant(empty) => {
                empty.insert(Growth { leaf: leaf.id, messages, last_at: leaf.created_at });
            }
        }
    }

    pub(super) fn save_status(&mut self, status: &'f StoredStatus) {
        self.statuses.insert(&status.bot_id, status);
    }

    pub(super) fn take_key(&mut self, key: RequestKey, taken: TakenKey<'f>) {
        self.keys.insert(key, taken);
    }

    pub(super) fn note(&mut self, bot: Option<&'f str>, entry: &'f AuditEntry) {
        self.audit.push((Uuid::now_v7(), bot, entry));
    }

    /// Whether there is nothing to write.
    pub(super) fn is_empty(&self) -> bool {
        let Self {
            new_turns,
            turn_at: _,
            turns,
            new_messages,
            message_at: _,
            messages,
            growth,
            statuses,
            keys,
            audit,
            events,
        } = self;
        new_turns.is_empty()
            && turns.is_empty()
            && new_messages.is_empty()
            && messages.is_empty()
            && growth.is_empty()
            && statuses.is_empty()
            && keys.is_empty()
            && audit.is_empty()
            && events.is_empty()
    }

    /// Writes everything, in one statement. Gives back the positions of the events.
    pub(super) async fn write(self, connection: &mut PgConnection) -> sqlx::Result<Vec<i64>> {
        let mut statement = Statement(QueryBuilder::new(""), 0);
        self.write_turns(&mut statement);
        self.write_messages(&mut statement);
        self.write_others(&mut statement);
        if statement.1 > 0 {
            statement.0.push(")");
        }
        if self.events.is_empty() {
            statement.0.push(" SELECT 1").build().execute(connection).await?;
            return Ok(vec![]);
        }
        self.write_events(&mut statement);
        statement.0.build_query_scalar().fetch_all(connection).await
    }

    fn write_turns(&self, statement: &mut Statement) {
        if !self.new_turns.is_empty() {
            let q = statement.part(
                "INSERT INTO turns (id, bot_id, conversation_id, message_id, reply_id, attempt_of, created_at, \
                     overrides, state, model, server, queue, queued_ms, num_ctx, context_used, trimmed_messages, \
                     trimmed_tokens, prompt_tokens, completion_tokens, first_token_ms, total_ms, error, ended_at, \
                     event_seq) SELECT * FROM ",
            );
            unnest!(q, self.new_turns, n =>
                n.turn.id.0, n.turn.bot_id.as_str(), n.turn.conversation_id.0, n.turn.message_id.0,
                n.turn.reply_id.0, n.turn.attempt_of.map(|a| a.0), n.turn.created_at.0, n.overrides.map(json),
                n.now().state.as_str(), pack(&n.now().model), n.now().server.as_deref().map(pack), n.queue(),
                n.now().timings.queued_ms, i64::from(n.now().context.num_ctx), i64::from(n.now().context.used),
                i64::from(n.now().context.trimmed_messages), i64::from(n.now().context.trimmed_tokens),
                i64::from(n.end().usage.prompt_tokens), i64::from(n.end().usage.completion_tokens),
                n.end().timings.first_token_ms, n.end().timings.total_ms, n.end().error.as_ref().map(json),
                n.ended_at(), n.event_seq()
            );
        }
        let started: Vec<_> = self
            .turns
            .values()
            .filter_map(|step| match step {
                TurnStep::Started(turn) => Some(*turn),
                TurnStep::Ended(..) => None,
            })
            .collect();
        if !started.is_empty() {
            let q = statement.part(
                "UPDATE turns t SET state = n.state, model = n.model, server = n.server, queue = n.queue, \
                     queued_ms = n.queued_ms, num_ctx = n.num_ctx, context_used = n.context_used, \
                     trimmed_messages = n.trimmed_messages, trimmed_tokens = n.trimmed_tokens FROM ",
            );
            unnest!(q, started, t =>
                t.id.0, t.state.as_str(), pack(&t.model), t.server.as_deref().map(pack),
                t.queue.as_ref().map(json), t.timings.queued_ms, i64::from(t.context.num_ctx),
                i64::from(t.context.used), i64::from(t.context.trimmed_messages),
                i64::from(t.context.trimmed_tokens)
            );
            q.push(
                "(id, state, model, server, queue, queued_ms, num_ctx, context_used, trimmed_messages, \
                   trimmed_tokens) WHERE t.id = n.id",
            );
        }
        let ended: Vec<_> = self
            .turns
            .values()
            .filter_map(|step| match step {
                TurnStep::Started(_) => None,
                TurnStep::Ended(turn, seq) => Some((*turn, *seq)),
            })
            .collect();
        if !ended.is_empty() {
            let q = statement.part(
                "UPDATE turns t SET state = n.state, model = n.model, server = n.server, queue = NULL, \
                     prompt_tokens = n.prompt_tokens, completion_tokens = n.completion_tokens, \
                     queued_ms = n.queued_ms, first_token_ms = n.first_token_ms, total_ms = n.total_ms, \
                     num_ctx = n.num_ctx, context_used = n.context_used, trimmed_messages = n.trimmed_messages, \
                     trimmed_tokens = n.trimmed_tokens, error = n.error, ended_at = n.ended_at, \
                     event_seq = n.event_seq FROM ",
            );
            unnest!(q, ended, n =>
                n.0.id.0, n.0.state.as_str(), pack(&n.0.model), n.0.server.as_deref().map(pack),
                i64::from(n.0.usage.prompt_tokens), i64::from(n.0.usage.completion_tokens),
                n.0.timings.queued_ms, n.0.timings.first_token_ms, n.0.timings.total_ms,
                i64::from(n.0.context.num_ctx), i64::from(n.0.context.used),
                i64::from(n.0.context.trimmed_messages), i64::from(n.0.context.trimmed_tokens),
                n.0.error.as_ref().map(json), end_of(n.0), n.1
            );
            q.push(
                "(id, state, model, server, prompt_tokens, completion_tokens, queued_ms, first_token_ms, \
                   total_ms, num_ctx, context_used, trimmed_messages, trimmed_tokens, error, ended_at, event_seq) \
                   WHERE t.id = n.id",
            );
        }
    }

    fn write_messages(&self, statement: &mut Statement) {
        if !self.new_messages.is_empty() {
            let q = statement.part(
                "INSERT INTO chat_messages (id, parent_id, conversation_id, bot_id, turn_id, sender, created_at, \
                     images, branch, depth, state, tokens, metadata, content, thinking, tool_calls) SELECT * FROM ",
            );
            unnest!(q, self.new_messages, n =>
                n.message.id.0, n.message.parent_id.map(|p| p.0), n.message.conversation_id.0,
                n.message.bot_id.as_str(), n.message.turn_id.map(|t| t.0), n.message.sender.as_str(),
                n.message.created_at.0, n.message.images.as_ref().map(json), n.spot.branch, n.spot.depth,
                n.now().state.as_str(), i64::from(n.now().tokens), json(&n.now().metadata), pack(n.content()), n.thinking().map(pack),
                n.now().tool_calls.as_ref().map(json)
            );
        }
        let partial: Vec<_> = self
            .messages
            .iter()
            .filter_map(|(id, text)| match text {
                MessageText::Partial(content, thinking) => Some((id.0, *content, *thinking)),
                MessageText::Final(_) => None,
            })
            .collect();
        if !partial.is_empty() {
            let q =
                statement.part("UPDATE chat_messages m SET content = n.content, thinking = n.thinking FROM ");
            unnest!(q, partial, n => n.0, pack(n.1), n.2.map(pack));
            q.push("(id, content, thinking) WHERE m.id = n.id");
        }
        let whole: Vec<_> = self
            .messages
            .values()
            .filter_map(|text| match text {
                MessageText::Partial(..) => None,
                MessageText::Final(message) => Some(*message),
            })
            .collect();
        if !whole.is_empty() {
            let q = statement.part(
                "UPDATE chat_messages m SET state = n.state, tokens = n.tokens, metadata = n.metadata, \
                     content = n.content, thinking = n.thinking, tool_calls = n.tool_calls FROM ",
            );
            unnest!(q, whole, m =>
                m.id.0, m.state.as_str(), i64::from(m.tokens), json(&m.metadata), pack(&m.content),
                m.thinking.as_deref().map(pack), m.tool_calls.as_ref().map(json)
            );
            q.push("(id, state, tokens, metadata, content, thinking, tool_calls) WHERE m.id = n.id");
        }
    }

    fn write_others(&self, statement: &mut Statement) {
        if !self.growth.is_empty() {
            let q = statement.part(
                "UPDATE conversations c SET leaf_message_id = n.leaf, message_count = c.message_count + n.messages, \
                     last_at = greatest(c.last_at, n.last_at) FROM ",
            );
            unnest!(q, self.growth, n => n.0.0, n.1.leaf.0, i64::try_from(n.1.messages).unwrap_or(0), n.1.last_at.0);
            q.push("(id, leaf, messages, last_at) WHERE c.id = n.id");
        }
        if !self.statuses.is_empty() {
            let q = statement.part(
                "UPDATE bot_status s SET status = n.status, last_message = n.last_message, \
                     error_count = n.error_count, restart_count = n.restart_count, \
                     prompt_tokens = n.prompt_tokens, completion_tokens = n.completion_tokens, \
                     updated_at = n.updated_at FROM ",
            );
            let statuses: Vec<_> = self.statuses.values().collect();
            unnest!(q, statuses, s =>
                s.bot_id.as_str(), s.state.as_str(), s.last_message.map(|t| t.0), int(s.error_count),
                int(s.restart_count), int(s.tokens.prompt), int(s.tokens.completion), s.updated_at.0
            );
            q.push(
                "(bot_id, status, last_message, error_count, restart_count, prompt_tokens, completion_tokens, \
                   updated_at) WHERE s.bot_id = n.bot_id",
            );
        }
        if !self.keys.is_empty() {
            let q = statement.part(
                "INSERT INTO idempotency_keys (user_id, bot_id, key, fingerprint, turn_id, message_id, reply_id, \
                     created_at) SELECT * FROM ",
            );
            unnest!(q, self.keys, k =>
                pack(&k.0.user), k.0.bot.as_str(), k.0.key.as_str(), &k.1.by.fingerprint.0[..],
                k.1.turn.map(|t| t.0), k.1.message.0, k.1.reply.0, k.1.by.at.0
            );
            q.push(
                " ON CONFLICT (user_id, bot_id, key) DO UPDATE SET fingerprint = excluded.fingerprint, \
                   turn_id = excluded.turn_id, message_id = excluded.message_id, reply_id = excluded.reply_id, \
                   created_at = excluded.created_at",
            );
        }
        if !self.audit.is_empty() {
            let q = statement.part(
                "INSERT INTO audit_logs (id, bot_id, action, user_id, target, reason, details, created_at) \
                 SELECT * FROM ",
            );
            unnest!(q, self.audit, n =>
                n.0, n.1, pack(&n.2.action), pack(&n.2.actor), pack(&n.2.target),
                n.2.reason.as_deref().map(pack), json(&n.2.detail), n.2.at.0
            );
        }
    }

    /// The main part of the statement: positions are given in the order of the rows, and come back in it.
    fn write_events(&self, statement: &mut Statement) {
        let q = &mut statement.0;
        q.push(
            " INSERT INTO outbox_events (id, event, created_at, bots_seq, tree_seq, models_seq, tasks_seq, bot_key, \
                 bot_seq, conversation_id, conversation_seq, turn_id, turn_seq, data) SELECT * FROM ",
        );
        unnest!(q, self.events, e =>
            e.id.0, e.name, e.time, e.bots, e.tree, e.models, e.tasks, e.bot.map(|b| b.0), e.bot.map(|b| b.1),
            e.conversation.map(|c| c.0), e.conversation.map(|c| c.1), e.turn.map(|t| t.0), e.turn.map(|t| t.1),
            &*e.data
        );
        q.push(" RETURNING position");
    }
}

/// The statement so far, and the number of its parts.
struct Statement(QueryBuilder<Postgres>, usize);

impl Statement {
    /// Begins a part; ends the one before.
    fn part(&mut self, sql: &str) -> &mut QueryBuilder<Postgres> {
        self.1 += 1;
        let n = self.1;
        self.0.push(if n == 1 { "WITH" } else { ")," });
        self.0.push(format_args!(" w{n} AS ({sql}"))
    }
}

impl<'f> NewTurn<'f> {
    fn now(&self) -> &'f Turn {
        match self.step {
            Some(TurnStep::Started(turn) | TurnStep::Ended(turn, _)) => turn,
            None => self.turn,
        }
    }

    /// The columns that only an end changes.
    fn end(&self) -> &'f Turn {
        match self.step {
            Some(TurnStep::Ended(turn, _)) => turn,
            Some(TurnStep::Started(_)) | None => self.turn,
        }
    }

    fn queue(&self) -> Option<String> {
        let waits = !matches!(self.step, Some(TurnStep::Ended(..)));
        self.now().queue.as_ref().filter(|_| waits).map(json)
    }

    fn ended_at(&self) -> Option<i64> {
        match self.step {
            Some(TurnStep::Ended(turn, _)) => Some(end_of(turn)),
            Some(TurnStep::Started(_)) | None => self.turn.ended_at.map(|at| at.0),
        }
    }

    fn event_seq(&self) -> Option<i64> {
        match self.step {
            Some(TurnStep::Ended(_, seq)) => Some(seq),
            Some(TurnStep::Started(_)) | None => None,
        }
    }
}

/// An end without its time would leave the turn open.
fn end_of(turn: &Turn) -> i64 {
    turn.ended_at.unwrap_or_else(Timestamp::now).0
}

impl<'f> NewMessage<'f> {
    fn now(&self) -> &'f Message {
        match self.text {
            Some(MessageText::Final(message)) => message,
            Some(MessageText::Partial(..)) | None => self.message,
        }
    }

    fn content(&self) -> &'f str {
        match self.text {
            Some(MessageText::Partial(content, _)) => content,
            Some(MessageText::Final(_)) | None => &self.now().content,
        }
    }

    fn thinking(&self) -> Option<&'f str> {
        match self.text {
            Some(MessageText::Partial(_, thinking)) => thinking,
            Some(MessageText::Final(_)) | None => self.now().thinking.as_deref(),
        }
    }
}
