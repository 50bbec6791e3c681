//! The façade: history, conversations.

use serde_json::{Map, Value};

use super::{branches::keeps_its_end, *};
use crate::{
    bot::BotMessage,
    domain::{
        bot::AuditEntry,
        event::{EventBody, NewEvent, Topic},
    },
    ports::{history_store::Cursor, retention::Held},
};

/// Messages in a page: usual and at most.
pub(super) const PAGE: (u32, u32) = (50, 200);
/// How often a change of a conversation is tried again that a new message overtook.
const PATCH_TRIES: u32 = 5;

fn no_such_conversation(id: ConversationId) -> Problem {
    Problem::new(Code::ConversationNotFound, format!("This bot has no conversation {id}."))
}

pub(super) fn busy() -> Problem {
    Problem::new(
        Code::ConversationBusy,
        "A turn runs or waits in this conversation. Stop it or wait for its end.",
    )
}

/// What the audit log says of a conversation that is cleared.
pub(super) fn cleared(id: ConversationId) -> AuditEntry {
    super::bots::audit("history.clear", format!("conversation:{id}"), None, Map::new())
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

    /// As [`Self::conversation_of`], after an import that puts another main conversation in the place of the bot's; where
    /// that takes longer than a read may, beside it.
    pub(super) async fn settled_conversation_of(
        &self,
        bot: &BotId,
        id: Option<ConversationId>,
    ) -> Result<Conversation, Problem> {
        let entry = self.entry(bot)?;
        let _still = match id {
            Some(_) => None,
            None => tokio::time::timeout(self.inner.settings.storage_timeout, entry.moving.read()).await.ok(),
        };
        self.conversation_of(bot, id).await
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
        let conversation = self.settled_conversation_of(bot, query.conversation_id).await?;
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

    /// Deletes the messages of a conversation, or of all of a bot's; answers with their number. Audited. What runs or
    /// waits there is stopped first, so that nothing of it comes back.
    ///
    /// # Errors
    /// `bot_not_found`, `conversation_not_found`, `conversation_retired`, `legal_hold` (then nothing is deleted),
    /// `storage_unavailable`.
    pub async fn clear(
        &self,
        bot: &BotId,
        conversation: Option<ConversationId>,
    ) -> Result<u64, ControllerError> {
        self.open()?;
        let entry = self.entry(bot)?;
        let conversations = match conversation {
            Some(id) => {
                let one = self.conversation_of(bot, Some(id)).await?;
                self.not_retired(bot, id).await?;
                vec![one]
            }
            None => self.conversations(bot).await?,
        };
        let conversations: Vec<ConversationId> = conversations.into_iter().map(|c| c.id).collect();
        self.nothing_held(bot, |id| conversations.contains(&id)).await?;
        let (me, bot) = (self.clone(), bot.clone());
        self.carry_out(async move {
            me.stop_all(&bot, &conversations).await?;
            let mut deleted = 0;
            for id in conversations {
                let fact = Fact {
                    change: Change::ClearHistory { bot_id: bot.clone(), conversation_id: Some(id) },
                    events: vec![],
                    audit: Some(cleared(id)),
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

    /// Stops what runs or waits in conversations, and in forks that answer a message of theirs.
    pub(super) async fn stop_all(
        &self,
        bot: &BotId,
        conversations: &[ConversationId],
    ) -> Result<(), Problem> {
        let open = self.read(self.inner.store.open_turns(Some(bot))).await?;
        // The last ones first, so that none begins only to be stopped.
        for (turn, question, _) in open.into_iter().rev() {
            if [turn.conversation_id, question.conversation_id].iter().any(|id| conversations.contains(id)) {
                self.stop_turn(turn.id).await?;
            }
        }
        Ok(())
    }

    /// Conversations of a bot: the main one first, then by last use.
    ///
    /// # Errors
    /// `bot_not_found`.
    pub async fn conversations(&self, bot: &BotId) -> Result<Vec<Conversation>, ControllerError> {
        self.entry(bot)?;
        self.read(self.inner.store.conversations(bot)).await
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
    /// `bot_not_found`, `conversation_not_found`, `message_not_found`, `conversation_retired`, `conversation_busy`,
    /// `storage_unavailable`.
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
        // What an import tells of the conversation is not older than this.
        let _still = entry.moving.read().await;
        let mut conversation = self.conversation_of(bot, Some(id)).await?;
        if let Some(title) = patch.title.clone() {
            conversation.title = check_title(title)?;
        }
        conversation.archived = patch.archived.unwrap_or(conversation.archived);
        if let Some(leaf) = patch.leaf_message_id {
            let message = self.message(bot, leaf, None).await?.message;
            if !self.stands_in(id, &message).await? {
                return Err(branches::elsewhere(leaf));
            }
            keeps_its_end(&conversation, Some(leaf))?;
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
                self.message(bot, leaf, None).await?;
                break;
            }
            conversation = Conversation { title: conversation.title, archived: conversation.archived, ..now };
        }
        self.not_retired(bot, id).await?;
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
        if conversation.id == entry.record().main_conversation_id {
            return Err(Problem::new(
                Code::MainConversation,
                "The main conversation can't be deleted. Clear its history instead.",
            ));
        }
        self.nothing_held(bot, |held| held == id).await?;
        let deleted = conversation.message_count;
        let detail = Map::from_iter([("messages".to_owned(), Value::from(deleted))]);
        let told = EventBody::HistoryCleared {
            bot_id: bot.clone(),
            conversation_id: Some(id),
            deleted,
            removed: true,
        };
        let fact = Fact {
            change: Change::DeleteConversation(id),
            // The topic of the conversation goes with it.
            events: vec![NewEvent::new(vec![Topic::Bot(bot.clone())], &told)],
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

pub(super) fn check_title(title: Option<String>) -> Result<Option<String>, Problem> {
    let max = super::bots::NAME_MAX;
    match title {
        Some(t) if t.trim().is_empty() || t.chars().count() > max || t.chars().any(char::is_control) => {
            Err(Problem::field("title", format!("1 to {max} characters, none of them control characters")))
        }
        other => Ok(other),
    }
}
