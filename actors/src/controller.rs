//! The façade: the only door into the tree. Typed calls, admission, one error type. Reads come from
//! memory or straight from the record; what changes something goes to the actor that owns it. What has been
//! begun is carried out even if the caller goes away.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio_util::task::TaskTracker;

use crate::{
    bot::turn_context::TurnContext,
    bot_supervisor::{BotSupervisorMessage, BotSupervisorObservation},
    broadcast::{BroadcastMessage, BroadcastObservation, Hubs, Record, reader::Reader},
    commands,
    domain::{
        bot::{Bot, BotStatus, BotStep},
        ids::{BotId, ConversationId, MessageId, TurnId},
        message::{Conversation, Message},
        model::Server,
        problem::{Code, Problem},
        task::Task,
        tree::TreeNode,
        turn::Turn,
    },
    history::{
        History, HistoryMessage, HistoryObservation, not_known, read_problem, silent, storage_problem,
    },
    inference::{GateHouse, Inference},
    ports::{
        history_store::{Change, Fact, StoreError},
        scratch::Scratch,
        server_factory::ServerFactory,
        storage::Storage,
        tool_runner::ToolRunner,
    },
    root::{self, Parts, Root, Slots},
    state::{BotEntry, Roster, StateMessage, StateObservation, no_such_bot},
    supervision::{Clock, RestartRules, SlotError},
    tasks::{Pulls, TaskBoard},
    tree::TreeSource,
};

mod abilities;
mod archive;
mod bots;
mod branches;
mod builder;
mod chat;
mod command;
mod merge;
mod models;
mod once;
pub mod requests;
mod search;
mod send;
mod servers;
mod subscribe;
mod turns;
#[cfg(test)]
mod tests {
    mod advice;
    mod choice;
    mod clears;
    mod context;
    mod models;
    mod outage;
    mod servers;
    mod stale;
    mod stops;
    mod summaries;
    mod tools;
    mod waits;
}

pub use builder::Builder;
use once::KeysInUse;
use requests::*;

/// The one error type of the façade: a typed problem with a stable code.
pub type ControllerError = Problem;
pub use crate::{
    inference::{InferenceLimits, ServerSpec},
    tasks::{PullWatch, RetentionRules},
};
pub use archive::{Export, ExportBody, ExportFormat, ImportReport, Source};
pub use send::CONTENT_MAX;

/// How long a call to an actor may take, its restart included.
const CALL: Duration = Duration::from_secs(10);
/// Nobody has an identity yet: whoever reaches an open loopback is this user.
const USER: &str = "local";
/// How long an actor may take to say what it is doing.
const OBSERVE: Duration = Duration::from_secs(1);

/// What can be set.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Bots that may run at once.
    pub max_running: usize,
    /// Model of a bot whose configuration names none; none = the first one that a server offers.
    pub default_model: Option<String>,
    /// Messages that may wait behind a running one, per conversation.
    pub conversation_queue: usize,
    /// Turns that waited longer than this when the process ended are not begun.
    pub requeue_max_age: Duration,
    /// Restart budget and backoff of a bot.
    pub bot_rules: RestartRules,
    /// Restarts of the root's children within [`Settings::root_within`] before it gives up.
    pub root_restarts: u32,
    /// Window of [`Settings::root_restarts`].
    pub root_within: Duration,
    /// Limits of inference.
    pub inference: InferenceLimits,
    /// How long what is kept.
    pub retention: RetentionRules,
    /// Longest wait of a caller for the database.
    pub storage_timeout: Duration,
    /// Seed of the jitter.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_running: 100,
            default_model: None,
            conversation_queue: 16,
            requeue_max_age: Duration::from_secs(900),
            bot_rules: RestartRules::new(5, Duration::from_secs(60)),
            root_restarts: 3,
            root_within: Duration::from_secs(30),
            inference: InferenceLimits::default(),
            retention: RetentionRules::default(),
            storage_timeout: Duration::from_secs(5),
            seed: rand::random(),
        }
    }
}

struct Inner {
    history: History,
    hubs: Arc<Hubs>,
    record: Record,
    slots: Slots,
    roster: Arc<Roster>,
    inference: Inference,
    store: Arc<dyn Storage>,
    scratch: Arc<dyn Scratch>,
    tools: Arc<dyn ToolRunner>,
    /// Makes model servers from addresses.
    factory: Option<Arc<dyn ServerFactory>>,
    gates: GateHouse,
    /// Servers are added and removed one after the other.
    server_changes: tokio::sync::Mutex<()>,
    settings: Settings,
    clock: Clock,
    tree: TreeSource,
    board: TaskBoard,
    pulls: Pulls,
    /// Tasks beside the mailboxes, and what callers began.
    tasks: TaskTracker,
    closing: AtomicBool,
    /// Idempotency keys of requests that are on their way.
    keys: KeysInUse,
    root: ractor::ActorRef<crate::supervision::SupervisorMessage>,
    view: crate::supervision::SupervisorView,
    root_task: tokio::sync::Mutex<Option<tokio::task::JoinHandle<()>>>,
}

/// Handle to a running tree. Cheap to clone. Call [`Controller::shutdown`] before the last one is dropped.
#[derive(Clone)]
pub struct Controller {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Controller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controller").finish_non_exhaustive()
    }
}

/// A message with the ids of all its siblings.
#[derive(Debug, Clone)]
pub struct MessageWithSiblings {
    /// The message.
    pub message: Message,
    /// Ids of its siblings in order, itself included.
    pub ids: Vec<MessageId>,
}

/// A call that an actor did not answer.
fn not_answered(error: SlotError) -> Problem {
    Problem::new(Code::Unavailable, format!("{error}; it is being restarted. Try again in a moment."))
        .retry_after(1)
}

impl Controller {
    /// Begins to put a tree together, on this record.
    #[must_use]
    pub fn builder(store: Arc<dyn Storage>) -> Builder {
        Builder::new(store)
    }

    fn entry(&self, id: &BotId) -> Result<Arc<BotEntry>, Problem> {
        self.inner.roster.get(id).ok_or_else(|| no_such_bot(id))
    }

    /// What turns of a bot need of the tree.
    fn turn_context(&self, entry: Arc<BotEntry>) -> TurnContext {
        let inner = &self.inner;
        TurnContext {
            entry,
            history: inner.history.clone(),
            hubs: inner.hubs.clone(),
            inference: inner.inference.clone(),
            store: inner.store.clone(),
            tools: inner.tools.clone(),
        }
    }

    fn open(&self) -> Result<(), Problem> {
        if self.inner.closing.load(Ordering::Acquire) {
            return Err(Problem::new(
                Code::ShuttingDown,
                "The service is shutting down. Try again once it is back.",
            ));
        }
        Ok(())
    }

    /// Reads the record, with the time limit; refused at once while the database is known to be away.
    async fn read<T>(&self, ask: impl Future<Output = Result<T, StoreError>>) -> Result<T, Problem> {
        self.inner.history.watch().ask(ask).await.map_err(|e| read_problem(&e))
    }

    /// Refuses at once where [`Self::read`] would, for what reads more than once or without its time limit.
    fn check_readable(&self) -> Result<(), Problem> {
        self.inner.history.watch().check_readable().map_err(|e| read_problem(&e))
    }

    /// Carries something out to its end, whether the caller waits for it or not. A caller whom the database keeps
    /// waiting is told so in time; what was begun still becomes true, or fails, when it is back.
    async fn carry_out<T, F>(&self, work: F) -> Result<T, Problem>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Problem>> + Send + 'static,
    {
        self.carry_out_keyed(work, false).await
    }

    /// As `carry_out`, for what may have an idempotency key.
    async fn carry_out_keyed<T, F>(&self, work: F, keyed: bool) -> Result<T, Problem>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Problem>> + Send + 'static,
    {
        let task = self.inner.tasks.spawn(work);
        let watch = self.inner.history.watch();
        let ended = tokio::select! {
            biased;
            ended = task => ended,
            () = watch.gave_up() => return Err(not_known(watch.limit(), keyed)),
        };
        ended.unwrap_or_else(|error| {
            tracing::error!(%error, "a request's task ended abnormally");
            Err(Problem::new(Code::Internal, "An internal fault; the log has more under the request id."))
        })
    }

    /// The supervision tree.
    #[must_use]
    pub fn tree(&self) -> TreeNode {
        self.inner.tree.draw()
    }

    /// The children of the root, as [`Self::tree`] shows them, without what is below them.
    #[must_use]
    pub fn parts(&self) -> Vec<TreeNode> {
        self.inner.tree.parts()
    }

    /// The background tasks, in the order in which they run.
    #[must_use]
    pub fn tasks(&self) -> Vec<Task> {
        self.inner.board.all()
    }

    /// The slash commands, with the models of the servers as completions.
    #[must_use]
    pub fn commands(&self) -> Vec<CommandInfo> {
        let models: Vec<String> = self.inner.inference.models().into_iter().map(|m| m.name).collect();
        commands::list(&models)
    }

    /// `Ok` while the root answers and every actor below it is up, bots apart; otherwise what is missing.
    ///
    /// # Errors
    /// `shutting_down`, or `unavailable` with the actor that is away.
    pub async fn ready(&self) -> Result<(), ControllerError> {
        self.open()?;
        let ask = self.inner.root.call(
            |reply| crate::supervision::SupervisorMessage::GetObservation { reply },
            Some(Duration::from_secs(2)),
        );
        let away = |what: &str| {
            Err(Problem::new(Code::Unavailable, format!("{what} does not answer; it is being restarted.")))
        };
        let Ok(ractor::rpc::CallResult::Success(seen)) = ask.await else {
            return away("The root supervisor");
        };
        match seen.children.iter().find(|c| c.state != crate::supervision::ChildState::Active) {
            Some(child) => away(&child.id),
            None => Ok(()),
        }
    }

    /// Whether the database answers and takes writes. Known within a second.
    ///
    /// # Errors
    /// `storage_unavailable` with the reason.
    pub async fn probe_storage(&self) -> Result<(), ControllerError> {
        self.inner.history.watch().probe().await.map_err(|error| match error {
            StoreError::Unavailable(reason) => Problem::new(
                Code::StorageUnavailable,
                format!("The database is not available ({reason}). It is looked for until it is back."),
            ),
            error => storage_problem(&error),
        })
    }

    /// Since when the database answers, or does not.
    #[must_use]
    pub fn storage_since(&self) -> crate::domain::time::Timestamp {
        self.inner.history.watch().since()
    }

    /// Rows that were left out of answers because they can't be read, each counted once.
    #[must_use]
    pub fn quarantined_rows(&self) -> u64 {
        self.inner.store.quarantined_rows()
    }

    /// Resolves when the root has given up (`true`) or ended in order (`false`).
    pub async fn ended(&self) -> bool {
        let mut task = self.inner.root_task.lock().await;
        if let Some(handle) = task.as_mut() {
            // The root's task ends with the root; how it ended is in its view.
            let _ = handle.await;
            *task = None;
        }
        self.inner.view.gave_up().is_some()
    }

    /// Ends in order: takes no more messages, lets running turns end for up to `drain`, stores what is
    /// written of the rest, stops the actors in reverse order.
    pub async fn shutdown(&self, drain: Duration) {
        let inner = &self.inner;
        inner.closing.store(true, Ordering::Release);
        inner.inference.close();
        let quiet = async {
            while inner.roster.all().iter().any(|e| !e.status().active_turns.is_empty()) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(drain, quiet).await.is_err() {
            tracing::warn!("turns did not end in time; what is written of them is kept");
        }
        for live in inner.hubs.all_live() {
            // Sealed: nothing can be shown that is not stored. The next start ends them as interrupted.
            let text = live.seal();
            let thinking = (!text.thinking.is_empty()).then_some(text.thinking);
            let reply_id = live.message_id();
            inner
                .history
                .note(Fact::new(Change::Checkpoint { reply_id, content: text.content, thinking }, vec![]));
        }
        // What a database that is away does not take now is lost with the process, as after a kill.
        if tokio::time::timeout(inner.settings.storage_timeout, inner.history.barrier()).await.is_err() {
            tracing::error!("the database is away; the texts since the last checkpoints are not stored");
        }
        for entry in inner.roster.all() {
            entry.step(BotStep::Stop, None, |_, _| ());
        }
        inner.root.stop(Some("shutdown".into()));
        self.ended().await;
        inner.pulls.close();
        inner.history.watch().close().await;
        // Nobody will tell the end of what is left: whoever waits for it learns that.
        inner.hubs.drop_waiters();
        inner.tasks.close();
        if tokio::time::timeout(Duration::from_secs(5), inner.tasks.wait()).await.is_err() {
            tracing::warn!("some requests did not end in time");
        }
    }
}

/// What the actors are doing; none for one that is being restarted.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Observation {
    /// HistoryActor.
    pub history: Option<HistoryObservation>,
    /// StateActor.
    pub state: Option<StateObservation>,
    /// BroadcastActor.
    pub broadcast: Option<BroadcastObservation>,
    /// BotSupervisor.
    pub bots: Option<BotSupervisorObservation>,
}

impl Controller {
    /// Asks the actors what they are doing.
    pub async fn observe(&self) -> Observation {
        let slots = &self.inner.slots;
        let (history, state, broadcast, bots) = tokio::join!(
            slots.history.call(HistoryMessage::Observe, OBSERVE),
            slots.state.call(StateMessage::Observe, OBSERVE),
            slots.broadcast.call(BroadcastMessage::Observe, OBSERVE),
            slots.bots.call(BotSupervisorMessage::Observe, OBSERVE),
        );
        Observation { history: history.ok(), state: state.ok(), broadcast: broadcast.ok(), bots: bots.ok() }
    }
}

#[cfg(any(test, feature = "test-support"))]
impl Controller {
    /// Kills an actor of the tree by its name below the root, as a defect would: `history`, `state`, `broadcast`,
    /// `inference`, `tasks`, `pulls`, `bots`, or the name of a model server. False where it is not up.
    pub fn kill_actor(&self, name: &str) -> bool {
        let slots = &self.inner.slots;
        let cell = match name {
            "history" => slots.history.get().map(|a| a.get_cell()),
            "state" => slots.state.get().map(|a| a.get_cell()),
            "broadcast" => slots.broadcast.get().map(|a| a.get_cell()),
            "inference" => slots.inference.get().map(|a| a.get_cell()),
            "tasks" => slots.tasks.get().map(|a| a.get_cell()),
            "pulls" => slots.pulls.get().map(|a| a.get_cell()),
            "bots" => slots.bots.get().map(|a| a.get_cell()),
            server => self.inner.inference.gates().iter().find(|g| g.spec.name == server).and_then(|g| {
                let actor = g.actor.get();
                actor.map(|a| a.get_cell())
            }),
        };
        cell.inspect(|cell| cell.kill()).is_some()
    }
}
