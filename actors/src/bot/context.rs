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
    ports::{
        chat_model::{PromptMessage, Role},
        history_store::PATH_BYTES,
    },
};

pub(crate) mod window;

/// Tokens of an image, roughly (vision encoders give some hundreds to a thousand).
const PER_IMAGE: u32 = 800;
/// Reply budget where the configuration names none: a quarter of the context, at most this.
const MAX_REPLY_BUDGET: u32 = 1024;
/// Text of history that is worth keeping for a token of the context: about twice what one stands for.
const BYTES_PER_TOKEN: usize = 8;
/// The text that an image is worth there: what a prompt has room for is counted in tokens, whatever the bytes of an image.
const IMAGE_AS_TEXT: usize = PER_IMAGE as usize * BYTES_PER_TOKEN;
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
    /// Bytes of the text and of the calls of tools.
    text_bytes: usize,
}

impl ContextEntry {
    /// A user's message that is not stored yet.
    pub fn asked(content: Arc<str>, images: Vec<Arc<str>>) -> Self {
        let (size, text_bytes) = (TextSize::of(&content), content.len());
        Self {
            id: None,
            role: Role::User,
            content,
            images,
            tool_calls: None,
            answers: None,
            size,
            text_bytes,
        }
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
            text_bytes: message.text_bytes(),
        })
    }

    /// How far it uses up what is worth keeping, in bytes of text.
    fn worth(&self) -> usize {
        self.text_bytes + self.images.len() * IMAGE_AS_TEXT
    }

    /// Memory that it holds, images included.
    fn weight(&self) -> usize {
        self.text_bytes + self.images.iter().map(|image| image.len()).sum::<usize>()
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
            text_bytes: self.content.len(),
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
        let bytes: usize = self.entries.iter().map(ContextEntry::worth).sum();
        if bytes > keep_bytes * 2 {
            let mut over = bytes - keep_bytes;
            let mut cut = 0;
            while let Some(entry) = self.entries.get(cut)
                && over > 0
            {
                over = over.saturating_sub(entry.worth().max(1));
                self.rest.0 += 1;
                self.rest.1 = self.rest.1.saturating_add(entry.tokens(Estimator::default()));
                cut += 1;
            }
            self.entries.drain(..cut);
        }
    }

    /// Its images are too much memory to be kept between turns, though a prompt may have room for them: they are read again.
    pub fn is_heavy(&self) -> bool {
        self.entries.iter().map(ContextEntry::weight).sum::<usize>() > PATH_BYTES
    }
}

/// Bytes of history that are worth keeping in memory for a context of this size.
pub(crate) fn worth_keeping(num_ctx: u32) -> usize {
    usize::try_from(num_ctx).unwrap_or(usize::MAX).saturating_mul(BYTES_PER_TOKEN).min(MAX_KEPT)
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
    use crate::{domain::ids::BotId, testkit::conformance::samples};

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
    fn an_image_lets_nothing_go_that_a_prompt_has_room_for() {
        let photo: Arc<str> = "x".repeat(75_000).into();
        let (mut path, mut said) = (Path::default(), 0);
        let mut say = |path: &mut Path| {
            let asked = ContextEntry::asked("look".into(), vec![photo.clone()]);
            let answer = ContextEntry::asked("a cat".into(), vec![]);
            path.push(MessageId::new(), [asked, answer], worth_keeping(4096));
            said += 2;
            assert_eq!(path.entries.len() as u32 + path.rest.0, said);
            path.entries.iter().map(|e| e.images.len()).sum::<usize>()
        };
        for n in 1..=6 {
            assert_eq!(
                say(&mut path),
                n,
                "more than fit 4,096 tokens, and far more than their bytes of text"
            );
        }
        for _ in 0..40 {
            assert!((5..=10).contains(&say(&mut path)), "what no prompt has room for is let go");
        }
    }

    #[test]
    fn a_path_of_large_images_is_heavy_and_one_of_small_ones_is_not() {
        let image: Arc<str> = "x".repeat(PATH_BYTES / 4).into();
        let mut path = Path::default();
        for (n, image) in [&image, &image, &image, &image, &"x".into()].into_iter().enumerate() {
            let asked = ContextEntry::asked("".into(), vec![image.clone()]);
            path.push(MessageId::new(), [asked], worth_keeping(8192));
            assert_eq!((path.entries.len(), path.is_heavy()), (n + 1, n == 4));
        }
    }

    #[test]
    fn calls_of_tools_count_as_what_they_are_long() {
        let home = samples::conversation(&BotId::numbered(1));
        let calls = serde_json::json!([{"function": {"name": "f", "arguments": {"x": "y".repeat(100)}}}]);
        let mut path = Path::default();
        for _ in 0..10 {
            let call =
                Message { tool_calls: Some(calls.clone()), ..samples::message(&home, None, Sender::Bot, "") };
            path.push(call.id, ContextEntry::of(&call), 200);
        }
        assert!(path.entries.len() <= 3, "{}", path.entries.len());
        assert_eq!(path.entries.len() as u32 + path.rest.0, 10);
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
