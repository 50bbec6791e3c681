//! Obligations of [`StateStore`](crate::ports::state_store::StateStore).

use super::{Subject, samples};
use crate::{
    domain::{
        bot::{BotRecord, BotState},
        ids::BotId,
        model::ServerRecord,
    },
    ports::{
        history_store::{Change, Fact, HistoryStore},
        state_store::StateStore,
    },
};

/// One test per obligation of the state store. The argument is a [`Subject`].
#[macro_export]
macro_rules! state_store_suite {
    ($subject:ty) => {
        mod state_store_suite {
            use super::*;
            $crate::conformance_tests!($subject, state_store:
                the_roster_is_in_order_of_creation_without_the_deleted
                the_roster_has_what_was_committed_last
                added_servers_are_there_until_they_are_removed
            );
        }
    };
}

/// Bots come in the order of their creation; a deleted one is missing, a relaunched one is last.
pub async fn the_roster_is_in_order_of_creation_without_the_deleted<S: Subject>() {
    let subject = S::create().await;
    assert!(subject.store().roster().await.unwrap().is_empty());
    let names = ["zoe", "adam", "BOT-001", "adam2"].map(|n| BotId::parse(n).unwrap());
    for id in &names {
        subject.store().commit(vec![samples::launch(id).0]).await.unwrap();
    }
    let delete = |id: &BotId| Fact::new(Change::DeleteBot { bot_id: id.clone(), purge: false }, vec![]);
    let [zoe, adam, numbered, adam2] = &names;
    subject.store().commit(vec![delete(adam), delete(zoe), samples::launch(zoe).0]).await.unwrap();
    let subject = subject.reopen().await;
    let roster = subject.store().roster().await.unwrap();
    let roster: Vec<_> = roster.iter().map(|(bot, _)| &bot.id).collect();
    assert_eq!(roster, [numbered, adam2, zoe]);
}

/// Record and status are those of the last commit, also after a restart.
pub async fn the_roster_has_what_was_committed_last<S: Subject>() {
    let subject = S::create().await;
    let id = BotId::numbered(1);
    let (bot, main, status) = samples::bot(&id);
    let create = Change::CreateBot { bot: bot.clone(), main, status: status.clone() };
    subject.store().commit(vec![Fact::new(create, vec![])]).await.unwrap();
    assert_eq!(subject.store().roster().await.unwrap(), [(bot.clone(), status)]);

    let mut patched =
        BotRecord { name: "ümlaut".into(), config_version: 2, updated_at: samples::tick(), ..bot };
    patched.config.options.temperature = Some(0.7);
    patched.metadata.clear();
    let stopped = samples::status(&id, BotState::Terminated);
    let changes = [Change::UpdateBot(patched.clone()), Change::SaveStatus(stopped.clone())];
    subject.store().commit(changes.map(|c| Fact::new(c, vec![])).into()).await.unwrap();
    assert_eq!(subject.store().roster().await.unwrap(), [(patched.clone(), stopped.clone())]);
    let subject = subject.reopen().await;
    assert_eq!(subject.store().roster().await.unwrap(), [(patched, stopped)]);
}

/// Servers come in the order in which they were added, the last one of each name; a removal also applies where there is
/// nothing to remove.
pub async fn added_servers_are_there_until_they_are_removed<S: Subject>() {
    let subject = S::create().await;
    assert!(subject.store().servers().await.unwrap().is_empty());
    let server = |name: &str, slots| ServerRecord {
        name: name.into(),
        url: format!("http://{name}:11434"),
        slots,
        created_at: samples::tick(),
    };
    let add = |server: &ServerRecord| Fact::new(Change::AddServer(server.clone()), vec![]);
    let remove = |name: &str| Fact::new(Change::RemoveServer(name.into()), vec![]);
    let (zoe, adam, again, late) =
        (server("zoe", 1), server("adam", 1024), server("zoe", 2), server("zoe", 3));
    let commit = async |facts: Vec<Fact>| {
        let done = subject.store().commit(facts).await.unwrap();
        assert!(done.iter().all(|done| done.applied));
    };
    commit(vec![add(&zoe), add(&adam), add(&again), remove("nobody")]).await;
    assert_eq!(subject.store().servers().await.unwrap(), [adam.clone(), again]);
    commit(vec![remove("zoe")]).await;
    assert_eq!(subject.store().servers().await.unwrap(), std::slice::from_ref(&adam));
    commit(vec![add(&late)]).await;
    let subject = subject.reopen().await;
    assert_eq!(subject.store().servers().await.unwrap(), [adam, late]);
}
