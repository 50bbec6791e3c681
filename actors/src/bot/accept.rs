//! Accepting a message: everything that can refuse it, then the one fact that stores message, turn and pending reply
//! together, and the work that answers it. Where a slot is free, the start of the turn is part of that same fact, so
//! the first token is one commit away.

use std::{collections::hash_map::Entry, sync::Arc, time::Duration};

use ractor::{ActorId, ActorProcessingErr, ActorRef};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::oneshot;

use super::{
    BotActorState, BotMessage, SendReply, Talk,
    context::{
        self, ContextEntry, Path,
        window::{self, Behind, Plan, Said},
    },
    lane::Place,
    rounds::Rounds,
    stop::{Phase, Stop},
    talk::make_room,
    turn::{TurnJob, TurnShared},
    turn_events,
};
use crate::{
    controller::requests::SendMessage,
    domain::{
        bot::{BotConfig, BotState, Options},
        event::{EventBody, NewEvent, SummaryUse, TurnProgress},
        idempotency::Idempotency,
        ids::{ConversationId, MessageId, TurnId},
        message::{Conversation, Message, MessageState, Sender, Siblings},
        problem::{Code, Problem},
        time::Timestamp,
        turn::{ContextUse, Timings, Turn, TurnState, Usage},
    },
    inference::{Claim, Comes, SlotPermit, Want},
    ports::history_store::{Change, Fact},
};

/// A message on its way in, with ids that stay the same if it has to be handed to the bot's next actor.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub turn: TurnId,
    pub message: MessageId,
    pub reply: MessageId,
    pub send: Arc<SendMessage>,
    /// Set where a message that is stored already gets one more answer.
    pub again: Option<Arc<Again>>,
    /// Place of what is new among its siblings, where the caller knows it: of an edit, or of one more answer.
    pub siblings: u32,
    /// The key of its request.
    pub idempotency: Option<Idempotency>,
    /// The conversation as stored, where the caller had to look it up.
    pub conversation: Option<StoredTalk>,
    /// An actor died with it: it may be stored.
    pub repeated: bool,
}

/// A message that is answered once more.
#[derive(Debug)]
pub(crate) struct Again {
    /// The turn that answered it before.
    pub attempt_of: TurnId,
    pub question: Message,
}

/// A conversation as storage knows it.
#[derive(Debug)]
pub(crate) struct StoredTalk {
    /// The actor that asked. What was looked up for an earlier one may be older than what that one stored.
    pub asked_by: ActorId,
    pub conversation: Conversation,
    /// Messages that continue it already where its active path ends.
    pub beyond: u32,
}

/// Why a bot did not take a message.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Look up the conversation, and a repeated message itself, and hand it in with the message.
    LookUp(ActorId),
    /// A problem for the caller.
    Problem(Box<Problem>),
}

/// What a message asks for instead of its bot's configuration, as stored with its turn.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Overrides {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub options: Option<Options>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub think: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<Value>,
}

impl Overrides {
    fn of(send: &SendMessage) -> Option<Value> {
        let asked =
            Self { options: send.options.clone(), think: send.think.clone(), format: send.format.clone() };
        let any = asked.options.is_some() || asked.think.is_some() || asked.format.is_some();
        any.then(|| serde_json::to_value(asked).unwrap_or_default())
    }
}

/// What [`BotActorState::prepare`] found out.
pub(super) struct Prepared {
    conversation: ConversationId,
    parent: Option<MessageId>,
    place: Place,
    options: Options,
    model: String,
    path: Option<Arc<Path>>,
    begun: Option<(SlotPermit, Plan)>,
    /// Room in the line of the model server, where it does not begin at once.
    claim: Claim,
    /// Tokens that it is expected to cost there.
    cost: u32,
    /// How full the context will be, where nothing is still to be said before it.
    usage: ContextUse,
    /// Estimated tokens of the message alone.
    tokens: u32,
    config: Arc<BotConfig>,
}

/// The line of a conversation has no room.
pub(super) fn full(limit: usize) -> Problem {
    Problem::new(
        Code::ConversationQueueFull,
        format!(
            "{limit} messages wait behind the running one in this conversation. This one was not stored; try again when one is answered."
        ),
    )
}

impl BotActorState {
    /// Everything that can refuse a message before anything is stored.
    pub(super) fn prepare(&mut self, me: ActorId, incoming: &mut Incoming) -> Result<Prepared, Refusal> {
        let looked_up = incoming.conversation.take().filter(|stored| stored.asked_by == me);
        if incoming.repeated && looked_up.is_none() {
            return Err(Refusal::LookUp(me));
        }
        let problem = |p: Problem| Refusal::Problem(Box::new(p));
        let record = self.entry().record();
        let conversation = incoming.send.conversation_id.unwrap_or(record.main_conversation_id);
        if looked_up.is_some() && !self.talks.contains_key(&conversation) {
            make_room(&mut self.talks);
        }
        let talk = match self.talks.entry(conversation) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let stored = looked_up.ok_or(Refusal::LookUp(me))?;
                let leaf = stored.conversation.leaf_message_id;
                let path = leaf.is_none().then(|| Arc::new(Path::default()));
                new.insert(Talk { leaf, beyond: stored.beyond, path, ..Talk::default() })
            }
        };
        let place = talk.lane.place(self.args.queue_limit);
        if place == Place::Full {
            return Err(problem(full(self.args.queue_limit)));
        }
        let send = &incoming.send;
        let options = send
            .options
            .as_ref()
            .map_or_else(|| record.config.options.clone(), |over| record.config.options.overlaid(over));
        let parent = match &incoming.again {
            Some(again) => again.question.parent_id,
            None => send.parent_id.unwrap_or(talk.leaf),
        };
        if incoming.again.is_none() && send.parent_id.is_none() {
            incoming.siblings = talk.beyond + 1;
        }
        let inference = &self.args.context.inference;
        let model = inference.model_for(&record.config);
        let estimator = inference.estimator(&model, &record.config);
        let probe = ContextEntry::asked(send.content.clone(), send.images.clone());
        let probe_tokens =
            window::check_fits(&record.config, &options, &probe, estimator).map_err(problem)?;
        let path = talk.path.clone().filter(|p| p.leaf == parent);
        let (num_ctx, _) = context::budget(&options);
        let (mut begun, mut used) = (None, probe_tokens);
        let mut usage = ContextUse { num_ctx, ..ContextUse::default() };
        if place == Place::Now
            && let Some(path) = &path
        {
            let summary = self.summaries.for_use(&record.config, path);
            let said = Said { path, summary: summary.as_deref(), most: u32::MAX };
            let (config, behind) = (&record.config, Behind::default());
            let plan = window::plan(config, &options, said, &probe, behind, estimator).map_err(problem)?;
            (used, usage) = (plan.usage.used, plan.usage);
            begun = inference.try_acquire(incoming.turn, &model).map(|permit| (permit, plan));
        }
        let claim = match (&begun, place) {
            (Some(_), _) => Claim::Nothing,
            (None, Place::Now) => inference.reserve(&model, Comes::AtOnce).map_err(problem)?,
            (None, _) => inference.reserve(&model, Comes::Later).map_err(problem)?,
        };
        Ok(Prepared {
            conversation,
            parent,
            place,
            model,
            path,
            begun,
            claim,
            cost: context::cost(used, &options),
            usage,
            tokens: estimator.text(&send.content),
            options,
            config: Arc::new(record.config.clone()),
        })
    }

    pub(super) async fn accept(
        &mut self,
        me: &ActorRef<BotMessage>,
        incoming: Incoming,
        prepared: Prepared,
        reply_port: SendReply,
    ) -> Result<(), ActorProcessingErr> {
        let context = self.args.context.clone();
        let bot_id = context.entry.id();
        let now = Timestamp::now();
        let send = &incoming.send;
        let siblings = Siblings { index: incoming.siblings, count: incoming.siblings };
        let asked = |again: &Arc<Again>| again.question.clone();
        let message = incoming.again.as_ref().map(asked).unwrap_or_else(|| Message {
            id: incoming.message,
            bot_id: bot_id.clone(),
            conversation_id: prepared.conversation,
            parent_id: prepared.parent,
            turn_id: Some(incoming.turn),
            sender: Sender::User,
            content: send.content.clone(),
            thinking: None,
            tool_calls: None,
            images: (!send.images.is_empty()).then(|| send.images.clone()),
            tokens: prepared.tokens,
            state: MessageState::Complete,
            siblings,
            created_at: now,
            metadata: send.metadata.clone(),
        });
        let reply = Message {
            id: incoming.reply,
            // A fork may ask a message again that it shares.
            conversation_id: prepared.conversation,
            parent_id: Some(message.id),
            turn_id: Some(incoming.turn),
            sender: Sender::Bot,
            content: "".into(),
            images: None,
            tokens: 0,
            state: MessageState::Pending,
            siblings: if incoming.again.is_some() { siblings } else { Siblings { index: 1, count: 1 } },
            created_at: now,
            metadata: serde_json::Map::new(),
            ..message.clone()
        };
        let want = Want {
            turn: incoming.turn,
            conversation: prepared.conversation,
            bot: bot_id.clone(),
            class: send.class,
            model: prepared.model.clone(),
            cost: prepared.cost,
            waited: Duration::ZERO,
            told: None,
            tried: vec![],
        };
        let queue = match (&prepared.begun, prepared.place) {
            (Some(_), _) => None,
            (None, Place::Behind(_)) => self.places(prepared.conversation, Some(&want)).pop(),
            (None, _) => Some(context.inference.next_place(&want)),
        };
        let begins = prepared.begun.is_some();
        let summary = prepared.begun.as_ref().and_then(|(_, plan)| plan.summary);
        let turn = Turn {
            id: incoming.turn,
            bot_id,
            conversation_id: prepared.conversation,
            message_id: message.id,
            reply_id: reply.id,
            state: if begins { TurnState::Generating } else { TurnState::Queued },
            server: prepared.begun.as_ref().and_then(|(p, _)| p.gate()).map(|g| g.spec.name.clone()),
            model: prepared.model,
            attempt_of: incoming.again.as_ref().map(|again| again.attempt_of),
            queue,
            usage: Usage::default(),
            timings: Timings { queued_ms: begins.then_some(0.0), ..Timings::default() },
            context: prepared.usage,
            error: None,
            created_at: now,
            ended_at: None,
            stale: false,
        };
        let submitted = context.entry.turn_accepted(turn.id, begins, |changed| {
            // What is new: the message, or only one more answer to it.
            let new = if incoming.again.is_some() { &reply } else { &message };
            let events = accept_events(&turn, new, changed, summary);
            let change = Change::AcceptTurn {
                turn: turn.clone(),
                message: message.clone(),
                reply: reply.clone(),
                overrides: Overrides::of(send),
                idempotency: incoming.idempotency.clone(),
            };
            context.history.offer(Fact::new(change, events))
        });
        let live = context.hubs.begin_reply(turn.bot_id.clone(), turn.id, reply.id, turn.conversation_id);
        let waits = (!begins && prepared.place != Place::Now).then(oneshot::channel);
        let (go, gone) = waits.map_or((None, None), |(sender, receiver)| (Some(sender), Some(receiver)));
        let unsaved = context.history.backlog().unsaved();
        let job = Box::new(TurnJob {
            context,
            bot: me.clone(),
            shared: TurnShared::new(turn, message, live),
            reply,
            config: prepared.config,
            options: prepared.options,
            think: incoming.send.think.clone(),
            format: incoming.send.format.clone(),
            summaries: self.summaries.clone(),
            stop: Stop::default(),
            phase: Phase::Queued,
            accept: Some((submitted, reply_port)),
            go: gone,
            path: prepared.path,
            class: incoming.send.class,
            claim: prepared.claim,
            begun: prepared.begun,
            asked: None,
            largest: None,
            refuted: false,
            most: u32::MAX,
            waited: Duration::ZERO,
            rounds: Rounds::default(),
            unsaved,
        });
        self.keep(me, job, go).await
    }
}

/// The events of an acceptance, in the order in which they happened.
fn accept_events(
    turn: &Turn,
    message: &Message,
    changed: Option<NewEvent>,
    summary: Option<SummaryUse>,
) -> Vec<NewEvent> {
    let topics = || turn_events::topics(turn);
    let accepted = TurnProgress {
        turn_id: turn.id,
        position: None,
        eta_s: None,
        offline: None,
        server: None,
        model: Some(turn.model.clone()),
    };
    let mut events = vec![
        NewEvent::new(topics(), &EventBody::MessageReceived { message: message.clone() }),
        NewEvent::new(topics(), &EventBody::TurnAccepted(accepted)),
    ];
    match &turn.queue {
        Some(place) => events.push(turn_events::queued(turn, place)),
        None => {
            events.extend(changed);
            events.extend(turn_events::trimmed(turn, summary));
            events.push(turn_events::started(turn));
        }
    }
    events
}

/// Whether a bot takes messages in this state; the problem if not.
pub(crate) fn takes_messages(state: BotState, name: &str) -> Result<(), Problem> {
    match state {
        BotState::Quarantined => Err(Problem::new(
            Code::BotQuarantined,
            format!("{name} crashed too often and is quarantined. Restart it when the cause is gone."),
        )),
        state if state.accepts_messages() => Ok(()),
        _ => Err(Problem::new(Code::BotNotRunning, format!("{name} is stopped. Start it first."))),
    }
}
