//! Numbers events per topic. The last number of every busy topic is kept in memory; it is forgotten with the
//! transaction that moved it, and read again when it is needed.

use std::collections::{HashMap, HashSet, VecDeque};

use deia_actors::domain::{
    event::{CommittedEvent, NewEvent, Topic},
    ids::{BotId, ConversationId, EventId, TurnId},
};
use sqlx::PgConnection;
use uuid::Uuid;

use super::lookup::{Found, LookUp};

/// Numbers and bot keys kept before all are forgotten at once.
const REMEMBERED: usize = 100_000;
/// Events of the latest commits by which a repeated fact is recognised; more than any group holds.
const RECENT: usize = 4096;

/// A topic, by its key in the outbox.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Bots,
    Tree,
    Models,
    Tasks,
    Bot(i64),
    Conversation(ConversationId),
    Turn(TurnId),
}

/// What the writer remembers of the outbox.
pub(super) struct Outbox {
    heads: HashMap<Key, i64>,
    bot_keys: HashMap<BotId, i64>,
    known: HashSet<EventId>,
    order: VecDeque<EventId>,
    /// Events of the running transaction.
    staged: Vec<EventId>,
    /// Position of the last event that is known to be stored.
    position: i64,
}

/// An event with its numbers, as a row of the outbox.
pub(super) struct EventRow {
    pub(super) id: EventId,
    pub(super) name: &'static str,
    pub(super) time: i64,
    pub(super) bots: Option<i64>,
    pub(super) tree: Option<i64>,
    pub(super) models: Option<i64>,
    pub(super) tasks: Option<i64>,
    pub(super) bot: Option<(i64, i64)>,
    pub(super) conversation: Option<(Uuid, i64)>,
    pub(super) turn: Option<(Uuid, i64)>,
    pub(super) data: std::sync::Arc<str>,
}

impl Outbox {
    /// Remembers the latest events of a database.
    pub(super) async fn load(connection: &mut PgConnection) -> sqlx::Result<Self> {
        let mut latest: Vec<(i64, Uuid)> =
            sqlx::query_as("SELECT position, id FROM outbox_events ORDER BY position DESC LIMIT $1")
                .bind(i64::try_from(RECENT).unwrap_or(i64::MAX))
                .fetch_all(connection)
                .await?;
        latest.reverse();
        let order: VecDeque<_> = latest.iter().map(|(_, id)| EventId(*id)).collect();
        Ok(Self {
            heads: HashMap::new(),
            bot_keys: HashMap::new(),
            known: order.iter().copied().collect(),
            order,
            staged: vec![],
            position: latest.last().map_or(0, |(position, _)| *position),
        })
    }

    /// True for an event that one of the latest commits, or the running one, holds.
    pub(super) fn knows(&self, id: EventId) -> bool {
        self.known.contains(&id)
    }

    /// Position of the last event of the commits before the running one.
    pub(super) fn position(&self) -> i64 {
        self.position
    }

    /// The transaction is durable; `position` is that of its last event.
    pub(super) fn committed(&mut self, position: Option<i64>) {
        self.position = position.unwrap_or(self.position);
        self.order.extend(self.staged.drain(..));
        while self.order.len() > RECENT {
            if let Some(old) = self.order.pop_front() {
                self.known.remove(&old);
            }
        }
        if self.heads.len() > REMEMBERED || self.bot_keys.len() > REMEMBERED {
            self.forget();
        }
    }

    /// The transaction did not happen.
    pub(super) fn rolled_back(&mut self) {
        for id in self.staged.drain(..) {
            self.known.remove(&id);
        }
        self.forget();
    }

    fn forget(&mut self) {
        self.heads.clear();
        self.bot_keys.clear();
    }

    /// A turn that was made in this transaction has no events yet.
    pub(super) fn turn_is_new(&mut self, turn: TurnId) {
        self.heads.insert(Key::Turn(turn), 0);
    }

    /// Number of the last event of a turn that was looked up.
    pub(super) fn turn_head(&self, turn: TurnId) -> i64 {
        self.heads.get(&Key::Turn(turn)).copied().unwrap_or(0)
    }

    /// Adds the topics whose numbers are not in memory; not that of a turn that is `new`.
    pub(super) fn want(&self, events: &[NewEvent], new: Option<TurnId>, look_up: &mut LookUp) {
        for topic in events.iter().flat_map(|event| &event.topics) {
            if self.has(topic) || new.is_some_and(|new| *topic == Topic::Turn(new)) {
                continue;
            }
            match topic {
                Topic::Bots => look_up.bots = true,
                Topic::Tree => look_up.tree = true,
                Topic::Models => look_up.models = true,
                Topic::Tasks => look_up.tasks = true,
                Topic::Bot(id) => look_up.bot(id),
                Topic::Conversation(id) => look_up.conversation_heads.push(id.0),
                Topic::Turn(id) => look_up.turns.push(id.0),
            }
        }
    }

    /// Whether the number of its last event is in memory.
    pub(super) fn has(&self, topic: &Topic) -> bool {
        self.key(topic).is_some_and(|key| self.heads.contains_key(&key))
    }

    fn key(&self, topic: &Topic) -> Option<Key> {
        Some(match topic {
            Topic::Bots => Key::Bots,
            Topic::Tree => Key::Tree,
            Topic::Models => Key::Models,
            Topic::Tasks => Key::Tasks,
            Topic::Bot(id) => Key::Bot(*self.bot_keys.get(id)?),
            Topic::Conversation(id) => Key::Conversation(*id),
            Topic::Turn(id) => Key::Turn(*id),
        })
    }

    /// Remembers what was found; what this transaction has numbered since counts more.
    pub(super) fn learn(&mut self, found: &Found) {
        let mut learn = |key, head| {
            self.heads.entry(key).or_insert(head);
        };
        let single = [
            (Key::Bots, found.bots),
            (Key::Tree, found.tree),
            (Key::Models, found.models),
            (Key::Tasks, found.tasks),
        ];
        for (key, head) in single {
            if let Some(head) = head {
                learn(key, head);
            }
        }
        for (id, head) in &found.conversation_heads {
            learn(Key::Conversation(ConversationId(*id)), *head);
        }
        for (id, turn) in &found.turns {
            learn(Key::Turn(TurnId(*id)), turn.head);
        }
        for (id, bot) in &found.bot_heads {
            learn(Key::Bot(bot.key), bot.head);
            self.bot_keys.insert(id.clone(), bot.key);
        }
    }

    /// Makes sure that every topic of the events can be numbered.
    pub(super) async fn prepare(
        &mut self,
        connection: &mut PgConnection,
        events: &[NewEvent],
    ) -> sqlx::Result<()> {
        if events.iter().flat_map(|event| &event.topics).all(|topic| self.has(topic)) {
            return Ok(());
        }
        let mut look_up = LookUp::default();
        self.want(events, None, &mut look_up);
        self.learn(&look_up.run(connection).await?);
        for topic in events.iter().flat_map(|event| &event.topics) {
            match topic {
                Topic::Bot(id) if !self.has(topic) => self.reserve(connection, id).await?,
                Topic::Turn(id) if !self.has(topic) => self.trace(connection, *id).await?,
                _ => {}
            }
        }
        Ok(())
    }

    /// A bot that was never launched gets a key without a place in the roster.
    async fn reserve(&mut self, connection: &mut PgConnection, id: &BotId) -> sqlx::Result<()> {
        let key: i64 = sqlx::query_scalar(
            "INSERT INTO bots (id, name, config, config_version, main_conversation_id, metadata, created_at, \
                 updated_at, deleted_at) VALUES ($1, '', '{}', 0, $2, '{}', 0, 0, 0) RETURNING key",
        )
        .bind(id.as_str())
        .bind(Uuid::nil())
        .fetch_one(connection)
        .await?;
        self.bot_keys.insert(id.clone(), key);
        self.heads.insert(Key::Bot(key), 0);
        Ok(())
    }

    /// A turn that is not stored (any more) may have left events.
    async fn trace(&mut self, connection: &mut PgConnection, id: TurnId) -> sqlx::Result<()> {
        let head = sqlx::query_scalar(
            "SELECT coalesce((SELECT max(turn_seq) FROM outbox_events WHERE turn_id = $1), \
                 (SELECT seq FROM topic_heads WHERE topic = $2), 0)",
        )
        .bind(id.0)
        .bind(Topic::Turn(id).to_string())
        .fetch_one(connection)
        .await?;
        self.heads.insert(Key::Turn(id), head);
        Ok(())
    }

    fn next(&mut self, key: Key) -> i64 {
        let head = self.heads.entry(key).or_insert(0);
        *head += 1;
        *head
    }

    /// Numbers an event on each of its topics, which were prepared. Its position is known once it is written.
    pub(super) fn number(&mut self, event: &NewEvent) -> (EventRow, CommittedEvent) {
        let mut row = EventRow {
            id: event.id,
            name: event.name,
            time: event.time.0,
            bots: None,
            tree: None,
            models: None,
            tasks: None,
            bot: None,
            conversation: None,
            turn: None,
            data: event.data.clone(),
        };
        let mut topics = event.topics.clone();
        topics.sort_unstable();
        let mut seqs = Vec::with_capacity(topics.len());
        for topic in topics {
            let Some(key) = self.key(&topic) else { continue };
            let seq = self.next(key);
            match key {
                Key::Bots => row.bots = Some(seq),
                Key::Tree => row.tree = Some(seq),
                Key::Models => row.models = Some(seq),
                Key::Tasks => row.tasks = Some(seq),
                Key::Bot(key) => row.bot = Some((key, seq)),
                Key::Conversation(id) => row.conversation = Some((id.0, seq)),
                Key::Turn(id) => row.turn = Some((id.0, seq)),
            }
            seqs.push((topic, u64::try_from(seq).unwrap_or(0)));
        }
        if let Some(ended) = event.ends {
            // Its last event; nobody asks for the number again.
            self.heads.remove(&Key::Turn(ended));
        }
        self.known.insert(event.id);
        self.staged.push(event.id);
        let committed = CommittedEvent {
            position: 0,
            id: event.id,
            time: event.time,
            name: event.name.into(),
            data: event.data.clone(),
            seqs,
            ends: event.ends,
        };
        (row, committed)
    }
}
