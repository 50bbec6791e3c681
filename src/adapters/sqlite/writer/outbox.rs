//! Numbers events per topic and writes them, one row each. The last number of every busy topic is
//! kept in memory; it is forgotten with the transaction that moved it.

use std::collections::{HashMap, HashSet, VecDeque};

use deia_actors::{
    domain::{
        event::{CommittedEvent, NewEvent, Topic},
        ids::{BotId, ConversationId, EventId, TurnId},
    },
    ports::history_store::REDACTED,
};
use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

use super::super::events::newest;

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
    Conversation(Uuid),
    Turn(Uuid),
}

/// What the writer remembers of the outbox.
pub(super) struct Outbox {
    heads: HashMap<Key, i64>,
    bot_keys: HashMap<BotId, i64>,
    known: HashSet<EventId>,
    order: VecDeque<EventId>,
    /// Events of the running transaction.
    staged: Vec<EventId>,
}

impl Outbox {
    /// Remembers the latest events of a database.
    pub(super) fn load(connection: &Connection) -> rusqlite::Result<Self> {
        let limit = i64::try_from(RECENT).unwrap_or(i64::MAX);
        let mut order = connection
            .prepare("SELECT id FROM outbox_events ORDER BY position DESC LIMIT ?1")?
            // An id that can't be read is nobody's.
            .query_map([limit], |row| Ok(row.get(0).ok().map(EventId)))?
            .filter_map(Result::transpose)
            .collect::<rusqlite::Result<VecDeque<_>>>()?;
        order.make_contiguous().reverse();
        Ok(Self {
            heads: HashMap::new(),
            bot_keys: HashMap::new(),
            known: order.iter().copied().collect(),
            order,
            staged: vec![],
        })
    }

    /// True for an event that one of the latest commits holds.
    pub(super) fn knows(&self, id: EventId) -> bool {
        self.known.contains(&id)
    }

    /// The transaction is durable.
    pub(super) fn committed(&mut self) {
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

    /// Numbers are read again from the database.
    pub(super) fn forget(&mut self) {
        self.heads.clear();
        self.bot_keys.clear();
    }

    /// A turn that was made in this transaction has no events yet.
    pub(super) fn turn_is_new(&mut self, turn: TurnId) {
        self.heads.insert(Key::Turn(turn.0), 0);
    }

    /// True where the number of the last event of a turn is in memory: then the turn is open.
    pub(super) fn remembers(&self, turn: TurnId) -> bool {
        self.heads.contains_key(&Key::Turn(turn.0))
    }

    /// Number of the last event of a turn of this conversation.
    pub(super) fn turn_head(
        &mut self,
        connection: &Connection,
        turn: TurnId,
        conversation: Option<ConversationId>,
    ) -> rusqlite::Result<i64> {
        let key = Key::Turn(turn.0);
        if let Some(head) = self.heads.get(&key) {
            return Ok(*head);
        }
        let head: Option<i64> = match conversation {
            // Near the end of its conversation, because it is open.
            Some(conversation) => connection
                .prepare_cached(
                    "SELECT turn_seq FROM outbox_events WHERE conversation_id = ?1 AND turn_id = ?2 \
                     ORDER BY conversation_seq DESC LIMIT 1",
                )?
                .query_row(params![conversation.0, turn.0], |row| row.get(0))
                .optional()?,
            // Not an event of ours: every event of a turn is one of its conversation.
            None => connection
                .prepare_cached("SELECT max(turn_seq) FROM outbox_events WHERE turn_id = ?1")?
                .query_row(params![turn.0], |row| row.get(0))?,
        };
        let head = match head {
            Some(head) => head,
            None => deleted_head(connection, &Topic::Turn(turn))?,
        };
        self.heads.insert(key, head);
        Ok(head)
    }

    /// The key of a bot; a bot that was never launched gets one without a place in the roster.
    fn bot_key(&mut self, connection: &Connection, id: &BotId) -> rusqlite::Result<i64> {
        if let Some(key) = self.bot_keys.get(id) {
            return Ok(*key);
        }
        let found = connection
            .prepare_cached("SELECT key FROM bots WHERE id = ?1")?
            .query_row([id.as_str()], |row| row.get(0))
            .optional()?;
        let key = match found {
            Some(key) => key,
            None => {
                connection
                    .prepare_cached(
                        "INSERT INTO bots (id, name, config, config_version, main_conversation_id, metadata, \
                             created_at, updated_at, deleted_at) \
                         VALUES (?1, '', '{}', 0, zeroblob(16), '{}', 0, 0, 0)",
                    )?
                    .execute([id.as_str()])?;
                connection.last_insert_rowid()
            }
        };
        self.bot_keys.insert(id.clone(), key);
        Ok(key)
    }

    /// The next number of a topic whose newest event `sql` finds.
    fn next<P: rusqlite::Params>(
        &mut self,
        connection: &Connection,
        topic: &Topic,
        key: Key,
        sql: &str,
        params: P,
    ) -> rusqlite::Result<i64> {
        let head = match self.heads.get(&key) {
            Some(head) => *head,
            None => {
                let newest = connection.prepare_cached(sql)?.query_row(params, |row| row.get(0))?;
                match newest {
                    Some(newest) => newest,
                    None => deleted_head(connection, topic)?,
                }
            }
        };
        self.heads.insert(key, head + 1);
        Ok(head + 1)
    }

    /// Numbers an event on each of its topics and writes its row.
    pub(super) fn append(
        &mut self,
        connection: &Connection,
        event: NewEvent,
    ) -> rusqlite::Result<CommittedEvent> {
        let (mut bots, mut tree, mut models, mut tasks) = (None, None, None, None);
        let (mut bot, mut conversation, mut turn) = (None, None, None);
        let mut topics = event.topics;
        topics.sort_unstable();
        let home = topics.iter().find_map(|topic| match topic {
            Topic::Conversation(id) => Some(*id),
            _ => None,
        });
        let mut seqs = Vec::with_capacity(topics.len());
        for topic in topics {
            let seq = match &topic {
                Topic::Bots => {
                    let sql = newest!("bots_seq");
                    *bots.insert(self.next(connection, &topic, Key::Bots, sql, [])?)
                }
                Topic::Tree => {
                    let sql = newest!("tree_seq");
                    *tree.insert(self.next(connection, &topic, Key::Tree, sql, [])?)
                }
                Topic::Models => {
                    let sql = newest!("models_seq");
                    *models.insert(self.next(connection, &topic, Key::Models, sql, [])?)
                }
                Topic::Tasks => {
                    let sql = newest!("tasks_seq");
                    *tasks.insert(self.next(connection, &topic, Key::Tasks, sql, [])?)
                }
                Topic::Bot(id) => {
                    let key = self.bot_key(connection, id)?;
                    let sql = "SELECT max(bot_seq) FROM outbox_events WHERE bot_key = ?1";
                    let seq = self.next(connection, &topic, Key::Bot(key), sql, [key])?;
                    bot.insert((key, seq)).1
                }
                Topic::Conversation(id) => {
                    let sql = "SELECT max(conversation_seq) FROM outbox_events WHERE conversation_id = ?1";
                    let seq = self.next(connection, &topic, Key::Conversation(id.0), sql, [id.0])?;
                    conversation.insert((id.0, seq)).1
                }
                Topic::Turn(id) => {
                    let seq = self.turn_head(connection, *id, home)? + 1;
                    self.heads.insert(Key::Turn(id.0), seq);
                    turn.insert((id.0, seq)).1
                }
            };
            seqs.push((topic, u64::try_from(seq).unwrap_or(0)));
        }
        connection
            .prepare_cached(
                "INSERT INTO outbox_events (id, event, created_at, bots_seq, tree_seq, models_seq, bot_key, \
                     bot_seq, conversation_id, conversation_seq, turn_id, turn_seq, data, tasks_seq) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
            )?
            .execute(params![
                event.id.0,
                event.name,
                event.time.0,
                bots,
                tree,
                models,
                bot.map(|b| b.0),
                bot.map(|b| b.1),
                conversation.map(|c| c.0),
                conversation.map(|c| c.1),
                turn.map(|t| t.0),
                turn.map(|t| t.1),
                &*event.data,
                tasks
            ])?;
        if let Some(ended) = event.ends {
            // Its last event; nobody asks for the number again.
            self.heads.remove(&Key::Turn(ended.0));
        }
        self.known.insert(event.id);
        self.staged.push(event.id);
        Ok(CommittedEvent {
            position: u64::try_from(connection.last_insert_rowid()).unwrap_or(0),
            id: event.id,
            time: event.time,
            name: event.name.into(),
            data: event.data,
            seqs,
            ends: event.ends,
        })
    }
}

/// Number of the last event of a topic that has lost all of its events to retention.
fn deleted_head(connection: &Connection, topic: &Topic) -> rusqlite::Result<i64> {
    connection
        .prepare_cached("SELECT seq FROM topic_heads WHERE topic = ?1")?
        .query_row([topic.to_string()], |row| row.get(0))
        .optional()
        .map(|head| head.unwrap_or(0))
}

/// Forgets the number of a topic that is gone.
pub(super) fn forget_head(connection: &Connection, topic: &Topic) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM topic_heads WHERE topic = ?1")?
        .execute([topic.to_string()])
        .map(drop)
}

/// Takes the texts out of the events of a conversation whose messages are gone. The rows stay for
/// their numbers.
pub(super) fn redact(connection: &Connection, conversation: ConversationId) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE outbox_events SET data = ?2 WHERE conversation_id = ?1 AND data <> ?2 \
                 AND event IN ('message_received', 'tool_called', 'tool_returned', 'turn_completed', 'turn_stopped', 'turn_failed', \
                     'turn_interrupted') \
                 AND NOT EXISTS (SELECT 1 FROM chat_messages m WHERE m.id = unhex(replace( \
                     CASE WHEN json_valid(data) \
                         THEN coalesce(data ->> '$.message.id', data ->> '$.message_id', data ->> '$.turn.reply_id') END, '-', '')))",
        )?
        .execute(params![conversation.0, REDACTED])
        .map(drop)
}
