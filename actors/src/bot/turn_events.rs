//! The events of a turn, made from the turn as it is.

use crate::domain::{
    event::{ContextTrimmed, EventBody, NewEvent, SummaryUse, Topic, TurnEnd, TurnProgress},
    message::Message,
    turn::{QueuePlace, Turn, TurnState},
};

/// Topics of a turn's events that also concern its bot.
pub(crate) fn topics(turn: &Turn) -> Vec<Topic> {
    vec![Topic::Bot(turn.bot_id.clone()), Topic::Conversation(turn.conversation_id), Topic::Turn(turn.id)]
}

/// The event that a turn has a slot.
pub(crate) fn started(turn: &Turn) -> NewEvent {
    let progress = TurnProgress {
        turn_id: turn.id,
        position: None,
        eta_s: None,
        offline: None,
        server: turn.server.clone(),
        model: Some(turn.model.clone()),
    };
    NewEvent::new(topics(turn), &EventBody::TurnStarted(progress))
}

/// The event that a turn has to wait, also one that had begun.
pub(crate) fn queued(turn: &Turn, place: &QueuePlace) -> NewEvent {
    let progress = TurnProgress {
        turn_id: turn.id,
        position: Some(place.position),
        eta_s: place.eta_s,
        offline: place.offline,
        server: place.server.clone(),
        model: Some(turn.model.clone()),
    };
    NewEvent::new(topics(turn), &EventBody::TurnQueued(progress))
}

/// The event that the history was too long; none if it was not.
pub(crate) fn trimmed(turn: &Turn, summary: Option<SummaryUse>) -> Option<NewEvent> {
    let usage = turn.context;
    (usage.trimmed_messages > 0).then(|| {
        let trimmed = ContextTrimmed {
            turn_id: turn.id,
            num_ctx: usage.num_ctx,
            used: usage.used,
            trimmed_messages: usage.trimmed_messages,
            trimmed_tokens: usage.trimmed_tokens,
            summary,
        };
        let topics = vec![Topic::Conversation(turn.conversation_id), Topic::Turn(turn.id)];
        NewEvent::new(topics, &EventBody::ContextTrimmed(trimmed))
    })
}

/// The event of a turn's end.
pub(crate) fn ended(turn: &Turn, reply: &Message) -> NewEvent {
    let end = TurnEnd { turn: turn.clone(), reply: Some(reply.clone()) };
    let body = match turn.state {
        TurnState::Completed => EventBody::TurnCompleted(end),
        TurnState::Stopped => EventBody::TurnStopped(end),
        TurnState::Failed => EventBody::TurnFailed(end),
        _ => EventBody::TurnInterrupted(end),
    };
    NewEvent::new(topics(turn), &body)
}
