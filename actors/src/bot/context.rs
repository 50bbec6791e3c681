//! What of a conversation is sent to the model: the system prompt, then as much of the newest history
//! as fits. Pure. Tokens are estimated from bytes; the estimate is corrected by the counts that the
//! model server reports.

use std::sync::Arc;

use serde_json::Value;

use crate::{
    domain::{
        bot::{BotConfig, DEFAULT_NUM_CTX, Options, Overflow},
        ids::MessageId,
        message::{Message, MessageState, Sender},
        problem::{Code, Problem},
        tool::Answered,
        turn::ContextUse,
    },
    ports::chat_model::{PromptMessage, Role},
};

/// Tokens that a chat template adds to a message, roughly.
const PER_MESSAGE: u32 = 4;
/// Tokens of an image, roughly (vision encoders give some hundreds to a thousand).
const PER_IMAGE: u32 = 800;
/// Reply budget where the configuration names none: a quarter of the context, at most this.
const MAX_REPLY_BUDGET: u32 = 1024;
/// Bytes per token before anything was measured; English text has about four.
const FIRST_GUESS: f64 = 4.0;

/// Estimates tokens from bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Estimator {
    bytes_per_token: f64,
}

impl Default for Estimator {
    fn default() -> Self {
        Self { bytes_per_token: FIRST_GUESS }
    }
}

impl Estimator {
    /// Tokens of a text, alone.
    pub fn tokens(self, text: &str) -> u32 {
        (text.len() as f64 / self.bytes_per_token).ceil() as u32
    }

    fn entry(self, entry: &ContextEntry) -> u32 {
        self.tokens(&entry.content) + PER_MESSAGE + PER_IMAGE * u32::try_from(entry.images.len()).unwrap_or(0)
    }

    /// Learns from a whole prompt: `bytes` of text in `messages` messages were `tokens` tokens. Moves half
    /// of the way, between one and eight bytes per token; prompts under 64 tokens say too little.
    pub fn learn(&mut self, bytes: usize, messages: usize, tokens: u32) {
        let template = PER_MESSAGE.saturating_mul(u32::try_from(messages).unwrap_or(0));
        let text_tokens = tokens.saturating_sub(template);
        if text_tokens >= 64 {
            let measured = (bytes as f64 / f64::from(text_tokens)).clamp(1.0, 8.0);
            self.bytes_per_token += 0.5 * (measured - self.bytes_per_token);
        }
    }

    /// The server says that the prompt was too long: be more careful.
    pub fn tighten(&mut self) {
        self.bytes_per_token = (self.bytes_per_token * 0.75).max(1.0);
    }
}

/// A message as far as a prompt needs it.
#[derive(Debug, Clone)]
pub(crate) struct ContextEntry {
    pub role: Role,
    pub content: Arc<str>,
    pub images: Vec<Arc<str>>,
    pub tool_calls: Option<Value>,
    /// The call that a tool's result answers.
    pub answers: Option<Answered>,
}

impl ContextEntry {
    /// Memory that it holds, images included.
    fn bytes(&self) -> usize {
        self.content.len() + self.images.iter().map(|image| image.len()).sum::<usize>()
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
        Some(Self {
            role,
            content: message.content.clone(),
            images: message.images.clone().unwrap_or_default(),
            tool_calls: message.tool_calls.clone(),
            answers: Answered::of(&message.metadata).filter(|_| message.sender == Sender::Tool),
        })
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
                self.rest.1 += Estimator::default().entry(entry);
                cut += 1;
            }
            self.entries.drain(..cut);
        }
    }
}

/// Bytes of history that are worth keeping in memory for a context of this size.
pub(crate) fn worth_keeping(num_ctx: u32) -> usize {
    usize::try_from(num_ctx).unwrap_or(usize::MAX).saturating_mul(8)
}

/// A prompt that fits.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// System prompt first, then history, then the message.
    pub messages: Vec<PromptMessage>,
    /// How full it is.
    pub usage: ContextUse,
    /// Bytes of text in it.
    pub bytes: usize,
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

fn too_long(num_ctx: u32, needed: u32) -> Problem {
    Problem::new(
        Code::PromptTooLong,
        format!(
            "The message and the system prompt need about {needed} tokens; the context has {num_ctx}, part of it kept for the reply. Shorten the message or raise num_ctx."
        ),
    )
}

/// Tokens that a message needs together with the system prompt.
///
/// # Errors
/// `prompt_too_long` where they alone do not fit.
pub(crate) fn check_fits(
    config: &BotConfig,
    options: &Options,
    message: &ContextEntry,
    estimator: Estimator,
) -> Result<u32, Problem> {
    let (num_ctx, reply) = budget(options);
    let fixed = fixed_tokens(config, message, estimator);
    if fixed > num_ctx.saturating_sub(reply) { Err(too_long(num_ctx, fixed)) } else { Ok(fixed) }
}

fn fixed_tokens(config: &BotConfig, message: &ContextEntry, estimator: Estimator) -> u32 {
    let system = if config.system_prompt.is_empty() {
        0
    } else {
        estimator.tokens(&config.system_prompt) + PER_MESSAGE
    };
    let tools: u32 = config.tools.iter().map(|t| estimator.tokens(&t.to_string())).sum();
    system + tools + estimator.entry(message)
}

/// Fills the context: the system prompt and the message always, then the newest history that fits.
///
/// # Errors
/// `prompt_too_long` where message and system prompt alone do not fit, or where something would be
/// left out and the configuration says `refuse`.
pub(crate) fn plan(
    config: &BotConfig,
    options: &Options,
    path: &Path,
    message: &ContextEntry,
    estimator: Estimator,
) -> Result<Plan, Problem> {
    let (num_ctx, reply) = budget(options);
    let room = num_ctx.saturating_sub(reply);
    let mut used = fixed_tokens(config, message, estimator);
    if used > room {
        return Err(too_long(num_ctx, used));
    }
    let mut first = path.entries.len();
    for (i, entry) in path.entries.iter().enumerate().rev() {
        let tokens = estimator.entry(entry);
        if used + tokens > room {
            break;
        }
        used += tokens;
        first = i;
    }
    let cut = path.entries.get(..first).unwrap_or_default();
    let trimmed_messages = path.rest.0 + u32::try_from(cut.len()).unwrap_or(u32::MAX);
    let trimmed_tokens = path.rest.1 + cut.iter().map(|e| estimator.entry(e)).sum::<u32>();
    if trimmed_messages > 0 && config.context.overflow == Overflow::Refuse {
        return Err(Problem::new(
            Code::PromptTooLong,
            format!(
                "{trimmed_messages} earlier messages do not fit the context of {num_ctx} tokens, and this bot refuses to leave any out. Start a new conversation or raise num_ctx."
            ),
        ));
    }
    let shown = path.entries.get(first..).unwrap_or_default().iter().chain([message]);
    let mut messages = Vec::with_capacity(path.entries.len() - first + 2);
    if !config.system_prompt.is_empty() {
        messages.push(PromptMessage {
            role: Role::System,
            content: config.system_prompt.as_str().into(),
            images: vec![],
            tool_calls: None,
            answers: None,
        });
    }
    messages.extend(shown.map(|e| PromptMessage {
        role: e.role,
        content: e.content.clone(),
        images: e.images.clone(),
        tool_calls: e.tool_calls.clone(),
        answers: e.answers.clone(),
    }));
    let bytes = messages.iter().map(|m| m.content.len()).sum();
    let usage = ContextUse { num_ctx, used, trimmed_messages, trimmed_tokens };
    Ok(Plan { messages, usage, bytes })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn entry(role: Role, text: &str) -> ContextEntry {
        ContextEntry { role, content: text.into(), images: vec![], tool_calls: None, answers: None }
    }

    fn path(texts: &[String]) -> Path {
        let entries: Vec<_> = texts.iter().map(|t| entry(Role::User, t)).collect();
        Path { leaf: Some(MessageId::new()), entries, rest: (0, 0) }
    }

    proptest! {
        #[test]
        fn a_plan_never_exceeds_its_room_and_keeps_the_newest(
            lengths in prop::collection::vec(0usize..4000, 0..30),
            num_ctx in 256u32..8192,
        ) {
            let texts: Vec<String> = lengths.iter().map(|n| "x".repeat(*n)).collect();
            let path = path(&texts);
            let options = Options { num_ctx: Some(num_ctx), ..Options::default() };
            let config = BotConfig { system_prompt: "be brief".into(), ..BotConfig::default() };
            let message = entry(Role::User, "hello");
            let made = plan(&config, &options, &path, &message, Estimator::default()).unwrap();
            let (_, reply) = budget(&options);
            prop_assert!(made.usage.used <= num_ctx - reply);
            let shown = made.messages.len() - 2;
            prop_assert_eq!(shown + made.usage.trimmed_messages as usize, texts.len());
            for (sent, kept) in made.messages[1..].iter().zip(&texts[texts.len() - shown..]) {
                prop_assert_eq!(&*sent.content, kept.as_str());
            }
            prop_assert_eq!(&*made.messages.last().unwrap().content, "hello");
        }
    }

    #[test]
    fn a_message_that_does_not_fit_alone_is_refused() {
        let options = Options { num_ctx: Some(256), ..Options::default() };
        let message = entry(Role::User, &"x".repeat(2000));
        let error = plan(&BotConfig::default(), &options, &Path::default(), &message, Estimator::default());
        assert_eq!(error.unwrap_err().code, Code::PromptTooLong);
    }

    #[test]
    fn the_estimate_moves_towards_what_the_server_counted() {
        let mut estimator = Estimator::default();
        for _ in 0..20 {
            estimator.learn(2000, 0, 1000);
        }
        assert_eq!(estimator.tokens(&"x".repeat(200)), 100);
        estimator.learn(10, 1, 5);
        assert_eq!(estimator.tokens(&"x".repeat(200)), 100);
    }

    #[test]
    fn a_path_lets_go_of_its_oldest_entries_and_counts_them() {
        let mut path = Path::default();
        for _ in 0..10 {
            let e = entry(Role::User, &"x".repeat(100));
            path.push(MessageId::new(), [e], 200);
        }
        assert!(path.entries.len() < 10);
        assert_eq!(path.entries.len() as u32 + path.rest.0, 10);
    }
}
