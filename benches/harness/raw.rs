//! What a database takes at least to give its messages, and to take them in: every column of the same rows in the same
//! order, with nothing done with them.

use std::path::Path;

use futures_util::TryStreamExt;
use rusqlite::Connection as Sqlite;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row};

/// Every message with the turn that it answers, conversation by conversation.
const WITH_TURNS: &str = "SELECT * FROM chat_messages m LEFT JOIN turns t ON t.id = m.turn_id AND t.reply_id = m.id \
                          ORDER BY m.conversation_id, m.parent_id, m.id";
const ALONE: &str = "SELECT * FROM chat_messages m ORDER BY m.conversation_id, m.parent_id, m.id";
/// Messages that are taken in at once.
const PART: i64 = 500;

fn statement(turns: bool) -> &'static str {
    if turns { WITH_TURNS } else { ALONE }
}

/// Reads them out of SQLite; how many there were.
pub fn read_sqlite(file: &Path, turns: bool) -> u64 {
    let database = Sqlite::open(file).unwrap();
    let mut query = database.prepare(statement(turns)).unwrap();
    let columns = query.column_count();
    let (mut rows, mut count) = (query.query([]).unwrap(), 0);
    while let Some(row) = rows.next().unwrap() {
        for column in 0..columns {
            std::hint::black_box(row.get_ref(column).unwrap());
        }
        count += 1;
    }
    count
}

/// Reads them out of PostgreSQL; how many there were.
pub async fn read_postgres(url: &str, turns: bool) -> u64 {
    let mut database = PgConnection::connect(url).await.unwrap();
    let mut rows = sqlx::query(statement(turns)).fetch(&mut database);
    let mut count = 0;
    while let Some(row) = rows.try_next().await.unwrap() {
        for column in 0..row.len() {
            std::hint::black_box(row.try_get_raw(column).unwrap());
        }
        count += 1;
    }
    count
}

/// Copies them, and their turns, into another SQLite file of the same schema, in synced parts.
pub fn copy_sqlite(from: &Path, to: &Path) {
    let database = Sqlite::open(to).unwrap();
    database.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL").unwrap();
    database.execute("ATTACH ?1 AS old", [from.to_str().unwrap()]).unwrap();
    let last = "SELECT max(rowid) FROM old.chat_messages";
    let last: i64 = database.query_row(last, [], |row| row.get(0)).unwrap();
    let part = "m.rowid > ?1 AND m.rowid <= ?1 + ?2";
    let messages = format!("INSERT INTO main.chat_messages SELECT m.* FROM old.chat_messages m WHERE {part}");
    let turns = format!(
        "INSERT INTO main.turns SELECT t.* FROM old.chat_messages m \
         JOIN old.turns t ON t.id = m.turn_id AND t.reply_id = m.id WHERE {part}"
    );
    let mut inserts = [messages, turns].map(|sql| database.prepare(&sql).unwrap());
    let mut at = 0;
    while at < last {
        database.execute_batch("BEGIN IMMEDIATE").unwrap();
        for insert in &mut inserts {
            insert.execute([at, PART]).unwrap();
        }
        database.execute_batch("COMMIT").unwrap();
        at += PART;
    }
}

/// Copies them, and their turns, from one database of PostgreSQL into another by `COPY`, in one transaction each.
pub async fn copy_postgres(from: &str, to: &str) {
    let mut source = PgConnection::connect(from).await.unwrap();
    let mut target = PgConnection::connect(to).await.unwrap();
    for table in ["chat_messages", "turns"] {
        // `arrival` is given anew.
        let columns: String = sqlx::query_scalar(
            "SELECT string_agg(column_name, ', ') FROM information_schema.columns \
             WHERE table_name = $1 AND is_identity = 'NO'",
        )
        .bind(table)
        .fetch_one(&mut source)
        .await
        .unwrap();
        let mut rows = source.copy_out_raw(&format!("COPY {table} ({columns}) TO STDOUT")).await.unwrap();
        let mut copy = target.copy_in_raw(&format!("COPY {table} ({columns}) FROM STDIN")).await.unwrap();
        while let Some(chunk) = rows.try_next().await.unwrap() {
            copy.send(chunk).await.unwrap();
        }
        copy.finish().await.unwrap();
    }
}

/// A new database on this server; its URL.
pub async fn database(server: &str, name: &str) -> String {
    let mut connection = PgConnection::connect(server).await.unwrap();
    let name = format!("{name}_{}", std::process::id());
    connection.execute(sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}")))).await.unwrap();
    format!("{}/{name}", server.rsplit_once('/').unwrap().0)
}
