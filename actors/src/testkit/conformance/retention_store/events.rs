//! Old events: they go, their numbers do not.

use super::*;
use crate::{
    domain::event::{EventBody, NewEvent, Topic},
    ports::history_store::Span,
};

fn noted(topics: Vec<Topic>) -> Fact {
    let body = EventBody::ActorRestarted { path: "x".into(), reason: String::new(), took_ms: 1.0 };
    Fact::new(Change::None, vec![NewEvent { time: tick(), ..NewEvent::new(topics, &body) }])
}

/// The span of a topic, if all of it is kept.
async fn kept<S: Subject>(subject: &S, topic: &Topic, after: u64, through: u64) -> Option<usize> {
    let span = Span { after, through };
    let events = subject.store().topic_events(topic, span, 1000, 1 << 20).await.unwrap();
    events.map(|events| events.len())
}

/// Heads stay and numbers go on, for every kind of topic, also after a restart; what is gone is not replayed.
pub async fn numbers_outlive_the_oldest_events<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    let (t, ..) = exchange(&subject, &main, None, "old").await;
    commit_one(&subject, noted(vec![Topic::Tree, Topic::Models, Topic::Tasks])).await;
    let topics = [
        Topic::Bots,
        Topic::Tree,
        Topic::Models,
        Topic::Tasks,
        Topic::Bot(id.clone()),
        Topic::Conversation(main.id),
        Topic::Turn(t.id),
    ];
    let mut heads = vec![];
    for topic in &topics {
        heads.push(subject.store().head(topic).await.unwrap());
    }
    let future = Timestamp(Timestamp::now().0 + 1_000_000);
    let all = prune(&subject, Prune::Events { before: future }, 2).await;
    assert_eq!(all.rows, 1 + 4 + 1);
    assert!(subject.store().events_after(0, 10).await.unwrap().is_empty());
    let subject = subject.reopen().await;
    for (topic, head) in topics.iter().zip(&heads) {
        assert_eq!(subject.store().head(topic).await.unwrap(), *head, "head of {topic}");
        assert_eq!(kept(&subject, topic, 0, *head).await, None, "{topic}");
        assert_eq!(kept(&subject, topic, *head, *head).await, Some(0), "{topic}");
    }
    assert_eq!(subject.store().turn_snapshot(t.id).await.unwrap().unwrap().seq, 4);
    let seen = subject.store().conversation_snapshot(main.id, 1).await.unwrap().unwrap();
    assert_eq!(seen.seq, 4);
    commit_one(&subject, Fact::new(Change::None, vec![life(&id)])).await;
    commit_one(&subject, noted(vec![Topic::Tree, Topic::Models, Topic::Tasks])).await;
    exchange(&subject, &main, Some(t.reply_id), "new").await;
    let now = [heads[0] + 1, heads[1] + 1, heads[2] + 1, heads[3] + 1, heads[4] + 5, heads[5] + 4];
    for ((topic, before), now) in topics.iter().zip(&heads).zip(now) {
        assert_eq!(subject.store().head(topic).await.unwrap(), now, "head of {topic}");
        let new = usize::try_from(now - before).unwrap();
        assert_eq!(kept(&subject, topic, *before, now).await, Some(new), "{topic}");
        assert_eq!(kept(&subject, topic, before - 1, now).await, None, "{topic}");
    }
}

/// A turn may wait longer than events are kept.
pub async fn an_open_turn_goes_on_counting_when_its_events_are_gone<S: Subject>() {
    let (subject, _, main) = with_bot::<S>().await;
    let (t, question, reply) = turn(&main, None, "waits");
    commit_one(&subject, accept(&t, &question, &reply)).await;
    let future = Timestamp(Timestamp::now().0 + 1_000_000);
    prune(&subject, Prune::Events { before: future }, 100).await;
    let subject = subject.reopen().await;
    let topic = Topic::Turn(t.id);
    assert_eq!(subject.store().head(&topic).await.unwrap(), 2);
    assert_eq!(subject.store().turn_snapshot(t.id).await.unwrap().unwrap().seq, 2);
    let started = commit_one(&subject, Fact::new(Change::StartTurn(t.clone()), vec![progress(&t)])).await;
    let number = |done: &Committed, n: usize| done.events[n].seqs.iter().find(|s| s.0 == topic).unwrap().1;
    assert_eq!(number(&started, 0), 3);
    let (done, answer) = ended(&t, &reply, "at last");
    let over = commit_one(&subject, finish(&done, &answer)).await;
    assert_eq!((number(&over, 0), number(&over, 1)), (4, 5));
    assert_eq!(subject.reopen().await.store().head(&topic).await.unwrap(), 5);
}

/// By number: an event goes once it is surplus on all of its topics, so each keeps its newest.
pub async fn the_newest_events_of_each_topic_stay<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    let quiet = BotId::numbered(2);
    commit_one(&subject, launch(&quiet).0).await;
    let mut parent = None;
    for n in 0..6 {
        parent = Some(exchange(&subject, &main, parent, &n.to_string()).await.0.reply_id);
        commit_one(&subject, noted(vec![Topic::Tree])).await;
    }
    let all = subject.store().events_after(0, 1000).await.unwrap();
    let mut heads = std::collections::HashMap::new();
    heads.extend(all.iter().flat_map(|e| e.seqs.clone()));
    let keep = 5;
    let counts = |t: &Topic| !matches!(t, Topic::Turn(_));
    let stays = |e: &&crate::domain::event::CommittedEvent| {
        e.seqs.iter().any(|(t, seq)| counts(t) && *seq + keep > heads[t])
    };
    let expected: Vec<_> = all.iter().filter(stays).cloned().collect();
    let pruned = prune(&subject, Prune::SurplusEvents { keep }, 3).await;
    assert_eq!(pruned.rows, (all.len() - expected.len()) as u64);
    assert!(pruned.rows > 10, "{pruned:?}");
    assert_eq!(subject.store().events_after(0, 1000).await.unwrap(), expected);
    let subject = subject.reopen().await;
    for (topic, head) in heads.iter().filter(|(topic, _)| counts(topic)) {
        assert_eq!(subject.store().head(topic).await.unwrap(), *head, "head of {topic}");
        let newest = keep.min(*head);
        let (after, wanted) = (head - newest, usize::try_from(newest).unwrap());
        assert_eq!(kept(&subject, topic, after, *head).await, Some(wanted), "{topic}");
    }
    let first = commit_one(&subject, Fact::new(Change::None, vec![life(&id)])).await;
    assert_eq!(
        first.events[0].seqs,
        [(Topic::Bots, 3), (Topic::Bot(id.clone()), heads[&Topic::Bot(id)] + 1)]
    );
}

/// By age: from the oldest on, so that what stays has no holes.
pub async fn the_age_of_events_ends_at_the_first_that_is_young<S: Subject>() {
    let subject = S::create().await;
    let mut cut = tick();
    for n in 0..6 {
        commit_one(&subject, noted(vec![Topic::Tree])).await;
        if n == 3 {
            cut = tick();
        }
    }
    let late = Fact::new(Change::None, vec![]);
    commit_one(&subject, late).await;
    assert_eq!(prune(&subject, Prune::Events { before: cut }, 3).await.rows, 4);
    assert_eq!(kept(&subject, &Topic::Tree, 4, 6).await, Some(2));
    assert_eq!(kept(&subject, &Topic::Tree, 3, 6).await, None);
    assert_eq!(prune(&subject, Prune::Events { before: cut }, 3).await.rows, 0);
}
