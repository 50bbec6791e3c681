//! A bot's configuration: what may be set, and in which range.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::keep_alive::{self, is_keep_alive};
use crate::domain::{
    model_name::MODEL_NAME_MAX,
    output_format::check_format,
    problem::{Code, FieldError, Problem},
    tool::check_tools,
};

/// Context in tokens where the bot's configuration names none.
pub const DEFAULT_NUM_CTX: u32 = 4096;
/// Smallest context that may be asked for.
pub const MIN_NUM_CTX: u32 = 256;
/// Largest system prompt, in bytes.
pub const SYSTEM_PROMPT_MAX: usize = 64 * 1024;

/// Ollama's model options. A missing one is the model's own default, except `num_ctx`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Randomness, 0 to 2.
    pub temperature: Option<f64>,
    /// Context in tokens.
    pub num_ctx: Option<u32>,
    /// Longest answer in tokens; -1 = until the context is full.
    pub num_predict: Option<i32>,
    /// Nucleus sampling, 0 to 1.
    pub top_p: Option<f64>,
    /// Candidates considered, 0 to 1,000,000; 0 = all.
    pub top_k: Option<u32>,
    /// Least probability relative to the best, 0 to 1.
    pub min_p: Option<f64>,
    /// Seed.
    pub seed: Option<i64>,
    /// Texts that end the answer.
    pub stop: Option<Vec<String>>,
    /// Penalty for repetition.
    pub repeat_penalty: Option<f64>,
    /// How far back repetition is looked for, to 1,000,000 tokens; 0 = not at all, -1 = the whole context.
    pub repeat_last_n: Option<i32>,
    /// Penalty for tokens that occurred.
    pub presence_penalty: Option<f64>,
    /// Penalty by number of occurrences.
    pub frequency_penalty: Option<f64>,
    /// Layers on the GPU, to 10,000; -1 = as many as fit.
    pub num_gpu: Option<i32>,
    /// Threads, to 1,024; 0 = as many as the model server likes.
    pub num_thread: Option<u32>,
}

impl Options {
    /// `self` with every value that `over` sets.
    #[must_use]
    pub fn overlaid(&self, over: &Self) -> Self {
        macro_rules! pick {
            ($($field:ident),+) => { Self { $($field: over.$field.clone().or_else(|| self.$field.clone()),)+ } };
        }
        pick!(
            temperature,
            num_ctx,
            num_predict,
            top_p,
            top_k,
            min_p,
            seed,
            stop,
            repeat_penalty,
            repeat_last_n,
            presence_penalty,
            frequency_penalty,
            num_gpu,
            num_thread
        )
    }

    /// Adds every value that is out of range to `errors`; `prefix` is the path of the object.
    pub fn check(&self, prefix: &str, errors: &mut Vec<FieldError>) {
        let mut wrong = |name: &str, reason: &str| {
            errors.push(FieldError { field: format!("{prefix}.{name}"), reason: reason.into() });
        };
        if self.num_ctx.is_some_and(|n| n < MIN_NUM_CTX) {
            wrong("num_ctx", &format!("must be at least {MIN_NUM_CTX}"));
        }
        let outside = |v: Option<f64>, low: f64, high: f64| v.is_some_and(|v| !(low..=high).contains(&v));
        if outside(self.temperature, 0.0, 2.0) {
            wrong("temperature", "must be from 0 to 2");
        }
        if outside(self.top_p, 0.0, 1.0) {
            wrong("top_p", "must be from 0 to 1");
        }
        if outside(self.min_p, 0.0, 1.0) {
            wrong("min_p", "must be from 0 to 1");
        }
        for (name, value) in [
            ("repeat_penalty", self.repeat_penalty),
            ("presence_penalty", self.presence_penalty),
            ("frequency_penalty", self.frequency_penalty),
        ] {
            if outside(value, -2.0, 2.0) {
                wrong(name, "must be from -2 to 2");
            }
        }
        // What is beyond costs memory or threads of the model server for nothing.
        for (name, value, low, high) in [
            ("top_k", self.top_k.map(i64::from), 0, 1_000_000),
            ("repeat_last_n", self.repeat_last_n.map(i64::from), -1, 1_000_000),
            ("num_gpu", self.num_gpu.map(i64::from), -1, 10_000),
            ("num_thread", self.num_thread.map(i64::from), 0, 1024),
        ] {
            if value.is_some_and(|value| !(low..=high).contains(&value)) {
                wrong(name, &format!("must be from {low} to {high}"));
            }
        }
        if self.num_predict.is_some_and(|n| n == 0 || n < -2) {
            wrong("num_predict", "must be at least 1, or -1 for no limit");
        }
        if self.stop.as_ref().is_some_and(|s| s.len() > 16 || s.iter().any(|t| t.is_empty() || t.len() > 256))
        {
            wrong("stop", "at most 16 texts of 1 to 256 bytes");
        }
    }
}

/// What happens when the history does not fit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overflow {
    /// The oldest messages are not sent, with an event that says so.
    #[default]
    Trim,
    /// As `trim`, with a summary of what is left out in the system prompt, as soon as one is made.
    Summarise,
    /// The message is refused with `prompt_too_long`.
    Refuse,
}

/// How the context is filled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ContextConfig {
    /// What happens when the history does not fit.
    pub overflow: Overflow,
}

/// A bot's configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BotConfig {
    /// Name of the model; empty = the configured default, or the first one a server offers.
    pub model: String,
    /// Models tried when the first is on no server.
    pub fallback: Vec<String>,
    /// Sent first, with every turn.
    pub system_prompt: String,
    /// Model options.
    pub options: Options,
    /// Thinking: true, false or a level; null = the model's own default.
    pub think: Option<Value>,
    /// Output format: `"json"` or a JSON schema.
    pub format: Option<Value>,
    /// Tool declarations.
    pub tools: Vec<Value>,
    /// How long the model stays in memory after a turn: a duration like `"5m"` or seconds; below zero = for ever.
    pub keep_alive: Option<Value>,
    /// Seconds without a turn after which the bot is `idle`.
    pub idle_after_s: u32,
    /// How the context is filled.
    pub context: ContextConfig,
}

impl Default for BotConfig {
    fn default() -> Self {
        Self {
            model: String::new(),
            fallback: vec![],
            system_prompt: String::new(),
            options: Options { num_ctx: Some(DEFAULT_NUM_CTX), ..Options::default() },
            think: None,
            format: None,
            tools: vec![],
            keep_alive: None,
            idle_after_s: 300,
            context: ContextConfig::default(),
        }
    }
}

/// Refuses a `think` that is neither a switch nor a level.
fn check_think(think: Option<&Value>, field: &str, errors: &mut Vec<FieldError>) {
    let fine = match think {
        None | Some(Value::Bool(_) | Value::Null) => true,
        Some(Value::String(level)) => matches!(level.as_str(), "low" | "medium" | "high"),
        Some(_) => false,
    };
    if !fine {
        errors.push(FieldError {
            field: field.into(),
            reason: "must be true, false, \"low\", \"medium\" or \"high\"".into(),
        });
    }
}

/// Checks what a message may override: options, thinking, format.
pub fn check_overrides(
    options: Option<&Options>,
    think: Option<&Value>,
    format: Option<&Value>,
    errors: &mut Vec<FieldError>,
) {
    if let Some(options) = options {
        options.check("options", errors);
    }
    check_think(think, "think", errors);
    check_format(format, "format", errors);
}

impl BotConfig {
    /// Checks every value.
    ///
    /// # Errors
    /// A problem that names every wrong field.
    pub fn validate(&self) -> Result<(), Problem> {
        let mut errors = vec![];
        let mut wrong = |field: &str, reason: String| errors.push(FieldError { field: field.into(), reason });
        let is_name =
            |m: &str| m.len() <= MODEL_NAME_MAX && !m.chars().any(|c| c.is_control() || c.is_whitespace());
        if !is_name(&self.model) {
            wrong(
                "config.model",
                format!("at most {MODEL_NAME_MAX} bytes, without spaces and control characters"),
            );
        }
        if self.fallback.len() > 8 || self.fallback.iter().any(|m| m.is_empty() || !is_name(m)) {
            wrong(
                "config.fallback",
                format!(
                    "at most 8 names of 1 to {MODEL_NAME_MAX} bytes, without spaces and control characters"
                ),
            );
        }
        if self.system_prompt.len() > SYSTEM_PROMPT_MAX || self.system_prompt.contains('\0') {
            wrong("config.system_prompt", format!("at most {SYSTEM_PROMPT_MAX} bytes, without NUL"));
        }
        if self.keep_alive.as_ref().is_some_and(|value| !is_keep_alive(value)) {
            wrong("config.keep_alive", keep_alive::RULE.into());
        }
        if self.idle_after_s == 0 {
            wrong("config.idle_after_s", "must be at least 1".into());
        }
        self.options.check("config.options", &mut errors);
        check_tools(&self.tools, "config.tools", &mut errors);
        check_think(self.think.as_ref(), "config.think", &mut errors);
        check_format(self.format.as_ref(), "config.format", &mut errors);
        match errors.first() {
            None => Ok(()),
            Some(first) => {
                let detail = format!("{}: {}", first.field, first.reason);
                Err(Problem { errors, ..Problem::new(Code::InvalidRequest, detail) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_configuration_names_every_wrong_field() {
        let config = BotConfig {
            options: Options { num_ctx: Some(255), temperature: Some(9.0), ..Options::default() },
            think: Some(Value::String("deep".into())),
            keep_alive: Some(Value::String("banana".into())),
            ..BotConfig::default()
        };
        let fields: Vec<_> = config.validate().unwrap_err().errors.into_iter().map(|e| e.field).collect();
        assert_eq!(
            fields,
            ["config.keep_alive", "config.options.num_ctx", "config.options.temperature", "config.think"]
        );
        assert!(BotConfig::default().validate().is_ok());
    }

    #[test]
    fn a_bot_may_name_any_model_that_a_server_can_have() {
        let named = |length: usize| BotConfig {
            model: "m".repeat(length),
            fallback: vec!["f".repeat(length)],
            ..BotConfig::default()
        };
        assert!(named(MODEL_NAME_MAX).validate().is_ok());
        let errors = named(MODEL_NAME_MAX + 1).validate().unwrap_err().errors;
        assert_eq!(
            errors.iter().map(|e| e.field.as_str()).collect::<Vec<_>>(),
            ["config.model", "config.fallback"]
        );
        assert!(errors.iter().all(|e| e.reason.contains("255 bytes")), "{errors:?}");
    }

    #[test]
    fn whole_numbers_have_a_range_that_a_refusal_names() {
        let options = |n: i32| {
            let some = u32::try_from(n).ok();
            Options {
                top_k: some,
                repeat_last_n: Some(n),
                num_gpu: Some(n),
                num_thread: some,
                ..Options::default()
            }
        };
        let wrong = |n: i32| {
            let mut errors = vec![];
            options(n).check("options", &mut errors);
            errors.into_iter().map(|e| format!("{} {}", e.field, e.reason)).collect::<Vec<_>>()
        };
        for fine in [-1, 0, 1, 1024] {
            assert_eq!(wrong(fine), [] as [&str; 0]);
        }
        let rules = [
            "options.top_k must be from 0 to 1000000",
            "options.repeat_last_n must be from -1 to 1000000",
            "options.num_gpu must be from -1 to 10000",
            "options.num_thread must be from 0 to 1024",
        ];
        assert_eq!(wrong(i32::MAX), rules);
        assert_eq!(wrong(1025), rules[3..]);
        assert_eq!(wrong(-2), rules[1..3]);
        let all = BotConfig { options: options(i32::MAX), ..BotConfig::default() };
        assert_eq!(all.validate().unwrap_err().errors.len(), 4);
    }
}
