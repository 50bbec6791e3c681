//! A slash command and its answer on their way into the history. They go through the bot, because it alone knows where
//! a conversation ends while turns are on their way.

use super::BotActorState;
use crate::{
    domain::{
        bot::AuditEntry,
        event::{EventBody, NewEvent, Topic},
        idempotency::Idempotency,
        ids::MessageId,
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
    /// It is what the conversation has from now on: what it had goes.
    pub clears: Option<Clears>,
}

/// What goes with a command that clears its conversation.
#[derive(Debug)]
pub(crate) struct Clears {
    pub messages: u64,
    pub audit: AuditEntry,
}

/// What was submitted.
#[derive(Debug)]
pub(crate) struct Exchanged {
    pub message: Message,
    pub reply: Message,
    /// Where the conversation ended before, as far as is known.
    pub behind: Option<MessageId>,
    pub submitted: Submitted,
}

/// Submits an exchange as it is.
pub(crate) fn submit(history: &History, exchange: Exchange, behind: Option<MessageId>) -> Exchanged {
    let Exchange { message, reply, idempotency, clears } = exchange;
    let received = |m: &Message| {
        let topics = vec![Topic::Bot(m.bot_id.clone()), Topic::Conversation(m.conversation_id)];
        NewEvent::new(topics, &EventBody::MessageReceived { message: m.clone() })
    };
    let events = vec![received(&message), received(&reply)];
    let messages = vec![message.clone(), reply.clone()];
    let (change, audit) = match clears {
        None => (Change::AppendMessages { messages, idempotency }, None),
        Some(Clears { messages: clears, audit }) => {
            (Change::BeginAnew { messages, clears, idempotency }, Some(audit))
        }
    };
    let submitted = history.offer(Fact { change, events, audit });
    Exchanged { message, reply, behind, submitted }
}

impl BotActorState {
    /// None for one that clears a conversation in which a turn runs or waits.
    pub(super) fn exchange(&mut self, mut exchange: Exchange) -> Option<Exchanged> {
        let mut behind = exchange.message.parent_id;
        let talk = self.talks.get_mut(&exchange.message.conversation_id);
        if exchange.clears.is_some() {
            if let Some(talk) = talk {
                if !talk.lane.is_empty() {
                    return None;
                }
                // What comes now goes on behind it.
                (behind, talk.path) = (talk.grow(exchange.reply.id), None);
            }
        } else if let Some(talk) = talk {
            let place = talk.beyond + 1;
            let end = talk.grow(exchange.reply.id);
            (behind, exchange.message.parent_id, exchange.message.siblings) =
                (end, end, Siblings { index: place, count: place });
            // Models are not shown commands: what is said so far is the same, its end is not.
            match &mut talk.path {
                Some(path) if path.leaf == end => std::sync::Arc::make_mut(path).leaf = talk.leaf,
                _ => talk.path = None,
            }
        }
        Some(submit(&self.args.context.history, exchange, behind))
    }
}
