//! The façade: requests that may come twice. The same idempotency key does the same thing once and is answered the
//! same way each time.
//!
//! Requests of one key wait for each other in memory, so a repetition never races with the first one; the record
//! remembers the key in the transaction that stores what the request did, so it survives everything else. And where a
//! commit's outcome never became known, the record is looked at once more: what it holds was sent.

use std::collections::HashMap;

use parking_lot::Mutex;
use serde::Serialize;

use super::*;
use crate::{
    bot::{BotMessage, recovery},
    domain::{
        idempotency::{Fingerprint, Idempotency, IdempotencyKey, SentBefore},
        time::Timestamp,
    },
};

type Name = (BotId, IdempotencyKey);

/// Keys of requests that are on their way.
#[derive(Debug, Default)]
pub(super) struct KeysInUse(Mutex<HashMap<Name, Arc<tokio::sync::Mutex<()>>>>);

/// A key that nobody else uses meanwhile.
struct Alone<'a> {
    keys: &'a KeysInUse,
    name: Name,
    held: Option<tokio::sync::OwnedMutexGuard<()>>,
}

impl KeysInUse {
    /// Waits until nobody uses this key.
    async fn alone(&self, name: Name) -> Alone<'_> {
        let lock = self.0.lock().entry(name.clone()).or_default().clone();
        // Made before the wait: a caller that gives up waiting tidies up as well.
        let mut alone = Alone { keys: self, name, held: None };
        alone.held = Some(lock.lock_owned().await);
        alone
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        let mut keys = self.keys.0.lock();
        self.held = None;
        // One is the map's own; everybody who waits has another.
        if keys.get(&self.name).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            keys.remove(&self.name);
        }
    }
}

/// What a message asks for: everything but the form of the answer. Where it says nothing, it means the main conversation.
#[derive(Serialize)]
#[serde(rename = "send")]
struct Asked<'a> {
    content: &'a str,
    conversation: ConversationId,
    parent: Option<Option<MessageId>>,
    images: &'a [Arc<str>],
    options: &'a Option<crate::domain::bot::Options>,
    think: &'a Option<serde_json::Value>,
    format: &'a Option<serde_json::Value>,
    metadata: &'a serde_json::Map<String, serde_json::Value>,
}

/// The fingerprint of a message.
pub(super) fn fingerprint_of(send: &SendMessage, main: ConversationId) -> Fingerprint {
    let asked = Asked {
        content: &send.content,
        conversation: send.conversation_id.unwrap_or(main),
        parent: send.parent_id,
        images: &send.images,
        options: &send.options,
        think: &send.think,
        format: &send.format,
        metadata: &send.metadata,
    };
    // An absent parent and a null one are both null in JSON.
    Fingerprint::of(&("send", send.parent_id.is_some(), asked))
}

fn reused(key: &IdempotencyKey) -> Problem {
    Problem::new(
        Code::IdempotencyKeyReused,
        format!(
            "The key {key:?} was used for another request in the last 24 hours. This one was not carried out; send it with a key of its own."
        ),
    )
}

impl Controller {
    /// Does `work` unless a request of the same key did it before: then its answer is given again.
    pub(super) async fn once<F>(
        &self,
        bot: &BotId,
        key: Option<IdempotencyKey>,
        fingerprint: impl FnOnce() -> Fingerprint,
        work: impl FnOnce(Option<Idempotency>) -> F,
    ) -> Result<Sent, Problem>
    where
        F: Future<Output = Result<Sent, Problem>>,
    {
        let Some(key) = key else { return work(None).await };
        let _alone = self.inner.keys.alone((bot.clone(), key.clone())).await;
        let asked = Idempotency { user: USER.into(), key, fingerprint: fingerprint(), at: Timestamp::now() };
        if let Some(before) = self.sent_before(bot, &asked).await? {
            return self.replay(bot, before).await;
        }
        let sent = work(Some(asked.clone())).await;
        match sent {
            Err(problem) if problem.code == Code::StorageUnavailable => {
                match self.sent_before(bot, &asked).await {
                    Ok(Some(before)) => self.replay(bot, before).await,
                    Err(other) if other.code == Code::IdempotencyKeyReused => Err(other),
                    // Still unknown, or not stored.
                    Ok(None) | Err(_) => Err(problem),
                }
            }
            sent => sent,
        }
    }

    /// What a request of this key did in the last 24 hours; a problem where it asked for something else.
    async fn sent_before(&self, bot: &BotId, asked: &Idempotency) -> Result<Option<SentBefore>, Problem> {
        let found = self.read(self.inner.store.sent_before(&asked.user, bot, &asked.key)).await?;
        match found.filter(|before| !before.is_expired(asked.at)) {
            Some(before) if before.fingerprint != asked.fingerprint => Err(reused(&asked.key)),
            found => Ok(found),
        }
    }

    /// The answer to a request that was carried out before.
    async fn replay(&self, bot: &BotId, before: SentBefore) -> Result<Sent, Problem> {
        let gone = || {
            Problem::new(
                Code::MessageNotFound,
                "What was sent with this key was deleted since. It was not sent again; use a new key for that.",
            )
        };
        let Some(turn) = before.turn_id else {
            let store = &self.inner.store;
            let message = self.read(store.message(bot, before.message_id)).await?;
            let reply = self.read(store.message(bot, before.reply_id)).await?;
            let (message, reply) = message.zip(reply).ok_or_else(gone)?;
            self.keep_promise(&reply).await?;
            return Ok(Sent::Command { message, reply, replayed: true });
        };
        let entry = self.entry(bot)?;
        let mut accepted =
            match recovery::found(&self.turn_context(entry.clone()), turn, before.message_id).await {
                Err(problem) if problem.code == Code::MessageNotFound => return Err(gone()),
                found => found?,
            };
        accepted.replayed = true;
        if !accepted.turn.state.is_terminal()
            && self.inner.hubs.live(turn).is_none()
            && let Some(actor) = entry.actor.get()
        {
            // Stored by a commit whose answer got lost: the bot does not know that it has this turn. One that is
            // restarting finds it by itself.
            let _ = actor.cast(BotMessage::LookForStrays);
        }
        Ok(Sent::Turn(accepted))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn name(key: &str) -> Name {
        (BotId::numbered(1), IdempotencyKey::parse(key).unwrap())
    }

    #[tokio::test]
    async fn a_second_request_of_a_key_waits_for_the_first_and_others_do_not() {
        let keys = KeysInUse::default();
        let first = keys.alone(name("a")).await;
        drop(keys.alone(name("b")).await);
        let mut second = Box::pin(keys.alone(name("a")));
        assert!(futures_util::poll!(&mut second).is_pending());
        let mut third = Box::pin(keys.alone(name("a")));
        assert!(futures_util::poll!(&mut third).is_pending());
        drop(third);
        drop(first);
        drop(second.await);
        assert!(keys.0.lock().is_empty(), "nothing is left behind");
    }

    #[test]
    fn every_part_of_a_message_counts_and_the_main_conversation_may_be_left_out() {
        let main = ConversationId::new();
        let plain = || SendMessage::text(BotId::numbered(1), "hello");
        let of = |change: &dyn Fn(&mut SendMessage)| {
            let mut send = plain();
            change(&mut send);
            fingerprint_of(&send, main)
        };
        let same = of(&|_| ());
        assert_eq!(of(&|s| s.conversation_id = Some(main)), same);
        assert_eq!(of(&|s| s.idempotency_key = IdempotencyKey::parse("k").ok()), same);
        let (other, parent) = (ConversationId::new(), MessageId::new());
        let changes: [&dyn Fn(&mut SendMessage); 9] = [
            &|s| s.content = "hello ".into(),
            &|s| s.conversation_id = Some(other),
            &|s| s.parent_id = Some(None),
            &|s| s.parent_id = Some(Some(parent)),
            &|s| s.images = vec!["QUJD".into()],
            &|s| s.options = Some(crate::domain::bot::Options::default()),
            &|s| s.think = Some(json!(true)),
            &|s| s.format = Some(json!("json")),
            &|s| drop(s.metadata.insert("a".into(), json!(1))),
        ];
        let mut all: Vec<_> = changes.iter().map(|change| of(change)).collect();
        all.push(same);
        for (i, one) in all.iter().enumerate() {
            assert!(!all[i + 1..].contains(one), "change {i} is not seen");
        }
    }
}
