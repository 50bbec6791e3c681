//! What a reader missed before it was attached: read from the record in pages, as the reader takes it.
//!
//! A reader that comes back is attached first, so everything newer than the head of that moment waits in its queue; what
//! it missed up to there is a fixed span of committed events. Pages are pulled, never pushed: a thousand readers that
//! come back at once cost a page each, and [`READS`] connections of the database together. Those who ask for the same page
//! while it is read share it; nothing is kept after that, so nobody is given what was deleted meanwhile.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use parking_lot::Mutex;
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

/// Events of a page in order; none where they are not kept as a whole.
pub(super) type Page = Option<Arc<[Arc<CommittedEvent>]>>;

/// A page that is being read, for whoever wants it.
type Reading = Shared<BoxFuture<'static, Result<Page, StoreError>>>;

/// The record, as readers that come back read it.
#[derive(Clone)]
pub(crate) struct Record {
    store: Arc<dyn HistoryStore>,
    reads: Arc<Semaphore>,
    reading: Arc<Mutex<HashMap<(Topic, Span), WeakReading>>>,
}

type WeakReading = WeakShared<BoxFuture<'static, Result<Page, StoreError>>>;

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Record").finish_non_exhaustive()
    }
}

impl Record {
    pub fn new(store: Arc<dyn HistoryStore>) -> Self {
        Self { store, reads: Arc::new(Semaphore::new(READS)), reading: Arc::default() }
    }

    /// Begins a replay with its first page; none where the span is not kept as a whole.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]. What can't be read can't be replayed: that is none.
    pub async fn replay(&self, hub: &Hub, span: Span) -> Result<Option<Replay>, StoreError> {
        let (topic, epoch) = (hub.topic().clone(), hub.epoch());
        let Some(page) = self.page(&topic, span).await? else { return Ok(None) };
        let mut replay = Replay { record: self.clone(), topic, epoch, span, ready: VecDeque::new() };
        Ok(replay.extend(&page).then_some(replay))
    }

    async fn page(&self, topic: &Topic, span: Span) -> Result<Page, StoreError> {
        self.reading(topic, span).await
    }

    fn reading(&self, topic: &Topic, span: Span) -> Reading {
        let mut reading = self.reading.lock();
        let key = (topic.clone(), span);
        if let Some(page) = reading.get(&key).and_then(WeakShared::upgrade) {
            return page;
        }
        reading.retain(|_, page| page.upgrade().is_some());
        let page = read(self.store.clone(), self.reads.clone(), topic.clone(), span).boxed().shared();
        // It was not polled yet, so it is there.
        reading.extend(page.downgrade().map(|weak| (key, weak)));
        page
    }
}

async fn read(
    store: Arc<dyn HistoryStore>,
    reads: Arc<Semaphore>,
    topic: Topic,
    span: Span,
) -> Result<Page, StoreError> {
    // Never closed.
    let _turn = reads.acquire().await.ok();
    match store.topic_events(&topic, span, PAGE_EVENTS, PAGE_BYTES).await {
        Err(StoreError::Corrupt(reason)) => {
            tracing::error!(%topic, %reason, "stored events can't be read; their readers get the state instead");
            Ok(None)
        }
        page => page.map(|page| page.map(|events| events.into_iter().map(Arc::new).collect())),
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
    pub async fn read(self) -> Page {
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
    pub fn extend(&mut self, page: &[Arc<CommittedEvent>]) -> bool {
        let before = self.span.after;
        for event in page {
            let seq = event.seqs.iter().find(|(topic, _)| *topic == *self.topic).map(|(_, seq)| *seq);
            if seq != Some(self.span.after + 1) || self.span.is_empty() {
                return false;
            }
            self.span.after += 1;
            self.ready.push_back((self.span.after, event.clone()));
        }
        self.span.after > before || self.span.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{
        domain::event::{EventBody, NewEvent},
        ports::history_store::{Change, Fact},
        testkit::fakes::memory_store::MemoryStore,
    };

    #[tokio::test]
    async fn a_page_is_shared_by_those_who_ask_while_it_is_read_and_read_anew_after_that() {
        let store = MemoryStore::new();
        let body = EventBody::ActorRestarted { path: "x".into(), reason: String::new(), took_ms: 1.0 };
        let event = NewEvent::new(vec![Topic::Tree], &body);
        store.commit(vec![Fact::new(Change::None, vec![event])]).await.unwrap();
        let record = Record::new(Arc::new(store));
        let span = Span { after: 0, through: 1 };
        let ask = async || record.page(&Topic::Tree, span).await.unwrap().unwrap();
        // Both come while nothing can be read.
        let busy = record.reads.acquire_many(u32::try_from(READS).unwrap()).await.unwrap();
        let later = async {
            tokio::task::yield_now().await;
            drop(busy);
        };
        let (one, other, ()) = tokio::join!(ask(), ask(), later);
        assert!(Arc::ptr_eq(&one, &other));
        let later = ask().await;
        assert_eq!(later, one);
        assert!(!Arc::ptr_eq(&later, &one));
        drop((one, other, later));
        let beyond = Span { after: 0, through: 2 };
        assert_eq!(record.page(&Topic::Tree, beyond).await, Ok(None));
        assert!(record.reading.lock().len() <= 1, "what was read is not kept");
    }
}
