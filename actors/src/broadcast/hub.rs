//! The hub of one topic: its last durable events, its readers, the replies being written. Everything
//! that a reader must see in one order happens under the hub's lock; nothing waits inside it.
//!
//! Lock order: text of a reply, then hub, then a reader's queue.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    frame::{self, TokenFrames},
    live::LiveReply,
    reader::{Queue, TokenItem},
    replay::Recovery,
};
use crate::{
    domain::{
        event::{CommittedEvent, QueueMoved, Topic},
        ids::Epoch,
    },
    ports::chat_model::Piece,
};

/// Durable events kept for readers that come back.
pub(super) const KEEP_EVENTS: usize = 128;
/// Bytes of event data kept for readers that come back.
const KEEP_BYTES: usize = 64 * 1024;

#[derive(Debug, Default)]
struct State {
    /// Number of the last event; unknown until loaded or published.
    head: Option<u64>,
    recent: VecDeque<(u64, Arc<CommittedEvent>)>,
    recent_bytes: usize,
    readers: Vec<Arc<Queue>>,
    running: Vec<Arc<LiveReply>>,
}

impl State {
    fn drop_oldest(&mut self) {
        if let Some((_, old)) = self.recent.pop_front() {
            self.recent_bytes -= old.data.len();
        }
    }
}

/// Where a reader stands that was just attached.
#[derive(Debug)]
pub(crate) struct Attached {
    /// Number of the last event before those in its queue.
    pub seq: u64,
    /// How it gets what it missed before them.
    pub recovery: Recovery,
    /// Replies being written.
    pub running: Vec<Arc<LiveReply>>,
}

/// The hub of one topic.
#[derive(Debug)]
pub(crate) struct Hub {
    topic: Arc<Topic>,
    epoch: Epoch,
    state: Mutex<State>,
    /// Rings when the head moves.
    moved: Notify,
}

impl Hub {
    pub fn new(topic: Topic, epoch: Epoch) -> Self {
        Self { topic: Arc::new(topic), epoch, state: Mutex::default(), moved: Notify::new() }
    }

    pub fn topic(&self) -> &Arc<Topic> {
        &self.topic
    }

    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub fn head(&self) -> Option<u64> {
        self.state.lock().head
    }

    /// Sets the head from storage, unless something was published meanwhile.
    pub fn init_head(&self, head: u64) {
        self.state.lock().head.get_or_insert(head);
    }

    /// True where dropping the hub loses nothing but the buffer for readers that come back.
    pub fn is_quiet(&self) -> bool {
        let mut state = self.state.lock();
        state.readers.retain(|r| !r.is_done());
        state.readers.is_empty() && state.running.is_empty()
    }

    pub fn readers(&self) -> usize {
        self.state.lock().readers.len()
    }

    /// A committed event. Events at or below the head are repetitions and left out.
    pub fn publish(&self, seq: u64, event: &Arc<CommittedEvent>) {
        let mut state = self.state.lock();
        if state.head.is_some_and(|head| seq <= head) {
            return;
        }
        if state.head.is_some_and(|head| seq != head + 1) {
            state.recent.clear();
            state.recent_bytes = 0;
        }
        state.head = Some(seq);
        state.recent.push_back((seq, event.clone()));
        state.recent_bytes += event.data.len();
        while state.recent.len() > KEEP_EVENTS || (state.recent_bytes > KEEP_BYTES && state.recent.len() > 1)
        {
            state.drop_oldest();
        }
        if let Some(turn) = event.ends {
            state.running.retain(|live| live.turn_id() != turn);
        }
        if !state.readers.is_empty() {
            let delivery = frame::durable(&self.topic, self.epoch, seq, event);
            state.readers.retain(|r| !r.is_done());
            for reader in &state.readers {
                reader.push(delivery.clone());
            }
        }
        drop(state);
        self.moved.notify_waiters();
    }

    /// Waits until the event `seq` was published. Between its commit and that there is a moment in which the record is
    /// ahead of the hub.
    pub async fn published(&self, seq: u64) {
        loop {
            let moved = self.moved.notified();
            if self.head().is_some_and(|head| head >= seq) {
                return;
            }
            moved.await;
        }
    }

    /// All hubs together keep too much: events up to this one are left to the record.
    pub fn let_go(&self, seq: u64) {
        let mut state = self.state.lock();
        while state.recent.front().is_some_and(|(oldest, _)| *oldest <= seq) {
            state.drop_oldest();
        }
        if state.recent.is_empty() {
            state.recent = VecDeque::new();
        }
    }

    /// Texts were deleted: what readers come back to is read from the record, where they are gone.
    pub fn forget_recent(&self) {
        let mut state = self.state.lock();
        state.recent = VecDeque::new();
        state.recent_bytes = 0;
    }

    /// A reply begins.
    pub fn begin(&self, live: &Arc<LiveReply>) {
        self.state.lock().running.push(live.clone());
    }

    /// A reply is over without an event (its turn could not be stored at all).
    pub fn forget(&self, live: &Arc<LiveReply>) {
        self.state.lock().running.retain(|l| !Arc::ptr_eq(l, live));
    }

    /// Text of a reply. Called under the lock of that text.
    pub fn publish_text(&self, frames: &Arc<TokenFrames>, piece: &Piece, offset: usize) {
        let mut state = self.state.lock();
        if state.readers.is_empty() {
            return;
        }
        let seq = state.head.unwrap_or(0);
        let token = TokenItem {
            frames: frames.clone(),
            seq,
            kind: piece.kind,
            offset,
            text: piece.text.as_str().into(),
            frame: frames.encode(seq, piece.kind, offset, &piece.text),
        };
        let mut gone = false;
        for reader in &state.readers {
            reader.push_token(&token);
            gone |= reader.is_done();
        }
        if gone {
            state.readers.retain(|r| !r.is_done());
        }
    }

    /// A new place in the line.
    pub fn publish_moved(&self, moved: &QueueMoved) {
        let state = self.state.lock();
        if !state.readers.is_empty() {
            let delivery = frame::queue_moved(&self.topic, self.epoch, state.head.unwrap_or(0), moved);
            for reader in &state.readers {
                reader.push(delivery.clone());
            }
        }
    }

    /// Attaches a reader: from here on everything goes into its queue. With a cursor that the buffer reaches back to,
    /// the missed events are put there before anything newer.
    pub fn attach(&self, reader: &Arc<Queue>, after: Option<u64>) -> Attached {
        let mut state = self.state.lock();
        state.readers.retain(|r| !r.is_done() && !Arc::ptr_eq(r, reader));
        reader.forget_topic(&self.topic);
        let head = state.head.unwrap_or(0);
        let oldest = state.recent.front().map_or(head, |(seq, _)| seq - 1);
        let recovery = Recovery::of(after, oldest, head);
        let seq = match after {
            Some(seq) if recovery == Recovery::Buffer => {
                for (n, event) in state.recent.iter().filter(|(n, _)| *n > seq) {
                    reader.push(frame::durable(&self.topic, self.epoch, *n, event));
                }
                seq
            }
            _ => head,
        };
        state.readers.push(reader.clone());
        Attached { seq, recovery, running: state.running.clone() }
    }

    /// Detaches a reader and forgets what waits for it from here.
    pub fn detach(&self, reader: &Arc<Queue>) {
        let mut state = self.state.lock();
        state.readers.retain(|r| !Arc::ptr_eq(r, reader));
        reader.forget_topic(&self.topic);
    }
}
