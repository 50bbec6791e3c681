//! What a reader missed before it was attached: read from the record in pages, as the reader takes it.
//!
//! A reader that comes back is attached first, so everything newer than the head of that moment waits in its queue; what
//! it missed up to there is a fixed span of committed events. Pages are pulled, never pushed: a thousand readers that
//! come back at once cost a page each, and [`READS`] connections of the database together.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use super::{frame, hub::Hub, reader::Delivery};
use crate::{
    domain::{
        event::{CommittedEvent, Topic},
        ids::Epoch,
    },
    ports::history_store::{HistoryStore, Span, StoreError},
};

/// Events of one page.
pub(super) const PAGE_EVENTS: u32 = 128;
/// Bytes of event data after which a page ends.
const PAGE_BYTES: usize = 64 * 1024;
/// Pages that are read at the same time, so that readers that come back leave room for everybody else.
const READS: usize = 2;
/// Pause before a page is tried again that the database could not give.
const AGAIN: Duration = Duration::from_millis(500);

/// How a reader that comes back gets what it missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recovery {
    /// Not at all, or it did not ask: it needs the state instead.
    Snapshot,
    /// The buffer of the hub reaches back far enough.
    Buffer,
    /// From the record, if that still has all of it.
    Record(Span),
}

impl Recovery {
    /// What a hub can do whose buffer holds the events above `oldest` up to `head`.
    pub fn of(after: Option<u64>, oldest: u64, head: u64) -> Self {
        match after {
            Some(after) if after > head => Self::Snapshot,
            Some(after) if after >= oldest => Self::Buffer,
            Some(after) => Self::Record(Span { after, through: head }),
            None => Self::Snapshot,
        }
    }
}

/// The record, as readers that come back read it.
#[derive(Clone)]
pub(crate) struct Record {
    store: Arc<dyn HistoryStore>,
    reads: Arc<Semaphore>,
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Record").finish_non_exhaustive()
    }
}

impl Record {
    pub fn new(store: Arc<dyn HistoryStore>) -> Self {
        Self { store, reads: Arc::new(Semaphore::new(READS)) }
    }

    /// Begins a replay with its first page; none where the span is not kept as a whole.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]. What can't be read can't be replayed: that is none.
    pub async fn replay(&self, hub: &Hub, span: Span) -> Result<Option<Replay>, StoreError> {
        let Some(page) = self.page(hub.topic(), span).await? else { return Ok(None) };
        let (topic, epoch) = (hub.topic().clone(), hub.epoch());
        let mut replay = Replay { record: self.clone(), topic, epoch, span, ready: VecDeque::new() };
        Ok(replay.extend(page).then_some(replay))
    }

    async fn page(&self, topic: &Topic, span: Span) -> Result<Option<Vec<CommittedEvent>>, StoreError> {
        // Never closed.
        let _turn = self.reads.acquire().await.ok();
        match self.store.topic_events(topic, span, PAGE_EVENTS, PAGE_BYTES).await {
            Err(StoreError::Corrupt(reason)) => {
                tracing::error!(%topic, %reason, "stored events can't be read; their readers get the state instead");
                Ok(None)
            }
            page => page,
        }
    }
}

/// A page that is asked for.
#[derive(Debug, Clone)]
pub(super) struct NextPage {
    record: Record,
    topic: Arc<Topic>,
    span: Span,
}

impl NextPage {
    /// The same page.
    pub fn is(&self, other: &Self) -> bool {
        self.span == other.span && self.topic == other.topic
    }

    /// Reads it, however long the database is away: the reader takes the events of its other topics meanwhile.
    pub async fn read(self) -> Option<Vec<CommittedEvent>> {
        loop {
            match self.record.page(&self.topic, self.span).await {
                Ok(page) => return page,
                Err(error) => tracing::debug!(%error, topic = %self.topic, "a replay waits for the database"),
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Missed events of one topic on their way to one reader.
#[derive(Debug)]
pub(crate) struct Replay {
    record: Record,
    topic: Arc<Topic>,
    epoch: Epoch,
    /// What is neither given out nor ready.
    span: Span,
    ready: VecDeque<(u64, Arc<CommittedEvent>)>,
}

impl Replay {
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// True once everything was given out.
    pub fn is_over(&self) -> bool {
        self.ready.is_empty() && self.span.is_empty()
    }

    /// The next event, if one is ready.
    pub fn take(&mut self) -> Option<Delivery> {
        let (seq, event) = self.ready.pop_front()?;
        Some(frame::durable(&self.topic, self.epoch, seq, &event))
    }

    /// The page that has to be read before there is a next event.
    pub(super) fn wants(&self) -> Option<NextPage> {
        (self.ready.is_empty() && !self.span.is_empty()).then(|| {
            // Where the replay began, the whole span was there. From then on each page answers for itself.
            let through = self.span.through.min(self.span.after + u64::from(PAGE_EVENTS));
            let span = Span { through, ..self.span };
            NextPage { record: self.record.clone(), topic: self.topic.clone(), span }
        })
    }

    /// Takes a page in; false where it does not continue the numbers.
    pub fn extend(&mut self, page: Vec<CommittedEvent>) -> bool {
        let before = self.span.after;
        for event in page {
            let seq = event.seqs.iter().find(|(topic, _)| *topic == *self.topic).map(|(_, seq)| *seq);
            if seq != Some(self.span.after + 1) || self.span.is_empty() {
                return false;
            }
            self.span.after += 1;
            self.ready.push_back((self.span.after, Arc::new(event)));
        }
        self.span.after > before || self.span.is_empty()
    }
}
