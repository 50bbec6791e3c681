//! Obligations of [`Archive`](crate::ports::archive::Archive) and of
//! [`Change::Import`](crate::ports::history_store::Change::Import).

mod cut;

use serde_json::json;

pub use self::cut::{
    a_bot_goes_on_with_a_part_of_an_import, a_part_that_leads_to_nothing_is_not_stored,
    an_import_that_is_left_after_any_part_hurts_nobody_and_the_same_file_completes_it,
    what_an_import_changed_is_told_once,
};

use super::{Subject, samples};
use crate::{
    domain::{
        ids::{BotId, ConversationId, MessageId, TurnId},
        message::{Conversation, Message, MessageState, Sender, Siblings},
    },
    ports::{
        archive::{Archive, ArchivedTurn, Arrival, ImportPart, Place},
        history_store::{Change, Cursor, Fact, HistoryStore},
        state_store::StateStore,
    },
};

/// One test per obligation of whole conversations. The argument is a [`Subject`].
#[macro_export]
macro_rules! archive_suite {
    ($subject:ty) => {
        mod archive_suite {
            use super::*;
            $crate::conformance_tests!($subject, archive:
                messages_come_in_the_order_of_their_places_page_by_page
                what_arrives_later_is_told_apart_whatever_its_id
                a_page_ends_with_the_message_that_fills_it
                what_is_stored_of_some_ids_is_found
                a_part_is_stored_as_it_is_and_again_changes_nothing
                a_part_that_contradicts_is_not_stored_at_all
                an_imported_main_conversation_takes_the_place_of_an_empty_one_only
                a_conversation_that_was_left_by_an_earlier_bot_comes_back
                an_emptied_conversation_gets_its_end_back
                what_is_said_after_an_import_follows_it
                an_import_that_is_left_after_any_part_hurts_nobody_and_the_same_file_completes_it
                a_bot_goes_on_with_a_part_of_an_import
                a_part_that_leads_to_nothing_is_not_stored
                what_an_import_changed_is_told_once
            );
        }
    };
}

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

async fn all<S: Subject>(subject: &S, home: ConversationId, limit: u32) -> Vec<Message> {
    all_by(subject, home, Arrival::ALL, limit).await
}

async fn all_by<S: Subject>(subject: &S, home: ConversationId, by: Arrival, limit: u32) -> Vec<Message> {
    let (mut all, mut after) = (vec![], None);
    loop {
        let page = subject.store().messages_after(home, after, by, limit, usize::MAX).await.unwrap().messages;
        let Some(last) = page.last() else { return all };
        assert!(page.len() <= usize::try_from(limit).unwrap());
        after = Some(Place::of(last));
        all.extend(page);
    }
}

fn import(part: &ImportPart) -> Fact {
    Fact::new(Change::Import(part.clone()), vec![])
}

/// A conversation of four messages in two branches, one with a turn, as they would come out of another database.
fn sample(bot: &BotId, main: bool) -> ImportPart {
    let home = Conversation { main, ..samples::conversation(bot) };
    let (turn, question, reply) = samples::turn(&home, None, "how = much?");
    let (mut turn, mut reply) = samples::ended(&turn, &reply, "ünï, that much");
    turn.timings.total_ms = Some(0.1 + 0.2);
    reply.state = MessageState::Partial;
    reply.thinking = Some("hm".into());
    reply.metadata.insert("share".into(), json!({"part": 2.0_f64.sqrt() / 1e9, "of": [1, null, "x"]}));
    let other = samples::message(&home, Some(question.id), Sender::Bot, "another answer");
    let last = samples::message(&home, Some(reply.id), Sender::User, "thanks");
    let home = Conversation { leaf_message_id: Some(last.id), title: Some("t".into()), ..home };
    let overrides = Some(json!({"options": {"seed": 7}}));
    ImportPart {
        bot_id: bot.clone(),
        conversations: vec![home],
        messages: vec![question, reply, other, last],
        turns: vec![ArchivedTurn { turn, overrides }],
    }
}

/// First messages first, then by parent; siblings by their ids; across pages of every size.
pub async fn messages_come_in_the_order_of_their_places_page_by_page<S: Subject>() {
    let (subject, bot, main) = with_bot::<S>().await;
    let aside = samples::conversation(&bot);
    assert!(apply(&subject, Fact::new(Change::CreateConversation(aside.clone()), vec![])).await);
    let mut said: Vec<Message> = vec![];
    for n in 0..40usize {
        // Chains, branches and several first messages.
        let parent = (n % 7 != 0).then(|| said[said.len() - 1 - (n * 5) % said.len().min(4)].id);
        let message = samples::message(&main, parent, Sender::User, &format!("m{n}"));
        assert!(apply(&subject, samples::append(&message)).await);
        let noise = samples::message(&aside, None, Sender::User, "aside");
        assert!(apply(&subject, samples::append(&noise)).await);
        said.push(message);
    }
    let mut expected: Vec<Place> = said.iter().map(Place::of).collect();
    expected.sort_unstable();
    let subject = subject.reopen().await;
    for limit in [1, 3, 17, 100] {
        let found = all(&subject, main.id, limit).await;
        assert_eq!(found.iter().map(Place::of).collect::<Vec<_>>(), expected, "pages of {limit}");
        for message in &found {
            assert_eq!(subject.store().message(&bot, message.id).await.unwrap().as_ref(), Some(message));
        }
    }
    assert!(all(&subject, ConversationId::new(), 5).await.is_empty());
}

/// Ids far in the future and in the past, before and after the moment.
pub async fn what_arrives_later_is_told_apart_whatever_its_id<S: Subject>() {
    let (subject, _, main) = with_bot::<S>().await;
    let ids = |n: u128| [n, u128::MAX / 2 + n].map(|id| MessageId(uuid::Uuid::from_u128(id)));
    let mut said: Vec<Message> = vec![];
    for (n, id) in ids(1).into_iter().chain(ids(2)).chain(ids(3)).enumerate() {
        let parent = (n % 3 > 0).then(|| said[n - 1].id);
        said.push(Message { id, ..samples::message(&main, parent, Sender::User, "said") });
    }
    let (early, late) = said.split_at(4);
    for message in early {
        assert!(apply(&subject, samples::append(message)).await);
    }
    let by = subject.store().arrived().await.unwrap();
    for message in late {
        assert!(apply(&subject, samples::append(message)).await);
    }
    let subject = subject.reopen().await;
    for limit in [1, 2, 50] {
        let mut expected: Vec<Place> = early.iter().map(Place::of).collect();
        expected.sort_unstable();
        let found = all_by(&subject, main.id, by, limit).await;
        assert_eq!(found.iter().map(Place::of).collect::<Vec<_>>(), expected, "pages of {limit}");
        assert_eq!(all(&subject, main.id, limit).await.len(), said.len());
    }
    assert!(subject.store().arrived().await.unwrap() > by);
}

/// Up to and with the message that exceeds the bytes; images and thinking count.
pub async fn a_page_ends_with_the_message_that_fills_it<S: Subject>() {
    let (subject, _, main) = with_bot::<S>().await;
    let mut parent = None;
    let mut ids = vec![];
    for n in 0..4 {
        let mut message = samples::message(&main, parent, Sender::User, "1234567890");
        if n == 1 {
            message.thinking = Some("x".repeat(20).into());
            message.images = Some(vec!["y".repeat(20).into()]);
        }
        assert!(apply(&subject, samples::append(&message)).await);
        parent = Some(message.id);
        ids.push(message.id);
    }
    let store = subject.store();
    for (bytes, expected) in [(0, 1), (9, 1), (10, 2), (59, 2), (60, 3), (70, 4)] {
        let page = store.messages_after(main.id, None, Arrival::ALL, 10, bytes).await.unwrap().messages;
        assert_eq!(page.iter().map(|m| m.id).collect::<Vec<_>>(), ids[..expected], "{bytes} bytes");
    }
}

/// Messages and turns by their ids, whatever their bot; unknown ones are no error.
pub async fn what_is_stored_of_some_ids_is_found<S: Subject>() {
    let (subject, bot, main) = with_bot::<S>().await;
    let (turn, question, reply) = samples::turn(&main, None, "asked");
    let overrides = Some(json!({"think": true}));
    let change = Change::AcceptTurn {
        turn: turn.clone(),
        message: question.clone(),
        reply: reply.clone(),
        overrides: overrides.clone(),
        idempotency: None,
    };
    assert!(apply(&subject, Fact::new(change, vec![])).await);
    let store = subject.store();
    let found = store.messages_with(&[reply.id, MessageId::new(), question.id]).await.unwrap();
    assert_eq!(found, [question.clone(), reply.clone()], "in the order of the ids");
    assert_eq!(
        store.turns_with(&[turn.id, TurnId::new()]).await.unwrap(),
        [ArchivedTurn { turn: turn.clone(), overrides: overrides.clone() }]
    );
    assert!(store.messages_with(&[]).await.unwrap().is_empty());
    assert!(store.turns_with(&[]).await.unwrap().is_empty());
    let (done, answer) = samples::ended(&turn, &reply, "answer");
    assert!(apply(&subject, samples::finish(&done, &answer)).await);
    let found = subject.store().turns_with(&[turn.id]).await.unwrap();
    assert_eq!(found, [ArchivedTurn { turn: done, overrides }]);
    assert_eq!(subject.store().message(&bot, reply.id).await.unwrap(), Some(answer));
}

/// Every read finds what was imported, to the bit; a second time nothing moves. It tells no events.
pub async fn a_part_is_stored_as_it_is_and_again_changes_nothing<S: Subject>() {
    let (subject, bot, _) = with_bot::<S>().await;
    let part = sample(&bot, false);
    let home = &part.conversations[0];
    let before = subject.store().events_after(0, 100).await.unwrap().len();
    let mut subject = subject;
    for round in 0..3 {
        let committed = subject.store().commit(vec![import(&part)]).await.unwrap().remove(0);
        assert!(committed.applied && committed.deleted == 0 && committed.events.is_empty());
        if round == 1 {
            subject = subject.reopen().await;
        }
        let store = subject.store();
        let last_at = part.messages.iter().map(|m| m.created_at).max();
        let expected = Conversation { message_count: 4, last_at, ..home.clone() };
        assert_eq!(store.conversation(home.id).await.unwrap(), Some(expected));
        for message in &part.messages {
            let siblings = match message.parent_id == Some(part.messages[0].id) {
                true => Siblings { index: if message.content.len() == 14 { 2 } else { 1 }, count: 2 },
                false => message.siblings,
            };
            let expected = Message { siblings, ..message.clone() };
            assert_eq!(store.message(&bot, message.id).await.unwrap(), Some(expected));
        }
        let snapshot = store.turn_snapshot(part.turns[0].turn.id).await.unwrap().unwrap();
        assert_eq!((&snapshot.turn, snapshot.seq), (&part.turns[0].turn, 0));
        assert_eq!(store.turns_with(&[snapshot.turn.id]).await.unwrap(), part.turns);
        let page = store.page(home.id, Cursor::Newest { offset: 0 }, 10).await.unwrap().unwrap();
        let path: Vec<_> = page.items.iter().map(|m| m.id).collect();
        assert_eq!(path, [part.messages[0].id, part.messages[1].id, part.messages[3].id]);
        assert!(store.open_turns(None).await.unwrap().is_empty());
        assert_eq!(store.events_after(0, 100).await.unwrap().len(), before);
    }
}

/// Another content under an id, another bot's id, a bot that is not there: nothing of the part is stored.
pub async fn a_part_that_contradicts_is_not_stored_at_all<S: Subject>() {
    let (subject, bot, _) = with_bot::<S>().await;
    let (second, _) = samples::launch(&BotId::numbered(2));
    assert!(apply(&subject, second).await);
    let part = sample(&bot, false);
    assert!(apply(&subject, import(&part)).await);

    let changed = |change: fn(&mut ImportPart)| {
        let mut changed = part.clone();
        let new = samples::message(&part.conversations[0], None, Sender::User, "new");
        changed.messages.insert(0, new.clone());
        change(&mut changed);
        (changed, new.id)
    };
    for (what, (wrong, new)) in [
        ("content", changed(|p| p.messages[2].content = "another".into())),
        ("parent", changed(|p| p.messages[3].parent_id = None)),
        (
            "metadata",
            changed(|p| p.messages[4].metadata = serde_json::Map::from_iter([("a".into(), json!(1))])),
        ),
        ("turn", changed(|p| p.turns[0].turn.model = "another".into())),
        ("overrides", changed(|p| p.turns[0].overrides = None)),
        ("conversation", changed(|p| p.conversations[0].created_at.0 += 1)),
    ] {
        assert!(!apply(&subject, import(&wrong)).await, "{what}");
        assert_eq!(subject.store().message(&bot, new).await.unwrap(), None, "{what}");
    }
    let other = BotId::numbered(2);
    let mut stolen = part.clone();
    stolen.bot_id = other.clone();
    stolen.conversations.iter_mut().for_each(|c| c.bot_id = other.clone());
    stolen.messages.iter_mut().for_each(|m| m.bot_id = other.clone());
    stolen.turns.iter_mut().for_each(|t| t.turn.bot_id = other.clone());
    assert!(!apply(&subject, import(&stolen)).await);
    let nobody = sample(&BotId::numbered(3), true);
    assert!(!apply(&subject, import(&nobody)).await);
    assert_eq!(subject.store().conversation(nobody.conversations[0].id).await.unwrap(), None);
    assert!(apply(&subject, import(&part)).await, "and the right one is still the same");
}

/// A new bot takes the imported conversation for its own; one that was talked to keeps its own.
pub async fn an_imported_main_conversation_takes_the_place_of_an_empty_one_only<S: Subject>() {
    let (subject, bot, fresh) = with_bot::<S>().await;
    let first = sample(&bot, true);
    let mains = async |subject: &S| {
        let roster = subject.store().roster().await.unwrap();
        let listed = subject.store().conversations(&bot).await.unwrap();
        let named: Vec<_> = listed.iter().filter(|c| c.main).map(|c| c.id).collect();
        (roster[0].0.main_conversation_id, named, listed.len())
    };
    assert!(apply(&subject, import(&first)).await);
    let id = first.conversations[0].id;
    assert_eq!(mains(&subject).await, (id, vec![id], 1));
    assert_eq!(subject.store().conversation(fresh.id).await.unwrap(), None, "the empty one is gone");
    let second = sample(&bot, true);
    assert!(apply(&subject, import(&second)).await);
    assert!(apply(&subject, import(&first)).await);
    let subject = subject.reopen().await;
    assert_eq!(mains(&subject).await, (id, vec![id], 2));
}

/// Delete a bot and keep its history, launch it anew, import: it is as it was.
pub async fn a_conversation_that_was_left_by_an_earlier_bot_comes_back<S: Subject>() {
    let (subject, bot, _) = with_bot::<S>().await;
    let part = sample(&bot, true);
    assert!(apply(&subject, import(&part)).await);
    let delete = Change::DeleteBot { bot_id: bot.clone(), purge: false };
    assert!(apply(&subject, Fact::new(delete, vec![samples::life(&bot)])).await);
    assert!(apply(&subject, samples::launch(&bot).0).await);
    assert_eq!(subject.store().conversations(&bot).await.unwrap().len(), 1);
    assert!(apply(&subject, import(&part)).await);
    let listed = subject.store().conversations(&bot).await.unwrap();
    assert_eq!(listed.iter().map(|c| (c.id, c.main)).collect::<Vec<_>>(), [(part.conversations[0].id, true)]);
    assert_eq!(listed[0].message_count, 4);
}

/// Cleared and imported again: the messages are back, and so is the end of the path.
pub async fn an_emptied_conversation_gets_its_end_back<S: Subject>() {
    let (subject, bot, _) = with_bot::<S>().await;
    let part = sample(&bot, true);
    assert!(apply(&subject, import(&part)).await);
    let before = subject.store().conversations(&bot).await.unwrap();
    let clear = Change::ClearHistory { bot_id: bot.clone(), conversation_id: None };
    assert!(apply(&subject, Fact::new(clear, vec![])).await);
    assert_eq!(all(&subject, before[0].id, 10).await, []);
    assert!(apply(&subject, import(&part)).await);
    assert_eq!(subject.store().conversations(&bot).await.unwrap(), before);
    assert_eq!(subject.store().turns_with(&[part.turns[0].turn.id]).await.unwrap(), part.turns);
}

/// The conversation goes on where it ended, and then keeps its own end.
pub async fn what_is_said_after_an_import_follows_it<S: Subject>() {
    let (subject, bot, _) = with_bot::<S>().await;
    let part = sample(&bot, true);
    assert!(apply(&subject, import(&part)).await);
    let home = &part.conversations[0];
    let (turn, question, reply) = samples::turn(home, home.leaf_message_id, "and now?");
    assert!(apply(&subject, samples::accept(&turn, &question, &reply)).await);
    assert!(apply(&subject, import(&part)).await);
    let stored = subject.store().conversation(home.id).await.unwrap().unwrap();
    assert_eq!((stored.leaf_message_id, stored.message_count), (Some(reply.id), 6));
    assert_eq!(subject.store().open_turns(Some(&bot)).await.unwrap().len(), 1);
}
