//! What of a conversation is in memory, and the budget of a prompt. Pure. What is sent follows in [`window`].

use std::sync::Arc;

use serde_json::Value;

use crate::{
    domain::{
        bot::{DEFAULT_NUM_CTX, Options},
        ids::MessageId,
        message::{Message, MessageState, Sender},
        tool::Answered,
    },
    inference::tokens::{Estimator, PER_MESSAGE, TextSize},
    ports::chat_model::{PromptMessage, Role},
};

pub(crate) mod window;

/// Tokens of an image, roughly (vision encoders give some hundreds to a thousand).
const PER_IMAGE: u32 = 800;
/// Reply budget where the configuration names none: a quarter of the context, at most this.
const MAX_REPLY_BUDGET: u32 = 1024;
/// History that is kept in memory, however large the context: more than fits two million tokens.
const MAX_KEPT: usize = 8 << 20;

/// A message as far as a prompt needs it.
#[derive(Debug, Clone)]
pub(crate) struct ContextEntry {
    /// Its id; none for one that is not stored yet.
    pub id: Option<MessageId>,
    pub role: Role,
    pub content: Arc<str>,
    pub images: Vec<Arc<str>>,
    pub tool_calls: Option<Value>,
    /// The call that a tool's result answers.
    pub answers: Option<Answered>,
    size: TextSize,
}

impl ContextEntry {
    /// A user's message that is not stored yet.
    pub fn asked(content: Arc<str>, images: Vec<Arc<str>>) -> Self {
        let size = TextSize::of(&content);
        Self { id: None, role: Role::User, content, images, tool_calls: None, answers: None, size }
    }

    /// `None` for what a model is not shown: slash commands and their answers, empty replies.
    pub fn of(message: &Message) -> Option<Self> {
        let role = match message.sender {
            Sender::User if message.turn_id.is_none() => return None,
            Sender::User => Role::User,
            Sender::Bot => Role::Assistant,
            Sender::Tool => Role::Tool,
            Sender::System => return None,
        };
        let empty = message.content.is_empty() && message.tool_calls.is_none();
        if role == Role::Assistant && (empty || message.state == MessageState::Pending) {
            return None;
        }
        let calls = message.tool_calls.as_ref().map(|calls| TextSize::of(&calls.to_string()));
        Some(Self {
            id: Some(message.id),
            role,
            content: message.content.clone(),
            images: message.images.clone().unwrap_or_default(),
            tool_calls: message.tool_calls.clone(),
            answers: Answered::of(&message.metadata).filter(|_| message.sender == Sender::Tool),
            size: TextSize::of(&message.content).plus(calls.unwrap_or_default()),
        })
    }

    /// Memory that it holds, images included.
    fn bytes(&self) -> usize {
        self.content.len() + self.images.iter().map(|image| image.len()).sum::<usize>()
    }

    /// Calls of tools that it makes.
    fn calls(&self) -> usize {
        self.tool_calls.as_ref().and_then(Value::as_array).map_or(0, Vec::len)
    }

    /// What stays of a call of tools without its results: the text, if there is any.
    fn without_calls(&self) -> Option<Self> {
        (!self.content.is_empty()).then(|| Self {
            tool_calls: None,
            size: TextSize::of(&self.content),
            ..self.clone()
        })
    }

    fn tokens(&self, estimator: Estimator) -> u32 {
        let images = PER_IMAGE.saturating_mul(u32::try_from(self.images.len()).unwrap_or(u32::MAX));
        estimator.tokens(self.size).saturating_add(PER_MESSAGE).saturating_add(images)
    }

    fn prompt(&self) -> PromptMessage {
        PromptMessage {
            role: self.role,
            content: self.content.clone(),
            images: self.images.clone(),
            tool_calls: self.tool_calls.clone(),
            answers: self.answers.clone(),
        }
    }
}

/// A conversation's path as far as it is in memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Path {
    /// Entries, oldest first.
    pub entries: Vec<ContextEntry>,
    /// Messages before them that are not in memory, and their estimated tokens.
    pub rest: (u32, u32),
    /// The message that it ends with, shown or not; none for an empty conversation.
    pub leaf: Option<MessageId>,
}

impl Path {
    /// Appends, and lets go of what is far more than any prompt needs.
    pub fn push(
        &mut self,
        leaf: MessageId,
        entries: impl IntoIterator<Item = ContextEntry>,
        keep_bytes: usize,
    ) {
        self.entries.extend(entries);
        self.leaf = Some(leaf);
        let bytes: usize = self.entries.iter().map(ContextEntry::bytes).sum();
        if bytes > keep_bytes * 2 {
            let mut over = bytes - keep_bytes;
            let mut cut = 0;
            while let Some(entry) = self.entries.get(cut)
                && over > 0
            {
                over = over.saturating_sub(entry.bytes().max(1));
                self.rest.0 += 1;
                self.rest.1 = self.rest.1.saturating_add(entry.tokens(Estimator::default()));
                cut += 1;
            }
            self.entries.drain(..cut);
        }
    }
}

/// Bytes of history that are worth keeping in memory for a context of this size.
pub(crate) fn worth_keeping(num_ctx: u32) -> usize {
    usize::try_from(num_ctx).unwrap_or(usize::MAX).saturating_mul(8).min(MAX_KEPT)
}

/// The size of the context and what of it is kept for the reply.
pub(crate) fn budget(options: &Options) -> (u32, u32) {
    let num_ctx = options.num_ctx.unwrap_or(DEFAULT_NUM_CTX);
    let reply = match options.num_predict {
        Some(n) if n > 0 => u32::try_from(n).unwrap_or(MAX_REPLY_BUDGET).min(num_ctx / 2),
        _ => (num_ctx / 4).min(MAX_REPLY_BUDGET),
    };
    (num_ctx, reply)
}

/// Tokens that a turn with such a prompt is expected to cost its server, the answer included.
pub(crate) fn cost(prompt: u32, options: &Options) -> u32 {
    prompt.saturating_add(budget(options).1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_lets_go_of_its_oldest_entries_and_counts_them() {
        let mut path = Path::default();
        for _ in 0..10 {
            path.push(MessageId::new(), [ContextEntry::asked("x".repeat(100).into(), vec![])], 200);
        }
        assert!(path.entries.len() < 10);
        assert_eq!(path.entries.len() as u32 + path.rest.0, 10);
        assert_eq!(path.rest.1, path.rest.0 * 29);
    }

    #[test]
    fn no_context_is_so_large_that_its_history_fills_the_memory() {
        assert_eq!(worth_keeping(4096), 32_768);
        assert_eq!(worth_keeping(1_000_000_000), MAX_KEPT);
        let options = |num_predict| Options { num_ctx: Some(u32::MAX), num_predict, ..Options::default() };
        assert_eq!(budget(&options(None)), (u32::MAX, MAX_REPLY_BUDGET));
        assert_eq!(cost(u32::MAX, &options(Some(i32::MAX))), u32::MAX);
    }
}
