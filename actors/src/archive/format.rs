//! The lines of the JSON form, and writing them. Pure.

use std::sync::Arc;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

mod reader;

pub(super) use self::reader::{Item, JsonReader};
use super::{Counts, invalid, is_none};
use crate::{
    domain::{
        ids::{BotId, ConversationId, MessageId, TurnId},
        message::{Conversation, Message, MessageState, Sender, Siblings},
        problem::Problem,
        time::Timestamp,
        turn::{ContextUse, Timings, Turn, TurnState, Usage},
    },
    ports::archive::ArchivedTurn,
};

const FORMAT: &str = "deia.chat";
const VERSION: u64 = 1;
const OPEN_CONVERSATIONS: &str = ",\"conversations\":[";
const OPEN_MESSAGES: &str = "],\"messages\":[";
const CLOSE: &str = "],\"counts\":";
const LEFT_OUT: &str = ",\"left_out\":";
const CHECKSUM: &str = "\"sha256\":\"";

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: String,
    version: u64,
    bot_id: BotId,
}

/// Behind the messages.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Closing {
    counts: Counts,
    #[serde(default, skip_serializing_if = "is_none")]
    left_out: u64,
}

/// A conversation; what follows from its messages is not in it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConversationLine {
    id: ConversationId,
    title: Option<String>,
    main: bool,
    leaf_message_id: Option<MessageId>,
    archived: bool,
    created_at: Timestamp,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MessageLine {
    id: MessageId,
    conversation_id: ConversationId,
    parent_id: Option<MessageId>,
    turn_id: Option<TurnId>,
    sender: Sender,
    state: MessageState,
    created_at: Timestamp,
    tokens: u32,
    content: Arc<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    images: Option<Vec<Arc<str>>>,
    metadata: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    turn: Option<TurnLine>,
}

/// A turn, with its reply: the ids of turn, conversation and reply are those of the message.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TurnLine {
    message_id: MessageId,
    state: TurnState,
    model: String,
    server: Option<String>,
    attempt_of: Option<TurnId>,
    usage: Usage,
    timings: Timings,
    context: ContextUse,
    error: Option<Problem>,
    created_at: Timestamp,
    ended_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    overrides: Option<Value>,
}

// Taken apart without `..`: a field that is not exported is a decision.
fn conversation_line(c: &Conversation) -> ConversationLine {
    let Conversation {
        id,
        bot_id: _,
        title,
        main,
        leaf_message_id,
        message_count: _,
        archived,
        // A duty of this database, not a part of what was said.
        legal_hold: _,
        created_at,
        last_at: _,
    } = c;
    ConversationLine {
        id: *id,
        title: title.clone(),
        main: *main,
        leaf_message_id: *leaf_message_id,
        archived: *archived,
        created_at: *created_at,
    }
}

fn message_line(message: &Message, turn: Option<&ArchivedTurn>) -> MessageLine {
    let Message {
        id,
        bot_id: _,
        conversation_id,
        parent_id,
        turn_id,
        sender,
        content,
        thinking,
        tool_calls,
        images,
        tokens,
        state,
        siblings: _,
        created_at,
        metadata,
    } = message;
    MessageLine {
        id: *id,
        conversation_id: *conversation_id,
        parent_id: *parent_id,
        turn_id: *turn_id,
        sender: *sender,
        state: *state,
        created_at: *created_at,
        tokens: *tokens,
        content: content.clone(),
        thinking: thinking.clone(),
        tool_calls: tool_calls.clone().filter(|v| !v.is_null()),
        images: images.clone(),
        metadata: metadata.clone(),
        turn: turn.map(turn_line),
    }
}

fn turn_line(turn: &ArchivedTurn) -> TurnLine {
    let ArchivedTurn { turn, overrides } = turn;
    let Turn {
        id: _,
        bot_id: _,
        conversation_id: _,
        message_id,
        reply_id: _,
        state,
        model,
        server,
        attempt_of,
        queue: _,
        usage,
        timings,
        context,
        error,
        created_at,
        ended_at,
        stale: _,
    } = turn;
    TurnLine {
        message_id: *message_id,
        state: *state,
        model: model.clone(),
        server: server.clone(),
        attempt_of: *attempt_of,
        usage: *usage,
        timings: *timings,
        context: *context,
        error: error.clone(),
        created_at: *created_at,
        ended_at: *ended_at,
        overrides: overrides.clone().filter(|v| !v.is_null()),
    }
}

fn conversation(line: ConversationLine, bot: &BotId) -> Conversation {
    Conversation {
        id: line.id,
        bot_id: bot.clone(),
        title: line.title,
        main: line.main,
        leaf_message_id: line.leaf_message_id,
        message_count: 0,
        archived: line.archived,
        legal_hold: false,
        created_at: line.created_at,
        last_at: None,
    }
}

fn message(line: MessageLine, bot: &BotId) -> (Message, Option<ArchivedTurn>) {
    let turn = line.turn.zip(line.turn_id).map(|(t, id)| ArchivedTurn {
        turn: Turn {
            id,
            bot_id: bot.clone(),
            conversation_id: line.conversation_id,
            message_id: t.message_id,
            reply_id: line.id,
            state: t.state,
            model: t.model,
            server: t.server,
            attempt_of: t.attempt_of,
            queue: None,
            usage: t.usage,
            timings: t.timings,
            context: t.context,
            error: t.error,
            created_at: t.created_at,
            ended_at: t.ended_at,
            stale: false,
        },
        overrides: t.overrides,
    });
    let message = Message {
        id: line.id,
        bot_id: bot.clone(),
        conversation_id: line.conversation_id,
        parent_id: line.parent_id,
        turn_id: line.turn_id,
        sender: line.sender,
        content: line.content,
        thinking: line.thinking,
        tool_calls: line.tool_calls,
        images: line.images,
        tokens: line.tokens,
        state: line.state,
        siblings: Siblings { index: 1, count: 1 },
        created_at: line.created_at,
        metadata: line.metadata,
    };
    (message, turn)
}

/// Our types have text keys and no failing writers.
fn put(out: &mut Vec<u8>, value: &impl Serialize) {
    let _ = serde_json::to_writer(out, value);
}

/// Writes the document, piece by piece.
#[derive(Default)]
pub(super) struct JsonWriter {
    hash: Sha256,
    counts: Counts,
}

impl JsonWriter {
    pub(super) fn begin(&mut self, out: &mut Vec<u8>, bot: &BotId) {
        let from = out.len();
        put(out, &Header { format: FORMAT.into(), version: VERSION, bot_id: bot.clone() });
        out.pop();
        out.extend_from_slice(OPEN_CONVERSATIONS.as_bytes());
        self.hash.update(out.get(from..).unwrap_or_default());
    }

    pub(super) fn conversation(&mut self, out: &mut Vec<u8>, conversation: &Conversation) {
        let from = out.len();
        out.extend_from_slice(if self.counts.conversations == 0 { b"\n" } else { b",\n" });
        put(out, &conversation_line(conversation));
        self.counts.conversations += 1;
        self.hash.update(out.get(from..).unwrap_or_default());
    }

    pub(super) fn messages(&mut self, out: &mut Vec<u8>) {
        let from = out.len();
        out.push(b'\n');
        out.extend_from_slice(OPEN_MESSAGES.as_bytes());
        self.hash.update(out.get(from..).unwrap_or_default());
    }

    pub(super) fn message(&mut self, out: &mut Vec<u8>, message: &Message, turn: Option<&ArchivedTurn>) {
        let from = out.len();
        out.extend_from_slice(if self.counts.messages == 0 { b"\n" } else { b",\n" });
        put(out, &message_line(message, turn));
        self.counts.messages += 1;
        self.counts.turns += u64::from(turn.is_some());
        self.hash.update(out.get(from..).unwrap_or_default());
    }

    pub(super) fn end(&mut self, out: &mut Vec<u8>, left_out: u64) {
        let from = out.len();
        out.push(b'\n');
        out.extend_from_slice(CLOSE.as_bytes());
        put(out, &self.counts);
        if left_out > 0 {
            out.extend_from_slice(format!("{LEFT_OUT}{left_out}").as_bytes());
        }
        out.extend_from_slice(b",\n");
        self.hash.update(out.get(from..).unwrap_or_default());
        let sum = hex(&self.hash.finalize_reset());
        out.extend_from_slice(format!("{CHECKSUM}{sum}\"}}\n").as_bytes());
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
