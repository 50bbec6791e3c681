//! Which summaries there are, when a new one is due, what is asked for it.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::domain::bot::{ContextConfig, Options};

fn entries(texts: impl IntoIterator<Item = String>) -> Path {
    let entry = |text: String| {
        let mut entry = ContextEntry::asked(text.into(), vec![]);
        entry.id = Some(MessageId::new());
        entry
    };
    let entries: Vec<_> = texts.into_iter().map(entry).collect();
    Path { leaf: entries.last().and_then(|e| e.id), entries, rest: (0, 0) }
}

/// Messages of about a hundred tokens.
fn long(messages: usize) -> Path {
    entries((0..messages).map(|n| format!("{n:03} ").repeat(96)))
}

fn bot(num_ctx: u32) -> BotConfig {
    BotConfig {
        options: Options { num_ctx: Some(num_ctx), ..Options::default() },
        context: ContextConfig { overflow: Overflow::Summarise },
        ..BotConfig::default()
    }
}

fn next(path: &Path, known: Option<&Summary>) -> Option<Due> {
    due(&bot(2048), path, known, Estimator::default())
}

fn kept(summaries: &Summaries, through: MessageId, text: &str) {
    summaries.begin(ConversationId::new()).unwrap().keep(Summary { through, text: text.into() });
}

#[test]
fn nothing_is_due_while_everything_fits() {
    assert!(next(&long(10), None).is_none());
    assert!(next(&Path::default(), None).is_none());
}

#[test]
fn one_that_is_made_lasts_for_half_a_window() {
    let (mut known, mut made) = (None::<Summary>, vec![]);
    for messages in 1..60 {
        let path = long(60);
        let path = Path { entries: path.entries[..messages].to_vec(), ..path };
        // The same messages each time.
        if let (Some(known), Some(before)) = (&mut known, made.last()) {
            let at: usize = *before;
            known.through = path.entries[at].id.unwrap();
        }
        if let Some(due) = next(&path, known.as_ref()) {
            made.push(path.entries.iter().position(|e| e.id == Some(due.through)).unwrap());
            known = Some(Summary { through: due.through, text: "notes".into() });
        }
    }
    assert!(made.len() > 3, "{made:?}");
    for pair in made.windows(2) {
        assert!((5..=10).contains(&(pair[1] - pair[0])), "{made:?}: a window has about 15 of them");
    }
}

#[test]
fn the_next_one_goes_on_from_the_notes_that_there_are() {
    let path = long(40);
    let known = Summary { through: path.entries[20].id.unwrap(), text: "they counted to twenty".into() };
    let due = next(&path, Some(&known)).unwrap();
    assert_eq!((due.messages[0].role, due.messages[1].role), (Role::System, Role::User));
    let asked = &due.messages[1].content;
    assert!(asked.starts_with("Notes so far: they counted to twenty\n"));
    assert!(!asked.contains("020 ") && asked.contains("User: 021 ") && asked.contains("030 "), "{asked}");
    // One that belongs to another path says nothing here.
    let foreign = Summary { through: MessageId::new(), ..known };
    assert!(next(&path, Some(&foreign)).unwrap().messages[1].content.starts_with("Notes so far: none\n"));
}

#[test]
fn a_summary_holds_where_its_message_is_on_the_path_and_the_latest_one_counts() {
    let summaries = Summaries::default();
    let path = long(6);
    kept(&summaries, path.entries[1].id.unwrap(), "early");
    kept(&summaries, path.entries[3].id.unwrap(), "late");
    let text = |path: &Path| summaries.of(path).map(|summary| summary.text.to_string());
    assert_eq!(text(&path).as_deref(), Some("late"));
    let forked = Path { entries: path.entries[..3].to_vec(), ..Path::default() };
    assert_eq!(text(&forked).as_deref(), Some("early"), "an edit of the fourth message");
    assert_eq!(text(&long(6)), None, "another conversation");
    summaries.forget();
    assert_eq!(text(&path), None);
}

#[test]
fn what_was_being_made_when_messages_were_deleted_is_not_kept() {
    let (summaries, path) = (Summaries::default(), long(2));
    let conversation = ConversationId::new();
    let making = summaries.begin(conversation).unwrap();
    assert!(summaries.begin(conversation).is_none(), "one at a time");
    summaries.forget();
    making.keep(Summary { through: path.entries[1].id.unwrap(), text: "deleted".into() });
    assert!(summaries.of(&path).is_none());
    drop(making);
    assert!(summaries.begin(conversation).is_some(), "and again afterwards");
}

#[test]
fn as_many_are_kept_as_allowed() {
    let (summaries, path) = (Summaries::default(), long(1));
    kept(&summaries, path.entries[0].id.unwrap(), "in use");
    for _ in 0..2 * KEPT {
        assert!(summaries.of(&path).is_some());
        kept(&summaries, MessageId::new(), "once");
    }
    assert_eq!(summaries.0.lock().summaries.len(), KEPT);
}

#[test]
fn a_text_is_cut_behind_a_sentence_a_word_or_a_character_that_fits() {
    let cut = |text, tokens| fitting(text, tokens, Estimator::default());
    let facts = "Ada counts. She paid 3.50 for bread; it was fresh. Then she left";
    assert_eq!(cut(facts, 64), facts);
    assert_eq!(cut(facts, 13), "Ada counts. She paid 3.50 for bread; it was fresh.");
    // Not `She paid 3.`
    assert_eq!(cut(facts, 6), "Ada counts. She paid");
    assert_eq!(cut("她数到十。然后她走了", 7), "她数到十。");
    assert_eq!((cut("nnnnnnnn", 1), cut("她", 0)), ("nnnn", ""));
}

#[test]
fn none_is_asked_for_that_no_prompt_has_room_for_and_none_longer_than_that() {
    let crowded = |characters| BotConfig { system_prompt: "x".repeat(characters), ..bot(1024) };
    let answer =
        |characters| due(&crowded(characters), &long(40), None, Estimator::default()).map(|d| d.answer);
    assert_eq!(answer(0), Some(128), "an eighth of the context");
    let left = answer(2600).unwrap();
    assert!((16..64).contains(&left), "{left}");
    assert_eq!(answer(2900), None);
}

proptest! {
    #[test]
    fn what_is_asked_for_fits_the_context(
        pieces in prop::collection::vec((".{0,9}", 0usize..400), 0..20), num_ctx in 256u32..4096, notes in "[a-z ]{0,8000}",
    ) {
        let path = entries(pieces.into_iter().map(|(piece, times)| piece.repeat(times)));
        let known = path.entries.first().map(|e| Summary { through: e.id.unwrap(), text: notes.into() });
        for known in [None, known.as_ref()] {
            if let Some(due) = due(&bot(num_ctx), &path, known, Estimator::default()) {
                let sent: u32 = due.messages.iter().map(|m| Estimator::default().text(&m.content) + PER_MESSAGE).sum();
                prop_assert!(sent + due.answer <= num_ctx, "{sent} + {}", due.answer);
            }
        }
    }
}
