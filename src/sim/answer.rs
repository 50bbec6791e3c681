//! The whole answer before it is played: one text, the ends of its tokens, and why it ends. Pure and deterministic.

use serde_json::{Value, json};

use super::{
    request::{Options, Run, Tool},
    schema,
    script::{Script, Source},
    speech,
};

/// A piece of an answer: the text from the end of the piece before it up to `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) end: usize,
    pub(crate) thinking: bool,
}

/// What a request will be answered.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Answer {
    text: String,
    pieces: Vec<Piece>,
    /// A JSON array, or empty: the calls come as one line after the text.
    pub(crate) tool_calls: String,
    /// `stop` or `length`.
    pub(crate) done_reason: &'static str,
}

impl Answer {
    /// The number of tokens, thinking included.
    pub(crate) fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Token `n`: is it thinking, and its text.
    pub(crate) fn piece(&self, n: usize) -> Option<(bool, &str)> {
        let piece = self.pieces.get(n)?;
        let start = n.checked_sub(1).map_or(0, |before| self.pieces[before].end);
        Some((piece.thinking, &self.text[start..piece.end]))
    }

    /// All text of one kind among the first `tokens` tokens.
    pub(crate) fn joined(&self, thinking: bool, tokens: usize) -> String {
        (0..tokens.min(self.len()))
            .filter_map(|n| self.piece(n))
            .filter(|(t, _)| *t == thinking)
            .map(|(_, s)| s)
            .collect()
    }

    fn push(&mut self, thinking: bool, token: &str) {
        self.text.push_str(token);
        self.pieces.push(Piece { end: self.text.len(), thinking });
    }
}

/// The answer of `script` to `run`.
pub(crate) fn compose(script: &Script, run: &Run<'_>) -> Answer {
    let said = run.messages.iter().rev().find(|m| m.role == "user").map_or("", |m| m.content.as_ref());
    let mut answer = Answer { done_reason: "stop", ..Answer::default() };
    let person = script.source == Source::Person;
    // A thinking model thinks unless told not to; the person's model only when asked to.
    if (script.think && run.think() != Some(false)) || (person && run.think() == Some(true)) {
        think(&mut answer, said);
    }
    let thoughts = answer.len();
    if let Some(call) = tool_call(script, run, said) {
        answer.tool_calls = call;
    } else if let Some(schema) = run.schema() {
        let text = match schema {
            // A list where an object is demanded, and no JSON where any will do.
            Value::String(_) if script.misform => "not JSON".to_owned(),
            _ if script.misform => json!([said]).to_string(),
            Value::String(_) => json!({ "answer": said }).to_string(),
            schema => schema::example(schema, said).to_string(),
        };
        split(&text, &mut answer);
    } else {
        match script.source {
            Source::Person if let Some(result) = run.messages.last().filter(|m| m.role == "tool") => {
                split(&format!("The tool says: {}", result.content), &mut answer);
            }
            Source::Person => split(&speech::reply(&run.messages, seed(run, said)), &mut answer),
            Source::Echo => split(said, &mut answer),
            Source::System => {
                let system = run.messages.iter().find(|m| m.role == "system");
                split(system.map_or("", |m| m.content.as_ref()), &mut answer);
            }
            Source::Tokens(n) => numbered(n, &mut answer),
            Source::Utf8(n) => multibyte(n, &mut answer),
        }
    }
    if let Some(options) = &run.options {
        limit(&mut answer, thoughts, options);
    }
    answer
}

fn think(answer: &mut Answer, said: &str) {
    let words = said.split_whitespace().count();
    let thought =
        format!("The message has {words} words. My script has an answer for it, so I will give that one.");
    each_token(&thought, |token| answer.push(true, token));
}

/// `0000 0001 0002 …`: five bytes each, so that benchmarks know sizes and readers see gaps.
fn numbered(n: u32, answer: &mut Answer) {
    answer.text.reserve(n as usize * 5);
    answer.pieces.reserve(n as usize);
    for i in 0..n {
        let digits = [1000, 100, 10, 1].map(|unit| char::from(b'0' + (i / unit % 10) as u8));
        answer.text.extend(digits);
        answer.text.push(' ');
        answer.pieces.push(Piece { end: answer.text.len(), thinking: false });
    }
}

/// Tokens with characters of two, three and four bytes, joined ones and right-to-left ones among them.
fn multibyte(n: u32, answer: &mut Answer) {
    const TOKENS: [&str; 12] = [
        "Grüße ",
        "naïve ",
        "日本語",
        "テキスト ",
        "😀",
        "👩‍👩‍👧‍👦 ",
        "é",
        "Ελληνικά ",
        "עברית ",
        "한국어 ",
        "𝕬𝖇𝖈 ",
        "\"ende\"\n",
    ];
    for token in TOKENS.iter().cycle().take(n as usize) {
        answer.push(false, token);
    }
}

fn split(text: &str, answer: &mut Answer) {
    each_token(text, |token| answer.push(false, token));
}

/// Cuts text roughly as models do: a word with the space before it, in parts of at most 8 characters.
fn each_token(text: &str, mut token: impl FnMut(&str)) {
    let (mut start, mut chars, mut spaces_only) = (0, 0, true);
    for (at, c) in text.char_indices() {
        let space = c.is_whitespace();
        if (space && !spaces_only) || chars == 8 {
            token(&text[start..at]);
            (start, chars, spaces_only) = (at, 0, true);
        }
        chars += 1;
        spaces_only &= space;
    }
    if start < text.len() {
        token(&text[start..]);
    }
}

/// The calls of the first tools, where the script or the person asks for them and has not had them yet.
fn tool_call(script: &Script, run: &Run<'_>, said: &str) -> Option<String> {
    let tools = run.tools.as_deref().unwrap_or_default();
    let had = run.messages.iter().rev().take_while(|m| m.role != "user");
    // A round ends with results, however many.
    let had = had.filter(|m| m.role == "assistant").count();
    let tools: Vec<_> = match script.source {
        Source::Person if had == 0 => tools.iter().filter(|t| said.contains(&t.function.name)).collect(),
        _ if had < script.tools as usize => tools.iter().cycle().take(script.calls as usize).collect(),
        _ => vec![],
    };
    let call = |(at, tool): (usize, &&Tool)| {
        json!({
            "id": format!("call_{:08x}", hash(&[&run.model, said, &tool.function.name, &format!("{had}.{at}")]) as u32),
            "function": {
                "index": at,
                "name": tool.function.name,
                "arguments": match schema::example(&tool.function.parameters, said) {
                    object @ Value::Object(_) => object,
                    _ => json!({}),
                },
            },
        })
    };
    let calls: Vec<Value> = tools.iter().enumerate().map(call).collect();
    (!calls.is_empty()).then(|| Value::Array(calls).to_string())
}

/// Applies `stop` (content only, the stop text itself is not sent) and `num_predict` (all tokens).
fn limit(answer: &mut Answer, thoughts: usize, options: &Options) {
    let from = thoughts.checked_sub(1).map_or(0, |last| answer.pieces[last].end);
    let cut = options
        .stop
        .iter()
        .filter(|s| !s.is_empty())
        .filter_map(|s| answer.text[from..].find(s.as_str()))
        .min();
    if let Some(cut) = cut.map(|c| c + from) {
        answer.text.truncate(cut);
        answer.pieces.retain(|p| p.end <= cut);
        if answer.pieces.last().map_or(0, |p| p.end) < cut {
            answer.pieces.push(Piece { end: cut, thinking: false });
        }
    }
    if let Some(most) = options.num_predict()
        && answer.len() > most
    {
        answer.pieces.truncate(most);
        answer.tool_calls.clear();
        answer.done_reason = "length";
    }
}

fn seed(run: &Run<'_>, said: &str) -> u64 {
    match run.options.as_ref().and_then(|o| o.seed) {
        Some(seed) => seed.unsigned_abs(),
        None => hash(&[&run.model, said]),
    }
}

/// FNV-1a: the same in every run and build, unlike the standard hasher.
pub(crate) fn hash(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0xff]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;

    use super::*;

    fn compose_json(model: &str, rest: &str) -> Answer {
        let body = format!(r#"{{"model":"{model}",{rest}}}"#);
        let run: Run<'_> = serde_json::from_str(&body).unwrap();
        compose(&Script::parse(model).map_or_else(Script::person, |s| s.unwrap()), &run)
    }

    const ONE_TWO: &str = r#""messages":[{"role":"user","content":"one two three four"}]"#;

    #[test]
    fn numbered_tokens_have_five_bytes_each() {
        let answer = compose_json("sim:tokens=12", ONE_TWO);
        assert_eq!(answer.len(), 12);
        assert_eq!(answer.piece(11), Some((false, "0011 ")));
        assert!((0..12).all(|n| answer.piece(n).unwrap().1.len() == 5));
    }

    #[test]
    fn stop_cuts_inside_a_token_and_is_not_sent() {
        let answer = compose_json("sim:echo", &format!(r#"{ONE_TWO},"options":{{"stop":["hree","zzz"]}}"#));
        assert_eq!(answer.joined(false, usize::MAX), "one two t");
        assert_eq!(answer.done_reason, "stop");
    }

    #[test]
    fn num_predict_counts_tokens_and_ends_for_length() {
        let answer = compose_json("sim:tokens=9", &format!(r#"{ONE_TWO},"options":{{"num_predict":4}}"#));
        assert_eq!((answer.len(), answer.done_reason), (4, "length"));
        let unlimited = compose_json("sim:tokens=9", &format!(r#"{ONE_TWO},"options":{{"num_predict":-1}}"#));
        assert_eq!((unlimited.len(), unlimited.done_reason), (9, "stop"));
    }

    #[test]
    fn thinking_comes_first_and_can_be_switched_off() {
        let answer = compose_json("sim:think,echo", ONE_TWO);
        assert_eq!(answer.joined(false, usize::MAX), "one two three four");
        assert!(answer.joined(true, usize::MAX).contains("4 words"));
        assert!(answer.piece(0).unwrap().0);
        let quiet = compose_json("sim:think,echo", &format!(r#"{ONE_TWO},"think":false"#));
        assert_eq!(quiet.joined(true, usize::MAX), "");
    }

    #[test]
    fn the_first_tool_is_called_once_and_its_result_is_answered_to() {
        let tools = r#""tools":[{"type":"function","function":{"name":"weather","parameters":{"type":"object",
            "properties":{"city":{"type":"string"}}}}}]"#;
        let answer = compose_json("sim:tools,echo", &format!("{ONE_TWO},{tools}"));
        assert!(answer.tool_calls.contains(r#""name":"weather""#), "{}", answer.tool_calls);
        assert!(answer.tool_calls.contains(r#""arguments":{"city":"one two three four"}"#));
        assert_eq!(answer.len(), 0);
        let messages = r#""messages":[{"role":"user","content":"hm"},{"role":"assistant","content":""},{"role":"tool","content":"sunny"}]"#;
        let after = compose_json("sim:tools,echo", &format!("{messages},{tools}"));
        assert_eq!((after.tool_calls.as_str(), after.joined(false, 99).as_str()), ("", "hm"));
        let again = compose_json("sim:tools=2,calls=3,echo", &format!("{messages},{tools}")).tool_calls;
        assert_eq!(again.matches(r#""name":"weather""#).count(), 3, "{again}");
    }

    #[test]
    fn a_demanded_format_is_kept_to() {
        let schema = r#""format":{"type":"object","properties":{"n":{"type":"integer"}}}"#;
        assert_eq!(compose_json("simulated", &format!("{ONE_TWO},{schema}")).joined(false, 99), r#"{"n":1}"#);
        let json = compose_json("simulated", &format!(r#"{ONE_TWO},"format":"json""#)).joined(false, 99);
        assert_eq!(json, r#"{"answer":"one two three four"}"#);
        let wrong = compose_json("sim:misform", &format!("{ONE_TWO},{schema}")).joined(false, 99);
        assert_eq!(wrong, r#"["one two three four"]"#);
    }

    proptest! {
        #[test]
        fn an_echo_is_byte_for_byte_the_message(text in any::<String>()) {
            let body = json!({"model": "sim:echo", "messages": [{"role": "user", "content": text}]}).to_string();
            let run: Run<'_> = serde_json::from_str(&body).unwrap();
            let answer = compose(&Script::parse("sim:echo").unwrap().unwrap(), &run);
            prop_assert_eq!(answer.joined(false, usize::MAX), text);
        }
    }
}
