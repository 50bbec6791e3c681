//! Rounds of tools: messages that come between a question and a reply that is stored already.

use super::{super::samples::*, Subject, commit_one, refuse, with_bot};
use crate::{
    domain::{
        event::{EventBody, NewEvent},
        ids::BotId,
        message::{Message, Sender, Siblings},
        tool::{ToolCalled, ToolReturned},
        turn::{Turn, TurnState},
    },
    ports::history_store::{Change, Cursor, Fact, HistoryStore, REDACTED},
};

/// A call and its result behind `parent`, before the reply.
fn round(turn: &Turn, reply: &Message, parent: &Message, nth: u128) -> Vec<Message> {
    let of = |place: u128, parent: &Message, sender, text: &str| Message {
        id: reply.id.before(1000 - place),
        parent_id: Some(parent.id),
        turn_id: Some(turn.id),
        sender,
        content: text.into(),
        created_at: tick(),
        ..parent.clone()
    };
    let call = Message {
        tool_calls: Some(serde_json::json!([{"id": "c", "function": {"name": "t", "arguments": {}}}])),
        ..of(nth * 2, parent, Sender::Bot, "")
    };
    let result = Message { tool_calls: None, ..of(nth * 2 + 1, &call, Sender::Tool, "secret result") };
    vec![call, result]
}

fn add(turn: &Turn, reply: &Message, messages: &[Message]) -> Fact {
    let called = ToolCalled {
        message_id: messages[0].id,
        turn_id: turn.id,
        call_id: "c".into(),
        name: "t".into(),
        arguments: serde_json::json!({"secret": 1}),
    };
    let returned = ToolReturned {
        message_id: messages[1].id,
        turn_id: turn.id,
        call_id: "c".into(),
        result: "secret result".into(),
        error: None,
        took_ms: 1.5,
    };
    let received = messages.iter().map(|m| EventBody::MessageReceived { message: m.clone() });
    let bodies = received.chain([EventBody::ToolCalled(called), EventBody::ToolReturned(returned)]);
    let events = bodies.map(|body| NewEvent::new(topics(turn), &body)).collect();
    let change = Change::ToolRound { reply_id: reply.id, messages: messages.to_vec() };
    Fact::new(change, events)
}

async fn path<S: Subject>(subject: &S, bot: &BotId, leaf: &Message) -> Vec<crate::domain::ids::MessageId> {
    let all = subject.store().path(leaf.id, usize::MAX).await.unwrap();
    assert!(all.iter().all(|m| m.bot_id == *bot));
    all.iter().rev().map(|m| m.id).collect()
}

/// Rounds stand between the question and the reply, in whatever way the path is read, and what waits behind the reply stays
/// behind it.
pub async fn a_round_of_tools_stands_before_the_reply<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    // Far enough down that marks of the branch are passed.
    let mut parent = None;
    let mut before = vec![];
    for n in 0..31 {
        let said = message(&main, parent, Sender::User, &n.to_string());
        commit_one(&subject, append(&said)).await;
        parent = Some(said.id);
        before.push(said.id);
    }
    let (turn_of, question, reply) = turn(&main, parent, "what is it?");
    let started = Turn { state: TurnState::Generating, ..turn_of };
    commit_one(&subject, accept(&started, &question, &reply)).await;
    let (next, behind, later) = turn(&main, Some(reply.id), "and then?");
    commit_one(&subject, accept(&next, &behind, &later)).await;

    let first = round(&started, &reply, &question, 0);
    commit_one(&subject, add(&started, &reply, &first)).await;
    refuse(&subject, add(&started, &reply, &first)).await;
    let second = round(&started, &reply, &first[1], 1);
    commit_one(&subject, add(&started, &reply, &second)).await;
    refuse(&subject, add(&started, &reply, &round(&started, &reply, &question, 2))).await;

    let mut expected = before.clone();
    expected.push(question.id);
    expected.extend(first.iter().chain(&second).map(|m| m.id));
    expected.extend([reply.id, behind.id, later.id]);
    let (done, answer) = ended(&started, &reply, "this");
    commit_one(&subject, finish(&done, &answer)).await;
    refuse(&subject, add(&started, &reply, &round(&started, &reply, &second[1], 3))).await;
    // What is said later goes on there.
    let (last, more, end) = turn(&main, Some(later.id), "more");
    commit_one(&subject, accept(&last, &more, &end)).await;
    expected.extend([more.id, end.id]);

    let subject = subject.reopen().await;
    let store = subject.store();
    assert_eq!(path(&subject, &id, &end).await, expected);
    let stored = store.message(&id, reply.id).await.unwrap().unwrap();
    assert_eq!((stored.parent_id, &*stored.content), (Some(second[1].id), "this"));
    assert_eq!(stored.siblings, Siblings { index: 1, count: 1 });
    let home = store.conversation(main.id).await.unwrap().unwrap();
    assert_eq!((home.leaf_message_id, home.message_count), (Some(end.id), expected.len() as u64));
    assert_eq!(
        store.newest_below(main.id, question.id).await.unwrap(),
        Some(end.id),
        "ids are in the order of the path"
    );
    assert_eq!(store.messages_above(reply.id).await.unwrap() as usize, 31 + 1 + 4);
    for (at, around) in expected.iter().enumerate() {
        let older = store.page(main.id, Cursor::Before(*around), 3).await.unwrap().unwrap();
        let older: Vec<_> = older.items.iter().map(|m| m.id).collect();
        assert_eq!(older, expected[at.saturating_sub(3)..at]);
        let newer = store.page(main.id, Cursor::After(*around), 3).await.unwrap().unwrap();
        let newer: Vec<_> = newer.items.iter().map(|m| m.id).collect();
        assert_eq!(newer, expected[at + 1..(at + 4).min(expected.len())]);
        let offset = Cursor::Newest { offset: u32::try_from(expected.len() - 1 - at).unwrap() };
        let page = store.page(main.id, offset, 1).await.unwrap().unwrap();
        assert_eq!(page.items[0].id, *around);
    }
}

/// Clearing leaves the rounds of a running turn alone; those of others go, and nothing of them stays in the events.
pub async fn rounds_of_tools_go_and_stay_with_their_turn<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    let (turn_of, question, reply) = turn(&main, None, "what is it?");
    commit_one(&subject, accept(&turn_of, &question, &reply)).await;
    let round = round(&turn_of, &reply, &question, 0);
    commit_one(&subject, add(&turn_of, &reply, &round)).await;
    let clear =
        || Fact::new(Change::ClearHistory { bot_id: id.clone(), conversation_id: Some(main.id) }, vec![]);
    assert_eq!(commit_one(&subject, clear()).await.deleted, 0);
    let whole = [question.id, round[0].id, round[1].id, reply.id];
    assert_eq!(path(&subject, &id, &reply).await, whole);

    let (done, answer) = ended(&turn_of, &reply, "secret answer");
    commit_one(&subject, finish(&done, &answer)).await;
    assert_eq!(commit_one(&subject, clear()).await.deleted, 4);
    let events = subject.store().events_after(0, 100).await.unwrap();
    assert!(events.iter().all(|e| !e.data.contains("secret")), "{events:?}");
    let redacted = events.iter().filter(|e| &*e.data == REDACTED).map(|e| e.name.to_string());
    let redacted: Vec<_> = redacted.filter(|name| name.starts_with("tool_")).collect();
    assert_eq!(redacted, ["tool_called", "tool_returned"]);
}
