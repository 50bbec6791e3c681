//! The façade: slash commands carried out.

use serde_json::{Map, Value};

use super::{
    chat::{busy, cleared},
    send::Ids,
    turns::STOP_TRIES,
    *,
};
use crate::{
    bot::{BotMessage, Clears, Exchange, behind_a_lost_one, submit_exchange, takes_messages},
    commands::Command,
    domain::{
        idempotency::Idempotency,
        message::{MessageState, Sender, Siblings},
        time::Timestamp,
    },
    ports::history_store::Cursor,
};

/// In the metadata of an answer: the turn that it promises, and the one that this repeats.
const TURN: &str = "turn_id";
const ATTEMPT_OF: &str = "attempt_of";

/// How often a conversation is cleared again in which something was said meanwhile.
const CLEAR_TRIES: u32 = 5;

impl Controller {
    /// Carries out a command and stores it with its answer.
    pub(super) async fn command(
        &self,
        command: Command,
        asked: &SendMessage,
        idempotency: Option<Idempotency>,
    ) -> Result<Sent, Problem> {
        let entry = self.entry(&asked.bot_id)?;
        let conversation = self.settled_conversation_of(&asked.bot_id, asked.conversation_id).await?;
        tracing::info!(bot.id = %asked.bot_id, action = ?std::mem::discriminant(&command), "slash command");
        let again = match &command {
            Command::Retry => {
                takes_messages(entry.state(), asked.bot_id.as_str())?;
                // Before anything is stored: the answer says that the message is asked again.
                let room = |reply| BotMessage::HasRoom { conversation: conversation.id, reply };
                entry.actor.call(room, CALL).await.map_err(not_answered)??;
                Some(self.last_turn(&asked.bot_id, conversation.id).await?)
            }
            _ => None,
        };
        let answer = match command {
            Command::Help => commands::help(),
            Command::Status => status_text(&entry.bot()),
            Command::Model(name) => self.use_model(&asked.bot_id, name).await?,
            Command::System(text) => self.use_system_prompt(&asked.bot_id, text).await?,
            Command::Clear => return self.clear_with(asked, conversation.id, idempotency).await,
            Command::Stop => self.stop_running(&entry, conversation.id).await?,
            Command::Retry => {
                "Asking the last message again. The earlier answer is kept beside it.".to_owned()
            }
        };
        // The answer names the turn that it begins, so that a caller can follow and stop it, and what that repeats: a process
        // that dies in between has promised it, and the same key makes it true.
        let ids = Ids::new();
        let metadata = again.as_ref().map_or_else(Map::new, |before| {
            let name = |key: &str, turn: TurnId| (key.to_owned(), Value::String(turn.to_string()));
            Map::from_iter([name(TURN, ids.turn), name(ATTEMPT_OF, before.id)])
        });
        let stored = self.conversation_of(&asked.bot_id, Some(conversation.id)).await?;
        let place = self.next_child(stored.id, stored.leaf_message_id).await?;
        let exchange = exchange(asked, &stored, place, answer, metadata, idempotency);
        let (message, reply) = self.store_exchange(&entry, exchange).await?.ok_or_else(busy)?;
        if let Some(before) = again {
            self.answer_again(&before, conversation.id, ids, None).await?;
        }
        Ok(Sent::Command { message, reply, replayed: false })
    }

    /// Clears a conversation in favour of the command and its answer, in one change: a process that dies has done both or neither,
    /// and so says the key.
    async fn clear_with(
        &self,
        asked: &SendMessage,
        id: ConversationId,
        idempotency: Option<Idempotency>,
    ) -> Result<Sent, Problem> {
        let (bot, entry) = (&asked.bot_id, self.entry(&asked.bot_id)?);
        self.not_retired(bot, id).await?;
        for _ in 0..CLEAR_TRIES {
            self.nothing_held(bot, |held| held == id).await?;
            self.stop_all(bot, &[id]).await?;
            let stored = self.conversation_of(bot, Some(id)).await?;
            let messages = stored.message_count;
            let answer = format!("Deleted {messages} messages of this conversation.");
            let stored = Conversation { leaf_message_id: None, ..stored };
            let mut exchange = exchange(asked, &stored, 1, answer, Map::new(), idempotency.clone());
            exchange.clears = Some(Clears { messages, audit: cleared(id) });
            if let Some((message, reply)) = self.store_exchange(&entry, exchange).await? {
                for forget in [BotMessage::Forget { conversation: id }, BotMessage::ForgetTexts] {
                    let _ = entry.actor.cast(forget);
                }
                return Ok(Sent::Command { message, reply, replayed: false });
            }
            // Something was said in between, or is on its way: that goes too.
            let watch = self.inner.history.watch();
            tokio::select! {
                biased;
                () = self.inner.history.barrier() => {}
                () = watch.gave_up() => return Err(not_known(watch.limit(), false)),
            }
        }
        Err(busy())
    }

    /// Begins the turn that the answer to a command promised, where that did not happen.
    pub(super) async fn keep_promise(&self, answer: &Message) -> Result<(), Problem> {
        let named = |key: &str| answer.metadata.get(key)?.as_str()?.parse::<TurnId>().ok();
        let Some((turn, before)) = named(TURN).zip(named(ATTEMPT_OF)) else { return Ok(()) };
        if self.read(self.inner.store.turn_snapshot(turn)).await?.is_none() {
            let before = self.stored_turn(before).await?;
            self.answer_again(&before, answer.conversation_id, Ids::of_turn(turn), None).await?;
        }
        Ok(())
    }

    /// The turn of the last message on the path that a model was asked.
    async fn last_turn(&self, bot: &BotId, conversation: ConversationId) -> Result<Turn, Problem> {
        let newest = Cursor::Newest { offset: 0 };
        let page = self.read(self.inner.store.page(conversation, newest, 200)).await?;
        let turns = page.into_iter().flat_map(|p| p.items).filter_map(|m| m.turn_id);
        match turns.last() {
            Some(turn) => self.stored_turn(turn).await,
            None => {
                Err(Problem::new(Code::InvalidCommand, format!("There is no message to {bot} to ask again.")))
            }
        }
    }

    async fn use_model(&self, bot: &BotId, name: String) -> Result<String, Problem> {
        let config = Value::Object(Map::from_iter([("model".to_owned(), Value::String(name.clone()))]));
        let patched = self.patch(bot, PatchBot { config: Some(config), ..PatchBot::default() }).await?;
        let warning = patched.warnings.first().map(|w| format!("\n\n{w}")).unwrap_or_default();
        Ok(format!("{} answers with `{name}` from the next message on.{warning}", patched.name))
    }

    async fn use_system_prompt(&self, bot: &BotId, text: String) -> Result<String, Problem> {
        let removed = text.is_empty();
        let config = Value::Object(Map::from_iter([("system_prompt".to_owned(), Value::String(text))]));
        self.patch(bot, PatchBot { config: Some(config), ..PatchBot::default() }).await?;
        Ok(match removed {
            true => "The system prompt is removed from the next message on.".to_owned(),
            false => "The system prompt is set from the next message on.".to_owned(),
        })
    }

    async fn stop_running(&self, entry: &BotEntry, conversation: ConversationId) -> Result<String, Problem> {
        match self.running_in(entry, conversation).await? {
            None => Ok("Nothing runs in this conversation.".to_owned()),
            Some(turn) => {
                self.stop_turn(turn).await?;
                Ok("Stopped. What is written is kept.".to_owned())
            }
        }
    }

    /// The turn of a conversation that is to be stopped. Its bot says so, once it has found what the actor before left; the
    /// record where the bot has no actor.
    async fn running_in(
        &self,
        entry: &BotEntry,
        conversation: ConversationId,
    ) -> Result<Option<TurnId>, Problem> {
        for _ in 0..STOP_TRIES {
            let stop = |reply| BotMessage::StopConversation { conversation, reply };
            match entry.actor.call(stop, CALL).await {
                Ok(first) => return first,
                // The actor died with the word; its successor, or the record, is next.
                Err(SlotError::Lost) => {}
                Err(SlotError::Down) => {
                    self.inner.history.barrier().await;
                    let open = self.read(self.inner.store.open_turns(Some(&entry.id()))).await?;
                    let mut turns = open.into_iter().map(|(turn, ..)| turn);
                    return Ok(turns.find(|turn| turn.conversation_id == conversation).map(|turn| turn.id));
                }
                Err(SlotError::Timeout) => break,
            }
        }
        Err(not_answered(SlotError::Timeout))
    }

    /// Stores a command and its answer; none where it clears a conversation that is not as it was.
    async fn store_exchange(
        &self,
        entry: &BotEntry,
        exchange: Exchange,
    ) -> Result<Option<(Message, Message)>, Problem> {
        let (conversation, clears) = (exchange.message.conversation_id, exchange.clears.is_some());
        let exchanged = match entry.actor.get() {
            // Only the bot knows where the conversation ends while turns are on their way.
            Some(_) => {
                let exchange = Box::new(exchange);
                let put = |reply| BotMessage::Exchange { exchange, reply };
                entry.actor.call(put, CALL).await.map_err(not_answered)?
            }
            None => {
                let behind = exchange.message.parent_id;
                Some(submit_exchange(&self.inner.history, exchange, behind))
            }
        };
        let Some(exchanged) = exchanged else { return Ok(None) };
        let store = &self.inner.store;
        let stored = match exchanged.submitted.outcome().await {
            // Stored by an actor that died before it could say so, or behind a message that is not.
            Ok(done) if !done.applied => {
                let found = self.read(store.message(&exchanged.message.bot_id, exchanged.message.id)).await;
                found.map(|found| found.is_some())
            }
            done => done.map(|_| true).map_err(|e| storage_problem(&e)),
        };
        if stored.as_ref().is_ok_and(|stored| *stored) {
            return Ok(Some((exchanged.message, exchanged.reply)));
        }
        let (reply, behind) = (exchanged.reply.id, exchanged.behind);
        let _ = entry.actor.cast(BotMessage::ExchangeLost { conversation, reply, behind });
        match stored {
            Ok(_) if clears => Ok(None),
            stored => Err(stored.err().unwrap_or_else(behind_a_lost_one)),
        }
    }
}

/// A command and its answer at the end of a conversation.
fn exchange(
    asked: &SendMessage,
    home: &Conversation,
    place: u32,
    answer: String,
    metadata: Map<String, Value>,
    idempotency: Option<Idempotency>,
) -> Exchange {
    let message = Message {
        id: MessageId::new(),
        bot_id: asked.bot_id.clone(),
        conversation_id: home.id,
        parent_id: home.leaf_message_id,
        turn_id: None,
        sender: Sender::User,
        content: asked.content.clone(),
        thinking: None,
        tool_calls: None,
        images: None,
        tokens: 0,
        state: MessageState::Complete,
        siblings: Siblings { index: place, count: place },
        created_at: Timestamp::now(),
        metadata: asked.metadata.clone(),
    };
    let reply = Message {
        id: MessageId::new(),
        parent_id: Some(message.id),
        sender: Sender::System,
        content: answer.into(),
        siblings: Siblings { index: 1, count: 1 },
        metadata,
        ..message.clone()
    };
    Exchange { message, reply, idempotency, clears: None }
}

fn status_text(bot: &Bot) -> String {
    let status = &bot.status;
    format!(
        "| | |\n|---|---|\n| State | {} |\n| Model | `{}` |\n| Context | {} tokens |\n| Waiting | {} |\n| Running | {} |\n| Restarts | {}, {} left |\n| Tokens | {} in, {} out |",
        bot.state.as_str(),
        bot.config.model,
        bot.config.options.num_ctx.unwrap_or(crate::domain::bot::DEFAULT_NUM_CTX),
        status.queue_depth,
        status.active_turns.len(),
        status.restart_count,
        status.restarts_left,
        status.tokens.prompt,
        status.tokens.completion,
    )
}
