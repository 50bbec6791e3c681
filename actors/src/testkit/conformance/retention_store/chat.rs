//! Old messages: what goes with them, and that what is left is whole.

use super::*;
use crate::{
    domain::{event::Topic, message::Sender},
    ports::history_store::{Cursor, REDACTED},
};

/// Oldest first in pieces of any size; parents, counts, turns and events follow.
pub async fn old_messages_go_with_their_turns_and_the_path_is_mended<S: Subject>() {
    for limit in [1, 3, 100] {
        let (subject, id, main) = with_bot::<S>().await;
        let (first, asked, answered) = exchange(&subject, &main, None, "secret one").await;
        let aside = message(&main, Some(answered.id), Sender::User, "secret aside");
        commit_one(&subject, append(&aside)).await;
        let (second, ..) = exchange(&subject, &main, Some(answered.id), "secret two").await;
        let before = tick();
        let (third, question, reply) = exchange(&subject, &main, Some(second.reply_id), "kept").await;
        let pruned = prune(&subject, Prune::Chat { before }, limit).await;
        assert_eq!((pruned.rows, pruned.bots), (5, vec![id.clone()]), "in pieces of {limit}");
        let subject = subject.reopen().await;
        let store = subject.store();
        for gone in [asked.id, answered.id, aside.id, second.message_id, second.reply_id] {
            assert_eq!(store.message(&id, gone).await.unwrap(), None);
        }
        for gone in [first.id, second.id] {
            assert_eq!(store.turn_snapshot(gone).await.unwrap(), None);
        }
        assert_eq!(store.turn_snapshot(third.id).await.unwrap().unwrap().turn, third);
        let page = store.page(main.id, Cursor::Newest { offset: 0 }, 10).await.unwrap().unwrap();
        let path: Vec<_> = page.items.iter().map(|m| (m.id, m.parent_id, m.siblings.count)).collect();
        assert_eq!(path, [(question.id, None, 1), (reply.id, Some(question.id), 1)]);
        let now = store.conversation(main.id).await.unwrap().unwrap();
        assert_eq!(
            (now.message_count, now.last_at, now.leaf_message_id),
            (2, Some(reply.created_at), Some(reply.id))
        );
        let events = store.events_after(0, 1000).await.unwrap();
        assert!(!events.iter().any(|e| e.data.contains("secret")));
        assert_eq!(events.iter().filter(|e| &*e.data == REDACTED).count(), 5);
        assert_eq!(events.iter().filter(|e| e.data.contains("answer to kept")).count(), 1);
        let head = store.head(&Topic::Conversation(main.id)).await.unwrap();
        assert_eq!(head, 4 * 3 + 1, "no number is taken back");
    }
}

/// A turn that runs or waits keeps its question and its reply, however old they are.
pub async fn what_an_open_turn_needs_stays<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    let (old, ..) = exchange(&subject, &main, None, "old").await;
    let (open, question, reply) = turn(&main, Some(old.reply_id), "open");
    commit_one(&subject, accept(&open, &question, &reply)).await;
    // An answer that is made anew runs under another turn than its question.
    let again = Turn { id: crate::domain::ids::TurnId::new(), attempt_of: Some(old.id), ..open.clone() };
    let anew = Message {
        id: MessageId::new(),
        turn_id: Some(again.id),
        parent_id: Some(old.message_id),
        ..reply.clone()
    };
    let again = Turn { message_id: old.message_id, reply_id: anew.id, ..again };
    let asked = subject.store().message(&id, old.message_id).await.unwrap().unwrap();
    commit_one(&subject, accept(&again, &asked, &anew)).await;
    let before = tick();
    assert_eq!(prune(&subject, Prune::Chat { before }, 2).await.rows, 1, "only the old reply");
    let left = subject.store().open_turns(Some(&id)).await.unwrap();
    assert_eq!(left.len(), 2);
    assert!(left.iter().all(|(t, asked, reply)| asked.id == t.message_id && reply.id == t.reply_id));
    let (done, answer) = ended(&open, &reply, "done");
    commit_one(&subject, finish(&done, &answer)).await;
    assert_eq!(prune(&subject, Prune::Chat { before }, 100).await.rows, 2);
    assert_eq!(subject.store().open_turns(None).await.unwrap().len(), 1);
}

/// An empty conversation is one that can be written in.
pub async fn a_conversation_that_was_all_old_goes_on<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    exchange(&subject, &main, None, "old").await;
    let before = tick();
    let pruned = prune(&subject, Prune::Chat { before }, 1).await;
    assert_eq!(pruned.rows, 2);
    let now = subject.store().conversation(main.id).await.unwrap().unwrap();
    assert_eq!((now.message_count, now.last_at, now.leaf_message_id), (0, None, None));
    let (_, question, reply) = exchange(&subject, &main, None, "new").await;
    let path = subject.store().path(reply.id, usize::MAX).await.unwrap();
    assert_eq!(path.iter().map(|m| m.id).collect::<Vec<_>>(), [reply.id, question.id]);
    assert_eq!(subject.store().conversations(&id).await.unwrap()[0].message_count, 2);
    assert_eq!(prune(&subject, Prune::Chat { before }, 100).await.rows, 0);
}

/// A fork shares the path of its origin, so it is mended like it; so is one that has nothing of its own.
pub async fn forks_of_what_is_gone_begin_with_what_is_left<S: Subject>() {
    let (subject, _, main) = with_bot::<S>().await;
    let (origin, ..) = exchange(&subject, &main, None, "origin").await;
    let fork = Conversation { leaf_message_id: Some(origin.reply_id), ..conversation(&main.bot_id) };
    let bare = Conversation { leaf_message_id: Some(origin.reply_id), ..conversation(&main.bot_id) };
    for new in [&fork, &bare] {
        commit_one(&subject, Fact::new(Change::CreateConversation(new.clone()), vec![])).await;
    }
    let before = tick();
    let own = message(&fork, Some(origin.reply_id), Sender::User, "own");
    commit_one(&subject, append(&own)).await;
    assert_eq!(prune(&subject, Prune::Chat { before }, 100).await.rows, 2);
    let store = subject.store();
    assert_eq!(store.message(&main.bot_id, own.id).await.unwrap().unwrap().parent_id, None);
    assert_eq!(store.conversation(fork.id).await.unwrap().unwrap().leaf_message_id, Some(own.id));
    assert_eq!(store.conversation(bare.id).await.unwrap().unwrap().leaf_message_id, None);
    assert_eq!(store.conversation(main.id).await.unwrap().unwrap().leaf_message_id, None);
}
