//! A slash command and its answer on their way into the history. They go through the bot, because it alone knows where
//! a conversation ends while turns are on their way.

use super::BotActorState;
use crate::{
    domain::{
        event::{EventBody, NewEvent, Topic},
        idempotency::Idempotency,
        message::{Message, Siblings},
    },
    history::{History, Submitted},
    ports::history_store::{Change, Fact},
};

/// A command and its answer. Their place in the conversation is the one that storage knows; the bot knows better.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub message: Message,
    pub reply: Message,
    pub idempotency: Option<Idempotency>,
}

/// What was submitted.
#[derive(Debug)]
pub(crate) struct Exchanged {
    pub message: Message,
    pub reply: Message,
    pub submitted: Submitted,
}

/// Submits an exchange as it is.
pub(crate) fn submit(history: &History, exchange: Exchange) -> Exchanged {
    let Exchange { message, reply, idempotency } = exchange;
    let received = |m: &Message| {
        let topics = vec![Topic::Bot(m.bot_id.clone()), Topic::Conversation(m.conversation_id)];
        NewEvent::new(topics, &EventBody::MessageReceived { message: m.clone() })
    };
    let events = vec![received(&message), received(&reply)];
    let change = Change::AppendMessages { messages: vec![message.clone(), reply.clone()], idempotency };
    let submitted = history.offer(Fact::new(change, events));
    Exchanged { message, reply, submitted }
}

impl BotActorState {
    pub(super) fn exchange(&mut self, mut exchange: Exchange) -> Exchanged {
        if let Some(talk) = self.talks.get_mut(&exchange.message.conversation_id) {
            let place = talk.beyond + 1;
            let end = talk.grow(exchange.reply.id);
            (exchange.message.parent_id, exchange.message.siblings) =
                (end, Siblings { index: place, count: place });
            // Models are not shown commands: what is said so far is the same, its end is not.
            match &mut talk.path {
                Some(path) if path.leaf == end => std::sync::Arc::make_mut(path).leaf = talk.leaf,
                _ => talk.path = None,
            }
        }
        submit(&self.args.context.history, exchange)
    }
}
