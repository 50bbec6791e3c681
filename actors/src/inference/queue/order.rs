//! The order of the waiting, without what they wait for: classes, in them rings of bots, in them rings of users, in them
//! entries first come first served. A clone plays the future through and disturbs nothing.

use std::{collections::HashMap, sync::Arc};

use super::{
    classes::{Class, Patience},
    drr::{Flow, choose},
    list::{Id, List, Slab},
};
use crate::domain::ids::{BotId, TurnId};

/// Where an entry stands.
#[derive(Clone, Copy, Debug)]
enum Home {
    /// In front of all others: popped before, and put back under the number of that pop.
    Back(u64),
    /// In the line of one user.
    Line(Id),
}

#[derive(Clone, Debug)]
struct Entry {
    turn: TurnId,
    cost: u32,
    home: Home,
}

#[derive(Clone, Debug)]
struct Bot {
    class: Class,
    id: BotId,
    users: List,
}

#[derive(Clone, Debug)]
struct User {
    bot: Id,
    name: Arc<str>,
    entries: List,
}

/// What an entry is charged to.
pub(super) struct Account<'a> {
    pub class: Class,
    pub bot: &'a BotId,
    pub weight: u32,
    pub user: &'a Arc<str>,
}

#[derive(Clone, Debug)]
pub(super) struct Order {
    quantum: u32,
    patience: Patience,
    /// Entries popped for the first time.
    popped: u64,
    rings: [List; 3],
    back: List,
    entries: Slab<Entry>,
    users: Slab<Flow<User>>,
    bots: Slab<Flow<Bot>>,
    bot_ids: HashMap<(Class, BotId), Id>,
    user_ids: HashMap<(Id, Arc<str>), Id>,
}

impl Order {
    pub fn new(quantum: u32) -> Self {
        Self {
            quantum,
            patience: Patience::default(),
            popped: 0,
            rings: [List::default(); 3],
            back: List::default(),
            entries: Slab::default(),
            users: Slab::default(),
            bots: Slab::default(),
            bot_ids: HashMap::new(),
            user_ids: HashMap::new(),
        }
    }

    /// A new entry at the end of its user's line.
    pub fn push(&mut self, turn: TurnId, cost: u32, account: &Account<'_>) -> Id {
        let Self { bots, users, entries, rings, .. } = self;
        let class = account.class;
        let bot = *self.bot_ids.entry((class, account.bot.clone())).or_insert_with(|| {
            let new = Bot { class, id: account.bot.clone(), users: List::default() };
            bots.push_back(&mut rings[class as usize], Flow::new(account.weight, new))
        });
        bots[bot].weight = account.weight.max(1);
        let user = *self.user_ids.entry((bot, account.user.clone())).or_insert_with(|| {
            let new = User { bot, name: account.user.clone(), entries: List::default() };
            users.push_back(&mut bots[bot].value.users, Flow::new(1, new))
        });
        entries.push_back(&mut users[user].value.entries, Entry { turn, cost, home: Home::Line(user) })
    }

    /// Entries popped so far, each once.
    pub fn popped(&self) -> u64 {
        self.popped
    }

    /// An entry in front of all, but behind those that were popped before it.
    pub fn put_back(&mut self, turn: TurnId, popped: u64) -> Id {
        let later = |id: &Id| matches!(self.entries[*id].home, Home::Back(number) if number > popped);
        let next = std::iter::successors(self.back.front(), |id| self.entries.after(*id)).find(later);
        let entry = Entry { turn, cost: 0, home: Home::Back(popped) };
        self.entries.insert(&mut self.back, next, entry)
    }

    /// Takes the next one out and charges it. Its number counts the pops; one that was put back keeps its first.
    pub fn pop(&mut self) -> Option<(TurnId, u64)> {
        if let Some(first) = self.back.front() {
            let Entry { turn, home, .. } = self.entries.remove(&mut self.back, first);
            return Some((turn, if let Home::Back(popped) = home { popped } else { 0 }));
        }
        let class = self.patience.next(|c| !self.rings[c as usize].is_empty())?;
        let Self { quantum, rings, bots, users, entries, .. } = self;
        let bot = choose(bots, &mut rings[class as usize], *quantum, |bot| {
            let user = choose(users, &mut bot.users, *quantum, |user| head_cost(entries, user));
            user.map_or(0, |user| head_cost(entries, &users[user].value))
        })?;
        let user = bots[bot].value.users.front()?;
        let first = users[user].value.entries.front()?;
        let cost = entries[first].cost;
        bots[bot].pay(cost);
        users[user].pay(cost);
        self.patience.served(class, |c| !self.rings[c as usize].is_empty());
        self.popped += 1;
        Some((self.remove(first), self.popped))
    }

    /// Takes an entry out, wherever it stands. Users and bots that have no other are forgotten.
    pub fn remove(&mut self, id: Id) -> TurnId {
        let user = match self.entries[id].home {
            Home::Back(_) => return self.entries.remove(&mut self.back, id).turn,
            Home::Line(user) => user,
        };
        let line = &mut self.users[user].value;
        let entry = self.entries.remove(&mut line.entries, id);
        if !line.entries.is_empty() {
            return entry.turn;
        }
        let bot = line.bot;
        let users = &mut self.bots[bot].value.users;
        let gone = self.users.remove(users, user).value;
        let last = users.is_empty();
        self.user_ids.remove(&(bot, gone.name));
        if last {
            let class = self.bots[bot].value.class;
            let gone = self.bots.remove(&mut self.rings[class as usize], bot).value;
            self.bot_ids.remove(&(gone.class, gone.id));
        }
        entry.turn
    }

    /// Bots and users that have entries.
    #[cfg(test)]
    pub fn flows(&self) -> (usize, usize) {
        assert_eq!((self.bots.len(), self.users.len()), (self.bot_ids.len(), self.user_ids.len()));
        (self.bots.len(), self.users.len())
    }

    /// Nodes that were looked at so far.
    #[cfg(test)]
    pub fn steps(&self) -> u64 {
        self.entries.steps.get() + self.users.steps.get() + self.bots.steps.get()
    }
}

/// What the first entry of a user costs.
fn head_cost(entries: &Slab<Entry>, user: &User) -> u32 {
    user.entries.front().map_or(0, |first| entries[first].cost)
}
