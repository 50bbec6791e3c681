//! Shares of bots, of users inside a bot, and of classes.

use proptest::prelude::*;

use super::{class, number, request, turn};
use crate::{
    domain::ids::BotId,
    inference::queue::{Class, FairQueue, Request},
};

const BOTS: usize = 4;
const USERS: usize = 3;

#[derive(Debug, Clone)]
enum Step {
    Push { bot: u8, user: u8, cost: u32 },
    Pop,
    Cancel(prop::sample::Index),
}

/// Many come, many go, so that bots and users run empty and come back.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let push = (0..BOTS as u8, 0..USERS as u8, prop_oneof![1u32..100, 1u32..4000]);
    let push = push.prop_map(|(bot, user, cost)| Step::Push { bot, user, cost });
    let step = prop_oneof![
        10 => push,
        9 => Just(Step::Pop),
        1 => any::<prop::sample::Index>().prop_map(Step::Cancel),
    ];
    prop::collection::vec(step, 50..250)
}

/// One flow as the test sees it: what it was served after each pop, and since which pop it has been waiting.
#[derive(Debug, Clone, Default)]
struct Seen {
    weight: u64,
    /// Tokens served up to and with each pop.
    served: Vec<u64>,
    /// For each pop before which it waited: the first one of that time.
    since: Vec<Option<usize>>,
    largest: u64,
    waiting: usize,
}

impl Seen {
    fn pop(&mut self, cost: Option<u64>) {
        let n = self.served.len();
        let since = self.since.last().copied().flatten();
        self.since.push((self.waiting > 0).then(|| since.unwrap_or(n)));
        self.served.push(self.served.last().copied().unwrap_or(0) + cost.unwrap_or(0));
        self.waiting -= usize::from(cost.is_some());
        if self.waiting == 0 {
            self.interrupted();
        }
    }

    /// Ran empty: what comes later belongs to another time of waiting.
    fn interrupted(&mut self) {
        if let Some(last) = self.since.last_mut() {
            *last = None;
        }
    }

    fn between(&self, from: usize, to: usize) -> u64 {
        self.served[to] - from.checked_sub(1).map_or(0, |n| self.served[n])
    }
}

/// Over every time in which `a` waits without a break, no other gets more than `a`, by weight, and one quantum and the
/// largest request of each.
fn nobody_is_ahead(flows: &[Seen], quantum: u64) -> Result<(), TestCaseError> {
    for (i, a) in flows.iter().enumerate() {
        for (to, since) in a.since.iter().enumerate() {
            let Some(since) = *since else { continue };
            for b in flows.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, b)| b) {
                for from in since..=to {
                    // All of it times both weights, to stay in whole numbers.
                    let left = b.between(from, to) * a.weight;
                    let right = a.between(from, to) * b.weight;
                    let slack = quantum * a.weight * b.weight + a.largest * b.weight + b.largest * a.weight;
                    prop_assert!(
                        left <= right + slack,
                        "pops {from}..={to}: {left} against {right} + {slack}"
                    );
                }
            }
        }
    }
    Ok(())
}

/// Plays the steps; what each bot and each user of each bot saw.
fn play(quantum: u32, weights: &[u32], steps: Vec<Step>) -> (Vec<Seen>, Vec<Vec<Seen>>) {
    let seen = |weight: u32| Seen { weight: weight.into(), ..Seen::default() };
    let mut bots: Vec<_> = weights.iter().map(|w| seen(*w)).collect();
    let mut users = vec![vec![seen(1); USERS]; BOTS];
    let mut queue = FairQueue::with_quantum(1000, quantum);
    let place = |r: &Request<()>| {
        let bot = (0..BOTS).find(|b| BotId::numbered(*b as u64) == r.bot).unwrap();
        (bot, r.user.parse::<usize>().unwrap())
    };
    for (n, step) in (0u64..).zip(steps) {
        match step {
            Step::Push { bot, user, cost } => {
                let mut new = request(n, Class::Api, bot, user, cost);
                new.weight = weights[usize::from(bot)];
                queue.push(new).unwrap();
                for flow in [&mut bots[usize::from(bot)], &mut users[usize::from(bot)][usize::from(user)]] {
                    flow.waiting += 1;
                    flow.largest = flow.largest.max(cost.into());
                }
            }
            Step::Pop => {
                let Some((popped, _)) = queue.pop() else { continue };
                let (bot, user) = place(&popped);
                let cost = |is: bool| is.then_some(u64::from(popped.cost));
                for (b, flow) in bots.iter_mut().enumerate() {
                    flow.pop(cost(b == bot));
                }
                for (u, flow) in users[bot].iter_mut().enumerate() {
                    flow.pop(cost(u == user));
                }
            }
            Step::Cancel(which) => {
                let Some(gone) = queue.cancel(turn(which.index(n as usize + 1) as u64)) else { continue };
                let (bot, user) = place(&gone);
                for flow in [&mut bots[bot], &mut users[bot][user]] {
                    flow.waiting -= 1;
                    if flow.waiting == 0 {
                        flow.interrupted();
                    }
                }
            }
        }
    }
    (bots, users)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn while_a_bot_waits_no_other_is_ahead_of_it_by_more_than_a_quantum_and_the_largest_requests(
        quantum in prop_oneof![1u32..50, 1u32..5000],
        weights in prop::collection::vec(1u32..5, BOTS),
        steps in steps(),
    ) {
        let (bots, users) = play(quantum, &weights, steps);
        nobody_is_ahead(&bots, quantum.into())?;
        for users in users {
            nobody_is_ahead(&users, quantum.into())?;
        }
    }

    /// The same against the share: of two alike it is one quantum and one largest request; of n alike at worst (1 - 1/n)
    /// quanta and 2 (1 - 1/n) largest requests.
    #[test]
    fn a_backlogged_bot_gets_its_weighted_share(
        quantum in 1u32..3000,
        weights in prop::collection::vec(1u32..5, 2..=BOTS),
        costs in prop::collection::vec(prop::collection::vec(1u32..3000, 40), BOTS),
    ) {
        let (n, all) = (weights.len() as u64, u64::from(weights.iter().sum::<u32>()));
        let mut queue = FairQueue::with_quantum(1000, quantum);
        for (bot, costs) in costs.iter().take(weights.len()).enumerate() {
            for (at, cost) in costs.iter().enumerate() {
                let mut new = request((bot * 100 + at) as u64, Class::Api, bot as u8, 0, *cost);
                new.weight = weights[bot];
                queue.push(new).unwrap();
            }
        }
        let largest = u64::from(*costs.iter().flatten().max().unwrap());
        let mut left = vec![40; weights.len()];
        let mut served = vec![vec![0u64; weights.len()]];
        // Until the first one has nothing left.
        while left.iter().all(|left| *left > 0) {
            let (popped, _) = queue.pop().unwrap();
            let bot = number(popped.turn) as usize / 100;
            left[bot] -= 1;
            let mut now = served[served.len() - 1].clone();
            now[bot] += u64::from(popped.cost);
            served.push(now);
        }
        for (from, before) in served.iter().enumerate() {
            for after in &served[from..] {
                let got: Vec<_> = after.iter().zip(before).map(|(a, b)| a - b).collect();
                let total: u64 = got.iter().sum();
                for (got, weight) in got.iter().zip(&weights).map(|(g, w)| (*g, u64::from(*w))) {
                    let slack = weight * (all - weight) * u64::from(quantum)
                        + largest * ((n - 1) * weight + all - weight);
                    prop_assert!((got * all).abs_diff(total * weight) <= slack, "{got} of {total}");
                }
            }
        }
    }

    #[test]
    fn everybody_comes_up_after_a_bounded_number_of_pops_whoever_else_comes(
        target in class(),
        floods in prop::collection::vec((class(), 0..BOTS as u8, 0..USERS as u8, 10u32..100, 1u32..4), 50..200),
        ahead in 0u64..4,
    ) {
        const QUANTUM: u64 = 50;
        let (least, most, heaviest) = (10, 100, 3);
        let mut queue = FairQueue::with_quantum(1000, QUANTUM as u32);
        let flood = |n: u64| {
            let (class, bot, user, cost, weight) = floods[n as usize % floods.len()];
            Request { weight, ..request(1000 + n, class, bot, user, cost) }
        };
        for n in 0..100 {
            queue.push(flood(n)).unwrap();
        }
        // The target stands behind `ahead` others of its own user, who asks for nothing more.
        for n in 0..=ahead {
            queue.push(request(n, target, 0, 200, most)).unwrap();
        }
        // Rounds that its user needs, what the bot is served in them, rounds that the bot needs, what the class is served
        // in them; and for one pop of a class at most 18 of all.
        let (users, bots) = (USERS as u64, BOTS as u64 - 1);
        let own = (ahead + 1) * u64::from(most);
        let bot = own + users * ((own.div_ceil(QUANTUM) + 1) * QUANTUM + u64::from(most));
        let class = bot + bots * ((bot.div_ceil(QUANTUM) + 1) * QUANTUM * heaviest + u64::from(most));
        let bound = 18 * (class.div_ceil(least) + 1);
        let mut pops = 0u64;
        while let Some((popped, _)) = queue.pop() {
            pops += 1;
            prop_assert!(pops <= bound, "not within {bound} pops");
            if popped.turn == turn(ahead) {
                break;
            }
            // For everybody who leaves somebody of the same class comes.
            queue.push(Request { class: popped.class, ..flood(100 + pops) }).unwrap();
        }
        prop_assert!(queue.get(turn(ahead)).is_none());
    }
}
