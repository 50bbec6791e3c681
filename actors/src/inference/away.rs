//! Turns that wait for any server at all: who they are, since when, and when each gives up.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::domain::{
    ids::TurnId,
    time::Timestamp,
    turn::{Offline, QueuePlace},
};

/// Everybody who waits, in the order in which they came. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Away {
    waiting: Arc<Mutex<Vec<(TurnId, Offline)>>>,
}

/// One who waits; over when it is dropped.
#[derive(Debug)]
pub(super) struct Stay {
    away: Away,
    turn: TurnId,
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
    pub fn enter(&self, turn: TurnId, wait: Duration) -> Stay {
        self.waiting.lock().push((turn, offline(wait)));
        Stay { away: self.clone(), turn, until: Instant::now() + wait }
    }

    pub fn len(&self) -> usize {
        self.waiting.lock().len()
    }

    /// How long is not known: nobody says when a server is back.
    pub fn place(&self, turn: TurnId) -> Option<QueuePlace> {
        let waiting = self.waiting.lock();
        let index = waiting.iter().position(|(id, _)| *id == turn)?;
        let offline = Some(waiting[index].1);
        Some(QueuePlace { position: super::gate::count(index + 1), eta_s: None, offline })
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.away.waiting.lock().retain(|(id, _)| *id != self.turn);
    }
}
