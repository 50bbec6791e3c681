//! The raw limits of an append, written by hand, one transaction a group and synced like ours: the message rows alone, and
//! all rows that a durable append has to write. Nothing is looked up, numbered or checked here; everything was prepared.

use deia_actors::domain::{
    event::NewEvent,
    ids::{ConversationId, MessageId},
    message::Message,
};
use rusqlite::params;
use sqlx::PgConnection;

/// A message with its place in the tree and its event, numbered beforehand.
pub struct Row {
    pub message: Message,
    pub branch: MessageId,
    pub depth: i64,
    pub event: NewEvent,
    pub bot_seq: i64,
    pub conversation_seq: i64,
}

/// What is written of a row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The message.
    Messages,
    /// The message, its event, and once a conversation its new end and count.
    Everything,
}

/// The last message of each conversation of a group, and how many it got.
fn grown(group: &[Row]) -> Vec<(ConversationId, &Message, i64)> {
    let mut grown: Vec<(ConversationId, &Message, i64)> = vec![];
    let mut at = std::collections::HashMap::new();
    for Row { message, .. } in group {
        let n = *at.entry(message.conversation_id).or_insert_with(|| {
            grown.push((message.conversation_id, message, 0));
            grown.len() - 1
        });
        grown[n].1 = message;
        grown[n].2 += 1;
    }
    grown
}

/// One prepared insert a row: on SQLite no slower than many rows in one statement.
pub fn sqlite(raw: &mut rusqlite::Connection, group: &[Row], what: What) {
    let transaction = raw.transaction().unwrap();
    for Row { message: m, branch, depth, .. } in group {
        transaction
            .prepare_cached(
                "INSERT INTO chat_messages (id, parent_id, conversation_id, bot_id, sender, state, tokens, created_at, \
                 metadata, content, branch, depth) VALUES (?1, ?2, ?3, ?4, 'user', 'complete', ?5, ?6, '{}', ?7, ?8, ?9)",
            )
            .unwrap()
            .execute(params![
                m.id.0,
                m.parent_id.map(|p| p.0),
                m.conversation_id.0,
                m.bot_id.as_str(),
                m.tokens,
                m.created_at.0,
                &*m.content,
                branch.0,
                depth
            ])
            .unwrap();
    }
    if what == What::Everything {
        for Row { message: m, event: e, bot_seq, conversation_seq, .. } in group {
            transaction
                .prepare_cached(
                    "INSERT INTO outbox_events (id, event, created_at, bot_key, bot_seq, conversation_id, \
                     conversation_seq, data) VALUES (?1, ?2, ?3, 1, ?4, ?5, ?6, ?7)",
                )
                .unwrap()
                .execute(params![
                    e.id.0,
                    e.name,
                    e.time.0,
                    bot_seq,
                    m.conversation_id.0,
                    conversation_seq,
                    &*e.data
                ])
                .unwrap();
        }
        for (home, leaf, messages) in grown(group) {
            transaction
                .prepare_cached(
                    "UPDATE conversations SET leaf_message_id = ?2, message_count = message_count + ?3, last_at = ?4 \
                     WHERE id = ?1",
                )
                .unwrap()
                .execute(params![home.0, leaf.id.0, messages, leaf.created_at.0])
                .unwrap();
        }
    }
    transaction.commit().unwrap();
}

/// One statement a group, a part per table. Arrays unnested in the select list are faster than one `UNNEST` of all of them in
/// `FROM`.
pub async fn postgres(raw: &mut PgConnection, group: &[Row], what: What) {
    let messages = "INSERT INTO chat_messages (id, parent_id, conversation_id, bot_id, sender, state, tokens, created_at, \
         metadata, content, branch, depth) SELECT unnest($1::uuid[]), unnest($2::uuid[]), unnest($3::uuid[]), $5, 'user', \
             'complete', unnest($6::int8[]), unnest($7::int8[]), '{}', unnest($4::text[]), unnest($8::uuid[]), \
             unnest($9::int8[])";
    let everything = [
        "WITH m AS (",
        messages,
        "), c AS (UPDATE conversations c SET leaf_message_id = n.leaf, message_count = c.message_count + n.messages, \
             last_at = n.at FROM UNNEST($10::uuid[], $11::uuid[], $12::int8[], $13::int8[]) AS n (id, leaf, messages, at) \
             WHERE c.id = n.id) \
         INSERT INTO outbox_events (id, event, created_at, bot_key, bot_seq, conversation_id, conversation_seq, data) \
         SELECT unnest($14::uuid[]), unnest($15::text[]), unnest($16::int8[]), 1, unnest($17::int8[]), unnest($3::uuid[]), \
             unnest($18::int8[]), unnest($19::text[])",
    ]
    .concat();
    let sql = if what == What::Everything { everything } else { messages.to_owned() };
    let column = |cell: fn(&Row) -> i64| group.iter().map(cell).collect::<Vec<_>>();
    let query = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(group.iter().map(|r| r.message.id.0).collect::<Vec<_>>())
        .bind(group.iter().map(|r| r.message.parent_id.map(|p| p.0)).collect::<Vec<_>>())
        .bind(group.iter().map(|r| r.message.conversation_id.0).collect::<Vec<_>>())
        .bind(group.iter().map(|r| &*r.message.content).collect::<Vec<_>>())
        .bind(group[0].message.bot_id.as_str())
        .bind(column(|r| r.message.tokens.into()))
        .bind(column(|r| r.message.created_at.0))
        .bind(group.iter().map(|r| r.branch.0).collect::<Vec<_>>())
        .bind(column(|r| r.depth));
    let query = match what {
        What::Messages => query,
        What::Everything => {
            let grown = grown(group);
            query
                .bind(grown.iter().map(|g| g.0.0).collect::<Vec<_>>())
                .bind(grown.iter().map(|g| g.1.id.0).collect::<Vec<_>>())
                .bind(grown.iter().map(|g| g.2).collect::<Vec<_>>())
                .bind(grown.iter().map(|g| g.1.created_at.0).collect::<Vec<_>>())
                .bind(group.iter().map(|r| r.event.id.0).collect::<Vec<_>>())
                .bind(group.iter().map(|r| r.event.name).collect::<Vec<_>>())
                .bind(column(|r| r.event.time.0))
                .bind(column(|r| r.bot_seq))
                .bind(column(|r| r.conversation_seq))
                .bind(group.iter().map(|r| &*r.event.data).collect::<Vec<_>>())
        }
    };
    query.execute(raw).await.unwrap();
}
