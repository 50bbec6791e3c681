//! Finding what was said.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Api, Stage};

async fn search(api: &Api, parameters: &[(&str, &str)]) -> Answer {
    api.answer(api.request(Method::GET, "/api/chat/ada").query(parameters)).await
}

/// Senders and snippets of what is found.
async fn found(api: &Api, q: &str) -> Vec<(String, String)> {
    let page = search(api, &[("q", q)]).await.expect(200);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    page["items"].as_array().unwrap().iter().map(|m| (text(&m["sender"]), text(&m["snippet"]))).collect()
}

#[tokio::test]
async fn what_was_said_and_answered_is_found_at_once_by_its_words() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:echo").await;
    api.send("ada", "The Crème brûlée of **Kyoto**").await.expect(200);
    api.send("ada", "東京タワー").await.expect(200);
    let both = |text: &str| vec![("bot".to_owned(), text.to_owned()), ("user".to_owned(), text.to_owned())];
    for q in ["creme", "BRULEE kyo*", "\"creme brulee\"", "\"of kyoto\""] {
        assert_eq!(found(&api, q).await, both("The Crème brûlée of **Kyoto**"), "{q}");
    }
    assert_eq!(found(&api, "京").await, both("東京タワー"));
    for q in ["brule", "\"brulee creme\"", "kyoto 京"] {
        assert_eq!(found(&api, q).await, [], "{q}");
    }
    let page = search(&api, &[("q", "kyoto"), ("limit", "1"), ("render", "html")]).await.expect(200);
    assert_eq!((page["items"].as_array().unwrap().len(), &page["has_more"]), (1, &json!(true)));
    assert!(page["items"][0]["html"].as_str().unwrap().contains("<strong>Kyoto</strong>"));
    assert_eq!(page["next_offset"], 1);
    assert_eq!((&page["before"], &page["after"]), (&Value::Null, &Value::Null));
    let rest = search(&api, &[("q", "kyoto"), ("limit", "1"), ("offset", "1")]).await.expect(200);
    assert_eq!((&rest["has_more"], &rest["items"][0]["sender"]), (&json!(false), &json!("user")));
    assert_eq!(rest["next_offset"], Value::Null);
    // Killed before anything could be indexed in peace, and after.
    api.send("ada", "last words").await.expect(200);
    deia.kill().await;
    let deia = stage.start().await;
    assert_eq!(found(&deia.api(), "last").await.len(), 2);
    deia.api().delete("/api/chat/ada").await.expect(200);
    assert_eq!(found(&deia.api(), "last").await, []);
}

#[tokio::test]
async fn one_conversation_or_all_of_them_are_searched() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    let bot = api.launch("ada", "sim:echo").await;
    let main = bot["main_conversation_id"].as_str().unwrap();
    let aside = api.post("/api/chat/ada/conversations", json!({})).await.expect(201);
    let aside = aside["id"].as_str().unwrap();
    api.send("ada", "apple").await.expect(200);
    let told = api.submit("ada", "apple pie", json!({"conversation_id": aside})).await.expect(202);
    api.ended(&told["turn"]["id"]).await;
    assert_eq!(found(&api, "apple").await.len(), 4);
    for (id, expected) in [(main, "apple"), (aside, "apple pie")] {
        let page = search(&api, &[("q", "apple"), ("conversation_id", id)]).await.expect(200);
        let texts: Vec<_> = page["items"].as_array().unwrap().iter().map(|m| &m["content"]).collect();
        assert_eq!(texts, [&json!(expected), &json!(expected)]);
    }
    api.launch("eve", "sim:echo").await;
    let other = api.get(format!("/api/chat/eve?q=apple&conversation_id={main}")).await;
    other.expect_problem(404, "conversation_not_found");
    assert_eq!(api.get("/api/chat/eve?q=apple").await.expect(200)["items"], json!([]));
}

#[tokio::test]
async fn a_query_that_is_none_is_told_what_is_wrong() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    search(&api, &[("q", "x")]).await.expect_problem(404, "bot_not_found");
    api.launch("ada", "sim:echo").await;
    let id = "0199f5a2-c0de-7000-a000-000000000000";
    let (long, many) = ("x".repeat(257), "x ".repeat(33));
    for (parameters, field) in [
        (vec![("q", "")], "q"),
        (vec![("q", "?! *")], "q"),
        (vec![("q", &long)], "q"),
        (vec![("q", &many)], "q"),
        (vec![("q", "x"), ("before", id)], "before"),
        (vec![("q", "x"), ("after", id)], "after"),
        (vec![("q", "x"), ("limit", "0")], "limit"),
        (vec![("q", "x"), ("offset", "-1")], "offset"),
    ] {
        let problem = search(&api, &parameters).await.expect_problem(400, "invalid_request");
        assert_eq!(problem["errors"][0]["field"], field, "{parameters:?}");
    }
    for odd in ["\" OR 1", "a\" AND home : \"b", "{words} : x", "NEAR(a b)", "x'; DROP TABLE bots"] {
        search(&api, &[("q", odd)]).await.expect(200);
    }
    api.send("ada", "still there").await.expect(200);
    assert_eq!(found(&api, "there").await.len(), 2);
}

#[tokio::test]
async fn an_imported_history_is_found() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:echo").await;
    api.send("ada", "a rare word").await.expect(200);
    let request = api.request(Method::POST, "/api/chat/ada/export").json(&json!({"format": "json"}));
    let file = request.send().await.unwrap().text().await.unwrap();
    api.delete("/api/bot/ada?purge=true").await.expect(200);
    api.launch("ada", "sim:echo").await;
    assert_eq!(found(&api, "rare").await, []);
    let request =
        api.request(Method::POST, "/api/chat/ada/import").header("content-type", "application/json");
    api.answer(request.body(file)).await.expect(200);
    assert_eq!(found(&api, "rare").await.len(), 2);
}

#[tokio::test]
async fn a_running_reply_is_found_when_it_has_ended() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:stall_at=10").await;
    let told = api.send_without_waiting("ada", "count").await.expect(202);
    api.written(&told["turn"]["id"], 20).await;
    assert_eq!(found(&api, "0003").await, []);
    assert_eq!(found(&api, "count").await.len(), 1);
    api.post(format!("/api/turn/{}/stop", told["turn"]["id"].as_str().unwrap()), json!({})).await.expect(200);
    assert_eq!(found(&api, "0003").await.len(), 1);
}
