//! Hubs, readers and replies being written: whatever the cuts and whenever a reader comes, what it puts
//! together is what was said, in order, without a gap.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod queues;
mod replays;

use std::{collections::BTreeMap, thread};

use proptest::prelude::*;

use super::{
    reader::{Delivery, DeliveryKind, Lost, Reader},
    *,
};
use crate::{
    controller::requests::{RunningReply, TextFrom, TextOffsets},
    domain::{
        event::CommittedEvent,
        ids::{BotId, ConversationId, Epoch, EventId, MessageId, TurnId},
        time::Timestamp,
    },
    ports::chat_model::{Piece, PieceKind},
};

fn committed(topic: &Topic, seq: u64, ends: Option<TurnId>) -> Arc<CommittedEvent> {
    Arc::new(CommittedEvent {
        position: seq,
        id: EventId::new(),
        time: Timestamp::now(),
        name: "turn_started".into(),
        data: format!("{{\"n\":{seq}}}").into(),
        seqs: vec![(topic.clone(), seq)],
        ends,
    })
}

fn piece(kind: PieceKind, text: &str) -> Piece {
    Piece { kind, text: text.into() }
}

fn json(delivery: &Delivery) -> serde_json::Value {
    serde_json::from_slice(&delivery.frame).expect("a frame is JSON")
}

/// One reply on the hubs of its conversation and of its turn.
struct Stage {
    hubs: Hubs,
    topic: Topic,
    live: Arc<LiveReply>,
    turn: TurnId,
    message: MessageId,
}

impl Stage {
    fn new() -> Self {
        let hubs = Hubs::new(Epoch::new());
        let (turn, message, conversation) = (TurnId::new(), MessageId::new(), ConversationId::new());
        let live = hubs.begin_reply(BotId::numbered(1), turn, message, conversation);
        let topic = Topic::Conversation(conversation);
        hubs.hub(&topic).init_head(0);
        hubs.hub(&Topic::Turn(turn)).init_head(0);
        Self { hubs, topic, live, turn, message }
    }

    fn hub(&self) -> Arc<Hub> {
        self.hubs.hub(&self.topic)
    }

    fn publish(&self, seq: u64) {
        self.hub().publish(seq, &committed(&self.topic, seq, None));
    }

    /// What the façade does for a reader: attach, then the text so far.
    fn subscribe(&self, reader: &Reader, after: Option<u64>, from: TextOffsets) -> (Attached, RunningReply) {
        let hub = self.hub();
        let attached = hub.attach(reader.queue(), after);
        let running = self.live.catch_up(&hub, reader.queue(), from);
        (attached, running)
    }
}

/// What a client has put together.
#[derive(Default)]
struct Client {
    content: String,
    thinking: String,
    seq: u64,
}

impl Client {
    fn offsets(&self) -> TextOffsets {
        TextOffsets { content: self.content.len(), thinking: self.thinking.len() }
    }

    fn begin(&mut self, attached: &Attached, running: &RunningReply) {
        self.seq = attached.seq;
        for (mine, TextFrom { offset, text }) in
            [(&mut self.content, &running.content), (&mut self.thinking, &running.thinking)]
        {
            assert!(*offset <= mine.len(), "text from {offset} leaves a gap behind {}", mine.len());
            mine.truncate(*offset);
            mine.push_str(text);
        }
    }

    fn take(&mut self, delivery: &Delivery) {
        let frame = json(delivery);
        assert_eq!(frame["seq"], delivery.seq);
        match &delivery.kind {
            DeliveryKind::Durable(_) => {
                assert_eq!(delivery.seq, self.seq + 1, "durable events have no gap");
                self.seq = delivery.seq;
            }
            DeliveryKind::Token { kind, end, .. } => {
                let (mine, name) = match kind {
                    PieceKind::Content => (&mut self.content, "content"),
                    PieceKind::Thinking => (&mut self.thinking, "thinking"),
                };
                assert_eq!(delivery.seq, self.seq, "text carries the number of the event before it");
                assert_eq!(frame["data"]["kind"], name);
                assert_eq!(frame["data"]["offset"], mine.len(), "text has no gap");
                mine.push_str(frame["data"]["text"].as_str().expect("a text"));
                assert_eq!(mine.len(), *end);
            }
            DeliveryKind::QueueMoved => {}
        }
    }

    fn drain(&mut self, reader: &mut Reader) {
        while let Some(delivery) = reader.try_next().expect("no overflow") {
            self.take(&delivery);
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Say {
        thinking: bool,
        texts: Vec<String>,
    },
    Publish,
    Take(usize),
    /// Come back on the same queue, with what is known or from nothing.
    Again {
        knows: bool,
    },
    /// Come back with a queue of its own, as after a broken connection.
    Fresh {
        knows: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let text = "(a|ß|€|😀|\n|\"|\\\\|\u{1}|e\u{301}){1,6}";
    prop_oneof![
        6 => (any::<bool>(), prop::collection::vec(text, 1..4)).prop_map(|(thinking, texts)| Step::Say { thinking, texts }),
        2 => Just(Step::Publish),
        3 => (0usize..5).prop_map(Step::Take),
        1 => any::<bool>().prop_map(|knows| Step::Again { knows }),
        1 => any::<bool>().prop_map(|knows| Step::Fresh { knows }),
    ]
}

proptest! {
    /// Under any interleaving of text, events, reads and returns, a client has every event once and every byte once.
    #[test]
    fn a_client_puts_together_what_was_said(steps in prop::collection::vec(step(), 1..80)) {
        let stage = Stage::new();
        let (mut reader, mut client) = (Reader::new(), Client::default());
        let (attached, running) = stage.subscribe(&reader, None, TextOffsets::default());
        client.begin(&attached, &running);
        let (mut content, mut thinking, mut seq) = (String::new(), String::new(), 0);
        for step in steps {
            match step {
                Step::Say { thinking: aloud, texts } => {
                    let kind = if aloud { PieceKind::Thinking } else { PieceKind::Content };
                    let pieces: Vec<_> = texts.iter().map(|t| piece(kind, t)).collect();
                    prop_assert!(stage.live.append(&pieces));
                    if aloud { &mut thinking } else { &mut content }.push_str(&texts.concat());
                }
                Step::Publish => {
                    seq += 1;
                    stage.publish(seq);
                }
                Step::Take(n) => {
                    for _ in 0..n {
                        let Some(delivery) = reader.try_next().unwrap() else { break };
                        client.take(&delivery);
                    }
                }
                Step::Again { knows } | Step::Fresh { knows } => {
                    if matches!(step, Step::Fresh { .. }) {
                        reader = Reader::new();
                    }
                    let (after, from) =
                        if knows { (Some(client.seq), client.offsets()) } else { (None, TextOffsets::default()) };
                    let (attached, running) = stage.subscribe(&reader, after, from);
                    // Fewer events than the hub keeps: a known place can always be resumed from.
                    prop_assert_eq!(attached.recovery == Recovery::Buffer, knows);
                    if knows {
                        prop_assert_eq!(attached.seq, client.seq);
                        prop_assert_eq!(running.content.offset, from.content);
                    } else {
                        prop_assert_eq!(attached.seq, seq);
                    }
                    // Events that were missed come after text that is newer than they are: numbers of text only
                    // say where the text stands.
                    client.begin(&attached, &running);
                }
            }
        }
        client.drain(&mut reader);
        prop_assert_eq!(client.content, content);
        prop_assert_eq!(client.thinking, thinking);
        prop_assert_eq!(client.seq, seq);
    }

    /// A place that is no boundary of a character, or beyond the end, is answered with the whole text.
    #[test]
    fn nonsense_offsets_are_answered_with_the_whole_text(offset in 0usize..40) {
        let stage = Stage::new();
        let text = "aß€😀 e\u{301} end";
        stage.live.append(&[piece(PieceKind::Content, text)]);
        let reader = Reader::new();
        let (_, running) = stage.subscribe(&reader, None, TextOffsets { content: offset, thinking: offset });
        let TextFrom { offset: from, text: tail } = running.content;
        prop_assert_eq!(format!("{}{tail}", &text[..from]), text);
        prop_assert_eq!(from, if text.is_char_boundary(offset) { offset } else { 0 });
        prop_assert_eq!(running.thinking.offset, 0);
    }
}

#[test]
fn readers_that_come_and_go_beside_a_writer_miss_nothing_and_get_nothing_twice() {
    const PIECES: usize = 3000;
    let stage = Stage::new();
    let words = ["null ", "ein", "dö", "€", "😀", "\n"];
    let whole: String = (0..PIECES).map(|n| words[n % words.len()]).collect();
    let done = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        let stage = &stage;
        let (whole, done) = (&whole, &done);
        scope.spawn(move || {
            for n in 0..PIECES {
                assert!(stage.live.append(&[piece(PieceKind::Content, words[n % words.len()])]));
                if n % 50 == 0 {
                    stage.publish((n / 50 + 1) as u64);
                }
            }
            done.store(true, std::sync::atomic::Ordering::Release);
        });
        for seed in 0..3usize {
            scope.spawn(move || {
                let mut client = Client::default();
                let mut returns = 0;
                loop {
                    let over = done.load(std::sync::atomic::Ordering::Acquire);
                    let mut reader = Reader::new();
                    let first = returns == 0;
                    let (after, from) = if first || seed == 2 {
                        (None, TextOffsets::default())
                    } else {
                        (Some(client.seq), client.offsets())
                    };
                    let (attached, running) = stage.subscribe(&reader, after, from);
                    assert_eq!(attached.recovery == Recovery::Buffer, after.is_some());
                    client.begin(&attached, &running);
                    returns += 1;
                    // Sometimes a few, sometimes many.
                    let mut budget = (returns * 7 + seed) % 41;
                    while let Some(delivery) = reader.try_next().expect("no overflow") {
                        take_loosely(&mut client, &delivery);
                        if budget == 0 && !over {
                            break;
                        }
                        budget = budget.saturating_sub(1);
                    }
                    if over {
                        break;
                    }
                }
                assert_eq!(&client.content, whole);
                assert_eq!(client.seq, PIECES as u64 / 50);
            });
        }
    });
}

/// As [`Client::take`], without the number of text: text that was written between the attachment and the look at the
/// text so far is newer than the missed events that wait behind it.
fn take_loosely(client: &mut Client, delivery: &Delivery) {
    match &delivery.kind {
        DeliveryKind::Durable(_) => {
            assert_eq!(delivery.seq, client.seq + 1);
            client.seq = delivery.seq;
        }
        DeliveryKind::Token { end, .. } => {
            let frame = json(delivery);
            assert_eq!(frame["data"]["offset"], client.content.len());
            client.content.push_str(frame["data"]["text"].as_str().unwrap());
            assert_eq!(client.content.len(), *end);
        }
        DeliveryKind::QueueMoved => {}
    }
}
