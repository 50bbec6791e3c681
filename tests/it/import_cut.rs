//! A long import that ends early, and what goes on beside one: the bot is usable all the time, and the same file completes it.

use std::fmt::Write;

use reqwest::{Method, header::CONTENT_TYPE};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::{Answer, Api, Signal, Stage, eventually, soon};

/// Messages of the file: 24 parts.
const MESSAGES: usize = 12_000;
const HOME: &str = "0199f5a2-c0de-7000-a000-000000000000";

fn id(n: usize) -> String {
    format!("0199f5a2-c0de-7000-b000-{n:012x}")
}

/// An export of a conversation without turns, as deia writes it.
fn file(bot: &str) -> String {
    let time = "2126-01-01T00:00:00.000000Z";
    let mut file =
        format!("{{\"format\":\"deia.chat\",\"version\":1,\"bot_id\":\"{bot}\",\"conversations\":[\n");
    let leaf = id(MESSAGES - 1);
    writeln!(file, "{{\"id\":\"{HOME}\",\"title\":null,\"main\":true,\"leaf_message_id\":\"{leaf}\",\"archived\":false,\"created_at\":\"{time}\"}}").unwrap();
    file.push_str("],\"messages\":[\n");
    for n in 0..MESSAGES {
        let parent = if n == 0 { "null".to_owned() } else { format!("\"{}\"", id(n - 1)) };
        let end = if n + 1 == MESSAGES { "" } else { "," };
        writeln!(file, "{{\"id\":\"{}\",\"conversation_id\":\"{HOME}\",\"parent_id\":{parent},\"turn_id\":null,\"sender\":\"system\",\"state\":\"complete\",\"created_at\":\"{time}\",\"tokens\":2,\"content\":\"message {n}\",\"metadata\":{{}}}}{end}", id(n)).unwrap();
    }
    writeln!(file, "],\"counts\":{{\"conversations\":1,\"messages\":{MESSAGES},\"turns\":0}},").unwrap();
    let sum: String = Sha256::digest(file.as_bytes()).iter().map(|b| format!("{b:02x}")).collect();
    writeln!(file, "\"sha256\":\"{sum}\"}}").unwrap();
    file
}

fn import(api: &Api, file: &str) -> reqwest::RequestBuilder {
    let request = api.request(Method::POST, "/api/chat/ada/import");
    request.header(CONTENT_TYPE, "application/json").body(file.to_owned())
}

async fn whole(api: &Api, file: &str) -> Answer {
    api.answer(import(api, file)).await
}

/// The imported conversation once something of it is stored.
async fn begun(api: &Api) -> Value {
    eventually("a part of the import", async || {
        let listed = api.get("/api/chat/ada/conversations").await.expect(200);
        let mut all = listed["items"].as_array().unwrap().iter();
        all.find(|c| c["id"] == HOME && c["message_count"].as_u64() > Some(0)).cloned()
    })
    .await
}

async fn exported(api: &Api) -> String {
    let request = api.request(Method::POST, "/api/chat/ada/export").json(&json!({"format": "json"}));
    soon("the body of an export", soon("an export", request.send()).await.unwrap().text()).await.unwrap()
}

#[tokio::test]
async fn an_import_that_a_kill_cuts_leaves_a_usable_bot_and_the_same_file_completes_it() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:echo").await;
    let file = file("ada");
    let cut = tokio::spawn(import(&api, &file).send());
    begun(&api).await;
    deia.kill().await;
    cut.await.unwrap().unwrap_err();

    let deia = stage.start().await;
    let api = deia.api();
    let part = begun(&api).await;
    assert!(part["message_count"].as_u64().unwrap() < MESSAGES as u64, "{part}");
    assert_eq!((&part["main"], &part["leaf_message_id"]), (&json!(false), &Value::Null));
    assert!(api.history("ada").await.is_empty());
    let completed = tokio::spawn({
        let (api, file) = (api.clone(), file.clone());
        async move { whole(&api, &file).await }
    });
    while !completed.is_finished() {
        // Also while another conversation takes the place of the main one.
        api.history("ada").await;
    }
    let report = completed.await.unwrap().expect(200);
    assert!(report["unchanged"]["messages"].as_u64() >= part["message_count"].as_u64(), "{report}");
    assert!(exported(&api).await == file, "not the same bytes");
    assert_eq!(api.history("ada").await.last().unwrap()["id"], id(MESSAGES - 1));
    let said = api.send("ada", "and on").await.expect(200);
    assert_eq!(said["message"]["parent_id"], id(MESSAGES - 1));
}

#[tokio::test]
async fn an_import_that_is_cut_can_be_talked_to_and_cleared() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:echo").await;
    let file = file("ada");
    let cut = tokio::spawn(import(&api, &file).send());
    begun(&api).await;
    deia.kill().await;
    cut.await.unwrap().unwrap_err();

    let deia = stage.start().await;
    let api = deia.api();
    api.send("ada", "hello").await.expect(200);
    let aside = api.submit("ada", "there", json!({"conversation_id": HOME})).await.expect(202);
    assert_eq!(api.ended(&aside["turn"]["id"]).await["state"], "completed");
    api.delete("/api/chat/ada").await.expect(200);
    assert!(api.history("ada").await.is_empty());
    api.send("ada", "anew").await.expect(200);
    assert_eq!(api.history("ada").await.len(), 2);
}

#[tokio::test]
async fn a_bot_is_talked_to_and_read_while_its_history_is_imported() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:echo").await;
    let file = file("ada");
    let running = tokio::spawn(import(&api, &file).send());
    begun(&api).await;
    let mut said = 0;
    while !running.is_finished() {
        api.send("ada", &format!("m{said}")).await.expect(200);
        said += 1;
        assert_eq!(
            api.get("/api/chat/ada?limit=200").await.expect(200)["items"].as_array().unwrap().len(),
            2 * said.min(100)
        );
    }
    assert_eq!(running.await.unwrap().unwrap().status(), 200);
    let listed = api.get("/api/chat/ada/conversations").await.expect(200);
    let imported = listed["items"].as_array().unwrap().iter().find(|c| c["id"] == HOME).unwrap();
    assert_eq!((&imported["main"], &imported["leaf_message_id"]), (&json!(false), &json!(id(MESSAGES - 1))));
}

#[tokio::test]
async fn an_import_that_a_shutdown_ends_says_so() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:echo").await;
    let file = file("ada");
    let told = tokio::spawn({
        let (api, file) = (api.clone(), file.clone());
        async move { whole(&api, &file).await }
    });
    begun(&api).await;
    deia.signal(Signal::Terminate);
    let problem = told.await.unwrap().expect_problem(503, "shutting_down");
    assert!(problem["detail"].as_str().unwrap().contains("importing the file again"), "{problem}");
    assert!(deia.ended().await.success());
    let deia = stage.start().await;
    whole(&deia.api(), &file).await.expect(200);
    assert!(exported(&deia.api()).await == file, "not the same bytes");
}
