//! What a turn asks of its model beside words: a form of the answer, thinking, images; and what is refused of it.

use serde_json::{Value, json};

use crate::support::{Answer, Api, Stage};

/// A PNG of one pixel.
const PNG: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII=";

/// Sends with more fields than text, and waits.
async fn ask(api: &Api, id: &str, content: &str, more: Value) -> Answer {
    let mut body = json!({"bot_id": id, "content": content});
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    api.post("/api/chat/send", body).await
}

fn schema() -> Value {
    json!({"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}})
}

#[tokio::test]
async fn an_answer_has_the_form_that_was_asked_for_or_its_turn_fails() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:echo").await;
    let answer = ask(&api, "ada", "one", json!({"format": schema()})).await.expect(200);
    assert_eq!(
        (&answer["reply"]["content"], &answer["reply"]["state"]),
        (&json!(r#"{"n":1}"#), &json!("complete"))
    );

    api.patch("/api/bot/ada", json!({"config": {"model": "sim:misform,think", "format": schema()}}))
        .await
        .expect(200);
    let problem = api.send("ada", "secret").await.expect_problem(502, "output_invalid");
    assert_eq!(problem["errors"][0]["field"], "content");
    assert!(!problem["detail"].as_str().unwrap().contains("secret"), "{problem}");
    let turn = api.turn(&problem["turn"]["id"]).await;
    assert_eq!((&turn["state"], &turn["error"]["code"]), (&json!("failed"), &json!("output_invalid")));
    assert!(turn["usage"]["completion_tokens"].as_u64().unwrap() > 0, "the work was done");
    let reply = api.message("ada", &turn["reply_id"]).await;
    assert_eq!((&reply["content"], &reply["state"]), (&json!(r#"["secret"]"#), &json!("partial")));
    assert!(reply["thinking"].as_str().unwrap().contains("1 words"));
    let cut =
        ask(&api, "ada", "x", json!({"format": "json", "think": false, "options": {"num_predict": 1}})).await;
    let problem = cut.expect_problem(502, "output_invalid");
    assert!(problem["detail"].as_str().unwrap().contains("num_predict"), "{problem}");
}

#[tokio::test]
async fn an_answer_that_was_cut_at_its_longest_length_says_so_wherever_it_is_read() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "simulated").await;
    let cut = json!({"options": {"num_predict": 5}});
    let cut = ask(&api, "ada", "count to 100", cut).await.expect(200);
    let whole = ask(&api, "ada", "count to 3", json!({})).await.expect(200);
    for (answer, metadata) in [(cut, json!({"done_reason": "length"})), (whole, json!({}))] {
        let reply = &answer["reply"];
        assert_eq!((&answer["turn"]["state"], &reply["state"]), (&json!("completed"), &json!("complete")));
        assert_eq!(reply["metadata"], metadata, "{reply}");
        assert_eq!(api.message("ada", &reply["id"]).await["metadata"], metadata);
        assert_eq!(answer["message"]["metadata"], json!({}));
    }
}

#[tokio::test]
async fn a_form_that_cannot_be_kept_to_is_refused_with_its_place() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:echo").await;
    let circle = json!({"type": "object", "properties": {"child": {"$ref": "#"}}});
    let mut deep = json!({});
    for _ in 0..100 {
        deep = json!({"items": deep});
    }
    for (format, path) in [
        (circle, ".properties.child.$ref"),
        (json!({"items": {"$ref": "http://127.0.0.1:9/schema"}}), ".items.$ref"),
        (json!({"items": {"$ref": "file:///etc/passwd"}}), ".items.$ref"),
        (json!({"description": "x".repeat(100_000)}), ""),
        (json!({"pattern": "(?=x)"}), ".pattern"),
        (json!("yaml"), ""),
        (json!(7), ""),
    ] {
        let problem =
            ask(&api, "ada", "x", json!({"format": format})).await.expect_problem(400, "invalid_request");
        assert_eq!(problem["errors"][0]["field"], format!("format{path}"));
        let config = json!({"config": {"model": "sim:echo", "format": format}});
        let problem =
            api.post("/api/bot/launch", config.clone()).await.expect_problem(400, "invalid_request");
        assert_eq!(problem["errors"][0]["field"], format!("config.format{path}"));
        api.patch("/api/bot/ada", config).await.expect_problem(400, "invalid_request");
    }
    ask(&api, "ada", "x", json!({"format": deep})).await.expect_problem(400, "invalid_request");
    ask(&api, "ada", "x", json!({"format": {"type": "strin"}})).await.expect_problem(400, "invalid_request");
    assert_eq!(api.history("ada").await, [] as [Value; 0], "nothing of it is stored");
}

#[tokio::test]
async fn what_a_model_is_not_able_to_do_is_refused_before_anything_is_stored() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:echo").await;
    for (more, field) in [
        (json!({"think": true}), "think"),
        (json!({"think": "high"}), "think"),
        (json!({"images": [PNG]}), "images"),
    ] {
        let problem = ask(&api, "ada", "x", more).await.expect_problem(422, "model_capability");
        assert_eq!(problem["errors"][0]["field"], field);
    }
    let thinks = json!({"config": {"model": "sim:echo", "think": true}});
    api.post("/api/bot/launch", thinks).await.expect_problem(422, "model_capability");
    ask(&api, "ada", "x", json!({"think": false})).await.expect(200);
    assert_eq!(api.history("ada").await.len(), 2);

    api.launch("eva", "sim:echo,think,vision").await;
    let answer = ask(&api, "eva", "a picture", json!({"think": "low", "images": [PNG]})).await.expect(200);
    assert_eq!(answer["message"]["images"], json!([PNG]));
    assert!(answer["reply"]["thinking"].as_str().unwrap().contains("2 words"));
    for (images, field) in [
        (json!(["SGVsbG8="]), "images.0"),
        (json!([PNG, "data:image/png;base64,iVBORw0KGgo="]), "images.1"),
        (json!([""]), "images.0"),
        (json!([PNG, PNG, PNG, PNG, PNG, PNG, PNG, PNG, PNG]), "images"),
    ] {
        let problem =
            ask(&api, "eva", "x", json!({"images": images})).await.expect_problem(400, "invalid_request");
        assert_eq!(problem["errors"][0]["field"], field);
    }
}

#[tokio::test]
async fn thoughts_are_kept_as_they_were_seen_through_stop_and_crash() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:think,stall_at=3").await;
    for how in ["stop", "kill"] {
        let mut events = api.send_and_stream("ada", "one two three").await;
        let (mut seen, mut end) = (String::new(), Value::Null);
        while let Some(event) = events.next().await {
            let data = &event.data["data"];
            match event.event.as_deref() {
                Some("token") => {
                    assert_eq!((&data["kind"], &data["offset"]), (&json!("thinking"), &json!(seen.len())));
                    let first = seen.is_empty();
                    seen.push_str(data["text"].as_str().unwrap());
                    let turn = data["turn_id"].as_str().unwrap();
                    match how {
                        "stop" if first => {
                            drop(api.post(format!("/api/turn/{turn}/stop"), json!({})).await.expect(200))
                        }
                        "kill" if first => drop(api.post("/api/bot/ada/kill", json!({})).await.expect(200)),
                        _ => {}
                    }
                }
                Some("turn_stopped" | "turn_interrupted") => end = data.clone(),
                _ => {}
            }
        }
        assert!(!seen.is_empty());
        assert_eq!(
            (&end["reply"]["thinking"], &end["reply"]["content"]),
            (&json!(seen), &json!("")),
            "{how}"
        );
        assert_eq!(api.message("ada", &end["reply"]["id"]).await["thinking"], seen, "as stored");
    }
}
