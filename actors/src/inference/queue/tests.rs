//! What holds of the line whatever comes and goes: nothing is lost or given twice, positions are true, leaving is cheap,
//! and what left is forgotten. Fairness has its own file.

mod fairness;

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use proptest::prelude::*;
use uuid::Uuid;

use super::*;

fn turn(n: u64) -> TurnId {
    TurnId(Uuid::from_u128(n.into()))
}

fn number(turn: TurnId) -> u64 {
    u64::try_from(turn.0.as_u128()).unwrap()
}

fn request(n: u64, class: Class, bot: u8, user: u8, cost: u32) -> Request<()> {
    Request {
        turn: turn(n),
        class,
        bot: BotId::numbered(bot.into()),
        weight: 1,
        user: user.to_string().into(),
        cost,
        deadline: None,
        payload: (),
    }
}

fn class() -> impl Strategy<Value = Class> {
    prop::sample::select(&Class::ALL[..])
}

#[derive(Debug, Clone)]
enum Step {
    Push { class: Class, bot: u8, user: u8, cost: u32, deadline_ms: Option<u64> },
    Pop,
    PutBack(prop::sample::Index),
    Cancel(prop::sample::Index),
    Expire(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let deadline = prop::option::of(0u64..1000);
    let push = (class(), 0u8..5, 0u8..3, 0u32..5000, deadline)
        .prop_map(|(class, bot, user, cost, deadline_ms)| Step::Push { class, bot, user, cost, deadline_ms });
    prop_oneof![
        6 => push,
        3 => Just(Step::Pop),
        1 => any::<prop::sample::Index>().prop_map(Step::PutBack),
        2 => any::<prop::sample::Index>().prop_map(Step::Cancel),
        1 => (0u64..300).prop_map(Step::Expire),
    ]
}

/// What the line must agree with: who waits, until when, and who was popped and may come back.
#[derive(Default)]
struct Model {
    waiting: HashMap<u64, Option<u64>>,
    popped: Vec<(Request<()>, Popped)>,
    left: HashSet<u64>,
    came: u64,
    now: u64,
}

impl Model {
    fn apply(&mut self, queue: &mut FairQueue<()>, epoch: Instant, step: Step) {
        let at = |ms| epoch + Duration::from_millis(ms);
        match step {
            Step::Push { class, bot, user, cost, deadline_ms } => {
                let deadline = deadline_ms.map(|ms| self.now + ms);
                let mut new = request(self.came, class, bot, user, cost);
                new.deadline = deadline.map(at);
                self.came += 1;
                let room = self.waiting.len() < queue.limit();
                match queue.push(new.clone()) {
                    Ok(()) => {
                        assert!(room);
                        self.waiting.insert(number(new.turn), deadline);
                        assert_eq!(queue.push(new.clone()), Err(Refused::Twice(new)));
                    }
                    Err(refused) => {
                        assert!(!room);
                        assert_eq!(refused, Refused::Full { request: new, waiting: self.waiting.len() });
                    }
                }
            }
            Step::Pop => {
                let popped = queue.pop();
                assert_eq!(popped.is_some(), !self.waiting.is_empty());
                if let Some((request, popped)) = popped {
                    self.leaves(&request);
                    self.popped.push((request, popped));
                }
            }
            Step::PutBack(which) => {
                if self.popped.is_empty() {
                    return;
                }
                let (request, popped) = self.popped.swap_remove(which.index(self.popped.len()));
                let number = number(request.turn);
                let deadline = request.deadline.map(|d| d.duration_since(epoch).as_millis() as u64);
                assert!(self.left.remove(&number));
                self.waiting.insert(number, deadline);
                queue.put_back(request, popped).unwrap();
            }
            Step::Cancel(which) => {
                let n = which.index(usize::try_from(self.came + 1).unwrap()) as u64;
                let gone = queue.cancel(turn(n));
                assert_eq!(gone.is_some(), self.waiting.contains_key(&n));
                gone.iter().for_each(|request| self.leaves(request));
            }
            Step::Expire(ms) => {
                self.now += ms;
                let next = self.waiting.values().flatten().min().copied();
                assert_eq!(queue.next_deadline(), next.map(at));
                let gone = queue.expire(at(self.now));
                assert!(gone.is_sorted_by_key(|request| request.deadline));
                gone.iter().for_each(|request| self.leaves(request));
                assert!(self.waiting.values().flatten().all(|deadline| *deadline > self.now));
                assert!(gone.iter().all(|r| r.deadline.is_some_and(|d| d <= at(self.now))));
            }
        }
    }

    fn leaves(&mut self, request: &Request<()>) {
        let n = number(request.turn);
        assert!(self.waiting.remove(&n).is_some(), "{n} left, but did not wait");
        assert!(self.left.insert(n), "{n} left twice");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_entry_leaves_exactly_once_and_positions_are_the_order_of_the_pops(
        limit in 1usize..40,
        quantum in prop_oneof![Just(1u32), 1u32..5000],
        steps in prop::collection::vec(step(), 0..250),
    ) {
        let epoch = Instant::now();
        let mut queue = FairQueue::with_quantum(limit, quantum);
        let mut model = Model::default();
        for step in steps {
            model.apply(&mut queue, epoch, step);
            prop_assert_eq!(queue.len(), model.waiting.len());
            let found: HashSet<_> = queue.iter().map(|request| number(request.turn)).collect();
            prop_assert_eq!(found, model.waiting.keys().copied().collect());
            // Looking disturbs nothing: the pops below come in the order that was foretold.
            let foretold = queue.positions();
            prop_assert_eq!(foretold.len(), queue.len());
            prop_assert_eq!(foretold.first().and_then(|first| queue.position(*first)), (!queue.is_empty()).then_some(1));
        }
        let foretold = queue.positions();
        for (at, turn) in foretold.iter().enumerate() {
            prop_assert_eq!(queue.position(*turn), Some(at + 1));
        }
        let mut popped = vec![];
        while let Some((request, _)) = queue.pop() {
            model.leaves(&request);
            popped.push(request.turn);
        }
        prop_assert_eq!(popped, foretold);
        prop_assert!(model.waiting.is_empty());
        prop_assert_eq!((queue.order.flows(), queue.next_deadline()), ((0, 0), None));
    }

    #[test]
    fn the_place_that_is_foretold_to_a_newcomer_is_the_one_that_it_gets(
        steps in prop::collection::vec(step(), 0..80),
        (class, bot, user, cost) in (class(), 0u8..6, 0u8..4, 0u32..5000),
    ) {
        let (mut queue, mut model) = (FairQueue::new(100), Model::default());
        let epoch = Instant::now();
        for step in steps {
            model.apply(&mut queue, epoch, step);
        }
        let new = request(1000, class, bot, user, cost);
        let foretold = queue.before(&new);
        queue.push(new).unwrap();
        prop_assert_eq!(queue.position(turn(1000)), Some(foretold.len() + 1));
        prop_assert_eq!(&queue.positions()[..foretold.len()], foretold);
    }
}

/// `n` entries, in one line, in many lines of one bot, or in as many bots.
fn long(n: u64, shape: u8) -> FairQueue<()> {
    let mut queue = FairQueue::new(10_000);
    let soon = Instant::now();
    for i in 0..n {
        let mut new = request(i, Class::Api, 0, 0, 100);
        match shape {
            0 => {}
            1 => new.user = i.to_string().into(),
            _ => new.bot = BotId::numbered(i),
        }
        new.deadline = Some(soon + Duration::from_millis(i * 7919 % n));
        queue.push(new).unwrap();
    }
    queue
}

#[test]
fn leaving_from_anywhere_takes_as_many_steps_in_a_long_line_as_in_a_short_one() {
    let most = |n: u64, shape| {
        let mut queue = long(n, shape);
        let mut most = 0;
        for i in 0..n {
            let before = queue.order.steps();
            // 2,687 has no factor of 64 or 4,096: everybody once, from all over the line.
            assert!(queue.cancel(turn(i * 2687 % n)).is_some());
            most = most.max(queue.order.steps() - before);
            assert!(queue.deadlines.len() <= 32 + 2 * queue.len());
        }
        assert!(queue.deadlines.steps <= 4 * n as usize, "tidied {} of {n}", queue.deadlines.steps);
        most
    };
    for shape in 0..3 {
        let (short, long) = (most(64, shape), most(4096, shape));
        assert!(long <= short + 2 && long <= 12, "shape {shape}: {short} steps, then {long}");
    }
}

#[test]
fn entering_takes_as_many_steps_in_a_long_line_as_in_a_short_one() {
    for shape in 0..3 {
        let per_entry = |n: u64| long(n, shape).order.steps() as f64 / n as f64;
        assert!(per_entry(4096) < per_entry(64) + 1.0, "shape {shape}");
    }
}

#[test]
fn what_no_round_can_pay_yet_is_not_waited_for_round_by_round() {
    let mut queue = FairQueue::with_quantum(10, 1);
    for bot in 0..3 {
        queue.push(request(bot, Class::Api, bot as u8, 0, u32::MAX - bot as u32)).unwrap();
    }
    let before = queue.order.steps();
    let order: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|(r, _)| number(r.turn)).collect();
    assert_eq!(order, [2, 1, 0], "the cheapest has saved enough first");
    assert!(queue.order.steps() - before < 200, "{} steps", queue.order.steps() - before);
}

#[test]
fn one_that_is_put_back_comes_next_and_those_put_back_keep_their_order() {
    let mut queue = FairQueue::new(4);
    for n in 0..4 {
        queue.push(request(n, Class::Background, 0, 0, 10)).unwrap();
    }
    let (first, first_popped) = queue.pop().unwrap();
    let (second, second_popped) = queue.pop().unwrap();
    for n in 10..12 {
        queue.push(request(n, Class::Interactive, 1, 0, 10)).unwrap();
    }
    queue.put_back(second, second_popped).unwrap();
    queue.put_back(first.clone(), first_popped).unwrap();
    assert_eq!(queue.len(), 6, "the limit is for those who come, not for those who were there");
    let (again, again_popped) = queue.pop().unwrap();
    assert_eq!((again.turn, again_popped), (first.turn, first_popped), "it keeps its turn");
    let (next, next_popped) = queue.pop().unwrap();
    queue.put_back(again, again_popped).unwrap();
    queue.put_back(next, next_popped).unwrap();
    let order: Vec<_> = queue.positions().into_iter().map(number).collect();
    assert_eq!(order, [0, 1, 10, 11, 2, 3]);
}

#[test]
fn one_that_left_and_came_back_lives_as_long_as_it_says_now() {
    let (mut queue, start) = (FairQueue::new(4), Instant::now());
    let until = |s| Some(start + Duration::from_secs(s));
    queue.push(Request { deadline: until(1), ..request(0, Class::Api, 0, 0, 10) }).unwrap();
    queue.cancel(turn(0));
    queue.push(Request { deadline: until(5), ..request(0, Class::Api, 0, 0, 10) }).unwrap();
    assert_eq!(queue.next_deadline(), until(5));
    assert!(queue.expire(start + Duration::from_secs(4)).is_empty());
    assert_eq!(queue.expire(start + Duration::from_secs(5)).len(), 1);
}

#[test]
fn who_has_nothing_in_the_line_is_forgotten() {
    let mut queue = FairQueue::new(1000);
    for n in 0..600 {
        queue.push(request(n, Class::ALL[n as usize % 3], (n % 200) as u8, (n % 7) as u8, 10)).unwrap();
    }
    assert_eq!(queue.order.flows().0, 600, "200 bots in each of three classes");
    for n in 0..600 {
        if n % 2 == 0 {
            queue.cancel(turn(n));
        } else {
            queue.pop();
        }
    }
    while queue.pop().is_some() {}
    assert_eq!((queue.order.flows(), queue.held.len(), queue.deadlines.len()), ((0, 0), 0, 0));
}
