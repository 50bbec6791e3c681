//! How much the hubs together may keep for readers that come back: the newest events of all topics, up to a number of bytes.
//! Each hub has a bound of its own, but there may be thousands of them. What is let go is still in the record. Pure.

use std::{collections::VecDeque, mem::size_of, sync::Arc};

use crate::domain::event::{CommittedEvent, Topic};

/// Memory that the events kept by all hubs may take.
pub(super) const KEEP_ALL_BYTES: usize = 4 << 20;

/// The events kept by any hub, oldest first.
#[derive(Debug, Default)]
pub(super) struct Recent {
    events: VecDeque<Arc<CommittedEvent>>,
    bytes: usize,
}

impl Recent {
    /// Takes in the newest; answers with those that have no room any more.
    pub fn push(&mut self, event: Arc<CommittedEvent>) -> Vec<Arc<CommittedEvent>> {
        self.bytes += weight(&event);
        self.events.push_back(event);
        let mut over = vec![];
        while self.bytes > KEEP_ALL_BYTES
            && let Some(oldest) = self.events.pop_front()
        {
            self.bytes -= weight(&oldest);
            over.push(oldest);
        }
        over
    }
}

/// Memory that an event takes, with its place in the hubs of its topics.
pub(super) fn weight(event: &CommittedEvent) -> usize {
    let place = size_of::<(Topic, u64)>() + size_of::<(u64, Arc<CommittedEvent>)>();
    size_of::<CommittedEvent>() + event.name.len() + event.data.len() + event.seqs.len() * place
}
