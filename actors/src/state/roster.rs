//! The roster: every bot with what is known of it, in memory. Reads take it as it is; StateActor adds
//! and removes; a bot's own actor and supervisor move its state. Each move is submitted to history under
//! the entry's lock, so the events of a bot come in the order of its moves.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use parking_lot::{Mutex, RwLock};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::{
    bot::BotMessage,
    domain::{
        bot::{Bot, BotRecord, BotState, BotStatus, BotStep, StoredStatus, TokenTotals},
        event::{BotChange, EventBody, NewEvent, Topic},
        ids::{BotId, TurnId},
        time::Timestamp,
    },
    supervision::{ActorSlot, Clock, RestartBudget, RestartRules},
};

/// Sends that may be on their way to one bot at once; the queues behind it are bounded on their own.
const ADMISSION: usize = 64;

/// What of a bot changes while it lives.
#[derive(Debug)]
struct Vital {
    state: BotState,
    started: Option<Instant>,
    last_message: Option<Timestamp>,
    error_count: u64,
    restart_count: u64,
    tokens: TokenTotals,
    active: Vec<TurnId>,
    waiting: u32,
    since: Timestamp,
    updated_at: Timestamp,
}

/// Tokens and outcome of one ended turn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TurnTally {
    pub turn: TurnId,
    pub failed: bool,
    pub prompt: u32,
    pub completion: u32,
}

/// One bot.
#[derive(Debug)]
pub(crate) struct BotEntry {
    record: RwLock<Arc<BotRecord>>,
    vital: Mutex<Vital>,
    /// Where its actor is, while there is one.
    pub actor: ActorSlot<BotMessage>,
    /// Its restart budget and history; outlives its actors and their supervisor.
    pub budget: Mutex<RestartBudget>,
    clock: Clock,
    /// Bounds the mailbox: a send holds a permit until it is answered.
    pub admission: Arc<Semaphore>,
    /// Held while turns without a task are ended or found again.
    pub recovering: tokio::sync::Mutex<()>,
    /// Set while the bot is being deleted: it is not started any more.
    pub deleting: AtomicBool,
    /// Held while a patch is stored.
    pub patching: tokio::sync::Mutex<()>,
    /// Written while an import puts another main conversation in the place of the bot's, until its record says so; read while a
    /// message is accepted. Whoever reads it does not wait for `patching`.
    pub moving: tokio::sync::RwLock<()>,
    /// Turn tasks of the current actor: its successor waits until all of them are gone.
    pub turns: Mutex<TaskTracker>,
}

impl BotEntry {
    pub fn new(
        record: BotRecord,
        status: &StoredStatus,
        rules: RestartRules,
        clock: Clock,
        seed: u64,
    ) -> Self {
        let vital = Vital {
            state: status.state,
            started: None,
            last_message: status.last_message,
            error_count: status.error_count,
            restart_count: status.restart_count,
            tokens: status.tokens,
            active: vec![],
            waiting: 0,
            since: status.updated_at,
            updated_at: status.updated_at,
        };
        Self {
            record: RwLock::new(Arc::new(record)),
            vital: Mutex::new(vital),
            actor: ActorSlot::new(),
            budget: Mutex::new(RestartBudget::new(rules, seed)),
            clock,
            admission: Arc::new(Semaphore::new(ADMISSION)),
            recovering: tokio::sync::Mutex::new(()),
            deleting: AtomicBool::new(false),
            patching: tokio::sync::Mutex::new(()),
            moving: tokio::sync::RwLock::new(()),
            turns: Mutex::new(TaskTracker::new()),
        }
    }

    pub fn id(&self) -> BotId {
        self.record.read().id.clone()
    }

    pub fn record(&self) -> Arc<BotRecord> {
        self.record.read().clone()
    }

    pub fn replace_record(&self, record: BotRecord) {
        *self.record.write() = Arc::new(record);
    }

    pub fn state(&self) -> BotState {
        self.vital.lock().state
    }

    pub fn since(&self) -> Timestamp {
        self.vital.lock().since
    }

    /// Moves the state and hands `submit` what is to be stored, under the lock. `None` where the step
    /// changes nothing.
    pub fn step<R>(
        &self,
        step: BotStep,
        reason: Option<&str>,
        submit: impl FnOnce(StoredStatus, NewEvent) -> R,
    ) -> Option<R> {
        let id = self.id();
        let mut vital = self.vital.lock();
        let event = vital.step(&id, step, reason)?;
        Some(submit(vital.stored(&id), event))
    }

    /// A message was accepted; with `begins` its turn also begins at once. Hands `submit` the event of a
    /// changed state, if there is one.
    pub fn turn_accepted<R>(
        &self,
        turn: TurnId,
        begins: bool,
        submit: impl FnOnce(Option<NewEvent>) -> R,
    ) -> R {
        let id = self.id();
        let mut vital = self.vital.lock();
        vital.last_message = Some(Timestamp::now());
        if begins {
            vital.active.push(turn);
            let event = vital.step(&id, BotStep::TurnBegan, None);
            submit(event)
        } else {
            vital.waiting += 1;
            submit(None)
        }
    }

    /// A turn that waited begins.
    pub fn turn_began<R>(&self, turn: TurnId, submit: impl FnOnce(Option<NewEvent>) -> R) -> R {
        let id = self.id();
        let mut vital = self.vital.lock();
        vital.waiting = vital.waiting.saturating_sub(1);
        vital.active.push(turn);
        let event = vital.step(&id, BotStep::TurnBegan, None);
        submit(event)
    }

    /// A turn ended, running or waiting.
    pub fn turn_ended<R>(
        &self,
        tally: TurnTally,
        submit: impl FnOnce(StoredStatus, Option<NewEvent>) -> R,
    ) -> R {
        let id = self.id();
        let mut vital = self.vital.lock();
        let before = vital.active.len();
        vital.active.retain(|t| *t != tally.turn);
        if vital.active.len() == before {
            vital.waiting = vital.waiting.saturating_sub(1);
        }
        vital.tokens.prompt += u64::from(tally.prompt);
        vital.tokens.completion += u64::from(tally.completion);
        vital.error_count += u64::from(tally.failed);
        vital.touch();
        let event = if vital.active.is_empty() { vital.step(&id, BotStep::TurnsEnded, None) } else { None };
        let status = vital.stored(&id);
        submit(status, event)
    }

    /// A turn that was counted turned out not to exist.
    pub fn turn_refused(&self, turn: TurnId) -> Option<NewEvent> {
        let tally = TurnTally { turn, failed: false, prompt: 0, completion: 0 };
        self.turn_ended(tally, |_, event| event)
    }

    /// Forgets running and waiting turns: the actor that ran them is gone. `waiting` are those that were found again.
    pub fn reset_turns(&self, waiting: u32) {
        let mut vital = self.vital.lock();
        vital.active.clear();
        vital.waiting = waiting;
    }

    /// A waiting turn ended although no actor ran it.
    pub fn forget_waiting(&self) {
        let mut vital = self.vital.lock();
        vital.waiting = vital.waiting.saturating_sub(1);
    }

    /// Whether this turn generates.
    pub fn runs(&self, turn: TurnId) -> bool {
        self.vital.lock().active.contains(&turn)
    }

    /// True while turns run or wait.
    pub fn has_turns(&self) -> bool {
        let vital = self.vital.lock();
        !vital.active.is_empty() || vital.waiting > 0
    }

    /// Counts a turn that ended badly without its task.
    pub fn count_error(&self) -> StoredStatus {
        let id = self.id();
        let mut vital = self.vital.lock();
        vital.error_count += 1;
        vital.stored(&id)
    }

    /// Counts a crash.
    pub fn count_restart(&self) -> u64 {
        let mut vital = self.vital.lock();
        vital.restart_count += 1;
        vital.restart_count
    }

    /// Restarts left before quarantine.
    pub fn restarts_left(&self) -> u32 {
        self.budget.lock().left(self.clock.now())
    }

    pub fn stored_status(&self) -> StoredStatus {
        let id = self.id();
        self.vital.lock().stored(&id)
    }

    pub fn status(&self) -> BotStatus {
        let restarts_left = self.restarts_left();
        let bot_id = self.id();
        let vital = self.vital.lock();
        BotStatus {
            bot_id,
            state: vital.state,
            uptime_seconds: vital.started.map_or(Duration::ZERO, |s| s.elapsed()).as_secs(),
            last_message: vital.last_message,
            error_count: vital.error_count,
            restart_count: vital.restart_count,
            restarts_left,
            queue_depth: vital.waiting,
            active_turns: vital.active.clone(),
            tokens: vital.tokens,
            memory_mb: None,
            cpu_percent: None,
            updated_at: vital.updated_at,
            stale: false,
        }
    }

    pub fn bot(&self) -> Bot {
        let status = self.status();
        let record = self.record();
        Bot {
            id: record.id.clone(),
            name: record.name.clone(),
            state: status.state,
            config: record.config.clone(),
            config_version: record.config_version,
            main_conversation_id: record.main_conversation_id,
            port: None,
            process_id: None,
            metadata: record.metadata.clone(),
            created_at: record.created_at,
            updated_at: record.updated_at,
            status,
            warnings: vec![],
        }
    }
}

impl Vital {
    /// Changed now. Never back: storage refuses a status that is older than the one it has.
    fn touch(&mut self) {
        self.updated_at = self.updated_at.max(Timestamp::now());
    }

    fn step(&mut self, id: &BotId, step: BotStep, reason: Option<&str>) -> Option<NewEvent> {
        let to = self.state.after(step)?;
        let from = std::mem::replace(&mut self.state, to);
        self.since = Timestamp::now();
        self.touch();
        match step {
            BotStep::Started => self.started = Some(Instant::now()),
            BotStep::Stopped | BotStep::Crash | BotStep::Quarantine => self.started = None,
            _ => {}
        }
        let change =
            BotChange { bot_id: id.clone(), state: to, from: Some(from), reason: reason.map(str::to_owned) };
        Some(NewEvent::new(vec![Topic::Bots, Topic::Bot(id.clone())], &EventBody::BotStateChanged(change)))
    }

    fn stored(&self, id: &BotId) -> StoredStatus {
        StoredStatus {
            bot_id: id.clone(),
            state: self.state,
            last_message: self.last_message,
            error_count: self.error_count,
            restart_count: self.restart_count,
            tokens: self.tokens,
            updated_at: self.updated_at,
        }
    }
}

/// All bots, by id.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    entries: RwLock<BTreeMap<BotId, Arc<BotEntry>>>,
}

impl Roster {
    pub fn get(&self, id: &BotId) -> Option<Arc<BotEntry>> {
        self.entries.read().get(id).cloned()
    }

    pub fn insert(&self, entry: Arc<BotEntry>) {
        self.entries.write().insert(entry.id(), entry);
    }

    pub fn remove(&self, id: &BotId) -> Option<Arc<BotEntry>> {
        self.entries.write().remove(id)
    }

    pub fn all(&self) -> Vec<Arc<BotEntry>> {
        self.entries.read().values().cloned().collect()
    }

    /// Bots after an id, in order of their ids.
    pub fn after(&self, id: Option<&BotId>) -> Vec<Arc<BotEntry>> {
        use std::ops::Bound;
        let low = id.map_or(Bound::Unbounded, Bound::Excluded);
        let entries = self.entries.read();
        entries.range::<BotId, _>((low, Bound::Unbounded)).map(|(_, e)| e.clone()).collect()
    }

    pub fn contains(&self, id: &BotId) -> bool {
        self.entries.read().contains_key(id)
    }

    /// Bots that count against the limit.
    pub fn running(&self) -> usize {
        self.entries.read().values().filter(|e| e.state().counts_as_running()).count()
    }
}
