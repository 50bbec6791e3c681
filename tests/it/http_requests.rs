//! What bad and good requests get, on the real routes.

use reqwest::Method;
use serde_json::json;

use crate::support::{Answer, Deia, Home, eventually};

async fn start() -> (Home, Deia) {
    let home = Home::new().env("DEIA_INFERENCE__SIMULATED", "on").env("DEIA_SUPERVISION__ALLOW_KILL", "true");
    let deia = home.start().await;
    (home, deia)
}

/// Every route with its methods, as the contract names them.
const ROUTES: [(&str, &[&str]); 33] = [
    ("/api/bots", &["GET"]),
    ("/api/bot/launch", &["POST"]),
    ("/api/bot/A", &["GET", "PATCH", "DELETE"]),
    ("/api/bot/A/status", &["GET"]),
    ("/api/bot/A/start", &["POST"]),
    ("/api/bot/A/stop", &["POST"]),
    ("/api/bot/A/restart", &["POST"]),
    ("/api/bot/A/kill", &["POST"]),
    ("/api/chat/send", &["POST"]),
    ("/api/chat/A", &["GET", "DELETE"]),
    ("/api/chat/A/conversations", &["GET", "POST"]),
    ("/api/chat/A/conversations/0199f5a2-c0de-7000-a000-000000000001", &["PATCH", "DELETE"]),
    ("/api/chat/A/0199f5a2-c0de-7000-a000-000000000001", &["GET"]),
    ("/api/turn/0199f5a2-c0de-7000-a000-000000000001", &["GET"]),
    ("/api/turn/0199f5a2-c0de-7000-a000-000000000001/events", &["GET"]),
    ("/api/turn/0199f5a2-c0de-7000-a000-000000000001/stop", &["POST"]),
    ("/api/commands", &["GET"]),
    ("/api/tree", &["GET"]),
    ("/api/models", &["GET"]),
    ("/api/models/loaded", &["GET"]),
    ("/api/models/show", &["GET"]),
    ("/api/servers", &["GET", "POST"]),
    ("/api/server/sim", &["DELETE"]),
    ("/metrics", &["GET"]),
    ("/api/server/sim/probe", &["POST"]),
    ("/api/server/sim/drain", &["POST"]),
    ("/api/server/sim/resume", &["POST"]),
    ("/api/config", &["GET"]),
    ("/health", &["GET"]),
    ("/ready", &["GET"]),
    ("/health/db", &["GET"]),
    ("/health/ollama", &["GET"]),
    ("/health/deep", &["GET"]),
];

#[tokio::test]
async fn every_route_answers_its_methods_and_says_405_with_them_to_all_others() {
    let (_home, deia) = start().await;
    let api = deia.api();
    for (path, methods) in ROUTES {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            let verb = Method::from_bytes(method.as_bytes()).unwrap();
            let answer = api.answer(api.request(verb, path)).await;
            let code = answer.body["code"].as_str().unwrap_or_default().to_owned();
            if methods.contains(&method) {
                assert!(code != "method_not_allowed" && code != "not_found", "{method} {path}: {answer:?}");
                continue;
            }
            assert_eq!(code, "method_not_allowed", "{method} {path}");
            let mut expected: Vec<_> = methods.to_vec();
            if expected.contains(&"GET") {
                expected.push("HEAD");
            }
            assert_eq!(answer.headers["allow"].to_str().unwrap(), expected.join(", "), "{path}");
        }
    }
}

#[tokio::test]
async fn what_a_later_version_brings_is_not_there_yet() {
    let (_home, deia) = start().await;
    let api = deia.api();
    for path in ["/api/audit", "/logs/tail", "/auth/login", "/openapi.json", "/api/flags"] {
        api.get(path).await.expect_problem(404, "not_found");
    }
}

#[tokio::test]
async fn bad_requests_get_a_typed_problem_that_names_the_field() {
    let (_home, deia) = start().await;
    let api = deia.api();
    api.launch("A", "sim:echo").await;
    let field = |answer: Answer| answer.expect_problem(400, "invalid_request")["errors"][0]["field"].clone();
    let send = async |more: serde_json::Value| {
        let mut body = json!({"bot_id": "A", "content": "x"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        api.post("/api/chat/send", body).await
    };
    assert_eq!(field(send(json!({"content": ""})).await), "content");
    assert_eq!(field(send(json!({"content": "x".repeat(1 << 20)})).await), "content");
    assert_eq!(field(send(json!({"content": "a\u{0}"})).await), "content");
    assert_eq!(field(send(json!({"content": 5})).await), "content");
    assert_eq!(field(send(json!({"colour": 5})).await), "colour");
    assert_eq!(field(send(json!({"bot_id": "../x"})).await), "bot_id");
    assert_eq!(field(send(json!({"bot_id": "x".repeat(51)})).await), "bot_id");
    assert_eq!(field(send(json!({"options": {"num_ctx": 255}})).await), "options.num_ctx");
    send(json!({"bot_id": "nobody"})).await.expect_problem(404, "bot_not_found");
    for (query, name) in [
        ("limit=0", "limit"),
        ("limit=-1", "limit"),
        ("limit=201", "limit"),
        ("limt=1", "limt"),
        ("before=x", "before"),
        ("offset=-1", "offset"),
    ] {
        assert_eq!(field(api.get(format!("/api/chat/A?{query}")).await), name, "{query}");
    }
    assert_eq!(field(api.get("/api/bot/..%2F..").await), "bot_id");
    let launch = json!({"bot_id": "B", "config": {"options": {"num_ctx": 255}}});
    assert_eq!(field(api.post("/api/bot/launch", launch).await), "config.options.num_ctx");
    let launch = json!({"bot_id": "B", "config": {"modl": "x"}});
    assert_eq!(field(api.post("/api/bot/launch", launch).await), "config.modl");
    // Nothing of all that was stored.
    assert_eq!(api.get("/api/chat/A").await.expect(200)["items"], json!([]));
    api.get("/api/bot/B").await.expect_problem(404, "bot_not_found");
}

#[tokio::test]
async fn the_body_must_be_json_of_a_sane_size() {
    let (_home, deia) = start().await;
    let api = deia.api();
    let post = |body: Vec<u8>, kind: &str| {
        api.request(Method::POST, "/api/chat/send").header("content-type", kind).body(body)
    };
    let surrogate = br#"{"bot_id":"A","content":"\ud800"}"#.to_vec();
    api.answer(post(surrogate, "application/json")).await.expect_problem(400, "invalid_json");
    api.answer(post(b"{".to_vec(), "application/json")).await.expect_problem(400, "invalid_json");
    api.answer(post(b"{}".to_vec(), "text/plain")).await.expect_problem(415, "unsupported_media_type");
    api.answer(post(vec![b' '; 3 << 20], "application/json")).await.expect_problem(413, "body_too_large");
    let parts = (0..48).map(|_| Ok::<_, std::io::Error>(vec![b' '; 64 << 10]));
    let chunked = reqwest::Body::wrap_stream(futures_util::stream::iter(parts));
    let chunked =
        api.request(Method::POST, "/api/chat/send").header("content-type", "application/json").body(chunked);
    api.answer(chunked).await.expect_problem(413, "body_too_large");
}

#[tokio::test]
async fn foreign_pages_and_names_are_refused_and_the_request_id_comes_back() {
    let (_home, deia) = start().await;
    let api = deia.api();
    let with =
        |method: Method, path: &str, name: &str, value: &str| api.request(method, path).header(name, value);
    let foreign = with(Method::POST, "/api/bot/launch", "origin", "https://evil.example").json(&json!({}));
    api.answer(foreign).await.expect_problem(403, "origin_not_allowed");
    api.answer(with(Method::GET, "/api/bots", "host", "evil.example"))
        .await
        .expect_problem(403, "origin_not_allowed");
    let answer = api.answer(with(Method::GET, "/api/v1/bots", "x-request-id", "r-7")).await;
    assert_eq!(answer.headers["x-request-id"], "r-7");
    answer.expect(200);
}

#[tokio::test]
async fn a_send_has_three_forms_and_a_history_that_pages() {
    let (_home, deia) = start().await;
    let api = deia.api();
    api.launch("A", "sim:echo").await;
    let whole = api.send("A", "**one**").await.expect(200);
    assert_eq!(
        (&whole["turn"]["state"], &whole["reply"]["state"]),
        (&json!("completed"), &json!("complete"))
    );
    let events = api.send_and_stream("A", "two").await.rest().await;
    let names: Vec<_> = events.iter().filter_map(|e| e.event.as_deref()).collect();
    assert_eq!(names.last(), Some(&"turn_completed"), "{names:?}");
    let text: String = events
        .iter()
        .filter(|e| e.data["event"] == "token")
        .filter_map(|e| e.data["data"]["text"].as_str())
        .collect();
    assert_eq!(json!(text), events.last().unwrap().data["data"]["reply"]["content"]);
    let accepted = api.send_without_waiting("A", "three").await.expect(202);
    let turn = accepted["turn"]["id"].as_str().unwrap();
    let last = api.events(format!("/api/turn/{turn}/events"), None).await.rest().await;
    assert_eq!(last.last().unwrap().event.as_deref(), Some("turn_completed"));
    let command = api.send("A", "/help").await.expect(200);
    assert_eq!((&command["turn"], &command["reply"]["sender"]), (&json!(null), &json!("system")));
    let newest = api.get("/api/chat/A?limit=3&render=html").await.expect(200);
    assert_eq!((newest["items"].as_array().unwrap().len(), &newest["has_more"]), (3, &json!(true)));
    assert!(newest["items"][0]["html"].is_string());
    let before = newest["before"].as_str().unwrap();
    let older = api.get(format!("/api/chat/A?before={before}&render=html")).await.expect(200);
    assert_eq!(older["items"][0]["html"], "<p><strong>one</strong></p>\n");
    let id = older["items"][0]["id"].as_str().unwrap();
    let one = api.get(format!("/api/chat/A/{id}")).await.expect(200);
    assert_eq!((&one["content"], &one["siblings"]["ids"]), (&json!("**one**"), &json!([id])));
    let not_ours = api.request(Method::POST, "/api/chat/send").header("accept", "text/html");
    api.answer(not_ours.json(&json!({"bot_id": "A", "content": "x"})))
        .await
        .expect_problem(406, "not_acceptable");
}

#[tokio::test]
async fn health_says_what_works() {
    let (_home, deia) = start().await;
    let api = deia.api();
    for path in ["/health", "/ready", "/health/db", "/health/ollama"] {
        let body = api.well(path).await;
        assert!(body["status"].is_string() && body["checks"].is_object(), "{path}: {body}");
    }
    eventually("the database and the tree are well", async || {
        let checks = api.well("/health/deep").await["checks"].clone();
        (checks["db"]["status"] == "ok" && checks["tree"]["status"] == "ok").then_some(())
    })
    .await;
    api.launch("A", "sim:echo").await;
    api.send("A", "hello").await.expect(200);
    for (actor, words) in [
        ("history", "0 facts wait"),
        ("broadcast", "0 readers on "),
        ("state", "1 of 1 bots run"),
        ("bots", "1 actors up; 0 wait"),
    ] {
        // What the bot says of its new state may still be on its way.
        let since = eventually(&format!("{actor}: {words}"), async || {
            let check = api.well("/health/deep").await["checks"][actor].clone();
            let said = check["detail"].as_str().is_some_and(|detail| detail.starts_with(words));
            (check["status"] == "ok" && said).then_some(check["since"].clone())
        })
        .await;
        let node = api.get("/api/tree").await.expect(200);
        let node = node["children"].as_array().unwrap().iter().find(|c| c["name"] == actor).unwrap().clone();
        assert_eq!(since, node["since"], "{actor} is as it is since it is up, not since somebody looked");
    }
}
