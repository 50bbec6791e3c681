//! Bots, conversations, messages and turns to store, each different from the others.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use serde_json::{Map, json};

use crate::{
    domain::{
        bot::{BotConfig, BotRecord, BotState, StoredStatus, TokenTotals},
        event::{BotChange, EventBody, NewEvent, Topic, TurnEnd, TurnProgress},
        idempotency::{Fingerprint, Idempotency, IdempotencyKey},
        ids::{BotId, ConversationId, MessageId, TurnId},
        message::{Conversation, Message, MessageState, Sender, Siblings},
        time::Timestamp,
        turn::{ContextUse, QueuePlace, Timings, Turn, TurnState, Usage},
    },
    ports::history_store::{Change, Fact},
};

/// A later time with every call, so that orders by time are strict.
#[must_use]
pub fn tick() -> Timestamp {
    static CLOCK: AtomicI64 = AtomicI64::new(1_700_000_000_000_000);
    Timestamp(CLOCK.fetch_add(1, Ordering::Relaxed))
}

/// For how long a key is kept, in microseconds.
pub const DAY: i64 = 24 * 60 * 60 * 1_000_000;

/// A key of a user, for a request that is like those of the same `asks`.
#[must_use]
pub fn idempotency(user: &str, key: &str, asks: u8) -> Idempotency {
    let key = IdempotencyKey::parse(key).expect("a key");
    Idempotency { user: user.into(), key, fingerprint: Fingerprint([asks; 32]), at: tick() }
}

/// A bot with its main conversation and status.
#[must_use]
pub fn bot(id: &BotId) -> (BotRecord, Conversation, StoredStatus) {
    let created_at = tick();
    let main = Conversation { main: true, ..conversation(id) };
    let mut metadata = Map::new();
    metadata.insert("team".into(), json!({"name": "ünï", "size": 3}));
    let record = BotRecord {
        id: id.clone(),
        name: format!("bot {id}"),
        config: BotConfig { model: "llama3.2".into(), think: Some(json!(true)), ..BotConfig::default() },
        config_version: 1,
        main_conversation_id: main.id,
        metadata,
        created_at,
        updated_at: created_at,
    };
    (record, main, status(id, BotState::Ready))
}

/// A status in this state.
#[must_use]
pub fn status(id: &BotId, state: BotState) -> StoredStatus {
    let updated_at = tick();
    StoredStatus {
        bot_id: id.clone(),
        state,
        last_message: Some(updated_at),
        error_count: 1,
        restart_count: 2,
        tokens: TokenTotals { prompt: 30, completion: updated_at.0.unsigned_abs() % 1000 },
        updated_at,
    }
}

/// An empty side conversation.
#[must_use]
pub fn conversation(bot: &BotId) -> Conversation {
    Conversation {
        id: ConversationId::new(),
        bot_id: bot.clone(),
        title: None,
        main: false,
        leaf_message_id: None,
        message_count: 0,
        archived: false,
        legal_hold: false,
        created_at: tick(),
        last_at: None,
    }
}

/// A message of no turn.
#[must_use]
pub fn message(home: &Conversation, parent: Option<MessageId>, sender: Sender, text: &str) -> Message {
    Message {
        id: MessageId::new(),
        bot_id: home.bot_id.clone(),
        conversation_id: home.id,
        parent_id: parent,
        turn_id: None,
        sender,
        content: text.into(),
        thinking: None,
        tool_calls: None,
        images: None,
        tokens: u32::try_from(text.len()).unwrap_or(0) / 4 + 1,
        state: MessageState::Complete,
        siblings: Siblings { index: 1, count: 1 },
        created_at: tick(),
        metadata: Map::new(),
    }
}

/// A turn with its question and its pending answer.
#[must_use]
pub fn turn(home: &Conversation, parent: Option<MessageId>, text: &str) -> (Turn, Message, Message) {
    let id = TurnId::new();
    let question = Message { turn_id: Some(id), ..message(home, parent, Sender::User, text) };
    let reply = Message {
        turn_id: Some(id),
        state: MessageState::Pending,
        tokens: 0,
        ..message(home, Some(question.id), Sender::Bot, "")
    };
    let turn = Turn {
        id,
        bot_id: home.bot_id.clone(),
        conversation_id: home.id,
        message_id: question.id,
        reply_id: reply.id,
        state: TurnState::Queued,
        model: "llama3.2".into(),
        server: None,
        attempt_of: None,
        queue: Some(QueuePlace::new(2, Some(Duration::from_millis(1500))).at("one")),
        usage: Usage::default(),
        timings: Timings::default(),
        context: ContextUse { num_ctx: 4096, ..ContextUse::default() },
        error: None,
        created_at: question.created_at,
        ended_at: None,
        stale: false,
    };
    (turn, question, reply)
}

/// The turn and its answer as they end.
#[must_use]
pub fn ended(turn: &Turn, reply: &Message, text: &str) -> (Turn, Message) {
    let ended = Turn {
        state: TurnState::Completed,
        server: Some("local".into()),
        queue: None,
        usage: Usage { prompt_tokens: 12, completion_tokens: 7 },
        timings: Timings { queued_ms: Some(0.25), first_token_ms: Some(3.5), total_ms: Some(10.125) },
        context: ContextUse { used: 12, ..turn.context },
        ended_at: Some(tick()),
        ..turn.clone()
    };
    let reply = Message { content: text.into(), tokens: 7, state: MessageState::Complete, ..reply.clone() };
    (ended, reply)
}

/// The topics of a turn's events.
#[must_use]
pub fn topics(turn: &Turn) -> Vec<Topic> {
    vec![Topic::Bot(turn.bot_id.clone()), Topic::Conversation(turn.conversation_id), Topic::Turn(turn.id)]
}

/// An event about the progress of a turn.
#[must_use]
pub fn progress(turn: &Turn) -> NewEvent {
    let progress = TurnProgress {
        turn_id: turn.id,
        position: None,
        eta_s: None,
        offline: None,
        server: None,
        model: Some(turn.model.clone()),
    };
    NewEvent::new(topics(turn), &EventBody::TurnStarted(progress))
}

/// An event about a bot.
#[must_use]
pub fn life(id: &BotId) -> NewEvent {
    let change = BotChange { bot_id: id.clone(), state: BotState::Ready, from: None, reason: None };
    NewEvent::new(vec![Topic::Bots, Topic::Bot(id.clone())], &EventBody::BotStateChanged(change))
}

/// The same, at its own time among the others.
#[must_use]
pub fn life_at(id: &BotId) -> NewEvent {
    NewEvent { time: tick(), ..life(id) }
}

/// Launches a bot.
#[must_use]
pub fn launch(id: &BotId) -> (Fact, Conversation) {
    let (bot, main, status) = bot(id);
    (Fact::new(Change::CreateBot { bot, main: main.clone(), status }, vec![life(id)]), main)
}

/// Stores a message of no turn.
#[must_use]
pub fn append(message: &Message) -> Fact {
    let topics = vec![Topic::Bot(message.bot_id.clone()), Topic::Conversation(message.conversation_id)];
    let event = NewEvent::new(topics, &EventBody::MessageReceived { message: message.clone() });
    Fact::new(Change::AppendMessages { messages: vec![message.clone()], idempotency: None }, vec![event])
}

/// Accepts a turn.
#[must_use]
pub fn accept(turn: &Turn, question: &Message, reply: &Message) -> Fact {
    let received = EventBody::MessageReceived { message: question.clone() };
    let change = Change::AcceptTurn {
        turn: turn.clone(),
        message: question.clone(),
        reply: reply.clone(),
        overrides: None,
        idempotency: None,
    };
    Fact::new(change, vec![NewEvent::new(topics(turn), &received), progress(turn)])
}

/// Ends a turn; `turn` and `reply` have ended.
#[must_use]
pub fn finish(turn: &Turn, reply: &Message) -> Fact {
    let end = EventBody::TurnCompleted(TurnEnd { turn: turn.clone(), reply: Some(reply.clone()) });
    let status = status(&turn.bot_id, BotState::Active);
    let change = Change::FinishTurn { turn: turn.clone(), reply: reply.clone(), status };
    Fact::new(change, vec![progress(turn), NewEvent::new(topics(turn), &end)])
}
