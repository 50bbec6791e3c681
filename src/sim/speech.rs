//! What the scripted model says to a person. Pure: the messages go in, the text comes out.
//!
//! It greets, explains that it is scripted, repeats, counts, tells stories of two lengths and writes Markdown. It knows
//! nothing but the messages of the request, and says so when asked.

use std::fmt::Write;

use crate::sim::request::Message;

mod markdown;
mod story;

/// The highest number it counts to (bounds the answer).
const COUNT_LIMIT: u64 = 5000;
/// So much of a message is quoted back.
const QUOTE_CHARS: usize = 400;

const ABOUT: &str = "I am **simulated**: a scripted model that answers from rules, not from knowledge. Nothing is \
downloaded and nothing is remembered beyond the messages of this conversation. Try one of these:\n\n\
- `count to 300` for a long answer that can be stopped or reloaded half way\n\
- `write a long story`\n\
- `show me markdown` for a code block, a table and a list\n\
- `repeat after me: …`\n\
- `what did I say before?`\n\n\
With a real Ollama server running, choose one of its models for real answers.";

/// The answer to the last user message of `messages`; `seed` chooses between equal wordings.
pub(crate) fn reply(messages: &[Message<'_>], seed: u64) -> String {
    let Some(at) = messages.iter().rposition(|m| m.role == "user") else {
        return "There is no user message in this request, so there is nothing to answer.".to_owned();
    };
    let said = messages[at].content.trim();
    if let Some(result) = messages[at..].iter().rev().find(|m| m.role == "tool") {
        return format!("The tool answered: {}", quote(&result.content));
    }
    let earlier: Vec<&str> =
        messages[..at].iter().filter(|m| m.role == "user").map(|m| m.content.as_ref()).collect();
    let system = messages.iter().find(|m| m.role == "system").map(|m| m.content.as_ref());
    let lower = said.to_lowercase();
    let words: Vec<&str> =
        lower.split(|c: char| !c.is_alphanumeric() && c != '\'').filter(|w| !w.is_empty()).collect();
    let has = |word: &str| words.contains(&word);

    if let Some(text) = repeated(said, &lower) {
        text
    } else if has("count")
        && let Some(text) = count(&words)
    {
        text
    } else if has("system") && has("prompt") {
        match system {
            Some(text) => format!("The system prompt of this request is: {}", quote(text)),
            None => "This request carries no system prompt.".to_owned(),
        }
    } else if has("remember") || lower.contains("did i say") || lower.contains("my last message") {
        recall(&earlier)
    } else if let Some(text) = markdown::wanted(&words) {
        text
    } else if has("story") || has("essay") || has("poem") {
        story::tell(seed, if has("long") { 90 } else { 8 })
    } else if has("help")
        || lower.contains("who are you")
        || lower.contains("what are you")
        || lower.contains("can you do")
    {
        ABOUT.to_owned()
    } else if words.first().is_some_and(|w| GREETINGS.contains(w)) && words.len() <= 6 {
        greet(seed, earlier.len())
    } else if (has("thanks") || has("thank")) && words.len() <= 6 {
        "You are welcome. It took no thinking at all, since my answers are scripted.".to_owned()
    } else if has("bye") || has("goodbye") {
        "Goodbye. This conversation is stored, so you can come back to it at any time.".to_owned()
    } else if said.is_empty() {
        "Your message is empty. Say hello, or ask what I can do.".to_owned()
    } else {
        fallback(said, earlier.len(), seed)
    }
}

const GREETINGS: [&str; 12] = [
    "hi",
    "hello",
    "hey",
    "hallo",
    "moin",
    "servus",
    "bonjour",
    "hola",
    "ciao",
    "good",
    "greetings",
    "howdy",
];

fn greet(seed: u64, earlier: usize) -> String {
    let hello = ["Hello!", "Hi there!", "Good to see you!"][pick(seed, 3)];
    if earlier == 0 {
        format!(
            "{hello} I am a simulated model: my answers are scripted, so you can try everything here without a real \
             one. Ask me to count to 100, to write a long story or to show Markdown, or ask what I can do."
        )
    } else {
        format!(
            "{hello} We are still in the same conversation; you have written {} before.",
            messages_word(earlier)
        )
    }
}

fn fallback(said: &str, earlier: usize, seed: u64) -> String {
    let opening = ["You wrote", "I read", "Your message was"][pick(seed, 3)];
    let mut text = format!("{opening}: {}\n\n", quote(said));
    let words = said.split_whitespace().count();
    let _ = write!(text, "That is {words} {}", if words == 1 { "word" } else { "words" });
    if earlier > 0 {
        let _ = write!(text, ", after {} of yours before it", messages_word(earlier));
    }
    text.push_str(". I am a simulated model, so this is all I can make of it. Ask what I can do for a list of things to try.");
    text
}

fn recall(earlier: &[&str]) -> String {
    match earlier.last() {
        None => "This is the first message that I was sent; I know of nothing before it.".to_owned(),
        Some(last) => format!(
            "I was sent {} of yours before this one. The last of them was: {}",
            messages_word(earlier.len()),
            quote(last)
        ),
    }
}

fn messages_word(n: usize) -> String {
    if n == 1 { "1 message".to_owned() } else { format!("{n} messages") }
}

/// The text after "repeat after me", "repeat", "echo" or "say" at the begin of the message, in its own letters.
fn repeated(said: &str, lower: &str) -> Option<String> {
    // Lowering may change lengths outside ASCII; the openings are ASCII, so the byte offset is right in both.
    for opening in
        ["please repeat after me", "repeat after me", "please repeat", "please say", "repeat", "echo", "say"]
    {
        let Some(rest) = lower.strip_prefix(opening) else { continue };
        if !rest.starts_with([' ', ':', ',']) {
            continue;
        }
        let text = said.get(opening.len()..)?.trim_start_matches([' ', ':', ',']).trim();
        let text = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text);
        return (!text.is_empty()).then(|| text.to_owned());
    }
    None
}

fn count(words: &[&str]) -> Option<String> {
    let numbers: Vec<u64> = words.iter().filter_map(|w| w.parse().ok()).collect();
    let (from, to) = match numbers[..] {
        [] => return None,
        [to] => (1, to),
        [from, to, ..] => (from, to),
    };
    let last = to.min(from.saturating_add(COUNT_LIMIT - 1));
    let mut text = String::new();
    for n in from..=last {
        let _ = write!(
            text,
            "{n}{}",
            if n == last {
                ""
            } else if n % 10 == 0 {
                ",\n"
            } else {
                ", "
            }
        );
    }
    text.push('.');
    if from > to {
        text = "I can only count upwards.".to_owned();
    } else if last < to {
        let _ = write!(text, "\n\nI stop here: {COUNT_LIMIT} numbers are the most that I count.");
    }
    Some(text)
}

fn quote(text: &str) -> String {
    let text = text.trim();
    match text.char_indices().nth(QUOTE_CHARS) {
        Some((end, _)) => format!("“{}…”", &text[..end]),
        None => format!("“{text}”"),
    }
}

fn pick(seed: u64, n: u64) -> usize {
    usize::try_from(seed % n).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(text: &str) -> String {
        let message = Message { role: "user".into(), content: text.into() };
        reply(&[message], 7)
    }

    #[test]
    fn a_greeting_is_returned_and_the_script_admitted() {
        for greeting in ["Hi", "hello there!", "Good morning"] {
            assert!(say(greeting).contains("simulated model"), "{greeting}");
        }
        assert!(!say("this is high").contains("We are"), "`hi` inside a word is no greeting");
        assert!(say("What can you do?").contains("`count to 300`"));
    }

    #[test]
    fn it_counts_from_one_or_between_two_numbers() {
        assert_eq!(say("Please count to 5"), "1, 2, 3, 4, 5.");
        assert_eq!(say("count from 8 to 11"), "8, 9, 10,\n11.");
        assert_eq!(say("count to 300").matches(',').count(), 299);
        assert!(say("count to 99999999999").ends_with("the most that I count."));
        assert_eq!(say("count from 9 to 3"), "I can only count upwards.");
    }

    #[test]
    fn it_repeats_in_the_same_letters() {
        assert_eq!(say("Repeat after me: Größe ÄÖ 😀"), "Größe ÄÖ 😀");
        assert_eq!(say("say \"Hello\""), "Hello");
        assert!(say("sayonara").contains("“sayonara”"));
    }

    #[test]
    fn it_knows_only_the_messages_that_it_was_sent() {
        assert!(say("What did I say before?").contains("first message"));
        let messages = [("user", "my cat is Tom"), ("assistant", "ok"), ("user", "do you remember?")]
            .map(|(role, content)| Message { role: role.into(), content: content.into() });
        assert!(reply(&messages, 0).contains("“my cat is Tom”"));
    }

    #[test]
    fn a_long_story_is_long_and_the_same_seed_tells_the_same() {
        let long = say("write a long story");
        assert!(long.split_whitespace().count() > 800, "{}", long.split_whitespace().count());
        assert_eq!(long, say("write a long story"));
        assert!(say("tell me a story").split_whitespace().count() < 200);
    }
}
