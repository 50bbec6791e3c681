//! Obligations of [`SearchIndex`](crate::ports::search::SearchIndex).

use std::collections::BTreeSet;

use super::{Subject, samples};
use crate::{
    domain::{
        ids::{BotId, ConversationId, MessageId},
        message::{Conversation, Message, Sender},
        search::{Query, words},
    },
    ports::{
        archive::ImportPart,
        history_store::{Change, Fact, HistoryStore, PAGE_BYTES},
        search::SearchIndex,
    },
};

/// One test per obligation of the search. The argument is a [`Subject`].
#[macro_export]
macro_rules! search_suite {
    ($subject:ty) => {
        mod search_suite {
            use super::*;
            $crate::conformance_tests!($subject, search:
                every_query_finds_what_its_words_say
                the_better_match_comes_first_and_of_equals_the_newer
                pages_meet_without_gap
                heavy_messages_make_pages_shorter
                a_bot_finds_its_own_and_a_conversation_what_was_said_in_it
                a_reply_is_found_once_it_has_ended
                what_was_deleted_is_not_found
                what_took_the_place_of_something_deleted_is_found
                what_was_imported_is_found
                a_search_leaves_nothing_that_is_not_indexed
                what_was_said_before_a_restart_is_found_after_it
            );
        }
    };
}

/// Case, accents, prefixes, phrases, scripts without spaces, forms, code, and what looks like a query language.
const CORPUS: [&str; 16] = [
    "The quick brown fox jumps over the lazy dog",
    "the Quick RED fox",
    "A dog is quick, a fox is quicker",
    "Crème brûlée, naïve façade, Ångström",
    "creme brulee without accents",
    "Die STRASSE und die Straße",
    "東京タワーは東京都港区にあります",
    "京都と東京",
    "我喜欢北京烤鸭",
    "한국어 검색 한국",
    "Привет, МИР! мир и война",
    "let fox_count = quick_fox(42); // it's \"quoted\"",
    "NOT AND OR NEAR fox* ^fox fox:dog (fox)",
    "ﬁne print ２０２４",
    "ภาษาไทยง่ายมาก",
    "",
];

const QUERIES: [&str; 46] = [
    "fox",
    "FOX",
    "quick fox",
    "\"quick fox\"",
    "\"quick brown fox\"",
    "\"fox quick\"",
    "quick",
    "quick*",
    "qui*",
    "\"lazy d\"*",
    "dog lazy",
    "creme",
    "CRÈME brulee",
    "naive",
    "angstrom",
    "ang*",
    "strasse",
    "straße",
    "東京",
    "京",
    "東",
    "京都",
    "都港",
    "タワー",
    "北京",
    "烤鸭",
    "喜*",
    "한국",
    "한*",
    "한국어",
    "мир",
    "\"мир и\"",
    "fox_count",
    "quick_fox",
    "quoted",
    "it's",
    "NOT",
    "fox*",
    "near and",
    "fox:dog",
    "fine",
    "2024",
    "ไทย",
    "absent",
    "fo",
    "\"the\" fox",
];

async fn apply<S: Subject>(subject: &S, fact: Fact) -> bool {
    subject.store().commit(vec![fact]).await.unwrap().remove(0).applied
}

async fn with_bot<S: Subject>() -> (S, BotId, Conversation) {
    let subject = S::create().await;
    let id = BotId::numbered(1);
    let (fact, main) = samples::launch(&id);
    assert!(apply(&subject, fact).await);
    (subject, id, main)
}

async fn say<S: Subject>(subject: &S, home: &Conversation, text: &str) -> Message {
    let message = samples::message(home, None, Sender::User, text);
    assert!(apply(subject, samples::append(&message)).await);
    message
}

async fn found<S: Subject>(
    subject: &S,
    bot: &BotId,
    only: Option<ConversationId>,
    query: &str,
) -> Vec<MessageId> {
    let query = Query::parse(query).unwrap();
    let found = subject.store().search(bot, only, &query, 100, 0).await.unwrap();
    assert_eq!(found.next, None);
    found.items.iter().map(|m| m.id).collect()
}

/// The same set for every query in every database: what [`Query::matches`] says. Each has the message as it is stored.
pub async fn every_query_finds_what_its_words_say<S: Subject>() {
    let (subject, bot, main) = with_bot::<S>().await;
    let mut said = vec![];
    for text in CORPUS {
        said.push(say(&subject, &main, text).await);
    }
    for text in QUERIES {
        let query = Query::parse(text).unwrap();
        let expected: BTreeSet<_> =
            said.iter().filter(|m| query.matches(&words(&m.content)).is_some()).map(|m| m.id).collect();
        let items = subject.store().search(&bot, None, &query, 100, 0).await.unwrap().items;
        let actual: BTreeSet<_> = items.iter().map(|m| m.id).collect();
        assert_eq!(actual, expected, "{text}");
        assert_eq!(items.len(), expected.len(), "each once: {text}");
        for message in items {
            assert_eq!(subject.store().message(&bot, message.id).await.unwrap(), Some(message));
        }
    }
    assert_eq!(found(&subject, &bot, None, "東京").await.len(), 2);
    assert_eq!(found(&subject, &bot, None, "absent").await, []);
}

/// Only where it is beyond dispute.
pub async fn the_better_match_comes_first_and_of_equals_the_newer<S: Subject>() {
    let (subject, bot, main) = with_bot::<S>().await;
    let weak = say(&subject, &main, &format!("apple {}", "and much else ".repeat(40))).await;
    let strong = say(&subject, &main, "apple apple apple pie").await;
    for _ in 0..5 {
        say(&subject, &main, "nothing of that kind in here").await;
    }
    let older = say(&subject, &main, "an equal banana").await;
    let newer = say(&subject, &main, "an equal banana").await;
    assert_eq!(found(&subject, &bot, None, "apple").await, [strong.id, weak.id]);
    assert_eq!(found(&subject, &bot, None, "banana").await, [newer.id, older.id]);
}

/// Limit and offset cut one list.
pub async fn pages_meet_without_gap<S: Subject>() {
    let (subject, bot, main) = with_bot::<S>().await;
    for n in 0..12 {
        say(&subject, &main, &format!("pear number {n}")).await;
    }
    let all = found(&subject, &bot, None, "pear").await;
    assert_eq!(all.len(), 12);
    let query = Query::parse("pear").unwrap();
    for limit in [1u32, 5, 12] {
        let (mut pages, mut offset) = (vec![], 0);
        loop {
            let page = subject.store().search(&bot, None, &query, limit, offset).await.unwrap();
            pages.extend(page.items.iter().map(|m| m.id));
            offset += limit;
            assert_eq!(page.next, Some(offset).filter(|at| *at < 12), "by {limit}");
            if page.next.is_none() {
                break;
            }
        }
        assert_eq!(pages, all, "by {limit}");
    }
    assert!(subject.store().search(&bot, None, &query, 5, 100).await.unwrap().items.is_empty());
}

/// A page ends before the message with which it would be too heavy, one that is too heavy by itself is a page, and the next
/// page begins there.
pub async fn heavy_messages_make_pages_shorter<S: Subject>() {
    const QUARTERS: [usize; 8] = [1, 2, 2, 5, 4, 1, 1, 5];
    let (subject, bot, main) = with_bot::<S>().await;
    let mut all = vec![];
    for quarters in QUARTERS {
        let mut message = samples::message(&main, None, Sender::User, "grape");
        let large = "x".repeat(quarters * PAGE_BYTES / 4 - message.content.len());
        message.images = Some(vec![large.into()]);
        assert!(apply(&subject, samples::append(&message)).await);
        all.insert(0, message.id);
    }
    let query = Query::parse("grape").unwrap();
    for limit in [1, 2, 100] {
        let (mut pages, mut next) = (vec![], Some(0));
        while let Some(offset) = next {
            let page = subject.store().search(&bot, None, &query, limit, offset).await.unwrap();
            pages.push(page.items.iter().map(|m| m.id).collect::<Vec<_>>());
            next = page.next;
        }
        let lengths: Vec<_> = pages.iter().map(Vec::len).collect();
        let expected: &[usize] = match limit {
            1 => &[1; 8],
            2 => &[1, 2, 1, 1, 2, 1],
            _ => &[1, 2, 1, 1, 2, 1],
        };
        assert_eq!(lengths, expected, "by {limit}");
        assert_eq!(pages.concat(), all, "by {limit}");
    }
}

/// Bots are apart, also those whose ids look alike; archived conversations and branches are searched.
pub async fn a_bot_finds_its_own_and_a_conversation_what_was_said_in_it<S: Subject>() {
    let (subject, bot, main) = with_bot::<S>().await;
    let other = BotId::parse("bot-001").unwrap();
    let (fact, theirs) = samples::launch(&other);
    assert!(apply(&subject, fact).await);
    let aside = Conversation { archived: true, ..samples::conversation(&bot) };
    assert!(apply(&subject, Fact::new(Change::CreateConversation(aside.clone()), vec![])).await);
    let first = say(&subject, &main, "plum").await;
    let branch = say(&subject, &main, "plum again").await;
    let apart = say(&subject, &aside, "plum aside").await;
    let foreign = say(&subject, &theirs, "plum elsewhere").await;
    let set = |ids: Vec<MessageId>| ids.into_iter().collect::<BTreeSet<_>>();
    assert_eq!(set(found(&subject, &bot, None, "plum").await), set(vec![first.id, branch.id, apart.id]));
    assert_eq!(set(found(&subject, &bot, Some(main.id), "plum").await), set(vec![first.id, branch.id]));
    assert_eq!(found(&subject, &bot, Some(aside.id), "plum").await, [apart.id]);
    assert_eq!(found(&subject, &other, None, "plum").await, [foreign.id]);
    assert_eq!(found(&subject, &other, Some(main.id), "plum").await, [], "another bot's conversation");
}

/// Its question at once; whatever is written of it before is no match, and stays none.
pub async fn a_reply_is_found_once_it_has_ended<S: Subject>() {
    let (subject, bot, main) = with_bot::<S>().await;
    let (turn, question, reply) = samples::turn(&main, None, "which fruit?");
    assert!(apply(&subject, samples::accept(&turn, &question, &reply)).await);
    let checkpoint = Change::Checkpoint { reply_id: reply.id, content: "cherry".into(), thinking: None };
    assert!(apply(&subject, Fact::new(checkpoint, vec![])).await);
    assert_eq!(found(&subject, &bot, None, "fruit").await, [question.id]);
    assert_eq!(found(&subject, &bot, None, "cherry").await, []);
    let later = say(&subject, &main, "said meanwhile").await;
    assert_eq!(found(&subject, &bot, None, "meanwhile").await, [later.id]);
    let subject = subject.reopen().await;
    let (done, answer) = samples::ended(&turn, &reply, "a mango");
    assert!(apply(&subject, samples::finish(&done, &answer)).await);
    assert_eq!(found(&subject, &bot, None, "mango").await, [reply.id]);
    assert_eq!(found(&subject, &bot, None, "cherry").await, []);
}

/// Cleared, deleted with its conversation, left behind by a deleted bot, purged.
pub async fn what_was_deleted_is_not_found<S: Subject>() {
    let (subject, bot, main) = with_bot::<S>().await;
    let aside = samples::conversation(&bot);
    assert!(apply(&subject, Fact::new(Change::CreateConversation(aside.clone()), vec![])).await);
    say(&subject, &main, "grape in main").await;
    let kept = say(&subject, &aside, "grape aside").await;
    assert_eq!(found(&subject, &bot, None, "grape").await.len(), 2);
    let clear = Change::ClearHistory { bot_id: bot.clone(), conversation_id: Some(main.id) };
    assert!(apply(&subject, Fact::new(clear, vec![])).await);
    assert_eq!(found(&subject, &bot, None, "grape").await, [kept.id]);
    assert!(apply(&subject, Fact::new(Change::DeleteConversation(aside.id), vec![])).await);
    assert_eq!(found(&subject, &bot, None, "grape").await, []);
    for purge in [false, true] {
        let main = subject.store().conversations(&bot).await.unwrap().remove(0);
        say(&subject, &main, "grape of before").await;
        assert_eq!(found(&subject, &bot, None, "grape").await.len(), 1);
        assert!(apply(&subject, Fact::new(Change::DeleteBot { bot_id: bot.clone(), purge }, vec![])).await);
        assert_eq!(found(&subject, &bot, None, "grape").await, []);
        assert!(apply(&subject, samples::launch(&bot).0).await);
        assert_eq!(found(&subject, &bot, None, "grape").await, [], "its successor's history is its own");
    }
}

/// An index that takes up places again must not take the new for the old.
pub async fn what_took_the_place_of_something_deleted_is_found<S: Subject>() {
    let (subject, bot, main) = with_bot::<S>().await;
    for round in 0..3 {
        for n in 0..5 {
            say(&subject, &main, &format!("lemon {n}")).await;
        }
        if round > 0 {
            assert_eq!(found(&subject, &bot, None, "lemon").await.len(), 5);
            assert_eq!(found(&subject, &bot, None, "lime").await, []);
        }
        let clear = Change::ClearHistory { bot_id: bot.clone(), conversation_id: None };
        assert!(apply(&subject, Fact::new(clear, vec![])).await);
        for _ in 0..3 {
            say(&subject, &main, "lime").await;
        }
        assert_eq!(found(&subject, &bot, None, "lime").await.len(), 3, "round {round}");
        assert_eq!(found(&subject, &bot, None, "lemon").await, []);
        let clear = Change::ClearHistory { bot_id: bot.clone(), conversation_id: None };
        assert!(apply(&subject, Fact::new(clear, vec![])).await);
    }
}

/// An import is a commit like any other; one that comes back from an earlier bot, too.
pub async fn what_was_imported_is_found<S: Subject>() {
    let (subject, bot, _) = with_bot::<S>().await;
    let home = samples::conversation(&bot);
    let messages: Vec<_> =
        (0..20).map(|n| samples::message(&home, None, Sender::User, &format!("melon {n}"))).collect();
    let part = ImportPart { bot_id: bot.clone(), conversations: vec![home], messages, turns: vec![] };
    let import = || Fact::new(Change::Import(part.clone()), vec![]);
    assert!(apply(&subject, import()).await);
    assert_eq!(found(&subject, &bot, None, "melon").await.len(), 20);
    let delete = Change::DeleteBot { bot_id: bot.clone(), purge: false };
    assert!(apply(&subject, Fact::new(delete, vec![])).await);
    assert!(apply(&subject, samples::launch(&bot).0).await);
    assert_eq!(found(&subject, &bot, None, "melon").await, []);
    assert!(apply(&subject, import()).await);
    assert_eq!(found(&subject, &bot, None, "melon").await.len(), 20);
}

/// More than any batch of an index takes at once, with searches and restarts in between.
pub async fn what_was_said_before_a_restart_is_found_after_it<S: Subject>() {
    let (mut subject, bot, main) = with_bot::<S>().await;
    let mut count = 0;
    for round in 0..3 {
        for group in 0..4 {
            let facts: Vec<_> = (0..200)
                .map(|n| {
                    samples::append(&samples::message(
                        &main,
                        None,
                        Sender::User,
                        &format!("kiwi{n} {group} all"),
                    ))
                })
                .collect();
            count += facts.len();
            subject.store().commit(facts).await.unwrap();
        }
        if round == 1 {
            assert_eq!(found(&subject, &bot, None, "kiwi7 0").await.len(), 2);
        }
        subject = subject.reopen().await;
    }
    assert_eq!(found(&subject, &bot, None, "kiwi7").await.len(), 12);
    let query = Query::parse("all").unwrap();
    let last = u32::try_from(count - 1).unwrap();
    let page = subject.store().search(&bot, None, &query, 10, last).await.unwrap();
    assert_eq!((page.items.len(), page.next), (1, None));
}

/// Of more messages than one commit takes in.
pub async fn a_search_leaves_nothing_that_is_not_indexed<S: Subject>() {
    let subject = S::create().await;
    let bot = BotId::numbered(1);
    let (fact, main) = samples::launch(&bot);
    subject.store().commit(vec![fact]).await.unwrap();
    let said = |_| samples::append(&samples::message(&main, None, Sender::User, "said"));
    subject.store().commit((0..600).map(said).collect()).await.unwrap();
    let query = Query::parse("said").unwrap();
    assert!(subject.store().search(&bot, None, &query, 1, 0).await.unwrap().next.is_some());
    assert_eq!(subject.store().unindexed().await.unwrap(), 0);
}
