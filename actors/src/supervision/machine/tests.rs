//! The machine against a simulated world in which anything may happen at any time.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::strategy::Strategy as Generator;

use super::{Strategy, *};
use crate::supervision::observation::ChildState;

const WITHIN: Duration = Duration::from_secs(30);

fn plan(id: usize, restart: RestartPolicy) -> ChildPlan {
    ChildPlan { id: Arc::from(id.to_string()), kind: ChildKind::Worker, restart }
}

/// Plays the part of the glue and of the children, and checks each effect against a model of the rules.
struct World {
    machine: Machine,
    strategy: Strategy,
    policies: Vec<RestartPolicy>,
    now: Duration,
    up: Vec<bool>,
    incarnation: Vec<u32>,
    starting: BTreeSet<usize>,
    stopping: BTreeSet<usize>,
    /// Children that must be stopped before anything is started (ordered strategies).
    must_stop: BTreeSet<usize>,
    /// Times of the crashes that count.
    crashes: Vec<Duration>,
    max: usize,
    booted: bool,
    ending: bool,
    escalated: bool,
    log: Vec<Effect>,
}

impl World {
    fn new(strategy: Strategy, policies: Vec<RestartPolicy>, max: u32) -> Self {
        let count = policies.len();
        let rules = RestartRules::new(max, WITHIN);
        let mut world = Self {
            machine: Machine::new(Arc::from("sup"), strategy, rules, 7),
            strategy,
            now: Duration::from_secs(100),
            up: vec![false; count],
            incarnation: vec![0; count],
            starting: BTreeSet::new(),
            stopping: BTreeSet::new(),
            must_stop: BTreeSet::new(),
            crashes: Vec::new(),
            max: max as usize,
            booted: false,
            ending: false,
            escalated: false,
            log: Vec::new(),
            policies,
        };
        let plans = world.policies.iter().enumerate().map(|(id, policy)| plan(id, *policy)).collect();
        world.fact(|machine, now, fx| {
            machine.begin(now, plans, fx);
        });
        for index in 0..count {
            assert_eq!(world.starting, BTreeSet::from([index]), "boots in order, one at a time");
            world.start_succeeds(index);
        }
        world.booted = true;
        world
    }

    fn ordered(&self) -> bool {
        self.strategy != Strategy::OneForOne || !self.booted || self.ending
    }

    fn takes_along(&self, index: usize, sibling: usize) -> bool {
        match self.strategy {
            Strategy::OneForOne => sibling == index,
            Strategy::RestForOne => sibling >= index,
            Strategy::OneForAll => true,
        }
    }

    fn marked(&self, index: usize) -> Vec<usize> {
        let runs = |i: &usize| self.up[*i] || self.starting.contains(i);
        (0..self.up.len())
            .filter(|i| self.takes_along(index, *i) && runs(i) && !self.stopping.contains(i))
            .collect()
    }

    fn fact(&mut self, fact: impl FnOnce(&mut Machine, Now, &mut Vec<Effect>)) {
        let mut fx = Vec::new();
        fact(&mut self.machine, Now::at(self.now), &mut fx);
        for effect in &fx {
            self.check(effect);
        }
        self.log.extend(fx);
    }

    fn check(&mut self, effect: &Effect) {
        match effect {
            Effect::Start(index) => {
                assert!(!self.ending, "started {index} while ending");
                assert!(!self.up[*index] && !self.starting.contains(index), "{index} runs already");
                if self.ordered() {
                    assert!(self.must_stop.is_empty(), "started {index} before {:?} stopped", self.must_stop);
                    assert!(self.starting.is_empty() && self.stopping.is_empty(), "two things at once");
                    let seen = self.machine.observe(Now::at(self.now));
                    for (earlier, child) in seen.children[..*index].iter().enumerate() {
                        let settled = matches!(child.state, ChildState::Active | ChildState::Terminated);
                        assert!(settled, "{index} before {earlier}, which is {:?}", child.state);
                    }
                }
                self.starting.insert(*index);
            }
            Effect::Stop(index, _) => {
                assert!(self.up[*index] && !self.stopping.contains(index), "{index} does not run");
                assert!(self.must_stop.contains(index), "no reason to stop {index}");
                if self.ordered() {
                    assert_eq!(self.must_stop.last(), Some(index), "not in reverse order");
                    assert!(self.starting.is_empty() && self.stopping.is_empty(), "two things at once");
                }
                self.stopping.insert(*index);
            }
            Effect::Notice(index, NoticeKind::Crashed { .. }) => {
                assert!(!self.must_stop.contains(index), "counted a child that had to go");
                self.crashes.push(self.now);
            }
            Effect::Notice(index, NoticeKind::RestartScheduled { .. }) => {
                assert!(self.crashes_in_window() <= self.max);
                self.must_stop.extend(self.marked(*index));
            }
            Effect::Notice(_, NoticeKind::GaveUp { .. }) => {
                assert!(self.crashes_in_window() > self.max);
                self.ending = true;
                self.must_stop =
                    (0..self.up.len()).filter(|i| self.up[*i] || self.starting.contains(i)).collect();
            }
            Effect::Notice(..) => {}
            Effect::Escalate(_) => {
                assert!(self.ending && !self.escalated, "escalated without giving up");
                assert!(
                    !self.up.contains(&true) && self.starting.is_empty(),
                    "escalated over running children"
                );
                self.escalated = true;
            }
        }
    }

    fn crashes_in_window(&self) -> usize {
        self.crashes.iter().filter(|at| self.now - **at <= WITHIN).count()
    }

    fn start_succeeds(&mut self, index: usize) {
        self.starting.remove(&index);
        self.up[index] = true;
        self.incarnation[index] += 1;
        self.fact(|machine, now, fx| machine.started(index, now, fx));
    }

    fn start_fails(&mut self, index: usize) {
        self.starting.remove(&index);
        let had_to_go = self.must_stop.remove(&index);
        let before = self.crashes.len();
        self.fact(|machine, now, fx| machine.start_failed(index, Exit::start_failed("no"), now, fx));
        let counted = !had_to_go && self.policies[index] != RestartPolicy::Temporary;
        assert_eq!(self.crashes.len() - before, usize::from(counted), "a failed start of {index}");
    }

    /// The child ends: because it was asked to, or by itself.
    fn ends(&mut self, index: usize, exit: &Exit) {
        self.up[index] = false;
        self.stopping.remove(&index);
        let had_to_go = self.must_stop.remove(&index);
        let before = self.crashes.len();
        self.fact(|machine, now, fx| machine.exited(index, exit.clone(), now, fx));
        let counted = !had_to_go && self.policies[index].should_restart(exit);
        assert_eq!(self.crashes.len() - before, usize::from(counted), "{exit:?} of {index}");
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.fact(Machine::tick);
    }

    /// Everything under way succeeds, and nothing new happens.
    fn settle(&mut self) {
        for _ in 0..1_000 {
            if let Some(index) = self.stopping.first().copied() {
                self.ends(index, &Exit::normal("asked"));
            } else if let Some(index) = self.starting.first().copied() {
                self.start_succeeds(index);
            } else if let Some(due) = self.machine.next_due(Now::at(self.now)) {
                self.pass(due - self.now);
            } else {
                return;
            }
        }
        panic!("does not settle");
    }

    fn order(&self) -> Vec<String> {
        let word = |effect: &Effect| match effect {
            Effect::Start(index) => Some(format!("start {index}")),
            Effect::Stop(index, _) => Some(format!("stop {index}")),
            Effect::Escalate(_) => Some("escalate".to_owned()),
            Effect::Notice(..) => None,
        };
        self.log.iter().filter_map(word).collect()
    }
}

fn world(strategy: Strategy) -> World {
    let mut world = World::new(strategy, vec![RestartPolicy::Permanent; 4], 3);
    world.log.clear();
    world
}

#[test]
fn one_for_one_restarts_the_one_that_crashed() {
    let mut world = world(Strategy::OneForOne);
    world.ends(1, &Exit::crashed("boom"));
    world.settle();
    assert_eq!(world.order(), ["start 1"]);
    assert_eq!(world.incarnation, [1, 2, 1, 1]);
}

#[test]
fn rest_for_one_stops_later_ones_in_reverse_and_starts_them_in_order() {
    let mut world = world(Strategy::RestForOne);
    world.ends(1, &Exit::crashed("boom"));
    world.settle();
    assert_eq!(world.order(), ["stop 3", "stop 2", "start 1", "start 2", "start 3"]);
    assert_eq!(world.incarnation, [1, 2, 2, 2]);
}

#[test]
fn one_for_all_restarts_all() {
    let mut world = world(Strategy::OneForAll);
    world.ends(1, &Exit::crashed("boom"));
    world.settle();
    let expected = ["stop 3", "stop 2", "stop 0", "start 0", "start 1", "start 2", "start 3"];
    assert_eq!(world.order(), expected);
}

#[test]
fn an_earlier_child_that_crashes_in_the_middle_of_a_restart_widens_it() {
    let mut world = world(Strategy::RestForOne);
    world.ends(2, &Exit::crashed("boom"));
    assert_eq!(world.order(), ["stop 3"]);
    world.ends(0, &Exit::crashed("boom"));
    world.settle();
    assert_eq!(world.order(), ["stop 3", "stop 1", "start 0", "start 1", "start 2", "start 3"]);
    assert_eq!(world.crashes.len(), 2);
}

#[test]
fn the_crash_that_is_one_too_many_stops_all_in_reverse_and_escalates() {
    let mut world = world(Strategy::OneForOne);
    for _ in 0..4 {
        world.ends(2, &Exit::crashed("boom"));
        world.settle();
    }
    let order = world.order();
    assert_eq!(order[order.len() - 4..], ["stop 3", "stop 1", "stop 0", "escalate"]);
    let gave_up = world.machine.gave_up().unwrap();
    assert_eq!((&*gave_up.child, gave_up.max), ("2", 3));
    assert_eq!(gave_up.to_string(), "sup gave up: more than 3 restarts within 30s, the last of 2: boom");
}

#[test]
fn delays_are_per_child_so_a_first_crash_elsewhere_is_answered_at_once() {
    let mut world = world(Strategy::OneForOne);
    for _ in 0..2 {
        world.ends(0, &Exit::crashed("boom"));
        world.settle();
    }
    world.log.clear();
    world.ends(1, &Exit::crashed("boom"));
    assert_eq!(world.order(), ["start 1"]);
}

#[test]
fn a_child_that_survives_its_kill_makes_the_supervisor_give_up() {
    let mut world = world(Strategy::RestForOne);
    world.ends(2, &Exit::crashed("boom"));
    assert_eq!(world.order(), ["stop 3"]);
    world.up[3] = false;
    world.stopping.clear();
    world.must_stop.clear();
    let mut fx = Vec::new();
    world.machine.stuck(3, Now::at(world.now), &mut fx);
    assert!(fx.contains(&Effect::Stop(1, Arc::from("the supervisor gave up"))), "{fx:?}");
    assert_eq!(&*world.machine.gave_up().unwrap().child, "3");
}

#[test]
fn a_finished_child_is_terminated_and_a_new_incarnation_keeps_histories_but_not_the_window() {
    let policies = vec![RestartPolicy::Permanent, RestartPolicy::Transient];
    let mut world = World::new(Strategy::OneForOne, policies, 3);
    world.ends(1, &Exit::normal("done"));
    world.ends(0, &Exit::crashed("boom"));
    world.settle();
    let seen = world.machine.observe(Now::at(world.now));
    assert_eq!(seen.children[1].state, ChildState::Terminated);
    assert_eq!(seen.children[1].last_exit, Some(Exit::normal("done")));
    assert_eq!((seen.intensity.left, seen.children[0].restarts), (2, 1));

    let plans = (0..2).map(|id| plan(id, RestartPolicy::Permanent)).collect();
    let mut fx = Vec::new();
    let epoch = world.machine.begin(Now::at(world.now), plans, &mut fx);
    let seen = world.machine.observe(Now::at(world.now));
    assert_eq!((seen.intensity.left, seen.children[0].history.len()), (3, 1));
    world.machine.started(0, Now::at(world.now), &mut fx);
    world.machine.exited(0, Exit::crashed("boom"), Now::at(world.now), &mut fx);
    assert!(
        fx.contains(&Effect::Notice(0, NoticeKind::RestartScheduled { after: Duration::ZERO })),
        "{fx:?}"
    );
    world.machine.gone(epoch - 1, Now::at(world.now));
    assert_eq!(
        world.machine.observe(Now::at(world.now)).state,
        ChildState::Starting,
        "a late word is ignored"
    );
}

#[derive(Clone, Debug)]
enum Op {
    Crash(usize),
    EndNormally(usize),
    FinishStop(usize),
    FinishStart(usize, bool),
    Pass(u64),
}

fn ops() -> impl Generator<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => (0usize..6).prop_map(Op::Crash),
        1 => (0usize..6).prop_map(Op::EndNormally),
        6 => (0usize..6).prop_map(Op::FinishStop),
        6 => (0usize..6, prop::bool::weighted(0.8)).prop_map(|(i, ok)| Op::FinishStart(i, ok)),
        3 => (0u64..15_000).prop_map(Op::Pass),
    ];
    prop::collection::vec(op, 0..120)
}

proptest! {
    #[test]
    fn whatever_happens_the_rules_hold_and_the_tree_comes_back_or_escalates(
        strategy in prop::sample::select(vec![Strategy::OneForOne, Strategy::RestForOne, Strategy::OneForAll]),
        policies in prop::collection::vec(
            prop::sample::select(vec![
                RestartPolicy::Permanent, RestartPolicy::Permanent, RestartPolicy::Transient, RestartPolicy::Temporary,
            ]), 1..6),
        max in 0u32..8,
        ops in ops(),
    ) {
        let mut world = World::new(strategy, policies.clone(), max);
        for op in ops {
            if world.escalated { break }
            match op {
                Op::Crash(i) if world.up.get(i) == Some(&true) => world.ends(i, &Exit::crashed("boom")),
                Op::EndNormally(i) if world.up.get(i) == Some(&true) => world.ends(i, &Exit::normal("done")),
                Op::FinishStop(i) if world.stopping.contains(&i) => world.ends(i, &Exit::normal("asked")),
                Op::FinishStart(i, true) if world.starting.contains(&i) => world.start_succeeds(i),
                Op::FinishStart(i, false) if world.starting.contains(&i) => world.start_fails(i),
                Op::Pass(ms) => world.pass(Duration::from_millis(ms)),
                _ => {}
            }
            let left = max as usize - world.crashes_in_window().min(max as usize);
            prop_assert_eq!(world.machine.left(Now::at(world.now)) as usize, left);
        }
        world.settle();
        prop_assert_eq!(world.escalated, world.ending);
        let seen = world.machine.observe(Now::at(world.now));
        for (index, child) in seen.children.iter().enumerate() {
            let expected = if world.up[index] { ChildState::Active } else { ChildState::Terminated };
            prop_assert_eq!(child.state, expected, "child {}", index);
            if policies[index] == RestartPolicy::Permanent {
                prop_assert_eq!(world.up[index], !world.escalated, "child {}", index);
            }
        }
    }

    #[test]
    fn a_restart_renews_exactly_those_that_the_strategy_names(
        strategy in prop::sample::select(vec![Strategy::OneForOne, Strategy::RestForOne, Strategy::OneForAll]),
        (count, failed) in (1usize..8).prop_flat_map(|n| (Just(n), 0..n)),
    ) {
        let mut world = World::new(strategy, vec![RestartPolicy::Permanent; count], 1);
        world.ends(failed, &Exit::killed("killed"));
        world.settle();
        for index in 0..count {
            let expected = if world.takes_along(failed, index) { 2 } else { 1 };
            prop_assert_eq!(world.incarnation[index], expected, "child {}", index);
        }
        prop_assert_eq!(world.crashes.len(), 1);
    }

    #[test]
    fn shutdown_stops_all_in_reverse_whatever_the_strategy(
        strategy in prop::sample::select(vec![Strategy::OneForOne, Strategy::RestForOne, Strategy::OneForAll]),
        count in 1usize..8,
    ) {
        let mut world = World::new(strategy, vec![RestartPolicy::Permanent; count], 1);
        world.log.clear();
        world.ending = true;
        world.must_stop = (0..count).collect();
        world.fact(Machine::shut_down);
        world.settle();
        let expected: Vec<_> = (0..count).rev().map(|index| format!("stop {index}")).collect();
        prop_assert_eq!(world.order(), expected);
        prop_assert_eq!(world.machine.observe(Now::at(world.now)).state, ChildState::Terminated);
    }
}
