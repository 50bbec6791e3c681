//! Supervisors over real actors, in paused time.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod stage;

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use self::stage::{Do, RULES, SOON, Stage, Start, abc, tree_of};
use super::*;
use crate::supervision::{
    ActorSlot, ChildState, GaveUp, NoticeKind, RestartPolicy, RestartRules, SlotError, Strategy,
};

#[tokio::test(start_paused = true)]
async fn one_for_one_restarts_only_the_child_that_crashed() {
    let tree = abc(Strategy::OneForOne).await;
    tree.stage.tell("b", Do::Panic).await;
    tree.stage.restarted("b", 1).await;
    assert_eq!(tree.stage.order(), ["start b"]);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn rest_for_one_stops_later_children_in_reverse_and_starts_in_order() {
    let tree = abc(Strategy::RestForOne).await;
    tree.stage.tell("a", Do::Fail).await;
    tree.stage.restarted("c", 1).await;
    assert_eq!(tree.stage.order(), ["stop c", "stop b", "start a", "start b", "start c"]);
    let (a, c) = (tree.child("a"), tree.child("c"));
    assert_eq!((a.last_exit, a.restarts), (Some(Exit::crashed("invariant broken")), 1));
    assert_eq!((c.last_exit, c.restarts), (Some(Exit::normal("restart of a")), 1));
    assert_eq!(tree.view.observe().intensity.left, 2, "one crash was counted, not three");
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn one_for_all_restarts_everybody() {
    let tree = abc(Strategy::OneForAll).await;
    tree.stage.tell("b", Do::Panic).await;
    tree.stage.restarted("c", 1).await;
    assert_eq!(tree.stage.order(), ["stop c", "stop a", "start a", "start b", "start c"]);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_of_the_supervisor_stops_children_in_reverse_order() {
    let tree = abc(Strategy::OneForOne).await;
    let (stage, view) = (tree.stage.clone(), tree.view.clone());
    tree.end().await;
    assert_eq!(stage.order(), ["stop c", "stop b", "stop a"]);
    assert_eq!(view.observe().state, ChildState::Terminated);
    assert_eq!(view.gave_up(), None);
}

#[tokio::test(start_paused = true)]
async fn the_first_restart_is_immediate_and_the_next_waits_for_its_timer() {
    let tree = abc(Strategy::OneForOne).await;
    let scheduled = |kind: &NoticeKind| matches!(kind, NoticeKind::RestartScheduled { .. });
    let begun = Instant::now();
    tree.stage.tell("a", Do::Panic).await;
    tree.stage.restarted("a", 1).await;
    assert_eq!(begun.elapsed(), Duration::ZERO);

    tree.stage.tell("a", Do::Panic).await;
    let NoticeKind::RestartScheduled { after } = tree.stage.notice("a", 2, scheduled).await else { panic!() };
    assert!(!after.is_zero() && after <= Duration::from_millis(100), "{after:?}");
    let waiting = tree.child("a");
    assert_eq!(waiting.state, ChildState::Restarting);
    assert!(waiting.restart_in_ms.is_some());
    tree.stage.restarted("a", 2).await;
    let waited = begun.elapsed();
    // Tokio's timers have a resolution of 1 ms and never fire early.
    assert!(waited >= after && waited <= after + Duration::from_millis(2), "{waited:?} for {after:?}");
    let child = tree.child("a");
    assert_eq!((child.state, child.restarts, child.left), (ChildState::Active, 2, 1));
    assert_eq!(child.history[1].backoff_ms, (after.as_secs_f64() * 1e6).round() / 1e3);
    assert!(child.history[1].took_ms.unwrap() >= child.history[1].backoff_ms);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_fourth_crash_stops_all_in_reverse_and_ends_the_supervisor() {
    let tree = abc(Strategy::OneForOne).await;
    for count in 1..=3 {
        tree.stage.tell("b", Do::Panic).await;
        tree.stage.restarted("b", count).await;
    }
    tree.stage.order();
    tree.stage.tell("b", Do::Panic).await;
    tree.task.await.unwrap();
    assert_eq!(tree.stage.order(), ["stop c", "stop a"]);
    let gave_up = tree.view.gave_up().unwrap();
    assert_eq!((&*gave_up.child, &gave_up.exit), ("b", &Exit::crashed("boom")));
    assert!(tree.stage.has("b", |kind| matches!(kind, NoticeKind::GaveUp { .. })));
    assert_eq!(tree.view.observe().state, ChildState::Terminated);
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_that_gives_up_is_a_crash_to_its_own_supervisor() {
    let stage = Stage::new();
    let view = SupervisorView::new("inner", Strategy::OneForOne, RULES, 1);
    let inner = ChildSpec::actor("inner", &ActorSlot::<SupervisorMessage>::new(), {
        let (stage, view) = (stage.clone(), view.clone());
        let probe = stage.probe("leaf");
        move || {
            let children = vec![probe.clone()];
            (Supervisor, SupervisorArgs { view: view.clone(), children, notify: stage.hook() })
        }
    });
    let outer = tree_of(stage, Strategy::RestForOne, vec![inner.supervisor()]).await;
    for count in 1..=3 {
        outer.stage.tell("leaf", Do::Panic).await;
        outer.stage.restarted("leaf", count).await;
    }
    outer.stage.tell("leaf", Do::Panic).await;
    outer.stage.restarted("inner", 1).await;
    let exit = outer.child("inner").last_exit.unwrap().to_string();
    assert_eq!(exit, "inner gave up: more than 3 restarts within 30s, the last of leaf: boom");
    let inner = view.observe();
    assert_eq!((inner.state, inner.intensity.left), (ChildState::Active, 3), "a full window again");
    assert_eq!(inner.children[0].history.len(), 4, "histories outlive their supervisor");
    assert_eq!(view.gave_up(), None);
    outer.end().await;
}

/// What a hand-written parent sees.
struct Parent;

impl Actor for Parent {
    type Msg = ();
    type State = watch::Sender<Option<GaveUp>>;
    type Arguments = watch::Sender<Option<GaveUp>>;

    async fn pre_start(&self, _: ActorRef<()>, seen: Self::State) -> Result<Self::State, ActorProcessingErr> {
        Ok(seen)
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<()>,
        event: SupervisionEvent,
        seen: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(_, error) = event {
            seen.send_replace(error.downcast_ref::<GaveUp>().cloned());
        }
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_parent_finds_the_typed_reason_in_the_event() {
    let (seen, mut sees) = watch::channel(None);
    let (parent, task) = Actor::spawn(None, Parent, seen).await.unwrap();
    let stage = Stage::new();
    let rules = RestartRules::new(0, Duration::from_secs(30));
    let view = SupervisorView::new("sup", Strategy::OneForOne, rules, 1);
    let args = SupervisorArgs { view, children: vec![stage.probe("a")], notify: stage.hook() };
    Actor::spawn_linked(None, Supervisor, args, parent.get_cell()).await.unwrap();
    stage.tell("a", Do::Panic).await;
    let gave_up = sees.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    assert_eq!((&*gave_up.child, gave_up.max), ("a", 0));
    parent.stop(None);
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_kill_is_abnormal_and_a_normal_stop_of_a_transient_child_is_final() {
    let stage = Stage::new();
    let children = ["a", "b"].map(|id| stage.probe(id).restart(RestartPolicy::Transient)).into();
    let tree = tree_of(stage, Strategy::OneForOne, children).await;
    let b = tree.stage.slot("b");
    tree.stage.slot("a").get().unwrap().kill();
    b.get().unwrap().stop(Some("done".into()));
    tree.stage.restarted("a", 1).await;
    tree.stage.notice("b", 1, |kind| matches!(kind, NoticeKind::Stopped { .. })).await;
    assert_eq!(tree.child("a").last_exit, Some(Exit::killed("killed")));
    let ended = tree.child("b");
    assert_eq!((ended.state, ended.restarts), (ChildState::Terminated, 0));
    assert_eq!(ended.last_exit, Some(Exit::normal("done")));
    assert_eq!(tree.view.observe().intensity.left, 2);
    assert_eq!(b.wait(SOON).await, Err(SlotError::Timeout), "it came back");
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_permanent_child_comes_back_also_after_a_normal_stop() {
    let tree = abc(Strategy::OneForOne).await;
    tree.stage.slot("a").get().unwrap().stop(None);
    tree.stage.restarted("a", 1).await;
    assert_eq!(tree.child("a").last_exit, Some(Exit::Normal(None)));
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_temporary_child_never_comes_back_not_even_after_a_crash() {
    let stage = Stage::new();
    let children = vec![stage.probe("a").restart(RestartPolicy::Temporary)];
    let tree = tree_of(stage, Strategy::OneForOne, children).await;
    tree.stage.tell("a", Do::Panic).await;
    tree.stage.notice("a", 1, |kind| matches!(kind, NoticeKind::Stopped { .. })).await;
    assert_eq!(tree.view.observe().intensity.left, 3);
    assert_eq!(tree.stage.slot("a").wait(SOON).await, Err(SlotError::Timeout));
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_that_does_not_start_counts_as_a_crash() {
    let tree = abc(Strategy::OneForOne).await;
    tree.stage.next_starts("b", &[Start::Panic, Start::Panic]);
    tree.stage.tell("b", Do::Panic).await;
    tree.stage.restarted("b", 1).await;
    let child = tree.child("b");
    assert_eq!(child.left, 0, "one crash and two starts");
    let why: Vec<_> = child.history.iter().map(|entry| (&*entry.reason, entry.took_ms.is_some())).collect();
    assert_eq!(why, [("boom", false), ("start failed: no disk", false), ("start failed: no disk", true)]);
    tree.stage.next_starts("b", &[Start::Panic]);
    tree.stage.tell("b", Do::Panic).await;
    tree.task.await.unwrap();
    assert!(tree.view.gave_up().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_crash_right_after_the_start_is_not_lost() {
    let tree = abc(Strategy::OneForOne).await;
    tree.stage.next_starts("b", &[Start::PanicAfterwards]);
    tree.stage.tell("b", Do::Panic).await;
    tree.stage.restarted("b", 2).await;
    assert_eq!(tree.child("b").last_exit, Some(Exit::crashed("post_start of b")));
    assert_eq!(tree.child("b").left, 1);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_first_start_that_fails_ends_the_boot_and_stops_what_runs() {
    let stage = Stage::new();
    let children = ["a", "b", "c"].map(|id| stage.probe(id)).into();
    stage.next_starts("c", &[Start::Panic]);
    let view = SupervisorView::new("sup", Strategy::OneForOne, RULES, 1);
    let args = SupervisorArgs { view: view.clone(), children, notify: stage.hook() };
    let error = Actor::spawn(None, Supervisor, args).await.unwrap_err();
    let ractor::SpawnErr::StartupFailed(error) = error else { panic!("{error}") };
    let expected =
        BootError::Child { supervisor: "sup".into(), child: "c".into(), exit: Exit::start_failed("no disk") };
    assert_eq!(error.downcast_ref::<BootError>(), Some(&expected));
    assert_eq!(stage.order(), ["start a", "start b", "stop b", "stop a"]);
    assert_eq!(view.observe().state, ChildState::Terminated);
}

#[tokio::test(start_paused = true)]
async fn two_children_of_one_name_are_refused() {
    let stage = Stage::new();
    let view = SupervisorView::new("sup", Strategy::OneForOne, RULES, 1);
    let children = vec![stage.probe("a"), stage.probe("a")];
    let args = SupervisorArgs { view, children, notify: stage.hook() };
    let error = Actor::spawn(None, Supervisor, args).await.unwrap_err();
    assert!(error.to_string().contains("two children named a"), "{error}");
    assert!(stage.order().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_start_that_takes_too_long_is_a_failed_start() {
    let stage = Stage::new();
    let spec = stage.probe("a").start_timeout(Duration::from_secs(2));
    let tree = tree_of(stage, Strategy::OneForOne, vec![spec]).await;
    tree.stage.next_starts("a", &[Start::Slow(SOON)]);
    tree.stage.tell("a", Do::Panic).await;
    tree.stage.restarted("a", 1).await;
    assert_eq!(tree.child("a").last_exit, Some(Exit::start_failed("not started within 2s")));
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_supervisor_answers_while_a_child_takes_its_time_to_start_and_to_stop() {
    let tree = abc(Strategy::RestForOne).await;
    let begun = Instant::now();
    let observe = || tree.actor.call(|reply| SupervisorMessage::GetObservation { reply }, Some(SOON));
    tree.stage.next_starts("b", &[Start::Slow(Duration::from_secs(20))]);
    tree.stage.tell("c", Do::Work(Duration::from_secs(600))).await;
    tree.stage.tell("b", Do::Panic).await;
    tree.stage.notice("c", 1, |kind| matches!(kind, NoticeKind::Stopping)).await;
    let state = |index: usize, seen: &SupervisorObservation| seen.children[index].state;

    let seen = observe().await.unwrap().unwrap();
    assert_eq!((state(1, &seen), state(2, &seen)), (ChildState::Restarting, ChildState::Stopping));
    assert_eq!(begun.elapsed(), Duration::ZERO);
    // `c` is killed after its 5 s, then `b` starts slowly.
    tree.stage.notice("c", 1, |kind| matches!(kind, NoticeKind::Stopped { .. })).await;
    assert_eq!(tree.child("c").last_exit, Some(Exit::killed("killed")));
    let stopped = begun.elapsed();
    assert!(stopped >= Duration::from_secs(5) && stopped < Duration::from_secs(6), "{stopped:?}");
    let seen = observe().await.unwrap().unwrap();
    assert_eq!((state(1, &seen), state(2, &seen)), (ChildState::Restarting, ChildState::Restarting));
    assert!(begun.elapsed() < Duration::from_secs(6));
    tree.stage.restarted("c", 1).await;
    assert!(begun.elapsed() >= Duration::from_secs(25));
    assert_eq!(tree.view.observe().intensity.left, 2, "the stop of c costs nothing");
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_stopped_in_the_middle_of_a_restart_leaves_nobody_behind() {
    let tree = abc(Strategy::OneForOne).await;
    tree.stage.next_starts("b", &[Start::Slow(SOON)]);
    tree.stage.tell("b", Do::Panic).await;
    tree.stage.notice("b", 1, |kind| matches!(kind, NoticeKind::RestartScheduled { .. })).await;
    tree.stage.order();
    let (stage, view, begun) = (tree.stage.clone(), tree.view.clone(), Instant::now());
    tree.end().await;
    assert_eq!(stage.order(), ["stop c", "stop a"]);
    assert_eq!(begun.elapsed(), Duration::ZERO, "waited for a start that nobody needs");
    assert!(view.observe().children.iter().all(|child| child.state == ChildState::Terminated));
}

#[tokio::test(start_paused = true)]
async fn a_killed_supervisor_shows_that_it_and_its_children_are_gone() {
    let tree = abc(Strategy::OneForOne).await;
    tree.actor.kill();
    tree.task.await.unwrap();
    let seen = tree.view.observe();
    assert_eq!(seen.state, ChildState::Terminated);
    assert!(seen.children.iter().all(|child| child.state == ChildState::Terminated));
    assert_eq!(seen.children[0].last_exit, Some(Exit::killed("its supervisor died")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_starts_only_when_the_state_before_it_is_gone() {
    let ways: [fn(&ActorRef<Do>); 3] =
        [|probe| probe.send_message(Do::Panic).unwrap(), |probe| probe.kill(), |probe| probe.stop(None)];
    for end in ways {
        let mut stage = Stage::new();
        stage.drop_takes = Duration::from_millis(5);
        let children = vec![stage.probe("a")];
        let rules = RestartRules { max: 1_000, ..RULES };
        let view = SupervisorView::new("sup", Strategy::OneForOne, rules, 1);
        let args = SupervisorArgs { view, children, notify: stage.hook() };
        let (actor, task) = Actor::spawn(None, Supervisor, args).await.unwrap();
        for count in 1..=3 {
            end(&stage.slot("a").wait(SOON).await.unwrap());
            stage.restarted("a", count).await;
        }
        actor.stop(None);
        task.await.unwrap();
        let mut log = stage.log.borrow().clone();
        log.retain(|line| !line.starts_with("stop"));
        assert_eq!(log, ["start a", "drop a"].repeat(4));
    }
}

#[tokio::test(start_paused = true)]
async fn calls_through_a_slot_fail_typed_while_nobody_is_there() {
    let tree = abc(Strategy::OneForOne).await;
    let slot = tree.stage.slot("a");
    assert_eq!(slot.call(Do::Ping, SOON).await, Ok("pong"));
    assert_eq!(slot.call(Do::DropReply, SOON).await, Err(SlotError::Lost));
    slot.cast(Do::Work(Duration::from_secs(2))).unwrap();
    assert_eq!(slot.call(Do::Ping, Duration::from_secs(1)).await, Err(SlotError::Timeout));

    tree.stage.next_starts("a", &[Start::Slow(Duration::from_secs(3))]);
    let old = slot.get().unwrap();
    old.kill();
    old.wait(None).await.unwrap();
    assert_eq!(slot.get(), None);
    assert_eq!(slot.cast(Do::Panic), Err(SlotError::Down));
    assert_eq!(slot.call(Do::Ping, SOON).await, Err(SlotError::Down));
    assert_eq!(slot.wait(Duration::from_secs(1)).await, Err(SlotError::Timeout));
    let new = slot.wait(SOON).await.unwrap();
    assert_ne!(new, old);
    assert_eq!(slot.call(Do::Ping, SOON).await, Ok("pong"));
    tree.end().await;
    assert_eq!(ActorSlot::<Do>::new().call(Do::Ping, SOON).await, Err(SlotError::Down));
}

#[tokio::test(start_paused = true)]
async fn children_come_and_go_without_a_word_to_their_siblings() {
    let tree = abc(Strategy::OneForOne).await;
    let add = async |id: &str| {
        let spec = tree.stage.probe(id);
        let added = tree.actor.call(|reply| SupervisorMessage::AddChild { spec, reply }, Some(SOON)).await;
        added.unwrap().unwrap();
    };
    let remove = async |id: &str| {
        let id = Arc::from(id);
        let gone = tree.actor.call(|reply| SupervisorMessage::RemoveChild { id, reply }, Some(SOON)).await;
        gone.unwrap().unwrap();
    };
    let names =
        || tree.view.observe().children.into_iter().map(|c| c.id.to_string()).collect::<Vec<_>>().join(" ");
    add("d").await;
    tree.stage.notice("d", 1, |kind| matches!(kind, NoticeKind::Started)).await;
    add("d").await;
    remove("b").await;
    tree.stage.notice("b", 1, |kind| matches!(kind, NoticeKind::Stopped { .. })).await;
    remove("b").await;
    assert_eq!(names(), "a c d");
    assert_eq!(tree.stage.order(), ["start d", "stop b"]);
    // One that is added in its place, and crashes, is restarted as its siblings are.
    add("e").await;
    tree.stage.notice("e", 1, |kind| matches!(kind, NoticeKind::Started)).await;
    tree.stage.tell("e", Do::Panic).await;
    tree.stage.restarted("e", 1).await;
    assert_eq!(names(), "a e c d");
    assert_eq!(tree.stage.order(), ["start e", "start e"]);
    tree.end().await;
}
