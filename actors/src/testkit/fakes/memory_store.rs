//! [`HistoryStore`] and [`StateStore`] in memory, written for plainness: it is also the model that
//! the adapters are compared with. Faults are injected by [`MemoryStore::fail_next`] and friends.

mod archive;
mod record;
mod search;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use self::record::Record;
use crate::{
    domain::{
        bot::{AuditEntry, BotRecord, StoredStatus},
        event::{CommittedEvent, Topic},
        idempotency::{IdempotencyKey, SentBefore},
        ids::{BotId, ConversationId, Epoch, MessageId, TurnId},
        message::{Conversation, Message},
        model::ServerRecord,
        turn::Turn,
    },
    ports::{
        history_store::{
            Change, Committed, ConversationSnapshot, Cursor, Fact, HistoryStore, MessagePage, PATH_BYTES,
            Span, StoreError, TurnSnapshot,
        },
        retention::{Held, Prune, Pruned, RetentionStore},
        state_store::StateStore,
    },
};

/// A store in memory. Clones share the record, as two actors on one database do.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

struct Shared {
    epoch: Epoch,
    record: Mutex<Record>,
    faults: Mutex<Faults>,
    /// Commits that wait for [`MemoryStore::resume`].
    gate: watch::Sender<Gate>,
    outage: watch::Sender<Option<Outage>>,
    /// Messages that a search waits for.
    unindexed: watch::Sender<u64>,
}

/// How the whole store is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outage {
    /// Every call answers `Unavailable` at once.
    Refusing,
    /// No call is answered until it is over.
    Silent,
    /// Every call takes so much longer.
    Slow(Duration),
}

/// Whether a fact is one that the store refuses.
type Refuses = Box<dyn Fn(&Fact) -> bool + Send>;

#[derive(Default)]
struct Faults {
    fail: u32,
    lose_answer: u32,
    refuses: Option<Refuses>,
    held_look: Option<oneshot::Receiver<()>>,
}

#[derive(Default, Clone, Copy)]
struct Gate {
    closed: bool,
    waiting: usize,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        let gate = watch::Sender::new(Gate::default());
        let (record, faults) = (Mutex::default(), Mutex::default());
        let outage = watch::Sender::new(None);
        let (epoch, unindexed) = (Epoch::new(), watch::Sender::new(0));
        Self { shared: Arc::new(Shared { epoch, record, faults, gate, outage, unindexed }) }
    }

    /// The next `n` commits answer `Unavailable`, and probes until then; nothing of them is stored.
    pub fn fail_next(&self, n: u32) {
        self.shared.faults.lock().fail = n;
    }

    /// The next `n` commits with a new turn are stored, and still answer `Unavailable`.
    pub fn lose_next_answers(&self, n: u32) {
        self.shared.faults.lock().lose_answer = n;
    }

    /// From now on every call meets this, until [`Self::come_back`].
    pub fn go_away(&self, outage: Outage) {
        self.shared.outage.send_replace(Some(outage));
    }

    /// The outage is over.
    pub fn come_back(&self) {
        self.shared.outage.send_replace(None);
    }

    /// The next look for open turns waits until the sender is dropped; others do not.
    #[must_use]
    pub fn hold_next_look(&self) -> oneshot::Sender<()> {
        let (held, look) = oneshot::channel();
        self.shared.faults.lock().held_look = Some(look);
        held
    }

    /// From now on the index of the search lacks so many messages; searches wait until it lacks none.
    pub fn leave_unindexed(&self, messages: u64) {
        self.shared.unindexed.send_replace(messages);
    }

    /// Passes where the store is there.
    async fn reach(&self) -> Result<(), StoreError> {
        let mut outage = self.shared.outage.subscribe();
        let now = *outage.borrow_and_update();
        match now {
            None => {}
            Some(Outage::Refusing) => return Err(StoreError::Unavailable("an outage".into())),
            Some(Outage::Slow(by)) => tokio::time::sleep(by).await,
            Some(Outage::Silent) => {
                // The sender lives as long as self does.
                outage.wait_for(|now| *now != Some(Outage::Silent)).await.ok();
            }
        }
        Ok(())
    }

    /// From now on a group that holds such a fact is refused as a whole, as a broken constraint does.
    pub fn refuse(&self, bad: impl Fn(&Fact) -> bool + Send + 'static) {
        self.shared.faults.lock().refuses = Some(Box::new(bad));
    }

    /// From now on commits wait for [`Self::resume`]; reads go on.
    pub fn pause(&self) {
        self.shared.gate.send_modify(|gate| gate.closed = true);
    }

    /// Lets the waiting commits through.
    pub fn resume(&self) {
        self.shared.gate.send_modify(|gate| gate.closed = false);
    }

    /// Returns once `n` commits wait at a paused store.
    pub async fn wait_for_waiting(&self, n: usize) {
        // The sender lives as long as self does.
        self.shared.gate.subscribe().wait_for(|gate| gate.waiting >= n).await.ok();
    }

    /// Every event, in order.
    #[must_use]
    pub fn events(&self) -> Vec<CommittedEvent> {
        self.shared.record.lock().events.clone()
    }

    /// The audit log, in order.
    #[must_use]
    pub fn audit(&self) -> Vec<AuditEntry> {
        self.shared.record.lock().audit.clone()
    }

    /// Groups committed so far.
    #[must_use]
    pub fn groups(&self) -> u64 {
        self.shared.record.lock().groups
    }

    async fn pass_gate(&self) {
        let mut gate = self.shared.gate.subscribe();
        if !gate.borrow_and_update().closed {
            return;
        }
        self.shared.gate.send_modify(|gate| gate.waiting += 1);
        let _leaving = Leaving(&self.shared.gate);
        // The sender lives as long as self does.
        gate.wait_for(|gate| !gate.closed).await.ok();
    }

    fn unavailable_now(&self) -> Result<(), StoreError> {
        let mut faults = self.shared.faults.lock();
        if faults.fail == 0 {
            return Ok(());
        }
        faults.fail -= 1;
        Err(StoreError::Unavailable("injected fault".into()))
    }

    fn refused(&self, facts: &[Fact]) -> Result<(), StoreError> {
        let faults = self.shared.faults.lock();
        match &faults.refuses {
            Some(bad) if facts.iter().any(bad) => Err(StoreError::Refused("injected fault".into())),
            _ => Ok(()),
        }
    }
}

/// Takes a commit out of the count, also when it is given up.
struct Leaving<'a>(&'a watch::Sender<Gate>);
impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|gate| gate.waiting -= 1);
    }
}

#[async_trait]
impl HistoryStore for MemoryStore {
    async fn commit(&self, facts: Vec<Fact>) -> Result<Vec<Committed>, StoreError> {
        self.reach().await?;
        self.pass_gate().await;
        self.unavailable_now()?;
        self.refused(&facts)?;
        let accepts = facts.iter().any(|fact| matches!(fact.change, Change::AcceptTurn { .. }));
        let committed = self.shared.record.lock().commit(facts);
        let mut faults = self.shared.faults.lock();
        if accepts && faults.lose_answer > 0 {
            faults.lose_answer -= 1;
            return Err(StoreError::Unavailable("injected fault after the commit".into()));
        }
        Ok(committed)
    }
    async fn epoch(&self) -> Result<Epoch, StoreError> {
        self.reach().await?;
        Ok(self.shared.epoch)
    }
    async fn head(&self, topic: &Topic) -> Result<u64, StoreError> {
        self.reach().await?;
        Ok(self.shared.record.lock().head(topic))
    }
    async fn events_after(&self, position: u64, limit: u32) -> Result<Vec<CommittedEvent>, StoreError> {
        self.reach().await?;
        let record = self.shared.record.lock();
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Ok(record.events.iter().filter(|e| e.position > position).take(limit).cloned().collect())
    }
    async fn topic_events(
        &self,
        topic: &Topic,
        span: Span,
        limit: u32,
        max_bytes: usize,
    ) -> Result<Option<Vec<CommittedEvent>>, StoreError> {
        Ok(self.shared.record.lock().topic_events(topic, span, limit, max_bytes))
    }
    async fn page(
        &self,
        conversation: ConversationId,
        cursor: Cursor,
        limit: u32,
    ) -> Result<Option<MessagePage>, StoreError> {
        self.reach().await?;
        Ok(self.shared.record.lock().page(conversation, cursor, limit))
    }
    async fn path(&self, leaf: MessageId, max_bytes: usize) -> Result<Vec<Message>, StoreError> {
        self.reach().await?;
        let (mut bytes, mut weight) = (0, 0);
        let mut path = self.shared.record.lock().path(Some(leaf));
        let kept = path.iter().position(|m| {
            bytes += m.text_bytes();
            weight += m.weight();
            bytes > max_bytes || weight > PATH_BYTES
        });
        path.truncate(kept.map_or(usize::MAX, |last| last + 1));
        Ok(path)
    }
    async fn messages_above(&self, above: MessageId) -> Result<u32, StoreError> {
        self.reach().await?;
        let path = self.shared.record.lock().path(Some(above));
        Ok(u32::try_from(path.len().saturating_sub(1)).unwrap_or(u32::MAX))
    }
    async fn message(&self, bot: &BotId, id: MessageId) -> Result<Option<Message>, StoreError> {
        self.reach().await?;
        Ok(self.shared.record.lock().message(id).filter(|m| m.bot_id == *bot))
    }
    async fn children(
        &self,
        conversation: ConversationId,
        parent: Option<MessageId>,
    ) -> Result<Vec<MessageId>, StoreError> {
        self.reach().await?;
        Ok(self.shared.record.lock().children(conversation, parent).into_iter().collect())
    }
    async fn newest_below(
        &self,
        conversation: ConversationId,
        id: MessageId,
    ) -> Result<Option<MessageId>, StoreError> {
        Ok(self.shared.record.lock().newest_below(conversation, id))
    }
    async fn conversations(&self, bot: &BotId) -> Result<Vec<Conversation>, StoreError> {
        self.reach().await?;
        Ok(self.shared.record.lock().conversations_of(bot))
    }
    async fn conversation(&self, id: ConversationId) -> Result<Option<Conversation>, StoreError> {
        self.reach().await?;
        Ok(self.shared.record.lock().conversation(id))
    }
    async fn conversation_snapshot(
        &self,
        id: ConversationId,
        limit: u32,
    ) -> Result<Option<ConversationSnapshot>, StoreError> {
        self.reach().await?;
        let record = self.shared.record.lock();
        let Some(conversation) = record.conversation(id) else { return Ok(None) };
        let page = record.page(id, Cursor::Newest { offset: 0 }, limit);
        let MessagePage { items: messages, has_more } = page.unwrap_or_default();
        let seq = record.head(&Topic::Conversation(id));
        Ok(Some(ConversationSnapshot { conversation, messages, has_more, seq }))
    }
    async fn turn_snapshot(&self, id: TurnId) -> Result<Option<TurnSnapshot>, StoreError> {
        self.reach().await?;
        let record = self.shared.record.lock();
        let Some(turn) = record.turns.get(&id).cloned() else { return Ok(None) };
        let reply = record.message(turn.reply_id);
        Ok(Some(TurnSnapshot { turn, reply, seq: record.head(&Topic::Turn(id)) }))
    }
    async fn turn_overrides(&self, id: TurnId) -> Result<Option<serde_json::Value>, StoreError> {
        self.reach().await?;
        Ok(self.shared.record.lock().overrides.get(&id).cloned())
    }
    async fn open_turns(&self, bot: Option<&BotId>) -> Result<Vec<(Turn, Message, Message)>, StoreError> {
        self.reach().await?;
        let held = self.shared.faults.lock().held_look.take();
        if let Some(held) = held {
            // Dropped: it goes on.
            held.await.ok();
        }
        Ok(self.shared.record.lock().open_turns(bot))
    }
    async fn sent_before(
        &self,
        user: &str,
        bot: &BotId,
        key: &IdempotencyKey,
    ) -> Result<Option<SentBefore>, StoreError> {
        Ok(self.shared.record.lock().sent_before(user, bot, key))
    }
    async fn probe(&self) -> Result<(), StoreError> {
        self.reach().await?;
        match self.shared.faults.lock().fail {
            0 => Ok(()),
            _ => Err(StoreError::Unavailable("injected fault".into())),
        }
    }
    fn quarantined_rows(&self) -> u64 {
        0
    }
}

#[async_trait]
impl StateStore for MemoryStore {
    async fn roster(&self) -> Result<Vec<(BotRecord, StoredStatus)>, StoreError> {
        self.reach().await?;
        let record = self.shared.record.lock();
        let mut bots: Vec<_> = record.bots.values().cloned().collect();
        bots.sort_by_key(|(bot, _)| bot.created_at);
        Ok(bots)
    }
    async fn servers(&self) -> Result<Vec<ServerRecord>, StoreError> {
        self.reach().await?;
        Ok(self.shared.record.lock().servers.clone())
    }
}

#[async_trait]
impl RetentionStore for MemoryStore {
    async fn prune(&self, what: Prune, limit: u32) -> Result<Pruned, StoreError> {
        self.pass_gate().await;
        self.unavailable_now()?;
        Ok(self.shared.record.lock().prune(what, limit))
    }
    async fn held(&self, bot: &BotId) -> Result<Vec<Held>, StoreError> {
        Ok(self.shared.record.lock().held(bot))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testkit::conformance::{
        Subject, archive_suite, history_store_suite, retention_store_suite, search_suite, state_store_suite,
    };

    struct InMemory(MemoryStore);
    impl Subject for InMemory {
        type Store = MemoryStore;
        async fn create() -> Self {
            Self(MemoryStore::new())
        }
        fn store(&self) -> &MemoryStore {
            &self.0
        }
        async fn reopen(self) -> Self {
            Self(self.0.clone())
        }
    }
    history_store_suite!(InMemory);
    state_store_suite!(InMemory);
    retention_store_suite!(InMemory);
    archive_suite!(InMemory);
    search_suite!(InMemory);

    fn nothing() -> Vec<Fact> {
        vec![Fact::new(Change::None, vec![])]
    }

    #[tokio::test]
    async fn failing_commits_store_nothing_and_then_it_works_again() {
        let store = MemoryStore::new();
        store.fail_next(2);
        assert!(store.commit(nothing()).await.is_err());
        assert!(store.commit(nothing()).await.is_err());
        assert_eq!(store.groups(), 0);
        store.commit(nothing()).await.unwrap();
        store.lose_next_answers(1);
        store.commit(nothing()).await.unwrap();
        use crate::testkit::conformance::samples;
        let (launch, home) = samples::launch(&BotId::numbered(1));
        store.commit(vec![launch]).await.unwrap();
        let (turn, question, reply) = samples::turn(&home, None, "q");
        assert!(store.commit(vec![samples::accept(&turn, &question, &reply)]).await.is_err());
        assert!(store.turn_snapshot(turn.id).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_paused_store_commits_when_it_is_resumed() {
        let store = MemoryStore::new();
        store.pause();
        let waiting = tokio::spawn({
            let store = store.clone();
            async move { store.commit(nothing()).await }
        });
        store.wait_for_waiting(1).await;
        assert_eq!(store.groups(), 0);
        assert_eq!(store.head(&Topic::Bots).await.unwrap(), 0, "reads go on");
        store.resume();
        waiting.await.unwrap().unwrap();
        assert_eq!(store.groups(), 1);
    }
}
