//! The gate of the model servers without the servers: its pure machines on a virtual clock, 1,000 bots in front of 10 servers of 4
//! slots. Waits and shares are of that clock, so they don't depend on the machine; only the last table does.
//!
//! - `shares`: every bot always has some requests waiting, of 150 to 2,400 tokens on average by bot. Jain's index of what
//!   bots of one class and server were given: 1 is all alike, 1/n is one of n with everything.
//! - `waits`: requests come at random. Ten bots ask thirty times as often as the others, one server dies for a fifth of
//!   the time, one carries half of its slots, and models must be loaded.
//! - `steps`: what the line itself costs with 512 requests of 64 bots in it.
//!
//! Beside each stands the same with first come first served. `cargo bench --bench gate`
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = "a program for people")]

mod harness;

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use deia_actors::{
    domain::ids::{BotId, TurnId},
    inference::queue::{Class, FairQueue, Request},
    testkit::simulation::{Load, Outcome, Plan, percentile, simulate},
};
use harness::{head, introduce, row, stats::cells};

const HOUR: Duration = Duration::from_secs(3600);
const WAITING: usize = 512;
const BOTS: u64 = 64;
const ROUNDS: usize = 50;

fn both(plan: Plan) -> [(&'static str, Outcome); 2] {
    let fifo = simulate(Plan { fair: false, ..plan });
    [("fair", simulate(plan)), ("first come first served", fifo)]
}

fn counts(name: &str, outcome: &Outcome) {
    println!(
        "  {name}: {} came, {} answered, {} refused, {} expired, {} cut, {} left; {} loads, {} failovers, {} times busy, \
         breakers opened {} times",
        outcome.arrived,
        outcome.served,
        outcome.refused,
        outcome.expired,
        outcome.cut,
        outcome.left,
        outcome.loads,
        outcome.failovers,
        outcome.busy,
        outcome.opened,
    );
    assert_eq!(outcome.accounted(), outcome.arrived, "nobody is lost");
}

fn shares() {
    let plan = Plan::new(Load::Backlog, HOUR);
    head("shares, 1 h: Jain's index per server", &["least", "mean"]);
    for (name, outcome) in both(plan) {
        for class in Class::ALL {
            let (least, mean) = outcome.jain(class, plan.servers);
            row(&format!("{name}, {}", class.as_str()), &cells([least, mean], 3));
        }
        counts(name, &outcome);
    }
}

fn waits(load: f64) {
    let head_line = format!("waits, 1 h, {:.0} % of what the servers can do, s", load * 100.0);
    head(&head_line, &["p50", "p95", "p99", "answered"]);
    for (name, outcome) in both(Plan::new(Load::Offered(load), HOUR)) {
        let line = |who: &str, waits: &[f64]| {
            let mut values = cells([50.0, 95.0, 99.0].map(|p| percentile(waits, p)), 1);
            values.push(waits.len().to_string());
            row(&format!("{name}, {who}"), &values);
        };
        for class in Class::ALL {
            line(class.as_str(), &outcome.waits[class as usize]);
        }
        line("bots that flood", &outcome.waits_of_floods);
        let (half, most) = outcome.foretold_ratio();
        println!("  foretold over real wait: p50 {half:.2}, p90 {most:.2} (of {})", outcome.foretold.len());
        counts(name, &outcome);
    }
}

fn request(n: u64) -> Request<()> {
    Request {
        turn: TurnId(uuid::Uuid::from_u128(n.into())),
        class: Class::ALL[n as usize % 3],
        bot: BotId::numbered(n % BOTS),
        weight: 1,
        user: (n % 5).to_string().into(),
        cost: 100 + (n * 7919 % 4000) as u32,
        deadline: Some(Instant::now() + HOUR),
        payload: (),
    }
}

/// The fastest of some rounds, in µs for each of `many`.
fn micros(many: usize, mut round: impl FnMut() -> Duration) -> f64 {
    let fastest = (0..ROUNDS).map(|_| round()).min().unwrap();
    fastest.as_secs_f64() * 1e6 / many as f64
}

fn steps() {
    let full = || {
        let mut queue = FairQueue::new(WAITING);
        let requests: Vec<_> = (0..WAITING as u64).map(request).collect();
        let start = Instant::now();
        for request in requests {
            queue.push(request).unwrap();
        }
        (queue, start.elapsed())
    };
    head("steps with 512 waiting, fastest of 50 rounds", &["µs each"]);
    row("push", &cells([micros(WAITING, || full().1)], 2));
    let pops = || {
        let (mut queue, _) = full();
        let start = Instant::now();
        while black_box(queue.pop()).is_some() {}
        start.elapsed()
    };
    row("pop", &cells([micros(WAITING, pops)], 2));
    let cancels = || {
        let (mut queue, _) = full();
        let start = Instant::now();
        for n in 0..WAITING as u64 {
            black_box(queue.cancel(request(n * 151 % WAITING as u64).turn));
        }
        start.elapsed()
    };
    row("cancel, all over the line", &cells([micros(WAITING, cancels)], 2));
    let (queue, _) = full();
    let positions = || {
        let start = Instant::now();
        black_box(queue.positions());
        start.elapsed()
    };
    row("positions of all", &cells([micros(1, positions)], 0));
}

fn main() {
    introduce("gate: the fair line, virtual clock");
    shares();
    waits(0.8);
    waits(1.1);
    steps();
}
