//! The lines of a streamed answer: bytes go in as they come, pieces come out.
//!
//! A pure push parser. It is indifferent to where the transport cuts: inside a line, inside an escape, inside a UTF-8
//! character. The exact line that Ollama writes for nearly every token is recognised by comparison (about 50 ns);
//! whatever differs from it in one byte goes to serde.

use std::{borrow::Cow, time::Duration};

use deia_actors::ports::chat_model::{ChatBurst, ChatDone, ModelError, Piece, PieceKind};
use serde::Deserialize;
use serde_json::{Value, error::Category};

/// The longest line that is accepted, in bytes.
pub const MAX_LINE: usize = 1 << 20;
/// So many characters of what a server says of its errors are passed on: they are stored with the turn, and in its event.
const MAX_WORDS: usize = 300;

const OPENING: &[u8] = b"{\"model\":\"";
/// Between the time and the text. A quote inside a JSON string is escaped, so this can't be part of one.
const NEEDLE: &[u8] = b",\"message\":{\"role\":\"assistant\",\"content\":\"";
const CLOSING: &[u8] = b"\"},\"done\":false}";

/// Reads the lines of one answer.
#[derive(Debug, Default)]
pub struct LineReader {
    /// The begin of a line whose end has not come yet.
    partial: Vec<u8>,
    /// Where [`NEEDLE`] was in the line before: mostly it is there again.
    needle_at: usize,
    done: bool,
}

impl LineReader {
    /// A reader at the begin of an answer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// True once the last line of the answer came; everything after it is ignored.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Takes the next bytes, adds what they complete to `burst`, and says how many lines that were.
    ///
    /// # Errors
    /// `Failed` for an error line, `Protocol` for a line that is not JSON or is too long. What came before it is in
    /// `burst`; nothing may be fed afterwards.
    pub fn feed(&mut self, mut bytes: &[u8], burst: &mut ChatBurst) -> Result<usize, ModelError> {
        let mut lines = 0;
        while !self.done
            && let Some(end) = bytes.iter().position(|byte| *byte == b'\n')
        {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            bytes = rest;
            lines += 1;
            if self.partial.is_empty() {
                self.line(line, burst)?;
            } else {
                self.keep(line)?;
                let whole = std::mem::take(&mut self.partial);
                self.line(&whole, burst)?;
                // The buffer is kept for the next line that comes in parts.
                self.partial = whole;
                self.partial.clear();
            }
        }
        if !self.done {
            self.keep(bytes)?;
        }
        Ok(lines)
    }

    /// The bytes are at their end: a last line may lack its line feed.
    ///
    /// # Errors
    /// As [`LineReader::feed`]; `Cut` where the answer is not over.
    pub fn finish(&mut self, burst: &mut ChatBurst) -> Result<(), ModelError> {
        if !self.done && !self.partial.is_empty() {
            let whole = std::mem::take(&mut self.partial);
            // Half a line is what a cut looks like, not nonsense of the server.
            if serde_json::from_slice::<Value>(&whole).is_err() {
                return Err(ModelError::Cut);
            }
            self.line(&whole, burst)?;
        }
        if self.done { Ok(()) } else { Err(ModelError::Cut) }
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), ModelError> {
        if self.partial.len() + bytes.len() > MAX_LINE {
            return Err(too_long());
        }
        self.partial.extend_from_slice(bytes);
        Ok(())
    }

    fn line(&mut self, line: &[u8], burst: &mut ChatBurst) -> Result<(), ModelError> {
        if line.len() > MAX_LINE {
            return Err(too_long());
        }
        if let Some(text) = self.usual(line) {
            push(burst, PieceKind::Content, text);
            return Ok(());
        }
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let line: Line<'_> = serde_json::from_slice(line)
            .map_err(|e| ModelError::Protocol(format!("a line that is not as expected: {}", place(&e))))?;
        if let Some(error) = line.error {
            return Err(ModelError::Failed(words(error)));
        }
        if let Some(message) = line.message {
            push(burst, PieceKind::Thinking, message.thinking.as_deref().unwrap_or(""));
            push(burst, PieceKind::Content, message.content.as_deref().unwrap_or(""));
            burst.tool_calls.extend(message.tool_calls.unwrap_or_default());
        }
        if line.done.unwrap_or(false) {
            self.done = true;
            burst.done = Some(ChatDone {
                reason: line.done_reason.map(Cow::into_owned).filter(|r| !r.is_empty()),
                prompt_tokens: line.prompt_eval_count.and_then(|n| u32::try_from(n).ok()),
                completion_tokens: line.eval_count.and_then(|n| u32::try_from(n).ok()),
                load: line.load_duration.map(Duration::from_nanos),
            });
        }
        Ok(())
    }

    /// The text of a line that is exactly the usual one and has nothing escaped.
    fn usual<'a>(&mut self, line: &'a [u8]) -> Option<&'a str> {
        let head = line.strip_suffix(CLOSING)?;
        if !head.starts_with(OPENING) {
            return None;
        }
        if !head.get(self.needle_at..)?.starts_with(NEEDLE) {
            self.needle_at = head.windows(NEEDLE.len()).position(|window| window == NEEDLE)?;
        }
        let text = &head[self.needle_at + NEEDLE.len()..];
        if text.iter().any(|byte| matches!(byte, b'"' | b'\\' | 0..0x20)) {
            return None;
        }
        std::str::from_utf8(text).ok()
    }
}

#[derive(Deserialize)]
struct Line<'a> {
    error: Option<Value>,
    #[serde(borrow)]
    message: Option<Message<'a>>,
    done: Option<bool>,
    #[serde(borrow)]
    done_reason: Option<Cow<'a, str>>,
    prompt_eval_count: Option<u64>,
    eval_count: Option<u64>,
    /// In nanoseconds.
    load_duration: Option<u64>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    content: Option<Cow<'a, str>>,
    #[serde(borrow)]
    thinking: Option<Cow<'a, str>>,
    tool_calls: Option<Vec<Value>>,
}

/// Adds text, joined to the piece before it where that is of the same kind.
fn push(burst: &mut ChatBurst, kind: PieceKind, text: &str) {
    if text.is_empty() {
        return;
    }
    match burst.pieces.last_mut() {
        Some(last) if last.kind == kind => last.text.push_str(text),
        _ => burst.pieces.push(Piece { kind, text: text.to_owned() }),
    }
}

/// The words of an `error` member, whatever its type.
pub(super) fn words(error: Value) -> String {
    match error {
        Value::String(text) => cut(&text),
        Value::Object(mut fields) => match fields.remove("message") {
            Some(Value::String(text)) => cut(&text),
            _ => cut(&Value::Object(fields).to_string()),
        },
        other => cut(&other.to_string()),
    }
}

/// As much of a server's text as is passed on.
pub(super) fn cut(text: &str) -> String {
    text.trim().chars().filter(|c| !c.is_control()).take(MAX_WORDS).collect()
}

/// What is wrong with some JSON, and where. serde's own words quote values, and values are what people wrote: problems and
/// logs must not hold them.
pub(super) fn place(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        Category::Syntax => "not JSON",
        Category::Data => "a field of another type",
        Category::Eof => "its end is missing",
        Category::Io => "it can't be read",
    };
    format!("{what}, at line {} column {}", error.line(), error.column())
}

fn too_long() -> ModelError {
    ModelError::Protocol(format!("a line longer than {MAX_LINE} bytes"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const DONE: &str = r#"{"model":"m","created_at":"t","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","load_duration":1500000,"prompt_eval_count":3,"eval_count":2}"#;

    fn token(text: &str) -> String {
        let text = serde_json::to_string(text).unwrap();
        format!(
            r#"{{"model":"m","created_at":"2026-11-21T09:37:12.7Z","message":{{"role":"assistant","content":{text}}},"done":false}}"#
        )
    }

    /// Everything that comes out of `bytes` fed in `parts`.
    fn read<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> (ChatBurst, Result<(), ModelError>) {
        let (mut reader, mut burst) = (LineReader::new(), ChatBurst::default());
        for part in parts {
            if let Err(error) = reader.feed(part, &mut burst) {
                return (burst, Err(error));
            }
        }
        let end = reader.finish(&mut burst);
        (burst, end)
    }

    fn text(burst: &ChatBurst, kind: PieceKind) -> String {
        burst.pieces.iter().filter(|p| p.kind == kind).map(|p| p.text.as_str()).collect()
    }

    #[test]
    fn a_usual_answer_is_read() {
        let all = format!("{}\n{}\n{DONE}\n", token("Grüße "), token("\"you\"\n"));
        let (burst, end) = read([all.as_bytes()]);
        assert_eq!(end, Ok(()));
        assert_eq!(burst.pieces.len(), 1, "neighbours of one kind are joined");
        assert_eq!(text(&burst, PieceKind::Content), "Grüße \"you\"\n");
        let done = ChatDone {
            reason: Some("stop".into()),
            prompt_tokens: Some(3),
            completion_tokens: Some(2),
            load: Some(Duration::from_micros(1500)),
        };
        assert_eq!(burst.done, Some(done));
    }

    #[test]
    fn the_usual_line_is_recognised_wherever_its_text_begins() {
        let mut reader = LineReader::new();
        assert_eq!(reader.usual(token("a").as_bytes()), Some("a"));
        let at = reader.needle_at;
        assert!(at > 0);
        let longer = token("b").replace("12.7Z", "12.712345Z");
        assert_eq!(reader.usual(longer.as_bytes()), Some("b"));
        assert_ne!(reader.needle_at, at);
        for unusual in [token("a\"b"), token("\\"), DONE.to_owned(), token("a").replace("assistant", "user")]
        {
            assert_eq!(reader.usual(unusual.as_bytes()), None, "{unusual}");
        }
        let quoted = token(",\"message\":{\"role\":\"assistant\",\"content\":\"x\"},\"done\":false}");
        assert_eq!(reader.usual(quoted.as_bytes()), None);
    }

    #[test]
    fn thinking_and_tool_calls_are_kept_apart_from_content() {
        let lines = [
            json!({"message": {"role": "assistant", "content": "", "thinking": "hm"}, "done": false}),
            json!({"message": {"content": "a", "thinking": null}, "done": false}),
            json!({"message": {"content": "", "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": {}}}]}}),
        ];
        let all: String = lines.iter().map(|l| format!("{l}\n")).collect();
        let (burst, end) = read([all.as_bytes(), DONE.as_bytes()]);
        assert_eq!(end, Ok(()), "the last line may lack its line feed");
        assert_eq!(
            (text(&burst, PieceKind::Thinking).as_str(), text(&burst, PieceKind::Content).as_str()),
            ("hm", "a")
        );
        assert_eq!(burst.tool_calls, [json!({"id": "c1", "function": {"name": "f", "arguments": {}}})]);
    }

    #[test]
    fn an_answer_without_its_end_is_cut() {
        let line = token("abc");
        for all in [String::new(), format!("{line}\n"), format!("{line}\n{}", &line[..40])] {
            let (burst, end) = read([all.as_bytes()]);
            assert_eq!(end, Err(ModelError::Cut), "{all}");
            assert_eq!(text(&burst, PieceKind::Content), if all.is_empty() { "" } else { "abc" });
        }
    }

    #[test]
    fn an_error_line_ends_the_answer_and_what_came_is_kept() {
        for (error, words) in [
            (r#"{"error":"CUDA error"}"#, "CUDA error"),
            (r#"{"error":{"message":"out of memory","code":5}}"#, "out of memory"),
            (r#"{"error":7}"#, "7"),
            (&format!(r#"{{"error":"{}"}}"#, "é".repeat(5000)), &"é".repeat(MAX_WORDS)),
            (
                &format!(r#"{{"error":{{"trace":"{}"}}}}"#, "x".repeat(5000)),
                &format!(r#"{{"trace":"{}"#, "x".repeat(290)),
            ),
        ] {
            let all = format!("{}\n{error}\n{DONE}\n", token("abc"));
            let (burst, end) = read([all.as_bytes()]);
            assert_eq!(end, Err(ModelError::Failed(words.to_owned())));
            assert_eq!(text(&burst, PieceKind::Content), "abc");
        }
    }

    #[test]
    fn nonsense_is_a_protocol_error() {
        for bad in [&b"<html>"[..], b"42", b"{\"message\":7}", b"{\"done\":\"yes\"}", b"\xff\xfe", b"{}}"] {
            let (burst, end) = read([token("abc").as_bytes(), b"\n", bad, b"\n", DONE.as_bytes()]);
            assert!(matches!(end, Err(ModelError::Protocol(_))), "{bad:?}: {end:?}");
            assert_eq!(text(&burst, PieceKind::Content), "abc");
        }
        let (_, end) = read([b"\n \r\n".as_slice(), b"{\"new\":1}\n", DONE.as_bytes(), b"\nanything"]);
        assert_eq!(end, Ok(()), "empty lines, unknown fields and what follows the end do no harm");
    }

    #[test]
    fn what_is_said_about_nonsense_quotes_none_of_it() {
        for bad in
            [r#"{"message":"my secret"}"#, r#"{"message":{"content":["my secret"]}}"#, "{\"my secret\":}"]
        {
            let (_, end) = read([bad.as_bytes(), b"\n"]);
            let Err(ModelError::Protocol(reason)) = end else { panic!("{bad}: {end:?}") };
            assert!(!reason.contains("secret") && reason.contains("line 1 column"), "{reason}");
        }
    }

    #[test]
    fn a_line_is_at_most_a_mebibyte_long() {
        let fits = token(&"x".repeat(MAX_LINE - token("").len()));
        assert_eq!(fits.len(), MAX_LINE);
        let (burst, end) = read([fits.as_bytes(), b"\n", DONE.as_bytes()]);
        assert_eq!((text(&burst, PieceKind::Content).len(), end), (MAX_LINE - token("").len(), Ok(())));
        let too_long = fits.replacen('x', "xx", 1);
        for parts in [vec![too_long.as_bytes(), b"\n"], too_long.as_bytes().chunks(1000).collect()] {
            let (_, end) = read(parts);
            assert!(matches!(end, Err(ModelError::Protocol(_))), "{end:?}");
        }
    }

    fn any_line() -> impl Strategy<Value = String> {
        prop_oneof![
            6 => any::<String>().prop_map(|t| token(&t)),
            2 => "[a-zäß日😀 ]{0,9}".prop_map(|t| token(&t)),
            1 => any::<String>().prop_map(|t| json!({"message": {"content": "", "thinking": t}, "done": false}).to_string()),
            1 => any::<String>().prop_map(|t| json!({"message": {"tool_calls": [{"function": {"name": t}}]}}).to_string()),
            1 => Just(String::new()),
            1 => Just(r#"{"error":"broken"}"#.to_owned()),
            1 => "[ -~]{0,20}",
        ]
    }

    proptest! {
        #[test]
        fn the_cuts_of_the_transport_change_nothing(
            lines in prop::collection::vec(any_line(), 0..12),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
            ends in any::<bool>(),
        ) {
            let mut all = lines.join("\n").into_bytes();
            if ends {
                all.extend_from_slice(format!("\n{DONE}\n").as_bytes());
            }
            let mut at: Vec<usize> = cuts.iter().map(|c| c.index(all.len() + 1)).collect();
            at.extend([0, all.len()]);
            at.sort_unstable();
            let parts = at.windows(2).map(|w| &all[w[0]..w[1]]);
            prop_assert_eq!(read(parts), read([all.as_slice()]));
            prop_assert_eq!(read(all.chunks(1)), read([all.as_slice()]));
        }

        #[test]
        fn text_arrives_byte_for_byte(texts in prop::collection::vec(any::<String>(), 0..8)) {
            let lines: String = texts.iter().map(|t| token(t) + "\n").collect();
            let (burst, end) = read([lines.as_bytes(), DONE.as_bytes()]);
            prop_assert_eq!(end, Ok(()));
            prop_assert_eq!(text(&burst, PieceKind::Content), texts.concat());
        }

        #[test]
        fn any_bytes_end_in_a_result(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read([bytes.as_slice()]);
        }
    }
}
