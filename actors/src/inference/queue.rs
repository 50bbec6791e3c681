//! The line in front of a model server: bounded, fair, and open to view. Pure: it knows no clock and wakes nobody.
//!
//! Who is next: of the classes the highest that waits, with a patience for each ([`Class`]); inside a class the bots take
//! turns by deficit round robin over their estimated tokens, by their weights; inside a bot its users likewise, all alike;
//! a user's own requests go first come first served.
//!
//! While a bot has something waiting in a class, what it is served and what any other bot of that class is served, each
//! divided by its weight, differ by less than [`QUANTUM`] tokens and the largest request of each. Nobody waits for ever.
//!
//! An entry leaves once: by `pop`, `cancel` or `expire`. Entering and cancelling take a fixed number of steps, however long
//! the line is (a deadline costs the logarithm on its way in); `pop` looks a few times at each bot that can't pay yet.

mod classes;
mod deadlines;
mod drr;
mod list;
mod order;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc, time::Instant};

pub use classes::Class;
use deadlines::Deadlines;
use list::Id;
use order::{Account, Order};

use crate::domain::ids::{BotId, TurnId};

/// Tokens that a bot of weight 1, and a user inside it, is granted per round: about one usual turn.
pub const QUANTUM: u32 = 1024;

/// Somebody who wants a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request<T> {
    /// Its name in the line; there once at most.
    pub turn: TurnId,
    /// What it is for.
    pub class: Class,
    /// The bot that it is charged to.
    pub bot: BotId,
    /// The bot's weight against the others, at least 1; the newest request decides.
    pub weight: u32,
    /// Whoever shares the bot with others: a user, or the conversation where there are none.
    pub user: Arc<str>,
    /// Estimated tokens of prompt and answer; 0 counts as 1.
    pub cost: u32,
    /// When it leaves by itself.
    pub deadline: Option<Instant>,
    /// What the caller keeps with it.
    pub payload: T,
}

/// Why a request was not taken. It is handed back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused<T> {
    /// The line has no room.
    Full {
        /// The request.
        request: Request<T>,
        /// How many wait: the next would have the place behind them.
        waiting: usize,
    },
    /// The turn is in the line already.
    Twice(Request<T>),
}

/// The turn that an entry had when it was popped; with it the entry can be put back without losing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Popped(u64);

#[derive(Debug)]
struct Held<T> {
    at: Id,
    number: u64,
    request: Request<T>,
}

/// The line.
#[derive(Debug)]
pub struct FairQueue<T> {
    limit: usize,
    order: Order,
    held: HashMap<TurnId, Held<T>>,
    deadlines: Deadlines,
    came: u64,
}

impl<T> FairQueue<T> {
    /// An empty line for at most `limit` requests.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self::with_quantum(limit, QUANTUM)
    }

    /// The same with another quantum, in tokens: the smaller, the finer bots and users alternate.
    #[must_use]
    pub fn with_quantum(limit: usize, quantum: u32) -> Self {
        Self {
            limit,
            order: Order::new(quantum),
            held: HashMap::new(),
            deadlines: Deadlines::default(),
            came: 0,
        }
    }

    /// Takes a place.
    ///
    /// # Errors
    /// [`Refused`] where there is none, or where the turn has one.
    pub fn push(&mut self, mut request: Request<T>) -> Result<(), Refused<T>> {
        if self.held.contains_key(&request.turn) {
            return Err(Refused::Twice(request));
        }
        let waiting = self.held.len();
        if waiting >= self.limit {
            return Err(Refused::Full { request, waiting });
        }
        request.cost = request.cost.max(1);
        let at = self.order.push(request.turn, request.cost, &account(&request));
        self.hold(at, request);
        Ok(())
    }

    /// Puts one back that was popped and could not be served (the server was busy): before everybody else, but behind
    /// those that were popped before it, without a second charge, and even where the line is full.
    ///
    /// # Errors
    /// [`Refused::Twice`] where the turn is in the line again.
    pub fn put_back(&mut self, request: Request<T>, popped: Popped) -> Result<(), Refused<T>> {
        if self.held.contains_key(&request.turn) {
            return Err(Refused::Twice(request));
        }
        let at = self.order.put_back(request.turn, popped.0);
        self.hold(at, request);
        Ok(())
    }

    /// The next one, which leaves.
    pub fn pop(&mut self) -> Option<(Request<T>, Popped)> {
        let (turn, popped) = self.order.pop()?;
        let request = self.held.remove(&turn)?.request;
        self.tidy();
        Some((request, Popped(popped)))
    }

    /// The turn of one that is served without having stood in the empty line: put back with it, it goes before all who came
    /// later.
    #[must_use]
    pub fn passed_by(&self) -> Popped {
        Popped(self.order.popped())
    }

    /// Takes one out, wherever it stands.
    pub fn cancel(&mut self, turn: TurnId) -> Option<Request<T>> {
        let held = self.held.remove(&turn)?;
        self.order.remove(held.at);
        self.tidy();
        Some(held.request)
    }

    /// Takes out everybody whose deadline is `now` or earlier, in the order of the deadlines.
    pub fn expire(&mut self, now: Instant) -> Vec<Request<T>> {
        let mut gone = vec![];
        while let Some((_, turn)) = self.next_expiry().filter(|(deadline, _)| *deadline <= now) {
            gone.extend(self.cancel(turn));
        }
        gone
    }

    /// The next deadline: when to call [`expire`](Self::expire).
    pub fn next_deadline(&mut self) -> Option<Instant> {
        self.next_expiry().map(|(deadline, _)| deadline)
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// True where nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// How many may wait.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// What waits under this name.
    #[must_use]
    pub fn get(&self, turn: TurnId) -> Option<&Request<T>> {
        self.held.get(&turn).map(|held| &held.request)
    }

    /// What the caller keeps with it.
    pub fn payload_mut(&mut self, turn: TurnId) -> Option<&mut T> {
        self.held.get_mut(&turn).map(|held| &mut held.request.payload)
    }

    /// Everybody who waits, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Request<T>> {
        self.held.values().map(|held| &held.request)
    }

    /// Everybody in the order in which `pop` gives them out if nobody comes or goes: the first has position 1. Plays the
    /// future through on a copy of the order, so it costs about as much as popping everybody.
    #[must_use]
    pub fn positions(&self) -> Vec<TurnId> {
        let mut order = self.order.clone();
        std::iter::from_fn(|| order.pop()).map(|(turn, _)| turn).collect()
    }

    /// Position of one of them, 1 is the next.
    #[must_use]
    pub fn position(&self, turn: TurnId) -> Option<usize> {
        self.held.contains_key(&turn).then(|| 1 + line_before(self.order.clone(), turn).count())
    }

    /// Those that would be served before a request if it came now, the next one first.
    #[must_use]
    pub fn before<U>(&self, request: &Request<U>) -> Vec<TurnId> {
        let mut order = self.order.clone();
        order.push(request.turn, request.cost.max(1), &account(request));
        line_before(order, request.turn).collect()
    }

    fn hold(&mut self, at: Id, request: Request<T>) {
        self.came += 1;
        if let Some(deadline) = request.deadline {
            self.deadlines.push(deadline, self.came, request.turn);
        }
        self.held.insert(request.turn, Held { at, number: self.came, request });
    }

    fn next_expiry(&mut self) -> Option<(Instant, TurnId)> {
        self.deadlines.next(|turn, number| self.held.get(&turn).is_some_and(|h| h.number == number))
    }

    fn tidy(&mut self) {
        let held = &self.held;
        self.deadlines.tidy(held.len(), |turn, number| held.get(&turn).is_some_and(|h| h.number == number));
    }
}

fn account<T>(request: &Request<T>) -> Account<'_> {
    Account { class: request.class, bot: &request.bot, weight: request.weight, user: &request.user }
}

fn line_before(mut order: Order, turn: TurnId) -> impl Iterator<Item = TurnId> {
    std::iter::from_fn(move || order.pop()).map(|(next, _)| next).take_while(move |next| *next != turn)
}
