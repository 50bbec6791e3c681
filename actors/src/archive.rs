//! Taking history out and back in: export as JSON, Markdown or CSV in constant memory, and import of the JSON form.
//! Works on the ports alone, so that the façade and the command line share it.
//!
//! The JSON form is one document with one element per line, in an order that only depends on what is stored: exporting
//! what was imported gives the same bytes.
//!
//! ```text
//! {"format":"deia.chat","version":1,"bot_id":"ada","conversations":[
//! {"id":…,"title":…,"main":true,"leaf_message_id":…,"archived":false,"created_at":…}
//! ],"messages":[
//! {"id":…,"conversation_id":…,"parent_id":…,"turn_id":…,"sender":"user",…,"content":…,"metadata":{}},
//! {"id":…,…,"sender":"bot",…,"turn":{"state":"completed","model":…,…}}
//! ],"counts":{"conversations":1,"messages":2,"turns":1},
//! "sha256":"…"}
//! ```
//!
//! Conversations stand in the order of their ids, messages by conversation and [`Place`](crate::ports::archive::Place),
//! a turn with its reply. The checksum is of every byte before its own line. What a running or waiting turn is about
//! (its question and its reply) is left out: the export ends before it.
//!
//! Rows that can't be read are left out too, and what is deleted before the export comes to it. Then the file says so:
//! `"left_out":n` stands behind the counts, what hung on an unreadable message hangs on the one before it, and what can't be
//! placed is a begin once it is imported. A conversation that was deleted meanwhile may stand in the list without messages.

mod check;
mod csv;
mod export;
mod format;
mod gaps;
mod import;
mod markdown;
mod sorted;
#[cfg(test)]
mod tests;

use std::{
    pin::Pin,
    str::FromStr,
    sync::{Arc, atomic::AtomicU64},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use serde::{Deserialize, Serialize};

pub(crate) use self::import::take_in;
#[cfg(any(test, feature = "test-support"))]
pub(crate) use self::import::{same_conversation, same_message};
pub use self::{
    export::export,
    import::{Source, import},
};
use crate::{
    domain::{
        ids::BotId,
        problem::{Code, Problem},
    },
    history::storage_problem,
    ports::{
        history_store::{Committed, Fact},
        storage::Storage,
    },
};

/// In which form history is taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExportFormat {
    /// Everything, to be imported again.
    Json,
    /// To be read.
    Markdown,
    /// One row per message, for spreadsheets.
    Csv,
}

impl FromStr for ExportFormat {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "json" => Ok(Self::Json),
            "markdown" => Ok(Self::Markdown),
            "csv" => Ok(Self::Csv),
            _ => Err("json, markdown or csv".into()),
        }
    }
}

impl ExportFormat {
    fn extension(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Markdown => "md",
            Self::Csv => "csv",
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Markdown => "text/markdown; charset=utf-8",
            Self::Csv => "text/csv; charset=utf-8; header=present",
        }
    }
}

/// The bytes of an export as they are made. An error ends it, and what came before is not whole.
pub type ExportBody = Pin<Box<dyn Stream<Item = Result<Bytes, Problem>> + Send>>;

/// An export that has begun.
pub struct Export {
    /// A name for its file: letters, digits, `_`, `-` and one dot.
    pub file_name: String,
    /// Its media type.
    pub content_type: &'static str,
    /// Its bytes.
    pub body: ExportBody,
    /// Rows that are left out so far: they can't be read, or were deleted meanwhile.
    pub left_out: Arc<AtomicU64>,
}

impl std::fmt::Debug for Export {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Export").field("file_name", &self.file_name).finish_non_exhaustive()
    }
}

/// How much of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Conversations.
    pub conversations: u64,
    /// Messages.
    pub messages: u64,
    /// Turns.
    pub turns: u64,
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { conversations, messages, turns } = self;
        write!(f, "{conversations} conversations, {messages} messages and {turns} turns")
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
fn is_none(rows: &u64) -> bool {
    *rows == 0
}

/// What an import did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImportReport {
    /// Whose history.
    pub bot_id: BotId,
    /// What was stored.
    pub imported: Counts,
    /// What was there already.
    pub unchanged: Counts,
    /// Rows that the export had to leave out.
    #[serde(skip_serializing_if = "is_none")]
    pub left_out: u64,
}

/// The way to the record for an import: through HistoryActor, or straight to a store that nobody else uses.
#[async_trait]
pub trait Commit: Send + Sync {
    /// Makes a fact durable.
    ///
    /// # Errors
    /// `storage_unavailable`.
    async fn commit(&self, fact: Fact) -> Result<Committed, Problem>;

    /// Asked before each part.
    ///
    /// # Errors
    /// `shutting_down`.
    fn go_on(&self) -> Result<(), Problem> {
        Ok(())
    }
}

/// Straight to a store: for a program that runs no tree on it.
pub struct Straight<'s>(pub &'s dyn Storage);

#[async_trait]
impl Commit for Straight<'_> {
    async fn commit(&self, fact: Fact) -> Result<Committed, Problem> {
        let committed = self.0.commit(vec![fact]).await.map_err(|e| storage_problem(&e))?;
        committed.into_iter().next().ok_or_else(|| {
            Problem::new(Code::Internal, "The database did not say what became of a part of the file.")
        })
    }
}

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(Code::ImportInvalid, format!("{}. Nothing was stored.", detail.into()))
}
