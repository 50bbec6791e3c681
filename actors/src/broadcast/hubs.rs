//! The directory of topics. Shared by the actors, owned by none: it outlives each of them, so a crash
//! of an actor loses no reader and no text. BroadcastActor looks after it.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::{hub::Hub, live::LiveReply, recent::Recent};
use crate::domain::{
    event::{CommittedEvent, QueueMoved, Topic, TurnEnd},
    ids::{BotId, ConversationId, Epoch, MessageId, TurnId},
};

/// Hubs of ended turns that are kept for readers that come late.
const KEEP_ENDED_TURNS: usize = 512;
/// Hubs above which quiet ones are dropped.
const MAX_HUBS: usize = 8192;

/// Where a waiting send learns of the end of its turn.
pub(crate) type EndReceiver = watch::Receiver<Option<Arc<TurnEnd>>>;

/// All hubs, all replies being written, all waiters for the end of a turn.
#[derive(Debug)]
pub(crate) struct Hubs {
    epoch: Epoch,
    hubs: RwLock<HashMap<Topic, Arc<Hub>>>,
    recent: Mutex<Recent>,
    ended: Mutex<VecDeque<TurnId>>,
    live: RwLock<HashMap<TurnId, Arc<LiveReply>>>,
    waiters: Mutex<HashMap<TurnId, watch::Sender<Option<Arc<TurnEnd>>>>>,
    published: AtomicU64,
}

impl Hubs {
    pub fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            hubs: RwLock::default(),
            recent: Mutex::default(),
            ended: Mutex::default(),
            live: RwLock::default(),
            waiters: Mutex::default(),
            published: AtomicU64::new(0),
        }
    }

    /// Events published since the start.
    pub fn published(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }

    /// The hub of a topic, made if there is none.
    pub fn hub(&self, topic: &Topic) -> Arc<Hub> {
        if let Some(hub) = self.hubs.read().get(topic) {
            return hub.clone();
        }
        let mut hubs = self.hubs.write();
        if hubs.len() >= MAX_HUBS {
            hubs.retain(|_, hub| Arc::strong_count(hub) > 1 || !hub.is_quiet());
        }
        hubs.entry(topic.clone()).or_insert_with(|| Arc::new(Hub::new(topic.clone(), self.epoch))).clone()
    }

    fn existing(&self, topic: &Topic) -> Option<Arc<Hub>> {
        self.hubs.read().get(topic).cloned()
    }

    /// Committed events, in the order of their commit. The end of a turn also ends its live reply.
    pub fn publish(&self, events: Vec<CommittedEvent>) {
        for event in events {
            let event = Arc::new(event);
            for (topic, seq) in &event.seqs {
                self.hub(topic).publish(*seq, &event);
            }
            self.keep(&event);
            self.published.fetch_add(1, Ordering::Relaxed);
            if let Some(turn) = event.ends {
                self.live.write().remove(&turn);
                let mut ended = self.ended.lock();
                ended.push_back(turn);
                if ended.len() > KEEP_ENDED_TURNS
                    && let Some(old) = ended.pop_front()
                {
                    self.hubs.write().remove(&Topic::Turn(old));
                }
            }
        }
    }

    /// Keeps it for readers that come back, and lets the oldest go where all hubs together keep too much.
    fn keep(&self, event: &Arc<CommittedEvent>) {
        let over = self.recent.lock().push(event.clone());
        for (topic, seq) in over.iter().flat_map(|old| &old.seqs) {
            if let Some(hub) = self.existing(topic) {
                hub.let_go(*seq);
            }
        }
    }

    /// Messages were deleted, so no buffer may hold them any longer. Events share topics: all buffers go.
    pub fn forget_recent(&self) {
        *self.recent.lock() = Recent::default();
        for hub in self.hubs.read().values() {
            hub.forget_recent();
        }
    }

    /// A place in the line, on the turn's and its conversation's topics.
    pub fn publish_moved(&self, conversation: ConversationId, moved: &QueueMoved) {
        for topic in [Topic::Conversation(conversation), Topic::Turn(moved.turn_id)] {
            if let Some(hub) = self.existing(&topic) {
                hub.publish_moved(moved);
            }
        }
    }

    /// A reply begins.
    pub fn begin_reply(
        &self,
        bot: BotId,
        turn: TurnId,
        message: MessageId,
        conversation: ConversationId,
    ) -> Arc<LiveReply> {
        let hubs = [self.hub(&Topic::Conversation(conversation)), self.hub(&Topic::Turn(turn))];
        let live = Arc::new(LiveReply::new(bot, turn, message, hubs));
        for hub in live.hubs() {
            hub.begin(&live);
        }
        self.live.write().insert(turn, live.clone());
        live
    }

    /// The reply of a running turn.
    pub fn live(&self, turn: TurnId) -> Option<Arc<LiveReply>> {
        self.live.read().get(&turn).cloned()
    }

    /// All replies being written.
    pub fn all_live(&self) -> Vec<Arc<LiveReply>> {
        self.live.read().values().cloned().collect()
    }

    /// A reply whose turn turned out to be gone from storage.
    pub fn forget_reply(&self, turn: TurnId) {
        if let Some(live) = self.live.write().remove(&turn) {
            for hub in live.hubs() {
                hub.forget(&live);
            }
        }
    }

    /// Replies of a bot that nobody writes, but for those of the `open` turns: what an actor began and did not live to
    /// store.
    pub fn forget_replies(&self, bot: &BotId, open: &[TurnId]) {
        for live in self.all_live() {
            if live.bot_id() == bot && !open.contains(&live.turn_id()) {
                self.forget_reply(live.turn_id());
            }
        }
    }

    /// Learn of the end of a turn; ask before the turn exists.
    pub fn watch_end(&self, turn: TurnId) -> EndReceiver {
        self.waiters.lock().entry(turn).or_insert_with(|| watch::channel(None).0).subscribe()
    }

    /// Learn of it no more. Others who wait for the same end still do.
    pub fn unwatch_end(&self, turn: TurnId, end: EndReceiver) {
        let mut waiters = self.waiters.lock();
        drop(end);
        if waiters.get(&turn).is_some_and(|waiter| waiter.receiver_count() == 0) {
            waiters.remove(&turn);
        }
    }

    /// Nobody will tell the end of this turn: it was never accepted.
    pub fn forget_end(&self, turn: TurnId) {
        self.waiters.lock().remove(&turn);
    }

    /// Whoever still waits for an end learns that nobody will tell it.
    pub fn drop_waiters(&self) {
        self.waiters.lock().clear();
    }

    /// A topic that turned out not to exist.
    pub fn forget_topic(&self, topic: &Topic) {
        let mut hubs = self.hubs.write();
        if hubs.get(topic).is_some_and(|hub| hub.is_quiet()) {
            hubs.remove(topic);
        }
    }

    /// Tells the end of a turn to whoever waits for it.
    pub fn tell_end(&self, end: TurnEnd) {
        let waiter = self.waiters.lock().remove(&end.turn.id);
        if let Some(waiter) = waiter {
            waiter.send_replace(Some(Arc::new(end)));
        }
    }

    /// `(topics, readers)` for observation.
    pub fn sizes(&self) -> (usize, usize) {
        let hubs = self.hubs.read();
        (hubs.len(), hubs.values().map(|h| h.readers()).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_an_end_no_more_takes_it_from_nobody_else() {
        let (hubs, turn) = (Hubs::new(Epoch::new()), TurnId::new());
        let (first, second) = (hubs.watch_end(turn), hubs.watch_end(turn));
        hubs.unwatch_end(turn, second);
        assert!(first.has_changed().is_ok(), "the other one is still to be told");
        hubs.unwatch_end(turn, first);
        assert!(hubs.waiters.lock().is_empty());
    }
}
