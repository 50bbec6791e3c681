//! What a store may remember between facts and groups must not show.

use super::{super::samples::*, Subject, commit, commit_one, refuse, with_bot};
use crate::{
    domain::{
        event::Topic,
        ids::{BotId, ConversationId},
        message::{Conversation, Message, Sender},
        time::Timestamp,
    },
    ports::{
        history_store::{Change, Fact, HistoryStore},
        retention::{Prune, RetentionStore},
    },
};

/// A new side conversation with one message.
async fn side<S: Subject>(subject: &S, id: &BotId) -> (Conversation, Message) {
    let side = conversation(id);
    commit_one(subject, Fact::new(Change::CreateConversation(side.clone()), vec![])).await;
    let said = message(&side, None, Sender::User, "said");
    commit_one(subject, append(&said)).await;
    (side, said)
}

/// However its messages lie among other facts of a group, a conversation has their count, their last as leaf, and the time
/// of the newest.
pub async fn a_conversation_grows_by_every_message_of_a_group<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    let (aside, first) = side(&subject, &id).await;
    let said = |home: &Conversation, parent| message(home, parent, Sender::User, "?");
    let one = said(&main, None);
    let two = said(&main, Some(one.id));
    let late = Message { created_at: Timestamp(one.created_at.0 - 1), ..said(&main, Some(two.id)) };
    let other = said(&aside, Some(first.id));
    let (t, question, reply) = turn(&main, Some(late.id), "??");
    let titled = Conversation { title: Some("t".into()), leaf_message_id: Some(one.id), ..main.clone() };
    let group = vec![
        append(&one),
        append(&other),
        append(&two),
        Fact::new(Change::UpdateConversation(titled), vec![]),
        append(&late),
        accept(&t, &question, &reply),
    ];
    assert!(commit(&subject, group).await.iter().all(|c| c.applied));
    let stored = subject.store().conversation(main.id).await.unwrap().unwrap();
    assert_eq!((stored.message_count, stored.title.as_deref()), (5, Some("t")));
    assert_eq!((stored.leaf_message_id, stored.last_at), (Some(reply.id), Some(reply.created_at)));
    let stored = subject.store().conversation(aside.id).await.unwrap().unwrap();
    assert_eq!((stored.message_count, stored.leaf_message_id), (2, Some(other.id)));
    // The leaf that somebody chose between two groups stays until the next message.
    let back = Conversation { leaf_message_id: Some(first.id), ..stored };
    commit_one(&subject, Fact::new(Change::UpdateConversation(back.clone()), vec![])).await;
    assert_eq!(subject.store().conversation(aside.id).await.unwrap(), Some(back));
    let old = Message { created_at: Timestamp(first.created_at.0 - 1), ..said(&aside, Some(first.id)) };
    commit_one(&subject, append(&old)).await;
    let stored = subject.store().conversation(aside.id).await.unwrap().unwrap();
    assert_eq!((stored.message_count, stored.leaf_message_id), (3, Some(old.id)));
    assert_eq!(stored.last_at, Some(other.created_at));
}

/// Nothing is put behind a message, or into a conversation, that went away in the same group or just before.
pub async fn nothing_is_put_behind_what_just_went_away<S: Subject>() {
    let (subject, id, _) = with_bot::<S>().await;
    let clear = |only: ConversationId| {
        Fact::new(Change::ClearHistory { bot_id: id.clone(), conversation_id: Some(only) }, vec![])
    };
    let delete = |only: ConversationId| Fact::new(Change::DeleteConversation(only), vec![life(&id)]);
    for apart in [false, true] {
        for remove in [&clear as &dyn Fn(ConversationId) -> Fact, &delete] {
            let (home, said) = side(&subject, &id).await;
            let behind = message(&home, Some(said.id), Sender::User, "behind");
            if apart {
                commit_one(&subject, remove(home.id)).await;
                refuse(&subject, append(&behind)).await;
            } else {
                let group = vec![remove(home.id), append(&behind)];
                let applied: Vec<_> = commit(&subject, group).await.iter().map(|c| c.applied).collect();
                assert_eq!(applied, [true, false]);
            }
            assert_eq!(subject.store().message(&id, behind.id).await.unwrap(), None);
        }
    }
    let (home, said) = side(&subject, &id).await;
    let old = Prune::Chat { before: tick() };
    while subject.store().prune(old, 100).await.unwrap().more {}
    refuse(&subject, append(&message(&home, Some(said.id), Sender::User, "behind"))).await;
    commit_one(&subject, append(&message(&home, None, Sender::User, "anew"))).await;
    assert_eq!(subject.store().conversation(home.id).await.unwrap().unwrap().message_count, 1);
}

/// What has a stored id is not stored again, also where nothing but the id tells, and costs its group nothing.
pub async fn a_stored_id_in_a_group_is_left_out_of_it<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    let said = message(&main, None, Sender::User, "once");
    let (t, question, reply) = turn(&main, Some(said.id), "once");
    let (done, answer) = ended(&t, &reply, "!");
    commit(&subject, vec![append(&said), accept(&t, &question, &reply), finish(&done, &answer)]).await;
    for round in 0..2 {
        // Something else in between, so that what is remembered may be gone.
        let other = conversation(&id);
        commit_one(&subject, Fact::new(Change::CreateConversation(other.clone()), vec![])).await;
        let before = subject.store().head(&Topic::Conversation(main.id)).await.unwrap();
        let new = |n: u64| message(&main, Some(answer.id), Sender::User, &format!("new {round} {n}"));
        let group = vec![
            append(&new(1)),
            append(&Message { created_at: tick(), ..said.clone() }),
            accept(&t, &question, &reply),
            append(&new(2)),
        ];
        let committed = commit(&subject, group).await;
        assert_eq!(committed.iter().map(|c| c.applied).collect::<Vec<_>>(), [true, false, false, true]);
        let head = subject.store().head(&Topic::Conversation(main.id)).await.unwrap();
        assert_eq!(head, before + 2, "no number is left out");
        let snapshot = subject.store().turn_snapshot(t.id).await.unwrap().unwrap();
        assert_eq!((snapshot.turn, snapshot.seq), (done.clone(), 4));
    }
    assert_eq!(subject.store().conversation(main.id).await.unwrap().unwrap().message_count, 3 + 4);
}
