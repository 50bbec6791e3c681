//! The judge's half for events: the log's numbers, what readers of topics put together, what streams of turns say.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use crate::{
    judge::is_terminal,
    log::{Heard, History, Message, Reader, Stream},
};

/// The numbers of every topic are 1, 2, 3, ….
pub fn outbox(history: &History, wrong: &mut Vec<String>) {
    for (topic, log) in &history.outbox {
        for (at, fact) in (1..).zip(log) {
            if fact.seq != at {
                wrong.push(format!("{topic} has {} where {at} should be", fact.seq));
                break;
            }
        }
        if history.heads.get(topic).is_some_and(|head| *head > log.len() as u64) {
            wrong.push(format!("{topic} had more events than the {} that are stored", log.len()));
        }
    }
}

/// Everything stored, by id.
struct Stored<'a> {
    messages: HashMap<&'a str, &'a Message>,
    /// State by reply.
    states: HashMap<&'a str, &'a str>,
    process_died: bool,
}

impl<'a> Stored<'a> {
    fn of(history: &'a History) -> Self {
        let all = || history.conversations.iter();
        Self {
            messages: all().flat_map(|c| &c.messages).map(|m| (m.id.as_str(), m)).collect(),
            states: all().flat_map(|c| &c.turns).map(|t| (t.reply.as_str(), t.state.as_str())).collect(),
            process_died: history.process_died,
        }
    }

    /// Whether text that was seen of a reply agrees with the stored one. Only where the process died may the end of an
    /// interrupted one be missing.
    fn agrees(&self, id: &str, seen: &str, content: &str) -> bool {
        let may_lack = self.process_died && self.states.get(id) == Some(&"interrupted");
        content.starts_with(seen) || (may_lack && seen.starts_with(content))
    }
}

pub fn readers(history: &History, wrong: &mut Vec<String>) {
    let stored = Stored::of(history);
    for reader in &history.readers {
        let mut view = View::new(&reader.topic, &stored);
        for heard in &reader.heard {
            view.hear(heard);
        }
        view.finish(history, reader);
        wrong.append(&mut view.wrong);
    }
}

/// What a reader put together.
struct View<'a> {
    topic: &'a str,
    stored: &'a Stored<'a>,
    place: Option<(Value, u64)>,
    /// Content of replies, from their tokens.
    texts: HashMap<String, String>,
    /// Replies whose tokens come on this connection.
    followed: HashSet<String>,
    /// Turns that were accepted before this reader's eyes, on this connection.
    accepted: HashSet<String>,
    /// Whether what comes on this connection is new, not repeated.
    live: bool,
    /// Finished messages, from snapshot and events.
    known: HashMap<String, String>,
    /// First message of the last snapshot, where it was full.
    since: Option<String>,
    wrong: Vec<String>,
}

impl<'a> View<'a> {
    fn new(topic: &'a str, stored: &'a Stored<'a>) -> Self {
        Self {
            topic,
            stored,
            place: None,
            texts: HashMap::new(),
            followed: HashSet::new(),
            accepted: HashSet::new(),
            live: false,
            known: HashMap::new(),
            since: None,
            wrong: vec![],
        }
    }

    fn wrong(&mut self, what: &str, frame: &Value) {
        self.wrong.push(format!("{}: {what}: {frame} at {:?}", self.topic, self.place));
    }

    fn hear(&mut self, heard: &Heard) {
        match heard {
            Heard::Cut => {
                self.followed.clear();
                self.accepted.clear();
            }
            Heard::Subscribed { after, frame } => self.subscribed(after.as_ref(), frame),
            Heard::Event(frame) => self.event(frame),
        }
    }

    fn subscribed(&mut self, after: Option<&Value>, frame: &Value) {
        let (recovered, snapshot) = (frame.get("recovered").and_then(Value::as_bool), &frame["snapshot"]);
        let told = match (after, recovered) {
            (None, None) | (Some(_), Some(false)) => snapshot.is_object(),
            (Some(after), Some(true)) => {
                snapshot.is_null() && frame["epoch"] == after["epoch"] && frame["seq"] == after["seq"]
            }
            (None, Some(_)) | (Some(_), None) => false,
        };
        if !told {
            self.wrong("subscribed, and not told where it stands", frame);
        }
        self.live = recovered != Some(true);
        self.place = frame["seq"].as_u64().map(|seq| (frame["epoch"].clone(), seq));
        if let Some(messages) = snapshot["messages"].as_array() {
            self.snapshot(messages);
        }
        for running in frame["running"].as_array().into_iter().flatten() {
            self.running(running);
        }
    }

    fn snapshot(&mut self, messages: &[Value]) {
        self.since = messages.first().filter(|_| messages.len() >= 50).map(|m| text(&m["id"]).to_owned());
        self.known.clear();
        for message in messages.iter().filter(|m| m["state"] != "pending") {
            self.known.insert(text(&message["id"]).to_owned(), text(&message["content"]).to_owned());
        }
    }

    /// The text so far of a running reply: what is known of it must be a part of that.
    fn running(&mut self, running: &Value) {
        let (id, content) = (text(&running["message_id"]).to_owned(), &running["content"]);
        let offset = content["offset"].as_u64().and_then(|o| usize::try_from(o).ok());
        let mut seen = self.texts.remove(&id).unwrap_or_default();
        let tail = text(&content["text"]);
        match offset.and_then(|offset| seen.get(offset..)) {
            Some(rest) if tail.starts_with(rest) => {
                seen.truncate(seen.len() - rest.len());
                seen.push_str(tail);
            }
            _ => self.wrong(&format!("the text so far does not continue {seen:?}"), running),
        }
        self.texts.insert(id.clone(), seen);
        self.followed.insert(id);
    }

    fn event(&mut self, frame: &Value) {
        let (seq, data) = (frame["seq"].as_u64(), &frame["data"]);
        let Some((epoch, at)) = self.place.clone() else {
            return self.wrong("an event before it was told where it stands", frame);
        };
        let ephemeral = matches!(text(&frame["event"]), "token" | "queue_moved");
        let next = if ephemeral { at } else { at + 1 };
        if frame["topic"] != self.topic || frame["epoch"] != epoch || seq != Some(next) {
            self.wrong("not the next event", frame);
        }
        match text(&frame["event"]) {
            "token" => return self.token(data),
            "queue_moved" => return,
            "message_received" => {
                let message = &data["message"];
                self.known.insert(text(&message["id"]).to_owned(), text(&message["content"]).to_owned());
            }
            "turn_accepted" if self.live => drop(self.accepted.insert(text(&data["turn_id"]).to_owned())),
            _ if data["turn"].is_object() => self.end(data),
            _ => {}
        }
        self.place = Some((epoch, next));
    }

    fn token(&mut self, data: &Value) {
        if data["kind"] != "content" {
            return;
        }
        let id = text(&data["message_id"]).to_owned();
        let seen = self.texts.entry(id.clone()).or_default();
        if data["offset"] != json!(seen.len()) {
            let seen = seen.len();
            self.wrong(&format!("text that does not follow the {seen} bytes before it"), data);
            return;
        }
        seen.push_str(text(&data["text"]));
        self.followed.insert(id);
    }

    /// A turn ended: what was seen of its reply is what it says; all of it, where it was followed to the end.
    fn end(&mut self, data: &Value) {
        let (turn, reply) = (&data["turn"], &data["reply"]);
        let (id, content) = (text(&turn["reply_id"]).to_owned(), text(&reply["content"]).to_owned());
        if !is_terminal(text(&turn["state"])) {
            self.wrong("an end that is none", data);
        }
        let seen = self.texts.remove(&id).unwrap_or_default();
        // Only topics with tokens can be followed.
        let whole = self.topic.starts_with("conversation:")
            && (self.followed.remove(&id) || self.accepted.remove(text(&turn["id"])));
        if !self.stored.agrees(&id, &seen, &content) || (whole && seen != content) {
            self.wrong(&format!("{seen:?} was seen of what ended (whole: {whole})"), data);
        }
        self.known.insert(id, content);
    }

    /// It got everything, and what it put together is what is stored.
    fn finish(&mut self, history: &History, reader: &Reader) {
        let head = history.heads.get(self.topic).copied();
        if head.is_none() || self.place.as_ref().map(|(_, seq)| *seq) < head {
            self.wrong.push(format!("{}: ends at {:?}, not at {head:?}", self.topic, self.place));
        }
        let Some(id) = reader.topic.strip_prefix("conversation:") else { return };
        let Some(conversation) = history.conversations.iter().find(|c| c.id == id) else {
            return self.wrong.push(format!("a reader of a conversation that is not stored: {id}"));
        };
        let from = self.since.as_ref().and_then(|id| conversation.messages.iter().position(|m| m.id == *id));
        for message in conversation.messages.iter().skip(from.unwrap_or(0)) {
            if self.known.get(&message.id) != Some(&message.content) {
                let known = self.known.get(&message.id);
                self.wrong.push(format!("{}: its reader has {known:?} of {message:?}", self.topic));
            }
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Streams of one turn: text in order without a gap, the end last and once, and both what is stored.
pub fn streams(history: &History, wrong: &mut Vec<String>) {
    let stored = Stored::of(history);
    for stream in &history.streams {
        if let Err(what) = stream_of(stream, &stored) {
            wrong.push(format!("stream of {}: {what}", stream.turn));
        }
    }
}

fn stream_of(stream: &Stream, stored: &Stored<'_>) -> Result<(), String> {
    // From the start, or told otherwise.
    let (mut seen, mut place, mut ended, mut followed) = (String::new(), Some(0), false, true);
    // A snapshot of a finished turn counts its end, which still follows.
    let mut over = false;
    for heard in &stream.heard {
        let Some(frame) = heard else {
            followed = false;
            continue;
        };
        if ended {
            return Err(format!("something after its end: {frame}"));
        }
        let (data, seq) = (&frame["data"], frame["seq"].as_u64());
        match text(&frame["event"]) {
            "snapshot" => {
                if data["recovered"] != false {
                    return Err(format!("a snapshot that is not said to be one: {frame}"));
                }
                seen.clear();
                for running in data["running"].as_array().into_iter().flatten() {
                    seen.push_str(text(&running["content"]["text"]));
                }
                place = seq;
                over = is_terminal(text(&data["turn"]["state"]));
                followed = !data["running"].as_array().is_none_or(Vec::is_empty);
            }
            "token" if data["offset"] == json!(seen.len()) && seq == place => {
                seen.push_str(text(&data["text"]));
                followed = true;
            }
            "token" => return Err(format!("text that does not follow {seen:?}: {frame}")),
            "queue_moved" => {}
            _ => {
                if seq != place.map(|place| place + u64::from(!over)) {
                    return Err(format!("not the event after {place:?}: {frame}"));
                }
                place = seq;
                ended = data["turn"].is_object();
                if ended {
                    let (id, content) = (text(&data["turn"]["reply_id"]), text(&data["reply"]["content"]));
                    let kept = stored.messages.get(id).map(|m| m.content.as_str());
                    let whole = !followed || seen == content;
                    if kept != Some(content) || !whole || !stored.agrees(id, &seen, content) {
                        return Err(format!("{seen:?} was seen of {content:?}, stored is {kept:?}"));
                    }
                }
            }
        }
    }
    if ended { Ok(()) } else { Err("it never ended".into()) }
}
