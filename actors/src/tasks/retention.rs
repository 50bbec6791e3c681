//! RetentionActor: deletes what is older than its rules say, kind by kind, in small pieces with pauses between them.
//!
//! Parent: tasks. Children: none (a run is a tracked task). Ports: RetentionStore.
//!
//! Invariants: one run at a time; a kind that is switched off is never touched; an error ends the kind's run, is
//! shown, and makes the next run come sooner, never a crash; a run ends with its actor.

use std::time::{Duration, Instant};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::TaskBoard;
use crate::{
    bot::BotMessage,
    broadcast::Hubs,
    domain::{
        event::{EventBody, NewEvent, Topic},
        task::{TaskEnd, TaskState},
        time::Timestamp,
    },
    history::History,
    ports::{
        history_store::{Change, Fact, StoreError},
        retention::{Prune, Pruned, RetentionStore},
    },
    state::Roster,
};

/// From the start to the first run, where the interval is not shorter.
pub(super) const FIRST: Duration = Duration::from_secs(5);
/// From a run that broke off to the next, where the interval is not shorter.
pub(super) const AGAIN: Duration = Duration::from_secs(30);
/// Rows of one transaction.
const BATCH: u32 = 500;
/// Between two transactions.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a key of a request that may be repeated is good for.
const IDEMPOTENCY: Duration = Duration::from_hours(24);

/// How long what is kept; none = for ever.
#[derive(Debug, Clone)]
pub struct RetentionRules {
    /// Messages of conversations that are not held.
    pub chat: Option<Duration>,
    /// The audit log.
    pub audit: Option<Duration>,
    /// The last status of deleted bots.
    pub status: Option<Duration>,
    /// Events for readers that come back.
    pub events: Option<Duration>,
    /// The same, by their number per topic.
    pub events_per_topic: Option<u64>,
    /// From one run to the next.
    pub interval: Duration,
}

impl Default for RetentionRules {
    fn default() -> Self {
        let days = |n: u64| Some(Duration::from_hours(24 * n));
        Self {
            chat: days(90),
            audit: days(180),
            status: days(7),
            events: days(1),
            events_per_topic: Some(10_000),
            interval: Duration::from_hours(1),
        }
    }
}

impl RetentionRules {
    /// The tasks by name, in the order in which they run, each with what it deletes now; nothing where it is off.
    pub(super) fn plan(&self, now: Timestamp) -> [(&'static str, Vec<Prune>); 5] {
        let before = |age: Option<Duration>| {
            let age = i64::try_from(age?.as_micros()).unwrap_or(i64::MAX);
            Some(Timestamp(now.0.saturating_sub(age)))
        };
        let (chat, audit, status) = (before(self.chat), before(self.audit), before(self.status));
        let old = before(self.events).map(|before| Prune::Events { before });
        let surplus = self.events_per_topic.map(|keep| Prune::SurplusEvents { keep });
        let keys = before(Some(IDEMPOTENCY)).map(|before| Prune::IdempotencyKeys { before });
        [
            ("retention.chat", Vec::from_iter(chat.map(|before| Prune::Chat { before }))),
            ("retention.audit", Vec::from_iter(audit.map(|before| Prune::Audit { before }))),
            ("retention.status", Vec::from_iter(status.map(|before| Prune::Status { before }))),
            ("retention.outbox", old.into_iter().chain(surplus).collect()),
            ("retention.idempotency", Vec::from_iter(keys)),
        ]
    }
}

/// Messages of [`RetentionActor`].
#[derive(Debug)]
pub(crate) enum RetentionMessage {
    /// Time to run.
    RunDue,
    /// The run is over; with true all of it.
    RunEnded(bool),
}

/// What a [`RetentionActor`] starts with.
#[derive(Clone)]
pub(crate) struct RetentionArgs {
    pub rules: RetentionRules,
    pub store: std::sync::Arc<dyn RetentionStore>,
    pub board: TaskBoard,
    pub roster: std::sync::Arc<Roster>,
    pub hubs: std::sync::Arc<Hubs>,
    pub history: History,
    pub tasks: TaskTracker,
}

impl RetentionArgs {
    /// Puts the tasks on the board, before the first incarnation.
    pub fn announce(&self) {
        for (task, prunes) in self.rules.plan(Timestamp::now()) {
            self.board.add(task, !prunes.is_empty());
        }
    }

    /// Runs every task that is on. True where none broke off.
    async fn run(&self, stop: &CancellationToken) -> bool {
        let mut whole = true;
        for (task, prunes) in self.rules.plan(Timestamp::now()) {
            if prunes.is_empty() || stop.is_cancelled() {
                continue;
            }
            self.board.change(task, |t| (t.state, t.next_run) = (TaskState::Running, None));
            let (began, mut rows) = (Instant::now(), 0);
            let mut done = Ok(());
            for what in prunes {
                done = done.and(self.prune(what, &mut rows, stop).await);
            }
            whole &= done.is_ok();
            self.ended(task, rows, began.elapsed(), done.err().map(|e| e.to_string()));
        }
        whole
    }

    /// Deletes what there is of a kind, piece by piece.
    async fn prune(&self, what: Prune, rows: &mut u64, stop: &CancellationToken) -> Result<(), StoreError> {
        while !stop.is_cancelled() {
            let pruned = self.store.prune(what, BATCH).await?;
            *rows += pruned.rows;
            self.forget(&pruned);
            if !pruned.more {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// What is deleted is not in memory either, and no bot goes on behind a message that is gone.
    fn forget(&self, pruned: &Pruned) {
        if !pruned.bots.is_empty() {
            self.hubs.forget_recent();
        }
        for bot in pruned.bots.iter().filter_map(|id| self.roster.get(id)) {
            // A bot that is down reads its history when it is back.
            let _ = bot.actor.cast(BotMessage::ForgetTexts);
        }
    }

    fn ended(&self, task: &str, rows: u64, took: Duration, error: Option<String>) {
        let (now, took_ms) = (Timestamp::now(), took.as_secs_f64() * 1e3);
        let pause = pause(&self.rules, error.is_none());
        match &error {
            None if rows > 0 => tracing::info!(task, rows, took_ms, "old rows were deleted"),
            None => tracing::debug!(task, took_ms, "nothing was old"),
            Some(reason) => tracing::warn!(task, rows, %reason, "a task broke off; it will run again"),
        }
        self.board.change(task, |t| {
            (t.state, t.last_run, t.took_ms) = (TaskState::Waiting, Some(now), Some(took_ms));
            (t.rows, t.error) = (rows, error.clone());
        });
        let end = TaskEnd { task: task.into(), rows, took_ms, next_run: later(now, pause), error };
        let event = NewEvent::new(vec![Topic::Tasks], &EventBody::TaskFinished(end));
        self.history.note(Fact::new(Change::None, vec![event]));
    }
}

fn later(now: Timestamp, pause: Duration) -> Timestamp {
    Timestamp(now.0.saturating_add(i64::try_from(pause.as_micros()).unwrap_or(i64::MAX)))
}

fn pause(rules: &RetentionRules, whole: bool) -> Duration {
    if whole { rules.interval } else { rules.interval.min(AGAIN) }
}

/// Tells the actor that its run is over, also where a defect ended it by a panic.
struct RunEnded {
    me: ActorRef<RetentionMessage>,
    whole: bool,
}

impl Drop for RunEnded {
    fn drop(&mut self) {
        // An actor that ended meanwhile needs no news: its successor has a timer of its own.
        let _ = self.me.cast(RetentionMessage::RunEnded(self.whole));
    }
}

/// State of [`RetentionActor`].
pub(crate) struct RetentionState {
    args: RetentionArgs,
    /// The run, if there is one; ends with this.
    running: Option<DropGuard>,
}

impl RetentionState {
    fn run_in(&self, me: &ActorRef<RetentionMessage>, pause: Duration) {
        self.args.board.next_run(later(Timestamp::now(), pause));
        me.send_after(pause, || RetentionMessage::RunDue);
    }

    fn run(&mut self, me: &ActorRef<RetentionMessage>) {
        if self.running.is_some() {
            return;
        }
        let stop = CancellationToken::new();
        self.running = Some(stop.clone().drop_guard());
        let (args, ended) = (self.args.clone(), RunEnded { me: me.clone(), whole: false });
        self.args.tasks.spawn(async move {
            // Taken in whole: alone, its flag would be copied and the news sent at once.
            let mut ended = ended;
            ended.whole = args.run(&stop).await;
        });
    }

    fn ended(&mut self, me: &ActorRef<RetentionMessage>, whole: bool) {
        self.running = None;
        self.run_in(me, pause(&self.args.rules, whole));
    }
}

/// Deletes what is too old.
pub(crate) struct RetentionActor;

impl Actor for RetentionActor {
    type Msg = RetentionMessage;
    type State = RetentionState;
    type Arguments = RetentionArgs;

    async fn pre_start(
        &self,
        me: ActorRef<Self::Msg>,
        args: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let first = args.rules.interval.min(FIRST);
        let state = RetentionState { args, running: None };
        state.run_in(&me, first);
        Ok(state)
    }

    async fn handle(
        &self,
        me: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            RetentionMessage::RunDue => state.run(&me),
            RetentionMessage::RunEnded(whole) => state.ended(&me, whole),
        }
        Ok(())
    }
}
