//! What a run of facts has to know of the database before it is decided: read in one statement, and remembered for the
//! next ones.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use deia_actors::domain::{
    idempotency::{Idempotency, IdempotencyKey},
    ids::BotId,
    message::{Message, MessageState},
};
use sqlx::{
    PgConnection, Postgres, QueryBuilder, Row,
    postgres::{PgBindIterExt, PgRow},
};
use uuid::Uuid;

use super::super::text::pack;

/// Rows remembered before all are forgotten at once.
const REMEMBERED: usize = 16_384;

/// What is asked. Asking twice for the same does no harm.
#[derive(Default)]
pub(super) struct LookUp {
    /// Whether they are there, open, and the numbers of their last events.
    pub(super) turns: Vec<Uuid>,
    /// Whether they are there, and pending.
    pub(super) messages: Vec<Uuid>,
    /// Messages and the conversations in which something comes behind them: whether it goes on in their branch.
    pub(super) tips: Vec<(Uuid, Uuid)>,
    /// Messages that the run brings: what comes behind them needs no look.
    pub(super) coming: HashSet<Uuid>,
    /// Whether they are there, and not retired.
    pub(super) conversations: Vec<Uuid>,
    /// The time of the stored status, of bots in the roster.
    pub(super) statuses: Vec<String>,
    /// When they came.
    pub(super) keys: Vec<RequestKey>,
    /// Keys, and the numbers of their last events.
    pub(super) bot_heads: Vec<String>,
    /// The numbers of their last events.
    pub(super) conversation_heads: Vec<Uuid>,
    /// The number of the last event of this topic.
    pub(super) bots: bool,
    /// The number of the last event of this topic.
    pub(super) tree: bool,
    /// The number of the last event of this topic.
    pub(super) models: bool,
    /// The number of the last event of this topic.
    pub(super) tasks: bool,
}

/// An idempotency key: whose, of which bot, its text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct RequestKey {
    pub(super) user: Arc<str>,
    pub(super) bot: BotId,
    pub(super) key: IdempotencyKey,
}

impl RequestKey {
    pub(super) fn of(idempotency: &Idempotency, message: &Message) -> Self {
        Self { user: idempotency.user.clone(), bot: message.bot_id.clone(), key: idempotency.key.clone() }
    }
}

/// A turn that is stored.
#[derive(Clone, Copy)]
pub(super) struct FoundTurn {
    pub(super) open: bool,
    pub(super) head: i64,
}

/// A bot that has a key.
#[derive(Clone, Copy)]
pub(super) struct FoundBot {
    pub(super) key: i64,
    pub(super) head: i64,
}

/// Where a message stands in the tree.
#[derive(Clone, Copy)]
pub(super) struct Spot {
    pub(super) branch: Uuid,
    pub(super) depth: i64,
}

/// What was found; what is missing is not stored.
#[derive(Default)]
pub(super) struct Found {
    pub(super) turns: HashMap<Uuid, FoundTurn>,
    /// True for pending ones.
    pub(super) messages: HashMap<Uuid, bool>,
    /// By message and the conversation in which something comes behind it: where it stands, if its branch goes on with
    /// that, or none.
    pub(super) tips: HashMap<(Uuid, Uuid), Option<Spot>>,
    /// True for those that take something new.
    pub(super) conversations: HashMap<Uuid, bool>,
    /// The times of the stored ones.
    pub(super) statuses: HashMap<BotId, i64>,
    /// When they came.
    pub(super) keys: HashMap<RequestKey, i64>,
    pub(super) bot_heads: HashMap<BotId, FoundBot>,
    pub(super) conversation_heads: HashMap<Uuid, i64>,
    pub(super) bots: Option<i64>,
    pub(super) tree: Option<i64>,
    pub(super) models: Option<i64>,
    pub(super) tasks: Option<i64>,
}

impl LookUp {
    /// Asks whether a message is there, and where it would stand.
    pub(super) fn message(&mut self, m: &Message) {
        self.messages.push(m.id.0);
        self.tips.extend(m.parent_id.map(|parent| (parent.0, m.conversation_id.0)));
    }

    /// Asks for key and head of a bot.
    pub(super) fn bot(&mut self, id: &BotId) {
        self.bot_heads.push(id.as_str().to_owned());
    }

    /// Asks the database; only for what is wanted, so that most look-ups are a small statement.
    pub(super) async fn run(self, connection: &mut PgConnection) -> sqlx::Result<Found> {
        let mut found = Found::default();
        let mut statement = Union(QueryBuilder::new(""), false);
        // Of an open turn the last event is among the newest of its conversation.
        statement.part(
            "SELECT 1::int2, t.id, NULL::text, (t.ended_at IS NULL)::int4::int8, \
                 coalesce(t.event_seq, (SELECT e.turn_seq FROM outbox_events e \
                     WHERE e.conversation_id = t.conversation_id AND e.turn_id = t.id \
                     ORDER BY e.conversation_seq DESC LIMIT 1), \
                     (SELECT h.seq FROM topic_heads h WHERE h.topic = 'turn:' || t.id), 0) FROM turns t WHERE t.id = ANY(",
            self.turns,
            ")",
        );
        statement.part(
            "SELECT 2::int2, m.id, NULL::text, (m.state = 'pending')::int4::int8, 0::int8 \
             FROM chat_messages m WHERE m.id = ANY(",
            self.messages,
            ")",
        );
        statement.part(
            "SELECT 3::int2, c.id, NULL::text, (c.retired_at IS NULL)::int4::int8, 0::int8 \
             FROM conversations c WHERE c.id = ANY(",
            self.conversations,
            ")",
        );
        statement.part(
            "SELECT 4::int2, NULL::uuid, s.bot_id::text, s.updated_at, 0::int8 \
             FROM bot_status s JOIN bots b ON b.id = s.bot_id AND b.deleted_at IS NULL WHERE s.bot_id = ANY(",
            self.statuses,
            ")",
        );
        statement.part(
            "SELECT 5::int2, NULL::uuid, b.id::text, b.key, \
                 coalesce((SELECT max(e.bot_seq) FROM outbox_events e WHERE e.bot_key = b.key), \
                     (SELECT h.seq FROM topic_heads h WHERE h.topic = 'bot:' || b.id), 0) \
             FROM bots b WHERE b.id = ANY(",
            self.bot_heads,
            ")",
        );
        statement.part(
            "SELECT 6::int2, c.id, NULL::text, 0::int8, coalesce((SELECT max(e.conversation_seq) \
                 FROM outbox_events e WHERE e.conversation_id = c.id), \
                 (SELECT h.seq FROM topic_heads h WHERE h.topic = 'conversation:' || c.id), 0) FROM unnest(",
            self.conversation_heads,
            ") c(id)",
        );
        for (wanted, kind, topic) in [
            (self.bots, 7, "bots"),
            (self.tree, 8, "tree"),
            (self.models, 9, "models"),
            (self.tasks, 10, "tasks"),
        ] {
            if wanted {
                statement.begin(format_args!(
                    "SELECT {kind}::int2, NULL::uuid, NULL::text, 0::int8, coalesce(max({topic}_seq), \
                         (SELECT h.seq FROM topic_heads h WHERE h.topic = '{topic}'), 0) FROM outbox_events"
                ));
            }
        }
        let mut tips = self.tips;
        tips.sort_unstable();
        tips.dedup();
        if !tips.is_empty() {
            // Nothing stands there and nothing ever did: below a message whose parent was deleted the branch is taken.
            statement.begin("SELECT 12::int2, p.branch, NULL::text, n.at, p.depth FROM UNNEST(");
            let mut columns = statement.0.separated(", ");
            columns.push_bind(tips.iter().map(|tip| tip.0).bind_iter());
            columns.push_bind(tips.iter().map(|tip| tip.1).bind_iter());
            statement.0.push(
                ") WITH ORDINALITY n(id, home, at) JOIN chat_messages p ON p.id = n.id AND p.conversation_id = n.home \
                 WHERE NOT EXISTS (SELECT 1 FROM chat_messages c WHERE c.conversation_id = n.home AND c.parent_id = n.id) \
                     AND NOT EXISTS (SELECT 1 FROM chat_messages t \
                         WHERE t.branch = p.branch AND t.depth > p.depth AND t.parent_id IS NULL)",
            );
        }
        let mut keys = self.keys;
        keys.sort_unstable();
        keys.dedup();
        if !keys.is_empty() {
            statement.begin(
                "SELECT 11::int2, NULL::uuid, NULL::text, n.at, k.created_at FROM idempotency_keys k JOIN UNNEST(",
            );
            let mut columns = statement.0.separated(", ");
            columns.push_bind(keys.iter().map(|k| pack(&k.user)).bind_iter());
            columns.push_bind(keys.iter().map(|k| k.bot.as_str()).bind_iter());
            columns.push_bind(keys.iter().map(|k| k.key.as_str()).bind_iter());
            statement.0.push(
                ") WITH ORDINALITY n(user_id, bot_id, key, at) \
                 ON k.user_id = n.user_id AND k.bot_id = n.bot_id AND k.key = n.key",
            );
        }
        if statement.1 {
            for row in statement.0.build().fetch_all(connection).await? {
                found.take(&row, &keys, &tips)?;
            }
        }
        for tip in tips {
            found.tips.entry(tip).or_default();
        }
        Ok(found)
    }
}

/// The parts of the statement, and whether there is one.
struct Union(QueryBuilder<Postgres>, bool);

impl Union {
    fn begin(&mut self, sql: impl std::fmt::Display) {
        if std::mem::replace(&mut self.1, true) {
            self.0.push(" UNION ALL ");
        }
        self.0.push(sql);
    }

    fn part<T: Ord>(&mut self, before: &str, mut wanted: Vec<T>, after: &str)
    where
        Vec<T>: sqlx::Type<Postgres> + for<'q> sqlx::Encode<'q, Postgres>,
    {
        wanted.sort_unstable();
        wanted.dedup();
        if !wanted.is_empty() {
            self.begin(before);
            self.0.push_bind(wanted).push(after);
        }
    }
}

impl Found {
    /// Takes in what was found since.
    pub(super) fn extend(&mut self, found: Self) {
        let Self { turns, messages, tips, conversations, statuses, keys, .. } = found;
        self.turns.extend(turns);
        self.messages.extend(messages);
        self.tips.extend(tips);
        self.conversations.extend(conversations);
        self.statuses.extend(statuses);
        self.keys.extend(keys);
    }

    /// Forgets everything where it became too much.
    pub(super) fn limit(&mut self) {
        let Self { turns, messages, tips, conversations, statuses, keys, .. } = self;
        let rows =
            turns.len() + messages.len() + tips.len() + conversations.len() + statuses.len() + keys.len();
        if rows > REMEMBERED {
            *self = Self::default();
        }
    }

    /// Where a message stands from now on: behind its parent, or at the begin of a branch of its own. None where it is
    /// stored already.
    pub(super) fn add(&mut self, m: &Message) -> Option<Spot> {
        if self.messages.contains_key(&m.id.0) {
            return None;
        }
        self.messages.insert(m.id.0, m.state == MessageState::Pending);
        let home = m.conversation_id.0;
        // From now on the branch of its parent is taken.
        let tip = m.parent_id.and_then(|parent| self.tips.insert((parent.0, home), None).flatten());
        let spot = match tip {
            Some(tip) => Spot { depth: tip.depth + 1, ..tip },
            None => Spot { branch: m.id.0, depth: 0 },
        };
        self.tips.insert((m.id.0, home), Some(spot));
        Some(spot)
    }

    fn take(&mut self, row: &PgRow, keys: &[RequestKey], tips: &[(Uuid, Uuid)]) -> sqlx::Result<()> {
        let (a, b): (i64, i64) = (row.try_get(3)?, row.try_get(4)?);
        let id = || row.try_get::<Uuid, _>(1);
        let bot = || BotId::parse(row.try_get(2)?).map_err(|e| sqlx::Error::Decode(e.into()));
        match row.try_get::<i16, _>(0)? {
            1 => drop(self.turns.insert(id()?, FoundTurn { open: a == 1, head: b })),
            2 => drop(self.messages.insert(id()?, a == 1)),
            3 => drop(self.conversations.insert(id()?, a == 1)),
            4 => drop(self.statuses.insert(bot()?, a)),
            5 => drop(self.bot_heads.insert(bot()?, FoundBot { key: a, head: b })),
            6 => drop(self.conversation_heads.insert(id()?, b)),
            7 => self.bots = Some(b),
            8 => self.tree = Some(b),
            9 => self.models = Some(b),
            10 => self.tasks = Some(b),
            12 => {
                let tip = usize::try_from(a).ok().and_then(|at| tips.get(at.checked_sub(1)?));
                let spot = Spot { branch: id()?, depth: b };
                self.tips.extend(tip.map(|tip| (*tip, Some(spot))));
            }
            _ => {
                let key = usize::try_from(a).ok().and_then(|at| keys.get(at.checked_sub(1)?));
                self.keys.extend(key.map(|key| (key.clone(), b)));
            }
        }
        Ok(())
    }
}
