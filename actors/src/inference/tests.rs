//! Several gates without their actors, on a stopped clock.
#![allow(clippy::unwrap_used)]

use futures_util::FutureExt;
use gate::{ProbeResult, now};
use ractor::Actor;
use tokio_util::task::TaskTracker;

use super::{queue::Class, *};
use crate::{
    broadcast::Hubs,
    domain::ids::{BotId, ConversationId, Epoch},
    history::{Backlog, History, StorageWatch},
    ports::chat_model::ModelSummary,
    supervision::ActorSlot,
    testkit::fakes::{
        memory_store::MemoryStore,
        moody_model::{Mood, MoodyModel},
    },
};

const MODEL: &str = "m";

fn lists(names: &[&str]) -> Result<ProbeResult, ModelError> {
    let models = names.iter().map(|name| ModelSummary { name: (*name).into(), ..ModelSummary::default() });
    Ok(ProbeResult { version: "1".into(), latency: Duration::ZERO, models: models.collect(), loaded: vec![] })
}

/// As many servers of one slot that are up and have the model.
fn inference(servers: usize, queue_limit: usize) -> Inference {
    of((0..servers).map(|_| Arc::new(MoodyModel::new(&[MODEL]))).collect(), queue_limit)
}

/// These servers, called `s0`, `s1`…
fn of(models: Vec<Arc<MoodyModel>>, queue_limit: usize) -> Inference {
    let spec = |(n, model)| ServerSpec {
        name: format!("s{n}"),
        url: String::new(),
        slots: 1,
        simulated: false,
        model,
    };
    let limits = InferenceLimits { queue_limit, offline_wait: Duration::from_secs(30), queue_wait: None };
    let models = models.into_iter().map(|m| m as Arc<dyn crate::ports::chat_model::ChatModel>);
    let inference = Inference::new(models.enumerate().map(spec).collect(), limits);
    inference.gates().iter().for_each(|gate| gate.probed(lists(&[MODEL]), now()));
    inference
}

fn want(bot: u64, class: Class) -> Want {
    Want {
        turn: TurnId::new(),
        conversation: ConversationId::new(),
        bot: BotId::numbered(bot),
        class,
        model: MODEL.into(),
        cost: 1000,
        waited: Duration::ZERO,
        told: None,
        tried: vec![],
    }
}

#[tokio::test(start_paused = true)]
async fn who_was_failed_by_the_server_with_a_free_slot_keeps_his_place_at_the_other_one() {
    let inference = inference(2, 512);
    let [here, other] = [0, 1].map(|n| inference.gates()[n].clone());
    let running = here.try_acquire(TurnId::new(), MODEL).unwrap();
    let mut tried = Preference::new(MODEL, &[]);
    tried.failed(MODEL, "s1");
    let (first, second) = (want(1, Class::Api), want(2, Class::Api));
    let mut waits = Box::pin(inference.acquire(&first, &tried, Claim::Nothing, drop));
    assert!(waits.as_mut().now_or_never().is_none());
    let held = other.try_acquire(TurnId::new(), MODEL).unwrap();
    let mut ticket = here.enqueue(&second, Claim::Nothing);
    drop(held);
    inference.relieve(&here);
    assert!(waits.as_mut().now_or_never().is_none());
    assert_eq!(here.line().len(), 1, "the free slot is for one who can use it");
    assert!(matches!(ticket.permit().now_or_never(), Some(None)));
    assert_eq!(here.place(first.turn).unwrap().position, 1);
    drop(running);
    assert_eq!(waits.await.unwrap().gate().unwrap().spec.name, "s0");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_lacks_what_it_lists_is_not_believed_for_a_minute_or_until_its_list_changes() {
    let inference = inference(2, 512);
    let liar = inference.gates()[0].clone();
    let lies = || {
        let mut permit = liar.try_acquire(TurnId::new(), MODEL).unwrap();
        permit.failed(&ModelError::ModelNotFound(MODEL.into()));
        drop(permit);
        assert!(!liar.serves(MODEL));
    };
    let goes_to = || inference.route(MODEL, &[]).unwrap().spec.name.clone();
    let minute = Duration::from_secs(60);
    lies();
    assert_eq!(goes_to(), "s1");
    liar.probed(lists(&[MODEL]), now());
    assert_eq!(goes_to(), "s1", "its list lies again");
    assert_eq!(liar.next_look(), Some(now() + minute));
    tokio::time::advance(minute).await;
    assert_eq!(goes_to(), "s0");
    lies();
    liar.probed(lists(&[]), now());
    liar.probed(lists(&[MODEL]), now());
    assert_eq!(goes_to(), "s0", "it has learnt it");
    lies();
    liar.forgive();
    assert_eq!(goes_to(), "s0");
}

#[tokio::test(start_paused = true)]
async fn a_list_without_end_is_cut_and_joined_with_the_others_by_name() {
    let inference = inference(2, 512);
    let names: Vec<_> = (0..20_000).map(|n| format!("m{n:05}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    inference.gates().iter().for_each(|gate| gate.probed(lists(&names), now()));
    let took = || {
        let began = std::time::Instant::now();
        inference.models();
        began.elapsed()
    };
    // Compared with each other they would take seconds every time; a busy machine takes its time now and then.
    let took = (0..5).map(|_| took()).min().unwrap();
    assert!(took < Duration::from_secs(1), "{took:?}");
    let models = inference.models();
    assert_eq!((models.len(), models[4095].name.as_str()), (4096, "m04095"));
    assert!(models.iter().all(|m| m.servers.len() == 2));
}

#[tokio::test(start_paused = true)]
async fn details_are_asked_for_a_few_at_a_time_and_not_again_at_once_where_there_are_none() {
    let model = Arc::new(MoodyModel::new(&[MODEL]));
    let inference = of(vec![model.clone()], 512);
    inference.gates()[0].probed(lists(&["gone"]), now());
    let asked = async || {
        let before = model.shows();
        inference.learn().await;
        model.shows() - before
    };
    assert_eq!([asked().await, asked().await], [1, 0]);
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!(asked().await, 1);
    // A server that says nothing.
    let names: Vec<_> = (0..100).map(|n| n.to_string()).collect();
    inference.gates()[0].probed(lists(&names.iter().map(String::as_str).collect::<Vec<_>>()), now());
    model.is_now(Mood::Hangs);
    assert_eq!(asked().await, 8);
}

#[tokio::test(start_paused = true)]
async fn of_the_details_of_a_model_only_what_is_used_is_kept_and_the_rest_is_fetched_for_who_wants_it() {
    let model = Arc::new(MoodyModel::new(&[MODEL]));
    model.has_context(8192);
    let inference = of(vec![model.clone()], 512);
    let known = Known { capabilities: vec![], context_length: Some(8192) };
    assert_eq!(inference.show(MODEL).await.unwrap().context_length, Some(8192));
    assert_eq!(inference.details(MODEL).await, Ok(known));
    assert_eq!(model.shows(), 1);
    model.has_context(4096);
    assert_eq!(inference.show(MODEL).await.unwrap().context_length, Some(4096));
    assert_eq!((model.shows(), inference.known_context(MODEL)), (2, Some(4096)));
}

#[tokio::test(start_paused = true)]
async fn details_of_a_model_named_without_its_tag_outlive_a_probe_and_a_failure_is_not_repeated_by_every_message()
 {
    let model = Arc::new(MoodyModel::new(&[MODEL]));
    let inference = of(vec![model.clone()], 512);
    let gate = inference.gates()[0].clone();
    let probe = || gate.probed(lists(&["m:latest", "gone"]), now());
    probe();
    assert!(inference.learnt(MODEL).await.is_some());
    probe();
    for name in [MODEL, "m:latest"] {
        assert!(inference.learnt(name).await.is_some() && inference.details(name).await.is_ok(), "{name}");
    }
    assert_eq!(model.shows(), 1);
    for _ in 0..3 {
        assert!(inference.learnt("gone").await.is_none());
    }
    assert_eq!(model.shows(), 2);
    assert!(inference.details("gone").await.is_err());
    assert_eq!(model.shows(), 3, "who asks for it by name is told anew");
    tokio::time::advance(Duration::from_secs(61)).await;
    assert!(inference.learnt("gone").await.is_none());
    assert_eq!(model.shows(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_bot_without_a_model_is_given_none_that_only_embeds() {
    let servers: Vec<_> =
        [&["embed", "other"], &[MODEL, "last"]].map(|m| Arc::new(MoodyModel::new(m))).into();
    let inference = of(servers.clone(), 512);
    let lists = |names: [&str; 2], n: usize| inference.gates()[n].probed(lists(&names), now());
    lists(["embed", "other"], 0);
    lists([MODEL, "last"], 1);
    assert_eq!(inference.any_model().as_deref(), Some("embed"), "its list does not say");
    servers[0].is_able_to(&["embedding"]);
    servers[1].is_able_to(&["completion", "tools"]);
    assert_eq!(inference.any_that_chats().await.as_deref(), Some(MODEL));
    assert_eq!(inference.any_model().as_deref(), Some(MODEL), "it is known now");
    let asked = || [servers[0].shows(), servers[1].shows()];
    assert_eq!(asked(), [2, 1]);
    inference.any_that_chats().await;
    assert_eq!(asked(), [2, 1], "once per model");
    inference.gates()[1].probed(down(), now());
    assert_eq!(inference.any_that_chats().await, None);
}

fn down() -> Result<ProbeResult, ModelError> {
    Err(ModelError::Unreachable("refused".into()))
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_any_server_comes_to_its_line_in_the_order_of_his_coming_whoever_hears_of_it_first() {
    let inference = inference(1, 512);
    let gate = inference.gates()[0].clone();
    gate.probed(down(), now());
    let wants: Vec<_> = (0..20).map(|_| want(1, Class::Api)).collect();
    let any = Preference::new(MODEL, &[]);
    let wait = |want| Box::pin(inference.acquire(want, &any, Claim::Nothing, drop));
    let mut waits: Vec<_> = wants.iter().map(wait).collect();
    for (n, wait) in (1..).zip(&mut waits) {
        assert!(wait.as_mut().now_or_never().is_none());
        assert_eq!(inference.place(wants[n as usize - 1].turn).unwrap().position, n);
    }
    gate.probed(lists(&[MODEL]), now());
    // One who comes now does not pass them, and the last one looks first.
    assert!(inference.try_acquire(TurnId::new(), MODEL).is_none());
    let held = waits.iter_mut().rev().filter_map(|wait| wait.as_mut().now_or_never()).collect::<Vec<_>>();
    assert_eq!(held.len(), 1);
    let line: Vec<_> = gate.line().into_iter().map(|(turn, ..)| turn).collect();
    assert_eq!(line, wants[1..].iter().map(|want| want.turn).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_any_server_comes_to_one_that_learns_his_model() {
    let inference = inference(2, 512);
    let [down_with_it, up_without] = [0, 1].map(|n| inference.gates()[n].clone());
    down_with_it.probed(down(), now());
    up_without.probed(lists(&["other"]), now());
    let (want, any) = (want(1, Class::Api), Preference::new(MODEL, &[]));
    let mut waits = Box::pin(inference.acquire(&want, &any, Claim::Nothing, drop));
    assert!(waits.as_mut().now_or_never().is_none());
    up_without.probed(lists(&["other", MODEL]), now());
    assert_eq!(waits.await.unwrap().gate().unwrap().spec.name, "s1");
}

/// What an actor of this gate is started with.
fn actor_of(gate: &Arc<Gate>, inference: &Inference) -> GateArgs {
    let watch = StorageWatch::new(Arc::new(MemoryStore::new()), Duration::from_secs(5));
    GateArgs {
        gate: gate.clone(),
        inference: inference.clone(),
        hubs: Arc::new(Hubs::new(Epoch::new())),
        history: History::new(ActorSlot::new(), Backlog::default(), watch),
        tasks: TaskTracker::new(),
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_the_end_of_a_pause_is_let_in_by_an_actor_that_starts_after_it() {
    let inference = inference(1, 512);
    let gate = inference.gates()[0].clone();
    let any = Preference::new(MODEL, &[]);
    for _ in 0..5 {
        let want = want(1, Class::Api);
        let mut permit = inference.acquire(&want, &any, Claim::Nothing, drop).await.unwrap();
        permit.failed(&ModelError::Failed("500".into()));
    }
    let want = want(1, Class::Api);
    let mut waits = Box::pin(inference.acquire(&want, &any, Claim::Nothing, drop));
    assert!(waits.as_mut().now_or_never().is_none());
    tokio::time::advance(gate.next_look().unwrap() - now()).await;
    assert!(waits.as_mut().now_or_never().is_none(), "nobody says that it is over");
    let (actor, ended) = Actor::spawn(None, GateActor, actor_of(&gate, &inference)).await.unwrap();
    let permit = tokio::time::timeout(Duration::from_secs(1), waits).await;
    assert!(permit.unwrap().is_ok());
    actor.stop(None);
    ended.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn while_no_server_answers_room_is_taken_by_those_who_are_yet_to_come() {
    let inference = inference(1, 3);
    inference.gates()[0].probed(down(), now());
    let reserve = |comes| inference.reserve(MODEL, comes);
    let [first, behind, other] =
        [Comes::AtOnce, Comes::Later, Comes::AtOnce].map(|comes| reserve(comes).unwrap());
    assert_eq!(reserve(Comes::AtOnce).unwrap_err().code, Code::InferenceQueueFull);
    assert_eq!(inference.next_place(&want(1, Class::Api)).position, 2);
    let (want, any) = (want(1, Class::Api), Preference::new(MODEL, &[]));
    let mut waits = Box::pin(inference.acquire(&want, &any, first, drop));
    assert!(waits.as_mut().now_or_never().is_none());
    assert!(reserve(Comes::Later).is_err(), "it waits in the room that it had");
    drop(behind);
    assert!(reserve(Comes::Later).is_ok());
    drop((waits, other));
    assert_eq!([(); 3].map(|()| reserve(Comes::AtOnce).is_ok()), [true; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_summary_does_not_wait_for_a_server() {
    let inference = inference(1, 512);
    let gate = inference.gates()[0].clone();
    let _running = gate.try_acquire(TurnId::new(), MODEL).unwrap();
    let (want, any) = (want(1, Class::Background), Preference::new(MODEL, &[]));
    let mut waits = Box::pin(inference.acquire(&want, &any, Claim::Nothing, drop));
    assert!(waits.as_mut().now_or_never().is_none());
    gate.probed(down(), now());
    assert_eq!(waits.now_or_never().unwrap().unwrap_err().code, Code::OllamaOffline);
}
