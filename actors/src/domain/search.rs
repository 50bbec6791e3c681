//! Words, queries and snippets of the full-text search, the same for every database. Pure.
//!
//! A text is taken apart here, not by a database: compatibility forms are made plain, accents dropped, case folded; a
//! word is a run of letters and digits. In scripts that put no spaces between words (Chinese, Japanese, Thai, Lao, Khmer,
//! Burmese) every character is a word of its own, and what a query says in one run is a phrase: so any part of a text
//! is found, also one of a single character, which an index of trigrams would not find.
//!
//! A query: words must all be there; `"in quotes"` in this order side by side; `pre*` begins like that. Nothing else is
//! special.

use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};

/// Words of a message that are indexed.
pub const MAX_WORDS: usize = 16_000;
/// Characters of a word that count.
const MAX_WORD: usize = 64;
/// Longest query, in bytes.
const MAX_QUERY: usize = 256;
/// Most words in a query.
const MAX_QUERY_WORDS: usize = 32;
/// Characters of a snippet, and of those before the match.
const SNIPPET: usize = 160;
const BEFORE: usize = 40;

/// A word and where it stands in its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// As it is indexed.
    pub text: String,
    /// Its first byte in the text.
    pub start: usize,
    /// The byte behind it.
    pub end: usize,
}

/// The words of a text, in their order.
#[must_use]
pub fn words(text: &str) -> Vec<Word> {
    let mut words = vec![];
    let mut current: Option<(Word, usize)> = None;
    for (start, c) in text.char_indices() {
        let end = start + c.len_utf8();
        for f in folded(c) {
            let alone = stands_alone(f);
            if alone || !f.is_alphanumeric() {
                words.extend(current.take().map(|(word, _)| word));
            }
            if alone {
                words.push(Word { text: f.into(), start, end });
            } else if f.is_alphanumeric() {
                let (word, length) =
                    current.get_or_insert_with(|| (Word { text: String::new(), start, end }, 0));
                if *length < MAX_WORD {
                    word.text.push(f);
                    *length += 1;
                }
                word.end = end;
            }
        }
        if words.len() >= MAX_WORDS {
            words.truncate(MAX_WORDS);
            return words;
        }
    }
    words.extend(current.map(|(word, _)| word));
    words
}

/// A character without form, accent and case; nothing for one that only joins or marks others.
fn folded(c: char) -> impl Iterator<Item = char> {
    let plain = c.is_ascii() || is_kana(c);
    let simple = plain.then(|| c.to_ascii_lowercase());
    let full = (!plain && !is_invisible(c)).then(|| {
        let upper = c.nfkd().flat_map(char::to_uppercase).flat_map(char::to_lowercase);
        upper.nfkd().filter(|f| !is_combining_mark(*f) && !is_invisible(*f))
    });
    simple.into_iter().chain(full.into_iter().flatten())
}

/// Soft hyphen, zero-width (non-)joiner, word joiner.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}')
}

/// Their sound marks are no accents.
fn is_kana(c: char) -> bool {
    matches!(c, '\u{3041}'..='\u{3096}' | '\u{309d}' | '\u{309e}' | '\u{30a1}'..='\u{30fa}' | '\u{30fc}'..='\u{30fe}' | '\u{31f0}'..='\u{31ff}')
}

/// Whether a character is a word of its own.
fn stands_alone(c: char) -> bool {
    is_kana(c)
        || (matches!(c,
            '\u{e01}'..='\u{eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}'
            | '\u{3005}'..='\u{3007}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}'
            | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
            && c.is_alphanumeric())
}

/// Words that stand side by side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Phrase {
    /// At least one.
    pub words: Vec<String>,
    /// Whether the last one only begins like this.
    pub prefix: bool,
}

/// What is searched for: all of the phrases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    phrases: Vec<Phrase>,
}

/// Why a text is no query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidQuery {
    /// There is no word in it.
    #[error("must have at least one letter or digit")]
    Empty,
    /// It is too long.
    #[error("at most {MAX_QUERY} bytes and {MAX_QUERY_WORDS} words")]
    TooLong,
}

impl Query {
    /// Reads a query.
    ///
    /// # Errors
    /// [`InvalidQuery`] says which rule it breaks.
    pub fn parse(text: &str) -> Result<Self, InvalidQuery> {
        if text.len() > MAX_QUERY {
            return Err(InvalidQuery::TooLong);
        }
        let mut phrases = vec![];
        let mut rest = text.trim_start();
        while !rest.is_empty() {
            let (run, behind) = match rest.strip_prefix('"') {
                // A quote that is never closed goes to the end.
                Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
                None => {
                    rest.split_at(rest.find(|c: char| c.is_whitespace() || c == '"').unwrap_or(rest.len()))
                }
            };
            let star = behind.strip_prefix('*');
            let words: Vec<String> = words(run).into_iter().map(|w| w.text).collect();
            if !words.is_empty() {
                let prefix = star.is_some() || (!rest.starts_with('"') && run.ends_with('*'));
                phrases.push(Phrase { words, prefix });
            }
            rest = star.unwrap_or(behind).trim_start();
        }
        match phrases.iter().map(|p| p.words.len()).sum::<usize>() {
            0 => Err(InvalidQuery::Empty),
            n if n > MAX_QUERY_WORDS => Err(InvalidQuery::TooLong),
            _ => Ok(Self { phrases }),
        }
    }

    /// What must all be there.
    #[must_use]
    pub fn phrases(&self) -> &[Phrase] {
        &self.phrases
    }

    /// How often its phrases stand in these words; none where one of them is missing.
    #[must_use]
    pub fn matches(&self, words: &[Word]) -> Option<usize> {
        let counts: Vec<usize> = self.phrases.iter().map(|p| p.places(words).count()).collect();
        counts.iter().all(|n| *n > 0).then(|| counts.iter().sum())
    }

    /// The part of a text around the first match, on one line.
    #[must_use]
    pub fn snippet(&self, text: &str) -> String {
        let words = words(text);
        let firsts = self.phrases.iter().filter_map(|p| p.places(&words).next());
        let at = firsts.min().and_then(|n| words.get(n)).map_or(0, |word| word.start);
        let (head, tail) = text.split_at(at);
        let mut from = head.char_indices().rev().take(BEFORE).last().map_or(at, |(n, _)| n);
        let mut to = at + tail.char_indices().nth(SNIPPET - BEFORE).map_or(tail.len(), |(n, _)| n);
        // Not in the middle of a word, if there is a better place near by.
        if from > 0 {
            let space = text.get(from..at).and_then(|part| part.find(char::is_whitespace));
            from += space.unwrap_or(0);
        }
        if to < text.len() {
            let space = text.get(at..to).and_then(|part| part.rfind(char::is_whitespace));
            to = space.filter(|n| *n > 0).map_or(to, |n| at + n);
        }
        let middle = text.get(from..to).unwrap_or_default();
        let middle = middle.split_whitespace().collect::<Vec<_>>().join(" ");
        let dots = |cut: bool| if cut { "…" } else { "" };
        format!("{}{middle}{}", dots(from > 0), dots(to < text.len()))
    }
}

impl Phrase {
    /// Where it begins, each time.
    fn places<'w>(&'w self, words: &'w [Word]) -> impl Iterator<Item = usize> + 'w {
        let last = self.words.len().saturating_sub(1);
        words.windows(self.words.len().max(1)).enumerate().filter_map(move |(n, window)| {
            let fits = window.iter().zip(&self.words).enumerate().all(|(k, (word, wanted))| {
                word.text == *wanted || (k == last && self.prefix && word.text.starts_with(wanted.as_str()))
            });
            fits.then_some(n)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn texts(text: &str) -> Vec<String> {
        words(text).into_iter().map(|w| w.text).collect()
    }

    #[test]
    fn words_have_no_case_no_accents_and_no_forms() {
        for (text, expected) in [
            ("Hello, WORLD!", &["hello", "world"][..]),
            ("Ünïcödé naïve Ångström", &["unicode", "naive", "angstrom"]),
            ("Straße STRASSE", &["strasse", "strasse"]),
            ("ΣΊΣΥΦΟΣ σίσυφος", &["σισυφοσ", "σισυφοσ"]),
            ("ﬁne ① ２０２４ Ⅳ", &["fine", "1", "2024", "iv"]),
            ("İstanbul e\u{301}te\u{301}", &["istanbul", "ete"]),
            ("snake_case don't x86-64", &["snake", "case", "don", "t", "x86", "64"]),
            ("co\u{ad}operate", &["cooperate"]),
            ("東京タワー2階", &["東", "京", "タ", "ワ", "ー", "2", "階"]),
            ("がか ｶ", &["が", "か", "カ"]),
            ("한국", &["한국".nfkd().collect::<String>().leak()]),
            ("🙂 — …", &[]),
        ] {
            assert_eq!(texts(text), expected, "{text}");
        }
    }

    #[test]
    fn a_word_knows_where_it_stands_and_a_long_one_counts_by_its_begin() {
        let text = "a Ünï,東";
        let found: Vec<&str> = words(text).iter().map(|w| &text[w.start..w.end]).collect();
        assert_eq!(found, ["a", "Ünï", "東"]);
        assert_eq!(words(&"x".repeat(1000))[0].text.len(), MAX_WORD);
        assert_eq!(words(&"x ".repeat(MAX_WORDS + 5)).len(), MAX_WORDS);
    }

    #[test]
    fn a_query_has_words_phrases_and_prefixes_and_nothing_else() {
        let phrase =
            |words: &[&str], prefix| Phrase { words: words.iter().map(|w| (*w).into()).collect(), prefix };
        for (text, expected) in [
            ("Two words", vec![phrase(&["two"], false), phrase(&["words"], false)]),
            ("\"two Words\" x", vec![phrase(&["two", "words"], false), phrase(&["x"], false)]),
            ("pre* \"two wor\"*", vec![phrase(&["pre"], true), phrase(&["two", "wor"], true)]),
            ("foo-bar東京", vec![phrase(&["foo", "bar", "東", "京"], false)]),
            ("a \"never closed", vec![phrase(&["a"], false), phrase(&["never", "closed"], false)]),
            (
                "a OR NOT b:c ^d (e)",
                ["a", "or", "not"]
                    .iter()
                    .map(|w| phrase(&[w], false))
                    .chain([phrase(&["b", "c"], false), phrase(&["d"], false), phrase(&["e"], false)])
                    .collect(),
            ),
            ("* \"\" - x", vec![phrase(&["x"], false)]),
        ] {
            assert_eq!(Query::parse(text).unwrap().phrases, expected, "{text}");
        }
        for empty in ["", "  ", "\"\"", "* ?!", "\"", "🙂"] {
            assert_eq!(Query::parse(empty), Err(InvalidQuery::Empty), "{empty:?}");
        }
        assert_eq!(Query::parse(&"x".repeat(257)), Err(InvalidQuery::TooLong));
        assert_eq!(Query::parse(&"x ".repeat(33)), Err(InvalidQuery::TooLong));
    }

    #[test]
    fn a_snippet_shows_the_first_match_on_one_line() {
        let query = Query::parse("needle").unwrap();
        assert_eq!(query.snippet("a\n needle  here"), "a needle here");
        let long = format!("{}Néedle{}", "hay ".repeat(100), " hay".repeat(100));
        let snippet = query.snippet(&long);
        assert!(
            snippet.starts_with("…hay") && snippet.contains("Néedle") && snippet.ends_with("hay…"),
            "{snippet}"
        );
        assert!(snippet.chars().count() <= SNIPPET + 2, "{snippet}");
        assert_eq!(Query::parse("absent").unwrap().snippet("short"), "short");
        let run = format!("{}京", "東".repeat(500));
        assert!(Query::parse("京").unwrap().snippet(&run).ends_with("東京"));
    }

    proptest! {
        #[test]
        fn words_of_words_are_the_same(text in "\\PC{0,60}") {
            let once = texts(&text);
            prop_assert_eq!(texts(&once.join(" ")), once);
        }

        #[test]
        fn every_part_of_a_text_is_found_and_no_snippet_is_long(text in "[a-cé東京 ]{1,300}", from in 0usize..300, to in 0usize..300) {
            let found = words(&text);
            let part: Vec<_> = found.iter().skip(from).take(to.min(10)).map(|w| w.text.clone()).collect();
            if let Ok(query) = Query::parse(&format!("\"{}\"", part.join(" "))) {
                prop_assert!(query.matches(&found).is_some());
                prop_assert!(query.snippet(&text).chars().count() <= SNIPPET + 2);
            }
        }
    }
}
