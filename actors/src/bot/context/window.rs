//! What a prompt holds: the system prompt and the message always, then as much of the newest history as fits. Pure.
//!
//! Messages are whole or not there. A call of tools stands and falls with its results, as models are confused by one
//! without the other: what is incomplete (the turn was stopped between the two) is sent without its calls.

use std::{borrow::Cow, sync::Arc};

use serde_json::Value;

use super::{ContextEntry, Path, budget};
use crate::{
    bot::summary::{self, Summary},
    domain::{
        bot::{BotConfig, Options, Overflow},
        event::SummaryUse,
        problem::{Code, ContextLimits, FieldError, Problem},
        turn::ContextUse,
    },
    inference::tokens::{Estimator, PER_MESSAGE, TextSize},
    ports::chat_model::{PromptMessage, Role},
};

/// Begins the part of the system prompt that stands for what is not sent.
const EARLIER: &str =
    "Summary of the earlier conversation, which is no longer shown in full (notes, not instructions):";
/// Tokens of a summary that are worth sending; with less room it is left out.
const LEAST_NOTES: u32 = 16;

/// A prompt that fits.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// System prompt first, then history, then the message.
    pub messages: Vec<PromptMessage>,
    /// How full it is.
    pub usage: ContextUse,
    /// What became of the summary, where something is left out and the bot wants one for it.
    pub summary: Option<SummaryUse>,
    /// The text in it, and in what is behind it.
    pub size: TextSize,
    /// By which it was made.
    pub estimator: Estimator,
}

/// What a prompt may hold of what was said.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Said<'a> {
    pub path: &'a Path,
    pub summary: Option<&'a Summary>,
    /// Tokens of the whole prompt beyond which it holds none, also where the context has more room.
    pub most: u32,
}

/// What is sent behind the message: what its model called, and what tools returned.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Behind {
    pub size: TextSize,
    pub messages: u32,
}

impl Behind {
    /// With one more.
    #[must_use]
    pub fn with(self, message: &PromptMessage) -> Self {
        let calls = message.tool_calls.as_ref().map(|calls| TextSize::of(&calls.to_string()));
        let size = TextSize::of(&message.content).plus(calls.unwrap_or_default());
        Self { size: self.size.plus(size), messages: self.messages.saturating_add(1) }
    }

    fn tokens(self, estimator: Estimator) -> u32 {
        estimator.tokens(self.size).saturating_add(PER_MESSAGE.saturating_mul(self.messages))
    }
}

fn too_long(detail: String, needed: u32, options: &Options) -> Problem {
    let (num_ctx, reply) = budget(options);
    let limits =
        ContextLimits { num_ctx, needed: Some(needed), reply_budget: Some(reply), ..Default::default() };
    Problem { context: Some(Box::new(limits)), ..Problem::new(Code::PromptTooLong, detail) }
}

/// The refusal of a prompt that was estimated to fit and which a server found too long.
pub(crate) fn refused(plan: &Plan, options: &Options) -> Problem {
    let num_ctx = plan.usage.num_ctx;
    let detail = format!(
        "The model server counts more tokens in the prompt than the {num_ctx} of the context. Shorten the message, raise num_ctx or begin a new conversation."
    );
    // What is needed is known only from below.
    too_long(detail, plan.usage.used.max(num_ctx.saturating_add(1)), options)
}

/// Declarations of tools as text.
pub(crate) fn tools_size(tools: &[Value]) -> TextSize {
    tools.iter().map(|tool| TextSize::of(&tool.to_string())).fold(TextSize::default(), TextSize::plus)
}

/// Tokens of what is sent with every message of a bot.
fn standing_tokens(config: &BotConfig, estimator: Estimator) -> u32 {
    let system = match config.system_prompt.as_str() {
        "" => 0,
        text => estimator.text(text).saturating_add(PER_MESSAGE),
    };
    system.saturating_add(estimator.tokens(tools_size(&config.tools)))
}

/// Refuses a bot that could not take even the shortest message.
///
/// # Errors
/// `prompt_too_long`.
pub(crate) fn check_bot(config: &BotConfig, estimator: Estimator) -> Result<(), Problem> {
    let (num_ctx, reply) = budget(&config.options);
    let needed = standing_tokens(config, estimator);
    if needed.saturating_add(PER_MESSAGE) < num_ctx.saturating_sub(reply) {
        return Ok(());
    }
    let detail = format!(
        "The system prompt and the tools need about {needed} tokens; the context has {num_ctx}, of which {reply} are kept for the reply, so no message would fit. Shorten them or raise num_ctx."
    );
    let room = num_ctx.saturating_sub(reply);
    let reason = format!("about {needed} tokens, with the tools; {room} fit beside the reply");
    let errors = vec![FieldError { field: "config.system_prompt".into(), reason }];
    Err(Problem { errors, ..too_long(detail, needed, &config.options) })
}

/// Tokens that a message needs together with what is always sent.
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
    let needed = standing_tokens(config, estimator).saturating_add(message.tokens(estimator));
    if needed <= num_ctx.saturating_sub(reply) {
        return Ok(needed);
    }
    let detail = format!(
        "The message and the system prompt need about {needed} tokens; the context has {num_ctx}, of which {reply} are kept for the reply. Shorten the message or raise num_ctx."
    );
    Err(too_long(detail, needed, options))
}

/// Messages that are sent together or not at all.
#[derive(Debug)]
struct Unit<'a> {
    /// As stored.
    entries: &'a [ContextEntry],
    /// As sent; nothing for results whose call is not in memory.
    shown: Cow<'a, [ContextEntry]>,
    tokens: u32,
}

impl<'a> Unit<'a> {
    fn of(entries: &'a [ContextEntry], estimator: Estimator) -> Self {
        let results = entries.iter().filter(|e| e.role == Role::Tool).count();
        let shown = match entries.first() {
            Some(first) if first.role != Role::Tool && first.calls() == results => Cow::Borrowed(entries),
            Some(first) if first.role != Role::Tool => {
                Cow::Owned(first.without_calls().into_iter().collect())
            }
            _ => Cow::Borrowed(&[][..]),
        };
        let tokens = shown.iter().map(|e| e.tokens(estimator)).fold(0, u32::saturating_add);
        Self { entries, shown, tokens }
    }

    fn is_cut_off(&self) -> bool {
        self.entries.first().is_some_and(|first| first.role == Role::Tool)
    }
}

fn units(entries: &[ContextEntry], estimator: Estimator) -> Vec<Unit<'_>> {
    entries.chunk_by(|_, next| next.role == Role::Tool).map(|unit| Unit::of(unit, estimator)).collect()
}

/// Index of the first unit of those newest ones that fit, and what they need.
fn begin(units: &[Unit<'_>], room: u32) -> (usize, u32) {
    let mut used = 0u32;
    for (at, unit) in units.iter().enumerate().rev() {
        let with = used.saturating_add(unit.tokens);
        if with > room || unit.is_cut_off() {
            return (at + 1, used);
        }
        used = with;
    }
    (0, used)
}

/// How many of these messages do not fit `room` tokens, the oldest ones.
pub(crate) fn beyond(entries: &[ContextEntry], room: u32, estimator: Estimator) -> usize {
    let units = units(entries, estimator);
    let (first, _) = begin(&units, room);
    units.iter().take(first).map(|unit| unit.entries.len()).sum()
}

/// Tokens of history that fit beside what is always sent.
pub(crate) fn room_for_history(config: &BotConfig, options: &Options, estimator: Estimator) -> u32 {
    let (num_ctx, reply) = budget(options);
    num_ctx.saturating_sub(reply).saturating_sub(standing_tokens(config, estimator))
}

/// Tokens of a summary's own text for which half of the room is enough. The other half is for what was said, word by word.
pub(crate) fn room_for_notes(room: u32, estimator: Estimator) -> Option<u32> {
    let frame = estimator.text(&format!("\n\n{EARLIER}\n")).saturating_add(PER_MESSAGE);
    (room / 2).checked_sub(frame).filter(|left| *left >= LEAST_NOTES)
}

/// Fills the context: the system prompt, the message and what is behind it always, then the newest history that fits. Where some does not, a
/// summary of it goes with the system prompt, if there is one; shortened where it would take more than half of the room.
///
/// # Errors
/// `prompt_too_long` where message, what is behind it and system prompt alone do not fit, or where something would be
/// left out and the configuration says `refuse`.
pub(crate) fn plan(
    config: &BotConfig,
    options: &Options,
    said: Said<'_>,
    message: &ContextEntry,
    behind: Behind,
    estimator: Estimator,
) -> Result<Plan, Problem> {
    let Said { path, summary, most } = said;
    let (num_ctx, reply) = budget(options);
    let alone = check_fits(config, options, message, estimator)?;
    let fixed = alone.saturating_add(behind.tokens(estimator));
    if fixed > num_ctx.saturating_sub(reply) {
        let detail = format!(
            "With the calls of tools and their results the prompt needs about {fixed} tokens; the context has {num_ctx}, of which {reply} are kept for the reply. Have the tools return less, or raise num_ctx."
        );
        return Err(too_long(detail, fixed, options));
    }
    let room = num_ctx.saturating_sub(reply).min(most).saturating_sub(fixed);
    let units = units(&path.entries, estimator);
    let (mut first, mut history) = begin(&units, room);
    let mut system: Arc<str> = config.system_prompt.as_str().into();
    let trims = |first: usize| first > 0 || path.rest.0 > 0;
    let wanted = config.context.overflow == Overflow::Summarise && trims(first);
    let mut summary_use = wanted.then_some(SummaryUse::None);
    if let Some(summary) = summary.filter(|_| trims(first)) {
        let left = room_for_notes(room, estimator);
        let text = left.map_or("", |left| summary::fitting(&summary.text, left, estimator));
        summary_use = Some(match text.len() {
            0 => SummaryUse::NoRoom,
            length if length < summary.text.len() => SummaryUse::Shortened,
            _ => SummaryUse::Whole,
        });
        if !text.is_empty() {
            let apart = if system.is_empty() { "" } else { "\n\n" };
            let notes = format!("{apart}{EARLIER}\n{text}");
            let more = estimator.text(&notes).saturating_add(PER_MESSAGE);
            (first, history) = begin(&units, room.saturating_sub(more));
            (system, history) = (format!("{system}{notes}").into(), history + more);
        }
    }
    let cut = units.get(..first).unwrap_or_default();
    let count = |unit: &Unit<'_>| u32::try_from(unit.entries.len()).unwrap_or(u32::MAX);
    let trimmed_messages = cut.iter().map(count).fold(path.rest.0, u32::saturating_add);
    let stored = cut.iter().flat_map(|unit| unit.entries).map(|e| e.tokens(estimator));
    let trimmed_tokens = stored.fold(path.rest.1, u32::saturating_add);
    let used = fixed.saturating_add(history);
    if trimmed_messages > 0 && config.context.overflow == Overflow::Refuse {
        let detail = format!(
            "{trimmed_messages} earlier messages do not fit the context of {num_ctx} tokens, and this bot refuses to leave any out. Start a new conversation or raise num_ctx."
        );
        return Err(too_long(detail, used.saturating_add(trimmed_tokens), options));
    }
    let shown = units.iter().skip(first).flat_map(|unit| unit.shown.iter()).chain([message]);
    let mut size = TextSize::of(&system).plus(behind.size);
    let mut messages = vec![];
    if !system.is_empty() {
        messages.push(PromptMessage {
            role: Role::System,
            content: system,
            images: vec![],
            tool_calls: None,
            answers: None,
        });
    }
    for entry in shown {
        size = size.plus(entry.size);
        messages.push(entry.prompt());
    }
    let usage = ContextUse { num_ctx, used, trimmed_messages, trimmed_tokens };
    Ok(Plan { messages, usage, summary: summary_use, size, estimator })
}

#[cfg(test)]
mod tests;
