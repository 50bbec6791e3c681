//! History out as a file, and in again: over HTTP and on the command line.

use reqwest::{
    Method, StatusCode,
    header::{CONTENT_DISPOSITION, CONTENT_TYPE},
};
use serde_json::{Value, json};

use crate::support::{Answer, Api, Home, Stage, soon};

/// The whole body of an export.
async fn export(api: &Api, bot: &str, body: Value) -> (reqwest::header::HeaderMap, String) {
    let request = api.request(Method::POST, format!("/api/chat/{bot}/export")).json(&body);
    let response = soon("an export", request.send()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let headers = response.headers().clone();
    (headers, soon("its body", response.text()).await.unwrap())
}

async fn import(api: &Api, bot: &str, file: impl Into<reqwest::Body>) -> Answer {
    let request = api.request(Method::POST, format!("/api/chat/{bot}/import"));
    api.answer(request.header(CONTENT_TYPE, "application/json").body(file)).await
}

/// A bot with a few turns, a branch and a second conversation.
async fn talk(api: &Api) {
    api.launch("ada", "sim:echo").await;
    for n in 0..3 {
        api.send("ada", &format!("=m{n}")).await.expect(200);
    }
    let edited = api.submit("ada", "another begin", json!({"parent_id": null})).await.expect(202);
    api.ended(&edited["turn"]["id"]).await;
    let aside =
        api.post("/api/chat/ada/conversations", json!({"title": "Aside, \"quoted\""})).await.expect(201);
    let told =
        api.submit("ada", "aside", json!({"conversation_id": aside["id"], "options": {"seed": 3}})).await;
    api.ended(&told.expect(202)["turn"]["id"]).await;
}

#[tokio::test]
async fn what_was_exported_is_imported_elsewhere_and_exported_to_the_same_bytes() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    talk(&deia.api()).await;
    let (headers, file) = export(&deia.api(), "ada", json!({"format": "json"})).await;
    assert_eq!(headers[CONTENT_TYPE], "application/json");
    assert_eq!(headers[CONTENT_DISPOSITION], "attachment; filename=\"deia-ada.json\"");
    let history = deia.api().history("ada").await;
    let document: Value = serde_json::from_str(&file).unwrap();
    assert_eq!(document["counts"], json!({"conversations": 2, "messages": 10, "turns": 5}));

    let other = Stage::new().await;
    let second = other.start().await;
    let api = second.api();
    import(&api, "ada", file.clone()).await.expect_problem(404, "bot_not_found");
    api.launch("ada", "sim:echo").await;
    let report = import(&api, "ada", file.clone()).await.expect(200);
    assert_eq!(report["imported"], document["counts"]);
    assert_eq!(export(&api, "ada", json!({"format": "json"})).await.1, file);
    assert_eq!(api.history("ada").await, history, "the imported conversation is the bot's main one");
    let turn = api.turn(&history[0]["turn_id"]).await;
    assert_eq!(turn["state"], "completed");
    let again = import(&api, "ada", file.clone()).await.expect(200);
    assert_eq!((&again["imported"]["messages"], &again["unchanged"]), (&json!(0), &document["counts"]));
    // The bot goes on where the imported conversation ends, also after a crash.
    let said = api.send("ada", "and on").await.expect(200);
    assert_eq!(said["message"]["parent_id"], history.last().unwrap()["id"]);
    assert_eq!(said["message"]["conversation_id"], history[0]["conversation_id"]);
    second.kill().await;
    let second = other.start().await;
    assert_eq!(second.api().history("ada").await.len(), history.len() + 2);
    let old = import(&second.api(), "ada", file).await.expect(200);
    assert_eq!(old["imported"]["messages"], 0);
    assert_eq!(second.api().history("ada").await.len(), history.len() + 2, "what was said since stays");
}

#[tokio::test]
async fn a_cleared_history_is_restored_from_its_export() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    talk(&api).await;
    let (_, file) = export(&api, "ada", json!({"format": "json"})).await;
    let before = api.history("ada").await;
    api.delete("/api/chat/ada").await.expect(200);
    assert!(api.history("ada").await.is_empty());
    let topic = format!("conversation:{}", before[0]["conversation_id"].as_str().unwrap());
    let mut open = deia.socket().await;
    let cleared = open.subscribe(&topic).await;
    import(&api, "ada", file.clone()).await.expect(200);
    assert_eq!(api.history("ada").await, before);
    let told = open.until_event("conversation_changed").await.pop().unwrap();
    assert_eq!(told["data"]["conversation"]["leaf_message_id"], before.last().unwrap()["id"]);
    let mut back = deia.socket().await;
    let after = json!({"epoch": cleared["epoch"], "seq": cleared["seq"]});
    let frame = back.call(json!({"type": "subscribe", "topic": topic, "after": after})).await;
    assert_eq!(frame["recovered"], true);
    assert_eq!(back.until_event("conversation_changed").await.pop().unwrap()["data"], told["data"]);
    assert_eq!(export(&api, "ada", json!({"format": "json"})).await.1, file);
}

#[tokio::test]
async fn markdown_and_csv_come_with_their_types_and_safe_cells() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    talk(&api).await;
    let (headers, csv) = export(&api, "ada", json!({"format": "csv"})).await;
    assert_eq!(headers[CONTENT_TYPE], "text/csv; charset=utf-8; header=present");
    assert_eq!(headers[CONTENT_DISPOSITION], "attachment; filename=\"deia-ada.csv\"");
    assert_eq!(csv.matches("\r\n").count(), 11, "{csv}");
    assert!(csv.contains(",'=m0,") && !csv.contains(",=m0"), "{csv}");
    let id = api.history("ada").await[0]["conversation_id"].as_str().unwrap().to_owned();
    let (headers, text) = export(&api, "ada", json!({"format": "markdown", "conversation_id": id})).await;
    assert_eq!(headers[CONTENT_TYPE], "text/markdown; charset=utf-8");
    assert_eq!(headers[CONTENT_DISPOSITION], format!("attachment; filename=\"deia-ada-{id}.md\"").as_str());
    assert!(text.contains("\n=m2\n") && text.contains("1 of 2") && !text.contains("aside"), "{text}");
}

#[tokio::test]
async fn a_fork_is_exported_to_be_read_with_what_it_shares_and_to_be_imported_with_its_origin() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:echo").await;
    let one = api.send("ada", "one").await.expect(200);
    api.send("ada", "two").await.expect(200);
    let from = json!({"from_message_id": one["reply"]["id"]});
    let fork = api.post("/api/chat/ada/conversations", from).await.expect(201)["id"].clone();
    let alone =
        async |format: &str| export(&api, "ada", json!({"format": format, "conversation_id": fork})).await.1;
    assert_eq!(alone("markdown").await.matches("\none\n").count(), 2, "nothing was said in it yet");
    let aside = api.submit("ada", "aside", json!({"conversation_id": fork})).await.expect(202);
    api.ended(&aside["turn"]["id"]).await;
    let text = alone("markdown").await;
    assert_eq!(text.matches("\n## ").count(), 1, "{text}");
    let said: Vec<_> = text.lines().filter(|line| ["one", "two", "aside"].contains(line)).collect();
    assert_eq!(said, ["one", "one", "aside", "aside"]);
    let csv = alone("csv").await;
    assert_eq!(csv.matches("\r\n").count(), 5, "{csv}");
    // The JSON form names what it lacks, and the bot's has it.
    let (file, (_, all)) = (alone("json").await, export(&api, "ada", json!({"format": "json"})).await);
    api.delete("/api/bot/ada?purge=true").await.expect(200);
    api.launch("ada", "sim:echo").await;
    let problem = import(&api, "ada", file.clone()).await.expect_problem(400, "import_invalid");
    assert!(problem["detail"].as_str().unwrap().contains("whole bot"), "{problem}");
    import(&api, "ada", all).await.expect(200);
    import(&api, "ada", file.clone()).await.expect(200);
    assert_eq!(alone("json").await, file);
}

#[tokio::test]
async fn what_can_not_be_exported_or_imported_is_told() {
    let stage = Stage::with(&[("DEIA_SERVER__MAX_IMPORT_BYTES", "200000")]).await;
    let deia = stage.start().await;
    let api = deia.api();
    api.post("/api/chat/ada/export", json!({"format": "json"})).await.expect_problem(404, "bot_not_found");
    talk(&api).await;
    let ask = async |body: Value| api.post("/api/chat/ada/export", body).await;
    ask(json!({})).await.expect_problem(400, "invalid_request");
    ask(json!({"format": "pdf"})).await.expect_problem(400, "invalid_request");
    ask(json!({"format": "json", "extra": 1})).await.expect_problem(400, "invalid_request");
    let id = "0199f5a2-c0de-7000-a000-000000000000";
    ask(json!({"format": "csv", "conversation_id": id})).await.expect_problem(404, "conversation_not_found");
    let allow = api.get("/api/chat/ada/export").await;
    assert_eq!((allow.status.as_u16(), allow.headers["allow"].to_str().unwrap()), (405, "POST"));

    let (_, file) = export(&api, "ada", json!({"format": "json"})).await;
    for bad in [
        "not json".to_owned(),
        "[".repeat(100_000),
        String::new(),
        file.replace("=m0", "=m9"),
        file[..file.len() / 2].to_owned(),
        file.replace("\"version\":1", "\"version\":9"),
        file.replace("\"bot_id\":\"ada\"", "\"bot_id\":\"eve\""),
    ] {
        import(&api, "ada", bad).await.expect_problem(400, "import_invalid");
    }
    import(&api, "ada", "x".repeat(200_001)).await.expect_problem(413, "body_too_large");
    let request = api.request(Method::POST, "/api/chat/ada/import").body(file.clone());
    api.answer(request).await.expect_problem(415, "unsupported_media_type");
    assert_eq!(export(&api, "ada", json!({"format": "json"})).await.1, file, "and nothing has changed");
    // Another bot's ids.
    api.launch("eve", "sim:echo").await;
    import(&api, "eve", file).await.expect_problem(400, "import_invalid");
}

#[tokio::test]
async fn a_running_turn_is_not_in_an_export_and_is_not_disturbed() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:tokens=4000,gap_ms=5").await;
    let running = api.send_without_waiting("ada", "long").await.expect(202);
    api.written(&running["turn"]["id"], 10).await;
    let alone = export(&api, "ada", json!({"format": "json"})).await.1;
    // A command and a waiting message, which hang on the answer.
    api.send("ada", "/help").await.expect(200);
    api.send_without_waiting("ada", "next").await.expect(202);
    let (_, file) = export(&api, "ada", json!({"format": "json"})).await;
    for file in [&alone, &file] {
        let document: Value = serde_json::from_str(file).unwrap();
        assert_eq!(document["messages"], json!([]));
        assert_eq!(document["conversations"][0]["leaf_message_id"], Value::Null);
    }
    assert_eq!(api.turn(&running["turn"]["id"]).await["state"], "generating");
    let other = Stage::new().await;
    let elsewhere = other.start().await;
    elsewhere.api().launch("ada", "sim:echo").await;
    import(&elsewhere.api(), "ada", file).await.expect(200);
}

#[tokio::test]
async fn the_command_line_does_the_same_on_the_database_itself() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    talk(&deia.api()).await;
    let (_, file) = export(&deia.api(), "ada", json!({"format": "json"})).await;
    let held = stage.home.run(&["export", "ada"]).await;
    let words = String::from_utf8(held.stderr).unwrap();
    assert_eq!(held.status.code(), Some(1));
    assert!(
        words.contains("in use by another process") && words.contains("POST /api/chat/ada/export"),
        "{words}"
    );
    assert!(deia.terminate().await.success());
    let printed = stage.home.run(&["export", "ada"]).await;
    assert_eq!(String::from_utf8(printed.stdout).unwrap(), file);
    let path = stage.home.path().join("ada.json");
    let name = path.to_string_lossy().into_owned();
    assert!(stage.home.run(&["export", "ada", "--output", &name]).await.status.success());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), file);
    assert_eq!(stage.home.run(&["export", "eve"]).await.status.code(), Some(1));

    let other = Home::new();
    let refused = other.run(&["import", &name]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8(refused.stderr).unwrap().contains("There is no bot ada"));
    let second = other.start().await;
    second.api().launch("ada", "simulated").await;
    assert!(second.terminate().await.success());
    let done = other.run(&["import", &name]).await;
    assert_eq!(
        String::from_utf8(done.stdout).unwrap(),
        "ada: 10 messages in 2 conversations imported, 0 messages were there already\n"
    );
    let again = other.run_with(&["import", "-"], &name).await;
    assert_eq!(
        String::from_utf8(again.stdout).unwrap(),
        "ada: 0 messages in 0 conversations imported, 10 messages were there already\n"
    );
    let printed = other.run(&["export", "ada"]).await;
    assert_eq!(String::from_utf8(printed.stdout).unwrap(), file);
    let second = other.start().await;
    assert_eq!(second.api().history("ada").await.len(), 2, "the edited path is the active one");
}
