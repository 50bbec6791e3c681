//! Tools from outside: declared, called, shown, kept, and told to the model again.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Api, Stage, soon};

fn clock() -> Value {
    json!({"type": "function", "function": {"name": "current_time", "description": "what time it is",
        "parameters": {"type": "object", "properties": {}}}})
}

async fn launch(api: &Api, id: &str, model: &str, tools: &[Value]) {
    let config = json!({"model": model, "tools": tools});
    api.post("/api/bot/launch", json!({"bot_id": id, "config": config})).await.expect(201);
}

fn senders(history: &[Value]) -> Vec<&str> {
    history.iter().map(|m| m["sender"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_tool_is_called_shown_stored_and_its_result_answered() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    launch(&api, "ada", "sim:think,tools=2,calls=2,echo", &[clock()]).await;
    let events = api.send_and_stream("ada", "what time is it").await.rest().await;

    let data = |name: &str| -> Vec<Value> {
        let named = events.iter().filter(|e| e.event.as_deref() == Some(name));
        named.map(|e| e.data["data"].clone()).collect()
    };
    let (called, returned) = (data("tool_called"), data("tool_returned"));
    assert_eq!((called.len(), returned.len()), (4, 4));
    let end = data("turn_completed").remove(0);
    for (called, returned) in called.iter().zip(&returned) {
        assert_eq!((&called["name"], &called["arguments"]), (&json!("current_time"), &json!({})));
        assert_eq!(called["turn_id"], end["turn"]["id"]);
        assert_eq!(called["call_id"], returned["call_id"]);
        let told: Value = serde_json::from_str(returned["result"].as_str().unwrap()).unwrap();
        assert_eq!(told["timezone"], "UTC");
        assert!(returned["took_ms"].as_f64().unwrap() >= 0.0 && returned.get("error").is_none());
    }
    // The text of a turn is one, however many rounds it has: offsets go on.
    let mut thought = String::new();
    for token in data("token").iter().filter(|t| t["kind"] == "thinking") {
        assert_eq!(token["offset"], thought.len());
        thought.push_str(token["text"].as_str().unwrap());
    }
    assert_eq!(thought.matches("My script").count(), 3);
    let reply = &end["reply"];
    assert_eq!((&reply["content"], &reply["thinking"]), (&json!("what time is it"), &json!(thought)));

    let history = api.history("ada").await;
    assert_eq!(senders(&history), ["user", "bot", "tool", "tool", "bot", "tool", "tool", "bot"]);
    for pair in history.windows(2) {
        assert_eq!(pair[1]["parent_id"], pair[0]["id"], "one path");
    }
    assert_eq!(history[1]["tool_calls"][1]["id"], called[1]["call_id"]);
    assert_eq!(history[1]["tool_calls"][0]["function"]["name"], "current_time");
    assert_eq!(history[2]["metadata"]["tool"]["call_id"], called[0]["call_id"]);
    assert_eq!(api.message("ada", &history[2]["id"]).await["content"], returned[0]["result"]);
    assert_eq!(history[7], *reply);

    // Another answer to the same question stands beside the first round.
    let turn = end["turn"]["id"].as_str().unwrap();
    let again = api.post(format!("/api/turn/{turn}/regenerate"), json!({})).await.expect(202);
    api.ended(&again["turn"]["id"]).await;
    let other = api.history("ada").await;
    assert_eq!(senders(&other), senders(&history));
    assert_eq!((&other[0], &other[1]["siblings"]), (&history[0], &json!({"index": 2, "count": 2})));

    // An export with calls and results is read again as it was.
    let request = api.request(Method::POST, "/api/chat/ada/export").json(&json!({"format": "json"}));
    let file = soon("an export", async { request.send().await.unwrap().text().await.unwrap() }).await;
    let elsewhere = Stage::new().await;
    let second = elsewhere.start().await;
    second.api().launch("ada", "sim:echo").await;
    let request = second.api().request(Method::POST, "/api/chat/ada/import");
    let request = request.header("content-type", "application/json").body(file);
    second.api().answer(request).await.expect(200);
    assert_eq!(second.api().history("ada").await, api.history("ada").await);
}

#[tokio::test]
async fn a_person_may_ask_the_scripted_model_for_a_tool() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    launch(&api, "ada", "simulated", &[clock()]).await;
    let answer = api.send("ada", "call current_time please").await.expect(200);
    let said = answer["reply"]["content"].as_str().unwrap();
    assert!(said.starts_with("The tool says:") && said.contains("UTC"), "{said}");
}

#[tokio::test]
async fn calls_of_a_tool_of_the_caller_come_with_the_reply() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    let door = json!({"type": "function", "function": {"name": "open_door", "parameters": {"type": "object",
        "properties": {"door": {"type": "integer", "minimum": 3}}}}});
    launch(&api, "ada", "sim:tools,echo", &[door]).await;
    let answer = api.send("ada", "open").await.expect(200);
    assert_eq!(answer["turn"]["state"], "completed");
    let call = &answer["reply"]["tool_calls"][0]["function"];
    assert_eq!(*call, json!({"name": "open_door", "arguments": {"door": 3}}));
    let history = api.history("ada").await;
    assert_eq!(senders(&history), ["user", "bot"]);
    assert_eq!(history[1], answer["reply"]);
}

#[tokio::test]
async fn a_process_that_dies_after_a_tool_returned_keeps_it_and_answers_nothing_twice() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    launch(&api, "ada", "sim:tools,tokens=5000,gap_ms=5", &[clock()]).await;
    let told = api.send_without_waiting("ada", "go on").await.expect(202);
    let behind = api.send_without_waiting("ada", "and then").await.expect(202);
    let seen = api.written(&told["turn"]["id"], 100).await;
    deia.kill().await;

    let deia = stage.start().await;
    let api = deia.api();
    let turn = api.ended(&told["turn"]["id"]).await;
    assert_eq!((&turn["state"], &turn["error"]["code"]), (&json!("interrupted"), &json!("turn_interrupted")));
    let reply = api.message("ada", &turn["reply_id"]).await;
    assert_eq!(reply["state"], "partial");
    let kept = reply["content"].as_str().unwrap();
    assert!(kept.starts_with(&seen) || seen.starts_with(kept));
    api.turn_in(&behind["turn"]["id"], "generating").await;
    let history = api.history("ada").await;
    assert_eq!(senders(&history)[..4], ["user", "bot", "tool", "bot"]);
    assert_eq!((&history[3]["id"], &history[3]["parent_id"]), (&turn["reply_id"], &history[2]["id"]));
    assert_eq!(history[4]["content"], "and then");
    deia.terminate().await;
}

#[tokio::test]
async fn wrong_declarations_are_refused_with_their_place() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:tools,echo").await;
    let nameless = json!({"type": "function", "function": {"description": "nothing"}});
    let circle = json!({"type": "function", "function": {"name": "a",
        "parameters": {"type": "object", "properties": {"me": {"$ref": "#"}}}}});
    for (tools, field) in [
        (json!([nameless]), "config.tools.0.function.name"),
        (json!([clock(), clock()]), "config.tools.1.function.name"),
        (json!([circle]), "config.tools.0.function.parameters.properties.me.$ref"),
        (json!([3]), "config.tools.0.type"),
    ] {
        let config = json!({"model": "sim:tools", "tools": tools});
        let launched = api.post("/api/bot/launch", json!({"config": config})).await;
        let problem = launched.expect_problem(400, "invalid_request");
        assert_eq!(problem["errors"][0]["field"], field);
        let patched = api.patch("/api/bot/ada", json!({"config": {"tools": tools}})).await;
        assert_eq!(patched.expect_problem(400, "invalid_request")["errors"][0]["field"], field);
    }
    let incapable = json!({"config": {"model": "sim:echo", "tools": [clock()]}});
    let problem = api.post("/api/bot/launch", incapable).await.expect_problem(422, "model_capability");
    assert_eq!(problem["errors"][0]["field"], "config.tools");
}
