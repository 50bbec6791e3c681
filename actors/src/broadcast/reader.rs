//! A reader's bounded queue. Any number of hubs push into it, one task takes from it. Text that
//! waits behind other text of the same reply is joined to it, so a slow reader gets fewer, longer
//! pieces instead of falling behind; what a reader can't take in the end is an [`Overflow`], never a
//! silent gap.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::frame::TokenFrames;
use crate::{
    domain::{
        event::{CommittedEvent, Topic},
        ids::{Epoch, MessageId, TurnId},
    },
    ports::chat_model::PieceKind,
};

/// What stands at the head of every frame, before the members of the envelope.
pub const FRAME_PREFIX: &str = "{\"type\":\"event\",";
/// Events that may wait for one reader.
const MAX_ITEMS: usize = 4096;
/// Bytes that may wait for one reader.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// The reader was too slow: events were dropped, so it must start over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the reader was too slow")]
pub struct Overflow;

/// What kind of event it is.
#[derive(Debug, Clone)]
pub enum DeliveryKind {
    /// A durable one.
    Durable(Arc<CommittedEvent>),
    /// A piece of text (perhaps several, joined).
    Token {
        /// Which turn.
        turn_id: TurnId,
        /// Which reply.
        message_id: MessageId,
        /// Content or thinking.
        kind: PieceKind,
        /// Bytes of this kind up to the end of the piece.
        end: usize,
    },
    /// A new place in the line.
    QueueMoved,
}

/// One event for one reader.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Topic.
    pub topic: Arc<Topic>,
    /// Numbering.
    pub epoch: Epoch,
    /// Its number, or that of the last durable event before it.
    pub seq: u64,
    /// Wire name.
    pub name: Arc<str>,
    /// What it is.
    pub kind: DeliveryKind,
    /// The event as a socket frame: [`FRAME_PREFIX`], then the members of the envelope, `}`. Shared by all readers.
    pub frame: Bytes,
}

impl Delivery {
    /// The envelope alone, in two parts, as SSE sends it.
    #[must_use]
    pub fn envelope(&self) -> (&'static str, Bytes) {
        ("{", self.frame.slice(FRAME_PREFIX.len()..))
    }
}

/// A piece of text on its way to readers: encoded once, shared.
#[derive(Debug, Clone)]
pub(crate) struct TokenItem {
    pub frames: Arc<TokenFrames>,
    pub seq: u64,
    pub kind: PieceKind,
    pub offset: usize,
    pub text: Arc<str>,
    pub frame: Bytes,
}

#[derive(Debug)]
enum Item {
    Ready(Delivery),
    Token(TokenItem),
    /// Pieces that waited, joined; encoded when taken.
    Joined {
        frames: Arc<TokenFrames>,
        seq: u64,
        kind: PieceKind,
        offset: usize,
        text: String,
    },
}

impl Item {
    fn bytes(&self) -> usize {
        match self {
            Self::Ready(delivery) => delivery.frame.len(),
            Self::Token(token) => token.text.len(),
            Self::Joined { text, .. } => text.len(),
        }
    }

    fn topic(&self) -> &Topic {
        match self {
            Self::Ready(delivery) => &delivery.topic,
            Self::Token(token) => token.frames.topic(),
            Self::Joined { frames, .. } => frames.topic(),
        }
    }

    /// The topic and reply that it is text of.
    fn reply(&self) -> Option<(&Topic, MessageId)> {
        match self {
            Self::Ready(_) => None,
            Self::Token(TokenItem { frames, .. }) | Self::Joined { frames, .. } => {
                Some((frames.topic(), frames.message_id()))
            }
        }
    }
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<Item>,
    bytes: usize,
    overflow: bool,
    closed: bool,
}

/// The shared half that hubs push into.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    wake: Notify,
}

impl Queue {
    /// True once the reader is gone or lost: the hub forgets it.
    pub fn is_done(&self) -> bool {
        let state = self.state.lock();
        state.closed || state.overflow
    }

    pub fn push(&self, delivery: Delivery) {
        self.push_item(Item::Ready(delivery));
    }

    pub fn push_token(&self, token: &TokenItem) {
        let mut state = self.state.lock();
        if state.closed || state.overflow {
            return;
        }
        let joins = |frames: &Arc<TokenFrames>, kind, end| {
            Arc::ptr_eq(frames, &token.frames) && kind == token.kind && end == token.offset
        };
        match state.items.back_mut() {
            Some(Item::Joined { frames, kind, offset, text, seq })
                if joins(frames, *kind, *offset + text.len()) =>
            {
                text.push_str(&token.text);
                *seq = token.seq;
            }
            Some(last @ Item::Token(_)) => {
                let Item::Token(before) = &*last else { return };
                if joins(&before.frames, before.kind, before.offset + before.text.len()) {
                    let mut text = String::with_capacity((before.text.len() + token.text.len()) * 4);
                    text.push_str(&before.text);
                    text.push_str(&token.text);
                    let (frames, kind, offset) = (before.frames.clone(), before.kind, before.offset);
                    *last = Item::Joined { frames, seq: token.seq, kind, offset, text };
                } else {
                    state.items.push_back(Item::Token(token.clone()));
                }
            }
            _ => state.items.push_back(Item::Token(token.clone())),
        }
        state.bytes += token.text.len();
        Self::check(&mut state);
        drop(state);
        self.wake.notify_one();
    }

    fn push_item(&self, item: Item) {
        let mut state = self.state.lock();
        if state.closed || state.overflow {
            return;
        }
        state.bytes += item.bytes();
        state.items.push_back(item);
        Self::check(&mut state);
        drop(state);
        self.wake.notify_one();
    }

    fn check(state: &mut State) {
        if state.items.len() > MAX_ITEMS || state.bytes > MAX_BYTES {
            state.overflow = true;
            state.items = VecDeque::new();
            state.bytes = 0;
        }
    }

    fn retain(&self, keep: impl Fn(&Item) -> bool) {
        let mut state = self.state.lock();
        state.items.retain(keep);
        state.bytes = state.items.iter().map(Item::bytes).sum();
    }

    /// Forgets what waits of a topic.
    pub fn forget_topic(&self, topic: &Topic) {
        self.retain(|item| item.topic() != topic);
    }

    /// Forgets text of a reply that a snapshot already holds.
    pub fn forget_text(&self, topic: &Topic, message: MessageId) {
        self.retain(|item| item.reply() != Some((topic, message)));
    }

    /// Forgets durable events of a topic that a snapshot already holds.
    pub fn forget_through(&self, topic: &Topic, seq: u64) {
        self.retain(|item| match item {
            Item::Ready(delivery) => {
                *delivery.topic != *topic
                    || delivery.seq > seq
                    || !matches!(delivery.kind, DeliveryKind::Durable(_))
            }
            Item::Token(_) | Item::Joined { .. } => true,
        });
    }

    fn take(&self) -> Result<Option<Delivery>, Overflow> {
        let mut state = self.state.lock();
        if state.overflow {
            return Err(Overflow);
        }
        let Some(item) = state.items.pop_front() else { return Ok(None) };
        state.bytes -= item.bytes();
        drop(state);
        Ok(Some(match item {
            Item::Ready(delivery) => delivery,
            Item::Token(token) => {
                let end = token.offset + token.text.len();
                token.frames.delivery(token.seq, token.kind, end, token.frame)
            }
            Item::Joined { frames, seq, kind, offset, text } => {
                let frame = frames.encode(seq, kind, offset, &text);
                frames.delivery(seq, kind, offset + text.len(), frame)
            }
        }))
    }
}

/// A queue of events for one reader (a socket, an SSE response, a Rust stream). Dropping it detaches it everywhere.
#[derive(Debug)]
pub struct Reader {
    queue: Arc<Queue>,
}

impl Reader {
    pub(crate) fn new() -> Self {
        Self { queue: Arc::new(Queue::default()) }
    }

    pub(crate) fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// The next event; waits for it. Cancel safe.
    ///
    /// # Errors
    /// [`Overflow`], from then on always.
    pub async fn next(&mut self) -> Result<Delivery, Overflow> {
        loop {
            if let Some(delivery) = self.queue.take()? {
                return Ok(delivery);
            }
            self.queue.wake.notified().await;
        }
    }

    /// The next event if there is one.
    ///
    /// # Errors
    /// [`Overflow`], from then on always.
    pub fn try_next(&mut self) -> Result<Option<Delivery>, Overflow> {
        self.queue.take()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.queue.state.lock();
        state.closed = true;
        state.items = VecDeque::new();
    }
}
