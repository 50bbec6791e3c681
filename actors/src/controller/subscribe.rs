//! The façade: events.

use super::*;
use crate::{
    broadcast::{Attached, Hub, Recovery},
    domain::event::Topic,
    ports::history_store::ConversationSnapshot,
};

/// Messages in the snapshot of a conversation.
const SNAPSHOT_MESSAGES: u32 = 50;

impl Controller {
    /// An empty reader; attach it to topics with [`Controller::subscribe`].
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::new()
    }

    /// Attaches a reader to a topic. Events of the topic may be in the reader's queue when this
    /// returns; show `Subscribed` before them. Subscribing again to the same topic starts over.
    ///
    /// # Errors
    /// `bot_not_found`, `conversation_not_found`, `turn_not_found`, `unavailable`.
    pub async fn subscribe(
        &self,
        reader: &Reader,
        topic: Topic,
        after: Option<ResumeFrom>,
    ) -> Result<Subscribed, ControllerError> {
        let found = self.subscribe_to(reader, &topic, after).await;
        if found.is_err() {
            self.unsubscribe(reader, &topic);
            self.inner.hubs.forget_topic(&topic);
        }
        found
    }

    async fn subscribe_to(
        &self,
        reader: &Reader,
        topic: &Topic,
        after: Option<ResumeFrom>,
    ) -> Result<Subscribed, Problem> {
        if let Topic::Bot(id) = topic {
            self.entry(id)?;
        }
        let hub = self.inner.hubs.hub(topic);
        if hub.head().is_none() {
            let head = self.read(self.inner.store.head(topic)).await?;
            if head == 0 {
                self.exists(topic).await?;
            }
            hub.init_head(head);
        }
        let asked = after.is_some();
        let after = after.unwrap_or_default();
        let cursor = (asked && after.epoch.is_none_or(|e| e == hub.epoch())).then_some(after.seq);
        let broadcast = &self.inner.slots.broadcast;
        broadcast.wait(CALL).await.map_err(not_answered)?;
        let (to, queue) = (hub.clone(), reader.queue().clone());
        let attach = |reply| BroadcastMessage::Attach { hub: to, reader: queue, after: cursor, reply };
        let Attached { seq, recovery, running } = broadcast.call(attach, CALL).await.map_err(not_answered)?;
        // Everything published from here on waits in the queue. What was missed comes before it, text so far comes from
        // the reply itself.
        let (seq, recovered) = match recovery {
            Recovery::Snapshot => (seq, false),
            Recovery::Buffer => (seq, true),
            Recovery::Record(span) => {
                let replay = self.inner.record.replay(&hub, span).await.map_err(|e| read_problem(&e))?;
                match replay {
                    Some(replay) => {
                        reader.queue().replay(replay);
                        (span.after, true)
                    }
                    None => (seq, false),
                }
            }
        };
        let running = match topic {
            Topic::Conversation(_) | Topic::Turn(_) => {
                let from = |id| {
                    if asked {
                        after.offsets.get(&id).copied().unwrap_or_default()
                    } else {
                        TextOffsets::default()
                    }
                };
                let texts = running.iter().map(|l| l.catch_up(&hub, reader.queue(), from(l.message_id())));
                Some(texts.collect())
            }
            _ => None,
        };
        let (seq, snapshot) = if recovered { (seq, None) } else { self.snapshot(reader, &hub, seq).await? };
        let epoch = hub.epoch();
        Ok(Subscribed { epoch, seq, recovered: asked.then_some(recovered), running, snapshot })
    }

    /// Refuses a topic of something that does not exist.
    async fn exists(&self, topic: &Topic) -> Result<(), Problem> {
        match topic {
            Topic::Turn(id) => self.turn_snapshot(*id).await.map(drop),
            Topic::Conversation(id) => {
                let found = self.read(self.inner.store.conversation(*id)).await?;
                found.map(drop).ok_or_else(|| {
                    Problem::new(Code::ConversationNotFound, format!("There is no conversation {id}."))
                })
            }
            Topic::Bots | Topic::Tree | Topic::Models | Topic::Tasks | Topic::Bot(_) => Ok(()),
        }
    }

    /// The state behind a topic, and the event up to which it goes. Stored state is read after the reader was
    /// attached; events that it already holds are taken out of the queue, once they are all in it.
    async fn snapshot(
        &self,
        reader: &Reader,
        hub: &Hub,
        head: u64,
    ) -> Result<(u64, Option<Snapshot>), Problem> {
        let (store, topic) = (&self.inner.store, &**hub.topic());
        let (seq, snapshot) = match topic {
            Topic::Bots => {
                let bots = self.inner.roster.all().iter().map(|e| self.marked(e.bot())).collect();
                (head, Snapshot::Bots { bots })
            }
            Topic::Bot(id) => (head, Snapshot::Bot { bot: self.bot(id)? }),
            Topic::Tree => (head, Snapshot::Tree { tree: self.tree() }),
            Topic::Models => {
                (head, Snapshot::Models { models: self.inner.inference.models(), servers: self.servers() })
            }
            Topic::Tasks => (head, Snapshot::Tasks { tasks: self.tasks() }),
            Topic::Conversation(id) => {
                let found = self.read(store.conversation_snapshot(*id, SNAPSHOT_MESSAGES)).await?;
                let found = found.ok_or_else(|| {
                    Problem::new(Code::ConversationNotFound, format!("There is no conversation {id}."))
                })?;
                let ConversationSnapshot { conversation, messages, has_more, seq } = found;
                (seq, Snapshot::Conversation { conversation, messages, has_more })
            }
            Topic::Turn(id) => {
                let found = self.turn_snapshot(*id).await?;
                (found.seq, Snapshot::Turn { turn: found.turn, reply: found.reply })
            }
        };
        let published = tokio::time::timeout(CALL, hub.published(seq)).await;
        published.map_err(|_| not_answered(SlotError::Timeout))?;
        reader.queue().forget_through(topic, seq);
        Ok((seq, Some(snapshot)))
    }

    /// Detaches a reader from a topic; what waits of it is forgotten.
    pub fn unsubscribe(&self, reader: &Reader, topic: &Topic) {
        let (topic, reader) = (topic.clone(), reader.queue().clone());
        if self
            .inner
            .slots
            .broadcast
            .cast(BroadcastMessage::Detach { topic: topic.clone(), reader: reader.clone() })
            .is_err()
        {
            self.inner.hubs.hub(&topic).detach(&reader);
        }
    }
}
