//! Rows that this version can't read, put there by another program: they are left out and counted, the rest is read.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
};

use deia_actors::{
    archive,
    domain::{event::Topic, ids::MessageId, problem::Problem},
    ports::scratch::{InMemory, Scratch},
};
use futures_util::StreamExt;

use super::*;

/// Ways to spoil a message, as SQL after `UPDATE chat_messages`.
const SPOILT_MESSAGES: [&str; 9] = [
    "SET sender = 'robot'",
    "SET state = 'half'",
    "SET metadata = '{\"a\":'",
    "SET tool_calls = 'not json'",
    "SET content = CAST(x'ff20' AS TEXT)",
    "SET turn_id = x'00'",
    "SET tokens = -1",
    "SET created_at = -9223372036854775808",
    "SET created_at = 253402300800000000",
];

impl OnDisk {
    /// What another program does to the file.
    fn spoil(&self, sql: &str, id: &[u8]) {
        let other = rusqlite::Connection::open(self.file()).unwrap();
        assert_eq!(other.execute(sql, [id]).unwrap(), 1, "{sql}");
    }

    /// A path of so many messages, oldest first.
    async fn with_path(length: usize) -> (Self, BotId, Conversation, Vec<MessageId>) {
        let (disk, id, main) = Self::with_bot().await;
        let (mut parent, mut ids, mut group) = (None, vec![], vec![]);
        for n in 0..length {
            let next = samples::message(&main, parent, Sender::User, &format!("word {n}"));
            parent = Some(next.id);
            ids.push(next.id);
            group.push(samples::append(&next));
        }
        disk.store.commit(group).await.unwrap();
        (disk, id, main, ids)
    }

    fn quarantined(&self) -> u64 {
        self.store.quarantined_rows()
    }
}

fn ids(messages: &[Message]) -> Vec<MessageId> {
    messages.iter().map(|m| m.id).collect()
}

fn without<T: Copy>(all: &[T], at: usize) -> Vec<T> {
    all.iter().enumerate().filter(|(n, _)| *n != at).map(|(_, id)| *id).collect()
}

#[tokio::test]
async fn a_message_that_can_not_be_read_is_left_out_of_its_path_and_counted_once() {
    for spoilt in SPOILT_MESSAGES {
        let (disk, bot, main, all) = OnDisk::with_path(6).await;
        disk.spoil(&format!("UPDATE chat_messages {spoilt} WHERE id = ?1"), all[3].0.as_bytes());
        let rest = without(&all, 3);
        for _ in 0..2 {
            let page = disk.store.page(main.id, Cursor::Newest { offset: 0 }, 50).await.unwrap().unwrap();
            assert_eq!((ids(&page.items), page.has_more), (rest.clone(), false), "{spoilt}");
            let mut path = ids(&disk.store.path(all[5], 1000).await.unwrap());
            path.reverse();
            assert_eq!(path, rest);
            let snapshot = disk.store.conversation_snapshot(main.id, 50).await.unwrap().unwrap();
            assert_eq!(ids(&snapshot.messages), rest);
            let query = Query::parse("word").unwrap();
            assert_eq!(
                disk.store.search(&bot, None, &query, 50, 0).await.unwrap().items.len(),
                5,
                "{spoilt}"
            );
            let error = disk.store.message(&bot, all[3]).await.unwrap_err();
            assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
        }
        assert_eq!(disk.quarantined(), 1, "{spoilt}");
        assert_eq!(disk.store.messages_above(all[5]).await.unwrap(), 5);
    }
}

/// Spoilt while it waits to end, or when its turn to be indexed comes; only for the search.
#[tokio::test]
async fn a_text_that_can_not_be_read_keeps_no_other_from_being_found() {
    for spoilt in
        ["content = CAST(x'776f7264ff41' AS TEXT)", "bot_id = CAST(x'ff' AS TEXT)", "conversation_id = x'00'"]
    {
        let (disk, bot, main, all) = OnDisk::with_path(1).await;
        let found = async || {
            let query = Query::parse("word").unwrap();
            ids(&disk.store.search(&bot, None, &query, 50, 0).await.unwrap().items)
        };
        let (turn, question, reply) = samples::turn(&main, Some(all[0]), "word");
        disk.store.commit(vec![samples::accept(&turn, &question, &reply)]).await.unwrap();
        assert_eq!(found().await, [question.id, all[0]]);
        let (done, answer) = samples::ended(&turn, &reply, "word");
        disk.store.commit(vec![samples::finish(&done, &answer)]).await.unwrap();
        let late = samples::message(&main, Some(reply.id), Sender::User, "word");
        let last = samples::message(&main, Some(late.id), Sender::User, "word");
        disk.store.commit(vec![samples::append(&late), samples::append(&last)]).await.unwrap();
        for id in [reply.id, late.id] {
            disk.spoil(&format!("UPDATE chat_messages SET {spoilt} WHERE id = ?1"), id.0.as_bytes());
        }
        for _ in 0..2 {
            assert_eq!(found().await, [last.id, question.id, all[0]], "{spoilt}");
        }
        assert_eq!(disk.quarantined(), 2, "{spoilt}");
    }
}

#[tokio::test]
async fn a_page_of_messages_that_can_not_be_read_is_not_the_end() {
    let (disk, _, main, all) = OnDisk::with_path(12).await;
    for id in &all[3..9] {
        disk.spoil("UPDATE chat_messages SET sender = 'robot' WHERE id = ?1", id.0.as_bytes());
    }
    let page = async |cursor| {
        let page = disk.store.page(main.id, cursor, 2).await.unwrap().unwrap();
        (ids(&page.items), page.has_more)
    };
    assert_eq!(page(Cursor::Newest { offset: 0 }).await, (all[10..].to_vec(), true));
    assert_eq!(page(Cursor::Before(all[10])).await, (vec![all[2], all[9]], true));
    assert_eq!(page(Cursor::Before(all[2])).await, (all[..2].to_vec(), false));
    assert_eq!(page(Cursor::After(all[1])).await, (vec![all[2], all[9]], true));
    assert_eq!(page(Cursor::After(all[9])).await, (all[10..].to_vec(), false));
    assert_eq!(
        page(Cursor::Before(all[5])).await,
        (vec![all[1], all[2]], true),
        "a cursor need not be readable"
    );
    assert_eq!(disk.quarantined(), 6);
}

#[tokio::test]
async fn a_bot_that_can_not_be_read_keeps_no_other_from_the_roster() {
    for spoilt in [
        "UPDATE bots SET config = '{' WHERE id = CAST(?1 AS TEXT)",
        "UPDATE bots SET metadata = '[]' WHERE id = CAST(?1 AS TEXT)",
        "UPDATE bots SET created_at = -9223372036854775808 WHERE id = CAST(?1 AS TEXT)",
    ] {
        let (disk, id, _) = OnDisk::with_bot().await;
        let other = BotId::numbered(2);
        disk.store.commit(vec![samples::launch(&other).0]).await.unwrap();
        disk.spoil(spoilt, id.as_str().as_bytes());
        let roster: Vec<_> = disk.store.roster().await.unwrap().into_iter().map(|(bot, _)| bot.id).collect();
        assert_eq!(roster, [other], "{spoilt}");
        assert_eq!(disk.quarantined(), 1);
    }
}

#[tokio::test]
async fn a_status_that_can_not_be_read_keeps_its_bot() {
    for spoilt in [
        "status = 'enlightened'",
        "error_count = -1",
        "updated_at = 9223372036854775807",
        "last_message = -9223372036854775808",
    ] {
        let (disk, id, _) = OnDisk::with_bot().await;
        let sql = format!("UPDATE bot_status SET {spoilt} WHERE bot_id = CAST(?1 AS TEXT)");
        disk.spoil(&sql, id.as_str().as_bytes());
        for _ in 0..2 {
            let roster = disk.store.roster().await.unwrap();
            let (bot, status) = roster.first().unwrap();
            assert_eq!((&bot.id, &status.bot_id, status.error_count), (&id, &id, 0), "{spoilt}");
        }
        assert_eq!(disk.quarantined(), 1, "{spoilt}");
    }
}

#[tokio::test]
async fn a_count_of_messages_that_can_not_be_is_none() {
    let (disk, id, main) = OnDisk::with_bot().await;
    disk.spoil("UPDATE conversations SET message_count = -7 WHERE id = ?1", main.id.0.as_bytes());
    assert_eq!(disk.store.conversations(&id).await.unwrap()[0].message_count, 0);
    assert_eq!(disk.quarantined(), 0);
}

#[tokio::test]
async fn an_open_turn_that_can_not_be_read_keeps_no_other_from_being_found() {
    let spoils = [
        ("UPDATE turns SET state = 'dreaming' WHERE id = ?1", 1),
        ("UPDATE turns SET queue = '{' WHERE id = ?1", 1),
        ("UPDATE chat_messages SET sender = 'robot' WHERE turn_id = ?1 AND sender = 'bot'", 2),
    ];
    for (spoilt, rows) in spoils {
        let (disk, id, main) = OnDisk::with_bot().await;
        let (first, question, reply) = samples::turn(&main, None, "one");
        let (second, next, other) = samples::turn(&main, Some(reply.id), "two");
        let group = vec![samples::accept(&first, &question, &reply), samples::accept(&second, &next, &other)];
        disk.store.commit(group).await.unwrap();
        disk.spoil(spoilt, first.id.0.as_bytes());
        for bot in [None, Some(&id)] {
            let open = disk.store.open_turns(bot).await.unwrap();
            assert_eq!(open.iter().map(|(turn, ..)| turn.id).collect::<Vec<_>>(), [second.id], "{spoilt}");
        }
        assert_eq!(disk.quarantined(), rows, "{spoilt}");
    }
}

#[tokio::test]
async fn an_event_that_can_not_be_read_keeps_its_number() {
    let (disk, _, main, _) = OnDisk::with_path(4).await;
    let before = disk.store.events_after(0, 100).await.unwrap();
    let spoil = |sql: &str, at: usize| disk.spoil(sql, before[at].id.0.as_bytes());
    spoil("UPDATE outbox_events SET data = '{\"message\":' WHERE id = ?1", 1);
    spoil("UPDATE outbox_events SET data = CAST(x'ff' AS TEXT) WHERE id = ?1", 2);
    spoil("UPDATE outbox_events SET event = 'message_dreamt', data = '{\"new\":1}' WHERE id = ?1", 3);
    let events = disk.store.events_after(0, 100).await.unwrap();
    assert_eq!(events.len(), before.len());
    let topic = Topic::Conversation(main.id);
    let numbers = events.iter().flat_map(|e| &e.seqs).filter(|(t, _)| *t == topic).map(|(_, seq)| *seq);
    assert_eq!(numbers.collect::<Vec<_>>(), [1, 2, 3, 4]);
    for at in [1, 2] {
        assert_eq!(&*events[at].data, r#"{"redacted":true}"#);
        assert_eq!(events[at].seqs, before[at].seqs);
    }
    assert_eq!(
        (&*events[3].name, &*events[3].data),
        ("message_dreamt", r#"{"new":1}"#),
        "of a newer version"
    );
    assert_eq!(disk.quarantined(), 2);
    disk.spoil("UPDATE outbox_events SET id = x'00' WHERE id = ?1", before[4].id.0.as_bytes());
    let disk = disk.reopen().await;
    assert_eq!(disk.store.events_after(0, 100).await.unwrap().len(), before.len());
    let (message, fact) = said(&main, 1);
    assert!(disk.store.commit(vec![fact]).await.unwrap()[0].applied, "writing goes on");
    assert!(disk.store.message(&main.bot_id, message.id).await.unwrap().is_some());
}

#[tokio::test]
async fn what_is_asked_of_a_spoilt_turn_is_answered_with_what_can_be_read() {
    let (disk, _, main) = OnDisk::with_bot().await;
    let (turn, question, reply) = samples::turn(&main, None, "one");
    disk.store.commit(vec![samples::accept(&turn, &question, &reply)]).await.unwrap();
    disk.spoil("UPDATE chat_messages SET state = 'half' WHERE id = ?1", reply.id.0.as_bytes());
    let found = disk.store.turn_snapshot(turn.id).await.unwrap().unwrap();
    assert_eq!((found.turn.id, found.reply), (turn.id, None));
    disk.spoil("UPDATE turns SET overrides = '{' WHERE id = ?1", turn.id.0.as_bytes());
    assert!(matches!(disk.store.turn_overrides(turn.id).await, Err(StoreError::Corrupt(_))));
    disk.spoil("UPDATE turns SET error = '{' WHERE id = ?1", turn.id.0.as_bytes());
    assert!(matches!(disk.store.turn_snapshot(turn.id).await, Err(StoreError::Corrupt(_))));
    assert_eq!(disk.quarantined(), 2, "a row counts once, however much of it is spoilt");
}

#[tokio::test]
async fn a_conversation_that_can_not_be_read_is_left_out_of_the_list() {
    let (disk, id, main) = OnDisk::with_bot().await;
    let second =
        Conversation { id: deia_actors::domain::ids::ConversationId::new(), main: false, ..main.clone() };
    let fact = Fact::new(Change::CreateConversation(second.clone()), vec![]);
    disk.store.commit(vec![fact]).await.unwrap();
    disk.spoil("UPDATE conversations SET leaf_message_id = x'00' WHERE id = ?1", second.id.0.as_bytes());
    let listed = disk.store.conversations(&id).await.unwrap();
    assert_eq!(listed.iter().map(|c| c.id).collect::<Vec<_>>(), [main.id]);
    assert!(matches!(disk.store.conversation(second.id).await, Err(StoreError::Corrupt(_))));
    assert_eq!(disk.quarantined(), 1);
}

#[tokio::test]
async fn an_export_says_what_it_left_out_and_is_imported() {
    let (disk, id, main, all) = OnDisk::with_path(6).await;
    let fork = Conversation { leaf_message_id: Some(all[0]), ..samples::conversation(&id) };
    let own = samples::message(&fork, Some(all[2]), Sender::User, "from a message that is not there");
    let create = Fact::new(Change::CreateConversation(fork.clone()), vec![]);
    disk.store.commit(vec![create, samples::append(&own)]).await.unwrap();
    for (n, spoilt) in
        [(1, "sender = 'robot'"), (2, "created_at = 9223372036854775807"), (5, "state = 'half'")]
    {
        disk.spoil(&format!("UPDATE chat_messages SET {spoilt} WHERE id = ?1"), all[n].0.as_bytes());
    }
    let (file, left_out) = disk.exported(&id).await;
    assert!(file.contains("},\"left_out\":3,\n\"sha256\":\""), "{file}");
    assert_eq!(left_out, 3);
    let second = OnDisk::create().await;
    second.store.commit(vec![samples::launch(&id).0]).await.unwrap();
    let report = second.imported(&file).await.unwrap();
    assert_eq!((report.imported.messages, report.left_out), (4, 3));
    let mut path = ids(&second.store.path(all[4], 1000).await.unwrap());
    path.reverse();
    assert_eq!(path, [all[0], all[3], all[4]]);
    assert_eq!(second.store.conversation(main.id).await.unwrap().unwrap().leaf_message_id, Some(all[4]));
    assert_eq!(ids(&second.store.path(own.id, 1000).await.unwrap()), [own.id, all[0]]);
    assert_eq!(second.exported(&id).await.1, 0, "what was imported is whole");
    assert_eq!(second.imported(&file).await.unwrap().imported.messages, 0, "doing it again changes nothing");
    // A conversation that can't be read: what was forked from it begins anew.
    disk.spoil(
        "UPDATE conversations SET created_at = 9223372036854775807 WHERE id = ?1",
        main.id.0.as_bytes(),
    );
    let (file, left_out) = disk.exported(&id).await;
    assert_eq!(left_out, 1);
    let third = OnDisk::create().await;
    third.store.commit(vec![samples::launch(&id).0]).await.unwrap();
    assert_eq!(third.imported(&file).await.unwrap().imported.messages, 1);
    assert_eq!(ids(&third.store.path(own.id, 1000).await.unwrap()), [own.id]);
}

#[tokio::test]
async fn clearing_a_conversation_whose_end_is_not_stored_begins_it_anew() {
    let (disk, bot, main, _) = OnDisk::with_path(2).await;
    disk.spoil(
        "UPDATE conversations SET leaf_message_id = randomblob(16) WHERE id = ?1",
        main.id.0.as_bytes(),
    );
    let clear = Change::ClearHistory { bot_id: bot.clone(), conversation_id: Some(main.id) };
    assert!(disk.store.commit(vec![Fact::new(clear, vec![])]).await.unwrap()[0].applied);
    assert_eq!(disk.store.conversation(main.id).await.unwrap().unwrap().leaf_message_id, None);
    let (turn, question, reply) = samples::turn(&main, None, "anew");
    let accepted = disk.store.commit(vec![samples::accept(&turn, &question, &reply)]).await.unwrap();
    assert!(accepted[0].applied);
}

impl OnDisk {
    /// The export of a bot as JSON, and how many rows it left out.
    async fn exported(&self, bot: &BotId) -> (String, u64) {
        let store = Arc::new(SqliteStore::open(&self.copy()).await.unwrap());
        let mut export =
            archive::export(store.clone(), bot, archive::ExportFormat::Json, None).await.unwrap();
        let mut file = vec![];
        while let Some(chunk) = export.body.next().await {
            file.extend_from_slice(&chunk.unwrap());
        }
        store.close().await;
        (String::from_utf8(file).unwrap(), export.left_out.load(Ordering::Relaxed))
    }

    /// A copy of the file as it is now: the other one is in use.
    fn copy(&self) -> PathBuf {
        let copy = self.folder.path().join(format!("{}.db", MessageId::new()));
        let other = rusqlite::Connection::open(self.file()).unwrap();
        other.execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
        copy
    }

    async fn imported(&self, file: &str) -> Result<archive::ImportReport, Problem> {
        let scratch: Arc<dyn Scratch> = Arc::new(InMemory);
        let mut source = io::Cursor::new(file.as_bytes().to_vec());
        archive::import(&self.store, &archive::Straight(&self.store), None, &mut source, &scratch).await
    }
}
