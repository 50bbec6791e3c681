//! The gate alone, without its actor, on a stopped clock.
#![allow(clippy::unwrap_used)]

use futures_util::FutureExt;
use tokio::time::advance;

use super::*;
use crate::{
    domain::problem::Code, inference::breaker::BreakerState, testkit::fakes::moody_model::MoodyModel,
};

const S: Duration = Duration::from_secs(1);
const MODEL: &str = "m";

fn found() -> Result<ProbeResult, ModelError> {
    with_models(&[MODEL])
}

fn with_models(names: &[&str]) -> Result<ProbeResult, ModelError> {
    let models =
        names.iter().map(|name| ModelSummary { name: (*name).into(), ..ModelSummary::default() }).collect();
    Ok(ProbeResult { version: "1".into(), latency: Duration::ZERO, models, loaded: vec![] })
}

fn gate(slots: u32, limit: usize) -> Arc<Gate> {
    let model = Arc::new(MoodyModel::new(&[MODEL]));
    let spec = ServerSpec { name: "a".into(), url: String::new(), slots, simulated: false, model };
    let limits = InferenceLimits { queue_limit: limit, ..InferenceLimits::default() };
    let gate = Arc::new(Gate::new(spec, limits, watch::Sender::new(0)));
    gate.probed(found(), now());
    gate
}

fn want(bot: u64) -> Want {
    Want {
        turn: TurnId::new(),
        conversation: ConversationId::new(),
        bot: BotId::numbered(bot),
        class: Class::Api,
        model: MODEL.into(),
        cost: 1000,
        waited: Duration::ZERO,
        told: None,
        tried: vec![],
    }
}

fn join(gate: &Arc<Gate>, bot: u64) -> Ticket {
    gate.enqueue(&want(bot), Claim::Nothing)
}

/// The slot, if it was handed over.
fn slot(ticket: &mut Ticket) -> Option<SlotPermit> {
    ticket.permit().now_or_never().flatten()
}

/// Takes a slot and is refused.
fn refused(gate: &Arc<Gate>, error: ModelError) {
    gate.try_acquire(TurnId::new(), MODEL).expect("a slot").failed(&error);
}

fn failed() -> ModelError {
    ModelError::Failed("500".into())
}

#[tokio::test(start_paused = true)]
async fn at_one_slot_two_bots_take_turns_however_much_one_of_them_asks_for() {
    let gate = gate(1, 512);
    let mut running = gate.try_acquire(TurnId::new(), MODEL);
    let mut line: Vec<_> = [1, 1, 1, 1, 1, 2, 2].map(|bot| (bot, join(&gate, bot))).into_iter().collect();
    let mut order = vec![];
    while let Some(mut permit) = running.take() {
        permit.done(None);
        drop(permit);
        if let Some(at) = line.iter_mut().position(|(_, ticket)| {
            running = slot(ticket);
            running.is_some()
        }) {
            order.push(line.remove(at).0);
        }
    }
    assert_eq!(order, [1, 2, 1, 2, 1, 1, 1]);
    assert_eq!(gate.server().slots.busy, 0);
}

#[tokio::test(start_paused = true)]
async fn who_leaves_the_line_frees_his_place_and_who_leaves_with_a_slot_frees_it() {
    let gate = gate(1, 512);
    let running = gate.try_acquire(TurnId::new(), MODEL).unwrap();
    let [first, second, mut third] = [1, 1, 1].map(|bot| join(&gate, bot));
    drop(second);
    assert_eq!(gate.server().queue.depth, 2);
    drop(running);
    // The slot is in the hands of one who does not look any more.
    drop(first);
    assert!(slot(&mut third).is_some());
    assert_eq!((gate.server().slots.busy, gate.server().queue.depth), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_line_is_full_for_those_who_come_anew_and_never_for_those_who_were_let_in() {
    let gate = gate(1, 2);
    let mut running = gate.try_acquire(TurnId::new(), MODEL).unwrap();
    running.answered();
    advance(10 * S).await;
    drop(running);
    let running = gate.try_acquire(TurnId::new(), MODEL).unwrap();
    let reserved: Vec<_> = (0..2).map(|_| gate.reserve(MODEL, Comes::AtOnce).unwrap()).collect();
    let problem = gate.reserve(MODEL, Comes::AtOnce).unwrap_err();
    assert_eq!((problem.code, problem.retry_after_s), (Code::InferenceQueueFull, Some(10)));
    let tickets: Vec<_> = reserved.into_iter().map(|r| gate.enqueue(&want(1), Claim::Reserved(r))).collect();
    assert!(gate.reserve(MODEL, Comes::AtOnce).is_err());
    let above = join(&gate, 2);
    assert_eq!(gate.server().queue.depth, 3);
    drop((tickets, above));
    assert!(gate.reserve(MODEL, Comes::AtOnce).is_ok());
    // Who waits behind another one of his conversation takes room as well, and is before nobody.
    let behind: Vec<_> = (0..2).map(|_| gate.reserve(MODEL, Comes::Later).unwrap()).collect();
    assert!(gate.reserve(MODEL, Comes::AtOnce).is_err() && gate.reserve(MODEL, Comes::Later).is_err());
    assert_eq!(gate.next_place(&want(3)).position, 1);
    drop(behind);
    assert!(gate.reserve(MODEL, Comes::Later).is_ok());
    drop(running);
}

#[tokio::test(start_paused = true)]
async fn a_breaker_opens_lets_one_through_after_its_pause_and_closes_when_he_is_answered() {
    let gate = gate(4, 512);
    (0..5).for_each(|_| refused(&gate, failed()));
    let breaker = gate.server().breaker;
    assert_eq!((breaker.state, breaker.retry_at.is_some()), (BreakerState::Open, true));
    assert!(breaker.reason.unwrap().contains("500"));
    assert!(gate.try_acquire(TurnId::new(), MODEL).is_none() && !gate.takes(MODEL));
    let mut line = [1, 2, 3].map(|bot| join(&gate, bot));
    advance(gate.next_look().unwrap() - now()).await;
    gate.look();
    let mut trial = slot(&mut line[0]).unwrap();
    assert_eq!(gate.server().breaker.state, BreakerState::HalfOpen);
    assert!(slot(&mut line[1]).is_none() && gate.takes(MODEL), "one is on trial");
    trial.answered();
    assert_eq!(gate.server().breaker.state, BreakerState::Closed);
    assert!(slot(&mut line[1]).is_some() && slot(&mut line[2]).is_some());
}

#[tokio::test(start_paused = true)]
async fn one_on_trial_who_fails_costs_a_longer_pause_and_one_who_gives_up_lets_the_next_try() {
    let gate = gate(1, 512);
    (0..5).for_each(|_| refused(&gate, failed()));
    let first = gate.next_look().unwrap() - now();
    advance(first).await;
    refused(&gate, failed());
    let second = gate.next_look().unwrap() - now();
    assert!(second >= S && first <= S, "{first:?} {second:?}");
    advance(second).await;
    drop(gate.try_acquire(TurnId::new(), MODEL).unwrap());
    assert_eq!(gate.server().breaker.state, BreakerState::HalfOpen);
    assert!(gate.try_acquire(TurnId::new(), MODEL).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_begins_every_answer_and_ends_none_is_found_out() {
    let gate = gate(1, 512);
    for _ in 0..5 {
        let mut permit = gate.try_acquire(TurnId::new(), MODEL).unwrap();
        permit.answered();
        permit.failed(&ModelError::Cut);
    }
    assert_eq!(gate.server().breaker.state, BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_busy_server_gets_fewer_turns_after_a_pause_and_more_again_when_they_go_well() {
    let gate = gate(3, 512);
    let [one, two] = [(); 2].map(|()| gate.try_acquire(TurnId::new(), MODEL).unwrap());
    let mut third = gate.try_acquire(TurnId::new(), MODEL).unwrap();
    let mut waiting = join(&gate, 9);
    third.failed(&ModelError::Busy("full".into()));
    let mut back = gate.enqueue(&want(1), third.give_back());
    assert_eq!(gate.server().slots.total, 2, "what ran beside it");
    assert_eq!(gate.server().breaker.state, BreakerState::Closed, "busy is no failure");
    drop(one);
    assert!(slot(&mut back).is_none(), "nobody is sent before the pause is over");
    advance(gate.next_look().unwrap() - now()).await;
    gate.look();
    let back = slot(&mut back).expect("it comes before the one who came later");
    assert!(slot(&mut waiting).is_none());
    drop((two, back));
    let waiting = slot(&mut waiting).unwrap();
    drop(waiting);
    for _ in 0..64 {
        gate.try_acquire(TurnId::new(), MODEL).unwrap().done(None);
    }
    assert_eq!(gate.server().slots.total, 3);
}

#[tokio::test(start_paused = true)]
async fn places_and_waits_are_told_when_they_changed_and_follow_what_was_measured() {
    let gate = gate(1, 512);
    let mut running = gate.try_acquire(TurnId::new(), MODEL).unwrap();
    running.answered();
    advance(4 * S).await;
    running.done(None);
    drop(running);
    let mut running = gate.try_acquire(TurnId::new(), MODEL).unwrap();
    let place = |position, eta_s| QueuePlace::new(position, Some(Duration::from_secs_f64(eta_s))).at("a");
    let mut second = want(2);
    assert_eq!(gate.next_place(&second), place(1, 4.0));
    let _first = join(&gate, 1);
    second.told = Some(gate.next_place(&second));
    assert_eq!(second.told, Some(place(2, 8.0)));
    let _second = gate.enqueue(&second, Claim::Nothing);
    assert_eq!(gate.place(second.turn), second.told);
    let moved: Vec<_> = gate.moved().into_iter().map(|(_, m)| (m.position, m.eta_s)).collect();
    assert_eq!(moved, [(1, Some(4.0))], "the second one knows");
    assert!(gate.moved().is_empty());
    running.done(None);
    drop(running);
    let moved = gate.moved();
    assert_eq!(moved.iter().map(|(_, m)| (m.turn_id, m.position)).collect::<Vec<_>>(), [(second.turn, 1)]);
    assert_eq!(gate.server().queue.eta_s, Some(4.0));
}

#[tokio::test(start_paused = true)]
async fn who_wants_a_model_that_was_never_measured_is_told_no_wait_and_counts_as_a_usual_turn_for_others() {
    let gate = gate(1, 512);
    gate.probed(with_models(&[MODEL, "new"]), now());
    let mut measured = gate.try_acquire(TurnId::new(), MODEL).unwrap();
    measured.answered();
    advance(4 * S).await;
    measured.done(None);
    drop(measured);
    let _running = gate.try_acquire(TurnId::new(), MODEL).unwrap();
    let new = |bot| Want { model: "new".into(), ..want(bot) };
    let told = |want: &Want| gate.place(want.turn).map(|place| (place.position, place.eta_s)).unwrap();
    let (first, second) = (new(1), want(2));
    assert_eq!(gate.next_place(&first).eta_s, None);
    let _line = [&first, &second].map(|want| gate.enqueue(want, Claim::Nothing));
    assert_eq!((told(&first), told(&second)), ((1, None), (2, Some(8.0))));
    assert_eq!(gate.waits_behind(Some(S), &[&new(3), &new(3)]), [None, None]);
    // For the choice among servers a guess is better than nothing.
    assert!(gate.view("new", now()).wait.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_wait_gets_shorter_while_nobody_comes_or_goes_and_that_is_told() {
    let gate = gate(2, 512);
    let mut measured = gate.try_acquire(TurnId::new(), MODEL).unwrap();
    measured.answered();
    advance(40 * S).await;
    drop(measured);
    let _first = gate.try_acquire(TurnId::new(), MODEL).unwrap();
    advance(10 * S).await;
    let _second = gate.try_acquire(TurnId::new(), MODEL).unwrap();
    let (next, behind) = (want(1), want(2));
    let _line = [&next, &behind].map(|want| gate.enqueue(want, Claim::Nothing));
    let told = || gate.moved().into_iter().map(|(_, m)| m.eta_s.unwrap()).collect::<Vec<_>>();
    assert_eq!(told(), [30.0, 40.0]);
    let mut of_next = vec![];
    for _ in 0..70 {
        advance(S / 2).await;
        of_next.extend(
            gate.moved().into_iter().filter(|(_, m)| m.turn_id == next.turn).map(|(_, m)| m.eta_s.unwrap()),
        );
        let waits = [&next, &behind].map(|want| gate.place(want.turn).unwrap().eta_s.unwrap());
        assert!(waits[0] <= waits[1] && waits[0] >= 4.0, "{waits:?}");
    }
    assert!(of_next.is_sorted_by(|before, after| before > after), "{of_next:?}");
    assert!(
        of_next.len() > 15 && of_next.windows(2).all(|w| w[0] - w[1] <= 2.0),
        "without a jump: {of_next:?}"
    );
    assert!(of_next.last().is_some_and(|last| *last < 5.0), "{of_next:?}");
    assert_eq!(gate.place(next.turn).unwrap().eta_s, Some(4.0), "overdue");
}

#[tokio::test(start_paused = true)]
async fn a_model_that_had_to_be_loaded_is_expected_to_take_that_long_again_only_where_it_is_not_loaded() {
    let gate = gate(1, 512);
    for load in [Duration::from_millis(200), 3 * S] {
        let mut permit = gate.try_acquire(TurnId::new(), MODEL).unwrap();
        advance(5 * S).await;
        permit.done(Some(load));
    }
    assert_eq!(gate.view(MODEL, now()).wait, Some(3 * S));
    let loaded = LoadedModel { name: format!("{MODEL}:latest"), size_vram: 0, expires_at: None };
    gate.probed(Ok(ProbeResult { loaded: vec![loaded], ..found().unwrap() }), now());
    assert_eq!(gate.view(MODEL, now()).wait, Some(Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_turns_is_not_down_because_a_probe_came_to_nothing() {
    let gate = gate(1, 512);
    let asked = now();
    let mut running = gate.try_acquire(TurnId::new(), MODEL).unwrap();
    advance(S).await;
    running.answered();
    gate.probed(Err(ModelError::Cut), asked);
    assert!(gate.is_up());
    gate.probed(Err(ModelError::Cut), now());
    assert!(!gate.is_up());
    drop(running);
    let mut waiting = join(&gate, 1);
    assert!(slot(&mut waiting).is_none() && !gate.takes(MODEL));
    gate.probed(found(), now());
    assert!(slot(&mut waiting).is_some(), "who waited is let in when it is back");
}

#[tokio::test(start_paused = true)]
async fn a_model_that_fails_is_paused_alone_and_the_server_only_when_a_second_one_fails_too() {
    let gate = gate(8, 512);
    gate.probed(with_models(&["bad", "good", "worse"]), now());
    let fails = |model: &str| gate.try_acquire(TurnId::new(), model).expect("a slot").failed(&failed());
    fails("bad");
    fails("bad");
    assert!(gate.offers("bad"));
    // One stands in the line when the pause begins: it looks for another way.
    let mut running: Vec<_> =
        (0..8).map(|_| gate.try_acquire(TurnId::new(), "bad").expect("a slot")).collect();
    let mut waiting = gate.enqueue(&Want { model: "bad".into(), ..want(1) }, Claim::Nothing);
    running.pop().unwrap().failed(&failed());
    assert!(matches!(waiting.permit().now_or_never(), Some(None)), "its place is lost");
    running.iter_mut().for_each(|permit| permit.failed(&failed()));
    drop(running);
    assert!(!gate.offers("bad") && !gate.view("bad", now()).admits && gate.offers("good"));
    let paused = gate.server().breaker;
    assert_eq!((paused.state, paused.paused_models[0].model.as_str()), (BreakerState::Closed, "bad"));
    for _ in 0..4 {
        gate.try_acquire(TurnId::new(), "good").unwrap().done(None);
    }
    advance(gate.next_look().unwrap() - now()).await;
    assert!(gate.offers("bad"), "after the pause it is tried again");
    for _ in 0..3 {
        gate.try_acquire(TurnId::new(), "worse").unwrap().failed(&failed());
    }
    assert!(gate.offers("good"));
    for _ in 0..2 {
        gate.try_acquire(TurnId::new(), "good").unwrap().failed(&failed());
    }
    assert!(!gate.offers("good"), "nothing goes well there any more");
    assert_eq!(gate.server().breaker.state, BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_name_without_its_tag_means_the_latest() {
    for (listed, asked, same) in [
        ("a", "a", true),
        ("a:latest", "a", true),
        ("a:7b", "a", false),
        ("ab", "a", false),
        ("a", "a:latest", false),
    ] {
        assert_eq!(is_called(listed, asked), same, "{listed} {asked}");
    }
}
