//! The bodies that clients send, as far as the simulator reads them; unknown fields are ignored, as Ollama does.

use std::{borrow::Cow, time::Duration};

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

/// Ollama's default context length for small machines.
const DEFAULT_NUM_CTX: u64 = 4096;
/// Ollama's default `keep_alive`.
const DEFAULT_KEEP_ALIVE: Duration = Duration::from_secs(300);
/// Stands for "keep for ever": a year.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

#[derive(Debug, Deserialize)]
pub(crate) struct Message<'a> {
    #[serde(borrow, default)]
    pub(crate) role: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(crate) content: Cow<'a, str>,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct Options {
    num_ctx: Option<u64>,
    num_predict: Option<i64>,
    #[serde(default)]
    pub(crate) stop: Vec<String>,
    pub(crate) seed: Option<i64>,
}

impl Options {
    pub(crate) fn num_ctx(&self) -> u64 {
        self.num_ctx.filter(|n| *n > 0).unwrap_or(DEFAULT_NUM_CTX)
    }

    /// The most tokens of the answer; `None` = no limit (Ollama's -1, -2 and 0).
    pub(crate) fn num_predict(&self) -> Option<usize> {
        self.num_predict.filter(|n| *n > 0).and_then(|n| usize::try_from(n).ok())
    }
}

/// A tool that the request offers.
#[derive(Debug, Deserialize)]
pub(crate) struct Tool {
    pub(crate) function: ToolFunction,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ToolFunction {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) parameters: Value,
}

/// What `/api/chat` and `/api/generate` have in common.
#[derive(Debug, Deserialize)]
pub(crate) struct Run<'a> {
    #[serde(borrow, default)]
    pub(crate) model: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(crate) messages: Vec<Message<'a>>,
    #[serde(borrow, default)]
    prompt: Cow<'a, str>,
    #[serde(borrow, default)]
    system: Cow<'a, str>,
    pub(crate) stream: Option<bool>,
    #[serde(default)]
    pub(crate) tools: Option<Vec<Tool>>,
    #[serde(default)]
    pub(crate) options: Option<Options>,
    think: Option<Value>,
    #[serde(default)]
    pub(crate) format: Option<Value>,
    pub(crate) truncate: Option<bool>,
    keep_alive: Option<Value>,
}

impl Run<'_> {
    /// A generate call seen as a chat: system and prompt become messages. No prompt = no messages = load only.
    pub(crate) fn prompt_into_messages(&mut self) {
        self.messages.clear();
        let prompt = std::mem::take(&mut self.prompt);
        if prompt.is_empty() {
            return;
        }
        let system = std::mem::take(&mut self.system);
        if !system.is_empty() {
            self.messages.push(Message { role: Cow::Borrowed("system"), content: system });
        }
        self.messages.push(Message { role: Cow::Borrowed("user"), content: prompt });
    }

    /// What the request says about thinking; `None` = nothing.
    pub(crate) fn think(&self) -> Option<bool> {
        match &self.think {
            Some(Value::Bool(on)) => Some(*on),
            Some(Value::String(level)) => Some(!level.is_empty()),
            _ => None,
        }
    }

    /// How long the model stays loaded; `None` = unload at once.
    pub(crate) fn keep_alive(&self) -> Option<Duration> {
        match &self.keep_alive {
            None | Some(Value::Null) => Some(DEFAULT_KEEP_ALIVE),
            Some(Value::Number(n)) => seconds(n.as_f64().unwrap_or(0.0)),
            Some(Value::String(text)) => duration(text),
            Some(_) => Some(DEFAULT_KEEP_ALIVE),
        }
    }

    /// The request says in so many words that the model shall be unloaded.
    pub(crate) fn unloads(&self) -> bool {
        self.keep_alive.is_some() && self.keep_alive().is_none()
    }

    /// The JSON schema of `format`, or an empty one for `"json"`; `None` = plain text.
    pub(crate) fn schema(&self) -> Option<&Value> {
        self.format.as_ref().filter(|f| !f.is_null() && f.as_str() != Some(""))
    }

    /// An estimate of the prompt in tokens: a token is 4 bytes, a message costs 4 more.
    pub(crate) fn prompt_tokens(&self) -> u64 {
        self.messages.iter().map(|m| m.content.len() as u64 / 4 + 5).sum()
    }
}

fn seconds(n: f64) -> Option<Duration> {
    if n < 0.0 {
        return Some(FOR_EVER);
    }
    (n > 0.0).then(|| Duration::from_secs_f64(n.min(FOR_EVER.as_secs_f64())))
}

/// Go's duration text as far as people write it: `300`, `-1`, `5m`, `1h`, `30s`, `500ms`.
fn duration(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let Ok(number) = number.trim().parse::<f64>() else { return Some(DEFAULT_KEEP_ALIVE) };
    seconds(match unit {
        "ms" => number / 1000.0,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => number,
    })
}

/// `{model|name}`, the body of show, pull and delete.
#[derive(Debug, Deserialize)]
pub(crate) struct Named {
    #[serde(default)]
    model: String,
    #[serde(default)]
    name: String,
    pub(crate) stream: Option<bool>,
}

impl Named {
    pub(crate) fn model(&self) -> &str {
        if self.model.is_empty() { &self.name } else { &self.model }
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct Copy {
    #[serde(default)]
    pub(crate) source: String,
    #[serde(default)]
    pub(crate) destination: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Embed<'a> {
    #[serde(default)]
    pub(crate) model: String,
    #[serde(borrow, default)]
    pub(crate) input: Option<&'a RawValue>,
    pub(crate) dimensions: Option<usize>,
    pub(crate) truncate: Option<bool>,
    #[serde(default)]
    pub(crate) options: Option<Options>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn keep_alive(json: &str) -> Option<Duration> {
        let body = format!(r#"{{"model":"m","keep_alive":{json}}}"#);
        serde_json::from_str::<Run<'_>>(&body).unwrap().keep_alive()
    }

    #[test]
    fn keep_alive_is_read_in_every_form_that_ollama_takes() {
        assert_eq!(keep_alive("null"), Some(DEFAULT_KEEP_ALIVE));
        assert_eq!(keep_alive("0"), None);
        assert_eq!(keep_alive(r#""0""#), None);
        assert_eq!(keep_alive("90"), Some(Duration::from_secs(90)));
        assert_eq!(keep_alive(r#""5m""#), Some(Duration::from_secs(300)));
        assert_eq!(keep_alive(r#""500ms""#), Some(Duration::from_millis(500)));
        assert_eq!(keep_alive("-1"), Some(FOR_EVER));
    }

    #[test]
    fn a_generate_call_becomes_a_chat() {
        let mut run: Run<'_> =
            serde_json::from_str(r#"{"model":"m","prompt":"hi","system":"be brief"}"#).unwrap();
        run.prompt_into_messages();
        let roles: Vec<_> = run.messages.iter().map(|m| (m.role.as_ref(), m.content.as_ref())).collect();
        assert_eq!(roles, [("system", "be brief"), ("user", "hi")]);
    }
}
