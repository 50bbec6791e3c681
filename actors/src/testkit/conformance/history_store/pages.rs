//! What is read back: paths, pages, lists, snapshots.

use super::{super::samples::*, Subject, commit, commit_one, with_bot};
use crate::{
    domain::{
        event::Topic,
        ids::{ConversationId, MessageId},
        message::{Conversation, Message, Sender, Siblings},
    },
    ports::history_store::{Change, Cursor, Fact, HistoryStore, PAGE_BYTES, PATH_BYTES},
};

/// Stores a chain of messages behind `parent`, one group.
pub(super) async fn chain<S: Subject>(
    subject: &S,
    home: &Conversation,
    mut parent: Option<MessageId>,
    length: usize,
) -> Vec<Message> {
    let mut messages = vec![];
    for n in 0..length {
        let next = message(home, parent, Sender::User, &format!("message {n}"));
        parent = Some(next.id);
        messages.push(next);
    }
    commit(subject, messages.iter().map(append).collect()).await;
    messages
}

fn ids(messages: &[Message]) -> Vec<MessageId> {
    messages.iter().map(|m| m.id).collect()
}

async fn page<S: Subject>(
    subject: &S,
    id: ConversationId,
    cursor: Cursor,
    limit: u32,
) -> (Vec<MessageId>, bool) {
    let page = subject.store().page(id, cursor, limit).await.unwrap().expect("the cursor is on the path");
    (ids(&page.items), page.has_more)
}

/// Newest first by page, oldest first within; both cursors; offsets.
pub async fn pages_follow_the_active_path<S: Subject>() {
    let (subject, _, main) = with_bot::<S>().await;
    let newest = |offset| Cursor::Newest { offset };
    assert_eq!(page(&subject, main.id, newest(0), 5).await, (vec![], false));
    assert_eq!(page(&subject, ConversationId::new(), newest(0), 5).await, (vec![], false));
    let all = ids(&chain(&subject, &main, None, 10).await);
    assert_eq!(page(&subject, main.id, newest(0), 4).await, (all[6..].to_vec(), true));
    assert_eq!(page(&subject, main.id, newest(4), 4).await, (all[2..6].to_vec(), true));
    assert_eq!(page(&subject, main.id, newest(8), 4).await, (all[..2].to_vec(), false));
    assert_eq!(page(&subject, main.id, newest(6), 4).await, (all[..4].to_vec(), false));
    assert_eq!(page(&subject, main.id, newest(20), 4).await, (vec![], false));
    assert_eq!(page(&subject, main.id, Cursor::Before(all[6]), 4).await, (all[2..6].to_vec(), true));
    assert_eq!(page(&subject, main.id, Cursor::Before(all[4]), 4).await, (all[..4].to_vec(), false));
    assert_eq!(page(&subject, main.id, Cursor::Before(all[0]), 4).await, (vec![], false));
    assert_eq!(page(&subject, main.id, Cursor::After(all[0]), 4).await, (all[1..5].to_vec(), true));
    assert_eq!(page(&subject, main.id, Cursor::After(all[5]), 4).await, (all[6..].to_vec(), false));
    assert_eq!(page(&subject, main.id, Cursor::After(all[9]), 4).await, (vec![], false));
}

/// A message of another branch, of another conversation or of nobody is no cursor.
pub async fn a_cursor_off_the_path_is_no_page<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    let side = conversation(&id);
    commit_one(&subject, Fact::new(Change::CreateConversation(side.clone()), vec![])).await;
    let trunk = chain(&subject, &main, None, 3).await;
    let branch = chain(&subject, &main, Some(trunk[0].id), 1).await;
    let elsewhere = chain(&subject, &side, None, 1).await;
    for off in [trunk[1].id, trunk[2].id, elsewhere[0].id, MessageId::new()] {
        for cursor in [Cursor::Before(off), Cursor::After(off)] {
            assert_eq!(subject.store().page(main.id, cursor, 5).await.unwrap(), None);
        }
    }
    assert_eq!(page(&subject, main.id, Cursor::After(trunk[0].id), 5).await.0, ids(&branch));
    assert_eq!(
        subject.store().page(ConversationId::new(), Cursor::Before(off_path()), 5).await.unwrap(),
        None
    );
}

fn off_path() -> MessageId {
    MessageId::new()
}

/// Siblings share parent and conversation and count in their order of creation. A fork that begins where its origin was edited
/// shares none of the edits.
pub async fn siblings_are_counted_within_their_conversation<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    let root = chain(&subject, &main, None, 1).await.remove(0);
    let mut edits = vec![];
    for _ in 0..3 {
        edits.extend(chain(&subject, &main, Some(root.id), 1).await);
    }
    let other_root = chain(&subject, &main, None, 1).await.remove(0);
    let fork = Conversation { leaf_message_id: Some(root.id), ..conversation(&id) };
    commit_one(&subject, Fact::new(Change::CreateConversation(fork.clone()), vec![])).await;
    let forked = chain(&subject, &fork, Some(root.id), 1).await.remove(0);

    let store = subject.store();
    for (n, edit) in (1u32..).zip(&edits) {
        let stored = store.message(&id, edit.id).await.unwrap().unwrap();
        assert_eq!(stored.siblings, Siblings { index: n, count: 3 });
    }
    let stored = store.message(&id, forked.id).await.unwrap().unwrap();
    assert_eq!(stored.siblings, Siblings { index: 1, count: 1 }, "the edits are of another conversation");
    assert_eq!(store.children(main.id, Some(root.id)).await.unwrap(), ids(&edits));
    assert_eq!(store.children(fork.id, Some(root.id)).await.unwrap(), [forked.id]);
    assert_eq!(store.children(main.id, None).await.unwrap(), [root.id, other_root.id]);
    let stored = store.message(&id, other_root.id).await.unwrap().unwrap();
    assert_eq!(stored.siblings, Siblings { index: 2, count: 2 });
}

/// The path of a fork goes on in the conversation that it came from.
pub async fn a_fork_begins_with_the_path_of_its_origin<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    let trunk = chain(&subject, &main, None, 4).await;
    let fork = Conversation { leaf_message_id: Some(trunk[1].id), ..conversation(&id) };
    commit_one(&subject, Fact::new(Change::CreateConversation(fork.clone()), vec![])).await;
    let newest = Cursor::Newest { offset: 0 };
    assert_eq!(page(&subject, fork.id, newest, 9).await.0, ids(&trunk[..2]));
    let own = chain(&subject, &fork, Some(trunk[1].id), 2).await;
    let path = [ids(&trunk[..2]), ids(&own)].concat();
    assert_eq!(page(&subject, fork.id, newest, 9).await.0, path);
    assert_eq!(page(&subject, fork.id, Cursor::Before(own[0].id), 1).await, (vec![trunk[1].id], true));
    assert_eq!(page(&subject, main.id, newest, 9).await.0, ids(&trunk));
    let stored = subject.store().conversation(fork.id).await.unwrap().unwrap();
    assert_eq!(stored.message_count, 2, "its own messages only");

    let back = Conversation { leaf_message_id: Some(trunk[0].id), title: Some("t".into()), ..stored };
    commit_one(&subject, Fact::new(Change::UpdateConversation(back.clone()), vec![])).await;
    assert_eq!(subject.store().conversation(fork.id).await.unwrap(), Some(back));
    assert_eq!(page(&subject, fork.id, newest, 9).await.0, ids(&trunk[..1]));
    commit_one(&subject, Fact::new(Change::DeleteConversation(main.id), vec![])).await;
    let stored = subject.store().conversation(fork.id).await.unwrap().unwrap();
    assert_eq!(stored.leaf_message_id, Some(own[1].id), "the shared part is gone, its own is left");
    assert_eq!(page(&subject, fork.id, newest, 9).await.0, ids(&own));
}

/// A path ends with the message that exceeds the size; the rest is counted.
pub async fn a_path_stops_where_it_is_large_enough<S: Subject>() {
    let (subject, _, main) = with_bot::<S>().await;
    let mut parent = None;
    let mut all = vec![];
    for n in 0..6u32 {
        let text = "x".repeat(10);
        let mut next = message(&main, parent, Sender::User, &text);
        next.tokens = 1 << n;
        parent = Some(next.id);
        commit_one(&subject, append(&next)).await;
        all.push(next);
    }
    let store = subject.store();
    let newest: Vec<_> = ids(&all).into_iter().rev().collect();
    for (max, length) in [(0, 1), (9, 1), (10, 2), (35, 4), (60, 6), (usize::MAX, 6)] {
        let path = store.path(all[5].id, max).await.unwrap();
        assert_eq!(ids(&path), newest[..length], "{max} bytes");
    }
    assert_eq!(ids(&store.path(all[2].id, usize::MAX).await.unwrap()), newest[3..]);
    assert!(store.path(MessageId::new(), 100).await.unwrap().is_empty());
    for (message, above) in all.iter().zip(0..) {
        assert_eq!(store.messages_above(message.id).await.unwrap(), above);
    }
    assert_eq!(store.messages_above(MessageId::new()).await.unwrap(), 0);
}

/// What a model called is sent to it again, so it counts like what it said.
pub async fn calls_of_tools_are_text_of_a_path<S: Subject>() {
    let (subject, _, main) = with_bot::<S>().await;
    let mut all: Vec<Message> = vec![];
    for _ in 0..3 {
        let parent = all.last().map(|m| m.id);
        let calls = Some(serde_json::json!(["y"]));
        all.push(Message { tool_calls: calls, ..message(&main, parent, Sender::Bot, "0123456789") });
    }
    commit(&subject, all.iter().map(append).collect()).await;
    for (max, length) in [(14, 1), (15, 2), (29, 2), (30, 3)] {
        assert_eq!(subject.store().path(all[2].id, max).await.unwrap().len(), length, "{max} bytes");
    }
}

/// A page ends before the message with which it would be too heavy, and one that is too heavy by itself is a page. A path
/// ends with the one that is too much.
pub async fn heavy_messages_make_pages_and_paths_shorter<S: Subject>() {
    const QUARTERS: [usize; 10] = [4, 4, 4, 1, 2, 2, 5, 1, 1, 2];
    let (subject, _, main) = with_bot::<S>().await;
    let mut all: Vec<Message> = vec![];
    for (n, quarters) in QUARTERS.into_iter().enumerate() {
        let mut next = message(&main, all.last().map(|m| m.id), Sender::User, "");
        let large = "x".repeat(quarters * PAGE_BYTES / 4);
        // Whatever is large in them.
        match n % 4 {
            0 => next.thinking = Some(large.into()),
            _ => next.images = Some(vec![large.into()]),
        }
        let change = Change::AppendMessages { messages: vec![next.clone()], idempotency: None };
        commit_one(&subject, Fact::new(change, vec![])).await;
        all.push(next);
    }
    let all = ids(&all);
    let newest = |offset| Cursor::Newest { offset };
    for (cursor, limit, expected, has_more) in [
        (newest(0), 10, 7..10, true),
        (newest(0), 2, 8..10, true),
        (newest(3), 10, 6..7, true),
        (newest(9), 10, 0..1, false),
        (Cursor::Before(all[6]), 10, 4..6, true),
        (Cursor::Before(all[4]), 10, 3..4, true),
        (Cursor::Before(all[1]), 10, 0..1, false),
        (Cursor::After(all[0]), 10, 1..2, true),
        (Cursor::After(all[2]), 10, 3..5, true),
        (Cursor::After(all[5]), 10, 6..7, true),
        (Cursor::After(all[6]), 10, 7..10, false),
    ] {
        let read = page(&subject, main.id, cursor, limit).await;
        assert_eq!(read, (all[expected].to_vec(), has_more), "{cursor:?}");
    }
    let seen = subject.store().conversation_snapshot(main.id, 50).await.unwrap().unwrap();
    assert_eq!((ids(&seen.messages), seen.has_more), (all[7..].to_vec(), true));
    // 18 quarters of a page are more than a path holds, 14 are not.
    assert_eq!(PATH_BYTES, 4 * PAGE_BYTES);
    let path = subject.store().path(all[9], usize::MAX).await.unwrap();
    let from_leaf: Vec<_> = all[2..].iter().rev().copied().collect();
    assert_eq!(ids(&path), from_leaf);
}

/// The main conversation comes first, then the one used last.
pub async fn conversations_are_listed_main_first_then_by_last_use<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    let sides: Vec<_> = (0..3).map(|_| conversation(&id)).collect();
    for side in &sides {
        commit_one(&subject, Fact::new(Change::CreateConversation(side.clone()), vec![])).await;
    }
    chain(&subject, &sides[0], None, 1).await;
    let listed = subject.store().conversations(&id).await.unwrap();
    let listed: Vec<_> = listed.iter().map(|c| c.id).collect();
    assert_eq!(listed, [main.id, sides[0].id, sides[2].id, sides[1].id]);
}

/// Rows and `seq` of a snapshot belong together, whatever is committed meanwhile.
pub async fn a_snapshot_is_of_one_moment<S: Subject>() {
    const COMMITS: u64 = 150;
    let (subject, _, main) = with_bot::<S>().await;
    let (t, question, reply) = turn(&main, None, "hello");
    commit_one(&subject, accept(&t, &question, &reply)).await;
    let side = conversation(&main.bot_id);
    commit_one(&subject, Fact::new(Change::CreateConversation(side.clone()), vec![])).await;
    let write = async {
        let mut parent = None;
        for n in 1..=COMMITS {
            let next = message(&side, parent, Sender::User, "m");
            parent = Some(next.id);
            let content = "x".repeat(usize::try_from(n).unwrap());
            let point = Change::Checkpoint { reply_id: reply.id, content, thinking: None };
            commit(&subject, vec![append(&next), Fact::new(point, vec![progress(&t)])]).await;
            tokio::task::yield_now().await;
        }
    };
    let read = async {
        let mut moments = 0u64;
        loop {
            let seen = subject.store().conversation_snapshot(side.id, 1000).await.unwrap().unwrap();
            assert_eq!(seen.messages.len() as u64, seen.seq);
            assert_eq!(seen.conversation.message_count, seen.seq);
            assert_eq!(seen.conversation.leaf_message_id, seen.messages.last().map(|m| m.id));
            let turn = subject.store().turn_snapshot(t.id).await.unwrap().unwrap();
            let reply = turn.reply.expect("the reply is there");
            assert_eq!(reply.content.len() as u64 + 2, turn.seq);
            moments += 1;
            if seen.seq == COMMITS {
                break;
            }
            tokio::task::yield_now().await;
        }
        moments
    };
    let ((), moments) = tokio::join!(write, read);
    assert!(moments > 1, "something was read between the commits");
}

/// After `commit` returned, the next read sees it, whichever connection serves it.
pub async fn a_committed_fact_is_seen_by_every_read<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    let mut parent = None;
    for n in 1..=50 {
        let next = message(&main, parent, Sender::User, "m");
        parent = Some(next.id);
        let position = commit_one(&subject, append(&next)).await.events[0].position;
        let store = subject.store();
        let topic = Topic::Conversation(main.id);
        let (message, head, events, page) = tokio::join!(
            store.message(&id, next.id),
            store.head(&topic),
            store.events_after(position - 1, 9),
            store.page(main.id, Cursor::Newest { offset: 0 }, 1)
        );
        assert!(message.unwrap().is_some());
        assert_eq!((head.unwrap(), events.unwrap().len()), (n, 1));
        assert_eq!(ids(&page.unwrap().unwrap().items), [next.id]);
    }
}
