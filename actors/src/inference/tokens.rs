//! How many tokens a text has, as far as one can know without the model's tokeniser: characters are counted by class, each
//! class has a weight that follows from the model's family, and a factor per model is learnt from the counts that its
//! server reports. Pure, except for the lock around what was learnt; shared by all bots.
//!
//! The weights are first guesses: a letter of English is about a quarter of a token, an ideograph about one, whatever its
//! bytes. What matters is that they are right relative to each other; the factor corrects the rest.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

/// Tokens that a chat template adds to a message, roughly.
pub(crate) const PER_MESSAGE: u32 = 4;
/// Models of which is known what was learnt; the one that was used longest ago is forgotten first.
const MODELS: usize = 256;
/// Prompts with fewer tokens say too little about their text.
const LEAST: f64 = 64.0;
/// What a template says of its own about tools is seldom more, in tokens.
const PREAMBLE: f64 = 256.0;
/// Range of what is believed of a count, relative to the first guess. A server that counts only what it had not in its cache
/// reports next to nothing: that is no measurement.
const BELIEVED: (f64, f64) = (0.5, 4.0);
/// How far the factor moves towards a measurement that is above it, and to one below it. Too many tokens make a prompt
/// fail, too few only leave room; and a count may be low because a part of the prompt was cached.
const RATE: (f64, f64) = (0.5, 0.125);

/// A text in characters, by class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TextSize {
    ascii: u32,
    alphabetic: u32,
    dense: u32,
    other: u32,
}

impl TextSize {
    pub fn of(text: &str) -> Self {
        let mut size = Self::default();
        if text.is_ascii() {
            size.ascii = u32::try_from(text.len()).unwrap_or(u32::MAX);
            return size;
        }
        for c in text.chars() {
            let class = match u32::from(c) {
                0..=0x7F => &mut size.ascii,
                // Latin with accents, Greek, Cyrillic, Hebrew, Arabic, the alphabets of India.
                0x80..=0x0DFF | 0x1E00..=0x1FFF => &mut size.alphabetic,
                // Ideographs, kana, hangul, Thai and what else is written without spaces.
                0x0E00..=0x1DFF
                | 0x3000..=0xA4CF
                | 0xAC00..=0xD7AF
                | 0xF900..=0xFAFF
                | 0xFF00..=0xFFEF
                | 0x20000..=0x3FFFF => &mut size.dense,
                // Symbols, emoji.
                _ => &mut size.other,
            };
            *class = class.saturating_add(1);
        }
        size
    }

    /// Both texts.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            ascii: self.ascii.saturating_add(other.ascii),
            alphabetic: self.alphabetic.saturating_add(other.alphabetic),
            dense: self.dense.saturating_add(other.dense),
            other: self.other.saturating_add(other.other),
        }
    }
}

/// Tokens per character of each class.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Weights {
    ascii: f64,
    alphabetic: f64,
    dense: f64,
    other: f64,
}

/// Vocabularies of 100,000 tokens and more, trained on many languages.
const LARGE: Weights = Weights { ascii: 0.24, alphabetic: 0.4, dense: 0.75, other: 2.0 };
/// The same size, trained mostly on English.
const LARGE_ENGLISH: Weights = Weights { ascii: 0.24, alphabetic: 0.5, dense: 1.0, other: 2.0 };
/// 32,000 tokens: other scripts fall apart into bytes.
const SMALL: Weights = Weights { ascii: 0.29, alphabetic: 0.6, dense: 1.6, other: 3.0 };
/// Nothing is known.
const UNKNOWN: Weights = Weights { ascii: 0.25, alphabetic: 0.5, dense: 1.0, other: 2.0 };

/// Beginnings of names of models and families, the longer one of two that fit first.
const FAMILIES: &[(&str, Weights)] = &[
    ("codellama", SMALL),
    ("command-r", LARGE),
    ("deepseek", LARGE),
    ("gemma", LARGE),
    ("glm", LARGE),
    ("gpt-oss", LARGE),
    ("gptoss", LARGE),
    ("granite", LARGE_ENGLISH),
    ("llama2", SMALL),
    ("llama3", LARGE_ENGLISH),
    ("llama4", LARGE),
    ("mistral-nemo", LARGE),
    ("mistral-small", LARGE),
    ("mistral", SMALL),
    ("mixtral", SMALL),
    ("mllama", LARGE_ENGLISH),
    ("phi3", SMALL),
    ("phi4", LARGE_ENGLISH),
    ("qwen", LARGE),
    ("smollm", LARGE_ENGLISH),
    ("tinyllama", SMALL),
    ("vicuna", SMALL),
];

fn weights(model: &str, family: &str) -> Weights {
    // `registry/user/llama3.2:3b` is a llama3.
    let model = model.rsplit('/').next().unwrap_or(model).to_ascii_lowercase();
    let family = family.to_ascii_lowercase();
    let of = |name: &str| FAMILIES.iter().find(|(start, _)| name.starts_with(start)).map(|(_, w)| *w);
    of(&model).or_else(|| of(&family)).unwrap_or(UNKNOWN)
}

/// A prompt as a server counted it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counted {
    /// Its text.
    pub size: TextSize,
    /// The declarations of tools that went with it.
    pub tools: TextSize,
    pub messages: usize,
    pub tokens: u32,
    /// A longer one was refused by a server, though it was estimated to fit.
    pub refuted: bool,
}

/// Estimates tokens for one model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Estimator {
    weights: Weights,
    /// Learnt: tokens for each that the weights foretell.
    factor: f64,
}

impl Default for Estimator {
    fn default() -> Self {
        Self { weights: UNKNOWN, factor: 1.0 }
    }
}

impl Estimator {
    fn guess(self, size: TextSize) -> f64 {
        let Weights { ascii, alphabetic, dense, other } = self.weights;
        let of = |characters: u32, weight: f64| f64::from(characters) * weight;
        of(size.ascii, ascii)
            + of(size.alphabetic, alphabetic)
            + of(size.dense, dense)
            + of(size.other, other)
    }

    /// Tokens of a text of this size, alone.
    pub fn tokens(self, size: TextSize) -> u32 {
        (self.guess(size) * self.factor).ceil() as u32
    }

    /// Tokens of a text, alone.
    pub fn text(self, text: &str) -> u32 {
        self.tokens(TextSize::of(text))
    }

    /// What the factor was for a prompt with so much text; none where that is too short to tell.
    fn measured(self, size: TextSize, counted: Counted) -> Option<f64> {
        let guess = self.guess(size);
        let template = PER_MESSAGE.saturating_mul(u32::try_from(counted.messages).unwrap_or(u32::MAX));
        (guess >= LEAST).then(|| f64::from(counted.tokens.saturating_sub(template)) / guess)
    }

    /// Whether it can be the count of the whole prompt. Tools don't count here: some templates tell them in few words.
    pub fn believes(self, counted: Counted) -> bool {
        self.measured(counted.size, counted).is_none_or(|measured| measured >= BELIEVED.0)
    }

    fn learn(&mut self, counted: Counted) {
        self.follow(self.measured(counted.size.plus(counted.tools), counted), counted);
    }

    /// Learns from a prompt with tools. Templates say much of their own about tools, however short the prompt: it counts as if so
    /// much text came with it that is as `plain` says.
    fn learn_with_tools(&mut self, counted: Counted, plain: Self) {
        let size = counted.size.plus(counted.tools);
        let guess = self.guess(size);
        let measured = self.measured(size, counted);
        let tempered = measured.map(|m| (m * guess + PREAMBLE * plain.factor) / (guess + PREAMBLE));
        self.follow(tempered, counted);
    }

    fn follow(&mut self, measured: Option<f64>, counted: Counted) {
        if let Some(measured) = measured.filter(|measured| *measured >= BELIEVED.0) {
            let away = measured.min(BELIEVED.1) - self.factor;
            // Where the estimate is known to be wrong, the count replaces it.
            let up = if counted.refuted { 1.0 } else { RATE.0 };
            self.factor += away * if away > 0.0 { up } else { RATE.1 };
        }
    }
}

/// What was learnt of each model. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Estimates(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    models: HashMap<String, Learnt>,
    used: u64,
}

/// What was learnt of one model.
#[derive(Debug)]
struct Learnt {
    plain: Estimator,
    /// Of prompts with tools, which templates put into words of their own; as without them until there was one.
    with_tools: Option<Estimator>,
    /// When it was used last.
    used: u64,
}

impl Learnt {
    fn of(&self, tools: bool) -> Estimator {
        self.with_tools.filter(|_| tools).unwrap_or(self.plain)
    }
}

impl Estimates {
    /// The estimator of a model, for prompts with or without tools; `family` is asked for where it is a new one.
    pub fn of(&self, model: &str, tools: bool, family: impl FnOnce() -> String) -> Estimator {
        if let Some(known) = self.change(model, |learnt| learnt.of(tools)) {
            return known;
        }
        // Not under the lock: whoever tells the family has locks of its own.
        let new = Estimator { weights: weights(model, &family()), factor: 1.0 };
        let known = &mut *self.0.lock();
        if known.models.len() >= MODELS
            && let Some(oldest) =
                known.models.iter().min_by_key(|(_, learnt)| learnt.used).map(|(m, _)| m.clone())
        {
            known.models.remove(&oldest);
        }
        let new = Learnt { plain: new, with_tools: None, used: known.used };
        known.models.entry(model.to_owned()).or_insert(new).of(tools)
    }

    fn change<T>(&self, model: &str, change: impl FnOnce(&mut Learnt) -> T) -> Option<T> {
        let known = &mut *self.0.lock();
        let learnt = known.models.get_mut(model)?;
        known.used += 1;
        learnt.used = known.used;
        Some(change(learnt))
    }

    /// Learns from a prompt without images, of a bot with or without tools. What is not believed teaches nothing.
    pub fn learn(&self, model: &str, tools: bool, counted: Counted) {
        self.change(model, |learnt| {
            let plain = learnt.plain;
            match tools {
                true => learnt.with_tools.get_or_insert(plain).learn_with_tools(counted, plain),
                false => learnt.plain.learn(counted),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn english() -> TextSize {
        TextSize::of(&"word ".repeat(400))
    }

    fn counted(messages: usize, tokens: u32) -> Counted {
        Counted { size: english(), tools: TextSize::default(), messages, tokens, refuted: false }
    }

    #[test]
    fn characters_count_by_their_script_and_not_by_their_bytes() {
        let tokens = |text: &str| Estimator::default().text(text);
        assert_eq!(tokens(&"abcd".repeat(100)), 100);
        assert_eq!(tokens(&"漢字かな".repeat(100)), 400);
        assert!(tokens(&"слово".repeat(100)) < 300, "ten bytes, five letters");
        assert_eq!(tokens(""), 0);
    }

    #[test]
    fn the_first_guess_follows_the_name_and_else_the_family() {
        let name = |model, family| weights(model, family);
        assert_eq!(name("llama3.2:3b", "llama"), LARGE_ENGLISH);
        assert_eq!(name("hf.co/someone/Qwen2.5-7B-GGUF:Q4_K_M", ""), LARGE);
        assert_eq!(name("mistral-nemo", ""), LARGE);
        assert_eq!(name("mistral:7b", ""), SMALL);
        assert_eq!(name("our-own", "gemma3"), LARGE);
        assert_eq!(name("our-own", ""), UNKNOWN);
    }

    #[test]
    fn bots_share_what_is_learnt_of_their_model() {
        let estimates = Estimates::default();
        let of = |model: &str| estimates.of(model, false, String::new).tokens(english());
        assert_eq!((of("a"), of("b")), (500, 500));
        for _ in 0..20 {
            estimates.learn("a", false, counted(0, 1000));
        }
        assert_eq!((of("a"), of("b")), (1000, 500));
    }

    #[test]
    fn a_count_after_a_refusal_is_believed_at_once() {
        let estimates = Estimates::default();
        let of = || estimates.of("a", false, String::new).tokens(english());
        assert_eq!(of(), 500);
        estimates.learn("a", false, counted(0, 1500));
        assert_eq!(of(), 1000, "half the way");
        estimates.learn("a", false, Counted { refuted: true, ..counted(0, 1500) });
        assert_eq!(of(), 1500);
    }

    #[test]
    fn prompts_with_tools_teach_of_their_like_and_count_the_tools() {
        let estimates = Estimates::default();
        let of = |tools| estimates.of("a", tools, String::new).tokens(english());
        let of_c = || estimates.of("c", true, String::new).tokens(english());
        assert_eq!(of_c(), 500);
        assert_eq!((of(false), of(true)), (500, 500));
        let declared = Counted { tools: english(), refuted: true, ..counted(0, 3000) };
        estimates.learn("a", true, declared);
        assert_eq!(
            (of(false), of(true)),
            (500, 1297),
            "a little less than 3, as a template has words of its own"
        );
        let short = TextSize::of(&"a".repeat(400));
        for _ in 0..20 {
            let tokens = 4 + 100 + 150;
            estimates.learn("c", true, Counted { size: short, refuted: true, ..counted(1, tokens) });
        }
        assert!(of_c() < 750, "150 tokens of a template are not taken for those of the text");
        estimates.of("b", false, String::new);
        estimates.learn("b", false, Counted { refuted: true, ..counted(0, 1000) });
        let with_tools = estimates.of("b", true, String::new).tokens(english());
        assert_eq!(with_tools, 1000, "as without tools, until there was one with");
    }

    #[test]
    fn a_count_of_what_was_not_cached_teaches_nothing() {
        let estimates = Estimates::default();
        let estimator = estimates.of("a", false, String::new);
        let short = Counted { size: TextSize::of("hi"), ..counted(1, 1) };
        for (what, believed) in [(counted(1, 1), false), (counted(1, 200), false), (short, true)] {
            assert_eq!(estimator.believes(what), believed, "{what:?}");
            estimates.learn("a", false, what);
            assert_eq!(estimates.of("a", false, String::new), estimator, "{what:?}");
        }
    }

    #[test]
    fn as_many_models_are_known_as_allowed_and_the_unused_are_forgotten_first() {
        let estimates = Estimates::default();
        for n in 0..2 * MODELS {
            estimates.of(&n.to_string(), false, String::new);
            estimates.learn("0", false, counted(0, 1000));
        }
        assert_eq!(estimates.0.lock().models.len(), MODELS);
        assert_eq!(estimates.of("0", false, String::new).tokens(english()), 1000);
    }

    proptest! {
        #[test]
        fn whatever_is_counted_the_estimate_stays_within_its_range(
            counts in prop::collection::vec(any::<(u32, bool)>(), 0..20), text in ".{0,99}", times in 0usize..9,
        ) {
            let mut estimator = Estimator::default();
            let text = text.repeat(times);
            let size = TextSize::of(&text);
            for (tokens, refuted) in counts {
                estimator.learn(Counted { size, refuted, ..counted(3, tokens) });
            }
            prop_assert!((BELIEVED.0..=BELIEVED.1).contains(&estimator.factor));
            let characters = u32::try_from(text.chars().count()).unwrap_or(u32::MAX);
            prop_assert!(estimator.tokens(size) <= characters * 8 + 1);
        }

        #[test]
        fn two_texts_together_have_the_size_of_both(a in ".{0,100}", b in ".{0,100}") {
            let both = TextSize::of(&format!("{a}{b}"));
            prop_assert_eq!(TextSize::of(&a).plus(TextSize::of(&b)), both);
        }
    }
}
