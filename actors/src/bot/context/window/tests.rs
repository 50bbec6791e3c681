//! What a prompt holds, for any history.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    bot::context::cost,
    domain::{bot::ContextConfig, ids::MessageId},
};

fn entry(role: Role, text: &str, calls: usize) -> ContextEntry {
    let tool_calls = (calls > 0).then(|| json!(vec![json!({"function": {"name": "f"}}); calls]));
    let size = TextSize::of(text)
        .plus(tool_calls.as_ref().map(|c| TextSize::of(&c.to_string())).unwrap_or_default());
    ContextEntry { id: Some(MessageId::new()), role, tool_calls, size, ..asked(text) }
}

fn asked(text: &str) -> ContextEntry {
    ContextEntry::asked(text.into(), vec![])
}

fn path(entries: Vec<ContextEntry>) -> Path {
    Path { leaf: entries.last().and_then(|e| e.id), entries, rest: (0, 0) }
}

fn options(num_ctx: u32) -> Options {
    Options { num_ctx: Some(num_ctx), ..Options::default() }
}

fn bot(overflow: Overflow) -> BotConfig {
    BotConfig {
        system_prompt: "be brief".into(),
        context: ContextConfig { overflow },
        ..BotConfig::default()
    }
}

fn all(path: &Path) -> Said<'_> {
    Said { path, summary: None, most: u32::MAX }
}

fn planned(config: &BotConfig, num_ctx: u32, path: &Path, summary: Option<&Summary>) -> Plan {
    let said = Said { path, summary, most: u32::MAX };
    plan(config, &options(num_ctx), said, &asked("hello"), Behind::default(), Estimator::default()).unwrap()
}

/// Histories as they are stored: exchanges with and without tools, some broken off, the oldest one perhaps cut in two.
fn history() -> impl Strategy<Value = Vec<ContextEntry>> {
    let exchange =
        (0usize..1200, 0usize..4, 0usize..5, 0usize..800).prop_map(|(said, calls, results, answer)| {
            let mut entries = vec![entry(Role::User, &"x".repeat(said), 0)];
            if calls > 0 {
                entries.push(entry(Role::Assistant, "", calls));
            }
            entries.extend((0..results).map(|_| entry(Role::Tool, "result", 0)));
            entries.push(entry(Role::Assistant, &"y".repeat(answer), 0));
            entries
        });
    (prop::collection::vec(exchange, 0..12), 0usize..4)
        .prop_map(|(exchanges, cut)| exchanges.into_iter().flatten().skip(cut).collect())
}

/// Every call with all its results right behind it, no result without its call.
fn pairs_are_whole(messages: &[PromptMessage]) -> bool {
    let mut open = 0;
    for message in messages {
        let calls = message.tool_calls.as_ref().and_then(|c| c.as_array()).map_or(0, Vec::len);
        match message.role {
            Role::Tool if open == 0 => return false,
            Role::Tool => open -= 1,
            _ if open > 0 => return false,
            _ => open = calls,
        }
    }
    open == 0
}

proptest! {
    #[test]
    fn a_plan_fits_keeps_the_newest_whole_and_never_splits_a_call_from_its_results(
        entries in history(), num_ctx in 256u32..8192, notes in prop::option::of(0usize..4000),
    ) {
        let path = path(entries);
        let summary = notes.zip(path.entries.first()).map(|(length, first)| Summary {
            through: first.id.unwrap(), text: "n".repeat(length).into(),
        });
        let made = planned(&bot(Overflow::Summarise), num_ctx, &path, summary.as_ref());
        let (_, reply) = budget(&options(num_ctx));
        prop_assert!(made.usage.used <= num_ctx - reply);
        prop_assert!(made.messages[0].content.starts_with("be brief"), "the system prompt is always there");
        prop_assert_eq!(&*made.messages.last().unwrap().content, "hello");
        let shown = &made.messages[1..made.messages.len() - 1];
        prop_assert!(pairs_are_whole(shown), "{:?}", shown);
        let cut = made.usage.trimmed_messages as usize;
        let mut kept = path.entries[cut..].iter();
        for sent in shown {
            prop_assert!(kept.any(|e| e.role == sent.role && e.content == sent.content), "in order, each once");
        }
        let text: TextSize = made.messages.iter().map(|m| TextSize::of(&m.content))
            .chain(made.messages.iter().filter_map(|m| m.tool_calls.as_ref()).map(|c| TextSize::of(&c.to_string())))
            .fold(TextSize::default(), TextSize::plus);
        prop_assert_eq!(made.size, text);
    }

    #[test]
    fn plain_history_is_cut_at_one_place_and_everything_is_counted(
        lengths in prop::collection::vec(0usize..4000, 0..30), num_ctx in 256u32..8192, rest in 0u32..5,
    ) {
        let entries = lengths.iter().map(|n| entry(Role::User, &"x".repeat(*n), 0)).collect();
        let path = Path { rest: (rest, rest * 10), ..path(entries) };
        let made = planned(&bot(Overflow::Trim), num_ctx, &path, None);
        let shown = made.messages.len() - 2;
        let cut = lengths.len() - shown;
        prop_assert_eq!(made.usage.trimmed_messages as usize, cut + rest as usize);
        let tokens: u32 = path.entries[..cut].iter().map(|e| e.tokens(Estimator::default())).sum();
        prop_assert_eq!(made.usage.trimmed_tokens, tokens + rest * 10);
        prop_assert!(cut == 0 || made.usage.used + path.entries[cut - 1].tokens(Estimator::default())
            > num_ctx - budget(&options(num_ctx)).1, "one more would not have fitted");
    }
}

#[test]
fn a_prompt_that_may_be_no_longer_holds_less_history_and_always_the_message() {
    let path = path((0..20).map(|_| entry(Role::User, &"x".repeat(400), 0)).collect());
    let bot = bot(Overflow::Trim);
    let within = |most| {
        let said = Said { path: &path, summary: None, most };
        let estimator = Estimator::default();
        plan(&bot, &options(1024), said, &asked("hello"), Behind::default(), estimator).unwrap().usage
    };
    let whole = within(u32::MAX);
    assert_eq!((whole.used, whole.trimmed_messages), (7 * 104 + 12, 13));
    let less = within(whole.used / 4 * 3);
    assert_eq!((less.used, less.trimmed_messages), (5 * 104 + 12, 15));
    assert_eq!(within(1).used, 12);
}

#[test]
fn what_does_not_fit_alone_is_refused_with_the_numbers() {
    let long = asked(&"x".repeat(2000));
    let bot = BotConfig::default();
    let refused =
        plan(&bot, &options(256), all(&Path::default()), &long, Behind::default(), Estimator::default())
            .unwrap_err();
    assert_eq!(refused.code, Code::PromptTooLong);
    let limits =
        ContextLimits { num_ctx: 256, needed: Some(504), reply_budget: Some(64), ..Default::default() };
    assert_eq!(refused.context.as_deref(), Some(&limits));
    let chatty = BotConfig { system_prompt: "x".repeat(20_000), options: options(4096), ..bot };
    let refused = check_bot(&chatty, Estimator::default()).unwrap_err();
    assert_eq!((refused.code, refused.context.unwrap().needed), (Code::PromptTooLong, Some(5004)));
    assert!(check_bot(&BotConfig { options: options(8192), ..chatty }, Estimator::default()).is_ok());
}

#[test]
fn a_bot_that_leaves_nothing_out_refuses_and_says_what_it_would_need() {
    let history = || (0..40).map(|_| entry(Role::User, &"x".repeat(400), 0)).collect();
    let tried = |num_ctx| {
        let (path, message) = (path(history()), asked("hello"));
        plan(
            &bot(Overflow::Refuse),
            &options(num_ctx),
            all(&path),
            &message,
            Behind::default(),
            Estimator::default(),
        )
    };
    let limits = tried(2048).unwrap_err().context.unwrap();
    assert_eq!(limits.needed, Some(40 * 104 + 6 + 6));
    assert!(tried(8192).is_ok());
}

#[test]
fn a_summary_goes_with_the_system_prompt_only_where_something_is_left_out() {
    let entries = (0..20).map(|_| entry(Role::User, &"x".repeat(400), 0)).collect();
    let path = path(entries);
    let summary = Summary { through: path.entries[9].id.unwrap(), text: "they spoke of x".into() };
    let config = bot(Overflow::Summarise);
    let plain = planned(&config, 1024, &path, None);
    let with = planned(&config, 1024, &path, Some(&summary));
    assert!(with.messages[0].content.starts_with("be brief\n\nSummary of the earlier conversation"));
    assert!(with.messages[0].content.ends_with("they spoke of x"));
    assert_eq!(with.messages.iter().filter(|m| m.role == Role::System).count(), 1);
    let notes = Estimator::default().text(&with.messages[0].content) - 2 + PER_MESSAGE;
    let history = (with.messages.len() as u32 - 2) * 104;
    assert_eq!(with.usage.used, 6 + 6 + notes + history, "it counts");
    assert!(with.usage.trimmed_messages >= plain.usage.trimmed_messages, "and has its price");
    let large = planned(&config, 8192, &path, Some(&summary));
    assert_eq!((&*large.messages[0].content, large.usage.trimmed_messages), ("be brief", 0));
    assert_eq!((plain.summary, with.summary), (Some(SummaryUse::None), Some(SummaryUse::Whole)));
    assert_eq!(large.summary, None, "nothing is left out");
}

#[test]
fn a_summary_that_is_too_long_is_shortened_to_half_of_the_room_and_left_out_only_where_that_is_nothing() {
    let entries = (0..20).map(|_| entry(Role::User, &"x".repeat(400), 0)).collect();
    let path = path(entries);
    let summary =
        Summary { through: path.entries[9].id.unwrap(), text: "They spoke of x. ".repeat(200).into() };
    let config = bot(Overflow::Summarise);
    let short = planned(&config, 1024, &path, Some(&summary));
    assert_eq!(short.summary, Some(SummaryUse::Shortened));
    let system = &short.messages[0].content;
    assert!(system.ends_with("They spoke of x."), "whole sentences: {system}");
    let notes = Estimator::default().text(system) - 2 + PER_MESSAGE;
    let room = 1024 - 256 - 12;
    assert!(notes <= room / 2 && notes > room / 2 - 12, "{notes} of {room}");
    let crowded = BotConfig { system_prompt: "x".repeat(2800), ..config };
    let none = planned(&crowded, 1024, &path, Some(&summary));
    assert_eq!(
        (none.summary, &*none.messages[0].content),
        (Some(SummaryUse::NoRoom), &*crowded.system_prompt)
    );
    assert_eq!(planned(&bot(Overflow::Trim), 1024, &path, None).summary, None);
}

#[test]
fn no_number_overflows() {
    let path = Path { rest: (u32::MAX, u32::MAX), ..path(vec![entry(Role::User, "x", 0)]) };
    let options = Options { num_ctx: Some(u32::MAX), num_predict: Some(i32::MAX), ..Options::default() };
    let made = plan(
        &bot(Overflow::Trim),
        &options,
        all(&path),
        &asked("hello"),
        Behind::default(),
        Estimator::default(),
    )
    .unwrap();
    assert_eq!((made.usage.trimmed_messages, made.usage.trimmed_tokens), (u32::MAX, u32::MAX));
    assert!(cost(made.usage.used, &options) > 0);
}
