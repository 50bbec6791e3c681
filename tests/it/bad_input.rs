//! Bad input: each is a typed problem that names the field and the limit, nothing is stored, the bot lives.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Api, Stage};

/// A refusal: its status and code, and the first field and something of the reason where a field is to blame.
fn check(what: &str, answer: &crate::support::Answer, status: u16, code: &str, field: &str, reason: &str) {
    let body = &answer.body;
    assert_eq!((answer.status.as_u16(), &body["code"]), (status, &json!(code)), "{what}: {body}");
    let kind = answer.headers["content-type"].to_str().unwrap();
    assert!(kind.starts_with("application/problem+json"), "{what}: {kind}");
    assert!(body["request_id"].is_string() && body["title"].is_string(), "{what}: {body}");
    if !field.is_empty() {
        assert_eq!(body["errors"][0]["field"], field, "{what}: {body}");
    }
    assert!(body.to_string().contains(reason), "{what}: {body}");
}

async fn raw(
    api: &Api,
    method: Method,
    path: &str,
    body: impl Into<reqwest::Body>,
) -> crate::support::Answer {
    api.answer(api.request(method, path).header("content-type", "application/json").body(body)).await
}

#[tokio::test]
async fn a_wrong_send_is_refused_by_field_and_limit_and_leaves_nothing() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:echo").await;
    // A listed model, so that its maximum is known.
    api.launch("bea", "simulated").await;
    let megabyte = "x".repeat(1024 * 1024);
    let invalid = "invalid_request";
    let cases: Vec<(String, u16, &str, &str, &str)> = vec![
        ("{".into(), 400, "invalid_json", "", ""),
        ("[]".into(), 400, invalid, "body", "object"),
        (
            r#"{"bot_id":"ada","content":"x","contnt":1}"#.into(),
            400,
            invalid,
            "contnt",
            "did you mean content",
        ),
        (r#"{"bot_id":"ada","content":7}"#.into(), 400, invalid, "content", ""),
        (r#"{"bot_id":"ada"}"#.into(), 400, invalid, "content", ""),
        (json!({"bot_id": "ada", "content": ""}).to_string(), 400, invalid, "content", "empty"),
        (json!({"bot_id": "ada", "content": " \n"}).to_string(), 400, invalid, "content", "empty"),
        (json!({"bot_id": "ada", "content": megabyte}).to_string(), 400, invalid, "content", "262144"),
        (json!({"bot_id": "ada", "content": "a\0b"}).to_string(), 400, invalid, "content", "NUL"),
        (r#"{"bot_id":"ada","content":"\ud800"}"#.into(), 400, "invalid_json", "", ""),
        (json!({"bot_id": "../etc", "content": "x"}).to_string(), 400, invalid, "bot_id", "50"),
        (json!({"bot_id": "x".repeat(51), "content": "x"}).to_string(), 400, invalid, "bot_id", "50"),
        (json!({"bot_id": "nobody", "content": "x"}).to_string(), 404, "bot_not_found", "", "nobody"),
        (
            json!({"bot_id": "ada", "content": "x", "options": {"num_ctx": 255}}).to_string(),
            400,
            invalid,
            "options.num_ctx",
            "256",
        ),
        (
            json!({"bot_id": "bea", "content": "x", "options": {"num_ctx": 40_000}}).to_string(),
            422,
            "context_too_large",
            "",
            "32768",
        ),
        (
            json!({"bot_id": "ada", "content": "x", "options": {"nmctx": 1}}).to_string(),
            400,
            invalid,
            "options.nmctx",
            "num_ctx",
        ),
        (
            json!({"bot_id": "ada", "content": "x", "conversation_id": "7"}).to_string(),
            400,
            invalid,
            "conversation_id",
            "",
        ),
        (
            json!({"bot_id": "ada", "content": "x", "images": ["%"]}).to_string(),
            400,
            invalid,
            "images.0",
            "base64",
        ),
    ];
    for (body, status, code, field, reason) in cases {
        let what = body.chars().take(80).collect::<String>();
        check(&what, &raw(&api, Method::POST, "/api/chat/send", body).await, status, code, field, reason);
    }
    let not_utf8 =
        raw(&api, Method::POST, "/api/chat/send", b"{\"bot_id\":\"ada\",\"content\":\"\xff\"}".to_vec())
            .await;
    check("not UTF-8", &not_utf8, 400, "invalid_json", "", "");
    let large = raw(&api, Method::POST, "/api/chat/send", "x".repeat(3 * 1024 * 1024)).await;
    check("3 MiB", &large, 413, "body_too_large", "", "2097152");
    let plain = api.answer(api.request(Method::POST, "/api/chat/send").body("{}")).await;
    check("no content type", &plain, 415, "unsupported_media_type", "", "");
    assert_eq!(api.history("ada").await.len(), 0, "nothing is stored half");
    assert_eq!(stage.sim.stats().requests, 0);
    assert_eq!(api.send("ada", "still there?").await.expect(200)["reply"]["content"], "still there?");
}

#[tokio::test]
async fn a_wrong_read_or_configuration_is_refused_by_field() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    for bot in ["ada", "bob"] {
        api.launch(bot, "sim:echo").await;
    }
    let other = api.send("bob", "x").await.expect(200)["message"]["id"].as_str().unwrap().to_owned();
    let invalid = "invalid_request";
    for (path, status, code, field, reason) in [
        ("/api/chat/ada?limit=0".to_owned(), 400, invalid, "limit", "200"),
        ("/api/chat/ada?limit=-1".into(), 400, invalid, "limit", "200"),
        ("/api/chat/ada?limit=201".into(), 400, invalid, "limit", "200"),
        ("/api/chat/ada?limt=5".into(), 400, invalid, "limt", "limit"),
        ("/api/chat/ada?offset=-1".into(), 400, invalid, "offset", ""),
        (format!("/api/chat/ada?before={other}"), 400, "invalid_cursor", "", ""),
        (format!("/api/chat/ada?after={other}"), 400, "invalid_cursor", "", ""),
        ("/api/chat/ada?before=x".into(), 400, invalid, "before", ""),
        ("/api/bot/..%2F..%2Fetc".into(), 400, invalid, "bot_id", "50"),
        (format!("/api/bot/{}", "x".repeat(51)), 400, invalid, "bot_id", "50"),
        ("/api/bot/nobody".into(), 404, "bot_not_found", "", "nobody"),
        ("/api/turn/x".into(), 400, invalid, "turn_id", ""),
        (format!("/api/turn/{other}"), 404, "turn_not_found", "", ""),
        (format!("/api/chat/ada/{other}"), 404, "message_not_found", "", ""),
        ("/api/bots?state=rady".into(), 400, invalid, "state", "ready"),
        ("/api/nothing".into(), 404, "not_found", "", ""),
    ] {
        check(&path, &api.get(&path).await, status, code, field, reason);
    }
    let put = api.answer(api.request(Method::PUT, "/api/bot/ada")).await;
    check("PUT", &put, 405, "method_not_allowed", "", "");
    assert!(put.headers["allow"].to_str().unwrap().contains("PATCH"));
    for (body, status, code, field, reason) in [
        (json!({"bot_id": "ada"}), 409, "bot_exists", "", "ada"),
        (json!({"bot_id": "a/b"}), 400, invalid, "bot_id", "50"),
        (json!({"config": {"modl": "x"}}), 400, invalid, "config.modl", "did you mean model"),
        (json!({"config": {"options": {"num_ctx": 0}}}), 400, invalid, "config.options.num_ctx", "256"),
        (
            json!({"config": {"options": {"temperature": "hot"}}}),
            400,
            invalid,
            "config.options.temperature",
            "",
        ),
        (
            json!({"config": {"model": "simulated", "options": {"num_ctx": 99_999}}}),
            422,
            "context_too_large",
            "",
            "32768",
        ),
        (json!({"name": "x".repeat(201)}), 400, invalid, "name", "200"),
    ] {
        check(
            &body.to_string(),
            &api.post("/api/bot/launch", body.clone()).await,
            status,
            code,
            field,
            reason,
        );
    }
    assert_eq!(api.get("/api/bots").await.expect(200)["items"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn what_no_model_has_or_takes_is_refused_before_a_model_server_hears_of_it() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:echo").await;
    let invalid = "invalid_request";
    let long = "m".repeat(10_000);
    let cold = json!({"temperature": -0.1});
    let told = api.submit("ada", "x", json!({"options": cold})).await;
    check("send, cold", &told, 400, invalid, "options.temperature", "from 0 to 2");
    for (config, field) in [
        (json!({"options": cold}), "config.options.temperature"),
        (json!({"model": "a b"}), "config.model"),
        (json!({"model": "a\u{a0}b"}), "config.model"),
        (json!({"model": long}), "config.model"),
        (json!({"fallback": ["a b"]}), "config.fallback"),
        (json!({"fallback": [long]}), "config.fallback"),
    ] {
        let launched = api.post("/api/bot/launch", json!({"bot_id": "bob", "config": config})).await;
        check("launch", &launched, 400, invalid, field, "");
        let patched = api.patch("/api/bot/ada", json!({"config": config})).await;
        check("patch", &patched, 400, invalid, field, "");
    }
    for name in ["../x", "a/../x", "a b", long.as_str()] {
        for door in ["pull", "preload", "unload", "delete"] {
            let answer = api.post(format!("/api/models/{door}"), json!({"model": name})).await;
            check(door, &answer, 400, invalid, "model", "");
            assert!(answer.body.to_string().len() < 1000, "a refusal does not repeat what it refuses");
        }
    }
    assert_eq!(api.history("ada").await.len(), 0);
    assert_eq!(stage.sim.stats().requests, 0);
    assert_eq!(api.send("ada", "still there?").await.expect(200)["reply"]["content"], "still there?");
}

#[tokio::test]
async fn a_limit_is_the_same_at_every_door() {
    let stage = Stage::with(&[("DEIA_SUPERVISION__ALLOW_KILL", "true")]).await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:echo").await;
    let long = "x".repeat(201);
    let invalid = "invalid_request";
    let send = "/api/chat/send";
    for (path, body, field, reason) in [
        ("/api/bot/ada/kill", json!({"reason": long}), "reason", "200"),
        ("/api/bot/ada/kill", json!({"reason": "a\nb"}), "reason", "control"),
        ("/api/bot/launch", json!({"name": " "}), "name", "200"),
        ("/api/bot/launch", json!({"name": "a\nb"}), "name", "control"),
        ("/api/bot/launch", json!({"metadata": {"a": "x".repeat(17_000)}}), "metadata", "16384"),
        ("/api/bot/launch", json!({"metadata": {"a": "\u{0}"}}), "metadata", "NUL"),
        ("/api/chat/ada/conversations", json!({"title": long}), "title", "200"),
        (send, json!({"bot_id": "ada", "content": "x", "images": vec!["QUJD"; 9]}), "images", "8"),
        (
            send,
            json!({"bot_id": "ada", "content": "x", "metadata": {"a": "x".repeat(17_000)}}),
            "metadata",
            "16384",
        ),
        (send, json!({"bot_id": "ada", "content": "x", "think": 3}), "think", "true"),
        (send, json!({"bot_id": "ada", "content": "x", "format": "xml"}), "format", "json"),
    ] {
        let answer = api.post(path, body).await;
        check(path, &answer, 400, invalid, field, reason);
    }
    for (body, field) in [
        (json!({"name": long}), "name"),
        (json!({"config": 7}), "config"),
        (json!({"metadata": [1]}), "metadata"),
    ] {
        check("PATCH", &api.patch("/api/bot/ada", body).await, 400, invalid, field, "");
    }
    for path in ["/api/bots?limit=0", "/api/bots?limit=1001", "/api/bots?limit=99999999999"] {
        check(path, &api.get(path).await, 400, invalid, "limit", "1000");
    }
    // What is just within is taken.
    api.post("/api/bot/ada/kill", json!({"reason": "é".repeat(200)})).await.expect(200);
    api.post("/api/bot/launch", json!({"name": "é".repeat(200)})).await.expect(201);
}

#[tokio::test]
async fn two_thousand_sends_at_once_are_each_answered() {
    const SENDS: usize = 2000;
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:tokens=2").await;
    let sends: Vec<_> = (0..SENDS)
        .map(|n| {
            let api = api.clone();
            tokio::spawn(async move { (n, api.send_without_waiting("ada", &format!("m{n}")).await) })
        })
        .collect();
    let mut answers: BTreeMap<String, usize> = BTreeMap::new();
    let mut accepted = vec![];
    for send in sends {
        let (n, answer) = send.await.unwrap();
        let code = answer.body["code"].as_str().unwrap_or("accepted").to_owned();
        match answer.status.as_u16() {
            202 => accepted.push((format!("m{n}"), answer.body["turn"]["id"].clone())),
            429 | 503 => assert!(answer.headers.contains_key("retry-after"), "{}", answer.body),
            other => panic!("{other}: {}", answer.body),
        }
        *answers.entry(code).or_default() += 1;
    }
    println!("{SENDS} sends at once: {answers:?}");
    assert!(accepted.len() >= 17, "{answers:?}");
    for (content, turn) in &accepted {
        let turn = api.ended(turn).await;
        assert_eq!(turn["state"], "completed");
        assert_eq!(&api.message("ada", &turn["message_id"]).await["content"], content);
    }
    let (mut stored, mut before) = (0, String::new());
    loop {
        let page = api.get(format!("/api/chat/ada?limit=200{before}")).await.expect(200);
        let items = page["items"].as_array().unwrap();
        stored += items.len();
        assert!(items.iter().all(|m| m["state"] == "complete"), "nothing is stored half");
        match page["before"].as_str() {
            Some(id) => before = format!("&before={id}"),
            None => break,
        }
    }
    assert_eq!(stored, 2 * accepted.len(), "what was refused is not stored");
    let status = api.get("/api/bot/ada/status").await.expect(200);
    assert_eq!((&status["restart_count"], &status["queue_depth"]), (&json!(0), &json!(0)));
    assert_eq!(api.send("ada", "alive?").await.expect(200)["turn"]["state"], "completed");
}

#[tokio::test]
async fn wrong_frames_are_answered_and_ten_of_them_end_the_socket_only() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    deia.api().launch("ada", "sim:echo").await;
    let mut bystander = deia.socket().await;
    let mut socket = deia.socket().await;
    let long = format!("{{\"type\":\"ping\",\"ref\":\"{}\"}}", "x".repeat(64 * 1024 + 1));
    let texts =
        ["nope".to_owned(), "[]".into(), "{}".into(), r#"{"type":"subscrib","ref":"a"}"#.into(), long];
    for text in texts {
        socket.send_text(text.clone()).await;
        let answer = socket.next().await.expect("an answer");
        assert_eq!(
            (&answer["type"], &answer["problem"]["code"]),
            (&json!("error"), &json!("invalid_frame")),
            "{answer}"
        );
        if text.len() > 1000 {
            assert!(answer.to_string().contains("65536"), "the limit is named: {answer}");
        }
    }
    socket.send_binary(vec![0_u8, 1, 2]).await;
    assert_eq!(socket.next().await.unwrap()["problem"]["code"], "invalid_frame");
    for (frame, code, field) in [
        (json!({"type": "send", "bot_id": "ada", "content": ""}), "invalid_request", json!("content")),
        (json!({"type": "send", "bot_id": "nobody", "content": "x"}), "bot_not_found", Value::Null),
        (json!({"type": "subscribe", "topic": "nope"}), "topic_not_found", Value::Null),
        (json!({"type": "stop", "turn_id": "x"}), "invalid_request", json!("turn_id")),
    ] {
        let answer = socket.call(frame).await;
        assert_eq!(answer["problem"]["code"], code, "{answer}");
        assert_eq!(answer["problem"]["errors"][0]["field"], field, "{answer}");
    }
    assert_eq!(socket.call(json!({"type": "ping"})).await["type"], "pong", "wrong fields do not count");
    for _ in 0..4 {
        socket.send_text("nope").await;
    }
    assert!(socket.closed().await.is_some_and(|code| code >= 4500), "ten that are none");
    let sent = bystander.call(json!({"type": "send", "bot_id": "ada", "content": "hello"})).await;
    assert_eq!((&sent["type"], &sent["message"]["content"]), (&json!("ok"), &json!("hello")));
}

#[tokio::test]
async fn a_context_above_the_models_maximum_is_refused_before_the_model_was_ever_used() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    let config = json!({"model": "sim:tokens=3", "options": {"num_ctx": 99_999_999}});
    let refused = api.post("/api/bot/launch", json!({"bot_id": "ada", "config": config})).await;
    let problem = refused.expect_problem(422, "context_too_large");
    assert_eq!(problem["errors"][0]["field"], "config.options.num_ctx");
    api.launch("ada", "sim:tokens=4").await;
    let refused = api.submit("ada", "hello", json!({"options": {"num_ctx": 40_000}})).await;
    assert_eq!(refused.expect_problem(422, "context_too_large")["errors"][0]["field"], "options.num_ctx");
    api.get("/api/bot/ada").await.expect(200);
    assert_eq!(api.history("ada").await.len(), 0);
}

#[tokio::test]
async fn json_that_is_a_hundred_thousand_levels_deep_is_refused_at_every_door() {
    const DEEP: usize = 100_000;
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:echo").await;
    let sent = api.send("ada", "hello").await.expect(200);
    let conversation = sent["message"]["conversation_id"].as_str().unwrap();
    let conversation = format!("/api/chat/ada/conversations/{conversation}");
    let arrays = format!("{}{}", "[".repeat(DEEP), "]".repeat(DEEP));
    let objects = format!("{}1{}", r#"{"a":"#.repeat(DEEP), "}".repeat(DEEP));
    let open = "[".repeat(DEEP);
    for deep in [&arrays, &objects, &open] {
        let metadata = format!(r#"{{"bot_id":"ada","content":"x","metadata":{{"a":{deep}}}}}"#);
        let format = format!(r#"{{"bot_id":"ada","content":"x","format":{deep}}}"#);
        let config = format!(r#"{{"config":{{"format":{deep}}}}}"#);
        for (method, path, body) in [
            (Method::POST, "/api/chat/send", deep.clone()),
            (Method::POST, "/api/chat/send", metadata),
            (Method::POST, "/api/chat/send?wait=false", format),
            (Method::POST, "/api/bot/launch", config.clone()),
            (Method::PATCH, "/api/bot/ada", config),
            (Method::PATCH, &conversation, format!(r#"{{"title":{deep}}}"#)),
            (Method::POST, "/api/bot/ada/kill", format!(r#"{{"reason":{deep}}}"#)),
        ] {
            let answer = raw(&api, method, path, body).await;
            // A body that is no object is refused for that, as soon as that is known.
            let code =
                if answer.body["code"] == "invalid_request" { "invalid_request" } else { "invalid_json" };
            check(path, &answer, 400, code, "", "");
        }
    }
    // The socket takes no frame of that length; as deep as one may be is too deep all the same.
    let mut socket = deia.socket().await;
    for deep in [&arrays[..30_000], &objects[..30_000]] {
        socket.send_text(deep).await;
        assert_eq!(socket.next().await.expect("an answer")["problem"]["code"], "invalid_frame");
    }
    let after = r#"{"type":"subscribe","ref":1,"topic":"bots","after":"#;
    socket.send_text(format!("{after}{}{}}}", "[".repeat(20_000), "]".repeat(20_000))).await;
    assert_eq!(socket.next().await.expect("an answer")["problem"]["code"], "invalid_frame");
    assert_eq!(api.history("ada").await.len(), 2, "nothing is stored");
    assert_eq!(api.send("ada", "still there?").await.expect(200)["reply"]["content"], "still there?");
}

#[tokio::test]
async fn a_place_or_a_cursor_of_somewhere_else_is_never_half_understood() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:echo").await;
    let first = api.send("ada", "one").await.expect(200);
    let second = api.post("/api/chat/ada/conversations", json!({})).await.expect(201);
    let (other, here) = (second["id"].clone(), first["message"]["conversation_id"].clone());
    let there = api.submit("ada", "two", json!({"conversation_id": other})).await.expect(202);
    api.ended(&there["turn"]["id"]).await;
    let path = |conversation: &Value, side: &str, id: &Value| {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        format!("/api/chat/ada?conversation_id={}&{side}={}", text(conversation), text(id))
    };
    for side in ["before", "after"] {
        for (conversation, id) in [(&here, &there["message"]["id"]), (&other, &first["reply"]["id"])] {
            let path = path(conversation, side, id);
            check(&path, &api.get(&path).await, 400, "invalid_cursor", "", "");
        }
        let path = path(&other, side, &there["message"]["id"]);
        api.get(&path).await.expect(200);
    }
    // Places in a stream of events: another epoch, another turn's, the future, and no place at all.
    let turn = first["turn"]["id"].as_str().unwrap();
    let events = format!("/api/turn/{turn}/events");
    let good = api.events(&events, None).await.rest().await;
    let place = good[0].id.clone().expect("a place");
    let (turn, rest) = place.split_once('.').expect("turn, epoch and number");
    let (epoch, seq) = rest.split_once('.').expect("epoch and number");
    let zeros = "0".repeat(epoch.len());
    let (other, foreign) = (format!("{zeros}.{rest}"), format!("{turn}.{zeros}.{seq}"));
    let garbage = [
        "garbage".to_owned(),
        other,
        foreign,
        format!("{turn}.{epoch}.99999999"),
        "%00".into(),
        "9".repeat(4000),
    ];
    for place in garbage {
        let events = api.events(&events, Some(&place)).await.rest().await;
        let names: Vec<_> = events.iter().filter_map(|event| event.event.as_deref()).collect();
        assert_eq!(names, ["snapshot", "turn_completed"], "{place}");
        assert_eq!(events[0].data["data"]["recovered"], false, "{place}");
        assert_eq!(events[1].data["data"]["reply"]["content"], "one", "{place}");
    }
}
