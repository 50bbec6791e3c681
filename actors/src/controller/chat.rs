//! The façade: turns, history, conversations.

use serde_json::{Map, Value};

use super::*;
use crate::{
    bot::{BotMessage, recovery::stop_waiting},
    broadcast::EndReceiver,
    domain::{
        event::{EventBody, NewEvent, Topic},
        time::Timestamp,
        turn::{QueuePlace, TurnState},
    },
    ports::{
        history_store::{Cursor, TurnSnapshot},
        retention::Held,
    },
};

/// Messages in a page: usual and at most.
pub(super) const PAGE: (u32, u32) = (50, 200);
/// How often a change of a conversation is tried again that a new message overtook.
const PATCH_TRIES: u32 = 5;
/// How long the end of a stopped turn may take to be stored.
const END: Duration = Duration::from_secs(10);
/// How often a stop is brought again to a bot that died with it or does not know the turn yet, and the pause before that.
pub(super) const STOP_TRIES: u32 = 20;
const STOP_AGAIN: Duration = Duration::from_millis(50);

fn no_such_conversation(id: ConversationId) -> Problem {
    Problem::new(Code::ConversationNotFound, format!("This bot has no conversation {id}."))
}

fn no_such_turn(id: TurnId) -> Problem {
    Problem::new(Code::TurnNotFound, format!("There is no turn {id}."))
}

fn busy() -> Problem {
    Problem::new(
        Code::ConversationBusy,
        "A turn runs or waits in this conversation. Stop it or wait for its end.",
    )
}

fn held(Held { conversation, by }: Held) -> Problem {
    let what = match conversation == by {
        true => format!("Conversation {by} is under legal hold"),
        false => {
            format!("Conversation {by}, which begins in conversation {conversation}, is under legal hold")
        }
    };
    Problem::new(Code::LegalHold, format!("{what}: nothing of it can be deleted until the hold is lifted."))
}

impl Controller {
    pub(super) async fn turn_snapshot(&self, id: TurnId) -> Result<TurnSnapshot, Problem> {
        let found = self.read(self.inner.store.turn_snapshot(id)).await?;
        let mut found = found.ok_or_else(|| no_such_turn(id))?;
        if let Some(place) = self.place_of(&found.turn).await {
            found.turn.queue = Some(place);
            found.turn.server = None;
        }
        Ok(found)
    }

    /// Where a turn waits now, also one that began and waits for another server.
    async fn place_of(&self, turn: &Turn) -> Option<QueuePlace> {
        if turn.state.is_terminal() {
            return None;
        }
        if let Some(place) = self.inner.inference.place(turn.id) {
            return Some(place);
        }
        let entry = self.inner.roster.get(&turn.bot_id).filter(|_| turn.state == TurnState::Queued)?;
        let place = |reply| BotMessage::GetPlace { turn: turn.id, reply };
        entry.actor.call(place, CALL).await.ok().flatten()
    }

    /// One turn.
    ///
    /// # Errors
    /// `turn_not_found`, `storage_unavailable`.
    pub async fn turn(&self, id: TurnId) -> Result<Turn, ControllerError> {
        self.turn_snapshot(id).await.map(|found| found.turn)
    }

    /// Stops a turn and answers once its end is stored. Nothing to do for an ended one.
    ///
    /// # Errors
    /// `turn_not_found`, `storage_unavailable`.
    pub async fn stop_turn(&self, id: TurnId) -> Result<Turn, ControllerError> {
        // A turn that generates is known in memory: it is stopped also while the database is away.
        let entry = match self.inner.roster.all().into_iter().find(|entry| entry.runs(id)) {
            Some(entry) => Some(entry),
            None => {
                let found = self.turn(id).await?;
                if found.state.is_terminal() {
                    return Ok(found);
                }
                self.inner.roster.get(&found.bot_id)
            }
        };
        let mut end = self.inner.hubs.watch_end(id);
        let stopped = self.stop_and_wait(entry, id, &mut end).await;
        self.inner.hubs.unwatch_end(id, end);
        stopped
    }

    async fn stop_and_wait(
        &self,
        entry: Option<Arc<BotEntry>>,
        id: TurnId,
        end: &mut EndReceiver,
    ) -> Result<Turn, Problem> {
        let told = match entry {
            Some(entry) => {
                let me = self.clone();
                self.carry_out(async move { me.bring_stop(&entry, id).await }).await?
            }
            None => false,
        };
        let watch = self.inner.history.watch();
        if told {
            tokio::select! {
                biased;
                ended = tokio::time::timeout(END, end.wait_for(Option::is_some)) => {
                    if let Ok(Ok(end)) = ended && let Some(end) = end.clone() {
                        return Ok(end.turn.clone());
                    }
                }
                () = watch.gave_up() => return Err(not_known(watch.limit())),
            }
        }
        // It has ended, or its end is not stored yet.
        tokio::select! {
            biased;
            () = self.inner.history.barrier() => {}
            () = watch.gave_up() => return Err(not_known(watch.limit())),
        }
        self.turn(id).await
    }

    /// Brings the word to whoever has the turn: its bot, or the record where the bot has no actor. True where its end is on
    /// its way then; false where it has ended.
    async fn bring_stop(&self, entry: &Arc<BotEntry>, id: TurnId) -> Result<bool, Problem> {
        for _ in 0..STOP_TRIES {
            let stop = |reply| BotMessage::StopTurn { turn: id, reply };
            let here = match entry.actor.call(stop, CALL).await {
                Ok(here) => here?,
                // The actor died with the word; its successor, or the record, is next.
                Err(SlotError::Lost) => continue,
                Err(SlotError::Down) => match stop_waiting(&self.turn_context(entry.clone()), id).await? {
                    true => return Ok(false),
                    false => continue,
                },
                Err(SlotError::Timeout) => return Err(not_answered(SlotError::Timeout)),
            };
            // One that has left its line may have its end on the way.
            if here || self.inner.hubs.live(id).is_some_and(|live| live.decided().is_some()) {
                return Ok(true);
            }
            self.inner.history.barrier().await;
            if self.turn(id).await?.state.is_terminal() {
                return Ok(false);
            }
            // Stored by a commit whose answer got lost: the bot does not know yet that it has this turn.
            let _ = entry.actor.cast(BotMessage::LookForStrays);
            tokio::time::sleep(STOP_AGAIN).await;
        }
        Ok(false)
    }

    /// The conversation of a bot, the main one where none is named.
    pub(super) async fn conversation_of(
        &self,
        bot: &BotId,
        id: Option<ConversationId>,
    ) -> Result<Conversation, Problem> {
        let id = match id {
            Some(id) => id,
            None => self.entry(bot)?.record().main_conversation_id,
        };
        let found = self.read(self.inner.store.conversation(id)).await?;
        found.filter(|c| c.bot_id == *bot).ok_or_else(|| no_such_conversation(id))
    }

    /// A page of a conversation's active path.
    ///
    /// # Errors
    /// `bot_not_found`, `conversation_not_found`, `invalid_request`, `invalid_cursor`.
    pub async fn history(&self, bot: &BotId, query: HistoryQuery) -> Result<HistoryPage, ControllerError> {
        self.entry(bot)?;
        let limit = query.limit.unwrap_or(PAGE.0);
        if !(1..=PAGE.1).contains(&limit) {
            return Err(Problem::field("limit", format!("must be from 1 to {}", PAGE.1)));
        }
        let cursor = match (query.before, query.after, query.offset) {
            (None, None, offset) => Cursor::Newest { offset: offset.unwrap_or(0) },
            (Some(id), None, None) => Cursor::Before(id),
            (None, Some(id), None) => Cursor::After(id),
            _ => return Err(Problem::field("before", "only one of before, after and offset can be given")),
        };
        let conversation = self.conversation_of(bot, query.conversation_id).await?;
        let page = self.read(self.inner.store.page(conversation.id, cursor, limit)).await?;
        let Some(page) = page else {
            return Err(Problem::new(
                Code::InvalidCursor,
                "The message of the cursor is not on the active path of this conversation.",
            ));
        };
        let first = page.items.first().map(|m| m.id);
        let last = page.items.last().map(|m| m.id);
        let at_end = last.is_none() || last == conversation.leaf_message_id;
        let forward = matches!(cursor, Cursor::After(_));
        let before = first.filter(|_| forward || page.has_more);
        Ok(HistoryPage {
            before,
            after: last.filter(|_| !at_end),
            items: page.items,
            has_more: page.has_more,
        })
    }

    /// One message of a bot, with the ids of its siblings.
    ///
    /// # Errors
    /// `bot_not_found`, `message_not_found`.
    pub async fn message(&self, bot: &BotId, id: MessageId) -> Result<MessageWithSiblings, ControllerError> {
        self.entry(bot)?;
        let store = &self.inner.store;
        let found = self.read(store.message(bot, id)).await?;
        let message = found
            .ok_or_else(|| Problem::new(Code::MessageNotFound, format!("{bot} has no message {id}.")))?;
        let ids = self.read(store.children(message.conversation_id, message.parent_id)).await?;
        Ok(MessageWithSiblings { ids, message })
    }

    /// Deletes the messages of a conversation, or of all of a bot's; answers with their number. Audited. What runs or
    /// waits there is stopped first, so that nothing of it comes back.
    ///
    /// # Errors
    /// `bot_not_found`, `conversation_not_found`, `legal_hold` (then nothing is deleted), `storage_unavailable`.
    pub async fn clear(
        &self,
        bot: &BotId,
        conversation: Option<ConversationId>,
    ) -> Result<u64, ControllerError> {
        self.open()?;
        let entry = self.entry(bot)?;
        let conversations = match conversation {
            Some(id) => vec![self.conversation_of(bot, Some(id)).await?],
            None => self.conversations(bot).await?,
        };
        let conversations: Vec<ConversationId> = conversations.into_iter().map(|c| c.id).collect();
        self.nothing_held(bot, |id| conversations.contains(&id)).await?;
        let (me, bot) = (self.clone(), bot.clone());
        self.carry_out(async move {
            let open = me.read(me.inner.store.open_turns(Some(&bot))).await?;
            // The last ones first, so that none begins only to be stopped.
            for (turn, ..) in open.into_iter().rev() {
                if conversations.contains(&turn.conversation_id) {
                    me.stop_turn(turn.id).await?;
                }
            }
            let mut deleted = 0;
            for id in conversations {
                let fact = Fact {
                    change: Change::ClearHistory { bot_id: bot.clone(), conversation_id: Some(id) },
                    events: vec![],
                    audit: Some(super::bots::audit(
                        "history.clear",
                        format!("conversation:{id}"),
                        None,
                        Map::new(),
                    )),
                };
                let done = me.inner.history.append(fact).await?;
                if !done.applied {
                    me.nothing_held(&bot, |held| held == id).await?;
                }
                deleted += done.deleted;
                let _ = entry.actor.cast(BotMessage::Forget { conversation: id });
            }
            let _ = entry.actor.cast(BotMessage::ForgetTexts);
            Ok(deleted)
        })
        .await
    }

    /// Conversations of a bot: the main one first, then by last use.
    ///
    /// # Errors
    /// `bot_not_found`.
    pub async fn conversations(&self, bot: &BotId) -> Result<Vec<Conversation>, ControllerError> {
        self.entry(bot)?;
        self.read(self.inner.store.conversations(bot)).await
    }

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
            let fact = Fact::new(Change::CreateConversation(conversation.clone()), vec![]);
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

    /// Refuses to delete conversations of a bot, or of an earlier bot of its id, where a legal hold reaches one of them.
    pub(super) async fn nothing_held(
        &self,
        bot: &BotId,
        goes: impl Fn(ConversationId) -> bool + Send,
    ) -> Result<(), Problem> {
        let all = self.read(self.inner.store.held(bot)).await?;
        let kept = all.into_iter().filter(|kept| goes(kept.conversation));
        // Rather the one that was asked for than one that begins in it.
        kept.min_by_key(|kept| kept.conversation != kept.by).map_or(Ok(()), |kept| Err(held(kept)))
    }

    /// Puts a conversation under legal hold or lifts it. Audited.
    async fn hold(&self, bot: &BotId, id: ConversationId, held: bool) -> Result<(), Problem> {
        let detail = Map::from_iter([("held".to_owned(), Value::from(held))]);
        let fact = Fact {
            change: Change::HoldConversation { conversation_id: id, bot_id: bot.clone(), held },
            events: vec![],
            audit: Some(super::bots::audit("conversation.hold", format!("conversation:{id}"), None, detail)),
        };
        self.inner.history.append(fact).await.map(drop)
    }

    /// Changes title, archiving, the end of the active path, or the legal hold.
    ///
    /// # Errors
    /// `bot_not_found`, `conversation_not_found`, `message_not_found`, `conversation_busy`, `storage_unavailable`.
    pub async fn patch_conversation(
        &self,
        bot: &BotId,
        id: ConversationId,
        patch: PatchConversation,
    ) -> Result<Conversation, ControllerError> {
        self.open()?;
        let (me, bot) = (self.clone(), bot.clone());
        self.carry_out(async move { me.carry_out_patch(&bot, id, patch).await }).await
    }

    async fn carry_out_patch(
        &self,
        bot: &BotId,
        id: ConversationId,
        patch: PatchConversation,
    ) -> Result<Conversation, Problem> {
        let entry = self.entry(bot)?;
        let mut conversation = self.conversation_of(bot, Some(id)).await?;
        if let Some(title) = patch.title.clone() {
            conversation.title = check_title(title)?;
        }
        conversation.archived = patch.archived.unwrap_or(conversation.archived);
        if let Some(leaf) = patch.leaf_message_id {
            let message = self.message(bot, leaf).await?.message;
            if !self.stands_in(id, &message).await? {
                return Err(Problem::new(
                    Code::MessageNotFound,
                    format!("Message {leaf} is not of this conversation."),
                ));
            }
            conversation.leaf_message_id = Some(leaf);
        }
        if let Some(held) = patch.legal_hold {
            self.hold(bot, id, held).await?;
            if (PatchConversation { legal_hold: None, ..patch.clone() }) == PatchConversation::default() {
                return self.conversation_of(bot, Some(id)).await;
            }
        }
        let leaf = patch.leaf_message_id;
        // A title that races with a new message would carry the old end of the path: it is read again.
        for _ in 0..PATCH_TRIES {
            let topics = vec![Topic::Bot(bot.clone()), Topic::Conversation(id)];
            let changed = EventBody::ConversationChanged { conversation: conversation.clone() };
            let change = Change::UpdateConversation(conversation.clone());
            let fact = Fact::new(change, vec![NewEvent::new(topics, &changed)]);
            let applied = self.inner.history.append(fact).await?.applied;
            let now = self.conversation_of(bot, Some(id)).await?;
            // A repetition, after a crash of the actor, does not apply: what it asked for is there.
            let there = (&now.title, now.archived) == (&conversation.title, conversation.archived)
                && leaf.is_none_or(|leaf| now.leaf_message_id == Some(leaf));
            if applied || there {
                if leaf.is_some() {
                    let _ = entry.actor.cast(BotMessage::Forget { conversation: id });
                }
                return Ok(now);
            }
            if let Some(leaf) = leaf {
                self.message(bot, leaf).await?;
                break;
            }
            conversation = Conversation { title: conversation.title, archived: conversation.archived, ..now };
        }
        Err(busy())
    }

    /// Deletes a conversation with its messages. The main one stays; clear it instead.
    ///
    /// # Errors
    /// `bot_not_found`, `conversation_not_found`, `main_conversation`, `legal_hold`, `conversation_busy`,
    /// `storage_unavailable`.
    pub async fn delete_conversation(&self, bot: &BotId, id: ConversationId) -> Result<(), ControllerError> {
        self.open()?;
        let (me, bot) = (self.clone(), bot.clone());
        self.carry_out(async move { me.carry_out_deletion(&bot, id).await }).await
    }

    async fn carry_out_deletion(&self, bot: &BotId, id: ConversationId) -> Result<(), Problem> {
        let entry = self.entry(bot)?;
        let conversation = self.conversation_of(bot, Some(id)).await?;
        if conversation.main {
            return Err(Problem::new(
                Code::MainConversation,
                "The main conversation can't be deleted. Clear its history instead.",
            ));
        }
        self.nothing_held(bot, |held| held == id).await?;
        let detail = Map::from_iter([("messages".to_owned(), Value::from(conversation.message_count))]);
        let fact = Fact {
            change: Change::DeleteConversation(id),
            events: vec![],
            audit: Some(super::bots::audit(
                "conversation.delete",
                format!("conversation:{id}"),
                None,
                detail,
            )),
        };
        if !self.inner.history.append(fact).await?.applied {
            self.nothing_held(bot, |held| held == id).await?;
            return Err(busy());
        }
        let _ = entry.actor.cast(BotMessage::Forget { conversation: id });
        let _ = entry.actor.cast(BotMessage::ForgetTexts);
        Ok(())
    }
}

fn check_title(title: Option<String>) -> Result<Option<String>, Problem> {
    let max = super::bots::NAME_MAX;
    match title {
        Some(t) if t.trim().is_empty() || t.chars().count() > max || t.chars().any(char::is_control) => {
            Err(Problem::field("title", format!("1 to {max} characters, none of them control characters")))
        }
        other => Ok(other),
    }
}
