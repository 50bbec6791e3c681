//! Rows that this version can't read, put there by another program: they are left out and counted, the rest is read.

use deia_actors::{
    domain::{
        ids::{BotId, ConversationId, MessageId},
        search::Query,
    },
    ports::{
        archive::{Archive, Arrival},
        history_store::Span,
        search::SearchIndex,
    },
};
use sqlx::{AssertSqlSafe, Encode, Postgres, Type};

use super::*;

/// Ways to spoil a message, as SQL after `UPDATE chat_messages`.
const SPOILT_MESSAGES: [&str; 7] = [
    "SET sender = 'robot'",
    "SET state = 'half'",
    "SET metadata = '{\"a\":'",
    "SET tool_calls = 'not json'",
    "SET tokens = -1",
    "SET created_at = -9223372036854775808",
    "SET created_at = 253402300800000000",
];

impl OnServer {
    /// What another program does to the database.
    async fn spoil<'q, T: Encode<'q, Postgres> + Type<Postgres> + 'q>(&self, sql: &str, id: T) {
        let mut other = self.database.admin().await;
        let done = sqlx::query(AssertSqlSafe(sql)).bind(id).execute(&mut other).await.unwrap();
        assert_eq!(done.rows_affected(), 1, "{sql}");
        other.close().await.unwrap();
    }

    /// A path of so many messages, oldest first.
    async fn with_path(length: usize) -> (Self, BotId, Conversation, Vec<MessageId>) {
        let (server, id, main) = Self::with_bot().await;
        let (mut parent, mut ids, mut group) = (None, vec![], vec![]);
        for n in 0..length {
            let next = samples::message(&main, parent, Sender::User, &format!("word {n}"));
            parent = Some(next.id);
            ids.push(next.id);
            group.push(samples::append(&next));
        }
        server.store.commit(group).await.unwrap();
        (server, id, main, ids)
    }
}

fn ids(messages: &[Message]) -> Vec<MessageId> {
    messages.iter().map(|m| m.id).collect()
}

#[tokio::test]
async fn a_message_that_can_not_be_read_is_left_out_of_every_list_and_counted_once() {
    for spoilt in SPOILT_MESSAGES {
        let (server, bot, main, all) = OnServer::with_path(6).await;
        server.spoil(&format!("UPDATE chat_messages {spoilt} WHERE id = $1"), all[3].0).await;
        let rest: Vec<_> = all.iter().copied().filter(|id| *id != all[3]).collect();
        let store = &server.store;
        for _ in 0..2 {
            let page = store.page(main.id, Cursor::Newest { offset: 0 }, 50).await.unwrap().unwrap();
            assert_eq!((ids(&page.items), page.has_more), (rest.clone(), false), "{spoilt}");
            let mut path = ids(&store.path(all[5], 1000).await.unwrap());
            path.reverse();
            assert_eq!(path, rest);
            let snapshot = store.conversation_snapshot(main.id, 50).await.unwrap().unwrap();
            assert_eq!(ids(&snapshot.messages), rest);
            assert_eq!(
                ids(&store.messages_after(main.id, None, Arrival::ALL, 50, 1000).await.unwrap().messages),
                rest
            );
            assert_eq!(ids(&store.messages_with(&all).await.unwrap()), rest);
            let query = Query::parse("word").unwrap();
            assert_eq!(store.search(&bot, None, &query, 50, 0).await.unwrap().items.len(), 5);
            let error = store.message(&bot, all[3]).await.unwrap_err();
            assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
        }
        assert_eq!(store.quarantined_rows(), 1, "{spoilt}");
        assert_eq!(store.messages_above(all[5]).await.unwrap(), 5);
    }
}

/// A rule of the table is taken away and a value with it.
#[tokio::test]
async fn a_text_that_can_not_be_read_keeps_no_other_from_being_found() {
    for column in ["content", "state"] {
        let (server, bot, _, all) = OnServer::with_path(4).await;
        let mut other = server.database.admin().await;
        let rule = format!("ALTER TABLE chat_messages ALTER {column} DROP NOT NULL");
        sqlx::raw_sql(AssertSqlSafe(rule)).execute(&mut other).await.unwrap();
        for id in &all[2..] {
            server.spoil(&format!("UPDATE chat_messages SET {column} = NULL WHERE id = $1"), id.0).await;
        }
        for _ in 0..2 {
            let query = Query::parse("word").unwrap();
            let found = server.store.search(&bot, None, &query, 50, 0).await.unwrap();
            assert_eq!(ids(&found.items), [all[1], all[0]], "{column}");
        }
        assert_eq!(server.store.quarantined_rows(), 2, "{column}");
        let left = "SELECT count(*) FROM chat_messages WHERE arrival > (SELECT watermark FROM search_state)";
        assert_eq!(sqlx::query_scalar::<_, i64>(left).fetch_one(&mut other).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_page_of_messages_that_can_not_be_read_is_not_the_end() {
    let (server, _, main, all) = OnServer::with_path(12).await;
    for id in &all[3..9] {
        server.spoil("UPDATE chat_messages SET sender = 'robot' WHERE id = $1", id.0).await;
    }
    let page = async |cursor| {
        let page = server.store.page(main.id, cursor, 2).await.unwrap().unwrap();
        (ids(&page.items), page.has_more)
    };
    assert_eq!(page(Cursor::Newest { offset: 0 }).await, (all[10..].to_vec(), true));
    assert_eq!(page(Cursor::Before(all[10])).await, (vec![all[2], all[9]], true));
    assert_eq!(page(Cursor::Before(all[2])).await, (all[..2].to_vec(), false));
    assert_eq!(page(Cursor::After(all[1])).await, (vec![all[2], all[9]], true));
    assert_eq!(page(Cursor::After(all[9])).await, (all[10..].to_vec(), false));
    let archive = server.store.messages_after(main.id, None, Arrival::ALL, 5, 1000).await.unwrap();
    assert_eq!(ids(&archive.messages), [&all[..3], &all[9..11]].concat());
    assert_eq!(archive.left_out, all[3..9]);
    assert_eq!(server.store.quarantined_rows(), 6);
}

#[tokio::test]
async fn a_bot_a_conversation_and_a_turn_that_can_not_be_read_keep_no_other_from_its_list() {
    let (server, id, main) = OnServer::with_bot().await;
    let (other, second) = (BotId::numbered(2), samples::conversation(&id));
    let (first, question, reply) = samples::turn(&main, None, "one");
    let (next, asked, answer) = samples::turn(&main, Some(reply.id), "two");
    let conversation = Fact::new(Change::CreateConversation(second.clone()), vec![]);
    let group = vec![
        samples::launch(&other).0,
        conversation,
        samples::accept(&first, &question, &reply),
        samples::accept(&next, &asked, &answer),
    ];
    assert!(server.store.commit(group).await.unwrap().iter().all(|c| c.applied));
    server.spoil("UPDATE turns SET state = 'dreaming' WHERE id = $1", first.id.0).await;
    for bot in [None, Some(&id)] {
        let open = server.store.open_turns(bot).await.unwrap();
        assert_eq!(open.iter().map(|(turn, ..)| turn.id).collect::<Vec<_>>(), [next.id]);
    }
    assert!(matches!(server.store.turn_snapshot(first.id).await, Err(StoreError::Corrupt(_))));
    server
        .spoil("UPDATE conversations SET created_at = 9223372036854775807 WHERE id = $1", second.id.0)
        .await;
    let listed: Vec<ConversationId> =
        server.store.conversations(&id).await.unwrap().iter().map(|c| c.id).collect();
    assert_eq!(listed, [main.id]);
    assert!(matches!(server.store.conversation(second.id).await, Err(StoreError::Corrupt(_))));
    server.spoil("UPDATE bots SET config = '{' WHERE id = $1", id.as_str().to_owned()).await;
    let roster: Vec<_> = server.store.roster().await.unwrap().into_iter().map(|(bot, _)| bot.id).collect();
    assert_eq!(roster, [other]);
    assert_eq!(server.store.quarantined_rows(), 3);
}

#[tokio::test]
async fn a_status_that_can_not_be_read_keeps_its_bot_and_a_count_that_can_not_be_its_conversation() {
    let (server, id, main) = OnServer::with_bot().await;
    for spoilt in [
        "status = 'enlightened'",
        "status = 'ready', error_count = -1",
        "error_count = 0, updated_at = 9223372036854775807",
    ] {
        let sql = format!("UPDATE bot_status SET {spoilt} WHERE bot_id = $1");
        server.spoil(&sql, id.as_str().to_owned()).await;
        let roster = server.store.roster().await.unwrap();
        let (bot, status) = roster.first().unwrap();
        assert_eq!((&bot.id, &status.bot_id, status.error_count), (&id, &id, 0), "{spoilt}");
        assert_eq!(server.store.quarantined_rows(), 1, "{spoilt}");
    }
    server.spoil("UPDATE conversations SET message_count = -7 WHERE id = $1", main.id.0).await;
    assert_eq!(server.store.conversations(&id).await.unwrap()[0].message_count, 0);
    assert_eq!(server.store.quarantined_rows(), 1);
}

#[tokio::test]
async fn an_event_that_can_not_be_read_keeps_its_number() {
    let (server, _, main, _) = OnServer::with_path(3).await;
    let before = server.store.events_after(0, 100).await.unwrap();
    server.spoil("UPDATE outbox_events SET data = '{\"message\":' WHERE id = $1", before[2].id.0).await;
    let events = server.store.events_after(0, 100).await.unwrap();
    assert_eq!(events.len(), before.len());
    assert_eq!((&*events[2].data, &events[2].seqs), (r#"{"redacted":true}"#, &before[2].seqs));
    let span = Span { after: 0, through: 3 };
    let topic = Topic::Conversation(main.id);
    let told = server.store.topic_events(&topic, span, 100, 100_000).await.unwrap().unwrap();
    assert_eq!(told, events[1..]);
    assert_eq!(server.store.quarantined_rows(), 1);
}

#[tokio::test]
async fn clearing_a_conversation_whose_end_is_not_stored_begins_it_anew() {
    let (server, bot, main, _) = OnServer::with_path(2).await;
    server
        .spoil("UPDATE conversations SET leaf_message_id = gen_random_uuid() WHERE id = $1", main.id.0)
        .await;
    let clear = Change::ClearHistory { bot_id: bot.clone(), conversation_id: Some(main.id) };
    assert!(server.store.commit(vec![Fact::new(clear, vec![])]).await.unwrap()[0].applied);
    assert_eq!(server.store.conversation(main.id).await.unwrap().unwrap().leaf_message_id, None);
    let (turn, question, reply) = samples::turn(&main, None, "anew");
    let accepted = server.store.commit(vec![samples::accept(&turn, &question, &reply)]).await.unwrap();
    assert!(accepted[0].applied);
}
