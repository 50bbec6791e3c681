//! The façade: messages to bots.

use tokio::sync::oneshot;

use super::{abilities::Needs, branches::keeps_its_end, *};
use crate::{
    bot::{Again, BotMessage, Incoming, Refusal, StoredTalk, recovery},
    domain::{
        bot::{BotConfig, DEFAULT_NUM_CTX, check_overrides},
        event::Topic,
        idempotency::Idempotency,
        image::check_images,
    },
};

/// Largest content of a message, in bytes.
pub const CONTENT_MAX: usize = 256 * 1024;

/// What stays the same however often a message is handed over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ids {
    pub(super) turn: TurnId,
    message: MessageId,
    reply: MessageId,
}

impl Ids {
    pub(super) fn new() -> Self {
        // In this order: the order of ids is the order of creation.
        let (turn, message) = (TurnId::new(), MessageId::new());
        Self { turn, message, reply: MessageId::new() }
    }

    /// For a turn whose id was told already.
    pub(super) fn of_turn(turn: TurnId) -> Self {
        Self { turn, ..Self::new() }
    }

    /// For a message that is stored already.
    pub(super) fn of_message(self, message: MessageId) -> Self {
        Self { message, ..self }
    }
}

fn validate(send: &SendMessage) -> Result<(), Problem> {
    if send.content.trim().is_empty() {
        return Err(Problem::field("content", "must not be empty"));
    }
    if send.content.len() > CONTENT_MAX {
        return Err(Problem::field("content", format!("at most {CONTENT_MAX} bytes of UTF-8")));
    }
    if send.content.contains('\0') {
        return Err(Problem::field("content", "must not contain NUL"));
    }
    let mut errors = vec![];
    check_images(&send.images, "images", &mut errors);
    check_overrides(send.options.as_ref(), send.think.as_ref(), send.format.as_ref(), &mut errors);
    match errors.first() {
        None => Ok(()),
        Some(first) => {
            let detail = format!("{}: {}", first.field, first.reason);
            Err(Problem { errors, ..Problem::new(Code::InvalidRequest, detail) })
        }
    }
}

impl Controller {
    /// Sends a message. A text that is a slash command is carried out instead.
    ///
    /// # Errors
    /// Everything that can be wrong with a message before it is stored; nothing is stored then.
    pub async fn send(&self, message: SendMessage) -> Result<Sent, ControllerError> {
        self.send_with(message, Ids::new()).await
    }

    /// As `send`, with a reader that is attached to the turn's topic before the turn exists, so that it
    /// sees every event from the first on. There is none for a slash command, nor for a turn that was accepted before.
    ///
    /// # Errors
    /// As `send`.
    pub async fn send_streaming(
        &self,
        message: SendMessage,
    ) -> Result<(Sent, Option<Reader>), ControllerError> {
        let ids = Ids::new();
        let topic = Topic::Turn(ids.turn);
        let reader = self.reader();
        let hub = self.inner.hubs.hub(&topic);
        hub.init_head(0);
        hub.attach(reader.queue(), None);
        match self.send_with(message, ids).await {
            Ok(sent @ Sent::Turn(AcceptedTurn { replayed: false, .. })) => Ok((sent, Some(reader))),
            other => {
                drop(reader);
                self.inner.hubs.forget_topic(&topic);
                other.map(|sent| (sent, None))
            }
        }
    }

    async fn send_with(&self, message: SendMessage, ids: Ids) -> Result<Sent, Problem> {
        self.open()?;
        validate(&message)?;
        let main = self.entry(&message.bot_id)?.record().main_conversation_id;
        let command = commands::parse(&message.content).transpose()?;
        let (me, message) = (self.clone(), Arc::new(message));
        let keyed = message.idempotency_key.is_some();
        let work = async move {
            let fingerprint = || once::fingerprint_of(&message, main);
            let work = async |key| match command {
                Some(command) => me.command(command, &message, key).await,
                None => {
                    let entry = me.entry(&message.bot_id)?;
                    let _still = entry.moving.read().await;
                    // An import may have brought another main conversation meanwhile: a repetition goes by that one.
                    let main = entry.record().main_conversation_id;
                    let key = key
                        .map(|key| Idempotency { fingerprint: once::fingerprint_of(&message, main), ..key });
                    me.hand_over(message.clone(), ids, None, key).await
                }
            };
            match me.once(&message.bot_id, message.idempotency_key.clone(), fingerprint, work).await {
                Err(problem) => Err(me.refusal(&message.bot_id, message.conversation_id, problem).await),
                sent => sent,
            }
        };
        self.carry_out_keyed(work, keyed).await
    }

    /// Hands a message to its bot's actor; to the next one if that dies before it answers. The ids stay
    /// the same, so that it is stored once.
    pub(super) async fn hand_over(
        &self,
        send: Arc<SendMessage>,
        ids: Ids,
        again: Option<Arc<Again>>,
        idempotency: Option<Idempotency>,
    ) -> Result<Sent, Problem> {
        let entry = self.entry(&send.bot_id)?;
        crate::bot::takes_messages(entry.state(), send.bot_id.as_str())?;
        let admitted = || {
            entry.admission.clone().try_acquire_owned().map_err(|_| {
                if let Some(waited) = self.inner.history.watch().stalled() {
                    return storage_problem(&silent(waited));
                }
                Problem::new(
                    Code::BotBusy,
                    format!(
                        "Too many messages are on their way to {}. This one was not stored; try again.",
                        send.bot_id
                    ),
                )
                .retry_after(1)
            })
        };
        let _first = admitted()?;
        self.check_model(&send, &entry).await?;
        let siblings = match &again {
            Some(again) => {
                let home = send.conversation_id.unwrap_or(again.question.conversation_id);
                self.next_child(home, Some(again.question.id)).await?
            }
            None => self.check_parent(&send).await?,
        };
        let (mut conversation, mut repeated) = (None, false);
        let deadline = tokio::time::Instant::now() + CALL;
        loop {
            if let Err(problem) = crate::bot::takes_messages(entry.state(), send.bot_id.as_str()) {
                if !repeated {
                    return Err(problem);
                }
                // What the actor that died with it submitted is decided then, unless the process ends.
                self.inner.history.barrier().await;
                return self.stored_before(&entry, ids, again.as_deref()).await?.ok_or_else(|| {
                    let unknown =
                        "Its bot went down with this message, and it is not known whether it was stored.";
                    Problem::new(Code::Unavailable, unknown).retry_after(1)
                });
            }
            let Ok(actor) =
                entry.actor.wait(deadline.saturating_duration_since(tokio::time::Instant::now())).await
            else {
                return Err(not_answered(SlotError::Timeout));
            };
            let incoming = Incoming {
                turn: ids.turn,
                message: ids.message,
                reply: ids.reply,
                send: send.clone(),
                again: again.clone(),
                siblings,
                idempotency: idempotency.clone(),
                conversation: conversation.take(),
                repeated,
            };
            let (refused, refusal) = oneshot::channel();
            let (reply, answer) = oneshot::channel();
            let message = BotMessage::Send { incoming: Box::new(incoming), refused, reply: reply.into() };
            if actor.cast(message).is_err() {
                tokio::task::yield_now().await;
                continue;
            }
            match refusal.await {
                Ok(Refusal::LookUp(asked_by)) => {
                    // Perhaps it ended since: it must not be put behind what came after it.
                    if repeated && let Some(sent) = self.stored_before(&entry, ids, again.as_deref()).await? {
                        return Ok(sent);
                    }
                    let stored = self.conversation_of(&send.bot_id, send.conversation_id).await?;
                    let beyond = self.next_child(stored.id, stored.leaf_message_id).await? - 1;
                    conversation = Some(StoredTalk { asked_by, conversation: stored, beyond });
                }
                Ok(Refusal::Problem(problem)) => return Err(*problem),
                // Dropped without a word: it was taken, or the actor died.
                Err(_) => match answer.await {
                    Ok(result) => return result,
                    Err(_) => {
                        repeated = true;
                        tokio::task::yield_now().await;
                    }
                },
            }
        }
    }

    /// What became of a message that an actor died with; none where it is not stored.
    async fn stored_before(
        &self,
        entry: &Arc<BotEntry>,
        ids: Ids,
        again: Option<&Again>,
    ) -> Result<Option<Sent>, Problem> {
        let message = again.map_or(ids.message, |again| again.question.id);
        match recovery::found(&self.turn_context(entry.clone()), ids.turn, message).await {
            Err(problem) if problem.code == Code::MessageNotFound => Ok(None),
            found => found.map(|accepted| Some(Sent::Turn(accepted))),
        }
    }

    /// Refuses a context above what the model can, and what it is not able to do at all, where that is known.
    async fn check_model(&self, send: &SendMessage, entry: &BotEntry) -> Result<(), Problem> {
        let record = entry.record();
        let options = match &send.options {
            Some(over) => record.config.options.overlaid(over),
            None => record.config.options.clone(),
        };
        let needs = Needs::of_message(&record.config, send.think.as_ref(), send.images.len());
        let large = options.num_ctx.is_some_and(|asked| asked != DEFAULT_NUM_CTX);
        let inference = &self.inner.inference;
        let model = match record.config.model.as_str() {
            "" => inference.any_that_chats().await.unwrap_or_default(),
            _ => inference.model_for(&record.config),
        };
        // Learnt once per model; a server that does not know it says so when it is asked to answer.
        let details = async || match model.as_str() {
            "" => None,
            named => inference.learnt(named).await,
        };
        if !needs.is_empty()
            && let Some(details) = details().await
        {
            needs.check(&model, &details.capabilities)?;
        }
        let maximum = match inference.known_context(&model) {
            // Hardly any model has less, and the first message is not to wait for the question.
            None if !large => return Ok(()),
            None => details().await.and_then(|d| d.context_length),
            known => known,
        };
        let config = BotConfig { model, options, ..BotConfig::default() };
        super::bots::check_context(&config, maximum, "options.num_ctx")
    }

    /// Checks an explicit parent and answers the place that the message will have among its siblings.
    async fn check_parent(&self, send: &SendMessage) -> Result<u32, Problem> {
        let Some(parent) = send.parent_id else { return Ok(1) };
        let conversation = self.conversation_of(&send.bot_id, send.conversation_id).await?;
        keeps_its_end(&conversation, parent)?;
        if let Some(parent) = parent {
            let found = self.message(&send.bot_id, parent, None).await?.message;
            if !self.stands_in(conversation.id, &found).await? {
                return Err(Problem::field("parent_id", "is not a message of this conversation"));
            }
        }
        self.next_child(conversation.id, parent).await
    }
}
