//! Legal hold: what may lose nothing.

use super::*;
use crate::{
    domain::{ids::ConversationId, message::Sender},
    ports::history_store::Cursor,
};

fn hold(home: &Conversation, held: bool) -> Change {
    Change::HoldConversation { conversation_id: home.id, bot_id: home.bot_id.clone(), held }
}

/// What may lose nothing, each with what is held.
async fn reached<S: Subject>(subject: &S, bot: &BotId) -> Vec<(ConversationId, ConversationId)> {
    let held = subject.store().held(bot).await.expect("it is read");
    held.into_iter().map(|held| (held.conversation, held.by)).collect()
}

/// Neither clearing nor deleting nor purging nor age takes anything from it; the others go on losing.
pub async fn a_held_conversation_loses_nothing<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    let side = conversation(&id);
    commit_one(&subject, Fact::new(Change::CreateConversation(side.clone()), vec![])).await;
    let (t, ..) = exchange(&subject, &side, None, "evidence").await;
    exchange(&subject, &main, None, "other").await;
    commit_one(&subject, Fact::new(hold(&side, true), vec![])).await;
    assert_eq!(reached(&subject, &id).await, [(side.id, side.id)]);
    let clear = |only| Change::ClearHistory { bot_id: id.clone(), conversation_id: only };
    refuse(&subject, clear(Some(side.id))).await;
    refuse(&subject, Change::DeleteConversation(side.id)).await;
    refuse(&subject, Change::DeleteBot { bot_id: id.clone(), purge: true }).await;
    let before = Timestamp(Timestamp::now().0 + 1_000_000);
    assert_eq!(prune(&subject, Prune::Chat { before }, 1).await.rows, 2, "those of the other conversation");
    exchange(&subject, &main, None, "other").await;
    let cleared = commit_one(&subject, Fact::new(clear(None), vec![])).await;
    assert_eq!((cleared.deleted, cleared.events.len()), (2, 1));
    // Also when its bot is deleted, and its id is another's.
    let delete = Change::DeleteBot { bot_id: id.clone(), purge: false };
    commit_one(&subject, Fact::new(delete, vec![])).await;
    commit_one(&subject, launch(&id).0).await;
    refuse(&subject, Change::DeleteBot { bot_id: id.clone(), purge: true }).await;
    assert_eq!(prune(&subject, Prune::Chat { before }, 100).await.rows, 0);
    let subject = subject.reopen().await;
    let held = subject.store().conversation(side.id).await.unwrap().unwrap();
    assert_eq!((held.legal_hold, held.message_count, held.leaf_message_id), (true, 2, Some(t.reply_id)));
    assert_eq!(subject.store().path(t.reply_id, usize::MAX).await.unwrap().len(), 2);
    assert!(subject.store().turn_snapshot(t.id).await.unwrap().is_some());
    commit_one(&subject, Fact::new(hold(&side, false), vec![])).await;
    assert_eq!(reached(&subject, &id).await, []);
    assert_eq!(prune(&subject, Prune::Chat { before }, 100).await.rows, 2);
}

/// The hold is a fact of its own: no other change of the conversation touches it, and it takes new messages.
pub async fn a_hold_is_put_on_once_and_can_be_lifted<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    assert_eq!(reached(&subject, &id).await, []);
    refuse(&subject, hold(&main, false)).await;
    refuse(&subject, hold(&conversation(&id), true)).await;
    let stranger = Conversation { bot_id: BotId::numbered(9), ..main.clone() };
    refuse(&subject, hold(&stranger, true)).await;
    commit_one(&subject, Fact::new(hold(&main, true), vec![])).await;
    refuse(&subject, hold(&main, true)).await;
    let renamed = Conversation { title: Some("renamed".into()), legal_hold: false, ..main.clone() };
    commit_one(&subject, Fact::new(Change::UpdateConversation(renamed), vec![])).await;
    commit_one(&subject, append(&message(&main, None, Sender::User, "goes on"))).await;
    let now = &subject.store().conversations(&id).await.unwrap()[0];
    assert_eq!((now.legal_hold, now.message_count, now.title.as_deref()), (true, 1, Some("renamed")));
    commit_one(&subject, Fact::new(hold(&main, false), vec![])).await;
    assert!(!subject.store().conversation(main.id).await.unwrap().unwrap().legal_hold);
}

async fn fork<S: Subject>(subject: &S, bot: &BotId, from: MessageId) -> Conversation {
    let fork = Conversation { leaf_message_id: Some(from), ..conversation(bot) };
    commit_one(subject, Fact::new(Change::CreateConversation(fork.clone()), vec![])).await;
    fork
}

/// A fork shows the beginning of its source, which may be a fork itself: age takes only what stands beside and behind it
/// there, and nobody else takes anything.
pub async fn a_held_fork_keeps_the_beginning_that_it_shares<S: Subject>() {
    for (limit, bare) in [(1, false), (100, false), (2, true)] {
        let (subject, id, main) = with_bot::<S>().await;
        let (first, ..) = exchange(&subject, &main, None, "shared").await;
        let (second, ..) = exchange(&subject, &main, Some(first.reply_id), "shared too").await;
        let beside = message(&main, Some(first.reply_id), Sender::User, "beside");
        commit_one(&subject, append(&beside)).await;
        exchange(&subject, &main, Some(second.reply_id), "behind").await;
        let middle = fork(&subject, &id, second.message_id).await;
        let (third, ..) = exchange(&subject, &middle, Some(second.message_id), "shared by the middle").await;
        exchange(&subject, &middle, Some(third.reply_id), "behind in the middle").await;
        let held = fork(&subject, &id, third.message_id).await;
        let mut end = third.message_id;
        if !bare {
            end = exchange(&subject, &held, Some(end), "own").await.0.reply_id;
            let elsewhere = message(&held, Some(first.message_id), Sender::User, "another branch");
            commit_one(&subject, append(&elsewhere)).await;
        }
        let path = async |subject: &S| -> Vec<_> {
            let path = subject.store().path(end, usize::MAX).await.unwrap();
            path.into_iter().map(|m| (m.id, m.parent_id, m.content)).collect()
        };
        let shown = path(&subject).await;
        commit_one(&subject, Fact::new(hold(&held, true), vec![])).await;
        let mut expected = [main.id, middle.id, held.id].map(|home| (home, held.id));
        expected.sort_unstable();
        assert_eq!(reached(&subject, &id).await, expected);
        for home in [&main, &middle] {
            let only = Some(home.id);
            refuse(&subject, Change::ClearHistory { bot_id: id.clone(), conversation_id: only }).await;
            refuse(&subject, Change::DeleteConversation(home.id)).await;
        }
        refuse(&subject, Change::ClearHistory { bot_id: id.clone(), conversation_id: None }).await;
        refuse(&subject, Change::DeleteBot { bot_id: id.clone(), purge: true }).await;
        let before = Timestamp(Timestamp::now().0 + 1_000_000);
        let pruned = prune(&subject, Prune::Chat { before }, limit).await;
        assert_eq!(pruned.rows, 1 + 1 + 2 + 1 + 2, "in pieces of {limit}");
        let subject = subject.reopen().await;
        assert_eq!(path(&subject).await, shown);
        let page = subject.store().page(held.id, Cursor::Newest { offset: 0 }, 100).await.unwrap().unwrap();
        assert_eq!(page.items.len(), if bare { 4 } else { 2 });
        let left = subject.store().conversation(main.id).await.unwrap().unwrap();
        let newest = subject.store().message(&id, second.message_id).await.unwrap().unwrap();
        assert_eq!(
            (left.message_count, left.leaf_message_id, left.last_at),
            (3, Some(newest.id), Some(newest.created_at))
        );
        // What begins elsewhere is not reached.
        let free = conversation(&id);
        commit_one(&subject, Fact::new(Change::CreateConversation(free.clone()), vec![])).await;
        exchange(&subject, &free, None, "free").await;
        let clear = Change::ClearHistory { bot_id: id.clone(), conversation_id: None };
        assert_eq!(commit_one(&subject, Fact::new(clear, vec![])).await.deleted, 2);
        commit_one(&subject, Fact::new(hold(&held, false), vec![])).await;
        assert_eq!(reached(&subject, &id).await, []);
        let own = if bare { 0 } else { 3 };
        assert_eq!(prune(&subject, Prune::Chat { before }, limit).await.rows, 3 + 1 + own);
    }
}
