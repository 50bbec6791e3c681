//! The judge: a pure function from what happened to what is wrong with it. An empty list is a good history.

use std::collections::{HashMap, HashSet};

use crate::log::{Conversation, History, Message, Outcome, Sent};

#[path = "judge_events.rs"]
mod events;

/// Everything that is wrong with a history.
pub fn judge(history: &History) -> Vec<String> {
    let mut wrong: Vec<String> =
        history.unrest.iter().map(|what| format!("did not come to rest: {what}")).collect();
    for conversation in &history.conversations {
        messages(history, conversation, &mut wrong);
        order(history, conversation, &mut wrong);
        path(conversation, &mut wrong);
        turns(history, conversation, &mut wrong);
        replies(history, conversation, &mut wrong);
        reads(history, conversation, &mut wrong);
    }
    events::outbox(history, &mut wrong);
    events::readers(history, &mut wrong);
    events::streams(history, &mut wrong);
    wrong
}

pub fn is_terminal(state: &str) -> bool {
    matches!(state, "completed" | "stopped" | "failed" | "interrupted")
}

fn users(conversation: &Conversation) -> impl Iterator<Item = &Message> {
    conversation.messages.iter().filter(|m| m.sender == "user")
}

fn sent_to<'a>(history: &'a History, conversation: &'a Conversation) -> impl Iterator<Item = &'a Sent> {
    history.sent.iter().filter(|sent| sent.bot == conversation.bot)
}

/// What was acknowledged is stored once, what was refused is not, and nothing is stored that nobody sent.
fn messages(history: &History, conversation: &Conversation, wrong: &mut Vec<String>) {
    let mut stored: HashMap<&str, Vec<&Message>> = HashMap::new();
    for message in users(conversation) {
        stored.entry(&message.content).or_default().push(message);
    }
    for sent in sent_to(history, conversation) {
        let found = stored.remove(sent.content.as_str()).unwrap_or_default();
        if !same(&sent.outcome, sent.again.as_ref()) {
            wrong.push(format!("its key was answered with something else: {sent:?}"));
        }
        match (&sent.outcome, found.as_slice()) {
            (Outcome::Ok { turn, message, .. }, [one]) => {
                if one.id != *message || one.turn.as_ref() != Some(turn) {
                    wrong.push(format!(
                        "{} was acknowledged as another message: {sent:?}, {one:?}",
                        sent.content
                    ));
                }
            }
            (Outcome::Ok { .. }, []) => wrong.push(format!("acknowledged and lost: {sent:?}")),
            (Outcome::Refused, [_, ..]) => wrong.push(format!("refused and stored: {sent:?}")),
            (_, [_, _, ..]) => wrong.push(format!("stored {} times: {sent:?}", found.len())),
            (Outcome::Refused | Outcome::Unknown, _) => {}
        }
    }
    for content in stored.keys() {
        wrong.push(format!("stored in {} and never sent: {content}", conversation.bot));
    }
}

/// Whether a repeated request was answered with the turn of the first, as far as one knows.
fn same(first: &Outcome, again: Option<&Outcome>) -> bool {
    match (first, again) {
        (
            Outcome::Ok { turn, message, .. },
            Some(Outcome::Ok { turn: same_turn, message: same_message, .. }),
        ) => turn == same_turn && message == same_message,
        (_, None | Some(Outcome::Unknown)) | (Outcome::Refused, Some(Outcome::Refused)) => true,
        _ => false,
    }
}

/// Who had his answer before another one asked is stored before him.
fn order(history: &History, conversation: &Conversation, wrong: &mut Vec<String>) {
    let sent: HashMap<&str, &Sent> =
        sent_to(history, conversation).map(|sent| (sent.content.as_str(), sent)).collect();
    // Later in the record, but acknowledged before something earlier in it was sent. The latest invocation so far is
    // enough to compare with.
    let mut latest: Option<&Sent> = None;
    for message in users(conversation) {
        let Some(&this) = sent.get(message.content.as_str()) else { continue };
        if let Some(before) = latest
            && matches!(this.outcome, Outcome::Ok { .. })
            && this.finished < before.invoked
        {
            wrong.push(format!("out of order: {before:?} is stored before {this:?}"));
        }
        if latest.is_none_or(|l| l.invoked < this.invoked) {
            latest = Some(this);
        }
    }
}

/// Each message hangs on the one before it: nobody edited anything.
fn path(conversation: &Conversation, wrong: &mut Vec<String>) {
    let mut before: Option<&str> = None;
    for message in &conversation.messages {
        if message.parent.as_deref() != before {
            wrong.push(format!("{} does not hang on {before:?}: {message:?}", message.id));
        }
        before = Some(&message.id);
    }
}

/// Every turn has ended, with one terminal event, the last one of the turn.
fn turns(history: &History, conversation: &Conversation, wrong: &mut Vec<String>) {
    let topic = format!("conversation:{}", conversation.id);
    let log = history.outbox.get(&topic).map(Vec::as_slice).unwrap_or_default();
    let mut ends: HashMap<&str, Vec<&str>> = HashMap::new();
    for fact in log {
        if let Some(turn) = &fact.ends {
            ends.entry(turn).or_default().push(&fact.event);
        }
    }
    let known: HashSet<&str> = conversation.turns.iter().map(|t| t.id.as_str()).collect();
    for message in &conversation.messages {
        if message.turn.as_ref().is_none_or(|turn| !known.contains(turn.as_str())) {
            wrong.push(format!("a message without a turn: {message:?}"));
        }
    }
    for turn in &conversation.turns {
        let told = ends.remove(turn.id.as_str()).unwrap_or_default();
        if !is_terminal(&turn.state) {
            wrong.push(format!("did not end: {turn:?}"));
        }
        if told != [format!("turn_{}", turn.state)] {
            wrong.push(format!("its ends in the log are {told:?}: {turn:?}"));
        }
    }
    for (turn, told) in ends {
        wrong.push(format!("turn {turn} is in the log and nowhere else: {told:?}"));
    }
}

/// Replies are what the model says, whole where they are complete, and what the clients were told.
fn replies(history: &History, conversation: &Conversation, wrong: &mut Vec<String>) {
    let by_id: HashMap<&str, &Message> = conversation.messages.iter().map(|m| (m.id.as_str(), m)).collect();
    let mut told: HashMap<&str, &str> = HashMap::new();
    for sent in sent_to(history, conversation) {
        if let Outcome::Ok { turn, reply: Some(reply), .. } = &sent.outcome {
            told.insert(turn, reply);
        }
    }
    for turn in &conversation.turns {
        let (Some(question), Some(reply)) = (by_id.get(&*turn.message), by_id.get(&*turn.reply)) else {
            wrong.push(format!("its message or its reply is missing: {turn:?}"));
            continue;
        };
        let says = conversation.says.as_ref().unwrap_or(&question.content);
        let (state, good) = match turn.state.as_str() {
            "completed" => ("complete", reply.content == *says),
            _ => ("partial", says.starts_with(&reply.content)),
        };
        if !good || reply.state != state {
            wrong.push(format!("the reply is not what was said ({says:?}): {turn:?}, {reply:?}"));
        }
        if told.get(&*turn.id).is_some_and(|told| *told != reply.content) {
            wrong.push(format!("the client was told another reply than {reply:?}"));
        }
    }
}

/// Who reads sees everything that was acknowledged before, in the order in which it stays.
fn reads(history: &History, conversation: &Conversation, wrong: &mut Vec<String>) {
    let place: HashMap<&str, usize> =
        conversation.messages.iter().enumerate().map(|(at, m)| (m.id.as_str(), at)).collect();
    for read in history.reads.iter().filter(|read| read.bot == conversation.bot) {
        let places: Vec<Option<usize>> = read.ids.iter().map(|id| place.get(id.as_str()).copied()).collect();
        let in_a_row = |pair: &[Option<usize>]| matches!(pair, [Some(a), Some(b)] if *b == *a + 1);
        let starts = !read.whole || places.first().is_none_or(|first| *first == Some(0));
        if places.contains(&None) || !starts || !places.windows(2).all(in_a_row) {
            wrong.push(format!("a page of {} is not a piece of what is stored: {places:?}", read.bot));
        }
        let before =
            |sent: &&Sent| matches!(sent.outcome, Outcome::Ok { .. }) && sent.finished < read.invoked;
        for sent in sent_to(history, conversation).filter(before).filter(|_| read.whole && !read.stale) {
            let Outcome::Ok { message, .. } = &sent.outcome else { continue };
            if !read.ids.contains(message) {
                wrong.push(format!("acknowledged before it was read, and not there: {sent:?}"));
            }
        }
    }
}
