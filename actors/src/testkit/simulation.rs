//! Many bots in front of several model servers, on a virtual clock: the pure machines of `inference/` put together as a gate
//! does, with servers that die, come back, say busy and load models. Seeded: the same plan, the same outcome.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use uuid::Uuid;

use crate::{
    domain::ids::{BotId, TurnId},
    inference::{
        breaker::{Breaker, BreakerRules, BreakerState, Pass, Verdict},
        queue::{Class, FairQueue, Popped, Refused, Request},
        routing::choose,
        service_times::ServiceTimes,
        slots::AdaptiveSlots,
    },
};

mod outcome;
mod server;

pub use outcome::{Outcome, percentile};
use server::{Job, Running, Server};

/// Tokens that a slot of the slowest server works off in a second; the fastest has twice as many.
const SPEED: f64 = 500.0;
/// Mean tokens of a request, by bot.
const SIZES: [u32; 5] = [150, 300, 600, 1200, 2400];
/// How long a request that came at random waits at most.
const PATIENCE: Duration = Duration::from_secs(300);

/// Where requests come from.
#[derive(Debug, Clone, Copy)]
pub enum Load {
    /// They come at random, so many times what all servers can do; one bot in a hundred asks thirty times as often.
    /// A model is on three servers. One server dies for a fifth of the time, another carries half of its slots.
    Offered(f64),
    /// Every bot has four waiting all the time, one in fifty twelve. A model is on one server, and all are alike.
    Backlog,
}

/// What to simulate.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Bots: of ten, six are interactive, three api, one background.
    pub bots: usize,
    /// Servers.
    pub servers: usize,
    /// Slots of each.
    pub slots: u32,
    /// Places in each line.
    pub queue_limit: usize,
    /// Virtual time.
    pub length: Duration,
    /// Requests.
    pub load: Load,
    /// False: first come first served, for comparison.
    pub fair: bool,
    /// Seed.
    pub seed: u64,
}

impl Plan {
    /// A thousand bots, ten servers of four slots, fair.
    #[must_use]
    pub fn new(load: Load, length: Duration) -> Self {
        Self { bots: 1000, servers: 10, slots: 4, queue_limit: 512, length, load, fair: true, seed: 5 }
    }

    /// Whether a bot asks far more often than the others.
    fn floods(&self, bot: usize) -> bool {
        matches!(self.load, Load::Offered(_)) && bot.is_multiple_of(101)
    }
}

/// Class of the n-th bot.
#[must_use]
pub fn class_of(bot: usize) -> Class {
    match bot / 10 % 10 {
        0..6 => Class::Interactive,
        6..9 => Class::Api,
        _ => Class::Background,
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrives { bot: usize, again: bool },
    Ends { server: usize, turn: TurnId },
    Looks { server: usize },
    Dies { server: usize },
    ComesBack { server: usize },
}

struct World {
    plan: Plan,
    epoch: Instant,
    now: Duration,
    rng: SmallRng,
    servers: Vec<Server>,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    /// Numbers events and turns.
    made: u64,
    outcome: Outcome,
}

/// Plays a plan.
#[must_use]
pub fn simulate(plan: Plan) -> Outcome {
    let mut world = World::new(plan);
    while let Some(Reverse((at, _, event))) = world.events.pop() {
        if at > plan.length {
            break;
        }
        world.now = at;
        world.happens(event);
    }
    let left = world.servers.iter().map(|s| s.queue.len() + s.running.len());
    world.outcome.left = left.sum::<usize>() as u64;
    world.outcome
}

impl World {
    fn new(plan: Plan) -> Self {
        let offered = matches!(plan.load, Load::Offered(_));
        let servers = (0..plan.servers).map(|n| Server {
            name: format!("server-{n}"),
            speed: if offered { SPEED * (1.0 + n as f64 / plan.servers as f64) } else { SPEED },
            carries: plan.slots as usize / if offered && n == 1 { 2 } else { 1 },
            alive: true,
            has: (0..if offered { 3 } else { 1 }).map(|m| (n + m) % plan.servers).collect(),
            loaded: VecDeque::new(),
            queue: FairQueue::new(plan.queue_limit),
            slots: AdaptiveSlots::new(plan.slots),
            breaker: Breaker::new(BreakerRules::DEFAULT),
            times: ServiceTimes::default(),
            running: BTreeMap::new(),
        });
        let mut world = Self {
            plan,
            epoch: Instant::now(),
            now: Duration::ZERO,
            rng: SmallRng::seed_from_u64(plan.seed),
            servers: servers.collect(),
            events: BinaryHeap::new(),
            made: 0,
            outcome: Outcome::new(plan.bots),
        };
        for bot in 0..plan.bots {
            if offered {
                let first = world.pause(bot);
                world.plan_event(first, Event::Arrives { bot, again: true });
                continue;
            }
            for _ in 0..if bot.is_multiple_of(51) { 12 } else { 4 } {
                // All within the first seconds, in an order of its own.
                let first = Duration::from_millis(world.rng.random_range(0..5000));
                world.plan_event(first, Event::Arrives { bot, again: false });
            }
        }
        if offered {
            world.plan_event(plan.length * 2 / 5, Event::Dies { server: 0 });
            world.plan_event(plan.length * 3 / 5, Event::ComesBack { server: 0 });
        }
        world
    }

    fn plan_event(&mut self, after: Duration, event: Event) {
        self.made += 1;
        self.events.push(Reverse((self.now + after, self.made, event)));
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Arrives { bot, again } => {
                self.arrives(bot);
                if again {
                    let pause = self.pause(bot);
                    self.plan_event(pause, Event::Arrives { bot, again });
                }
            }
            Event::Ends { server, turn } => self.ends(server, turn),
            Event::Looks { server } => self.pump(server),
            Event::Dies { server } => self.dies(server),
            Event::ComesBack { server } => self.servers[server].alive = true,
        }
    }

    /// Until a bot asks again: exponential, so that all together offer the load of the plan.
    fn pause(&mut self, bot: usize) -> Duration {
        let Load::Offered(load) = self.plan.load else { return Duration::MAX };
        let speed: f64 = self.servers.iter().map(|s| s.speed * s.carries as f64).sum();
        let size = f64::from(SIZES.iter().sum::<u32>()) / SIZES.len() as f64;
        // Of a hundred bots one asks thirty times as often as each of the others.
        let asks = speed * load / size / (self.plan.bots as f64 * 1.29);
        let asks = if self.plan.floods(bot) { asks * 30.0 } else { asks };
        Duration::from_secs_f64(-(1.0 - self.rng.random::<f64>()).ln() / asks)
    }

    fn arrives(&mut self, bot: usize) {
        self.made += 1;
        self.outcome.arrived += 1;
        // Models, classes and sizes of bots are independent of each other.
        let size = SIZES[bot / 100 % SIZES.len()];
        let fair = self.plan.fair;
        let request = Request {
            turn: TurnId(Uuid::from_u128(self.made.into())),
            class: if fair { class_of(bot) } else { Class::Api },
            bot: BotId::numbered(if fair { bot as u64 } else { 0 }),
            weight: 1,
            user: (if fair { self.rng.random_range(0..3) } else { 0 }).to_string().into(),
            cost: self.rng.random_range(size / 2..size * 3 / 2),
            // Who always wants more also always waits.
            deadline: matches!(self.plan.load, Load::Offered(_)).then(|| self.epoch + self.now + PATIENCE),
            payload: Job { bot, arrived: self.now, eta: None, tried: vec![] },
        };
        self.route(request);
    }

    fn route(&mut self, request: Request<Job>) {
        let model = request.payload.bot % self.servers.len();
        let views: Vec<_> = self.servers.iter().map(|s| s.view(model, self.epoch, self.now)).collect();
        let chosen = choose(&views, &request.payload.tried);
        let Some(n) = chosen.and_then(|name| self.servers.iter().position(|s| s.name == name)) else {
            self.outcome.refused += 1;
            return;
        };
        let turn = request.turn;
        match self.servers[n].queue.push(request) {
            Ok(()) => {
                self.foretell(n, turn);
                self.pump(n);
            }
            Err(Refused::Full { .. } | Refused::Twice(_)) => self.outcome.refused += 1,
        }
    }

    /// For one in sixteen, where somebody waits before it: it plays the future through.
    fn foretell(&mut self, n: usize, turn: TurnId) {
        let server = &mut self.servers[n];
        if !self.outcome.arrived.is_multiple_of(16) || server.queue.len() < 2 {
            return;
        }
        let line = server.queue.positions();
        let names: Vec<_> =
            line.iter().filter_map(|t| server.queue.get(*t)).map(|r| r.payload.model(&self.plan)).collect();
        let mut outlook = server.outlook(self.now);
        let etas = names.iter().map(|name| outlook.next(name, true, Duration::ZERO));
        let eta = line.iter().zip(etas).find(|(t, _)| **t == turn).and_then(|(_, eta)| eta);
        if let Some(job) = server.queue.payload_mut(turn) {
            job.eta = eta;
        }
    }

    /// Lets in whom it can.
    fn pump(&mut self, n: usize) {
        let at = self.epoch + self.now;
        self.outcome.expired += self.servers[n].queue.expire(at).len() as u64;
        loop {
            let server = &mut self.servers[n];
            if server.running.len() >= server.slots.now() as usize || server.queue.is_empty() {
                return;
            }
            let Some(pass) = server.breaker.admit(at) else {
                return self.flee(n);
            };
            let Some((request, popped)) = server.queue.pop() else { return };
            if !server.alive {
                self.fails(n, pass, "connection refused");
                self.elsewhere(n, request);
            } else if server.running.len() >= server.carries {
                server.slots.busy(server.running.len() as u32);
                return self.turned_away(n, pass, request, popped);
            } else {
                self.begins(n, pass, request);
            }
        }
    }

    fn turned_away(&mut self, n: usize, pass: Pass, request: Request<Job>, popped: Popped) {
        self.outcome.busy += 1;
        let server = &mut self.servers[n];
        server.breaker.verdict(pass, Verdict::Unclear, "busy", self.epoch + self.now, 0.0);
        if server.queue.put_back(request, popped).is_err() {
            self.outcome.refused += 1;
        }
    }

    fn begins(&mut self, n: usize, pass: Pass, request: Request<Job>) {
        let (job, class) = (&request.payload, class_of(request.payload.bot));
        let wait = self.now - job.arrived;
        let waits = match &mut self.outcome.waits {
            _ if self.plan.floods(job.bot) => &mut self.outcome.waits_of_floods,
            waits => &mut waits[class as usize],
        };
        waits.push(wait.as_secs_f64());
        self.outcome.foretold.extend(job.eta.map(|eta| (eta.as_secs_f64(), wait.as_secs_f64())));
        let server = &mut self.servers[n];
        let load = server.bring(job.bot % self.plan.servers);
        self.outcome.loads += u64::from(!load.is_zero());
        let takes = load + Duration::from_secs_f64(f64::from(request.cost) / server.speed);
        let (turn, model) = (request.turn, request.payload.model(&self.plan));
        server.running.insert(turn, Running { request, pass, model, began: self.now, load });
        self.plan_event(takes, Event::Ends { server: n, turn });
    }

    fn ends(&mut self, n: usize, turn: TurnId) {
        let server = &mut self.servers[n];
        // One that died with its server ended then.
        let Some(Running { request, pass, model, began, load }) = server.running.remove(&turn) else {
            return;
        };
        let bot = request.payload.bot;
        server.times.measured(&model, self.now - began, load);
        server.slots.succeeded();
        server.breaker.verdict(pass, Verdict::Answered, "", self.epoch + self.now, 0.0);
        self.outcome.served += 1;
        self.outcome.tokens[bot] += u64::from(request.cost);
        self.pump(n);
        if matches!(self.plan.load, Load::Backlog) {
            self.arrives(bot);
        }
    }

    fn fails(&mut self, n: usize, pass: Pass, reason: &str) {
        let jitter = self.rng.random();
        let breaker = &mut self.servers[n].breaker;
        breaker.verdict(pass, Verdict::Failed, reason, self.epoch + self.now, jitter);
        if breaker.state() == BreakerState::Open {
            self.outcome.opened += 1;
            let pause = breaker.retry_at().map(|at| at - (self.epoch + self.now));
            self.plan_event(pause.unwrap_or_default(), Event::Looks { server: n });
        }
    }

    fn elsewhere(&mut self, n: usize, mut request: Request<Job>) {
        self.outcome.failovers += 1;
        request.payload.tried.push(self.servers[n].name.clone());
        self.route(request);
    }

    /// The breaker lets nobody through: those who wait go elsewhere.
    fn flee(&mut self, n: usize) {
        while let Some((request, _)) = self.servers[n].queue.pop() {
            self.elsewhere(n, request);
        }
    }

    fn dies(&mut self, n: usize) {
        self.servers[n].alive = false;
        let running: Vec<_> = std::mem::take(&mut self.servers[n].running).into_values().collect();
        for cut in running {
            self.outcome.cut += 1;
            self.fails(n, cut.pass, "cut");
        }
        self.pump(n);
    }
}

#[cfg(test)]
mod tests;
