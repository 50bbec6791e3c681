//! What a command that clears does, and what a legal hold does not let go.
#![allow(clippy::unwrap_used)]

use super::outage::House;
use crate::{
    controller::{requests::*, *},
    domain::idempotency::IdempotencyKey,
    ports::{history_store::Change, retention::RetentionStore},
};

#[tokio::test(start_paused = true)]
async fn a_conversation_is_cleared_together_with_the_key_and_the_answer_of_the_command_or_not_at_all() {
    let (house, bot) = House::with_bot("ada").await;
    let (first, answer) = house.speaking(&bot, "one").await;
    answer.end().await;
    first.ended().await.unwrap();
    let key = Some(IdempotencyKey::parse("k").unwrap());
    let clear = || SendMessage { idempotency_key: key.clone(), ..SendMessage::text(bot.clone(), "/clear") };
    let texts = async || -> Vec<String> {
        let page = house.tree.history(&bot, HistoryQuery::default()).await.unwrap();
        page.items.iter().map(|message| message.content.to_string()).collect()
    };
    // The process can't die between two commits of which there is one.
    house.store.refuse(|fact| {
        matches!(&fact.change, Change::AppendMessages { messages, .. } | Change::BeginAnew { messages, .. }
            if messages.iter().any(|message| &*message.content == "/clear"))
    });
    assert_eq!(house.tree.send(clear()).await.unwrap_err().code, Code::StorageRefused);
    assert_eq!(texts().await, ["one", "once "], "nothing is gone");
    house.store.refuse(|_| false);
    // Also what runs goes.
    let (_running, _answer) = house.speaking(&bot, "two").await;
    let Sent::Command { message, reply, replayed: false } = house.tree.send(clear()).await.unwrap() else {
        panic!("a command, for the first time")
    };
    assert_eq!(&*reply.content, "Deleted 4 messages of this conversation.");
    assert_eq!((message.parent_id, reply.parent_id), (None, Some(message.id)));
    let (third, answer) = house.speaking(&bot, "three").await;
    let told: Vec<_> = answer.request.messages.iter().map(|message| message.content.to_string()).collect();
    assert!(!told.iter().any(|text| text.contains("one") || text.contains("two")), "{told:?}");
    answer.end().await;
    third.ended().await.unwrap();
    let Sent::Command { message: again, replayed: true, .. } = house.tree.send(clear()).await.unwrap() else {
        panic!("the same answer")
    };
    assert_eq!(again.id, message.id);
    assert_eq!(texts().await, ["/clear", &*reply.content, "three", "once "]);
    let cleared = house.store.events().iter().filter(|e| &*e.name == "history_cleared").count();
    let audited = house.store.audit().iter().filter(|entry| entry.action == "history.clear").count();
    assert_eq!((cleared, audited), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_held_fork_that_has_nothing_of_its_own_goes_on_only_where_it_ends() {
    let (house, bot) = House::with_bot("ada").await;
    let mut replies = vec![];
    for text in ["one", "two"] {
        let (turn, answer) = house.speaking(&bot, text).await;
        answer.end().await;
        replies.push(turn.turn.reply_id);
        turn.ended().await.unwrap();
    }
    let from = |id| NewConversation { from_message_id: Some(id), ..NewConversation::default() };
    let fork = house.tree.new_conversation(&bot, from(replies[1])).await.unwrap();
    let hold = |held| PatchConversation { legal_hold: Some(held), ..PatchConversation::default() };
    let end = |leaf| PatchConversation { leaf_message_id: Some(leaf), ..PatchConversation::default() };
    house.tree.patch_conversation(&bot, fork.id, hold(true)).await.unwrap();
    // Each of these would let go of the second answer.
    let refused = house.tree.patch_conversation(&bot, fork.id, end(replies[0])).await.unwrap_err();
    assert_eq!(refused.code, Code::LegalHold, "{refused}");
    let text = |parent| SendMessage {
        conversation_id: Some(fork.id),
        parent_id: parent,
        ..SendMessage::text(bot.clone(), "three")
    };
    for parent in [Some(Some(replies[0])), Some(None)] {
        assert_eq!(house.tree.send(text(parent)).await.unwrap_err().code, Code::LegalHold);
    }
    house.tree.patch_conversation(&bot, fork.id, end(replies[1])).await.unwrap();
    let Sent::Turn(turn) = house.tree.send(text(None)).await.unwrap() else { panic!("a turn") };
    let own = turn.turn.reply_id;
    house.model.called().await.end().await;
    turn.ended().await.unwrap();
    // What it shows hangs on its own messages now, wherever it ends.
    for leaf in [replies[0], own] {
        house.tree.patch_conversation(&bot, fork.id, end(leaf)).await.unwrap();
        let reached = house.store.held(&bot).await.unwrap();
        assert_eq!(reached.len(), 2, "{reached:?}");
    }
}
