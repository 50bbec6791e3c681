//! Pulls on a server whose steps are written by hand.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use serde_json::Map;

use super::*;
use crate::{
    controller::{Controller, ServerSpec},
    inference::InferenceLimits,
    ports::chat_model::ModelError,
    testkit::fakes::{hand_model::HandModel, memory_store::MemoryStore},
};

/// A tree with one server that a hand writes.
struct Stage {
    hand: Arc<HandModel>,
    tree: Controller,
}

impl Stage {
    async fn start() -> Self {
        let hand = Arc::new(HandModel::default());
        let server = ServerSpec {
            name: "gpu".into(),
            url: String::new(),
            slots: 1,
            simulated: false,
            model: hand.clone(),
        };
        let tree =
            Controller::builder(Arc::new(MemoryStore::default())).server(server).start().await.unwrap();
        // Its first probe is on its way.
        while tree.models().await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        Self { hand, tree }
    }

    async fn pull(&self, name: &str) -> Result<PullWatch, Problem> {
        self.tree.pull_model(&name.parse().unwrap(), None).await
    }
}

async fn end(mut watch: PullWatch) -> Pull {
    let mut last = None;
    while let Some(seen) = watch.next().await {
        last = Some(seen);
    }
    last.expect("a watcher is told the end")
}

#[tokio::test]
async fn a_second_pull_of_a_model_watches_the_first_and_both_see_its_end() {
    let stage = Stage::start().await;
    let (one, other) = (stage.pull("new").await.unwrap(), stage.pull("library/NEW:latest").await.unwrap());
    assert_eq!(one.id(), other.id());
    let pull = stage.hand.pulled().await;
    assert!(pull.report("a", 1, 4).await && pull.report("a", 4, 4).await && pull.end().await);
    for watch in [one, other] {
        let seen = end(watch).await;
        assert_eq!((seen.state, seen.progress.completed), (PullState::Done, Some(4)));
    }
    let listed = stage.tree.pulls();
    assert_eq!((listed.len(), listed[0].watchers), (1, 0));
    assert!(stage.tree.models().await.unwrap().iter().any(|m| m.name == "new:latest"));
    stage.tree.shutdown(Duration::ZERO).await;
}

#[tokio::test]
async fn a_pull_goes_on_when_nobody_watches_it_and_ends_when_it_is_cancelled() {
    let stage = Stage::start().await;
    let watch = stage.pull("new").await.unwrap();
    let (id, pull) = (watch.id(), stage.hand.pulled().await);
    drop(watch);
    assert!(pull.report("a", 1, 4).await);
    let ended = stage.tree.cancel_pull(id).await.unwrap();
    assert_eq!(ended.state, PullState::Cancelled);
    pull.closed().await;
    assert_eq!(stage.tree.cancel_pull(id).await.unwrap().ended_at, ended.ended_at, "again changes nothing");
    assert_eq!(stage.tree.cancel_pull(PullId::new()).await.unwrap_err().code, Code::PullNotFound);
    let again = stage.pull("new").await.unwrap();
    assert_ne!(again.id(), id);
    assert!(stage.hand.pulled().await.end().await);
    assert_eq!(end(again).await.state, PullState::Done);
    stage.tree.shutdown(Duration::ZERO).await;
}

#[tokio::test]
async fn as_many_pulls_as_a_server_takes_and_no_more() {
    let stage = Stage::start().await;
    let mut watches = vec![];
    for n in 0..PER_SERVER {
        watches.push(stage.pull(&format!("m{n}")).await.unwrap());
    }
    let refused = stage.pull("one-more").await.unwrap_err();
    assert_eq!(refused.code, Code::TooManyPulls);
    assert!(refused.retry_after_s.is_some());
    assert!(stage.pull("m0").await.is_ok(), "watching is always possible");
    stage.tree.cancel_pull(watches[0].id()).await.unwrap();
    assert!(stage.pull("one-more").await.is_ok());
    stage.tree.shutdown(Duration::ZERO).await;
}

#[tokio::test]
async fn a_crash_of_the_actor_or_of_those_above_it_costs_a_pull_its_connection_and_nothing_else() {
    let stage = Stage::start().await;
    let watch = stage.pull("new").await.unwrap();
    let mut pull = stage.hand.pulled().await;
    for actor in ["pulls", "tasks", "inference"] {
        assert!(pull.report("a", 1, 4).await);
        assert!(stage.tree.kill_actor(actor), "{actor}");
        pull.closed().await;
        pull = stage.hand.pulled().await;
        assert_eq!(pull.model, "new:latest");
    }
    assert!(pull.end().await);
    assert_eq!(end(watch).await.state, PullState::Done);
    stage.tree.shutdown(Duration::ZERO).await;
}

#[tokio::test]
async fn what_goes_wrong_ends_a_pull_in_words_with_the_next_step() {
    let stage = Stage::start().await;
    for (error, code, words) in [
        (ModelError::ModelNotFound("new".into()), Code::ModelNotInRegistry, "Check name and tag"),
        (ModelError::DiskFull, Code::ServerDiskFull, "Delete models there"),
        (ModelError::Failed("max retries exceeded".into()), Code::UpstreamError, "max retries exceeded"),
        (ModelError::Cut, Code::UpstreamError, "goes on where it stopped"),
        (ModelError::Timeout(crate::ports::chat_model::Wait::Idle), Code::UpstreamTimeout, "fell silent"),
        (ModelError::Unreachable("refused".into()), Code::OllamaOffline, "Is Ollama running?"),
    ] {
        let watch = stage.pull("new").await.unwrap();
        assert!(stage.hand.pulled().await.fail(error).await);
        let seen = end(watch).await;
        let problem = seen.error.unwrap();
        assert_eq!((seen.state, problem.code), (PullState::Failed, code));
        assert!(problem.detail.contains(words), "{}", problem.detail);
    }
    stage.tree.shutdown(Duration::ZERO).await;
}

#[tokio::test]
async fn a_shutdown_ends_what_runs_and_closes_its_connection() {
    let stage = Stage::start().await;
    let (watch, pull) = (stage.pull("new").await.unwrap(), stage.hand.pulled().await);
    stage.tree.shutdown(Duration::ZERO).await;
    pull.closed().await;
    let seen = end(watch).await;
    assert_eq!((seen.state, seen.error.unwrap().code), (PullState::Failed, Code::ShuttingDown));
    assert_eq!(stage.pull("other").await.unwrap_err().code, Code::ShuttingDown);
}

/// A server called `x`.
fn gate(hand: &Arc<HandModel>) -> Arc<Gate> {
    let spec =
        ServerSpec { name: "x".into(), url: String::new(), slots: 1, simulated: false, model: hand.clone() };
    Arc::new(Gate::new(spec, InferenceLimits::default(), watch::Sender::new(0)))
}

fn audit() -> AuditEntry {
    AuditEntry {
        at: Timestamp::now(),
        actor: String::new(),
        action: String::new(),
        target: String::new(),
        reason: None,
        detail: Map::new(),
    }
}

#[test]
fn a_pull_to_a_server_that_took_the_name_of_another_one_is_one_of_its_own() {
    let (pulls, hand) = (Pulls::default(), Arc::new(HandModel::default()));
    let [before, after] = [gate(&hand), gate(&hand)];
    let join = |gate| {
        let (pull, new) = pulls.join(&"new".parse().unwrap(), gate, audit()).unwrap();
        (pull.id, new)
    };
    let (first, _) = join(&before);
    let (second, new) = join(&after);
    assert!(new && second != first);
    assert_eq!((join(&before), join(&after)), ((first, false), (second, false)));
}

#[tokio::test]
async fn only_so_many_ended_pulls_are_listed_and_none_for_ever() {
    let stage = Stage::start().await;
    let watch = stage.pull("runs").await.unwrap();
    let pulls = Pulls::default();
    let gate = gate(&stage.hand);
    let join = |n: usize| pulls.join(&format!("m{n}").parse().unwrap(), &gate, audit()).unwrap().0;
    let running = join(1000);
    for n in 0..ENDED + 20 {
        join(n).end(PullState::Cancelled, None);
    }
    assert_eq!(pulls.list().len(), ENDED + 1);
    let later = Timestamp(Timestamp::now().0 + 2 * 3_600_000_000);
    forget(&mut pulls.0.lock(), later);
    assert_eq!(pulls.list().iter().map(|p| p.id).collect::<Vec<_>>(), [running.id]);
    drop(watch);
    stage.tree.shutdown(Duration::ZERO).await;
}
