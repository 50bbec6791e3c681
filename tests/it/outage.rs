//! The database away or partly rubbish, seen from outside. Another program that locks the file is a database that takes no
//! writes; what it writes into rows is what a newer version or a defect might leave.

use std::{
    cell::OnceCell,
    time::{Duration, Instant},
};

use rusqlite::Connection;
use serde_json::json;

use crate::support::{Database, Home, PostgresServer, Signal, Stage, eventually, numbered};

/// How long a request waits for the database, here and where nothing is said.
const LIMIT: Duration = Duration::from_secs(5);
const PATIENCE: (&str, &str) = ("DEIA_STORAGE__ACQUIRE_TIMEOUT_S", "5");

/// The file of a stage.
fn database(stage: &Stage) -> Connection {
    Connection::open(stage.home.data().join("deia.db")).unwrap()
}

#[tokio::test]
async fn a_database_on_sqlite_that_is_locked_acknowledges_nothing_and_gets_every_answer_once_it_is_free() {
    let home = Home::on_sqlite("another program locks its file and writes into it");
    let stage = Stage::at(home, &[PATIENCE]).await;
    let other = OnceCell::new();
    let lock = |locked: bool| {
        // Longer than any wait for the lock.
        let other = other.get_or_init(|| database(&stage));
        other.execute_batch(if locked { "BEGIN EXCLUSIVE" } else { "ROLLBACK" }).unwrap();
    };
    outage(&stage, lock, true).await;
}

#[tokio::test]
async fn a_postgresql_that_hangs_acknowledges_nothing_and_gets_every_answer_once_it_goes_on() {
    let server = PostgresServer::start("").await;
    let home = Home::with(Database::Sqlite)
        .env("DEIA_STORAGE__URL", server.url())
        .env("DEIA_STORAGE__POOL_MIN", "1");
    let stage = Stage::at(home, &[PATIENCE]).await;
    let hang = |hangs: bool| server.signal_all(if hangs { Signal::Stop } else { Signal::Continue });
    outage(&stage, hang, false).await;
}

/// Takes the database away in the middle of an answer and gives it back. `reads` = what is stored can be read meanwhile.
async fn outage(stage: &Stage, away: impl Fn(bool), reads: bool) {
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:tokens=60,gap_ms=100").await;
    api.launch("bob", "sim:echo").await;
    let mut events = api.send_and_stream("ada", "go on").await;
    let first = events.next().await.unwrap();
    let turn = first.data["data"]["message"]["turn_id"].clone();
    away(true);
    let asked = Instant::now();
    let health = api.get("/health/db").await;
    assert!(asked.elapsed() < LIMIT, "{:?}: not after the wait of a request", asked.elapsed());
    assert_eq!((health.status.as_u16(), &health.body["checks"]["db"]["status"]), (503, &json!("down")));
    assert_eq!(api.get("/health").await.status.as_u16(), 200, "the process is alive");
    let asked = Instant::now();
    let refused = api.send("bob", "hello").await;
    assert!(asked.elapsed() < 3 * LIMIT, "{:?}", asked.elapsed());
    assert!(refused.headers.contains_key("retry-after"));
    refused.expect_problem(503, "storage_unavailable");
    let status = api.get("/api/bot/ada/status").await.expect(200);
    assert_eq!(status["stale"], true, "{status}");
    let path = format!("/api/turn/{}", turn.as_str().unwrap());
    let running = api.get(&path).await.expect(200);
    let expected = if reads { json!(null) } else { json!(true) };
    assert_eq!((&running["state"], &running["stale"]), (&json!("generating"), &expected), "{running}");
    if reads {
        assert!(api.history("ada").await.len() == 2, "what can be read is read");
    }
    // The reader goes on reading: the last piece of the answer comes while nothing can be stored.
    let mut text = String::new();
    while text.len() < numbered(60).len() {
        let event = events.next().await.expect("the text goes on");
        if event.event.as_deref() == Some("token") {
            text.push_str(event.data["data"]["text"].as_str().unwrap());
        }
        assert_ne!(event.event.as_deref(), Some("turn_completed"), "it is not stored yet");
    }
    away(false);
    let ended = loop {
        let event = events.next().await.expect("the end is told");
        if event.event.as_deref() == Some("turn_completed") {
            break event.data;
        }
    };
    assert_eq!(ended["data"]["reply"]["content"], numbered(60));
    assert_eq!(api.ended(&turn).await["state"], "completed");
    eventually("nothing is stale", async || {
        let bot = api.get("/api/bot/ada").await.expect(200);
        (bot["status"]["stale"] == false).then_some(())
    })
    .await;
    api.well("/health/db").await;
    let answer = api.send("bob", "hello again").await.expect(200);
    assert_eq!(answer["turn"]["state"], "completed");
    let root = api.get("/api/tree").await.expect(200);
    assert_eq!(root["intensity"]["left"], root["intensity"]["max"], "an outage is not a crash");
    assert!(root["children"].as_array().unwrap().iter().all(|child| child["restarts"] == 0));
    assert_eq!(deia.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn rows_on_sqlite_that_can_not_be_read_are_reported_and_everything_else_works() {
    let stage = Stage::at(Home::on_sqlite("another program locks its file and writes into it"), &[]).await;
    let deia = stage.start().await;
    let api = deia.api();
    for bot in ["ada", "bob", "eve"] {
        api.launch(bot, "sim:echo").await;
    }
    let mut said = vec![];
    for text in ["one", "two", "three"] {
        said.push(api.send("ada", text).await.expect(200)["message"]["id"].clone());
    }
    let kept = api.send("bob", "kept").await.expect(200);
    let health = api.well("/health/db").await;
    assert_eq!(health["checks"]["db"]["quarantined_rows"], 0);
    assert_eq!(deia.terminate().await.code(), Some(0));

    let file = database(&stage);
    let spoil = |sql: &str| assert_eq!(file.execute(sql, []).unwrap(), 1, "{sql}");
    spoil("UPDATE bots SET config = '{\"model\":' WHERE id = 'eve'");
    spoil("UPDATE chat_messages SET sender = 'robot' WHERE content = 'two' AND sender = 'user'");
    spoil("UPDATE chat_messages SET metadata = 'secret rubbish' WHERE content = 'two' AND sender = 'bot'");
    drop(file);

    let deia = stage.start().await;
    let api = deia.api();
    let bots = api.get("/api/bots").await.expect(200);
    let names: Vec<_> = bots["items"].as_array().unwrap().iter().map(|b| b["id"].clone()).collect();
    assert_eq!(names, ["ada", "bob"]);
    api.get("/api/bot/eve").await.expect_problem(404, "bot_not_found");
    let taken = api.post("/api/bot/launch", json!({"bot_id": "eve"})).await;
    taken.expect_problem(409, "bot_exists");
    let texts: Vec<_> = api.history("ada").await.into_iter().map(|m| m["content"].clone()).collect();
    assert_eq!(texts.len(), 4, "{texts:?}");
    let one = api.get(format!("/api/chat/ada/{}", said[1].as_str().unwrap())).await;
    one.expect_problem(500, "internal");
    assert_eq!(api.history("bob").await[0]["id"], kept["message"]["id"]);
    let answer = api.send("ada", "four").await.expect(200);
    assert_eq!(answer["turn"]["state"], "completed", "a path with a gap is still a prompt");
    for path in ["/health/db", "/health/deep", "/ready"] {
        let health = api.well(path).await;
        let db = &health["checks"]["db"];
        assert_eq!((&db["status"], &db["quarantined_rows"]), (&json!("degraded"), &json!(3)), "{path}");
    }
    let log = deia.log();
    assert_eq!(log.matches("a row can't be read").count(), 3, "each is told once");
    assert!(!log.contains("secret rubbish"), "never with its content");
    assert_eq!(deia.terminate().await.code(), Some(0));
}
