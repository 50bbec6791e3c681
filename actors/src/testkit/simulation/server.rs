//! A model server of the simulation, and the gate in front of it.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use super::Plan;
use crate::{
    domain::{ids::TurnId, model::ServerState},
    inference::{
        breaker::{Breaker, Pass},
        outlook::Outlook,
        queue::{FairQueue, Request},
        routing::{ModelAt, ServerView},
        service_times::ServiceTimes,
        slots::AdaptiveSlots,
    },
};

/// Loading a model.
const LOAD: Duration = Duration::from_secs(5);
/// Models that a server keeps in memory.
const IN_MEMORY: usize = 2;

#[derive(Debug)]
pub(super) struct Job {
    pub bot: usize,
    pub arrived: Duration,
    /// Foretold wait, where it was asked for.
    pub eta: Option<Duration>,
    pub tried: Vec<String>,
}

impl Job {
    /// The name of its bot's model: there are as many as servers.
    pub fn model(&self, plan: &Plan) -> String {
        (self.bot % plan.servers).to_string()
    }
}

pub(super) struct Running {
    pub request: Request<Job>,
    pub pass: Pass,
    pub model: String,
    pub began: Duration,
    pub load: Duration,
}

pub(super) struct Server {
    pub name: String,
    pub speed: f64,
    /// What it really runs at once.
    pub carries: usize,
    pub alive: bool,
    pub has: Vec<usize>,
    pub loaded: VecDeque<usize>,
    pub queue: FairQueue<Job>,
    pub slots: AdaptiveSlots,
    pub breaker: Breaker,
    pub times: ServiceTimes,
    pub running: BTreeMap<TurnId, Running>,
}

impl Server {
    pub fn view(&self, model: usize, epoch: Instant, now: Duration) -> ServerView<'_> {
        let loaded = self.loaded.contains(&model);
        let at = match (loaded, self.has.contains(&model)) {
            (true, _) => ModelAt::Loaded,
            (false, true) => ModelAt::Present,
            (false, false) => ModelAt::Absent,
        };
        ServerView {
            name: &self.name,
            state: ServerState::Up,
            // A model that no server but others has is no answer here.
            admits: self.breaker.admits(epoch + now) && at != ModelAt::Absent,
            model: at,
            full: self.queue.len() >= self.queue.limit(),
            wait: self.outlook(now).nth(&model.to_string(), loaded, self.queue.len() + 1),
            turns: (self.running.len() + self.queue.len()) as u32,
            slots: self.slots.now(),
        }
    }

    /// When its slots come free, as expected.
    pub fn outlook(&self, now: Duration) -> Outlook<'_> {
        let running = self.running.values().map(|r| (r.model.as_str(), now - r.began));
        Outlook::new(&self.times, self.slots.now(), running, Duration::ZERO)
    }

    /// Has a model in memory; how long that takes.
    pub fn bring(&mut self, model: usize) -> Duration {
        let was = self.loaded.iter().position(|m| *m == model);
        if let Some(at) = was {
            self.loaded.remove(at);
        }
        self.loaded.push_back(model);
        self.loaded.drain(..self.loaded.len().saturating_sub(IN_MEMORY));
        if was.is_some() { Duration::ZERO } else { LOAD }
    }
}
