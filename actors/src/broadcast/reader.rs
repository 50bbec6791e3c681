//! A reader's bounded queue. Any number of hubs push into it, one task takes from it. Text that
//! waits behind other text of the same reply is joined to it, so a slow reader gets fewer, longer
//! pieces instead of falling behind. What it missed before it was attached is read from the record as it goes and comes
//! before the rest of its topic. What a reader can't get in the end is [`Lost`], never a silent gap.

use std::{
    collections::{HashSet, VecDeque},
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    frame::TokenFrames,
    replay::{NextPage, Page, Replay},
};
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
/// Bytes that may wait for one reader beside the largest event: a single one may be larger than that (a message with its
/// images, the end of a long answer), and who has only to take that one is not slow. Its bytes are shared by all readers.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// Events were dropped, so the reader must start over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// They came faster than it took them.
    #[error("events came faster than they were read")]
    TooSlow,
    /// What it had missed was deleted before it took it.
    #[error("missed events are not kept any more")]
    NotKept,
}

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
    /// What was missed before the reader was attached, at most once per topic. The items of such a topic wait behind it.
    replays: VecDeque<Replay>,
    lost: Option<Lost>,
    closed: bool,
}

impl State {
    fn is_done(&self) -> bool {
        self.closed || self.lost.is_some()
    }

    fn lose(&mut self, lost: Lost) {
        *self = Self { lost: Some(lost), closed: self.closed, ..Self::default() };
    }

    fn largest_event(&self) -> usize {
        let events = self.items.iter().filter(|item| matches!(item, Item::Ready(_)));
        events.map(Item::bytes).max().unwrap_or(0)
    }

    fn next_missed(&mut self) -> Option<Delivery> {
        let delivery = self.replays.front_mut()?.take();
        if self.replays.front().is_some_and(Replay::is_over) {
            self.replays.pop_front();
        }
        delivery
    }

    fn next_item(&mut self) -> Option<Item> {
        let item = if self.replays.is_empty() {
            self.items.pop_front()
        } else {
            let waits = |item: &Item| self.replays.iter().any(|r| r.topic() == item.topic());
            let free = self.items.iter().position(|item| !waits(item))?;
            self.items.remove(free)
        }?;
        self.bytes -= item.bytes();
        Some(item)
    }
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
        self.state.lock().is_done()
    }

    pub fn push(&self, delivery: Delivery) {
        self.push_item(Item::Ready(delivery));
    }

    pub fn push_token(&self, token: &TokenItem) {
        let mut state = self.state.lock();
        if state.is_done() {
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
        if state.is_done() {
            return;
        }
        state.bytes += item.bytes();
        state.items.push_back(item);
        Self::check(&mut state);
        drop(state);
        self.wake.notify_one();
    }

    fn check(state: &mut State) {
        let is_full = |s: &State| s.bytes > MAX_BYTES && s.bytes - s.largest_event() > MAX_BYTES;
        if state.items.len() > MAX_ITEMS || is_full(state) {
            state.lose(Lost::TooSlow);
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
        self.state.lock().replays.retain(|replay| replay.topic() != topic);
    }

    /// Puts what was missed of a topic before the rest of it.
    pub fn replay(&self, replay: Replay) {
        if !replay.is_over() {
            self.state.lock().replays.push_back(replay);
            self.wake.notify_one();
        }
    }

    /// The page that has to be read for the first replay.
    fn wants(&self) -> Option<NextPage> {
        self.state.lock().replays.front()?.wants()
    }

    /// A page was read.
    fn page(&self, asked: &NextPage, page: Page) {
        let mut state = self.state.lock();
        let wanted = state.replays.front_mut().filter(|r| r.wants().is_some_and(|w| w.is(asked)));
        // Nobody waits for it where the reader has left the topic meanwhile.
        if wanted.is_some_and(|replay| !page.is_some_and(|page| replay.extend(&page))) {
            state.lose(Lost::NotKept);
        }
    }

    /// Forgets text of a reply that a snapshot already holds.
    pub fn forget_text(&self, topic: &Topic, message: MessageId) {
        self.retain(|item| item.reply() != Some((topic, message)));
    }

    /// Forgets what a snapshot of a topic already holds: events, and text of the replies that end with one of them.
    /// Text of the others stands behind the snapshot now and carries its number.
    pub fn forget_through(&self, topic: &Topic, through: u64) {
        let mut state = self.state.lock();
        let held = |delivery: &Delivery| *delivery.topic == *topic && delivery.seq <= through;
        let ended: HashSet<TurnId> = state
            .items
            .iter()
            .filter_map(|item| match item {
                Item::Ready(delivery) if held(delivery) => match &delivery.kind {
                    DeliveryKind::Durable(event) => event.ends,
                    DeliveryKind::Token { .. } | DeliveryKind::QueueMoved => None,
                },
                Item::Ready(_) | Item::Token(_) | Item::Joined { .. } => None,
            })
            .collect();
        state.items.retain_mut(|item| match item {
            Item::Ready(delivery) => !held(delivery),
            Item::Token(TokenItem { frames, .. }) | Item::Joined { frames, .. }
                if frames.topic() == topic && ended.contains(&frames.turn_id()) =>
            {
                false
            }
            Item::Token(token) => {
                if token.frames.topic() == topic && token.seq < through {
                    token.seq = through;
                    token.frame = token.frames.encode(through, token.kind, token.offset, &token.text);
                }
                true
            }
            Item::Joined { frames, seq, .. } => {
                if frames.topic() == topic {
                    *seq = through.max(*seq);
                }
                true
            }
        });
        state.bytes = state.items.iter().map(Item::bytes).sum();
    }

    fn take(&self) -> Result<Option<Delivery>, Lost> {
        let mut state = self.state.lock();
        if let Some(lost) = state.lost {
            return Err(lost);
        }
        if let Some(missed) = state.next_missed() {
            return Ok(Some(missed));
        }
        let Some(item) = state.next_item() else { return Ok(None) };
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

/// A page on its way.
struct Loading {
    asked: NextPage,
    page: BoxFuture<'static, Page>,
}

/// A queue of events for one reader (a socket, an SSE response, a Rust stream). Dropping it detaches it everywhere.
pub struct Reader {
    queue: Arc<Queue>,
    /// Kept here, so that a reader that is only looked at now and then gets its page all the same. Never locked: only its
    /// owner reads.
    loading: Mutex<Option<Loading>>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("queue", &self.queue).finish_non_exhaustive()
    }
}

impl Reader {
    pub(crate) fn new() -> Self {
        Self { queue: Arc::new(Queue::default()), loading: Mutex::new(None) }
    }

    pub(crate) fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// The next event; waits for it. Cancel safe.
    ///
    /// # Errors
    /// [`Lost`], from then on always.
    pub async fn next(&mut self) -> Result<Delivery, Lost> {
        let (queue, loading) = (&*self.queue, self.loading.get_mut());
        loop {
            tokio::select! {
                biased;
                delivery = poll_fn(|cx| poll_next(queue, loading, cx)) => return delivery,
                () = queue.wake.notified() => {}
            }
        }
    }

    /// The next event if there is one.
    ///
    /// # Errors
    /// [`Lost`], from then on always.
    pub fn try_next(&mut self) -> Result<Option<Delivery>, Lost> {
        self.queue.take()
    }

    /// True while events that were missed are still to come.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        !self.queue.state.lock().replays.is_empty()
    }
}

/// Goes on with the page that is wanted, if one is, then looks for what is ready.
fn poll_next(
    queue: &Queue,
    loading: &mut Option<Loading>,
    cx: &mut Context<'_>,
) -> Poll<Result<Delivery, Lost>> {
    while let Some(asked) = queue.wants() {
        if !loading.as_ref().is_some_and(|l| l.asked.is(&asked)) {
            *loading = Some(Loading { page: asked.clone().read().boxed(), asked });
        }
        let Some(Poll::Ready(page)) = loading.as_mut().map(|l| l.page.poll_unpin(cx)) else { break };
        if let Some(Loading { asked, .. }) = loading.take() {
            queue.page(&asked, page);
        }
    }
    match queue.take() {
        Ok(Some(delivery)) => Poll::Ready(Ok(delivery)),
        Ok(None) => Poll::Pending,
        Err(lost) => Poll::Ready(Err(lost)),
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        *self.queue.state.lock() = State { closed: true, ..State::default() };
    }
}
