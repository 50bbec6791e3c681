//! Reading what was said: pages both ways, clearing, conversations.

use serde_json::{Value, json};

use crate::support::Stage;

fn contents(page: &Value) -> Vec<String> {
    page["items"].as_array().unwrap().iter().map(|m| m["content"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn pages_meet_without_gap_or_overlap_both_ways() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:echo").await;
    let mut expected = vec![];
    for n in 0..12 {
        api.send("ada", &format!("m{n}")).await.expect(200);
        expected.extend([format!("m{n}"), format!("m{n}")]);
    }
    for limit in [1, 5, 24, 200] {
        let (mut back, mut before) = (vec![], String::new());
        let mut first = Value::Null;
        loop {
            let page = api.get(format!("/api/chat/ada?limit={limit}{before}")).await.expect(200);
            back.splice(0..0, contents(&page));
            first = page["items"].as_array().unwrap().first().map_or(first, |m| m["id"].clone());
            assert_eq!(page["has_more"].as_bool().unwrap(), !page["before"].is_null());
            match page["before"].as_str() {
                Some(id) => before = format!("&before={id}"),
                None => break,
            }
        }
        assert_eq!(back, expected, "backward by {limit}");
        let mut forward = expected[..1].to_vec();
        let mut after = first;
        while let Some(id) = after.as_str() {
            let page = api.get(format!("/api/chat/ada?limit={limit}&after={id}")).await.expect(200);
            forward.extend(contents(&page));
            after = page["after"].clone();
        }
        assert_eq!(forward, expected, "forward by {limit}");
    }
    let page = api.get("/api/chat/ada?limit=3&offset=2").await.expect(200);
    assert_eq!(contents(&page), expected[19..22], "an offset counts from the newest");
}

#[tokio::test]
async fn clearing_deletes_and_the_bot_begins_anew() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:echo").await;
    for n in 0..3 {
        api.send("ada", &format!("m{n}")).await.expect(200);
    }
    assert_eq!(api.delete("/api/chat/ada").await.expect(200)["deleted"], 6);
    assert_eq!(api.history("ada").await.len(), 0);
    let anew = api.send("ada", "anew").await.expect(200);
    assert_eq!(anew["message"]["parent_id"], Value::Null);
    assert_eq!(api.history("ada").await.len(), 2);
    deia.kill().await;
    let deia = stage.start().await;
    assert_eq!(deia.api().history("ada").await.len(), 2, "and so it stays");
}

#[tokio::test]
async fn conversations_are_apart() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    let bot = api.launch("ada", "sim:echo").await;
    let made = api.post("/api/chat/ada/conversations", json!({"title": "Aside"})).await.expect(201);
    let id = made["id"].as_str().unwrap().to_owned();
    api.send("ada", "main").await.expect(200);
    let told = api.submit("ada", "aside", json!({"conversation_id": id})).await.expect(202);
    api.ended(&told["turn"]["id"]).await;
    let page = api.get(format!("/api/chat/ada?conversation_id={id}")).await.expect(200);
    assert_eq!(contents(&page), ["aside", "aside"]);
    assert_eq!(api.history("ada").await.len(), 2);
    let path = format!("/api/chat/ada/conversations/{id}");
    let renamed = api.patch(&path, json!({"title": "Apart", "archived": true})).await.expect(200);
    assert_eq!((&renamed["title"], &renamed["archived"]), (&json!("Apart"), &json!(true)));
    assert_eq!(renamed["message_count"], 2);
    let listed = api.get("/api/chat/ada/conversations").await.expect(200);
    assert_eq!(listed["items"].as_array().unwrap().len(), 2);
    api.delete(&path).await.expect(204);
    api.get(format!("/api/chat/ada?conversation_id={id}"))
        .await
        .expect_problem(404, "conversation_not_found");
    let main = bot["main_conversation_id"].as_str().unwrap();
    api.delete(format!("/api/chat/ada/conversations/{main}")).await.expect_problem(409, "main_conversation");
}
