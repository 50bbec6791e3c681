//! Taking out: pages of the record, one after the other, each written before the next is read.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use futures_util::stream::try_unfold;

use super::{Export, ExportFormat, csv::CsvWriter, format::JsonWriter, gaps::Gaps, markdown::MarkdownWriter};
use crate::{
    domain::{
        ids::{BotId, ConversationId, MessageId, TurnId},
        message::{Conversation, Message, MessageState},
        problem::{Code, Problem},
    },
    history::read_problem,
    ports::{
        archive::{ArchivedTurn, Arrival, Place},
        history_store::Cursor,
        storage::Storage,
    },
};

/// Messages of one read. Few: what a read takes is what the allocator keeps several times over.
const PAGE: u32 = 100;
/// Conversations of one piece of the list of them.
const LISTED: usize = 500;
/// Content of one read, in bytes, roughly.
const PAGE_BYTES: usize = 64 * 1024;

/// Begins an export of one conversation of a bot, or of all of them. What is said later is not in it.
///
/// # Errors
/// `conversation_not_found`, `storage_unavailable`; in the body only what the database answers. What is deleted meanwhile is
/// left out and counted.
pub async fn export(
    store: Arc<dyn Storage>,
    bot: &BotId,
    format: ExportFormat,
    only: Option<ConversationId>,
) -> Result<Export, Problem> {
    let ids = store.conversation_ids(bot).await.map_err(|e| read_problem(&e))?;
    let all = store.conversations(bot).await.map_err(|e| read_problem(&e))?;
    let mut gaps = Gaps::default();
    for id in ids.into_iter().filter(|id| only.is_none_or(|only| only == *id)) {
        if !all.iter().any(|c| c.id == id) {
            gaps.conversation(&*store, id).await?;
        }
    }
    let mut conversations: Vec<_> =
        all.into_iter().filter(|c| only.is_none_or(|only| c.id == only)).collect();
    if let (Some(id), true) = (only, conversations.is_empty()) {
        // One that an earlier bot of this id left is in no list.
        let kept = store.conversation(id).await.map_err(|e| read_problem(&e))?;
        conversations.extend(kept.filter(|kept| kept.bot_id == *bot));
    }
    if let (Some(id), true) = (only, conversations.is_empty()) {
        let detail = format!("This bot has no conversation {id}.");
        return Err(Problem::new(Code::ConversationNotFound, detail));
    }
    conversations.sort_by_key(|c| c.id);
    let mut left_out = LeftOut::default();
    let pending = left_out.look(&*store, bot).await?;
    for conversation in &mut conversations {
        // The end of the path before what runs and waits, and before what came behind that.
        let mut here: Vec<_> = pending.iter().filter(|(_, (_, home))| *home == conversation.id).collect();
        // The first of them on the path counts, and the ids grow along it.
        here.sort_by_key(|(id, _)| std::cmp::Reverse(**id));
        for (id, (before, home)) in here {
            let page = store.page(*home, Cursor::Before(*id), 1).await.map_err(|e| read_problem(&e))?;
            if page.is_some() {
                conversation.leaf_message_id = *before;
            }
        }
        while let Some((before, _)) = conversation.leaf_message_id.and_then(|leaf| pending.get(&leaf)) {
            conversation.leaf_message_id = *before;
        }
        if let Some(leaf) = conversation.leaf_message_id {
            conversation.leaf_message_id = gaps.leaf(&*store, bot, leaf).await?;
        }
    }
    // Behind the list: the end of each conversation is in the file.
    let by = store.arrived().await.map_err(|e| read_problem(&e))?;
    let name = only.map_or_else(|| bot.to_string(), |id| format!("{bot}-{id}"));
    let shared = match format {
        ExportFormat::Markdown | ExportFormat::Csv if only.is_some() => {
            beginning(&*store, conversations.first()).await?
        }
        // With all of a bot's the origin is there itself; and in JSON a message stands with its own conversation.
        _ => None,
    };
    let exporter = Exporter {
        store,
        bot: bot.clone(),
        conversations,
        at: 0,
        pass: Pass::default(),
        shared,
        by,
        left_out,
        gaps: gaps.clone(),
        writer: match format {
            ExportFormat::Json => Writer::Json(JsonWriter::default()),
            ExportFormat::Markdown => Writer::Markdown(MarkdownWriter),
            ExportFormat::Csv => Writer::Csv(CsvWriter),
        },
        stage: Stage::Begin,
    };
    Ok(Export {
        file_name: format!("deia-{name}.{}", format.extension()),
        content_type: format.content_type(),
        left_out: gaps.count,
        body: Box::pin(try_unfold(exporter, async |mut exporter: Exporter| {
            Ok(exporter.chunk().await?.map(|chunk| (chunk, exporter)))
        })),
    })
}

/// Where the path of a conversation begins, as a page of one message.
async fn beginning(store: &dyn Storage, of: Option<&Conversation>) -> Result<Option<Cursor>, Problem> {
    let Some(id) = of.map(|c| c.id) else { return Ok(None) };
    let stored = store.conversation(id).await.map_err(|e| read_problem(&e))?;
    let Some(leaf) = stored.and_then(|c| c.leaf_message_id) else { return Ok(None) };
    let offset = store.messages_above(leaf).await.map_err(|e| read_problem(&e))?;
    Ok(Some(Cursor::Newest { offset }))
}

/// What stays out: the messages of turns that were seen open once, and whatever hangs on them.
#[derive(Debug, Default)]
struct LeftOut {
    turns: HashSet<TurnId>,
    /// Messages that others may hang on: those of such turns, and what was behind them.
    messages: HashSet<MessageId>,
}

impl LeftOut {
    /// Looks which turns are open now. Answers with their messages, each with the one before it and its conversation.
    async fn look(
        &mut self,
        store: &dyn Storage,
        bot: &BotId,
    ) -> Result<HashMap<MessageId, (Option<MessageId>, ConversationId)>, Problem> {
        let open = store.open_turns(Some(bot)).await.map_err(|e| read_problem(&e))?;
        let mut messages = HashMap::new();
        for (turn, question, reply) in open {
            self.turns.insert(turn.id);
            messages.insert(reply.id, (reply.parent_id, reply.conversation_id));
            // The question of an answer that is made anew is an old one.
            if question.turn_id == Some(turn.id) {
                messages.insert(question.id, (question.parent_id, question.conversation_id));
            }
        }
        self.messages.extend(messages.keys());
        Ok(messages)
    }

    /// Whether a message stays out; to be asked in the order of the export, in which each comes behind the one before it.
    fn takes(&mut self, message: &Message) -> bool {
        let out = message.state == MessageState::Pending
            || message.turn_id.is_some_and(|turn| self.turns.contains(&turn))
            || message.parent_id.is_some_and(|parent| self.messages.contains(&parent));
        if out {
            self.messages.insert(message.id);
        }
        out
    }
}

/// The form that is written.
enum Writer {
    Json(JsonWriter),
    Markdown(MarkdownWriter),
    Csv(CsvWriter),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Begin,
    /// With how many are written.
    Conversations(usize),
    Messages,
    Over,
}

/// The way through one conversation.
#[derive(Debug, Default)]
struct Pass {
    after: Option<Place>,
    /// Whether it has its heading.
    headed: bool,
    /// Rows met.
    rows: u64,
    /// First messages met.
    firsts: HashSet<MessageId>,
    /// Something is missing: what hung on it may have become a first message meanwhile. Those are looked at once more; with
    /// how many rows were met before.
    again: Option<u64>,
}

struct Exporter {
    store: Arc<dyn Storage>,
    bot: BotId,
    /// As they were at the begin, in the order of their ids.
    conversations: Vec<Conversation>,
    at: usize,
    pass: Pass,
    /// What comes next of the path of a fork that is exported alone, as long as that is its origin's.
    shared: Option<Cursor>,
    /// Later messages stay out: else an export of a busy bot would never end.
    by: Arrival,
    left_out: LeftOut,
    gaps: Gaps,
    writer: Writer,
    stage: Stage,
}

impl Exporter {
    async fn chunk(&mut self) -> Result<Option<Bytes>, Problem> {
        let mut out = vec![];
        while out.is_empty() {
            match self.stage {
                Stage::Begin => {
                    self.begin(&mut out);
                    self.stage = Stage::Conversations(0);
                }
                Stage::Conversations(written) => self.list(&mut out, written),
                Stage::Messages if self.at < self.conversations.len() => self.page(&mut out).await?,
                Stage::Messages => {
                    let left_out = self.gaps.count.load(Ordering::Relaxed);
                    match &mut self.writer {
                        Writer::Json(json) => json.end(&mut out, left_out),
                        Writer::Markdown(markdown) => markdown.end(&mut out, left_out),
                        Writer::Csv(_) => {}
                    }
                    self.stage = Stage::Over;
                }
                Stage::Over => return Ok(None),
            }
        }
        Ok(Some(out.into()))
    }

    fn begin(&mut self, out: &mut Vec<u8>) {
        match &mut self.writer {
            Writer::Json(json) => json.begin(out, &self.bot),
            Writer::Markdown(markdown) => markdown.begin(out, &self.bot),
            Writer::Csv(csv) => csv.begin(out),
        }
    }

    /// A piece of the list of conversations that JSON begins with.
    fn list(&mut self, out: &mut Vec<u8>, written: usize) {
        let Writer::Json(json) = &mut self.writer else {
            self.stage = Stage::Messages;
            return;
        };
        let rest = self.conversations.get(written..).unwrap_or_default();
        let piece = rest.get(..LISTED).unwrap_or(rest);
        for conversation in piece {
            json.conversation(out, conversation);
        }
        self.stage = if piece.is_empty() {
            json.messages(out);
            Stage::Messages
        } else {
            Stage::Conversations(written + piece.len())
        };
    }

    /// One page of the conversation that it is at.
    async fn page(&mut self, out: &mut Vec<u8>) -> Result<(), Problem> {
        let Some(conversation) = self.conversations.get(self.at) else { return Ok(()) };
        if let Some(cursor) = self.shared.take() {
            let home = conversation.id;
            if let (false, Writer::Markdown(markdown)) =
                (std::mem::replace(&mut self.pass.headed, true), &self.writer)
            {
                markdown.conversation(out, conversation);
            }
            return self.shared_page(out, home, cursor).await;
        }
        let (store, pass) = (&*self.store, &mut self.pass);
        let page = store.messages_after(conversation.id, pass.after, self.by, PAGE, PAGE_BYTES).await;
        let read = page.map_err(|e| read_problem(&e))?;
        let mut page = read.messages;
        let last = page.last().map(Place::of);
        if pass.again.is_some() {
            page.retain(|m| m.parent_id.is_none() && !pass.firsts.contains(&m.id));
        }
        pass.rows += self.gaps.messages(read.left_out) + u64::try_from(page.len()).unwrap_or(u64::MAX);
        pass.firsts.extend(page.iter().filter(|m| m.parent_id.is_none()).map(|m| m.id));
        // One whose messages are gone already has no heading.
        let there = pass.rows > 0 || conversation.message_count == 0;
        if there
            && !std::mem::replace(&mut pass.headed, true)
            && let Writer::Markdown(markdown) = &self.writer
        {
            markdown.conversation(out, conversation);
        }
        let over = pass.again.is_some() && page.is_empty();
        let Some(last) = last.filter(|last| !over || last.parent_id.is_none()) else {
            return self.end_of_conversation().await;
        };
        pass.after = Some(last);
        // A turn that was open when the page was read is open now, or its reply was read as pending, or all of it was
        // read ended: so its question comes with its reply or not at all.
        self.left_out.look(&*self.store, &self.bot).await?;
        let pending = page.iter().filter(|m| m.state == MessageState::Pending);
        self.left_out.turns.extend(pending.filter_map(|m| m.turn_id));
        page.retain(|m| !self.left_out.takes(m));
        let turns = self.turns(&page).await?;
        for message in &mut page {
            if let Some(parent) = message.parent_id {
                message.parent_id = self.gaps.above(&*self.store, parent).await?;
            }
            match &mut self.writer {
                Writer::Json(json) => {
                    let turn = message.turn_id.and_then(|id| turns.get(&id));
                    json.message(out, message, turn.filter(|t| t.turn.reply_id == message.id));
                }
                Writer::Markdown(markdown) => markdown.message(out, message),
                Writer::Csv(csv) => csv.message(out, message),
            }
        }
        Ok(())
    }

    /// A page of what a fork shows of its origin, in front of its own.
    async fn shared_page(
        &mut self,
        out: &mut Vec<u8>,
        home: ConversationId,
        cursor: Cursor,
    ) -> Result<(), Problem> {
        let read = self.store.page(home, cursor, PAGE).await.map_err(|e| read_problem(&e))?;
        let Some(page) = read else {
            // The path leads elsewhere now, or what it began with was deleted.
            self.gaps.deleted(1);
            return Ok(());
        };
        self.left_out.look(&*self.store, &self.bot).await?;
        for message in page.items.iter().take_while(|m| m.conversation_id != home) {
            self.shared = Some(Cursor::After(message.id));
            match &mut self.writer {
                _ if self.left_out.takes(message) => {}
                Writer::Markdown(markdown) => markdown.message(out, message),
                Writer::Csv(csv) => csv.message(out, message),
                Writer::Json(_) => {}
            }
        }
        Ok(())
    }

    async fn turns(&mut self, page: &[Message]) -> Result<HashMap<TurnId, ArchivedTurn>, Problem> {
        if !matches!(self.writer, Writer::Json(_)) {
            return Ok(HashMap::new());
        }
        let ids: HashSet<TurnId> = page.iter().filter_map(|m| m.turn_id).collect();
        let ids: Vec<TurnId> = ids.into_iter().collect();
        let turns = self.store.turns_with(&ids).await.map_err(|e| read_problem(&e))?;
        for id in ids.iter().filter(|id| !turns.iter().any(|t| t.turn.id == **id)) {
            self.gaps.turn(&*self.store, *id).await?;
        }
        Ok(turns.into_iter().filter(|t| t.turn.ended_at.is_some()).map(|t| (t.turn.id, t)).collect())
    }

    /// Goes on to the next conversation; what was deleted of this one since the export began is left out.
    async fn end_of_conversation(&mut self) -> Result<(), Problem> {
        let Some(before) = self.conversations.get(self.at) else { return Ok(()) };
        let missing = before.message_count.saturating_sub(self.pass.rows);
        // What was said since may hide in the numbers what was deleted, but not that its end is gone.
        let gone = match before.leaf_message_id {
            Some(leaf) => self.store.messages_with(&[leaf]).await.map_err(|e| read_problem(&e))?.is_empty(),
            None => false,
        };
        match self.pass.again {
            None if missing > 0 || gone => {
                (self.pass.after, self.pass.again) = (None, Some(self.pass.rows));
                return Ok(());
            }
            None => {}
            Some(rows) => {
                // What moved is out of its place in the file: so something is said to be missing, whatever else is.
                let some = gone || self.pass.rows > rows;
                self.gaps.deleted(missing.max(u64::from(some)));
            }
        }
        (self.at, self.pass) = (self.at + 1, Pass::default());
        Ok(())
    }
}
