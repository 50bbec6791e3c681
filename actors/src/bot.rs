//! BotActor: one bot. Takes messages, keeps the line of each conversation, begins turns as linked work.
//! It never waits for a model, a database or a timer: it submits, spawns, and is told.
//!
//! Parent: BotSupervisor. Children: one [`work::Work`] per turn that has not ended.
//! Ports: HistoryStore (through its turns).
//!
//! Invariants: one turn of a conversation generates at a time; turns of a conversation run in the order of
//! their acceptance; every accepted turn is in a lane until its end is submitted.

use std::{collections::HashMap, sync::Arc, time::Duration};

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use tokio::sync::oneshot;

use crate::{
    controller::requests::Sent,
    domain::{
        bot::BotStep,
        ids::{ConversationId, MessageId, TurnId},
        problem::Problem,
        time::Timestamp,
        turn::QueuePlace,
    },
    ports::history_store::{Change, Fact},
    supervision::exit_of,
};

mod accept;
pub(crate) mod context;
mod exchange;
mod generate;
pub(crate) mod lane;
mod output;
mod places;
pub(crate) mod recovery;
mod resume;
mod rounds;
mod stop;
pub(crate) mod summary;
mod talk;
pub(crate) mod turn;
pub(crate) mod turn_context;
mod turn_end;
mod turn_events;
pub(crate) mod work;

pub(crate) use accept::{Again, Incoming, Overrides, Refusal, StoredTalk, takes_messages};
use context::{ContextEntry, Path};
pub(crate) use exchange::{Clears, Exchange, Exchanged, submit as submit_exchange};
#[cfg(test)]
pub(crate) use generate::MAX_ATTEMPTS;
use lane::{Lane, Place};
use recovery::{Cause, FoundTurn};
use resume::Readiness;
use summary::Summaries;
use talk::{Kept, Talk};
use turn::TurnJob;
pub(crate) use turn::behind_a_lost_one;
use turn_context::TurnContext;
use work::Work;

/// Between two attempts to read what a crash left behind, while the database is away.
pub(crate) const RECOVER_AGAIN: Duration = Duration::from_millis(500);

/// The answer to a message: at first whether it is taken, then what became of it.
pub(crate) type SendReply = RpcReplyPort<Result<Sent, Problem>>;

/// Whether the turn that is to be stopped is in a line of this bot; a problem while that can't be known.
pub(crate) type StopReply = RpcReplyPort<Result<bool, Problem>>;

/// The turn of a conversation that was stopped, if there was one; a problem while that can't be known.
pub(crate) type StopRunningReply = RpcReplyPort<Result<Option<TurnId>, Problem>>;

/// Messages of [`BotActor`].
#[derive(Debug)]
pub(crate) enum BotMessage {
    /// A user's message.
    Send { incoming: Box<Incoming>, refused: oneshot::Sender<Refusal>, reply: SendReply },
    /// A turn submitted its end.
    TurnEnded {
        turn: TurnId,
        conversation: ConversationId,
        parent: Option<MessageId>,
        leaf: MessageId,
        entries: Vec<ContextEntry>,
        path: Option<Arc<Path>>,
    },
    /// A turn was not stored, or had been before.
    TurnGone { turn: TurnId },
    /// There may be turns in storage that nobody runs, because the answer to a commit got lost.
    LookForStrays,
    /// Such turns.
    Strays(Vec<FoundTurn>),
    /// Stop a turn; answers whether it is here, once that is known.
    StopTurn { turn: TurnId, reply: StopReply },
    /// Place of a turn that waits behind its conversation.
    GetPlace { turn: TurnId, reply: RpcReplyPort<Option<QueuePlace>> },
    /// Time to look at the lines of the conversations.
    MovedDue,
    /// Whether the line of a conversation has room for one more.
    HasRoom { conversation: ConversationId, reply: RpcReplyPort<Result<(), Problem>> },
    /// Stop the running turn of a conversation; answers with its id, once it is known what runs.
    StopConversation { conversation: ConversationId, reply: StopRunningReply },
    /// The bot is about to be stopped: begin nothing more, stop what runs, with `all` also what waits. Answers with the
    /// turns that are to end.
    Halt { all: bool, reply: RpcReplyPort<Vec<TurnId>> },
    /// A slash command and its answer, to be put at the end of a conversation, or in place of all that it has; none where that can't be now,
    /// because a turn runs or waits.
    Exchange { exchange: Box<Exchange>, reply: RpcReplyPort<Option<Exchanged>> },
    /// An exchange was not stored: the conversation ends where it did before.
    ExchangeLost { conversation: ConversationId, reply: MessageId, behind: Option<MessageId> },
    /// The history of a conversation changed under it, or its end did: forget what is in memory of it.
    Forget { conversation: ConversationId },
    /// Messages were deleted that any conversation may go on from: forget what was said.
    ForgetTexts,
    /// What the actor before left behind.
    Recovered(Vec<FoundTurn>),
    /// What the actor before left behind can't be read for now.
    RecoveryWaits(Problem),
    /// Time to see whether nothing happened for a while.
    RestDue,
    /// Crash on purpose.
    Panic(String),
}

/// What [`BotActor`] starts with.
#[derive(Clone)]
pub(crate) struct BotArgs {
    pub context: TurnContext,
    /// Turns behind a running one, per conversation.
    pub queue_limit: usize,
    /// Why there may be turns without an actor; none for a new bot.
    pub recover: Option<Cause>,
}

/// State of [`BotActor`].
pub(crate) struct BotActorState {
    args: BotArgs,
    talks: HashMap<ConversationId, Talk>,
    summaries: Summaries,
    readiness: Readiness,
    /// Set while strays are looked for; true if there is a reason to look again.
    looking: Option<bool>,
    /// Set once the bot is about to be stopped: nothing begins any more.
    halted: bool,
    rest_timer: bool,
    moved_timer: bool,
    last_turn: Timestamp,
}

impl BotActorState {
    fn entry(&self) -> &Arc<crate::state::BotEntry> {
        &self.args.context.entry
    }

    async fn send(
        &mut self,
        me: &ActorRef<BotMessage>,
        mut incoming: Box<Incoming>,
        refused: oneshot::Sender<Refusal>,
        reply: SendReply,
    ) -> Result<(), ActorProcessingErr> {
        match &mut self.readiness {
            Readiness::Ready => {}
            Readiness::Recovering(early) => {
                early.sends.push((incoming, refused, reply));
                return Ok(());
            }
            Readiness::Waiting(problem) => {
                // Nobody is left to be told where the caller gave up.
                let _ = refused.send(Refusal::Problem(Box::new(problem.clone())));
                return Ok(());
            }
        }
        if refused.is_closed() {
            // The database kept the caller waiting for too long: he was told that this may not be stored, and it is not.
            return Ok(());
        }
        if self.halted {
            // Dropped unanswered: the caller looks again what has become of the bot.
            return Ok(());
        }
        if self.talks.values().any(|talk| talk.lane.get(incoming.turn).is_some()) {
            // Its acceptance was stored by the actor before, which died before it could say so.
            return self.acknowledge_found(me, *incoming, reply).await;
        }
        match self.prepare(me.get_id(), &mut incoming) {
            // Nobody is left to be told where the caller gave up.
            Err(refusal) => drop(refused.send(refusal)),
            Ok(prepared) => self.accept(me, *incoming, prepared, reply).await?,
        }
        Ok(())
    }

    /// Puts a turn into its lane and begins its work.
    async fn keep(
        &mut self,
        me: &ActorRef<BotMessage>,
        mut job: Box<TurnJob>,
        go: Option<oneshot::Sender<Arc<Path>>>,
    ) -> Result<(), ActorProcessingErr> {
        let (id, conversation, leaf) = {
            let turn = job.shared.turn.lock();
            (turn.id, turn.conversation_id, turn.reply_id)
        };
        job.think = job.think.or_else(|| job.config.think.clone());
        job.format = job.format.or_else(|| job.config.format.clone());
        let (stop, want) = (job.stop.clone(), job.want(job.shared.message.tokens));
        // Its successor waits until every task of this actor is gone; the token goes with the task.
        let token = self.entry().turns.lock().token();
        let work = Work::begin(
            me.get_cell(),
            Box::pin(async move {
                turn::run(job).await;
                drop(token);
            }),
        )
        .await?;
        let talk = self.talks.entry(conversation).or_default();
        let behind = talk.grow(leaf);
        talk.lane.push(id, Kept { want, stop, reply: leaf, behind, go, work: Some(work.get_id()) });
        self.last_turn = Timestamp::now();
        self.arm_moved(me);
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one message")]
    fn turn_ended(
        &mut self,
        me: &ActorRef<BotMessage>,
        turn: TurnId,
        conversation: ConversationId,
        parent: Option<MessageId>,
        leaf: MessageId,
        entries: Vec<ContextEntry>,
        path: Option<Arc<Path>>,
    ) {
        self.last_turn = Timestamp::now();
        let keep = context::worth_keeping(
            self.entry().record().config.options.num_ctx.unwrap_or(crate::domain::bot::DEFAULT_NUM_CTX),
        );
        let Some(talk) = self.talks.get_mut(&conversation) else { return };
        let ran = talk.lane.running() == Some(turn);
        talk.lane.remove(turn);
        talk.used = Some(std::time::Instant::now());
        let known = talk.path.take().filter(|p| p.leaf == parent);
        // One owner, so that appending copies nothing.
        let before = match known {
            Some(known) => {
                drop(path);
                Some(known)
            }
            None => path.filter(|p| p.leaf == parent),
        };
        let forgotten = talk.forgotten;
        // What is gone from the history is forgotten once nothing runs that knew it.
        talk.forgotten &= !ran;
        talk.path = before.filter(|_| !forgotten).map(|mut path| {
            Arc::make_mut(&mut path).push(leaf, entries, keep);
            path
        });
        // Not cut: the next turn has what a prompt has room for, read from the record.
        talk.path = talk.path.take().filter(|path| !path.is_heavy());
        self.advance(conversation);
        self.arm_rest(me);
    }

    fn advance(&mut self, conversation: ConversationId) {
        if self.halted {
            return;
        }
        let Some(talk) = self.talks.get_mut(&conversation) else { return };
        let path = talk.path.clone();
        if let Some(next) = talk.lane.advance()
            && let Some(go) = next.go.take()
        {
            // Without a path in memory the turn reads it; a leaf that matches nothing says so.
            let path = path.unwrap_or_else(|| Arc::new(unknown_path()));
            // A turn that was stopped while it waited does not listen any more.
            let _ = go.send(path);
        }
    }

    fn turn_gone(&mut self, turn: TurnId) {
        let found = self.talks.iter().find(|(_, talk)| talk.lane.get(turn).is_some()).map(|(c, _)| *c);
        if let Some(event) = self.entry().turn_refused(turn) {
            let status = self.entry().stored_status();
            self.args.context.history.note(Fact::new(Change::SaveStatus(status), vec![event]));
        }
        self.args.context.hubs.forget_reply(turn);
        let Some(conversation) = found else { return };
        if let Some(talk) = self.talks.get_mut(&conversation) {
            if let Some(kept) = talk.lane.remove(turn) {
                talk.lose(kept.reply, kept.behind);
            }
            // Where nothing is on its way storage knows the end.
            if talk.lane.is_empty() {
                self.talks.remove(&conversation);
            } else {
                self.advance(conversation);
            }
        }
    }

    fn has_room(&self, conversation: ConversationId) -> Result<(), Problem> {
        let limit = self.args.queue_limit;
        match self.talks.get(&conversation).map(|talk| talk.lane.place(limit)) {
            Some(Place::Full) => Err(accept::full(limit)),
            _ => Ok(()),
        }
    }

    fn halt(&mut self, all: bool) -> Vec<TurnId> {
        self.halted = true;
        let running = |lane: &Lane<Kept>, turn| all || lane.running() == Some(turn);
        let lanes = self.talks.values().map(|talk| &talk.lane);
        let chosen = lanes.flat_map(|lane| lane.iter().filter(move |(turn, _)| running(lane, *turn)));
        chosen.inspect(|(_, kept)| kept.stop.ask()).map(|(turn, _)| *turn).collect()
    }

    fn exchange_lost(&mut self, conversation: ConversationId, reply: MessageId, behind: Option<MessageId>) {
        if let Some(talk) = self.talks.get_mut(&conversation) {
            talk.lose(reply, behind);
            if talk.lane.is_empty() {
                self.talks.remove(&conversation);
            }
        }
    }

    fn forget(&mut self, conversation: ConversationId) {
        if let Some(talk) = self.talks.get_mut(&conversation) {
            // The path ends with the last turn that is still to come; without one, storage knows where.
            (talk.leaf, talk.beyond) = (talk.lane.iter().last().map(|(_, kept)| kept.reply), 0);
            talk.forget();
            self.talks.retain(|id, talk| *id != conversation || !talk.lane.is_empty());
        }
    }

    fn forget_texts(&mut self) {
        self.talks.retain(|_, talk| !talk.lane.is_empty());
        self.talks.values_mut().for_each(Talk::forget);
        self.summaries.forget();
    }

    /// A turn's task died by itself: a defect of deia. The turn is found again as after a crash of the bot.
    fn work_died(&self, work: ActorId, reason: &str) -> Result<(), ActorProcessingErr> {
        let mut lanes = self.talks.values().flat_map(|talk| talk.lane.iter());
        if lanes.any(|(_, kept)| kept.work == Some(work)) {
            return Err(format!("a turn's task died: {reason}").into());
        }
        Ok(())
    }

    fn arm_rest(&mut self, me: &ActorRef<BotMessage>) {
        if !self.rest_timer {
            self.rest_timer = true;
            let after = Duration::from_secs(u64::from(self.entry().record().config.idle_after_s));
            me.send_after(after, || BotMessage::RestDue);
        }
    }

    /// Idle after a while without turns; what was kept for the next turn is let go.
    fn rest_due(&mut self, me: &ActorRef<BotMessage>) {
        self.rest_timer = false;
        let after = Duration::from_secs(u64::from(self.entry().record().config.idle_after_s));
        let busy = self.talks.values().any(|talk| !talk.lane.is_empty());
        if busy || Timestamp::now().since(self.last_turn) < after {
            return self.arm_rest(me);
        }
        self.talks = HashMap::new();
        self.entry().step(BotStep::Rested, None, |status, event| {
            self.args.context.history.note(Fact::new(Change::SaveStatus(status), vec![event]));
        });
    }
}

/// A path that belongs to no message, so that a turn reads its own.
fn unknown_path() -> Path {
    Path { leaf: Some(MessageId::new()), ..Path::default() }
}

/// One bot.
pub(crate) struct BotActor;

impl Actor for BotActor {
    type Msg = BotMessage;
    type State = BotActorState;
    type Arguments = BotArgs;

    async fn pre_start(
        &self,
        _: ActorRef<Self::Msg>,
        args: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(BotActorState {
            args,
            talks: HashMap::new(),
            summaries: Summaries::default(),
            readiness: Readiness::Ready,
            looking: None,
            halted: false,
            rest_timer: false,
            moved_timer: false,
            last_turn: Timestamp::now(),
        })
    }

    async fn post_start(
        &self,
        me: ActorRef<Self::Msg>,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        state.arm_rest(&me);
        match state.args.recover {
            Some(cause) => state.recover(&me, cause).await,
            None => Ok(()),
        }
    }

    async fn handle(
        &self,
        me: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            BotMessage::Send { incoming, refused, reply } => {
                state.send(&me, incoming, refused, reply).await?
            }
            BotMessage::TurnEnded { turn, conversation, parent, leaf, entries, path } => {
                state.turn_ended(&me, turn, conversation, parent, leaf, entries, path);
                state.summarise(&me, conversation).await;
            }
            BotMessage::TurnGone { turn } => state.turn_gone(turn),
            BotMessage::LookForStrays => state.look_for_strays(&me).await?,
            BotMessage::Strays(found) => state.strays(&me, found).await?,
            BotMessage::StopTurn { turn, reply } => state.stop_turn(turn, reply),
            BotMessage::GetPlace { turn, reply } => {
                let _ = reply.send(state.place(turn));
            }
            BotMessage::MovedDue => state.moved_due(&me),
            BotMessage::HasRoom { conversation, reply } => {
                let _ = reply.send(state.has_room(conversation));
            }
            BotMessage::StopConversation { conversation, reply } => {
                state.stop_conversation(conversation, reply)
            }
            BotMessage::Halt { all, reply } => {
                let _ = reply.send(state.halt(all));
            }
            BotMessage::Exchange { exchange, reply } => {
                let _ = reply.send(state.exchange(*exchange));
            }
            BotMessage::ExchangeLost { conversation, reply, behind } => {
                state.exchange_lost(conversation, reply, behind);
            }
            BotMessage::Forget { conversation } => state.forget(conversation),
            BotMessage::ForgetTexts => state.forget_texts(),
            BotMessage::Recovered(found) => state.recovered(&me, found).await?,
            BotMessage::RecoveryWaits(problem) => state.recovery_waits(problem),
            BotMessage::RestDue => state.rest_due(&me),
            // The point of it: a real panic, for the supervisor to catch.
            BotMessage::Panic(reason) => panic!("{reason}"),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match exit_of(&event) {
            Some((work, exit)) if exit.is_abnormal() => state.work_died(work, &exit.to_string()),
            _ => Ok(()),
        }
    }
}
