//! The message tree: answers made anew, edits, forks, and the choice among them.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Api, Stage, numbered};

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

async fn path_of(api: &Api, conversation: &Value) -> Vec<Value> {
    let page = api.get(format!("/api/chat/ada?limit=200&conversation_id={}", text(conversation))).await;
    page.expect(200)["items"].as_array().unwrap().clone()
}

fn said(path: &[Value]) -> Vec<&str> {
    path.iter().map(|m| text(&m["content"])).collect()
}

async fn choose(api: &Api, conversation: &Value, leaf: &Value) -> Value {
    let path = format!("/api/chat/ada/conversations/{}", text(conversation));
    api.patch(path, json!({"leaf_message_id": leaf})).await.expect(200)
}

async fn regenerate(api: &Api, turn: &Value) -> Value {
    api.post(format!("/api/turn/{}/regenerate", text(turn)), json!({})).await.expect(202)
}

#[tokio::test]
async fn a_second_answer_stands_beside_the_first_and_either_can_be_chosen() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    let main = api.launch("ada", "sim:tokens=6").await["main_conversation_id"].clone();
    api.send("ada", "before").await.expect(200);
    let first = api.send("ada", "hello").await.expect(200);
    let after = api.send("ada", "after").await.expect(200);
    api.patch("/api/bot/ada", json!({"config": {"model": "sim:tokens=3"}})).await.expect(200);
    let mut socket = deia.socket().await;
    socket.subscribe(&format!("conversation:{}", text(&main))).await;

    let again = regenerate(&api, &first["turn"]["id"]).await;
    assert_eq!(again["message"], first["message"], "the same question");
    assert_eq!(again["turn"]["attempt_of"], first["turn"]["id"]);
    let turn = api.ended(&again["turn"]["id"]).await;
    assert_eq!(
        turn["usage"]["prompt_tokens"], first["turn"]["usage"]["prompt_tokens"],
        "the prompt ends with the question, as the first time"
    );
    let frames = socket.until_event("turn_completed").await;
    let events: Vec<_> = frames.iter().filter(|f| f["type"] == "event" && f["event"] != "token").collect();
    let received = &events[0]["data"]["message"];
    assert_eq!((&events[0]["event"], &received["id"]), (&json!("message_received"), &turn["reply_id"]));
    assert_eq!((&received["parent_id"], &received["state"]), (&first["message"]["id"], &json!("pending")));
    let reply = &events.last().unwrap()["data"]["reply"];
    for told in [received, reply] {
        assert_eq!(told["siblings"], json!({"index": 2, "count": 2}));
    }

    let path = path_of(&api, &main).await;
    assert_eq!(said(&path), ["before", &numbered(6), "hello", &numbered(3)]);
    assert_eq!(path[3]["siblings"], json!({"index": 2, "count": 2}));
    let older = api.message("ada", &first["reply"]["id"]).await;
    let ids = json!([first["reply"]["id"], turn["reply_id"]]);
    assert_eq!(older["siblings"], json!({"index": 1, "count": 2, "ids": ids}));
    assert_eq!(older["newest_below"], after["reply"]["id"], "that branch went on");
    choose(&api, &main, &older["newest_below"]).await;
    let changed = socket.until_event("conversation_changed").await.pop().unwrap();
    assert_eq!(changed["data"]["conversation"]["leaf_message_id"], after["reply"]["id"]);
    let path = path_of(&api, &main).await;
    assert_eq!(said(&path)[2..], ["hello", &numbered(6), "after", &numbered(6)]);
    assert_eq!(path[3]["siblings"], json!({"index": 1, "count": 2}));
    let next = api.send("ada", "next").await.expect(200);
    assert_eq!(next["message"]["parent_id"], after["reply"]["id"]);

    // /retry goes the same way.
    api.send("ada", "/retry").await.expect(200);
    let retried = path_of(&api, &main).await.pop().unwrap();
    let turn = api.ended(&retried["turn_id"]).await;
    assert_eq!((&turn["attempt_of"], &retried["parent_id"]), (&next["turn"]["id"], &next["message"]["id"]));
}

#[tokio::test]
async fn what_is_asked_again_is_asked_as_before_waits_its_turn_and_is_refused_in_words() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:echo").await;
    let options = json!({"options": {"seed": 7, "num_ctx": 512}});
    let first = api.submit("ada", "hello", options).await.expect(202);
    let first_turn = first["turn"]["id"].clone();
    api.ended(&first_turn).await;
    api.patch("/api/bot/ada", json!({"config": {"model": "sim:stall_at=2"}})).await.expect(200);
    let running = api.send_without_waiting("ada", "talk").await.expect(202);
    api.written(&running["turn"]["id"], 5).await;
    api.patch("/api/bot/ada", json!({"config": {"model": "sim:echo"}})).await.expect(200);
    let of_running = format!("/api/turn/{}/regenerate", text(&running["turn"]["id"]));
    api.post(&of_running, json!({})).await.expect_problem(409, "conversation_busy");
    let waiting = regenerate(&api, &first_turn).await;
    assert_eq!(waiting["turn"]["queue"]["position"], 1);
    api.post(format!("/api/turn/{}/stop", text(&running["turn"]["id"])), json!({})).await.expect(200);
    let turn = api.ended(&waiting["turn"]["id"]).await;
    assert_eq!((&turn["state"], &turn["context"]["num_ctx"]), (&json!("completed"), &json!(512)));
    assert_eq!(said(&api.history("ada").await), ["hello", "hello"]);

    // With a key it is done once; without a body as well as with an empty one.
    let path = format!("/api/turn/{}/regenerate", text(&first_turn));
    let keyed = || api.request(Method::POST, &path).header("idempotency-key", "again");
    let once = api.answer(keyed()).await.expect(202);
    api.ended(&once["turn"]["id"]).await;
    let twice = api.answer(keyed()).await;
    assert_eq!(twice.headers["idempotency-replayed"], "true");
    assert_eq!(twice.expect(202)["turn"]["id"], once["turn"]["id"]);
    let send = api.request(Method::POST, "/api/chat/send").header("idempotency-key", "again");
    let other = send.json(&json!({"bot_id": "ada", "content": "hello"}));
    api.answer(other).await.expect_problem(409, "idempotency_key_reused");

    let problem = api.post(&path, json!({"model": "x"})).await.expect_problem(400, "invalid_request");
    assert_eq!(problem["errors"][0]["field"], "model");
    let nobody = format!("/api/turn/{}/regenerate", text(&first["message"]["id"]));
    api.post(nobody, json!({})).await.expect_problem(404, "turn_not_found");
    api.post("/api/bot/ada/stop", json!({})).await.expect(200);
    api.post(&path, json!({})).await.expect_problem(409, "bot_not_running");
    api.post("/api/bot/ada/start", json!({})).await.expect(200);
    api.delete("/api/chat/ada").await.expect(200);
    api.post(&path, json!({})).await.expect_problem(404, "turn_not_found");
}

#[tokio::test]
async fn a_waiting_second_answer_goes_on_after_kill_9() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:echo").await;
    let first = api.send("ada", "hello").await.expect(200);
    api.patch("/api/bot/ada", json!({"config": {"model": "sim:stall_at=2"}})).await.expect(200);
    let running = api.send_without_waiting("ada", "talk").await.expect(202);
    api.written(&running["turn"]["id"], 5).await;
    api.patch("/api/bot/ada", json!({"config": {"model": "sim:echo"}})).await.expect(200);
    let waiting = regenerate(&api, &first["turn"]["id"]).await;
    deia.kill().await;
    let deia = stage.start().await;
    let api = deia.api();
    assert_eq!(api.ended(&waiting["turn"]["id"]).await["state"], "completed");
    let path = api.history("ada").await;
    assert_eq!(said(&path), ["hello", "hello"]);
    assert_eq!(path[1]["siblings"], json!({"index": 2, "count": 2}));
    let next = api.send("ada", "next").await.expect(200);
    assert_eq!(next["message"]["parent_id"], path[1]["id"]);
}

#[tokio::test]
async fn a_message_behind_an_earlier_one_is_its_next_child() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    let main = api.launch("ada", "sim:echo").await["main_conversation_id"].clone();
    let one = api.send("ada", "one").await.expect(200);
    let two = api.send("ada", "two").await.expect(200);
    let stored = choose(&api, &main, &one["reply"]["id"]).await;
    assert_eq!(stored["leaf_message_id"], one["reply"]["id"]);
    assert_eq!(said(&api.history("ada").await), ["one", "one"], "the path ends where it was told to");
    // Without a parent_id it goes on from there, and says so at once; so does a command.
    let three = api.send("ada", "three").await.expect(200);
    assert_eq!(three["message"]["parent_id"], one["reply"]["id"]);
    assert_eq!(three["message"]["siblings"], json!({"index": 2, "count": 2}));
    choose(&api, &main, &one["reply"]["id"]).await;
    let help = api.send("ada", "/help").await.expect(200);
    assert_eq!(help["message"]["siblings"], json!({"index": 3, "count": 3}));
    let edited = api.submit("ada", "one, better", json!({"parent_id": null})).await.expect(202);
    assert_eq!(edited["message"]["siblings"], json!({"index": 2, "count": 2}));
    api.ended(&edited["turn"]["id"]).await;
    for (message, index, count) in
        [(&one, 1, 2), (&edited, 2, 2), (&two, 1, 3), (&three, 2, 3), (&help, 3, 3)]
    {
        let stored = api.message("ada", &message["message"]["id"]).await;
        assert_eq!(
            (&stored["siblings"]["index"], &stored["siblings"]["count"]),
            (&json!(index), &json!(count))
        );
    }
    // The end of the path is not moved under a running answer; the title is.
    api.patch("/api/bot/ada", json!({"config": {"model": "sim:stall_at=2"}})).await.expect(200);
    let running = api.send_without_waiting("ada", "talk").await.expect(202);
    let path = format!("/api/chat/ada/conversations/{}", text(&main));
    let leaf = json!({"leaf_message_id": two["reply"]["id"]});
    api.patch(&path, leaf).await.expect_problem(409, "conversation_busy");
    assert_eq!(api.patch(&path, json!({"title": "Ends"})).await.expect(200)["title"], "Ends");
    let unknown = json!({"leaf_message_id": running["turn"]["id"]});
    api.patch(&path, unknown).await.expect_problem(404, "message_not_found");
    api.patch(&path, json!({"leaf": 1})).await.expect_problem(400, "invalid_request");
    for field in ["leaf_message_id", "archived", "legal_hold"] {
        let problem = api.patch(&path, json!({field: null})).await.expect_problem(400, "invalid_request");
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
    }
}

#[tokio::test]
async fn a_fork_begins_with_the_path_of_a_message_and_goes_its_own_way() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    let main = api.launch("ada", "sim:echo").await["main_conversation_id"].clone();
    let one = api.send("ada", "one").await.expect(200);
    api.send("ada", "two").await.expect(200);
    let from = json!({"title": "Aside", "from_message_id": one["reply"]["id"]});
    let fork = api.post("/api/chat/ada/conversations", from).await.expect(201);
    assert_eq!(fork["leaf_message_id"], one["reply"]["id"]);
    assert_eq!((&fork["message_count"], &fork["title"]), (&json!(0), &json!("Aside")));
    assert_eq!(said(&path_of(&api, &fork["id"]).await), ["one", "one"]);
    let in_fork = json!({"conversation_id": fork["id"]});
    let aside = api.submit("ada", "aside", in_fork.clone()).await.expect(202);
    assert_eq!(aside["message"]["parent_id"], one["reply"]["id"]);
    assert_eq!(
        aside["message"]["siblings"],
        json!({"index": 1, "count": 1}),
        "what its origin says there is not its own"
    );
    let turn = api.ended(&aside["turn"]["id"]).await;
    let alone = api.submit("ada", "aside", json!({"parent_id": null})).await.expect(202);
    let alone = api.ended(&alone["turn"]["id"]).await;
    let tokens = |turn: &Value| turn["usage"]["prompt_tokens"].as_u64().unwrap();
    assert!(tokens(&turn) > tokens(&alone), "the model is shown the path before the fork");
    let path = path_of(&api, &fork["id"]).await;
    assert_eq!(said(&path), ["one", "one", "aside", "aside"]);
    let page = api
        .get(format!(
            "/api/chat/ada?limit=1&conversation_id={}&before={}",
            text(&fork["id"]),
            text(&path[2]["id"])
        ))
        .await
        .expect(200);
    assert_eq!(page["items"][0]["id"], one["reply"]["id"], "pages lead into the origin");
    // An edit of what the fork began with is the fork's own.
    let edit = json!({"conversation_id": fork["id"], "parent_id": one["reply"]["id"]});
    let edited = api.submit("ada", "aside, better", edit).await.expect(202);
    assert_eq!(edited["message"]["siblings"], json!({"index": 2, "count": 2}));
    api.ended(&edited["turn"]["id"]).await;
    // The end of the path may be where the fork began.
    choose(&api, &fork["id"], &one["reply"]["id"]).await;
    choose(&api, &fork["id"], &edited["turn"]["reply_id"]).await;
    let listed = api.get("/api/chat/ada/conversations").await.expect(200);
    let count = |id: &Value| {
        let found = listed["items"].as_array().unwrap().iter().find(|c| c["id"] == *id);
        found.unwrap()["message_count"].clone()
    };
    assert_eq!((count(&fork["id"]), count(&main)), (json!(4), json!(6)), "messages created in it");

    api.launch("eve", "sim:echo").await;
    let theirs = api.send("eve", "hers").await.expect(200);
    let from = json!({"from_message_id": theirs["reply"]["id"]});
    api.post("/api/chat/ada/conversations", from).await.expect_problem(404, "message_not_found");
    let parent = json!({"conversation_id": fork["id"], "parent_id": alone["reply_id"]});
    let problem = api.submit("ada", "x", parent).await.expect_problem(400, "invalid_request");
    assert_eq!(problem["errors"][0]["field"], "parent_id");
    api.patch("/api/bot/ada", json!({"config": {"model": "sim:stall_at=2"}})).await.expect(200);
    let running = api.send_without_waiting("ada", "talk").await.expect(202);
    let from = json!({"from_message_id": running["turn"]["reply_id"]});
    api.post("/api/chat/ada/conversations", from).await.expect_problem(409, "conversation_busy");
    let from = json!({"from_message_id": running["message"]["id"]});
    api.post("/api/chat/ada/conversations", from).await.expect(201);
}

#[tokio::test]
async fn a_retry_in_a_fork_answers_in_the_fork_alone() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    let main = api.launch("ada", "sim:echo").await["main_conversation_id"].clone();
    api.send("ada", "one").await.expect(200);
    let two = api.send("ada", "two").await.expect(200);
    let from = json!({"from_message_id": two["reply"]["id"]});
    let fork = api.post("/api/chat/ada/conversations", from).await.expect(201)["id"].clone();
    let (before, ids) = (path_of(&api, &main).await, |path: &[Value]| -> Vec<Value> {
        path.iter().map(|m| m["id"].clone()).collect()
    });
    let retry = json!({"bot_id": "ada", "content": "/retry", "conversation_id": fork});
    let key = || api.request(Method::POST, "/api/chat/send").header("idempotency-key", "again").json(&retry);
    let told = api.answer(key()).await.expect(200);
    let promised = &told["reply"]["metadata"]["turn_id"];
    let turn = api.ended(promised).await;
    assert_eq!((&turn["conversation_id"], &turn["attempt_of"]), (&fork, &two["turn"]["id"]));
    let path = path_of(&api, &fork).await;
    assert_eq!(said(&path), ["one", "one", "two", "two"]);
    assert_eq!((&path[3]["id"], &path[3]["conversation_id"]), (&turn["reply_id"], &fork));
    assert_eq!((&path[3]["parent_id"], &path[2]["conversation_id"]), (&two["message"]["id"], &main));
    assert_eq!(ids(&path_of(&api, &main).await), ids(&before), "nothing was said there");
    // What is said next goes on from there, in either.
    let next = api.submit("ada", "three", json!({"conversation_id": fork})).await.expect(202);
    assert_eq!(next["message"]["parent_id"], turn["reply_id"]);
    let next = api.send("ada", "three").await.expect(200);
    assert_eq!(next["message"]["parent_id"], two["reply"]["id"]);
    // An answer of the fork is made anew in the fork, whosever its question is.
    let again = regenerate(&api, promised).await;
    assert_eq!(api.ended(&again["turn"]["id"]).await["conversation_id"], fork);
    assert_eq!(path_of(&api, &fork).await[3]["id"], again["turn"]["reply_id"]);
}

#[tokio::test]
async fn what_a_fork_shares_is_a_version_of_it_and_can_be_chosen_again() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    let main = api.launch("ada", "sim:echo").await["main_conversation_id"].clone();
    let one = api.send("ada", "one").await.expect(200);
    let two = api.send("ada", "two").await.expect(200);
    let other = api.submit("ada", "other", json!({"parent_id": one["reply"]["id"]})).await.expect(202);
    api.ended(&other["turn"]["id"]).await;
    let from = json!({"from_message_id": two["reply"]["id"]});
    let fork = api.post("/api/chat/ada/conversations", from).await.expect(201)["id"].clone();
    let say = async |content: &str, parent: Option<&Value>| {
        let mut asked = json!({"conversation_id": fork});
        if let Some(parent) = parent {
            asked["parent_id"] = parent.clone();
        }
        let sent = api.submit("ada", content, asked).await.expect(202);
        (api.ended(&sent["turn"]["id"]).await, sent["message"].clone())
    };
    let (aside, _) = say("in fork", None).await;
    let (edited, edit) = say("two, better", Some(&one["reply"]["id"])).await;
    assert_eq!(edit["siblings"], json!({"index": 2, "count": 2}));
    let path = path_of(&api, &fork).await;
    assert_eq!(said(&path), ["one", "one", "two, better", "two, better"]);
    assert_eq!(path[2]["siblings"], json!({"index": 2, "count": 2}));

    // As a page does that shows the fork: the version before, and where it was last continued there.
    let seen = async |id: &Value| {
        let path = format!("/api/chat/ada/{}?conversation_id={}", text(id), text(&fork));
        api.get(path).await.expect(200)
    };
    let ids = seen(&edit["id"]).await["siblings"]["ids"].clone();
    assert_eq!(ids, json!([two["message"]["id"], edit["id"]]));
    let before = seen(&ids[0]).await;
    assert_eq!(before["siblings"], json!({"index": 1, "count": 2, "ids": ids}));
    assert_eq!(before["newest_below"], aside["reply_id"]);
    choose(&api, &fork, &before["newest_below"]).await;
    let path = path_of(&api, &fork).await;
    assert_eq!(said(&path), ["one", "one", "two", "two", "in fork", "in fork"]);
    assert_eq!(path[2]["siblings"], json!({"index": 1, "count": 2}));
    // And what is shared, off the path, is an end and a parent as well.
    choose(&api, &fork, &edited["reply_id"]).await;
    let (_, behind) = say("behind", Some(&two["message"]["id"])).await;
    assert_eq!(behind["siblings"], json!({"index": 2, "count": 2}), "beside the shared answer");
    choose(&api, &fork, &two["reply"]["id"]).await;
    assert_eq!(said(&path_of(&api, &fork).await), ["one", "one", "two", "two"]);

    // Nothing of it is in the origin, and what only the origin has is not in the fork.
    let there = api.message("ada", &two["message"]["id"]).await;
    let ids = json!([two["message"]["id"], other["message"]["id"]]);
    assert_eq!(there["siblings"], json!({"index": 1, "count": 2, "ids": ids}));
    assert_eq!(said(&path_of(&api, &main).await), ["one", "one", "other", "other"]);
    let elsewhere = &other["message"]["id"];
    let conversation = format!("/api/chat/ada/conversations/{}", text(&fork));
    api.patch(&conversation, json!({"leaf_message_id": elsewhere}))
        .await
        .expect_problem(404, "message_not_found");
    let path = format!("/api/chat/ada/{}?conversation_id={}", text(elsewhere), text(&fork));
    api.get(path).await.expect_problem(404, "message_not_found");
}

#[tokio::test]
async fn a_fork_whose_origin_is_cleared_keeps_its_own_is_told_and_goes_on() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:echo").await;
    let one = api.send("ada", "one").await.expect(200);
    let from = json!({"from_message_id": one["reply"]["id"]});
    let grown = api.post("/api/chat/ada/conversations", from.clone()).await.expect(201)["id"].clone();
    let empty = api.post("/api/chat/ada/conversations", from).await.expect(201)["id"].clone();
    let aside = api.submit("ada", "aside", json!({"conversation_id": grown})).await.expect(202);
    api.ended(&aside["turn"]["id"]).await;
    let mut socket = deia.socket().await;
    for id in [&grown, &empty] {
        socket.subscribe(&format!("conversation:{}", text(id))).await;
    }
    assert_eq!(api.delete("/api/chat/ada").await.expect(200)["deleted"], 4, "all conversations");
    assert!(path_of(&api, &grown).await.is_empty());

    let one = api.send("ada", "aside").await.expect(200);
    let from = json!({"from_message_id": one["reply"]["id"]});
    let fork = api.post("/api/chat/ada/conversations", from).await.expect(201)["id"].clone();
    let aside = api.submit("ada", "aside", json!({"conversation_id": fork})).await.expect(202);
    let before = api.ended(&aside["turn"]["id"]).await;
    socket.subscribe(&format!("conversation:{}", text(&fork))).await;
    // The main conversation alone.
    api.send("ada", "/clear").await.expect(200);
    let told = loop {
        let told = socket.until_event("history_cleared").await.pop().unwrap();
        if told["data"]["conversation_id"] == fork {
            break told;
        }
    };
    assert_eq!(told["data"]["deleted"], 0);
    let path = path_of(&api, &fork).await;
    assert_eq!(said(&path), ["aside", "aside"], "what was said in it stays");
    assert_eq!(path[0]["parent_id"], Value::Null);
    let next = api.submit("ada", "aside", json!({"conversation_id": fork})).await.expect(202);
    assert_eq!(next["message"]["parent_id"], path[1]["id"]);
    let after = api.ended(&next["turn"]["id"]).await;
    let used = |turn: &Value| turn["usage"]["prompt_tokens"].as_u64().unwrap();
    assert_eq!(used(&after), used(&before), "deleted texts are not sent to the model any more");
    let alone = api.submit("ada", "x", json!({"conversation_id": empty})).await.expect(202);
    assert_eq!(alone["message"]["parent_id"], Value::Null);
}
