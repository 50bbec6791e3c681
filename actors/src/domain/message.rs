//! Messages and conversations.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    ids::{BotId, ConversationId, MessageId, TurnId},
    time::Timestamp,
};

/// Who wrote a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sender {
    /// A person or client.
    User,
    /// The model.
    Bot,
    /// deia itself: the answer to a slash command.
    System,
    /// The result of a tool call.
    Tool,
}

impl Sender {
    /// The wire name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Bot => "bot",
            Self::System => "system",
            Self::Tool => "tool",
        }
    }
}

/// How much of a message is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageState {
    /// A reply that has not ended.
    Pending,
    /// Whole.
    Complete,
    /// Stopped, failed or interrupted; perhaps empty.
    Partial,
}

impl MessageState {
    /// The wire name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Complete => "complete",
            Self::Partial => "partial",
        }
    }
}

/// The place of a message among the children of its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Siblings {
    /// From 1, in order of creation.
    pub index: u32,
    /// Number of siblings, this one included.
    pub count: u32,
}

/// One message. `content` is always the exact text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Id; the order of ids is the order of creation.
    pub id: MessageId,
    /// The bot that it was said to or by.
    pub bot_id: BotId,
    /// The conversation it was created in.
    pub conversation_id: ConversationId,
    /// The message before it; none for a first message.
    pub parent_id: Option<MessageId>,
    /// The turn that it belongs to.
    pub turn_id: Option<TurnId>,
    /// Who wrote it.
    pub sender: Sender,
    /// The exact text.
    pub content: Arc<str>,
    /// What the model thought aloud.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub thinking: Option<Arc<str>>,
    /// Tool calls that the model asked for, as it wrote them.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tool_calls: Option<Value>,
    /// Images, base64.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub images: Option<Vec<Arc<str>>>,
    /// Tokens: estimated, replaced by the model server's count once it reported one.
    pub tokens: u32,
    /// How much of it is there.
    pub state: MessageState,
    /// Its place among its siblings.
    pub siblings: Siblings,
    /// When it was created.
    pub created_at: Timestamp,
    /// Free data of the caller.
    pub metadata: Map<String, Value>,
}

/// Key of a reply's metadata that says why the answer ended; there only where it was cut off.
const DONE_REASON: &str = "done_reason";
/// Its value: the answer reached its longest length, by `num_predict` or by the end of the context.
const LENGTH: &str = "length";

impl Message {
    /// Says in the metadata that the answer was cut off at its longest length.
    pub(crate) fn mark_cut(&mut self) {
        self.metadata.insert(DONE_REASON.into(), LENGTH.into());
    }

    /// Why the answer was cut off; none where it was not.
    #[must_use]
    pub fn cut_by(&self) -> Option<&str> {
        self.metadata
            .get(DONE_REASON)?
            .as_str()
            .filter(|reason| self.sender == Sender::Bot && *reason == LENGTH)
    }

    /// Bytes of its text and of its calls of tools: what a prompt has of it beside images.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        self.content.len() + self.tool_calls.as_ref().map_or(0, |calls| calls.to_string().len())
    }

    /// Bytes of all that makes it large: text, calls of tools, thinking, images.
    #[must_use]
    pub fn weight(&self) -> usize {
        let images = self.images.iter().flatten().map(|image| image.len()).sum::<usize>();
        self.text_bytes() + self.thinking.as_ref().map_or(0, |t| t.len()) + images
    }
}

/// A conversation of one bot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Conversation {
    /// Id.
    pub id: ConversationId,
    /// Its bot.
    pub bot_id: BotId,
    /// Shown name; null until somebody gives one.
    pub title: Option<String>,
    /// True for the one that a send without `conversation_id` goes to.
    pub main: bool,
    /// End of the active path.
    pub leaf_message_id: Option<MessageId>,
    /// Messages created in it, all branches.
    pub message_count: u64,
    /// Hidden from the usual list.
    pub archived: bool,
    /// Nothing of it may be deleted, by nobody and not by age.
    #[serde(default)]
    pub legal_hold: bool,
    /// When it was created.
    pub created_at: Timestamp,
    /// When the last message was created.
    pub last_at: Option<Timestamp>,
}
