//! Branches: answers made anew, forks, and what becomes of them when their origin is deleted.

use super::{super::samples::*, Subject, commit_one, pages::chain, refuse, with_bot};
use crate::{
    domain::{
        event::EventBody,
        ids::MessageId,
        message::{Conversation, Message, Sender, Siblings},
        turn::Turn,
    },
    ports::history_store::{Change, Committed, Cursor, Fact, HistoryStore},
};

/// A second answer stands beside the first one, under the same question, which stays as it was.
pub async fn an_answer_made_anew_stands_beside_the_first<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    let (first, question, one) = turn(&main, None, "hello");
    commit_one(&subject, accept(&first, &question, &one)).await;
    let (done, answer) = ended(&first, &one, "one");
    commit_one(&subject, finish(&done, &answer)).await;
    let (second, _, two) = turn(&main, None, "not stored");
    let second = Turn { message_id: question.id, attempt_of: Some(first.id), ..second };
    let two = Message { parent_id: Some(question.id), ..two };
    let changed = Message { content: "changed".into(), ..question.clone() };
    let deleted = Message { id: MessageId::new(), ..question.clone() };
    refuse(&subject, accept(&second, &deleted, &two)).await;
    assert_eq!(subject.store().message(&id, deleted.id).await.unwrap(), None, "it does not come back");
    commit_one(&subject, accept(&second, &changed, &two)).await;

    let store = subject.store();
    let stored = store.message(&id, question.id).await.unwrap();
    assert_eq!(stored, Some(question.clone()), "a stored question stays as it is");
    let open = store.open_turns(Some(&id)).await.unwrap().remove(0);
    assert_eq!((open.0, open.1, open.2.id), (second.clone(), question.clone(), two.id));
    for (index, reply) in [(1, &one), (2, &two)] {
        let stored = store.message(&id, reply.id).await.unwrap().unwrap();
        assert_eq!(stored.siblings, Siblings { index, count: 2 });
    }
    let conversation = store.conversation(main.id).await.unwrap().unwrap();
    assert_eq!((conversation.leaf_message_id, conversation.message_count), (Some(two.id), 3));
    let (done, answer) = ended(&second, &two, "two");
    commit_one(&subject, finish(&done, &answer)).await;
    let page = subject.store().page(main.id, Cursor::Newest { offset: 0 }, 9).await.unwrap().unwrap();
    let said: Vec<_> = page.items.iter().map(|m| m.content.to_string()).collect();
    assert_eq!(said, ["hello", "two"]);
    let first = subject.store().turn_snapshot(first.id).await.unwrap().unwrap();
    assert_eq!(first.reply.map(|r| r.content.to_string()), Some("one".into()));
}

/// A fork answers a message anew that it shares: the answer is the fork's, and where the message is of all stays as it was.
pub async fn a_fork_answers_what_it_shares_in_itself<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    let (first, question, one) = turn(&main, None, "hello");
    commit_one(&subject, accept(&first, &question, &one)).await;
    let (done, answer) = ended(&first, &one, "one");
    commit_one(&subject, finish(&done, &answer)).await;
    let before = subject.store().conversation(main.id).await.unwrap();
    let fork = Conversation { leaf_message_id: Some(one.id), ..conversation(&id) };
    commit_one(&subject, Fact::new(Change::CreateConversation(fork.clone()), vec![])).await;
    let (second, _, two) = turn(&fork, None, "not stored");
    let second = Turn { message_id: question.id, attempt_of: Some(first.id), ..second };
    let two = Message { parent_id: Some(question.id), ..two };
    commit_one(&subject, accept(&second, &question, &two)).await;
    refuse(&subject, Fact::new(Change::DeleteConversation(main.id), vec![])).await;
    let open = subject.store().open_turns(Some(&id)).await.unwrap().remove(0);
    assert_eq!((open.0, open.1.id, open.2.id), (second.clone(), question.id, two.id));
    let (done, answer) = ended(&second, &two, "two");
    commit_one(&subject, finish(&done, &answer)).await;

    let store = subject.store();
    assert_eq!(store.conversation(main.id).await.unwrap(), before, "nothing was said there");
    let stored = store.conversation(fork.id).await.unwrap().unwrap();
    assert_eq!((stored.leaf_message_id, stored.message_count), (Some(two.id), 1));
    for (home, said) in [(main.id, ["hello", "one"]), (fork.id, ["hello", "two"])] {
        let page = store.page(home, Cursor::Newest { offset: 0 }, 9).await.unwrap().unwrap();
        assert_eq!(page.items.iter().map(|m| m.content.to_string()).collect::<Vec<_>>(), said);
    }
    commit_one(&subject, Fact::new(Change::DeleteConversation(main.id), vec![])).await;
    let page = subject.store().page(fork.id, Cursor::Newest { offset: 0 }, 9).await.unwrap().unwrap();
    assert_eq!(page.items.iter().map(|m| (m.id, m.parent_id)).collect::<Vec<_>>(), [(two.id, None)]);
}

/// No conversation begins or ends with a message that is not there.
pub async fn a_leaf_must_be_there<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    let said = chain(&subject, &main, None, 2).await;
    let lost = Conversation { leaf_message_id: Some(MessageId::new()), ..conversation(&id) };
    refuse(&subject, Fact::new(Change::CreateConversation(lost.clone()), vec![])).await;
    assert_eq!(subject.store().conversation(lost.id).await.unwrap(), None);
    let stored = subject.store().conversation(main.id).await.unwrap().unwrap();
    let update = |leaf_message_id| {
        let to = Conversation { leaf_message_id, title: Some("t".into()), ..stored.clone() };
        Fact::new(Change::UpdateConversation(to), vec![])
    };
    refuse(&subject, update(lost.leaf_message_id)).await;
    assert_eq!(subject.store().conversation(main.id).await.unwrap(), Some(stored.clone()));
    for leaf in [Some(said[0].id), None, Some(said[1].id)] {
        commit_one(&subject, update(leaf)).await;
        assert_eq!(subject.store().conversation(main.id).await.unwrap().unwrap().leaf_message_id, leaf);
    }
}

/// A branch was last continued at the newest message below its beginning, in the same conversation.
pub async fn a_branch_ends_with_its_newest_message<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    let trunk = chain(&subject, &main, None, 3).await;
    let edit = chain(&subject, &main, Some(trunk[0].id), 2).await;
    let back = chain(&subject, &main, Some(trunk[1].id), 1).await;
    let fork = Conversation { leaf_message_id: Some(edit[1].id), ..conversation(&id) };
    commit_one(&subject, Fact::new(Change::CreateConversation(fork.clone()), vec![])).await;
    let own = chain(&subject, &fork, Some(edit[1].id), 2).await;
    let store = subject.store();
    for (from, end) in [
        (&trunk[0], &back[0]),
        (&trunk[1], &back[0]),
        (&trunk[2], &trunk[2]),
        (&edit[0], &edit[1]),
        (&edit[1], &edit[1]),
        (&own[0], &own[1]),
    ] {
        let home = if from.id == own[0].id { fork.id } else { main.id };
        assert_eq!(store.newest_below(home, from.id).await.unwrap(), Some(end.id));
    }
    for (home, from, end) in [
        (fork.id, edit[1].id, Some(own[1].id)),
        (fork.id, trunk[0].id, Some(own[1].id)),
        (fork.id, trunk[1].id, None),
        (main.id, own[0].id, None),
        (main.id, MessageId::new(), None),
    ] {
        assert_eq!(store.newest_below(home, from).await.unwrap(), end);
    }
}

/// A fork counts the version that it shares among those of its own, wherever its path leads; its origin counts neither.
pub async fn a_fork_counts_what_it_shares_among_its_own<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    let trunk = chain(&subject, &main, None, 4).await;
    chain(&subject, &main, Some(trunk[1].id), 1).await;
    let fork = Conversation { leaf_message_id: Some(trunk[3].id), ..conversation(&id) };
    commit_one(&subject, Fact::new(Change::CreateConversation(fork.clone()), vec![])).await;
    let own = chain(&subject, &fork, Some(trunk[3].id), 2).await;
    let edits = [chain(&subject, &fork, Some(trunk[1].id), 1).await, chain(&subject, &fork, None, 1).await];
    let [behind, first] = edits.map(|mut edit| edit.remove(0));
    let answer = chain(&subject, &fork, Some(own[0].id), 1).await.remove(0);

    let store = subject.store();
    let [one, two, three, four] = [0, 1, 2, 3].map(|at: usize| trunk[at].id);
    for (home, parent, children) in [
        (fork.id, None, vec![one, first.id]),
        (fork.id, Some(one), vec![two]),
        (fork.id, Some(two), vec![three, behind.id]),
        (fork.id, Some(three), vec![four]),
        (fork.id, Some(four), vec![own[0].id]),
        (fork.id, Some(own[0].id), vec![own[1].id, answer.id]),
        (main.id, None, vec![one]),
        (main.id, Some(four), vec![]),
    ] {
        assert_eq!(store.children(home, parent).await.unwrap(), children, "below {parent:?}");
    }
    assert_eq!(store.children(main.id, Some(two)).await.unwrap().len(), 2, "its own");
    for (leaf, places) in [
        (first.id, vec![(2, 2)]),
        (behind.id, vec![(1, 2), (1, 1), (2, 2)]),
        (own[1].id, vec![(1, 2), (1, 1), (1, 2), (1, 1), (1, 1), (1, 2)]),
        (three, vec![(1, 2), (1, 1), (1, 2)]),
    ] {
        let now = store.conversation(fork.id).await.unwrap().unwrap();
        let choose = Conversation { leaf_message_id: Some(leaf), ..now };
        commit_one(&subject, Fact::new(Change::UpdateConversation(choose), vec![])).await;
        let page = store.page(fork.id, Cursor::Newest { offset: 0 }, 9).await.unwrap().unwrap();
        let shown = store.conversation_snapshot(fork.id, 9).await.unwrap().unwrap().messages;
        assert_eq!(page.items, shown);
        let counted: Vec<_> = shown.iter().map(|m| (m.siblings.index, m.siblings.count)).collect();
        assert_eq!(counted, places, "to {leaf}");
    }
    let newest =
        [(one, answer.id), (two, answer.id), (four, answer.id), (behind.id, behind.id), (first.id, first.id)];
    for (from, end) in newest {
        assert_eq!(store.newest_below(fork.id, from).await.unwrap(), Some(end), "below {from}");
    }
    let page = store.page(main.id, Cursor::Newest { offset: 0 }, 9).await.unwrap().unwrap();
    let counted: Vec<_> = page.items.iter().map(|m| (m.siblings.index, m.siblings.count)).collect();
    assert_eq!(counted, [(1, 1), (1, 1), (2, 2)]);
}

/// A fork keeps what was said in it, begins there, and is told that its beginning is gone.
pub async fn a_fork_that_lost_its_beginning_is_told<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    let side = conversation(&id);
    commit_one(&subject, Fact::new(Change::CreateConversation(side.clone()), vec![])).await;
    let mut forks = vec![];
    let bodies = |done: &Committed| done.events.iter().map(|e| e.body().unwrap()).collect::<Vec<_>>();
    let told = |home: &Conversation, deleted| EventBody::HistoryCleared {
        bot_id: id.clone(),
        conversation_id: Some(home.id),
        deleted,
        removed: false,
    };
    for home in [&main, &side] {
        let said = chain(&subject, home, None, 2).await;
        for grown in [false, true] {
            let fork = Conversation { leaf_message_id: Some(said[0].id), ..conversation(&id) };
            commit_one(&subject, Fact::new(Change::CreateConversation(fork.clone()), vec![])).await;
            let own = if grown { chain(&subject, &fork, Some(said[0].id), 2).await } else { vec![] };
            forks.push((fork, own));
        }
    }
    let clear = Change::ClearHistory { bot_id: id.clone(), conversation_id: Some(main.id) };
    let done = commit_one(&subject, Fact::new(clear, vec![])).await;
    assert_eq!(done.deleted, 2);
    assert_eq!(bodies(&done), [told(&main, 2), told(&forks[0].0, 0), told(&forks[1].0, 0)]);
    let delete = Fact::new(Change::DeleteConversation(side.id), vec![life(&id)]);
    let done = commit_one(&subject, delete).await;
    assert_eq!(done.deleted, 2);
    assert_eq!(bodies(&done)[..2], [told(&forks[2].0, 0), told(&forks[3].0, 0)]);
    assert_eq!(done.events.len(), 3, "and the event of the fact");
    for (fork, own) in forks {
        let stored = subject.store().conversation(fork.id).await.unwrap().unwrap();
        assert_eq!(stored.leaf_message_id, own.last().map(|m| m.id));
        let page = subject.store().page(fork.id, Cursor::Newest { offset: 0 }, 9).await.unwrap().unwrap();
        let ids = |all: &[Message]| all.iter().map(|m| m.id).collect::<Vec<_>>();
        assert_eq!(ids(&page.items), ids(&own));
        assert!(page.items.first().is_none_or(|m| m.parent_id.is_none()));
        let parent = stored.leaf_message_id;
        commit_one(&subject, append(&message(&fork, parent, Sender::User, "it goes on"))).await;
    }
}
