//! Models that a server lists and does not have: it said so when it was asked for them. Pure: time is handed in.
//!
//! A list that still names such a model is not believed for a while. One that comes without it, or with another digest, is: then
//! the server knows what it has.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use crate::ports::chat_model::ModelSummary;

/// How long a list is not believed that names a model which was not there.
const REMEMBERED: Duration = Duration::from_secs(60);

/// What one server does not have, whatever its list says.
#[derive(Debug, Default)]
pub(super) struct Missing {
    /// Until when, by the name that was asked for.
    until: HashMap<String, Instant>,
    turns: u64,
}

impl Missing {
    /// The server does not have a model that it lists.
    pub fn found_out(&mut self, model: &str, now: Instant) {
        self.until.retain(|_, until| now < *until);
        self.until.insert(model.to_owned(), now + REMEMBERED);
        self.turns += 1;
    }

    /// The server has it after all.
    pub fn answered(&mut self, model: &str) {
        if self.until.remove(model).is_some() {
            self.turns += 1;
        }
    }

    /// Somebody looked after the server.
    pub fn forgive(&mut self) {
        if !self.until.is_empty() {
            self.until.clear();
            self.turns += 1;
        }
    }

    /// A list took the place of another one.
    pub fn listed(&mut self, before: &[ModelSummary], after: &[ModelSummary]) {
        if self.until.is_empty() {
            return;
        }
        let told: HashSet<_> = before.iter().map(|m| (&m.name, &m.digest)).collect();
        let same: Vec<_> = after.iter().filter(|m| told.contains(&(&m.name, &m.digest))).collect();
        let all = self.until.len();
        self.until.retain(|model, _| same.iter().any(|m| super::is_called(&m.name, model)));
        self.turns += u64::from(self.until.len() < all);
    }

    /// Whether the list is not believed in this.
    pub fn has(&self, model: &str, now: Instant) -> bool {
        self.until.get(model).is_some_and(|until| now < *until)
    }

    /// When the next one is believed again.
    pub fn next_end(&self, now: Instant) -> Option<Instant> {
        self.until.values().filter(|until| now < **until).min().copied()
    }

    /// Raised whenever something is believed that was not before, or the other way round, the end of the time apart.
    pub fn turns(&self) -> u64 {
        self.turns
    }
}
