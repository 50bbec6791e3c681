//! The lines of the JSON form: writing them, and reading them back one by one, strictly. Pure.

use std::sync::Arc;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

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

/// What a line was.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "one at a time")]
pub(super) enum Item {
    /// The bot of the file.
    Begin(BotId),
    /// A conversation, without counts.
    Conversation(Conversation),
    /// A message, with the turn that it answers.
    Message(Message, Option<ArchivedTurn>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Header,
    Conversations,
    Messages,
    Checksum,
    Over,
}

/// Reads the document line by line.
pub(super) struct JsonReader {
    stage: Stage,
    /// Whether another element must follow (`Some`) or the list must end; none at the begin of a list.
    more: Option<bool>,
    bot: Option<BotId>,
    number: u64,
    counts: Counts,
    left_out: u64,
    hash: Sha256,
}

impl JsonReader {
    pub(super) fn new() -> Self {
        Self {
            stage: Stage::Header,
            more: None,
            bot: None,
            number: 0,
            counts: Counts::default(),
            left_out: 0,
            hash: Sha256::new(),
        }
    }

    /// What a last line without a line break is.
    pub(super) fn rest(&mut self, line: &[u8]) -> Problem {
        match self.stage {
            Stage::Header => match self.line(line) {
                Err(problem) => problem,
                Ok(_) => invalid("The file breaks off after its first line"),
            },
            Stage::Over => invalid("Something follows the end of the file; cut it off"),
            _ => invalid(format!("The file breaks off in the middle of line {}", self.number + 1)),
        }
    }

    /// What was read so far.
    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// Rows that the export had to leave out; known at the end.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Takes one line, its line break cut off.
    pub(super) fn line(&mut self, line: &[u8]) -> Result<Option<Item>, Problem> {
        self.number += 1;
        if self.stage != Stage::Checksum {
            self.hash.update(line);
            self.hash.update(b"\n");
        }
        match self.stage {
            Stage::Header => self.header(line).map(Some),
            Stage::Conversations if line == OPEN_MESSAGES.as_bytes() => self.next(Stage::Messages),
            Stage::Conversations => {
                let read: ConversationLine = self.element(line)?;
                self.counts.conversations += 1;
                Ok(self.bot.as_ref().map(|bot| Item::Conversation(conversation(read, bot))))
            }
            Stage::Messages if line.starts_with(CLOSE.as_bytes()) => self.close(line),
            Stage::Messages => {
                let read: MessageLine = self.element(line)?;
                self.check_message(&read)?;
                self.counts.messages += 1;
                self.counts.turns += u64::from(read.turn.is_some());
                Ok(self.bot.as_ref().map(|bot| {
                    let (message, turn) = message(read, bot);
                    Item::Message(message, turn)
                }))
            }
            Stage::Checksum => self.checksum(line),
            Stage::Over => Err(self.wrong("something follows the end; cut it off")),
        }
    }

    /// There are no more lines.
    pub(super) fn end(&self) -> Result<(), Problem> {
        if self.stage == Stage::Over {
            return Ok(());
        }
        Err(invalid(match self.number {
            0 => "The file is empty".to_owned(),
            n => format!("The file breaks off after line {n}"),
        }))
    }

    fn wrong(&self, what: &str) -> Problem {
        invalid(format!("Line {}: {what}", self.number))
    }

    fn next(&mut self, stage: Stage) -> Result<Option<Item>, Problem> {
        if self.more == Some(true) {
            return Err(self.wrong("an element is missing"));
        }
        (self.stage, self.more) = (stage, None);
        Ok(None)
    }

    fn header(&mut self, line: &[u8]) -> Result<Item, Problem> {
        let strange = "this is not the begin of an export of deia in the format json";
        if line.starts_with(b"\xEF\xBB\xBF") || line.ends_with(b"\r") {
            let changed = "the file was changed by an editor or on its way (a byte order mark, or other line ends); take the original";
            return Err(self.wrong(changed));
        }
        let head = line.strip_suffix(OPEN_CONVERSATIONS.as_bytes()).ok_or_else(|| self.wrong(strange))?;
        let head = [head, b"}"].concat();
        // The version first: another one may have other fields.
        let any: Value = serde_json::from_slice(&head).map_err(|_| self.wrong(strange))?;
        if any["format"] != FORMAT {
            return Err(self.wrong(strange));
        }
        if any["version"] != VERSION {
            return Err(self.wrong(&format!(
                "the file has version {} of the format, and this deia reads version {VERSION}",
                any["version"]
            )));
        }
        let header: Header = self.strict(&head)?;
        self.bot = Some(header.bot_id.clone());
        self.stage = Stage::Conversations;
        Ok(Item::Begin(header.bot_id))
    }

    fn element<T: DeserializeOwned + Serialize>(&mut self, line: &[u8]) -> Result<T, Problem> {
        if self.more == Some(false) {
            return Err(self.wrong("a comma is missing before it"));
        }
        let bare = line.strip_suffix(b",");
        self.more = Some(bare.is_some());
        self.strict(bare.unwrap_or(line))
    }

    /// What is written again must be the same bytes: nothing unknown, double, missing or in another form.
    fn strict<T: DeserializeOwned + Serialize>(&self, line: &[u8]) -> Result<T, Problem> {
        let read: T = serde_json::from_slice(line).map_err(|e| self.wrong(&position_free(&e)))?;
        let mut again = Vec::with_capacity(line.len());
        put(&mut again, &read);
        if again != line {
            return Err(self.wrong("it is not written as deia writes it"));
        }
        Ok(read)
    }

    fn check_message(&self, line: &MessageLine) -> Result<(), Problem> {
        if line.state == MessageState::Pending {
            return Err(self.wrong("a message of an export has ended, this one is pending"));
        }
        // As in a send: not every database takes it.
        if line.content.contains('\0') {
            return Err(self.wrong("content must not contain NUL"));
        }
        let Some(turn) = &line.turn else { return Ok(()) };
        if line.turn_id.is_none() {
            return Err(self.wrong("it has a turn but no turn_id"));
        }
        if !turn.state.is_terminal() || turn.ended_at.is_none() {
            return Err(self.wrong("a turn of an export has ended, this one has not"));
        }
        Ok(())
    }

    fn close(&mut self, line: &[u8]) -> Result<Option<Item>, Problem> {
        self.next(Stage::Checksum)?;
        let counts = line.strip_prefix(CLOSE.as_bytes()).and_then(|rest| rest.strip_suffix(b","));
        let closing = [b"{\"counts\":", counts.unwrap_or_default(), b"}"].concat();
        let Closing { counts, left_out } = self.strict(&closing)?;
        if counts != self.counts {
            return Err(self.wrong(&format!("the counts say {counts}, and there are {}", self.counts)));
        }
        self.left_out = left_out;
        Ok(None)
    }

    fn checksum(&mut self, line: &[u8]) -> Result<Option<Item>, Problem> {
        let sum = hex(&self.hash.finalize_reset());
        if line != format!("{CHECKSUM}{sum}\"}}").as_bytes() {
            return Err(self.wrong("the checksum is not that of the file: it was changed, or is not whole"));
        }
        self.stage = Stage::Over;
        Ok(None)
    }
}

/// serde's words where they help; its line and column are those of the line.
fn position_free(error: &serde_json::Error) -> String {
    let words = error.to_string();
    let column = error.column();
    let words = words.split(" at line ").next().unwrap_or(&words);
    // What a type does not take is told in its words, which are ours and not the reader's.
    let plain = ["unknown", "missing field", "duplicate field", "recursion", "EOF", "trailing"];
    let words = if plain.iter().any(|begin| words.starts_with(begin)) {
        words
    } else {
        "a value is not of the kind that belongs there"
    };
    format!("{words} (byte {column})")
}
