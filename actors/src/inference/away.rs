//! Turns that wait for any server at all: who they are, since when, and when each gives up. Where a server comes back they stand in
//! its line in the order in which they came: whoever hears of it first lets all of them in ([`Away::let_in`]).

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::oneshot, time::Instant};

use super::{
    Claim, Comes, Gate, Preference, Want,
    gate::{Ticket, count},
};
use crate::domain::{
    ids::TurnId,
    time::Timestamp,
    turn::{Offline, QueuePlace},
};

/// Everybody who waits. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Away(Arc<Mutex<Line>>);

#[derive(Debug, Default)]
struct Line {
    /// In the order in which they came.
    waiting: Vec<Waiter>,
    /// Turns that come as soon as they are stored.
    coming: usize,
    /// Turns that wait behind another one of their conversation.
    behind: usize,
    /// The change of the servers after which all were looked at.
    looked: u64,
}

impl Line {
    fn expected(&mut self, comes: Comes) -> &mut usize {
        match comes {
            Comes::AtOnce => &mut self.coming,
            Comes::Later => &mut self.behind,
        }
    }
}

#[derive(Debug)]
struct Waiter {
    want: Want,
    preference: Preference,
    claim: Claim,
    offline: Offline,
    stands: oneshot::Sender<Stand>,
}

/// A place in the line of a server, and the model that it is for.
#[derive(Debug)]
pub(super) struct Stand {
    pub gate: Arc<Gate>,
    pub model: String,
    pub ticket: Ticket,
}

impl Stand {
    /// Stands in the line of this server, for this model.
    pub fn at(
        (gate, model): (Arc<Gate>, String),
        want: &Want,
        preference: &Preference,
        claim: Claim,
    ) -> Self {
        let want = Want { tried: preference.tried(&model), model: model.clone(), ..want.clone() };
        let ticket = gate.enqueue(&want, claim);
        Self { gate, model, ticket }
    }
}

/// Room for a turn that does not wait yet.
#[derive(Debug)]
pub(crate) struct Room {
    away: Away,
    comes: Comes,
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut line = self.away.0.lock();
        let expected = line.expected(self.comes);
        *expected = expected.saturating_sub(1);
    }
}

/// One who waits; over when it is dropped.
#[derive(Debug)]
pub(super) struct Stay {
    away: Away,
    turn: TurnId,
    /// Where it waits.
    pub place: QueuePlace,
    /// Comes when a server takes it.
    pub stands: oneshot::Receiver<Stand>,
    /// When it gives up.
    pub until: Instant,
}

/// From now on, for so long.
pub(super) fn offline(wait: Duration) -> Offline {
    let now = Timestamp::now();
    let wait = i64::try_from(wait.as_micros()).unwrap_or(i64::MAX);
    Offline { offline_since: now, gives_up_at: Timestamp(now.0.saturating_add(wait)) }
}

impl Away {
    /// Room for a turn that is not stored yet; none where as many wait as may.
    pub fn reserve(&self, limit: usize, comes: Comes) -> Option<Room> {
        let mut line = self.0.lock();
        if line.waiting.len() + line.coming + line.behind >= limit {
            return None;
        }
        *line.expected(comes) += 1;
        Some(Room { away: self.clone(), comes })
    }

    /// Waits from now on, for at most so long. `seen` is the change of the servers after which it found none.
    pub fn enter(
        &self,
        want: &Want,
        preference: &Preference,
        claim: Claim,
        seen: u64,
        wait: Duration,
    ) -> Stay {
        // A reservation has served; it is given back when it is counted here, and not under the lock.
        let (claim, _served) = match claim {
            Claim::Back(back) => (Claim::Back(back), Claim::Nothing),
            served => (Claim::Nothing, served),
        };
        let (stands, receiver) = oneshot::channel();
        let (preference, offline) = (preference.clone(), offline(wait));
        let mut line = self.0.lock();
        let place =
            QueuePlace { offline: Some(offline), ..QueuePlace::new(count(line.waiting.len() + 1), None) };
        let want = Want { told: Some(place.clone()), ..want.clone() };
        let turn = want.turn;
        line.waiting.push(Waiter { want, preference, claim, offline, stands });
        line.looked = line.looked.min(seen);
        Stay { away: self.clone(), turn, place, stands: receiver, until: Instant::now() + wait }
    }

    /// Has everybody whom a server takes stand in its line, in the order in which they came. Once for each change of the servers,
    /// of which this is the newest that the caller saw.
    pub fn let_in(&self, seen: u64, way: impl Fn(&Preference) -> Option<(Arc<Gate>, String)>) {
        let mut line = self.0.lock();
        if line.looked >= seen {
            return;
        }
        line.looked = seen;
        for mut waiter in std::mem::take(&mut line.waiting) {
            match way(&waiter.preference) {
                Some(way) => {
                    let claim = std::mem::take(&mut waiter.claim);
                    // Who has gone meanwhile leaves that line as well.
                    let _ = waiter.stands.send(Stand::at(way, &waiter.want, &waiter.preference, claim));
                }
                None => line.waiting.push(waiter),
            }
        }
    }

    /// Place that a new turn would get.
    pub fn next_position(&self) -> u32 {
        let line = self.0.lock();
        count(line.waiting.len() + line.coming.max(1))
    }

    /// How long is not known: nobody says when a server is back.
    pub fn place(&self, turn: TurnId) -> Option<QueuePlace> {
        let line = self.0.lock();
        let index = line.waiting.iter().position(|waiter| waiter.want.turn == turn)?;
        let offline = Some(line.waiting[index].offline);
        Some(QueuePlace { offline, ..QueuePlace::new(count(index + 1), None) })
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.away.0.lock().waiting.retain(|waiter| waiter.want.turn != self.turn);
    }
}
