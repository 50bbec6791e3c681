//! What happened in one history, as its clients and readers saw it, and what is stored in the end: all that the judge
//! gets to see. Times are ticks of one counter, so "answered before the other was asked" can be read from them.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use serde::Serialize;
use serde_json::Value;

/// One counter for all who take notes.
#[derive(Debug, Default)]
pub struct Ticks(AtomicU64);

impl Ticks {
    pub fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::AcqRel)
    }
}

/// How an operation went, as far as its client knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Outcome {
    /// Acknowledged. `reply` is there where the answer was part of the acknowledgement.
    Ok { turn: String, message: String, reply: Option<String> },
    /// Refused for good: nothing may be stored.
    Refused,
    /// Cut, timed out or a server's fault: it may have happened, once.
    Unknown,
}

/// A message that a client sent. Contents are unique within a history.
#[derive(Debug, Clone, Serialize)]
pub struct Sent {
    pub client: usize,
    pub bot: String,
    pub content: String,
    pub invoked: u64,
    pub finished: u64,
    pub outcome: Outcome,
    /// What the same request with the same Idempotency-Key was answered after that.
    pub again: Option<Outcome>,
}

/// The newest page of a conversation, as a client read it.
#[derive(Debug, Clone, Serialize)]
pub struct Read {
    pub bot: String,
    pub invoked: u64,
    /// Ids, oldest first.
    pub ids: Vec<String>,
    /// Whether this was the whole conversation.
    pub whole: bool,
    /// Whether the server said that it may be old.
    pub stale: bool,
}

/// What a reader of a topic got.
#[derive(Debug, Clone, Serialize)]
pub enum Heard {
    /// It asked, from this place on, and got this `subscribed` frame.
    Subscribed { after: Option<Value>, frame: Value },
    /// An event frame.
    Event(Value),
    /// The connection ended.
    Cut,
}

/// A reader of one topic over as many connections as it takes.
#[derive(Debug, Clone, Serialize)]
pub struct Reader {
    pub topic: String,
    pub heard: Vec<Heard>,
}

/// A reader of one turn over SSE: its events, `None` where the connection was cut and resumed.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Stream {
    pub turn: String,
    pub heard: Vec<Option<Value>>,
}

/// A message in the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    pub id: String,
    pub parent: Option<String>,
    pub turn: Option<String>,
    pub sender: String,
    pub state: String,
    pub content: String,
}

/// A turn in the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Turn {
    pub id: String,
    pub message: String,
    pub reply: String,
    pub state: String,
}

/// A conversation in the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Conversation {
    pub bot: String,
    pub id: String,
    /// What the bot's model says to everything; none = what it was asked.
    pub says: Option<String>,
    /// Along the active path, oldest first.
    pub messages: Vec<Message>,
    pub turns: Vec<Turn>,
}

/// A row of the outbox, on one of its topics.
#[derive(Debug, Clone, Serialize)]
pub struct Fact {
    pub seq: u64,
    pub event: String,
    /// The turn that it ends, if it ends one.
    pub ends: Option<String>,
}

/// A whole history.
#[derive(Debug, Clone, Default, Serialize)]
pub struct History {
    pub sent: Vec<Sent>,
    pub reads: Vec<Read>,
    pub readers: Vec<Reader>,
    pub streams: Vec<Stream>,
    pub conversations: Vec<Conversation>,
    /// The outbox by topic, in order.
    pub outbox: BTreeMap<String, Vec<Fact>>,
    /// Number of the last event by topic, when everything had come to rest.
    pub heads: BTreeMap<String, u64>,
    /// What did not come to rest.
    pub unrest: Vec<String>,
    /// Whether the process was killed: then the last second of an interrupted answer may be missing.
    pub process_died: bool,
}
