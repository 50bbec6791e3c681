//! What a caller is told to do who waited too long for the database.
#![allow(clippy::unwrap_used)]

use super::outage::House;
use crate::{controller::*, domain::idempotency::IdempotencyKey, testkit::fakes::memory_store::Outage};

#[tokio::test(start_paused = true)]
async fn only_what_has_a_key_is_to_be_sent_again_blindly() {
    let (house, bot) = House::with_bot("ada").await;
    let new = || house.tree.new_conversation(&bot, NewConversation::default());
    let aside = new().await.unwrap().id;
    let keyed = SendMessage {
        idempotency_key: IdempotencyKey::parse("k").ok(),
        ..SendMessage::text(bot.clone(), "hello")
    };
    house.store.go_away(Outage::Silent);
    // All at once: what is asked later is refused at once.
    let (with_key, plain, launched, made, patched, renamed, deleted) = tokio::join!(
        house.tree.send(keyed),
        house.tree.send(SendMessage::text(bot.clone(), "hello")),
        house.launch("eve"),
        new(),
        house.tree.patch(&bot, PatchBot { name: Some(Some("Ada".into())), ..PatchBot::default() }),
        house.tree.patch_conversation(&bot, aside, PatchConversation::default()),
        house.tree.clear(&bot, None),
    );
    let told = with_key.unwrap_err();
    assert!(told.detail.contains("send it again with the same Idempotency-Key"), "{told}");
    let keyless = [
        plain.unwrap_err(),
        launched.unwrap_err(),
        made.unwrap_err(),
        patched.unwrap_err(),
        renamed.unwrap_err(),
        deleted.unwrap_err(),
    ];
    for told in &keyless {
        assert_eq!(told.code, Code::StorageUnavailable);
        assert!(!told.detail.contains("Idempotency-Key"), "{told}");
    }
    let unknown = keyless.iter().filter(|told| told.detail.contains("ask again only if it was not")).count();
    assert!(unknown >= 4, "{keyless:?}");
    house.store.come_back();
}
