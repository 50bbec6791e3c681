//! Queues of single readers and buffers of single hubs: joining, replay, overflow, detaching.

use super::*;
use crate::{
    broadcast::{hub::KEEP_EVENTS, recent::KEEP_ALL_BYTES},
    ports::history_store::Span,
};

#[test]
fn text_that_waits_is_joined_within_its_kind_only() {
    let stage = Stage::new();
    let mut reader = Reader::new();
    stage.subscribe(&reader, None, TextOffsets::default());
    for (kind, text) in [
        (PieceKind::Thinking, "h"),
        (PieceKind::Thinking, "m"),
        (PieceKind::Content, "a"),
        (PieceKind::Content, "b"),
        (PieceKind::Content, "c"),
        (PieceKind::Thinking, "!"),
    ] {
        stage.live.append(&[piece(kind, text)]);
    }
    let mut seen = vec![];
    while let Some(delivery) = reader.try_next().unwrap() {
        let frame = json(&delivery);
        assert_eq!(frame["data"]["message_id"], stage.message.to_string());
        assert_eq!(frame["data"]["turn_id"], stage.turn.to_string());
        seen.push((
            frame["data"]["offset"].as_u64().unwrap(),
            frame["data"]["text"].as_str().unwrap().to_owned(),
        ));
    }
    assert_eq!(seen, [(0, "hm".to_owned()), (0, "abc".to_owned()), (2, "!".to_owned())]);
}

#[test]
fn a_durable_event_keeps_text_before_and_behind_it_apart() {
    let stage = Stage::new();
    let mut reader = Reader::new();
    stage.subscribe(&reader, None, TextOffsets::default());
    stage.live.append(&[piece(PieceKind::Content, "before")]);
    stage.publish(1);
    stage.live.append(&[piece(PieceKind::Content, "behind")]);
    let seqs: Vec<u64> = std::iter::from_fn(|| reader.try_next().unwrap()).map(|d| d.seq).collect();
    assert_eq!(seqs, [0, 1, 1]);
}

#[test]
fn a_cursor_that_the_hub_does_not_reach_back_to_is_one_for_the_record() {
    let topic = Topic::Bots;
    let hub = Hub::new(topic.clone(), Epoch::new());
    hub.init_head(10);
    for seq in 11..=400 {
        hub.publish(seq, &committed(&topic, seq, None));
    }
    let oldest = 400 - u64::try_from(KEEP_EVENTS).unwrap();
    let record = |after| Recovery::Record(Span { after, through: 400 });
    let cases = [
        (0, record(0)),
        (10, record(10)),
        (oldest - 1, record(oldest - 1)),
        (oldest, Recovery::Buffer),
        (400, Recovery::Buffer),
        (401, Recovery::Snapshot),
        (u64::MAX, Recovery::Snapshot),
    ];
    for (after, recovery) in cases {
        let buffered = recovery == Recovery::Buffer;
        let mut reader = Reader::new();
        let attached = hub.attach(reader.queue(), Some(after));
        assert_eq!(
            (attached.recovery, attached.seq),
            (recovery, if buffered { after } else { 400 }),
            "{after}"
        );
        let replayed: Vec<u64> = std::iter::from_fn(|| reader.try_next().unwrap()).map(|d| d.seq).collect();
        let expected: Vec<u64> = if buffered { (after + 1..=400).collect() } else { vec![] };
        assert_eq!(replayed, expected, "{after}");
    }
}

#[test]
fn repetitions_are_left_out_and_a_jump_ends_the_replay_behind_it() {
    let topic = Topic::Bots;
    let hub = Hub::new(topic.clone(), Epoch::new());
    let mut reader = Reader::new();
    hub.init_head(0);
    hub.attach(reader.queue(), None);
    for seq in [1, 2, 2, 1, 3] {
        hub.publish(seq, &committed(&topic, seq, None));
    }
    let seqs: Vec<u64> = std::iter::from_fn(|| reader.try_next().unwrap()).map(|d| d.seq).collect();
    assert_eq!(seqs, [1, 2, 3]);
    // Whatever was committed unseen in between can't be replayed from here.
    hub.publish(7, &committed(&topic, 7, None));
    let late = Reader::new();
    let span = Span { after: 3, through: 7 };
    assert_eq!(hub.attach(late.queue(), Some(3)).recovery, Recovery::Record(span));
    assert_eq!(hub.attach(late.queue(), Some(6)).recovery, Recovery::Buffer);
}

#[test]
fn two_readers_share_the_bytes_of_a_frame() {
    let stage = Stage::new();
    let mut readers = [Reader::new(), Reader::new()];
    for reader in &readers {
        stage.subscribe(reader, None, TextOffsets::default());
    }
    stage.live.append(&[piece(PieceKind::Content, "hello")]);
    let frames: Vec<_> = readers.iter_mut().map(|r| r.try_next().unwrap().unwrap().frame).collect();
    assert_eq!(frames[0].as_ptr(), frames[1].as_ptr());
}

#[test]
fn a_reader_that_never_reads_overflows_alone_and_is_forgotten() {
    let stage = Stage::new();
    let (mut slow, mut quick) = (Reader::new(), Reader::new());
    let mut client = Client::default();
    for reader in [&slow, &quick] {
        stage.subscribe(reader, None, TextOffsets::default());
    }
    assert_eq!(stage.hub().readers(), 2);
    for seq in 1..=5000 {
        stage.publish(seq);
        client.drain(&mut quick);
    }
    assert_eq!(client.seq, 5000);
    assert_eq!(slow.try_next().unwrap_err(), Lost::TooSlow, "never a silent gap");
    assert_eq!(slow.try_next().unwrap_err(), Lost::TooSlow, "and it stays so");
    assert_eq!(stage.hub().readers(), 1);
}

#[test]
fn text_of_many_bytes_overflows_a_reader_too() {
    let stage = Stage::new();
    let mut slow = Reader::new();
    stage.subscribe(&slow, None, TextOffsets::default());
    let text = "x".repeat(64 * 1024);
    for _ in 0..65 {
        stage.live.append(&[piece(PieceKind::Content, &text)]);
    }
    assert_eq!(slow.try_next().unwrap_err(), Lost::TooSlow);
    assert_eq!(stage.live.len(), 65 * 64 * 1024, "the reply goes on");
}

#[test]
fn an_event_that_is_larger_than_the_queue_reaches_its_readers_with_what_is_around_it() {
    let stage = Stage::new();
    let mut reader = Reader::new();
    stage.subscribe(&reader, None, TextOffsets::default());
    let publish_large = |seq| {
        let mut event = CommittedEvent::clone(&committed(&stage.topic, seq, None));
        event.data = format!("{{\"text\":\"{}\"}}", "x".repeat(5 << 20)).into();
        stage.hub().publish(seq, &Arc::new(event));
    };
    // As a message with an image comes: with its neighbours, before anybody had time to read.
    stage.publish(1);
    publish_large(2);
    stage.publish(3);
    stage.live.append(&[piece(PieceKind::Content, "an answer")]);
    let mut client = Client::default();
    client.drain(&mut reader);
    assert_eq!((client.seq, client.content.as_str()), (3, "an answer"));
    publish_large(4);
    stage.publish(5);
    publish_large(6);
    assert_eq!(reader.try_next().unwrap_err(), Lost::TooSlow, "a second one waits for a reader that is slow");
}

#[test]
fn a_dropped_or_detached_reader_gets_nothing_more() {
    let stage = Stage::new();
    let (gone, mut off) = (Reader::new(), Reader::new());
    for reader in [&gone, &off] {
        stage.subscribe(reader, None, TextOffsets::default());
    }
    stage.publish(1);
    drop(gone);
    stage.hub().detach(off.queue());
    assert!(off.try_next().unwrap().is_none(), "what waited is forgotten");
    stage.publish(2);
    stage.live.append(&[piece(PieceKind::Content, "x")]);
    assert!(off.try_next().unwrap().is_none());
    assert_eq!(stage.hub().readers(), 0);
}

#[test]
fn a_sealed_reply_takes_no_more_text() {
    let stage = Stage::new();
    let mut reader = Reader::new();
    stage.subscribe(&reader, None, TextOffsets::default());
    stage.live.append(&[piece(PieceKind::Content, "kept")]);
    assert_eq!(stage.live.seal().content, "kept");
    assert!(!stage.live.append(&[piece(PieceKind::Content, "lost")]));
    assert_eq!(stage.live.text().content, "kept");
    let mut client = Client::default();
    client.drain(&mut reader);
    assert_eq!(client.content, "kept");
}

#[test]
fn the_end_of_a_turn_takes_its_reply_off_every_hub() {
    let stage = Stage::new();
    let topics = [stage.topic.clone(), Topic::Turn(stage.turn)];
    let seqs = topics.iter().map(|t| (t.clone(), 1)).collect();
    let mut event = CommittedEvent::clone(&committed(&topics[0], 1, Some(stage.turn)));
    event.seqs = seqs;
    assert!(stage.hubs.live(stage.turn).is_some());
    stage.hubs.publish(vec![event]);
    assert!(stage.hubs.live(stage.turn).is_none());
    for topic in &topics {
        let reader = Reader::new();
        let attached = stage.hubs.hub(topic).attach(reader.queue(), None);
        assert_eq!((attached.seq, attached.running.len()), (1, 0), "{topic}");
    }
}

#[test]
fn attaching_again_starts_over_without_doubling() {
    let stage = Stage::new();
    let mut reader = Reader::new();
    stage.subscribe(&reader, None, TextOffsets::default());
    stage.publish(1);
    stage.live.append(&[piece(PieceKind::Content, "one ")]);
    let (attached, running) = stage.subscribe(&reader, None, TextOffsets::default());
    assert_eq!((attached.seq, running.content.text.as_str()), (1, "one "));
    assert_eq!(stage.hub().readers(), 1);
    stage.live.append(&[piece(PieceKind::Content, "two")]);
    let mut client = Client::default();
    client.begin(&attached, &running);
    client.drain(&mut reader);
    assert_eq!(client.content, "one two");
}

#[tokio::test]
async fn a_waiting_reader_is_woken_by_text_and_by_events() {
    let stage = Stage::new();
    let mut reader = Reader::new();
    stage.subscribe(&reader, None, TextOffsets::default());
    let mut names = BTreeMap::new();
    let task = tokio::spawn(async move {
        for _ in 0..2 {
            let delivery = reader.next().await.unwrap();
            *names.entry(delivery.name.to_string()).or_insert(0) += 1;
        }
        names
    });
    tokio::task::yield_now().await;
    stage.live.append(&[piece(PieceKind::Content, "x")]);
    tokio::task::yield_now().await;
    stage.publish(1);
    let names = tokio::time::timeout(std::time::Duration::from_secs(10), task).await.unwrap().unwrap();
    assert_eq!(names, BTreeMap::from([("token".into(), 1), ("turn_started".into(), 1)]));
}

#[test]
fn behind_a_snapshot_stands_only_what_it_does_not_hold_with_its_number() {
    let stage = Stage::new();
    let (ended, hub) = (stage.turn, stage.hubs.hub(&stage.topic));
    hub.init_head(3);
    let mut reader = Reader::new();
    hub.attach(reader.queue(), None);
    stage.live.append(&[piece(PieceKind::Content, "over")]);
    hub.publish(4, &committed(&stage.topic, 4, Some(ended)));
    let Topic::Conversation(conversation) = stage.topic.clone() else { unreachable!() };
    let next = stage.hubs.begin_reply(BotId::numbered(1), TurnId::new(), MessageId::new(), conversation);
    next.append(&[piece(PieceKind::Content, "running")]);
    hub.publish(5, &committed(&stage.topic, 5, None));
    hub.publish(6, &committed(&stage.topic, 6, None));
    reader.queue().forget_through(&stage.topic, 5);
    let left: Vec<_> = std::iter::from_fn(|| reader.try_next().unwrap()).map(|d| json(&d)).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert_eq!((&left[0]["data"]["text"], &left[0]["seq"]), (&"running".into(), &5.into()));
    assert_eq!((&left[1]["event"], &left[1]["seq"]), (&"turn_started".into(), &6.into()));
}

#[test]
fn a_bot_s_replies_that_were_never_stored_are_forgotten_and_no_others() {
    let stage = Stage::new();
    let Topic::Conversation(conversation) = stage.topic.clone() else { unreachable!() };
    let begin =
        |bot, turn| stage.hubs.begin_reply(BotId::numbered(bot), turn, MessageId::new(), conversation);
    let (open, lost, other) = (stage.turn, TurnId::new(), TurnId::new());
    drop((begin(1, lost), begin(2, other)));
    let running = || {
        let reader = Reader::new();
        let attached = stage.hub().attach(reader.queue(), None);
        attached.running.iter().map(|live| live.turn_id()).collect::<Vec<_>>()
    };
    assert_eq!(running(), [open, lost, other]);
    stage.hubs.forget_replies(&BotId::numbered(1), &[open]);
    assert_eq!(running(), [open, other]);
    assert!(stage.hubs.live(lost).is_none() && stage.hubs.live(other).is_some());
    // The message is handed over once more, with the same ids.
    drop(begin(1, lost));
    assert_eq!(running(), [open, other, lost]);
}

#[tokio::test]
async fn an_event_that_is_stored_but_not_published_yet_is_waited_for() {
    let stage = Stage::new();
    let hub = stage.hubs.hub(&stage.topic);
    hub.publish(1, &committed(&stage.topic, 1, None));
    hub.published(1).await;
    let mut waits = std::pin::pin!(hub.published(3));
    assert!(futures_util::poll!(&mut waits).is_pending());
    hub.publish(2, &committed(&stage.topic, 2, None));
    assert!(futures_util::poll!(&mut waits).is_pending());
    hub.publish(3, &committed(&stage.topic, 3, None));
    waits.await;
}

#[test]
fn all_hubs_together_keep_the_newest_events_and_leave_the_rest_to_the_record() {
    let hubs = Hubs::new(Epoch::new());
    let data: Arc<str> = "x".repeat(32 * 1024).into();
    let topics: Vec<_> =
        (0..200).map(|_| [Topic::Conversation(ConversationId::new()), Topic::Turn(TurnId::new())]).collect();
    let say = |of: &[Topic; 2], seq| {
        let mut event = CommittedEvent::clone(&committed(&of[0], seq, None));
        event.data = data.clone();
        event.seqs.push((of[1].clone(), seq));
        hubs.publish(vec![event]);
    };
    topics.iter().for_each(|of| say(of, 1));
    let kept = Arc::strong_count(&data) - 1;
    assert!(kept <= KEEP_ALL_BYTES / data.len() && kept > KEEP_ALL_BYTES / data.len() / 10 * 9, "{kept}");
    let comes_back =
        |topic: &Topic, after| hubs.hub(topic).attach(Reader::new().queue(), Some(after)).recovery;
    for (n, topic) in topics.iter().enumerate().flat_map(|(n, of)| of.iter().map(move |topic| (n, topic))) {
        let span = Span { after: 0, through: 1 };
        let expected = if n < 200 - kept { Recovery::Record(span) } else { Recovery::Buffer };
        assert_eq!(comes_back(topic, 0), expected, "{n}");
    }
    // What was let go leaves no gap in front of what comes next.
    say(&topics[0], 2);
    let cases = [(0, Recovery::Record(Span { after: 0, through: 2 })), (1, Recovery::Buffer)];
    for (after, recovery) in cases {
        assert_eq!(comes_back(&topics[0][0], after), recovery);
    }
    hubs.forget_recent();
    assert_eq!(Arc::strong_count(&data), 1, "what is deleted is kept nowhere");
}
