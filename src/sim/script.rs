//! The script that a model name carries: `sim:tokens=200,gap_ms=5,error_at=10`.
//!
//! Pure: a name goes in, a [`Script`] or a reason comes out. Names without the prefix `sim:` carry no script; they
//! play [`Script::person`].

use thiserror::Error;

/// The prefix of a model name that carries a script.
pub(crate) const PREFIX: &str = "sim:";
/// The longest wait that a script may ask for, in milliseconds.
const MAX_MS: u64 = 600_000;
/// The most tokens that a script may ask for (bounds the memory of one answer).
const MAX_TOKENS: u64 = 100_000;
/// Where garbage comes when the script does not say.
const GARBAGE_AT: u32 = 3;

/// Where the text of an answer comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// Answers sensibly to a person.
    Person,
    /// The last user message, as it is.
    Echo,
    /// The system prompt, as it is.
    System,
    /// So many tokens of 5 bytes each (`0000 0001 …`).
    Tokens(u32),
    /// So many tokens of multi-byte text.
    Utf8(u32),
}

/// What goes wrong, and after how many tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// An `{"error":…}` line in mid-stream; as HTTP 500 when it comes before the first token.
    Error,
    /// The connection is cut.
    Cut,
    /// Nothing more comes, the connection stays open.
    Stall,
    /// A line that is not JSON and not UTF-8; then the stream ends without a final line.
    Garbage,
    /// The connection is reset.
    Reset,
    /// A line of 10 MB.
    Long,
}

/// An answer that is none, instead of any token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mask {
    /// A page of HTML with status 200.
    Html,
    /// Compressed, which nobody asked for: it would unpack to a thousand times its size.
    Gzip,
    /// A redirect to this port of the machine.
    Redirect(u16),
}

/// How fast the tokens come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// So many milliseconds between two tokens; 0 = as fast as possible.
    Fixed(u64),
    /// 15 to 25 ms between two tokens, so that a person sees the text grow.
    Natural,
}

/// One parsed script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Script {
    pub(crate) source: Source,
    pub(crate) pace: Pace,
    /// Wait before the first token, in milliseconds.
    pub(crate) first_ms: u64,
    /// How long loading takes where the model is not loaded, in milliseconds.
    pub(crate) load_ms: u64,
    /// So many times 503 before each answer.
    pub(crate) busy: u32,
    /// The earliest fault, with the number of tokens before it.
    pub(crate) fault: Option<(u32, Fault)>,
    /// Thinks before it answers.
    pub(crate) think: bool,
    /// So many times it calls the first tools that the request offers before it answers.
    pub(crate) tools: u32,
    /// So many tools at once.
    pub(crate) calls: u32,
    /// So many tokens for one of other models, in what it counts of a prompt.
    pub(crate) count: u32,
    /// Looks at images.
    pub(crate) vision: bool,
    /// Answers a demanded format with something else.
    pub(crate) misform: bool,
    /// Waits after so many tokens of a stream until [`super::Sim::let_go`] or `POST /sim/let_go`.
    pub(crate) hold: Option<u32>,
    /// So many milliseconds between any few bytes.
    pub(crate) drip_ms: u64,
    /// Answers with something else.
    pub(crate) mask: Option<Mask>,
    /// HTTP chunks are cut inside characters and lines.
    pub(crate) chopped: bool,
}

/// Why a model name is not a script.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum ScriptError {
    #[error("the script is empty; try sim:echo or sim:tokens=200,gap_ms=5,first_ms=20")]
    Empty,
    #[error(
        "unknown script key '{key}'; known are echo, system, tokens, gap_ms, first_ms, error_at, cut_at, reset_at, stall_at, \
         hold_at, long_at, busy, load_ms, drip_ms, utf8, think, tools, calls, count, vision, misform, garbage, html, gzip, redirect"
    )]
    UnknownKey { key: String },
    #[error("script key '{key}' is given twice")]
    Twice { key: String },
    #[error("script key '{key}' needs a number from 0 to {max}")]
    Number { key: String, max: u64 },
    #[error("script key '{key}' takes no value")]
    NoValue { key: String },
    #[error("echo, system and tokens exclude each other")]
    TwoSources,
}

impl Script {
    /// The script of names that carry none.
    pub(crate) fn person() -> Self {
        Self {
            source: Source::Person,
            pace: Pace::Natural,
            first_ms: 120,
            load_ms: 0,
            busy: 0,
            fault: None,
            think: false,
            tools: 0,
            calls: 1,
            count: 1,
            vision: true,
            misform: false,
            hold: None,
            drip_ms: 0,
            mask: None,
            chopped: false,
        }
    }

    /// The script in `model`, or `None` where the name does not begin with `sim:`.
    pub(crate) fn parse(model: &str) -> Option<Result<Self, ScriptError>> {
        model.strip_prefix(PREFIX).map(parse_keys)
    }
}

fn parse_keys(text: &str) -> Result<Script, ScriptError> {
    if text.trim().is_empty() {
        return Err(ScriptError::Empty);
    }
    let mut script = Script { pace: Pace::Fixed(0), first_ms: 0, vision: false, ..Script::person() };
    let (mut echo, mut system, mut utf8, mut tokens) = (false, false, false, None);
    let mut seen: Vec<&str> = Vec::new();
    for part in text.split(',') {
        let (key, value) = match part.split_once('=') {
            Some((key, value)) => (key.trim(), Some(value.trim())),
            None => (part.trim(), None),
        };
        if seen.contains(&key) {
            return Err(ScriptError::Twice { key: key.to_owned() });
        }
        seen.push(key);
        match key {
            "echo" => echo = flag(key, value)?,
            "system" => system = flag(key, value)?,
            "utf8" => utf8 = flag(key, value)?,
            "think" => script.think = flag(key, value)?,
            "tools" if value.is_none() => script.tools = 1,
            "tools" => script.tools = count(key, value)?,
            "calls" => script.calls = count(key, value)?,
            "count" => script.count = count(key, value)?,
            "vision" => script.vision = flag(key, value)?,
            "misform" => script.misform = flag(key, value)?,
            "tokens" => tokens = Some(count(key, value)?),
            "gap_ms" => script.pace = Pace::Fixed(number(key, value, MAX_MS)?),
            "first_ms" => script.first_ms = number(key, value, MAX_MS)?,
            "load_ms" => script.load_ms = number(key, value, MAX_MS)?,
            "busy" => script.busy = count(key, value)?,
            "error_at" => script.fail(count(key, value)?, Fault::Error),
            "cut_at" => script.fail(count(key, value)?, Fault::Cut),
            "reset_at" => script.fail(count(key, value)?, Fault::Reset),
            "long_at" => script.fail(count(key, value)?, Fault::Long),
            "hold_at" => script.hold = Some(count(key, value)?),
            "drip_ms" => script.drip_ms = number(key, value, MAX_MS)?,
            "html" if flag(key, value)? => script.mask = Some(Mask::Html),
            "gzip" if flag(key, value)? => script.mask = Some(Mask::Gzip),
            "redirect" => {
                let port = number(key, value, u16::MAX.into())?;
                script.mask = Some(Mask::Redirect(u16::try_from(port).unwrap_or(u16::MAX)));
            }
            "stall_at" => script.fail(count(key, value)?, Fault::Stall),
            "garbage" if value.is_none() => script.fail(GARBAGE_AT, Fault::Garbage),
            "garbage" => script.fail(count(key, value)?, Fault::Garbage),
            _ => return Err(ScriptError::UnknownKey { key: key.to_owned() }),
        }
    }
    script.chopped = utf8 || script.drip_ms > 0;
    // A fault needs tokens around it: without `tokens` the text is long enough to reach past it.
    let default = script.fault.map_or(20, |(at, _)| at.saturating_add(10).max(20));
    script.source = match (echo, system, utf8, tokens) {
        (true, true, ..) | (true, _, _, Some(_)) | (_, true, _, Some(_)) => {
            return Err(ScriptError::TwoSources);
        }
        (true, ..) => Source::Echo,
        (_, true, ..) => Source::System,
        (_, _, true, tokens) => Source::Utf8(tokens.unwrap_or(default)),
        (_, _, false, tokens) => Source::Tokens(tokens.unwrap_or(default)),
    };
    Ok(script)
}

impl Script {
    /// Keeps the earliest of all faults.
    fn fail(&mut self, at: u32, fault: Fault) {
        if self.fault.is_none_or(|(earliest, _)| at < earliest) {
            self.fault = Some((at, fault));
        }
    }
}

fn flag(key: &str, value: Option<&str>) -> Result<bool, ScriptError> {
    match value {
        None => Ok(true),
        Some(_) => Err(ScriptError::NoValue { key: key.to_owned() }),
    }
}

fn number(key: &str, value: Option<&str>, max: u64) -> Result<u64, ScriptError> {
    value
        .and_then(|v| v.parse().ok())
        .filter(|n| *n <= max)
        .ok_or_else(|| ScriptError::Number { key: key.to_owned(), max })
}

fn count(key: &str, value: Option<&str>) -> Result<u32, ScriptError> {
    let n = number(key, value, MAX_TOKENS)?;
    Ok(u32::try_from(n).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;

    use super::*;

    fn parse(name: &str) -> Result<Script, ScriptError> {
        Script::parse(name).expect("a name with the prefix")
    }

    #[test]
    fn a_name_without_the_prefix_carries_no_script() {
        assert!(Script::parse("simulated").is_none());
        assert!(Script::parse("llama3.2:latest").is_none());
    }

    #[test]
    fn every_key_of_the_contract_is_understood() {
        let script =
            parse("sim:tokens=200,gap_ms=5,first_ms=20,busy=2,load_ms=3000,think,tools,utf8").unwrap();
        assert_eq!(script.source, Source::Utf8(200));
        assert_eq!(script.pace, Pace::Fixed(5));
        assert_eq!((script.first_ms, script.load_ms, script.busy), (20, 3000, 2));
        assert!(script.think && script.tools == 1 && script.chopped);
        let script = parse("sim:tools=3,calls=2,count=3,vision,misform").unwrap();
        assert_eq!((script.tools, script.calls, script.count), (3, 2, 3));
        assert!(script.vision && script.misform);
        assert_eq!(parse("sim:echo").unwrap().source, Source::Echo);
        assert_eq!(parse("sim:system").unwrap().source, Source::System);
        assert_eq!(parse("sim:error_at=10").unwrap().fault, Some((10, Fault::Error)));
        assert_eq!(parse("sim:garbage").unwrap().fault, Some((3, Fault::Garbage)));
    }

    #[test]
    fn the_earliest_fault_wins_and_the_text_reaches_past_it() {
        let script = parse("sim:stall_at=90,cut_at=40").unwrap();
        assert_eq!(script.fault, Some((40, Fault::Cut)));
        assert_eq!(script.source, Source::Tokens(50));
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(parse("sim:"), Err(ScriptError::Empty));
        assert_eq!(parse("sim:tokenz=1"), Err(ScriptError::UnknownKey { key: "tokenz".into() }));
        assert_eq!(parse("sim:echo,echo"), Err(ScriptError::Twice { key: "echo".into() }));
        assert_eq!(parse("sim:echo=1"), Err(ScriptError::NoValue { key: "echo".into() }));
        assert_eq!(
            parse("sim:tokens=-1"),
            Err(ScriptError::Number { key: "tokens".into(), max: MAX_TOKENS })
        );
        assert_eq!(parse("sim:tokens"), Err(ScriptError::Number { key: "tokens".into(), max: MAX_TOKENS }));
        for both in ["sim:echo,tokens=3", "sim:system,tokens=3", "sim:echo,system"] {
            assert_eq!(parse(both), Err(ScriptError::TwoSources));
        }
        assert_eq!(parse("sim:echo,"), Err(ScriptError::UnknownKey { key: String::new() }));
    }

    proptest! {
        #[test]
        fn any_name_gives_a_script_or_a_reason(text in "sim:[ -~é]{0,60}") {
            let _ = parse(&text);
        }

        #[test]
        fn the_order_of_keys_does_not_matter(
            (keys, shuffled) in proptest::sample::subsequence(
                vec!["tokens=7", "gap_ms=3", "first_ms=9", "error_at=5", "cut_at=6", "stall_at=8", "busy=2",
                     "load_ms=30", "drip_ms=2", "utf8", "think", "tools=2", "calls=3", "vision", "misform", "garbage",
                     "reset_at=9", "long_at=4", "hold_at=6"], 1..=19)
                .prop_flat_map(|keys| (Just(keys.clone()), Just(keys).prop_shuffle()))
        ) {
            prop_assert_eq!(
                parse(&format!("sim:{}", keys.join(","))),
                parse(&format!("sim:{}", shuffled.join(",")))
            );
        }

        #[test]
        fn numbers_within_the_limits_are_kept(tokens in 0..=100_000u32, gap in 0..=600_000u64) {
            let script = parse(&format!("sim:tokens={tokens},gap_ms={gap}")).unwrap();
            prop_assert_eq!(script.source, Source::Tokens(tokens));
            prop_assert_eq!(script.pace, Pace::Fixed(gap));
        }
    }
}
