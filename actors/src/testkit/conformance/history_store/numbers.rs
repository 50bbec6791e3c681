//! The outbox: numbers, order, epoch.

use std::collections::HashMap;

use super::{super::samples::*, Subject, commit, commit_one, refuse, with_bot};
use crate::{
    domain::{
        event::{CommittedEvent, EventBody, NewEvent, Topic},
        ids::BotId,
        message::Sender,
    },
    ports::history_store::{Change, Fact, HistoryStore, REDACTED, Span},
};

/// Panics where a number is missing or a position does not increase.
pub(super) fn check_numbers(events: &[CommittedEvent]) -> HashMap<Topic, u64> {
    let mut heads: HashMap<Topic, u64> = HashMap::new();
    let mut position = 0;
    for event in events {
        assert!(event.position > position, "positions increase: {event:?}");
        position = event.position;
        for (topic, seq) in &event.seqs {
            let head = heads.entry(topic.clone()).or_default();
            assert_eq!(*seq, *head + 1, "{topic} has no gap and no repetition");
            *head = *seq;
        }
    }
    heads
}

/// An event on the topics that belong to no bot.
fn actor_restarted(topic: Topic) -> NewEvent {
    let body = EventBody::ActorRestarted { path: "root/history".into(), reason: "é".into(), took_ms: 1.5 };
    NewEvent::new(vec![topic], &body)
}

/// Every topic counts by itself, from 1.
pub async fn numbers_are_gap_free_per_topic_and_positions_increase<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    assert_eq!(subject.store().head(&Topic::Bots).await.unwrap(), 1);
    assert_eq!(subject.store().head(&Topic::Tree).await.unwrap(), 0);
    let second = BotId::numbered(2);
    let (create, _) = launch(&second);
    let mut parent = None;
    let mut group = vec![create];
    for n in 0..20 {
        let (t, question, reply) = turn(&main, parent, &n.to_string());
        let (done, answer) = ended(&t, &reply, "ok");
        parent = Some(reply.id);
        group.push(accept(&t, &question, &reply));
        group.push(Fact::new(
            Change::None,
            vec![life(&second), actor_restarted(Topic::Tree), actor_restarted(Topic::Models)],
        ));
        group.push(finish(&done, &answer));
        if n % 3 == 0 {
            commit(&subject, std::mem::take(&mut group)).await;
        }
    }
    commit(&subject, group).await;
    let store = subject.store();
    let events = store.events_after(0, 10_000).await.unwrap();
    assert_eq!(events.len(), 1 + 1 + 20 * 7);
    let heads = check_numbers(&events);
    assert_eq!(heads[&Topic::Bot(id)], 1 + 80);
    assert_eq!(heads[&Topic::Bots], 22);
    assert_eq!(heads[&Topic::Models], 20);
    for (topic, head) in &heads {
        assert_eq!(store.head(topic).await.unwrap(), *head, "head of {topic}");
    }
}

/// What is read is what `commit` returned, from any position, in pieces of any size.
pub async fn events_come_back_as_they_were_committed<S: Subject>() {
    let (subject, _, main) = with_bot::<S>().await;
    let mut expected = subject.store().events_after(0, 10).await.unwrap();
    let mut parent = None;
    for n in 0..5 {
        let (t, question, reply) = turn(&main, parent, &format!("question {n}"));
        let (done, answer) = ended(&t, &reply, "answer");
        parent = Some(reply.id);
        let group = vec![accept(&t, &question, &reply), finish(&done, &answer)];
        let sent: Vec<_> = group.iter().flat_map(|f| &f.events).map(|e| (e.id, e.data.clone())).collect();
        let committed: Vec<_> = commit(&subject, group).await.into_iter().flat_map(|c| c.events).collect();
        assert_eq!(committed.iter().map(|e| (e.id, e.data.clone())).collect::<Vec<_>>(), sent);
        assert!(committed.iter().all(|e| e.body().is_ok()));
        expected.extend(committed);
    }
    for piece in [1, 3, 100] {
        let mut read: Vec<CommittedEvent> = vec![];
        loop {
            let from = read.last().map_or(0, |e| e.position);
            let part = subject.store().events_after(from, piece).await.unwrap();
            if part.is_empty() {
                break;
            }
            assert!(part.len() <= piece as usize);
            read.extend(part);
        }
        assert_eq!(read, expected);
    }
    assert!(subject.store().events_after(u64::MAX, 10).await.unwrap().is_empty());
}

/// A restart changes neither the epoch nor the counts, also in the middle of a turn.
pub async fn numbers_and_epoch_go_on_after_reopening<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    let (t, question, reply) = turn(&main, None, "hello");
    commit_one(&subject, accept(&t, &question, &reply)).await;
    let (open, q2, r2) = turn(&main, Some(reply.id), "waits");
    commit_one(&subject, accept(&open, &q2, &r2)).await;
    let epoch = subject.store().epoch().await.unwrap();
    let subject = subject.reopen().await;
    assert_eq!(subject.store().epoch().await.unwrap(), epoch);
    assert_eq!(subject.store().head(&Topic::Turn(t.id)).await.unwrap(), 2);
    commit_one(&subject, Fact::new(Change::None, vec![progress(&t), life(&id)])).await;
    let subject = subject.reopen().await;
    let (done, answer) = ended(&t, &reply, "hi");
    commit_one(&subject, finish(&done, &answer)).await;
    let subject = subject.reopen().await;
    assert_eq!(subject.store().turn_snapshot(t.id).await.unwrap().unwrap().seq, 5);
    assert_eq!(subject.store().turn_snapshot(open.id).await.unwrap().unwrap().seq, 2);
    let events = subject.store().events_after(0, 100).await.unwrap();
    assert_eq!(events.len(), 1 + 2 + 2 + 2 + 2);
    check_numbers(&events);
    assert_ne!(S::create().await.store().epoch().await.unwrap(), epoch, "another database, another epoch");
}

/// Facts that do not apply leave no hole, wherever they stand in a group.
pub async fn a_refused_fact_takes_no_number<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    let said = message(&main, None, Sender::User, "one");
    let after = message(&main, Some(said.id), Sender::User, "two");
    let (again, _) = launch(&id);
    let committed = commit(&subject, vec![append(&said), again, append(&after)]).await;
    assert_eq!(committed.iter().map(|c| c.applied).collect::<Vec<_>>(), [true, false, true]);
    refuse(&subject, append(&said)).await;
    let heads = check_numbers(&subject.store().events_after(0, 100).await.unwrap());
    assert_eq!(heads[&Topic::Conversation(main.id)], 2);
}

/// Deleted texts are not in the outbox either; what is left there keeps its numbers.
pub async fn events_of_deleted_messages_keep_their_numbers_and_lose_their_text<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    let side = conversation(&id);
    commit_one(&subject, Fact::new(Change::CreateConversation(side.clone()), vec![])).await;
    let (t, question, reply) = turn(&main, None, "secret question");
    commit_one(&subject, accept(&t, &question, &reply)).await;
    let (done, answer) = ended(&t, &reply, "secret answer");
    commit_one(&subject, finish(&done, &answer)).await;
    let (open, asked, pending) = turn(&main, Some(reply.id), "kept");
    commit_one(&subject, accept(&open, &asked, &pending)).await;
    commit_one(&subject, append(&message(&side, None, Sender::User, "elsewhere"))).await;
    let before = subject.store().events_after(0, 100).await.unwrap();
    let after = async |change: Change| {
        commit_one(&subject, Fact::new(change, vec![])).await;
        let mut events = subject.store().events_after(0, 100).await.unwrap();
        events.retain(|e| &*e.name != "history_cleared");
        let numbers = |events: &[CommittedEvent]| -> Vec<_> {
            events.iter().map(|e| (e.position, e.id, e.seqs.clone(), e.ends)).collect()
        };
        assert_eq!(numbers(&events), numbers(&before));
        events.into_iter().filter(|e| e.body().is_err()).map(|e| (e.position, e.data)).collect::<Vec<_>>()
    };
    let texts = |having: &[&str]| -> Vec<_> {
        let holds = |e: &&CommittedEvent| having.iter().any(|text| e.data.contains(text));
        before.iter().filter(holds).map(|e| (e.position, REDACTED.into())).collect()
    };
    assert_eq!(texts(&["secret"]).len(), 2);
    let clear = Change::ClearHistory { bot_id: id.clone(), conversation_id: Some(main.id) };
    assert_eq!(after(clear).await, texts(&["secret"]));
    assert_eq!(after(Change::DeleteConversation(side.id)).await, texts(&["secret", "elsewhere"]));
    let purge = Change::DeleteBot { bot_id: id.clone(), purge: true };
    assert_eq!(after(purge).await, texts(&["secret", "elsewhere", "kept"]));
}

/// The events of each topic, in pieces of any size, are those of the outbox; a span that is not all there is none.
pub async fn a_topic_gives_out_what_a_reader_missed<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    let (mut parent, mut turns) = (None, vec![]);
    for n in 0..6 {
        let (t, question, reply) = turn(&main, parent, &format!("question {n}"));
        let (done, answer) = ended(&t, &reply, "answer");
        parent = Some(reply.id);
        let mut group = vec![accept(&t, &question, &reply)];
        group.push(Fact::new(
            Change::None,
            vec![actor_restarted(Topic::Tree), actor_restarted(Topic::Models)],
        ));
        if n < 5 {
            group.push(finish(&done, &answer));
        }
        commit(&subject, group).await;
        turns.push(t.id);
    }
    let subject = subject.reopen().await;
    let store = subject.store();
    let all = store.events_after(0, 1000).await.unwrap();
    let topics = [Topic::Bots, Topic::Tree, Topic::Models, Topic::Bot(id), Topic::Conversation(main.id)];
    for topic in topics.into_iter().chain(turns.into_iter().map(Topic::Turn)) {
        let own: Vec<_> = all.iter().filter(|e| e.seqs.iter().any(|(t, _)| *t == topic)).cloned().collect();
        let head = store.head(&topic).await.unwrap();
        assert_eq!(own.len() as u64, head, "{topic}");
        for after in 0..=head {
            for limit in [1, 2, 1000] {
                let (mut at, mut read) = (after, vec![]);
                while at < head {
                    let span = Span { after: at, through: head };
                    let page = store.topic_events(&topic, span, limit, 1 << 20).await.unwrap().unwrap();
                    assert!(!page.is_empty() && page.len() <= limit as usize, "{topic} {span:?}");
                    at += page.len() as u64;
                    read.extend(page);
                }
                assert_eq!(read, own[usize::try_from(after).unwrap()..], "{topic} after {after} by {limit}");
            }
            let span = Span { after, through: after };
            assert_eq!(store.topic_events(&topic, span, 10, 10).await.unwrap(), Some(vec![]), "{topic}");
        }
        let whole = Span { after: 0, through: head };
        let narrow = store.topic_events(&topic, whole, 1000, 0).await.unwrap().unwrap();
        assert_eq!(narrow, own[..1], "{topic}: one event however little fits");
        for beyond in [Span { after: 0, through: head + 1 }, Span { after: head, through: head + 1 }] {
            assert_eq!(store.topic_events(&topic, beyond, 1000, 1 << 20).await.unwrap(), None, "{topic}");
        }
        let far = Span { after: u64::MAX - 1, through: u64::MAX };
        assert_eq!(store.topic_events(&topic, far, 1000, 1 << 20).await.unwrap(), None, "{topic}");
    }
    let nobody = Topic::Conversation(conversation(&main.bot_id).id);
    let span = Span { after: 0, through: 1 };
    assert_eq!(store.topic_events(&nobody, span, 10, 10).await.unwrap(), None);
}

/// Deleted texts are not replayed; their numbers are.
pub async fn a_redacted_event_is_given_out_under_its_number<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    commit_one(&subject, append(&message(&main, None, Sender::User, "secret"))).await;
    let clear = Change::ClearHistory { bot_id: id, conversation_id: Some(main.id) };
    commit_one(&subject, Fact::new(clear, vec![])).await;
    let topic = Topic::Conversation(main.id);
    let span = Span { after: 0, through: 2 };
    let events = subject.store().topic_events(&topic, span, 10, 1 << 20).await.unwrap().unwrap();
    let data: Vec<_> = events.iter().map(|e| (&*e.name, &*e.data == REDACTED)).collect();
    assert_eq!(data, [("message_received", true), ("history_cleared", false)]);
}
