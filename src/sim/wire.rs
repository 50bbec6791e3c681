//! The lines of an answer as bytes: what never changes is encoded once per answer, per token only the text is escaped.

use bytes::{BufMut, Bytes, BytesMut};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Which of the two dialects an answer is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// `/api/chat`: `"message":{"role":"assistant","content":…}`.
    Chat,
    /// `/api/generate`: `"response":…`.
    Generate,
}

/// The figures of the last line; durations in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Totals {
    pub(crate) done_reason: &'static str,
    pub(crate) total_ns: u128,
    pub(crate) load_ns: u128,
    pub(crate) prompt_tokens: u64,
    pub(crate) prompt_ns: u128,
    pub(crate) tokens: usize,
    pub(crate) eval_ns: u128,
}

/// Writes the lines of one answer.
#[derive(Debug)]
pub(crate) struct LineWriter {
    dialect: Dialect,
    model_json: String,
    /// `{"model":…,"created_at":"…",` with the time of the last [`LineWriter::stamp`].
    prefix: Vec<u8>,
    buffer: BytesMut,
}

impl LineWriter {
    pub(crate) fn new(dialect: Dialect, model: &str) -> Self {
        let mut model_json = BytesMut::new();
        escape(&mut model_json, model);
        let model_json = String::from_utf8_lossy(&model_json).into_owned();
        let mut writer = Self { dialect, model_json, prefix: Vec::new(), buffer: BytesMut::new() };
        writer.stamp();
        writer
    }

    /// Renews the time in the lines to come.
    pub(crate) fn stamp(&mut self) {
        self.prefix.clear();
        self.prefix.extend_from_slice(b"{\"model\":\"");
        self.prefix.extend_from_slice(self.model_json.as_bytes());
        self.prefix.extend_from_slice(b"\",\"created_at\":\"");
        self.prefix.extend_from_slice(now().as_bytes());
        self.prefix.extend_from_slice(match self.dialect {
            Dialect::Chat => b"\",\"message\":{\"role\":\"assistant\",\"content\":\"".as_slice(),
            Dialect::Generate => b"\",\"response\":\"".as_slice(),
        });
    }

    /// One token.
    pub(crate) fn token(&mut self, thinking: bool, text: &str) -> Bytes {
        self.begin(text.len());
        if thinking {
            self.buffer.put_slice(b"\",\"thinking\":\"");
        }
        escape(&mut self.buffer, text);
        self.buffer.put_slice(match self.dialect {
            Dialect::Chat => b"\"},\"done\":false}\n".as_slice(),
            Dialect::Generate => b"\",\"done\":false}\n".as_slice(),
        });
        self.take()
    }

    /// The line with the tool calls, a JSON array (`/api/chat` only has them; generate leaves them out).
    pub(crate) fn tool_calls(&mut self, calls: &str) -> Bytes {
        self.begin(calls.len());
        match self.dialect {
            Dialect::Chat => {
                self.buffer.put_slice(b"\",\"tool_calls\":");
                self.buffer.put_slice(calls.as_bytes());
                self.buffer.put_slice(b"},\"done\":false}\n");
            }
            Dialect::Generate => self.buffer.put_slice(b"\",\"done\":false}\n"),
        }
        self.take()
    }

    /// The last line of a stream.
    pub(crate) fn done(&mut self, totals: &Totals) -> Bytes {
        self.whole("", "", "", totals, true)
    }

    /// A whole answer in one object, for `stream: false`.
    pub(crate) fn complete(&mut self, thinking: &str, content: &str, calls: &str, totals: &Totals) -> Bytes {
        self.whole(thinking, content, calls, totals, false)
    }

    /// Loading or unloading a model answers with this object: no figures.
    pub(crate) fn loaded(&mut self, reason: &'static str) -> Bytes {
        self.begin(0);
        if self.dialect == Dialect::Chat {
            self.buffer.put_slice(b"\"},\"done\":true,\"done_reason\":\"");
        } else {
            self.buffer.put_slice(b"\",\"done\":true,\"done_reason\":\"");
        }
        self.buffer.put_slice(reason.as_bytes());
        self.buffer.put_slice(b"\"}");
        self.take()
    }

    fn whole(&mut self, thinking: &str, content: &str, calls: &str, t: &Totals, line: bool) -> Bytes {
        self.begin(content.len() + thinking.len() + calls.len() + 256);
        escape(&mut self.buffer, content);
        self.buffer.put_u8(b'"');
        if !thinking.is_empty() {
            self.buffer.put_slice(b",\"thinking\":\"");
            escape(&mut self.buffer, thinking);
            self.buffer.put_u8(b'"');
        }
        if self.dialect == Dialect::Chat {
            if !calls.is_empty() {
                self.buffer.put_slice(b",\"tool_calls\":");
                self.buffer.put_slice(calls.as_bytes());
            }
            self.buffer.put_u8(b'}');
        }
        let context = if self.dialect == Dialect::Generate { ",\"context\":[1,2,3]" } else { "" };
        let figures = format!(
            ",\"done\":true,\"done_reason\":\"{}\"{context},\"total_duration\":{},\"load_duration\":{},\"prompt_eval_count\":{},\
             \"prompt_eval_duration\":{},\"eval_count\":{},\"eval_duration\":{}}}",
            t.done_reason, t.total_ns, t.load_ns, t.prompt_tokens, t.prompt_ns, t.tokens, t.eval_ns
        );
        self.buffer.put_slice(figures.as_bytes());
        if line {
            self.buffer.put_u8(b'\n');
        }
        self.take()
    }

    fn begin(&mut self, text: usize) {
        let room = self.prefix.len() + text + 48;
        if self.buffer.capacity() < room {
            // Room for a burst: one allocation serves many lines.
            self.buffer.reserve(room.max(4096));
        }
        self.buffer.put_slice(&self.prefix);
    }

    fn take(&mut self) -> Bytes {
        self.buffer.split().freeze()
    }
}

/// The time as Ollama writes it.
pub(crate) fn now() -> String {
    stamp_of(OffsetDateTime::now_utc())
}

/// A time as Ollama writes it.
pub(crate) fn stamp_of(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap_or_else(|_| "1970-01-01T00:00:00Z".to_owned())
}

/// `text` escaped as Go's encoder does it (`<`, `>`, `&` and the line separators too), so that clients meet the same
/// escapes here as in front of the real server.
pub(crate) fn escape(out: &mut BytesMut, text: &str) {
    let bytes = text.as_bytes();
    let mut plain = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        let short: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            0x08 => b"\\b",
            0x0c => b"\\f",
            b'<' => b"\\u003c",
            b'>' => b"\\u003e",
            b'&' => b"\\u0026",
            0..0x20 => b"",
            0xe2 if bytes[at..].starts_with("\u{2028}".as_bytes()) => b"\\u2028",
            0xe2 if bytes[at..].starts_with("\u{2029}".as_bytes()) => b"\\u2029",
            _ => continue,
        };
        out.put_slice(&bytes[plain..at]);
        if short.is_empty() {
            out.put_slice(format!("\\u{byte:04x}").as_bytes());
        } else {
            out.put_slice(short);
        }
        plain = at + if byte == 0xe2 { 3 } else { 1 };
    }
    out.put_slice(&bytes[plain..]);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    const TOTALS: Totals = Totals {
        done_reason: "stop",
        total_ns: 6,
        load_ns: 1,
        prompt_tokens: 2,
        prompt_ns: 3,
        tokens: 4,
        eval_ns: 5,
    };

    #[test]
    fn lines_have_the_form_that_ollama_gives_them() {
        let mut chat = LineWriter::new(Dialect::Chat, "m\"x");
        let line = String::from_utf8(chat.token(false, "a<b").to_vec()).unwrap();
        assert!(line.starts_with(r#"{"model":"m\"x","created_at":""#), "{line}");
        assert!(
            line.ends_with(
                "\"message\":{\"role\":\"assistant\",\"content\":\"a\\u003cb\"},\"done\":false}\n"
            ),
            "{line}"
        );
        let thought: Value = serde_json::from_slice(&chat.token(true, "hm")).unwrap();
        assert_eq!(
            (&thought["message"]["content"], &thought["message"]["thinking"]),
            (&"".into(), &"hm".into())
        );
        let done: Value = serde_json::from_slice(&chat.done(&TOTALS)).unwrap();
        assert_eq!(
            (&done["done"], &done["eval_count"], &done["message"]["content"]),
            (&true.into(), &4.into(), &"".into())
        );
        let mut generate = LineWriter::new(Dialect::Generate, "m");
        let whole: Value = serde_json::from_slice(&generate.complete("", "ab", "", &TOTALS)).unwrap();
        assert_eq!((&whole["response"], &whole["done_reason"]), (&"ab".into(), &"stop".into()));
        let load: Value = serde_json::from_slice(&generate.loaded("load")).unwrap();
        assert_eq!((&load["response"], &load["done_reason"]), (&"".into(), &"load".into()));
    }

    proptest! {
        #[test]
        fn escaped_text_reads_back_as_it_was(text in any::<String>()) {
            let mut out = BytesMut::new();
            escape(&mut out, &text);
            let back: String = serde_json::from_slice(&[b"\"", &out[..], b"\""].concat()).unwrap();
            prop_assert_eq!(back, text);
        }
    }

    #[test]
    fn separators_and_controls_read_back_as_they_were() {
        let text = "a\u{2028}b\u{2029}c\u{0}\u{1f}\u{7f}â\u{202a}\u{8}";
        let mut out = BytesMut::new();
        escape(&mut out, text);
        let back: String = serde_json::from_slice(&[b"\"", &out[..], b"\""].concat()).unwrap();
        assert_eq!(back, text);
    }
}
