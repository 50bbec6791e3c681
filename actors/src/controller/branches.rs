//! The façade: branches. One more answer to the same message, a new conversation or a fork, a message among its siblings, and what
//! may be an end or a beginning of a path.

use super::{chat::check_title, send::Ids, *};
use crate::{
    bot::{Again, Overrides},
    domain::{
        event::{EventBody, NewEvent, Topic},
        idempotency::{Fingerprint, Idempotency, IdempotencyKey},
        message::{MessageState, Siblings},
        time::Timestamp,
    },
    ports::history_store::Cursor,
};

impl Controller {
    /// A new conversation; a fork, where it begins with a message of the bot.
    ///
    /// # Errors
    /// `bot_not_found`, `invalid_request`, `message_not_found`, `conversation_busy` where that message is still being
    /// written, `storage_unavailable`.
    pub async fn new_conversation(
        &self,
        bot: &BotId,
        new: NewConversation,
    ) -> Result<Conversation, ControllerError> {
        self.open()?;
        self.entry(bot)?;
        let title = check_title(new.title)?;
        let leaf_message_id = match new.from_message_id {
            Some(id) => Some(self.beginning(bot, id).await?),
            None => None,
        };
        let conversation = Conversation {
            id: ConversationId::new(),
            bot_id: bot.clone(),
            title,
            main: false,
            leaf_message_id,
            message_count: 0,
            archived: false,
            legal_hold: false,
            created_at: Timestamp::now(),
            last_at: None,
        };
        let (me, bot) = (self.clone(), bot.clone());
        self.carry_out(async move {
            let told = EventBody::ConversationChanged { conversation: conversation.clone() };
            let told = NewEvent::new(vec![Topic::Bot(bot.clone())], &told);
            let fact = Fact::new(Change::CreateConversation(conversation.clone()), vec![told]);
            let made = me.inner.history.append(fact).await?.applied
                // A repetition, after a crash of the actor, does not apply either.
                || me.conversation_of(&bot, Some(conversation.id)).await.is_ok();
            if !made {
                me.entry(&bot)?;
                return Err(Problem::new(Code::MessageNotFound, "The message was deleted in this moment."));
            }
            Ok(conversation)
        })
        .await
    }

    /// Answers the message of an ended turn once more: a new turn, whose reply stands beside the earlier ones. It waits
    /// in the line of the conversation like a message, and its reply becomes the end of the active path.
    ///
    /// # Errors
    /// `turn_not_found`, `message_not_found` where the message was deleted, `conversation_busy` while the turn has not
    /// ended, and everything that a send may answer.
    pub async fn regenerate(
        &self,
        turn: TurnId,
        key: Option<IdempotencyKey>,
    ) -> Result<AcceptedTurn, ControllerError> {
        self.open()?;
        let before = self.stored_turn(turn).await?;
        let (me, keyed) = (self.clone(), key.is_some());
        let work = async move {
            let fingerprint = || Fingerprint::of(&("regenerate", turn));
            let work = async |key| {
                if !before.state.is_terminal() {
                    return Err(unfinished("This turn has"));
                }
                me.answer_again(&before, before.conversation_id, Ids::new(), key).await
            };
            match me.once(&before.bot_id, key, fingerprint, work).await {
                Err(problem) => Err(me.refusal(&before.bot_id, Some(before.conversation_id), problem).await),
                sent => sent,
            }
        };
        match self.carry_out_keyed(work, keyed).await? {
            Sent::Turn(accepted) => Ok(accepted),
            Sent::Command { .. } => {
                Err(Problem::new(Code::Internal, "A turn was answered as a command; this is a defect."))
            }
        }
    }

    /// Hands a message to its bot once more, asked as it was the first time. The answer is of `conversation`, which may only
    /// share the message.
    pub(super) async fn answer_again(
        &self,
        before: &Turn,
        conversation: ConversationId,
        ids: Ids,
        idempotency: Option<Idempotency>,
    ) -> Result<Sent, Problem> {
        let question = self.message(&before.bot_id, before.message_id, None).await?.message;
        let asked = self.read(self.inner.store.turn_overrides(before.id)).await?;
        let overrides: Overrides = asked.and_then(|v| serde_json::from_value(v).ok()).unwrap_or_default();
        let send = SendMessage {
            conversation_id: Some(conversation),
            images: question.images.clone().unwrap_or_default(),
            options: overrides.options,
            think: overrides.think,
            format: overrides.format,
            ..SendMessage::text(before.bot_id.clone(), question.content.clone())
        };
        let ids = ids.of_message(question.id);
        let again = Again { attempt_of: before.id, question };
        self.hand_over(Arc::new(send), ids, Some(Arc::new(again)), idempotency).await
    }

    /// One message of a bot, with the ids of its siblings: those that its conversation has, or the fork that shows it.
    ///
    /// # Errors
    /// `bot_not_found`, `conversation_not_found`, `message_not_found`, also where the fork does not show it.
    pub async fn message(
        &self,
        bot: &BotId,
        id: MessageId,
        seen_from: Option<ConversationId>,
    ) -> Result<MessageWithSiblings, ControllerError> {
        self.entry(bot)?;
        let store = &self.inner.store;
        let found = self.read(store.message(bot, id)).await?;
        let mut message = found
            .ok_or_else(|| Problem::new(Code::MessageNotFound, format!("{bot} has no message {id}.")))?;
        let home = match seen_from {
            Some(fork) => {
                let fork = self.conversation_of(bot, Some(fork)).await?.id;
                if !self.stands_in(fork, &message).await? {
                    return Err(elsewhere(id));
                }
                fork
            }
            None => message.conversation_id,
        };
        let mut ids = self.read(store.children(home, message.parent_id)).await?;
        // On the path of a fork that has nothing of its own yet.
        let index = ids.binary_search(&id).unwrap_or_else(|at| {
            ids.insert(at, id);
            at
        });
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        message.siblings = Siblings { index: number(index + 1), count: number(ids.len()) };
        Ok(MessageWithSiblings { ids, message })
    }

    /// The newest message at or below a message, in its conversation or in the fork that shows it: what to choose as the end
    /// of the active path to see its branch again.
    ///
    /// # Errors
    /// `bot_not_found`, `message_not_found`.
    pub async fn newest_below(
        &self,
        bot: &BotId,
        id: MessageId,
        seen_from: Option<ConversationId>,
    ) -> Result<MessageId, ControllerError> {
        let home = self.message(bot, id, seen_from).await?.message.conversation_id;
        let newest = self.read(self.inner.store.newest_below(seen_from.unwrap_or(home), id)).await?;
        Ok(newest.unwrap_or(id))
    }

    /// A message that a conversation may begin with: one of the bot's that is written to its end.
    pub(super) async fn beginning(&self, bot: &BotId, id: MessageId) -> Result<MessageId, Problem> {
        let message = self.message(bot, id, None).await?.message;
        match message.state {
            MessageState::Pending => Err(unfinished("This answer has")),
            MessageState::Complete | MessageState::Partial => Ok(id),
        }
    }

    /// Refuses what an earlier bot of this id left, which is kept to be read.
    pub(super) async fn not_retired(&self, bot: &BotId, id: ConversationId) -> Result<(), Problem> {
        let own = self.read(self.inner.store.conversations(bot)).await?;
        if own.iter().any(|c| c.id == id) {
            return Ok(());
        }
        let detail = format!(
            "Conversation {id} is of an earlier bot {bot}, which was deleted, and is kept to be read. To go on from it, begin a \
             conversation with one of its messages (from_message_id); to take it over, export and import it."
        );
        Err(Problem::new(Code::ConversationRetired, detail))
    }

    /// Why a conversation does not take a message: a kept one never will. Looked at only once it was refused.
    pub(super) async fn refusal(&self, bot: &BotId, id: Option<ConversationId>, problem: Problem) -> Problem {
        match id {
            Some(id) if problem.code == Code::StorageUnavailable => match self.not_retired(bot, id).await {
                Err(retired) if retired.code == Code::ConversationRetired => retired,
                _ => problem,
            },
            _ => problem,
        }
    }

    /// Whether a message stands in a conversation: it was created there, the conversation shares it, or the active path, which may
    /// begin elsewhere, leads over it.
    pub(super) async fn stands_in(
        &self,
        conversation: ConversationId,
        message: &Message,
    ) -> Result<bool, Problem> {
        if message.conversation_id == conversation {
            return Ok(true);
        }
        if self.read(self.inner.store.children(conversation, message.parent_id)).await?.contains(&message.id)
        {
            return Ok(true);
        }
        let page = self.read(self.inner.store.page(conversation, Cursor::Before(message.id), 1)).await?;
        Ok(page.is_some())
    }

    /// The place that one more message below this one will have among its siblings, from 1.
    pub(super) async fn next_child(
        &self,
        conversation: ConversationId,
        parent: Option<MessageId>,
    ) -> Result<u32, Problem> {
        let children = self.read(self.inner.store.children(conversation, parent)).await?.len();
        Ok(u32::try_from(children).unwrap_or(u32::MAX).saturating_add(1))
    }
}

/// Refuses to move the end of a held fork that has no message of its own: what it shows is held by its end alone.
pub(super) fn keeps_its_end(home: &Conversation, end: Option<MessageId>) -> Result<(), Problem> {
    match home.leaf_message_id {
        Some(leaf) if home.legal_hold && home.message_count == 0 && end != Some(leaf) => Err(Problem::new(
            Code::LegalHold,
            format!(
                "Conversation {} is under legal hold and has no message of its own yet: it goes on only where it ends, behind \
                 message {leaf}.",
                home.id
            ),
        )),
        _ => Ok(()),
    }
}

pub(super) fn elsewhere(id: MessageId) -> Problem {
    Problem::new(Code::MessageNotFound, format!("Message {id} is not of this conversation."))
}

fn unfinished(what: &str) -> Problem {
    Problem::new(Code::ConversationBusy, format!("{what} not ended. Stop it or wait for its end."))
}
