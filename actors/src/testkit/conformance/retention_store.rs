//! Obligations of [`RetentionStore`](crate::ports::retention::RetentionStore).

mod chat;
mod events;
mod hold;

pub use self::{chat::*, events::*, hold::*};
use super::{Subject, samples::*};
use crate::{
    domain::{
        bot::AuditEntry,
        ids::{BotId, MessageId},
        message::{Conversation, Message},
        time::Timestamp,
        turn::Turn,
    },
    ports::{
        history_store::{Change, Committed, Fact, HistoryStore},
        retention::{Prune, Pruned, RetentionStore},
        state_store::StateStore,
    },
};

/// One test per obligation of the retention store. The argument is a [`Subject`].
#[macro_export]
macro_rules! retention_store_suite {
    ($subject:ty) => {
        mod retention_store_suite {
            use super::*;
            $crate::conformance_tests!($subject, retention_store:
                old_messages_go_with_their_turns_and_the_path_is_mended
                what_an_open_turn_needs_stays
                a_conversation_that_was_all_old_goes_on
                forks_of_what_is_gone_begin_with_what_is_left
                old_audit_entries_go_oldest_first
                the_last_status_of_a_deleted_bot_is_kept_for_a_while
                numbers_outlive_the_oldest_events
                an_open_turn_goes_on_counting_when_its_events_are_gone
                the_newest_events_of_each_topic_stay
                the_age_of_events_ends_at_the_first_that_is_young
                nothing_old_is_nothing_to_do
                a_held_conversation_loses_nothing
                a_hold_is_put_on_once_and_can_be_lifted
                a_held_fork_keeps_the_beginning_that_it_shares
            );
        }
    };
}

async fn commit_one<S: Subject>(subject: &S, fact: Fact) -> Committed {
    let committed = subject.store().commit(vec![fact]).await.expect("the commit succeeds").remove(0);
    assert!(committed.applied, "the fact applies");
    committed
}

async fn refuse<S: Subject>(subject: &S, change: Change) {
    let why = format!("{change:?}");
    let fact = Fact::new(change, vec![]);
    let committed = subject.store().commit(vec![fact]).await.expect("the commit succeeds").remove(0);
    assert!(!committed.applied && committed.events.is_empty(), "does not apply: {why}");
}

async fn with_bot<S: Subject>() -> (S, BotId, Conversation) {
    let (subject, id) = (S::create().await, BotId::numbered(1));
    let (fact, main) = launch(&id);
    commit_one(&subject, fact).await;
    (subject, id, main)
}

/// Prunes until there is nothing more, in pieces; all pieces together.
async fn prune<S: Subject>(subject: &S, what: Prune, limit: u32) -> Pruned {
    let mut sum = Pruned::default();
    loop {
        let piece = subject.store().prune(what, limit).await.expect("pruning succeeds");
        assert!(piece.rows > 0 || !piece.more, "it gets on: {what:?}");
        sum.rows += piece.rows;
        sum.bots.extend(piece.bots);
        if !piece.more {
            sum.bots.sort();
            sum.bots.dedup();
            return sum;
        }
    }
}

/// Asks and answers; the turn as it ended.
async fn exchange<S: Subject>(
    subject: &S,
    home: &Conversation,
    parent: Option<MessageId>,
    text: &str,
) -> (Turn, Message, Message) {
    let (t, question, reply) = turn(home, parent, text);
    commit_one(subject, accept(&t, &question, &reply)).await;
    let (done, answer) = ended(&t, &reply, &format!("answer to {text}"));
    commit_one(subject, finish(&done, &answer)).await;
    (done, question, answer)
}

fn audited(at: Timestamp) -> Fact {
    let entry = AuditEntry {
        at,
        actor: "somebody".into(),
        action: "test".into(),
        target: "bot:BOT-001".into(),
        reason: None,
        detail: serde_json::Map::new(),
    };
    Fact { audit: Some(entry), ..Fact::new(Change::None, vec![]) }
}

/// Entries go in the order of their age, as many as are asked for.
pub async fn old_audit_entries_go_oldest_first<S: Subject>() {
    let (subject, ..) = with_bot::<S>().await;
    let mut cuts = vec![];
    for _ in 0..5 {
        commit_one(&subject, audited(tick())).await;
        cuts.push(tick());
    }
    let store = subject.store();
    let old = Prune::Audit { before: cuts[2] };
    let piece = store.prune(old, 2).await.unwrap();
    assert_eq!((piece.rows, piece.more), (2, true));
    assert_eq!(prune(&subject, old, 2).await.rows, 1);
    assert_eq!(prune(&subject, old, 2).await.rows, 0);
    assert_eq!(prune(&subject, Prune::Audit { before: tick() }, 1).await.rows, 2);
}

/// A deleted bot is not in the roster; its last status goes later, and that of a successor not at all.
pub async fn the_last_status_of_a_deleted_bot_is_kept_for_a_while<S: Subject>() {
    let (subject, first, _) = with_bot::<S>().await;
    let (second, third) = (BotId::numbered(2), BotId::numbered(3));
    for id in [&second, &third] {
        commit_one(&subject, launch(id).0).await;
    }
    let delete = async |id: &BotId, purge| {
        let change = Change::DeleteBot { bot_id: id.clone(), purge };
        commit_one(&subject, Fact::new(change, vec![life_at(id)])).await;
        tick()
    };
    let before_any = tick();
    let after_first = delete(&first, false).await;
    delete(&second, false).await;
    delete(&third, true).await;
    assert!(subject.store().roster().await.unwrap().is_empty());
    assert_eq!(prune(&subject, Prune::Status { before: before_any }, 10).await.rows, 0);
    assert_eq!(prune(&subject, Prune::Status { before: after_first }, 10).await.rows, 1);
    commit_one(&subject, launch(&second).0).await;
    refuse(&subject, Change::SaveStatus(status(&first, crate::domain::bot::BotState::Idle))).await;
    assert_eq!(prune(&subject, Prune::Status { before: tick() }, 10).await.rows, 0, "it is in use again");
    let roster = subject.reopen().await.store().roster().await.unwrap();
    assert_eq!(roster.iter().map(|(bot, _)| &bot.id).collect::<Vec<_>>(), [&second]);
}

/// Empty tables and young rows.
pub async fn nothing_old_is_nothing_to_do<S: Subject>() {
    let before = tick();
    let (subject, _, main) = with_bot::<S>().await;
    exchange(&subject, &main, None, "young").await;
    commit_one(&subject, audited(tick())).await;
    for what in [
        Prune::Chat { before },
        Prune::Audit { before },
        Prune::Status { before },
        Prune::Events { before },
        Prune::SurplusEvents { keep: 1000 },
        Prune::IdempotencyKeys { before },
    ] {
        assert_eq!(subject.store().prune(what, 100).await.unwrap(), Pruned::default(), "{what:?}");
    }
}
