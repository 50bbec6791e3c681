//! Legal hold: what may lose nothing.

use super::*;
use crate::domain::message::Sender;

fn hold(home: &Conversation, held: bool) -> Change {
    Change::HoldConversation { conversation_id: home.id, bot_id: home.bot_id.clone(), held }
}

/// Neither clearing nor deleting nor purging nor age takes anything from it; the others go on losing.
pub async fn a_held_conversation_loses_nothing<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    let side = conversation(&id);
    commit_one(&subject, Fact::new(Change::CreateConversation(side.clone()), vec![])).await;
    let (t, ..) = exchange(&subject, &side, None, "evidence").await;
    exchange(&subject, &main, None, "other").await;
    commit_one(&subject, Fact::new(hold(&side, true), vec![])).await;
    assert!(subject.store().has_held(&id).await.unwrap());
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
    assert!(!subject.store().has_held(&id).await.unwrap());
    assert_eq!(prune(&subject, Prune::Chat { before }, 100).await.rows, 2);
}

/// The hold is a fact of its own: no other change of the conversation touches it, and it takes new messages.
pub async fn a_hold_is_put_on_once_and_can_be_lifted<S: Subject>() {
    let (subject, id, main) = with_bot::<S>().await;
    assert!(!subject.store().has_held(&id).await.unwrap());
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
