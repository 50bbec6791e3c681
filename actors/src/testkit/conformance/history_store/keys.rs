//! Idempotency keys: what a request of the same key did before.

use super::{super::samples::*, Subject, commit, commit_one, refuse, with_bot};
use crate::{
    domain::{
        idempotency::{Idempotency, IdempotencyKey, SentBefore},
        ids::BotId,
        message::Sender,
        time::Timestamp,
    },
    ports::history_store::{Change, Cursor, Fact, HistoryStore},
};

const USER: &str = "local";

/// The same fact under this key.
pub(super) fn keyed(fact: Fact, with: Idempotency) -> Fact {
    let mut fact = fact;
    match &mut fact.change {
        Change::AcceptTurn { idempotency, .. }
        | Change::AppendMessages { idempotency, .. }
        | Change::BeginAnew { idempotency, .. } => {
            *idempotency = Some(with);
        }
        _ => unreachable!("only what is sent has a key"),
    }
    fact
}

async fn known<S: Subject>(subject: &S, bot: &BotId, key: &str) -> Option<SentBefore> {
    let key = IdempotencyKey::parse(key).unwrap();
    subject.store().sent_before(USER, bot, &key).await.unwrap()
}

/// A key is stored with its turn, or with its command and answer, and found after reopening, for its user and bot alone.
pub async fn a_key_names_what_its_request_did<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    let (t, question, reply) = turn(&main, None, "hello");
    let turn_key = idempotency(USER, "turn ~!\"'", 1);
    let command = message(&main, Some(reply.id), Sender::User, "/help");
    let answer = message(&main, Some(command.id), Sender::System, "help");
    let command_key = idempotency(USER, &"k".repeat(255), 2);
    let mut both = append(&command);
    if let Change::AppendMessages { messages, .. } = &mut both.change {
        messages.push(answer.clone());
    }
    let group = vec![
        keyed(accept(&t, &question, &reply), turn_key.clone()),
        keyed(both, command_key.clone()),
        append(&message(&main, Some(answer.id), Sender::User, "without")),
    ];
    assert!(commit(&subject, group.clone()).await.iter().all(|c| c.applied));
    for committed in commit(&subject, group).await {
        assert!(!committed.applied && committed.events.is_empty(), "repeated");
    }
    let subject = subject.reopen().await;
    let before = SentBefore {
        fingerprint: turn_key.fingerprint,
        turn_id: Some(t.id),
        message_id: question.id,
        reply_id: reply.id,
        created_at: turn_key.at,
    };
    assert_eq!(known(&subject, &id, turn_key.key.as_str()).await, Some(before));
    let before = SentBefore {
        fingerprint: command_key.fingerprint,
        turn_id: None,
        message_id: command.id,
        reply_id: answer.id,
        created_at: command_key.at,
    };
    assert_eq!(known(&subject, &id, command_key.key.as_str()).await, Some(before));
    assert_eq!(known(&subject, &id, "TURN ~!\"'").await, None, "letters differ");
    assert_eq!(known(&subject, &BotId::numbered(2), turn_key.key.as_str()).await, None);
    assert_eq!(subject.store().sent_before("other", &id, &turn_key.key).await.unwrap(), None);
}

/// While a key is known nothing else is stored under it, whatever it asks for; a day later it is free.
pub async fn a_known_key_stands_against_a_second_request<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    let (first, question, reply) = turn(&main, None, "one");
    let key = idempotency(USER, "k", 1);
    commit_one(&subject, keyed(accept(&first, &question, &reply), key.clone())).await;
    let before = known(&subject, &id, "k").await;
    let (second, other, unasked) = turn(&main, None, "two");
    for later in [0, DAY - 1] {
        let again = Idempotency { at: Timestamp(key.at.0 + later), ..idempotency(USER, "k", 2) };
        refuse(&subject, keyed(accept(&second, &other, &unasked), again.clone())).await;
        refuse(&subject, keyed(append(&message(&main, None, Sender::User, "/x")), again)).await;
    }
    assert_eq!(known(&subject, &id, "k").await, before);
    assert!(subject.store().turn_snapshot(second.id).await.unwrap().is_none());
    assert_eq!(subject.store().message(&id, other.id).await.unwrap(), None);
    let conversation = subject.store().conversation(main.id).await.unwrap().unwrap();
    assert_eq!((conversation.leaf_message_id, conversation.message_count), (Some(reply.id), 2));

    // Another user's key of the same name is another key; and so is one of another bot.
    let (theirs, question, reply) = turn(&main, None, "three");
    commit_one(&subject, keyed(accept(&theirs, &question, &reply), idempotency("ada", "k", 1))).await;
    let elsewhere = BotId::numbered(2);
    let (fact, home) = launch(&elsewhere);
    commit_one(&subject, fact).await;
    let (away, question, reply) = turn(&home, None, "four");
    commit_one(&subject, keyed(accept(&away, &question, &reply), key.clone())).await;

    let tomorrow = Idempotency { at: Timestamp(key.at.0 + DAY), ..idempotency(USER, "k", 2) };
    let (anew, question, reply) = turn(&main, None, "five");
    commit_one(&subject, keyed(accept(&anew, &question, &reply), tomorrow)).await;
    assert_eq!(known(&subject, &id, "k").await.and_then(|b| b.turn_id), Some(anew.id));
}

/// A conversation is cleared in favour of the command that asked for it, its answer and its key: all of it or nothing.
pub async fn a_conversation_begins_anew_with_its_key_or_stays_as_it_is<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    let (t, question, reply) = turn(&main, None, "hello");
    commit_one(&subject, accept(&t, &question, &reply)).await;
    let command = message(&main, None, Sender::User, "/clear");
    let answer = message(&main, Some(command.id), Sender::System, "cleared");
    let anew = |clears| {
        let messages = vec![command.clone(), answer.clone()];
        Fact::new(Change::BeginAnew { messages, clears, idempotency: None }, vec![life(&id)])
    };
    let key = idempotency(USER, "k", 1);
    refuse(&subject, keyed(anew(2), key.clone())).await;
    let (done, full) = ended(&t, &reply, "an answer");
    commit_one(&subject, finish(&done, &full)).await;
    refuse(&subject, keyed(anew(1), key.clone())).await;
    commit_one(&subject, keyed(append(&message(&main, Some(reply.id), Sender::User, "/x")), key.clone()))
        .await;
    refuse(&subject, keyed(anew(3), key.clone())).await;
    let hold = |held| Change::HoldConversation { conversation_id: main.id, bot_id: id.clone(), held };
    let free = idempotency(USER, "free", 1);
    commit_one(&subject, Fact::new(hold(true), vec![])).await;
    refuse(&subject, keyed(anew(3), free.clone())).await;
    commit_one(&subject, Fact::new(hold(false), vec![])).await;
    assert_eq!(known(&subject, &id, "free").await, None);
    assert_eq!(subject.store().conversation(main.id).await.unwrap().unwrap().message_count, 3);

    let group =
        vec![keyed(anew(3), free.clone()), append(&message(&main, Some(answer.id), Sender::User, "on"))];
    let done = commit(&subject, group.clone()).await;
    assert!(done.iter().all(|done| done.applied));
    assert_eq!(done[0].deleted, 3);
    let names: Vec<_> = done[0].events.iter().map(|event| &*event.name).collect();
    assert_eq!(names, ["history_cleared", group[0].events[0].name]);
    assert!(commit(&subject, group).await.iter().all(|again| !again.applied));
    let subject = subject.reopen().await;
    let store = subject.store();
    let before = known(&subject, &id, "free").await.unwrap();
    assert_eq!((before.turn_id, before.message_id, before.reply_id), (None, command.id, answer.id));
    assert!(store.turn_snapshot(t.id).await.unwrap().is_none());
    let page = store.page(main.id, Cursor::Newest { offset: 0 }, 9).await.unwrap().unwrap();
    let path: Vec<_> = page.items.iter().map(|m| (&*m.content, m.parent_id)).collect();
    assert_eq!(path, [("/clear", None), ("cleared", Some(command.id)), ("on", Some(answer.id))]);
    let now = store.conversation(main.id).await.unwrap().unwrap();
    let newest = page.items.last().unwrap();
    assert_eq!(
        (now.message_count, now.leaf_message_id, now.last_at),
        (3, Some(newest.id), Some(newest.created_at))
    );
}

/// What is not stored leaves its key free.
pub async fn a_refused_request_leaves_its_key_free<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    let key = idempotency(USER, "k", 1);
    let nowhere = conversation(&id);
    let (t, question, reply) = turn(&nowhere, None, "hello");
    refuse(&subject, keyed(accept(&t, &question, &reply), key.clone())).await;
    refuse(&subject, keyed(append(&message(&nowhere, None, Sender::User, "/x")), key.clone())).await;
    assert_eq!(known(&subject, &id, "k").await, None);
    let (t, question, reply) = turn(&main, None, "hello");
    commit_one(&subject, keyed(accept(&t, &question, &reply), key)).await;
    assert_eq!(known(&subject, &id, "k").await.and_then(|b| b.turn_id), Some(t.id));
}

/// A key outlives what was stored with it, so that a late repetition is not taken for a new request; it goes with its bot.
pub async fn a_key_outlives_its_messages_and_goes_with_its_bot<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    let key = idempotency(USER, "k", 1);
    commit_one(&subject, keyed(append(&message(&main, None, Sender::User, "/x")), key.clone())).await;
    let clear = Change::ClearHistory { bot_id: id.clone(), conversation_id: None };
    assert_eq!(commit_one(&subject, Fact::new(clear, vec![])).await.deleted, 1);
    assert!(known(&subject, &id, "k").await.is_some());
    for purge in [false, true] {
        let delete = Change::DeleteBot { bot_id: id.clone(), purge };
        commit_one(&subject, Fact::new(delete, vec![life(&id)])).await;
        assert_eq!(known(&subject, &id, "k").await, None, "purge: {purge}");
        let (fact, main) = launch(&id);
        commit_one(&subject, fact).await;
        commit_one(&subject, keyed(append(&message(&main, None, Sender::User, "/y")), key.clone())).await;
    }
}
