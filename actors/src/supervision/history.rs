//! The restarts of one child that are kept to be shown.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::Serialize;

/// One time that a child went down.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RestartEntry {
    /// When it went down: microseconds since the Unix epoch. The edge turns this into RFC 3339 as `at`.
    pub at_us: i64,
    /// Why, in one line.
    pub reason: Arc<str>,
    /// How long until it was up again, waiting included, in ms. None while it is down, and for ever when it did
    /// not come back: the next entry is a start that failed, or the supervisor gave up.
    pub took_ms: Option<f64>,
    /// How long the restart was put off, in ms.
    pub backoff_ms: f64,
}

/// The last [`RestartHistory::CAPACITY`] entries, oldest first, and how many there were ever.
#[derive(Clone, Debug, Default)]
pub struct RestartHistory {
    entries: VecDeque<RestartEntry>,
    total: u64,
}

impl RestartHistory {
    /// How many entries are kept.
    pub const CAPACITY: usize = 100;

    /// Adds an entry; the oldest one makes room.
    pub fn push(&mut self, entry: RestartEntry) {
        if self.entries.len() == Self::CAPACITY {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
        self.total += 1;
    }

    /// The newest entry.
    pub fn last(&self) -> Option<&RestartEntry> {
        self.entries.back()
    }

    /// The newest entry, to complete it.
    pub fn last_mut(&mut self) -> Option<&mut RestartEntry> {
        self.entries.back_mut()
    }

    /// The kept entries, oldest first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &RestartEntry> {
        self.entries.iter()
    }

    /// How many entries are kept now.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing ever happened.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many entries were ever added, forgotten ones included.
    pub fn total(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;

    use super::*;

    fn entry(at_us: i64) -> RestartEntry {
        RestartEntry { at_us, reason: Arc::from("boom"), took_ms: Some(3.0), backoff_ms: 0.0 }
    }

    #[test]
    fn an_entry_on_the_wire_has_the_names_of_the_contract() {
        let json = serde_json::to_value(entry(5)).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"at_us": 5, "reason": "boom", "took_ms": 3.0, "backoff_ms": 0.0})
        );
    }

    proptest! {
        #[test]
        fn it_keeps_the_newest_hundred_and_counts_all(count in 0usize..350) {
            let mut history = RestartHistory::default();
            for n in 0..count {
                history.push(entry(n as i64));
            }
            let kept: Vec<_> = history.iter().map(|e| e.at_us).collect();
            let expected: Vec<_> = (count.saturating_sub(100)..count).map(|n| n as i64).collect();
            prop_assert_eq!(kept, expected);
            prop_assert_eq!(history.len(), count.min(100));
            prop_assert_eq!(history.total(), count as u64);
            prop_assert_eq!(history.is_empty(), count == 0);
        }
    }
}
