//! Taking in: the whole file is read and judged first, against itself and against what is stored; only then it is read
//! again and stored, in parts. Its conversations get their ends, and a bot its main one, behind the last part: one that is
//! cut leaves side conversations with messages that nothing leads to, and importing the file once more completes it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use serde_json::{Map, Value};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncSeek, AsyncSeekExt};

use super::{
    Commit, Counts, ImportReport,
    check::Checker,
    format::{Item, JsonReader},
    invalid,
};
use crate::{
    domain::{
        bot::AuditEntry,
        event::{EventBody, NewEvent, Topic},
        ids::{BotId, ConversationId, MessageId, TurnId},
        message::{Conversation, Message, Siblings},
        problem::{Code, Problem},
        time::Timestamp,
    },
    history::storage_problem,
    ports::{
        archive::{ArchivedTurn, ImportPart},
        history_store::{Change, Fact, StoreError},
        scratch::Scratch,
        storage::Storage,
    },
};

/// Longest line, in bytes: far above every message that fits a request.
const MAX_LINE: u64 = 64 << 20;
/// Messages and conversations of one part.
const PART: usize = 500;
/// Their text, in bytes.
const PART_BYTES: usize = 1 << 20;

/// A file that can be read twice.
pub trait Source: AsyncBufRead + AsyncSeek + Send + Unpin {}
impl<T: AsyncBufRead + AsyncSeek + Send + Unpin> Source for T {}

/// Imports a file of the form `json`. With `bot` it must be that bot's; the bot must be in the roster. `scratch` is for
/// what the check of a long file has to note, 32 to 48 bytes a message.
///
/// # Errors
/// `import_invalid`, `import_conflict`, `bot_not_found`, `storage_unavailable`, `shutting_down`; `detail` says whether
/// nothing is stored then, or a part.
pub async fn import(
    store: &dyn Storage,
    commit: &dyn Commit,
    bot: Option<&BotId>,
    source: &mut dyn Source,
    scratch: &Arc<dyn Scratch>,
) -> Result<ImportReport, Problem> {
    take_in(store, commit, bot, source, scratch).await?.show(store, commit, source).await
}

/// The first step of an import: its messages are stored, and nothing leads to them yet.
pub(crate) async fn take_in(
    store: &dyn Storage,
    commit: &dyn Commit,
    bot: Option<&BotId>,
    source: &mut dyn Source,
    scratch: &Arc<dyn Scratch>,
) -> Result<TakenIn, Problem> {
    let taken = check(store, commit, bot, source, scratch).await?;
    source.rewind().await.map_err(|e| unreadable(&e))?;
    let mut lines = Lines::new(source, bot.cloned());
    while let Some(mut part) = lines.part().await? {
        begin_anew(&mut part, &taken.lost);
        for conversation in &mut part.conversations {
            (conversation.leaf_message_id, conversation.main) = (None, false);
        }
        store_part(commit, part, vec![]).await?;
    }
    Ok(taken)
}

/// A file whose messages are stored.
pub(crate) struct TakenIn {
    report: ImportReport,
    /// Messages that others hang on and that the export had to leave out.
    lost: HashSet<MessageId>,
    /// Conversations with messages that were not stored before.
    grown: HashSet<ConversationId>,
}

impl TakenIn {
    /// The last step: the conversations end where those of the file end, and a bot that was not talked to has the main one of
    /// the file. Readers of those that changed are told.
    pub(crate) async fn show(
        self,
        store: &dyn Storage,
        commit: &dyn Commit,
        source: &mut dyn Source,
    ) -> Result<ImportReport, Problem> {
        let Self { report, lost, grown } = self;
        source.rewind().await.map_err(|e| unreadable(&e))?;
        let mut lines = Lines::new(source, Some(report.bot_id.clone()));
        // Conversations come first.
        while let Some(part) = lines.part().await?.filter(|part| !part.conversations.is_empty()) {
            let mut part = ImportPart { messages: vec![], turns: vec![], ..part };
            begin_anew(&mut part, &lost);
            let events = changed(store, &part, &grown).await.map_err(|e| partly(storage_problem(&e)))?;
            store_part(commit, part, events).await?;
        }
        let detail = Map::from_iter([
            ("imported".to_owned(), Value::from(report.imported.messages)),
            ("unchanged".to_owned(), Value::from(report.unchanged.messages)),
        ]);
        let audit = Some(AuditEntry {
            at: Timestamp::now(),
            actor: "local".into(),
            action: "history.import".into(),
            target: format!("bot:{}", report.bot_id),
            reason: None,
            detail,
        });
        commit.commit(Fact { change: Change::None, events: vec![], audit }).await?;
        Ok(report)
    }
}

/// What readers are told of the conversations of a last part, each as it is then; nothing where nothing of it is new.
async fn changed(
    store: &dyn Storage,
    part: &ImportPart,
    grown: &HashSet<ConversationId>,
) -> Result<Vec<NewEvent>, StoreError> {
    let mut events = vec![];
    for given in &part.conversations {
        let Some(stored) = store.conversation(given.id).await? else { continue };
        let main = stored.main || (given.main && is_unused(store, &part.bot_id).await?);
        let leaf_message_id = stored.leaf_message_id.or(given.leaf_message_id);
        let conversation = Conversation { main, leaf_message_id, ..stored.clone() };
        if grown.contains(&given.id) || conversation != stored {
            let topics = vec![Topic::Bot(part.bot_id.clone()), Topic::Conversation(given.id)];
            events.push(NewEvent::new(topics, &EventBody::ConversationChanged { conversation }));
        }
    }
    Ok(events)
}

/// Whether the main conversation of a bot is one that an imported one takes the place of.
async fn is_unused(store: &dyn Storage, bot: &BotId) -> Result<bool, StoreError> {
    let roster = store.roster().await?;
    let Some((bot, _)) = roster.into_iter().find(|(known, _)| known.id == *bot) else { return Ok(false) };
    let main = store.conversation(bot.main_conversation_id).await?;
    Ok(main.is_none_or(|main| main.message_count == 0 && main.leaf_message_id.is_none() && !main.legal_hold))
}

/// Stores a part.
async fn store_part(commit: &dyn Commit, part: ImportPart, events: Vec<NewEvent>) -> Result<(), Problem> {
    let stored = match commit.go_on() {
        Ok(()) => commit.commit(Fact::new(Change::Import(part), events)).await,
        Err(problem) => Err(problem),
    };
    match stored {
        Ok(done) if done.applied => Ok(()),
        Ok(_) => {
            let detail = "What is stored changed while the file was imported.";
            Err(partly(Problem::new(Code::ImportConflict, detail)))
        }
        // Whatever a commit says whose service ends.
        Err(problem) => Err(partly(commit.go_on().err().unwrap_or(problem))),
    }
}

/// What is wrong once parts may be stored is told with what there is to do.
fn partly(mut problem: Problem) -> Problem {
    problem.detail.push_str(" A part of the file may be stored; importing the file again completes it.");
    problem
}

fn unreadable(error: &std::io::Error) -> Problem {
    invalid(format!("The file can't be read: {error}"))
}

/// What the export could not place begins anew.
fn begin_anew(part: &mut ImportPart, lost: &HashSet<MessageId>) {
    let given = part.messages.iter_mut().map(|m| &mut m.parent_id);
    for link in given.chain(part.conversations.iter_mut().map(|c| &mut c.leaf_message_id)) {
        *link = link.filter(|id| !lost.contains(id));
    }
}

/// Reads the whole file and compares it with what is stored.
async fn check(
    store: &dyn Storage,
    commit: &dyn Commit,
    bot: Option<&BotId>,
    source: &mut dyn Source,
    scratch: &Arc<dyn Scratch>,
) -> Result<TakenIn, Problem> {
    let mut lines = Lines::new(source, bot.cloned());
    let mut checker = Checker::new(scratch);
    let (mut unchanged, mut grown) = (Counts::default(), HashSet::new());
    while let Some(part) = lines.part().await? {
        commit.go_on()?;
        for conversation in &part.conversations {
            checker.conversation(conversation)?;
        }
        for message in &part.messages {
            checker.message(message)?;
        }
        compare(store, &part, &mut unchanged, &mut grown).await?;
    }
    let Some(bot_id) = lines.bot else { return Err(invalid("The file is empty")) };
    let roster = store.roster().await.map_err(|e| storage_problem(&e))?;
    if !roster.iter().any(|(bot, _)| bot.id == bot_id) {
        let detail = format!("There is no bot {bot_id}. Launch it with this id, then import.");
        return Err(Problem::new(Code::BotNotFound, detail));
    }
    let left_out = lines.reader.left_out();
    let mut lost = HashSet::new();
    let outside = tokio::task::spawn_blocking(move || checker.end(left_out)).await;
    let outside = outside.map_err(|_| Problem::new(Code::Internal, "The check of the file broke off."))??;
    for chunk in outside.chunks(PART) {
        let found = store.messages_with(chunk).await.map_err(|e| storage_problem(&e))?;
        let stored = |id: &MessageId| found.iter().any(|m| m.id == *id && m.bot_id == bot_id);
        if left_out > 0 {
            lost.extend(chunk.iter().filter(|id| !stored(id)));
        } else if let Some(missing) = chunk.iter().find(|id| !stored(id)) {
            return Err(invalid(format!(
                "It builds on message {missing}, which is neither in it nor stored: a fork that was exported alone has only what was said in it. Import the conversation that it was forked from first, or an export of the whole bot"
            )));
        }
    }
    let all = lines.reader.counts();
    let imported = Counts {
        conversations: all.conversations - unchanged.conversations,
        messages: all.messages - unchanged.messages,
        turns: all.turns - unchanged.turns,
    };
    Ok(TakenIn { report: ImportReport { bot_id, imported, unchanged, left_out }, lost, grown })
}

fn conflict(what: &str, id: impl std::fmt::Display) -> Problem {
    Problem::new(
        Code::ImportConflict,
        format!("{what} {id} is stored with other content, or is another bot's. Nothing was stored."),
    )
}

/// What was left of a conversation stands for itself since; nothing can be put above it any more.
fn cut_off(first: &Message) -> Problem {
    let detail = format!(
        "Message {} is stored as the first of what is left of conversation {}: what stood before it was deleted since the export \
         and can't be put back above it. Nothing was stored. Clear or delete the conversation, then import; what was said after the \
         export is lost with that.",
        first.id, first.conversation_id
    );
    Problem::new(Code::ImportConflict, detail)
}

/// Counts what is stored already, and notes the conversations of what is not; what is stored differently is a conflict.
async fn compare(
    store: &dyn Storage,
    part: &ImportPart,
    unchanged: &mut Counts,
    grown: &mut HashSet<ConversationId>,
) -> Result<(), Problem> {
    for given in &part.conversations {
        let stored = store.conversation(given.id).await.map_err(|e| storage_problem(&e))?;
        if let Some(stored) = stored {
            if !same_conversation(&stored, given) {
                return Err(conflict("Conversation", given.id));
            }
            unchanged.conversations += 1;
        }
    }
    let ids: Vec<MessageId> = part.messages.iter().map(|m| m.id).collect();
    let stored = store.messages_with(&ids).await.map_err(|e| storage_problem(&e))?;
    let stored: HashMap<_, _> = stored.into_iter().map(|m| (m.id, m)).collect();
    for given in &part.messages {
        if let Some(stored) = stored.get(&given.id) {
            if !same_message(stored, given) {
                let beheaded = stored.parent_id.is_none()
                    && same_message(stored, &Message { parent_id: None, ..given.clone() });
                return Err(if beheaded { cut_off(given) } else { conflict("Message", given.id) });
            }
            unchanged.messages += 1;
        } else {
            grown.insert(given.conversation_id);
        }
    }
    let ids: Vec<TurnId> = part.turns.iter().map(|t| t.turn.id).collect();
    let stored = store.turns_with(&ids).await.map_err(|e| storage_problem(&e))?;
    let stored: HashMap<_, _> = stored.into_iter().map(|t| (t.turn.id, t)).collect();
    for given in &part.turns {
        if let Some(stored) = stored.get(&given.turn.id) {
            if stored != given {
                return Err(conflict("Turn", given.turn.id));
            }
            unchanged.turns += 1;
        }
    }
    Ok(())
}

/// Title, end, place in the list and archiving may change later; what they are is decided by the one that is stored.
pub(crate) fn same_conversation(a: &Conversation, b: &Conversation) -> bool {
    (a.id, &a.bot_id, a.created_at) == (b.id, &b.bot_id, b.created_at)
}

/// The place among the siblings follows from what else is stored.
pub(crate) fn same_message(a: &Message, b: &Message) -> bool {
    let bare = |m: &Message| Message { siblings: Siblings { index: 1, count: 1 }, ..m.clone() };
    bare(a) == bare(b)
}

/// The parts of a file, in its order.
struct Lines<'s> {
    source: &'s mut dyn Source,
    reader: JsonReader,
    expected: Option<BotId>,
    bot: Option<BotId>,
    line: Vec<u8>,
    over: bool,
}

impl<'s> Lines<'s> {
    fn new(source: &'s mut dyn Source, expected: Option<BotId>) -> Self {
        Self { source, reader: JsonReader::new(), expected, bot: None, line: vec![], over: false }
    }

    /// The next part; none once the whole file was read and its checksum is right.
    async fn part(&mut self) -> Result<Option<ImportPart>, Problem> {
        let (mut conversations, mut messages, mut turns): (Vec<_>, Vec<_>, Vec<ArchivedTurn>) =
            Default::default();
        let mut bytes = 0;
        while !self.over && conversations.len() + messages.len() < PART && bytes < PART_BYTES {
            if !self.read_line().await? {
                self.reader.end()?;
                self.over = true;
                break;
            }
            bytes += self.line.len();
            match self.reader.line(&self.line)? {
                None => {}
                Some(Item::Begin(bot)) => {
                    if let Some(expected) = self.expected.as_ref().filter(|expected| **expected != bot) {
                        return Err(invalid(format!("The file is of bot {bot}, not of {expected}")));
                    }
                    self.bot = Some(bot);
                }
                Some(Item::Conversation(conversation)) => conversations.push(conversation),
                Some(Item::Message(message, turn)) => {
                    messages.push(message);
                    turns.extend(turn);
                }
            }
        }
        let Some(bot_id) = self.bot.clone() else { return Ok(None) };
        let empty = conversations.is_empty() && messages.is_empty();
        Ok((!empty).then_some(ImportPart { bot_id, conversations, messages, turns }))
    }

    /// False at the end of the file.
    async fn read_line(&mut self) -> Result<bool, Problem> {
        self.line.clear();
        let mut limited = (&mut self.source).take(MAX_LINE);
        limited.read_until(b'\n', &mut self.line).await.map_err(|e| unreadable(&e))?;
        match self.line.pop() {
            None => Ok(false),
            Some(b'\n') => Ok(true),
            Some(_) if u64::try_from(self.line.len()).is_ok_and(|length| length + 1 >= MAX_LINE) => {
                Err(invalid("The file has a line above 64 MiB, which no export of deia has"))
            }
            Some(last) => {
                self.line.push(last);
                Err(self.reader.rest(&self.line))
            }
        }
    }
}
