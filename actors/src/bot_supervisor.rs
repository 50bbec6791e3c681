//! BotSupervisor: one actor per bot, each with its own restart budget. A bot that crashes is started
//! again at once, then with growing pauses, then quarantined; no other bot notices.
//!
//! Parent: root. Children: one BotActor per running bot.
//!
//! Invariants: a bot has at most one actor; its budget and history outlive its actors and this one; nothing
//! here waits for a bot: stopping is done beside the mailbox and reported back.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use serde::Serialize;
use tokio_util::task::TaskTracker;

use crate::{
    bot::{BotActor, BotArgs, BotMessage, recovery::Cause, turn_context::TurnContext},
    broadcast::Hubs,
    controller::requests::KillHow,
    domain::{
        bot::{BotState, BotStep},
        event::{BotRestart, EventBody, NewEvent, Topic},
        ids::BotId,
    },
    history::History,
    inference::Inference,
    ports::{
        history_store::{Change, Fact, HistoryStore},
        tool_runner::ToolRunner,
    },
    state::{BotEntry, Roster},
    supervision::{Clock, Decision, Exit, exit_of},
};

mod stopping;

use stopping::settle_at_last;

/// Messages of [`BotSupervisor`].
#[derive(Debug)]
pub(crate) enum BotSupervisorMessage {
    /// Start it, with a fresh budget if it was quarantined. Nothing to do for a running one.
    Start { bot: BotId, reply: RpcReplyPort<()> },
    /// Stop it: end its turns, then its actor.
    Stop { bot: BotId, reply: RpcReplyPort<()> },
    /// Stop it, keep its waiting turns, start it.
    Restart { bot: BotId, reply: RpcReplyPort<()> },
    /// Crash it on purpose; answered once its actor is gone, or at once with false where there is none.
    Kill { bot: BotId, how: KillHow, reason: String, reply: RpcReplyPort<bool> },
    /// The pause before a restart is over.
    RestartDue { bot: BotId, attempt: u64 },
    /// The running turns of a bot that is being stopped have ended.
    Halted { bot: BotId },
    /// A stopped bot has no open turns any more.
    Settled { bot: BotId },
    /// What it supervises.
    Observe(RpcReplyPort<BotSupervisorObservation>),
}

/// What [`BotSupervisor`] supervises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BotSupervisorObservation {
    /// Bots with an actor.
    pub up: usize,
    /// Bots that wait for their restart.
    pub restarting: usize,
}

/// What [`BotSupervisor`] starts with.
#[derive(Clone)]
pub(crate) struct BotSupervisorArgs {
    pub roster: Arc<Roster>,
    pub history: History,
    pub hubs: Arc<Hubs>,
    pub inference: Inference,
    pub store: Arc<dyn HistoryStore>,
    pub tools: Arc<dyn ToolRunner>,
    pub clock: Clock,
    pub queue_limit: usize,
    /// Turns that waited longer than this when the process ended are not begun.
    pub requeue_max_age: Duration,
    /// Tasks beside the mailbox.
    pub tasks: TaskTracker,
    /// True until the first start of this process is over.
    pub first: Arc<AtomicBool>,
}

#[derive(Debug)]
enum Phase {
    Up,
    Stopping { again: bool, replies: Vec<RpcReplyPort<()>> },
    Pausing { attempt: u64 },
}

struct Child {
    entry: Arc<BotEntry>,
    cell: Option<ActorCell>,
    phase: Phase,
    /// Those who crashed it on purpose and want to know that it happened.
    killers: Vec<RpcReplyPort<bool>>,
}

impl Child {
    fn new(entry: Arc<BotEntry>, cell: Option<ActorCell>, phase: Phase) -> Self {
        Self { entry, cell, phase, killers: vec![] }
    }
}

/// State of [`BotSupervisor`].
pub(crate) struct BotSupervisorState {
    args: BotSupervisorArgs,
    children: HashMap<BotId, Child>,
    by_actor: HashMap<ActorId, BotId>,
    attempts: u64,
}

impl BotSupervisorState {
    fn context(&self, entry: &Arc<BotEntry>) -> TurnContext {
        TurnContext {
            entry: entry.clone(),
            history: self.args.history.clone(),
            hubs: self.args.hubs.clone(),
            inference: self.args.inference.clone(),
            store: self.args.store.clone(),
            tools: self.args.tools.clone(),
        }
    }

    /// Moves a bot's state and stores it, with what else happened in the same moment.
    fn step(&self, entry: &BotEntry, step: BotStep, reason: Option<&str>, also: Option<EventBody>) {
        let topics = |id: &BotId, body: &EventBody| match body {
            EventBody::BotStopped(_) => vec![Topic::Bots, Topic::Bot(id.clone())],
            _ => vec![Topic::Bots, Topic::Bot(id.clone()), Topic::Tree],
        };
        let also = also.map(|body| NewEvent::new(topics(&entry.id(), &body), &body));
        let history = &self.args.history;
        let submitted = entry.step(step, reason, |status, changed| {
            let events = also.into_iter().chain([changed]).collect();
            history.submit(Fact::new(Change::SaveStatus(status), events))
        });
        if let Some(submitted) = submitted {
            // A quarantine that a full disk swallowed would be over with the next start of the process.
            let history = history.clone();
            self.args.tasks.spawn(async move {
                if let Err(error) = history.persist(submitted).await {
                    tracing::error!(%error, "a bot's state was not stored");
                }
            });
        }
    }

    async fn start_actor(
        &mut self,
        me: &ActorRef<BotSupervisorMessage>,
        entry: Arc<BotEntry>,
        recover: Option<Cause>,
        also: impl FnOnce(&BotEntry) -> Option<EventBody>,
    ) -> Result<(), ActorProcessingErr> {
        let bot = entry.id();
        let args = BotArgs { context: self.context(&entry), queue_limit: self.args.queue_limit, recover };
        let (actor, _task) = Actor::spawn_linked(None, BotActor, args, me.get_cell()).await?;
        let cell = actor.get_cell();
        self.by_actor.insert(cell.get_id(), bot.clone());
        let event = also(&entry);
        self.step(&entry, BotStep::Started, None, event);
        entry.actor.set(actor);
        self.children.insert(bot, Child::new(entry, Some(cell), Phase::Up));
        Ok(())
    }

    async fn start(
        &mut self,
        me: &ActorRef<BotSupervisorMessage>,
        bot: BotId,
        reply: Option<RpcReplyPort<()>>,
    ) -> Result<(), ActorProcessingErr> {
        let waits = self.children.get_mut(&bot).map(|child| &mut child.phase);
        match (waits, self.args.roster.get(&bot)) {
            (Some(Phase::Stopping { again, replies }), _) => {
                *again = true;
                replies.extend(reply);
                return Ok(());
            }
            (Some(Phase::Up), _) | (_, None) => {}
            (_, Some(entry)) if entry.deleting.load(Ordering::Acquire) => {}
            (Some(Phase::Pausing { .. }) | None, Some(entry)) => {
                if entry.state() == BotState::Quarantined {
                    entry.budget.lock().reset();
                }
                self.step(&entry, BotStep::Start, None, None);
                self.start_actor(me, entry, Some(Cause::BotCrashed), |_| None).await?;
            }
        }
        if let Some(reply) = reply {
            let _ = reply.send(());
        }
        Ok(())
    }

    fn kill(&mut self, bot: &BotId, how: KillHow, reason: String, reply: RpcReplyPort<bool>) {
        let Some(Child { cell: Some(cell), entry, phase: Phase::Up, killers }) = self.children.get_mut(bot)
        else {
            return drop(reply.send(false));
        };
        match how {
            KillHow::Kill => cell.kill(),
            KillHow::Panic => drop(entry.actor.cast(BotMessage::Panic(reason))),
        }
        killers.push(reply);
    }

    async fn ended(
        &mut self,
        me: &ActorRef<BotSupervisorMessage>,
        actor: ActorId,
        exit: Exit,
    ) -> Result<(), ActorProcessingErr> {
        let Some(bot) = self.by_actor.remove(&actor) else { return Ok(()) };
        let Some(mut child) = self.children.remove(&bot) else { return Ok(()) };
        let killers = std::mem::take(&mut child.killers);
        match child.phase {
            // What waits is left to the next actor, which looks for it.
            Phase::Stopping { again: true, replies } => {
                self.stopped(&child.entry);
                self.start(me, bot, None).await?;
                for reply in replies {
                    let _ = reply.send(());
                }
            }
            Phase::Stopping { .. } => {
                self.settle(me, &child.entry);
                self.children.insert(bot, Child { cell: None, ..child });
            }
            Phase::Up | Phase::Pausing { .. } => self.crashed(me, child.entry, exit).await?,
        }
        for killer in killers {
            let _ = killer.send(true);
        }
        Ok(())
    }

    async fn crashed(
        &mut self,
        me: &ActorRef<BotSupervisorMessage>,
        entry: Arc<BotEntry>,
        exit: Exit,
    ) -> Result<(), ActorProcessingErr> {
        let bot = entry.id();
        let reason = exit.to_string();
        let decision = entry.budget.lock().crashed(self.args.clock.now(), exit);
        let backoff = match decision {
            Decision::Restart { after } => after,
            Decision::GiveUp => Duration::ZERO,
        };
        let restarts = if decision == Decision::GiveUp {
            entry.stored_status().restart_count
        } else {
            entry.count_restart()
        };
        let told = BotRestart {
            bot_id: bot.clone(),
            reason: reason.clone(),
            restarts,
            restarts_left: entry.restarts_left(),
            backoff_ms: millis(backoff),
            took_ms: None,
        };
        tracing::warn!(bot.id = %bot, %reason, ?backoff, quarantine = decision == Decision::GiveUp, "bot crashed");
        self.step(&entry, BotStep::Crash, Some(&reason), Some(EventBody::BotCrashed(told.clone())));
        match decision {
            Decision::GiveUp => {
                self.step(&entry, BotStep::Quarantine, Some(&reason), Some(EventBody::BotQuarantined(told)));
                let context = self.context(&entry);
                // The waiting turns are held; what was being generated ends now.
                self.args.tasks.spawn(async move { settle_at_last(&context, Cause::BotCrashed).await });
            }
            Decision::Restart { after } if after.is_zero() => {
                self.restart_now(me, entry, told).await?;
            }
            Decision::Restart { after } => {
                self.step(&entry, BotStep::PlanRestart, Some(&reason), None);
                self.attempts += 1;
                let attempt = self.attempts;
                self.children.insert(bot.clone(), Child::new(entry, None, Phase::Pausing { attempt }));
                me.send_after(after, move || BotSupervisorMessage::RestartDue { bot, attempt });
            }
        }
        Ok(())
    }

    async fn restart_now(
        &mut self,
        me: &ActorRef<BotSupervisorMessage>,
        entry: Arc<BotEntry>,
        told: BotRestart,
    ) -> Result<(), ActorProcessingErr> {
        let clock = self.args.clock;
        self.start_actor(me, entry, Some(Cause::BotCrashed), |entry| {
            let took = entry.budget.lock().restarted(clock.now());
            Some(EventBody::BotRestarted(BotRestart { took_ms: took.map(millis), ..told }))
        })
        .await
    }

    async fn restart_due(
        &mut self,
        me: &ActorRef<BotSupervisorMessage>,
        bot: BotId,
        attempt: u64,
    ) -> Result<(), ActorProcessingErr> {
        let due = self.children.get(&bot);
        let Some(Child { entry, phase: Phase::Pausing { attempt: planned }, .. }) = due else {
            return Ok(());
        };
        if *planned != attempt {
            return Ok(());
        }
        let entry = entry.clone();
        let last = entry.budget.lock().history().last().map(|l| (l.reason.to_string(), l.backoff_ms));
        let (reason, backoff_ms) = last.unwrap_or_default();
        let told = BotRestart {
            bot_id: bot,
            reason,
            restarts: entry.stored_status().restart_count,
            restarts_left: entry.restarts_left(),
            backoff_ms,
            took_ms: None,
        };
        self.restart_now(me, entry, told).await
    }

    fn observe(&self) -> BotSupervisorObservation {
        let up = self.children.values().filter(|c| c.cell.is_some()).count();
        BotSupervisorObservation { up, restarting: self.children.len() - up }
    }
}

/// The bots with open turns; none where the database does not say so at once.
async fn with_open_turns(args: &BotSupervisorArgs) -> Option<HashSet<BotId>> {
    let look = async {
        // What an earlier incarnation and its bots submitted is decided before the record is read.
        args.history.barrier().await;
        args.store.open_turns(None).await
    };
    let open = args
        .history
        .watch()
        .glance(look)
        .await
        .inspect_err(|error| tracing::warn!(%error, "the bots look for their open turns themselves"));
    Some(open.ok()?.into_iter().map(|(turn, ..)| turn.bot_id).collect())
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// Supervises the bots.
pub(crate) struct BotSupervisor;

impl Actor for BotSupervisor {
    type Msg = BotSupervisorMessage;
    type State = BotSupervisorState;
    type Arguments = BotSupervisorArgs;

    async fn pre_start(
        &self,
        me: ActorRef<Self::Msg>,
        args: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let first = args.first.load(Ordering::Acquire);
        let open = with_open_turns(&args).await;
        let mut state =
            BotSupervisorState { args, children: HashMap::new(), by_actor: HashMap::new(), attempts: 0 };
        for entry in state.args.roster.all() {
            let max_age = state.args.requeue_max_age;
            let cause = if first { Cause::ProcessEnded { max_age } } else { Cause::BotCrashed };
            // Where it is not known now, each bot looks for itself, until the database is back.
            let open = open.as_ref().is_none_or(|open| open.contains(&entry.id()));
            let cause = (open || entry.has_turns()).then_some(cause);
            match entry.state() {
                // No actor, but perhaps turns that the end of the process interrupted.
                BotState::Terminated | BotState::Quarantined => {
                    if let Some(cause) = cause {
                        let context = state.context(&entry);
                        state.args.tasks.spawn(async move { settle_at_last(&context, cause).await });
                    }
                }
                BotState::Stopping => state.stopped(&entry),
                _ => {
                    // Whatever it was doing, its actor is gone.
                    entry.step(BotStep::Crash, None, |_, _| ());
                    state.start_actor(&me, entry, cause, |_| None).await?;
                }
            }
        }
        state.args.first.store(false, Ordering::Release);
        Ok(state)
    }

    async fn handle(
        &self,
        me: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            BotSupervisorMessage::Start { bot, reply } => state.start(&me, bot, Some(reply)).await?,
            BotSupervisorMessage::Stop { bot, reply } => state.stop(&me, bot, false, reply).await?,
            BotSupervisorMessage::Restart { bot, reply } => state.stop(&me, bot, true, reply).await?,
            BotSupervisorMessage::Kill { bot, how, reason, reply } => state.kill(&bot, how, reason, reply),
            BotSupervisorMessage::RestartDue { bot, attempt } => state.restart_due(&me, bot, attempt).await?,
            BotSupervisorMessage::Halted { bot } => state.halted(&bot),
            BotSupervisorMessage::Settled { bot } => state.settled(&me, bot).await?,
            BotSupervisorMessage::Observe(reply) => {
                let _ = reply.send(state.observe());
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match exit_of(&event) {
            Some((actor, exit)) => state.ended(&me, actor, exit).await,
            None => Ok(()),
        }
    }
}
