//! What is too old goes, and says so: the job in a real process, readers that come too late, legal hold.

use std::{sync::Arc, time::Duration};

use deia::{
    Controller, ServerSpec, Settings,
    adapters::{ollama, sqlite::SqliteStore},
    ports::history_store::HistoryStore,
    requests::{LaunchBot, SendMessage, Sent},
    sim::{Sim, SimConfig},
};
use deia_actors::controller::RetentionRules;
use serde_json::{Value, json};

use crate::support::{Api, Deia, ServerSentEvent, Socket, Stage, eventually};

const KEEP: u64 = 20;

async fn deep(api: &Api) -> Value {
    api.well("/health/deep").await["checks"]["retention"].clone()
}

fn task<'a>(check: &'a Value, name: &str) -> &'a Value {
    check["tasks"].as_array().unwrap().iter().find(|t| t["task"] == name).unwrap()
}

async fn resume(deia: &Deia, topic: &str, epoch: &Value, seq: u64) -> (Socket, Value) {
    let mut socket = deia.socket().await;
    let after = json!({"epoch": epoch, "seq": seq});
    let back = socket.call(json!({"type": "subscribe", "topic": topic, "after": after})).await;
    (socket, back)
}

#[tokio::test]
async fn a_reader_that_comes_too_late_gets_the_state_and_is_told_so() {
    let keep = KEEP.to_string();
    let stage =
        Stage::with(&[("DEIA_RETENTION__OUTBOX_EVENTS", &keep), ("DEIA_RETENTION__INTERVAL_S", "1")]).await;
    let deia = stage.start().await;
    let api = deia.api();
    let bot = api.launch("ada", "sim:tokens=2").await;
    let topic = format!("conversation:{}", bot["main_conversation_id"].as_str().unwrap());
    let epoch = deia.socket().await.subscribe(&topic).await["epoch"].clone();
    let mut turns = vec![];
    for n in 0..15 {
        turns.push(api.send("ada", &format!("{n}")).await.expect(200)["turn"]["id"].clone());
    }
    let (_, all) = resume(&deia, &topic, &epoch, 0).await;
    assert_eq!(all["recovered"], true, "the memory of the process still reaches back");
    let mut watching = deia.socket().await;
    watching.subscribe("tasks").await;
    // The first run that ends may have begun before the last turn ended; the one after it has not.
    let mut runs = 0;
    while runs < 2 {
        let events = watching.until_event("task_finished").await;
        let data = &events.last().unwrap()["data"];
        assert!(data["next_run"].is_string() && data["took_ms"].is_number() && data.get("error").is_none());
        runs += usize::from(data["task"] == "retention.outbox");
    }
    deia.kill().await;
    let deia = stage.start().await;
    let api = deia.api();
    let mut socket = deia.socket().await;
    let head = socket.subscribe(&topic).await["seq"].as_u64().unwrap();
    assert!(head >= 60, "numbers are not taken back: {head}");
    for late in [0, 1, head - KEEP - 1] {
        let (_, back) = resume(&deia, &topic, &epoch, late).await;
        assert_eq!((&back["recovered"], &back["seq"]), (&json!(false), &json!(head)), "after {late}");
        assert_eq!(back["snapshot"]["messages"].as_array().map(Vec::len), Some(30));
    }
    let (mut socket, back) = resume(&deia, &topic, &epoch, head - KEEP).await;
    assert_eq!((&back["recovered"], &back["seq"]), (&json!(true), &json!(head - KEEP)));
    for seq in head - KEEP + 1..=head {
        assert_eq!(socket.next().await.unwrap()["seq"], seq);
    }
    api.send("ada", "and on").await.expect(200);
    assert_eq!(socket.next().await.unwrap()["seq"], head + 1);
    let names = async |turn: &Value| -> Vec<String> {
        let path = format!("/api/turn/{}/events", turn.as_str().unwrap());
        let events: Vec<ServerSentEvent> = api.events(path, None).await.rest().await;
        let durable = events.into_iter().filter(|e| e.data["event"] != "token");
        durable.map(|e| e.event.unwrap()).collect()
    };
    assert_eq!(names(&turns[0]).await, ["snapshot", "turn_completed"]);
    let last = names(&turns[14]).await;
    assert_eq!((&*last[0], &*last[last.len() - 1]), ("message_received", "turn_completed"));
}

#[tokio::test]
async fn the_job_is_in_the_tree_and_in_health_and_what_is_off_stays_off() {
    let stage = Stage::with(&[("DEIA_RETENTION__INTERVAL_S", "1"), ("DEIA_RETENTION__CHAT_DAYS", "0")]).await;
    let deia = stage.start().await;
    let api = deia.api();
    let tree = api.get("/api/tree").await.expect(200);
    let names: Vec<_> = tree["children"].as_array().unwrap().iter().map(|n| n["name"].clone()).collect();
    assert_eq!(names, ["history", "state", "broadcast", "inference", "tasks", "bots"]);
    let job = &tree["children"][4]["children"][0];
    assert_eq!((&job["path"], &job["state"]), (&json!("root/tasks/retention"), &json!("up")));
    let check = eventually("every task that is on has run", async || {
        let check = deep(&api).await;
        let ran = |name: &&str| task(&check, name)["last_run"].is_string();
        let on = ["retention.audit", "retention.status", "retention.outbox", "retention.idempotency"];
        on.iter().all(ran).then_some(check)
    })
    .await;
    assert_eq!(check["status"], "ok", "{check}");
    let (chat, audit) = (task(&check, "retention.chat"), task(&check, "retention.audit"));
    assert_eq!(
        (&chat["state"], &chat["last_run"], &chat["next_run"]),
        (&json!("off"), &json!(null), &json!(null))
    );
    assert_eq!((&audit["rows"], &audit["error"]), (&json!(0), &json!(null)));
}

#[tokio::test]
async fn a_held_conversation_can_neither_be_cleared_nor_deleted_nor_purged() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:echo").await;
    let made = api.post("/api/chat/ada/conversations", json!({"title": "case 7"})).await.expect(201);
    assert_eq!(made["legal_hold"], false);
    let id = made["id"].as_str().unwrap();
    let path = format!("/api/chat/ada/conversations/{id}");
    api.submit("ada", "evidence", json!({"conversation_id": id})).await.expect(202);
    let held = api.patch(&path, json!({"legal_hold": true})).await.expect(200);
    assert_eq!((&held["legal_hold"], &held["title"]), (&json!(true), &json!("case 7")));
    let renamed = api.patch(&path, json!({"title": "case 8"})).await.expect(200);
    assert_eq!((&renamed["legal_hold"], &renamed["title"]), (&json!(true), &json!("case 8")));
    for refused in ["/api/chat/ada".to_owned(), format!("/api/chat/ada?conversation_id={id}"), path.clone()] {
        api.delete(&refused).await.expect_problem(409, "legal_hold");
    }
    api.delete("/api/bot/ada?purge=true").await.expect_problem(409, "legal_hold");
    let page = api.get(format!("/api/chat/ada?conversation_id={id}")).await.expect(200);
    assert_eq!(page["items"][0]["content"], "evidence");
    assert_ne!(api.get("/api/bot/ada").await.expect(200)["state"], "terminated", "it was not even stopped");
    api.patch(&path, json!({"legal_hold": "yes"})).await.expect_problem(400, "invalid_request");
    api.patch(&path, json!({"legal_hold": false, "archived": true})).await.expect(200);
    api.delete("/api/bot/ada?purge=true").await.expect(200);
    api.get("/api/bot/ada").await.expect_problem(404, "bot_not_found");
}

#[tokio::test]
async fn what_a_held_fork_begins_with_can_be_neither_cleared_nor_deleted() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:echo").await;
    let source = api.post("/api/chat/ada/conversations", json!({"title": "source"})).await.expect(201);
    let source = source["id"].as_str().unwrap();
    let said = api.submit("ada", "evidence", json!({"conversation_id": source})).await.expect(202);
    let from = json!({"from_message_id": said["turn"]["message_id"]});
    let fork = api.post("/api/chat/ada/conversations", from).await.expect(201);
    let fork = fork["id"].as_str().unwrap();
    let hold = async |held: bool| {
        api.patch(format!("/api/chat/ada/conversations/{fork}"), json!({"legal_hold": held}))
            .await
            .expect(200)
    };
    hold(true).await;
    let cleared = format!("/api/chat/ada?conversation_id={source}");
    let deleted = format!("/api/chat/ada/conversations/{source}");
    for refused in [&cleared, &deleted, "/api/chat/ada", "/api/bot/ada?purge=true"] {
        let problem = api.delete(refused).await.expect_problem(409, "legal_hold");
        assert!(problem["detail"].as_str().unwrap().contains(fork), "{problem}");
    }
    let page = api.get(format!("/api/chat/ada?conversation_id={fork}")).await.expect(200);
    assert_eq!(page["items"][0]["content"], "evidence");
    hold(false).await;
    api.delete(&cleared).await.expect(200);
}

#[tokio::test]
async fn a_bot_goes_on_behind_what_was_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let sim = Sim::start(SimConfig::default()).await.unwrap();
    let url = ollama::parse_address(&sim.url()).unwrap();
    let model = Arc::new(ollama::Ollama::new(&url, ollama::Limits::default()).unwrap());
    let server = ServerSpec { name: "sim".into(), url: sim.url(), slots: 1, simulated: false, model };
    let store = Arc::new(SqliteStore::open(&folder.path().join("deia.db")).await.unwrap());
    // Whatever is there when it looks is old.
    let retention = RetentionRules {
        chat: Some(Duration::ZERO),
        interval: Duration::from_millis(5),
        ..RetentionRules::default()
    };
    let settings = Settings { retention, ..Settings::default() };
    let tree = Controller::builder(store.clone()).settings(settings).server(server).start().await.unwrap();
    let config = json!({"model": "sim:tokens=30,gap_ms=1"}).as_object().cloned();
    let launch = LaunchBot { bot_id: Some("ada".parse().unwrap()), config, ..LaunchBot::default() };
    let bot = tree.launch(launch).await.unwrap();
    for n in 0..40 {
        // A message whose predecessor is deleted in this very moment is refused, and the next try has another place.
        let turn = eventually("the message is taken", async || {
            match tree.send(SendMessage::text(bot.id.clone(), format!("{n}"))).await {
                Ok(Sent::Turn(turn)) => Some(turn),
                Ok(Sent::Command { .. }) => panic!("{n} is no command"),
                Err(problem) => {
                    assert_eq!(problem.code.as_str(), "storage_unavailable", "{problem:?}");
                    None
                }
            }
        })
        .await;
        let end = turn.ended().await.unwrap();
        assert_eq!(end.turn.state.as_str(), "completed", "{:?}", end.turn.error);
    }
    let empty = eventually("everything is deleted", async || {
        let home = store.conversation(bot.main_conversation_id).await.unwrap().unwrap();
        (home.message_count == 0).then_some(home)
    })
    .await;
    assert_eq!((empty.leaf_message_id, empty.last_at), (None, None));
    tree.shutdown(Duration::from_secs(5)).await;
    store.close().await;
    sim.stop().await;
}
