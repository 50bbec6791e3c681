//! The judge judged: a good history made by hand passes, and each way to spoil it is found.

use serde_json::{Value, json};

use crate::{
    judge::judge,
    log::{Conversation, Fact, Heard, History, Message, Outcome, Read, Reader, Sent, Stream, Turn},
};

/// A way to spoil the good history, and a part of what the judge says then.
type Spoiled = (&'static str, fn(&mut History), &'static str);

const TOPIC: &str = "conversation:c";

fn event(seq: u64, event: &str, data: Value) -> Value {
    json!({"topic": TOPIC, "epoch": "e", "seq": seq, "event": event, "data": data})
}

fn token(seq: u64, turn: usize, offset: usize, text: &str) -> Value {
    let data = json!({"turn_id": format!("t{turn}"), "message_id": format!("r{turn}"), "kind": "content", "offset": offset, "text": text});
    event(seq, "token", data)
}

fn end(seq: u64, turn: usize, state: &str, content: &str) -> Value {
    let told = json!({"id": format!("t{turn}"), "reply_id": format!("r{turn}"), "state": state});
    event(seq, &format!("turn_{state}"), json!({"turn": told, "reply": {"content": content}}))
}

/// What every turn begins with.
fn begin(seq: u64, turn: usize, content: &str) -> [Heard; 2] {
    let message = json!({"message": {"id": format!("m{turn}"), "content": content}});
    let accepted = event(seq + 1, "turn_accepted", json!({"turn_id": format!("t{turn}")}));
    [Heard::Event(event(seq, "message_received", message)), Heard::Event(accepted)]
}

fn subscribed(after: Option<Value>, more: Value) -> Heard {
    let mut frame = json!({"type": "subscribed", "topic": TOPIC, "epoch": "e"});
    for (name, value) in more.as_object().unwrap() {
        frame[name] = value.clone();
    }
    Heard::Subscribed { after, frame }
}

/// Two messages: the first is answered before the eyes of a reader, the second while he is away and comes back.
fn good() -> History {
    let sent = |n: usize, at, outcome: Outcome| Sent {
        client: 0,
        bot: "b".into(),
        content: format!("q{n}"),
        invoked: at,
        finished: at + 1,
        again: Some(outcome.clone()),
        outcome,
    };
    let ok = |n: usize, reply: Option<&str>| Outcome::Ok {
        turn: format!("t{n}"),
        message: format!("m{n}"),
        reply: reply.map(str::to_owned),
    };
    let message =
        |id: &str, parent: Option<&str>, turn: &str, sender: &str, state: &str, content: &str| Message {
            id: id.into(),
            parent: parent.map(str::to_owned),
            turn: Some(turn.into()),
            sender: sender.into(),
            state: state.into(),
            content: content.into(),
        };
    let turn = |n: usize, state: &str| Turn {
        id: format!("t{n}"),
        message: format!("m{n}"),
        reply: format!("r{n}"),
        state: state.into(),
    };
    let mut heard = vec![subscribed(None, json!({"seq": 0, "snapshot": {"messages": []}, "running": []}))];
    heard.extend(begin(1, 1, "q1"));
    heard.extend(
        [token(2, 1, 0, "ab"), token(2, 1, 2, "cd"), end(3, 1, "completed", "abcd")].map(Heard::Event),
    );
    heard.extend(begin(4, 2, "q2"));
    heard.push(Heard::Event(token(5, 2, 0, "a")));
    heard.push(Heard::Cut);
    let running = json!([{"message_id": "r2", "content": {"offset": 1, "text": "b"}}]);
    heard.push(subscribed(
        Some(json!({"epoch": "e", "seq": 5})),
        json!({"seq": 5, "recovered": true, "running": running}),
    ));
    heard.extend([token(5, 2, 2, "c"), end(6, 2, "interrupted", "abc")].map(Heard::Event));
    let facts = [
        ("message_received", None),
        ("turn_accepted", None),
        ("turn_completed", Some("t1")),
        ("message_received", None),
        ("turn_accepted", None),
        ("turn_interrupted", Some("t2")),
    ];
    let log = (1..).zip(facts).map(|(seq, (event, ends))| Fact {
        seq,
        event: event.into(),
        ends: ends.map(str::to_owned),
    });
    let stream = vec![
        Some(event(1, "turn_accepted", json!({}))),
        Some(token(1, 1, 0, "ab")),
        None,
        Some(token(1, 1, 2, "cd")),
        Some(end(2, 1, "completed", "abcd")),
    ];
    History {
        sent: vec![
            sent(1, 0, ok(1, Some("abcd"))),
            sent(2, 10, ok(2, None)),
            sent(3, 20, Outcome::Refused),
            sent(4, 30, Outcome::Unknown),
        ],
        reads: vec![Read {
            bot: "b".into(),
            invoked: 9,
            ids: vec!["m1".into(), "r1".into()],
            whole: true,
            stale: false,
        }],
        readers: vec![Reader { topic: TOPIC.into(), heard }],
        streams: vec![Stream { turn: "t1".into(), heard: stream }],
        conversations: vec![Conversation {
            bot: "b".into(),
            id: "c".into(),
            says: Some("abcd".into()),
            messages: vec![
                message("m1", None, "t1", "user", "complete", "q1"),
                message("r1", Some("m1"), "t1", "bot", "complete", "abcd"),
                message("m2", Some("r1"), "t2", "user", "complete", "q2"),
                message("r2", Some("m2"), "t2", "bot", "partial", "abc"),
            ],
            turns: vec![turn(1, "completed"), turn(2, "interrupted")],
        }],
        outbox: [(TOPIC.to_owned(), log.collect())].into(),
        heads: [(TOPIC.to_owned(), 6)].into(),
        unrest: vec![],
        process_died: false,
    }
}

fn heard(history: &mut History) -> &mut Vec<Heard> {
    &mut history.readers[0].heard
}

fn stored(history: &mut History) -> &mut Conversation {
    &mut history.conversations[0]
}

/// Changes the frame of the reader's `at`th note.
fn frame(history: &mut History, at: usize, path: &str, value: Value) {
    let (Heard::Event(frame) | Heard::Subscribed { frame, .. }) = &mut heard(history)[at] else {
        panic!("no frame")
    };
    *frame.pointer_mut(path).unwrap() = value;
}

const SPOILED: &[Spoiled] = &[
    (
        "an acknowledged message that is lost",
        |h| drop(stored(h).messages.drain(2..)),
        "acknowledged and lost",
    ),
    (
        "a key that is answered with another turn",
        |h| h.sent[0].again = Some(h.sent[1].outcome.clone()),
        "its key was answered with something else",
    ),
    (
        "a message stored twice",
        |h| {
            let mut twin = stored(h).messages[2].clone();
            (twin.id, twin.parent) = ("m3".into(), Some("r2".into()));
            stored(h).messages.push(twin);
        },
        "stored 2 times",
    ),
    (
        "an unknown one stored twice",
        |h| {
            for n in 0..2 {
                let mut twin = stored(h).messages[2].clone();
                (twin.id, twin.content) = (format!("m4{n}"), "q4".into());
                stored(h).messages.push(twin);
            }
        },
        "stored 2 times",
    ),
    ("a refused message that is stored", |h| h.sent[1].outcome = Outcome::Refused, "refused and stored"),
    ("a message that nobody sent", |h| drop(h.sent.remove(1)), "never sent"),
    (
        "an answer that names another turn",
        |h| h.sent[1].outcome = Outcome::Ok { turn: "t9".into(), message: "m2".into(), reply: None },
        "acknowledged as another",
    ),
    (
        "an order that is turned round",
        |h| {
            (h.sent[1].invoked, h.sent[1].finished) = (0, 1);
            (h.sent[0].invoked, h.sent[0].finished) = (10, 11);
        },
        "out of order",
    ),
    ("a message that hangs elsewhere", |h| stored(h).messages[2].parent = None, "does not hang"),
    ("something that never rests", |h| h.unrest.push("b".into()), "come to rest"),
    ("a turn that did not end", |h| stored(h).turns[1].state = "generating".into(), "did not end"),
    (
        "a turn with two ends",
        |h| {
            let log = h.outbox.get_mut(TOPIC).unwrap();
            let again = Fact { seq: 7, ..log[5].clone() };
            log.push(again);
        },
        "its ends in the log",
    ),
    (
        "a turn without an end in the log",
        |h| h.outbox.get_mut(TOPIC).unwrap()[5].ends = None,
        "its ends in the log",
    ),
    ("a message without a turn", |h| stored(h).messages[2].turn = None, "without a turn"),
    ("an end of nobody's turn", |h| drop(stored(h).turns.pop()), "nowhere else"),
    ("a complete reply that is cut", |h| stored(h).messages[1].content = "abc".into(), "not what was said"),
    (
        "a partial reply that says something else",
        |h| stored(h).messages[3].content = "abx".into(),
        "not what was said",
    ),
    (
        "a reply that the client was told otherwise",
        |h| {
            h.sent[0].outcome =
                Outcome::Ok { turn: "t1".into(), message: "m1".into(), reply: Some("abc".into()) }
        },
        "told another reply",
    ),
    ("a read that misses what was acknowledged", |h| h.reads[0].ids.clear(), "and not there"),
    ("a read in another order", |h| h.reads[0].ids.reverse(), "not a piece"),
    ("a read of something that is gone", |h| h.reads[0].ids.push("m9".into()), "not a piece"),
    ("a gap in the numbers of the log", |h| h.outbox.get_mut(TOPIC).unwrap()[3].seq = 5, "where 4 should be"),
    ("a log that lost its end", |h| drop(h.outbox.get_mut(TOPIC).unwrap().pop()), "had more events"),
    ("an event that a reader did not get", |h| drop(heard(h).remove(2)), "not the next event"),
    (
        "an event that a reader got twice",
        |h| {
            let again = heard(h)[2].clone();
            heard(h).insert(3, again);
        },
        "not the next event",
    ),
    ("a numbering that changes in silence", |h| frame(h, 5, "/epoch", json!("f")), "not the next event"),
    ("text that is missing before a token", |h| drop(heard(h).remove(3)), "does not follow"),
    ("text that is missing before the end", |h| drop(heard(h).remove(4)), "was seen of what ended"),
    ("text of a followed turn that never came", |h| drop(heard(h).drain(3..5)), "was seen of what ended"),
    ("text that is not what is stored", |h| frame(h, 4, "/data/text", json!("xy")), "was seen of what ended"),
    ("a place that is resumed elsewhere", |h| frame(h, 10, "/seq", json!(4)), "not told where it stands"),
    (
        "a place that is given up in silence",
        |h| frame(h, 10, "/recovered", Value::Null),
        "not told where it stands",
    ),
    (
        "text so far that begins too late",
        |h| frame(h, 10, "/running/0/content/offset", json!(2)),
        "does not continue",
    ),
    ("a reader that misses the end", |h| drop(heard(h).pop()), "not at Some(6)"),
    (
        "a message that a reader has otherwise",
        |h| frame(h, 1, "/data/message/content", json!("other")),
        "its reader has",
    ),
    ("a stream without an end", |h| drop(h.streams[0].heard.pop()), "never ended"),
    ("a stream with a gap", |h| drop(h.streams[0].heard.remove(1)), "does not follow"),
    (
        "a stream with two ends",
        |h| {
            let again = h.streams[0].heard[4].clone();
            h.streams[0].heard.push(again);
        },
        "after its end",
    ),
    ("a stream that lost an event", |h| drop(h.streams[0].heard.remove(0)), "does not follow"),
    (
        "a kill of the process excuses no other turn",
        |h| {
            h.process_died = true;
            frame(h, 4, "/data/text", json!("cdef"));
        },
        "was seen of what ended",
    ),
];

/// Every test of the judge, by name.
pub fn tests() -> Vec<(String, Box<dyn FnOnce() + Send>)> {
    let mut all: Vec<(String, Box<dyn FnOnce() + Send>)> = vec![
        (
            "judge::a_good_history_passes".into(),
            Box::new(|| assert_eq!(judge(&good()), Vec::<String>::new())),
        ),
        ("judge::a_killed_process_may_lack_the_end_of_an_interrupted_answer".into(), Box::new(lacks_the_end)),
    ];
    for (name, spoil, says) in SPOILED {
        let test = move || {
            let mut history = good();
            spoil(&mut history);
            let wrong = judge(&history);
            assert!(wrong.iter().any(|w| w.contains(says)), "{says:?} is not in {wrong:#?}");
        };
        all.push((format!("judge::{}_is_found", name.replace(' ', "_")), Box::new(test)));
    }
    all
}

fn lacks_the_end() {
    let mut history = good();
    // The last token of the interrupted answer was never stored.
    stored(&mut history).messages[3].content = "ab".into();
    frame(&mut history, 12, "/data/reply/content", json!("ab"));
    heard(&mut history).insert(12, Heard::Cut);
    let back = subscribed(
        Some(json!({"epoch": "e", "seq": 5})),
        json!({"seq": 5, "recovered": true, "running": []}),
    );
    heard(&mut history).insert(13, back);
    assert!(!judge(&history).is_empty(), "without a kill it is an error");
    history.process_died = true;
    assert_eq!(judge(&history), Vec::<String>::new());
}
