//! Reading the lines of the JSON form back, one by one and strictly. Pure.

use super::*;

/// What a line was.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "one at a time")]
pub(in crate::archive) enum Item {
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
pub(in crate::archive) struct JsonReader {
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
    pub(in crate::archive) fn new() -> Self {
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
    pub(in crate::archive) fn rest(&mut self, line: &[u8]) -> Problem {
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
    pub(in crate::archive) fn counts(&self) -> Counts {
        self.counts
    }

    /// Rows that the export had to leave out; known at the end.
    pub(in crate::archive) fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Takes one line, its line break cut off.
    pub(in crate::archive) fn line(&mut self, line: &[u8]) -> Result<Option<Item>, Problem> {
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
    pub(in crate::archive) fn end(&self) -> Result<(), Problem> {
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
