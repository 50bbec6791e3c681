//! Port: the tools that the service runs itself when a model calls them.

use std::fmt;

use async_trait::async_trait;
use serde_json::Value;

use crate::domain::ids::{BotId, ConversationId, TurnId};

/// A call that is to be carried out.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolCall {
    /// The bot whose model calls.
    pub bot_id: BotId,
    /// Its conversation.
    pub conversation_id: ConversationId,
    /// Its turn.
    pub turn_id: TurnId,
    /// Which call of the turn.
    pub id: String,
    /// The tool.
    pub name: String,
    /// As the model wrote them: an object, unless the model is wrong.
    pub arguments: Value,
}

/// Why a tool has no result. The words go to the model, so that it can do better, and to whoever reads the conversation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ToolError {
    /// No such tool here.
    #[error("there is no tool of this name")]
    Unknown,
    /// The model gave it something wrong.
    #[error("wrong arguments: {0}")]
    Arguments(String),
    /// It tried.
    #[error("it failed: {0}")]
    Failed(String),
}

/// Runs tools.
///
/// * `knows` MUST answer at once and always the same. A declared tool that it does not know is the caller's: its calls
///   are passed through.
/// * `run` MUST answer `Unknown` for a tool that it does not know, and `Arguments` for what the tool can't take, before it did
///   anything. Arguments come from a model: they MUST be taken for anything.
/// * Calls of one round run at the same time and MUST NOT wait for each other.
/// * A call whose future is dropped (the turn was stopped, or its time is over) MUST come to its end by itself; it MUST be
///   safe to drop at any point.
/// * A call is run once. What became of one that was dropped, or whose process died, is not asked for again.
#[async_trait]
pub trait ToolRunner: fmt::Debug + Send + Sync + 'static {
    /// Whether it runs a tool of this name.
    fn knows(&self, name: &str) -> bool;

    /// Runs a tool; the result is what the model is told.
    ///
    /// # Errors
    /// See [`ToolError`].
    async fn run(&self, call: &ToolCall) -> Result<String, ToolError>;
}

/// No tools: all calls are passed through.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoTools;

#[async_trait]
impl ToolRunner for NoTools {
    fn knows(&self, _: &str) -> bool {
        false
    }
    async fn run(&self, _: &ToolCall) -> Result<String, ToolError> {
        Err(ToolError::Unknown)
    }
}
