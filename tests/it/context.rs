//! What a model is shown of a long conversation, and what of that is said: trimming, its event and its numbers, refusals with
//! theirs, summaries.

use serde_json::{Value, json};

use crate::support::{Api, Stage, eventually};

/// A message of a hundred tokens by the simulator's count, four bytes each.
fn long(word: &str) -> String {
    format!("{word} ").repeat(400).chars().take(400).collect()
}

async fn launch(api: &Api, model: &str, num_ctx: u32, overflow: &str) -> Value {
    let config = json!({"model": model, "options": {"num_ctx": num_ctx}, "context": {"overflow": overflow}});
    api.post("/api/bot/launch", json!({"bot_id": "ada", "config": config})).await.expect(201)
}

/// An estimate: it learns from what the server counts, so it is not the same each time.
fn near(estimate: &Value, tokens: u64) {
    let estimate = estimate.as_u64().unwrap();
    assert!(estimate.abs_diff(tokens) <= tokens / 10, "{estimate} is far from {tokens}");
}

/// Sends and answers with what the events of the turn said of the context: `(context_trimmed, turn.context at the end)`.
async fn sent(api: &Api, content: &str) -> (Option<Value>, Value) {
    let events = api.send_and_stream("ada", content).await.rest().await;
    let at = |name: &str| events.iter().position(|e| e.event.as_deref() == Some(name));
    if let Some(trimmed) = at("context_trimmed") {
        assert!(trimmed < at("turn_started").unwrap(), "before the answer begins");
    }
    let trimmed = events.iter().filter(|e| e.event.as_deref() == Some("context_trimmed"));
    let trimmed: Vec<_> = trimmed.map(|e| e.data["data"].clone()).collect();
    assert!(trimmed.len() <= 1, "{trimmed:?}");
    (trimmed.into_iter().next(), events.last().unwrap().data["data"]["turn"]["context"].clone())
}

#[tokio::test]
async fn what_is_left_out_is_told_and_stands_on_the_turn_whatever_way_it_came() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    launch(&api, "sim:tokens=2", 512, "trim").await;
    for _ in 0..3 {
        let (trimmed, context) = sent(&api, &long("word")).await;
        assert_eq!((trimmed, &context["trimmed_messages"]), (None, &json!(0)));
    }
    let (trimmed, context) = sent(&api, &long("word")).await;
    let trimmed = trimmed.expect("three exchanges and a message do not fit");
    // 128 of 512 are kept for the reply. The first message is left out: 100 tokens, and 4 for the template.
    for told in [&trimmed, &context] {
        assert_eq!((&told["num_ctx"], &told["trimmed_messages"]), (&json!(512), &json!(1)));
        near(&told["trimmed_tokens"], 104);
    }
    near(&trimmed["used"], 3 * 104 + 3 * 7);
    assert_eq!(context["used"], 3 * 105 + 3 * 7, "as counted by the server");

    // Once more, from a process that has nothing in memory: the same.
    let history = api.history("ada").await;
    deia.kill().await;
    let deia = stage.start().await;
    let api = deia.api();
    let last = api.message("ada", &history.last().unwrap()["id"]).await;
    let path = format!("/api/turn/{}/regenerate", last["turn_id"].as_str().unwrap());
    let told = api.post(path, json!({})).await.expect(202);
    let again = api.ended(&told["turn"]["id"]).await;
    assert_eq!(
        (&again["context"]["used"], &again["context"]["trimmed_messages"]),
        (&context["used"], &json!(1))
    );
    let events = api.events(format!("/api/turn/{}/events", again["id"].as_str().unwrap()), None).await;
    let told = events.rest().await;
    let told = told.iter().find(|e| e.event.as_deref() == Some("context_trimmed")).expect("told again");
    assert_eq!(told.data["data"]["trimmed_messages"], 1);

    // An edit of the first message has no history; one of the third has two exchanges, which fit.
    for (parent, messages) in [(Value::Null, 0), (history[3]["id"].clone(), 4)] {
        let told = api.submit("ada", "short", json!({"parent_id": parent})).await.expect(202);
        assert_eq!(told["turn"]["context"]["num_ctx"], 512, "from the beginning");
        let context = api.ended(&told["turn"]["id"]).await["context"].clone();
        assert_eq!(context["trimmed_messages"], 0);
        assert_eq!(context["used"], 6 + messages / 2 * (105 + 7));
    }
}

#[tokio::test]
async fn a_model_of_many_more_tokens_than_estimated_is_sent_less_and_answers() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    let config = json!({"model": "sim:tokens=2", "options": {"num_ctx": 1024, "num_predict": 40}});
    api.post("/api/bot/launch", json!({"bot_id": "ada", "config": config})).await.expect(201);
    for _ in 0..10 {
        api.send("ada", &long("word")[..100]).await.expect(200);
    }
    let tool =
        json!({"type": "function", "function": {"name": "open_door", "description": "opens the door"}});
    let mut deia = deia;
    // With tools a part of it is put down to what templates say about them: one more is refused.
    for (model, tools, again) in
        [("sim:count=3,tokens=2", json!([]), 1), ("sim:count=3,tools=1", json!([tool]), 2)]
    {
        // About 400 tokens by estimate and 1,200 as counted. The second time it is a process that knows nothing of the model.
        for _ in 0..2 {
            let api = deia.api();
            api.patch("/api/bot/ada", json!({"config": {"model": model, "tools": tools}})).await.expect(200);
            let asked = stage.sim.stats().requests;
            let turn = api.send("ada", "short").await.expect(200)["turn"].clone();
            assert!(stage.sim.stats().requests > asked + 1, "refused at first");
            let context = &turn["context"];
            assert!(context["trimmed_messages"].as_u64().unwrap() > 0, "{context}");
            assert!(context["used"].as_u64().unwrap() <= 1024, "{context}");
            // That is known from then on.
            let asked = stage.sim.stats().requests;
            api.send("ada", "short").await.expect(200);
            assert_eq!(stage.sim.stats().requests, asked + again);
            deia.kill().await;
            deia = stage.start().await;
        }
    }

    let api = deia.api();
    api.patch("/api/bot/ada", json!({"config": {"model": "sim:count=3", "tools": []}})).await.expect(200);
    let problem = api.send("ada", &"word ".repeat(300)).await.expect_problem(422, "prompt_too_long");
    assert_eq!(problem["context"], json!({"num_ctx": 1024, "needed": 1025, "reply_budget": 40}));
}

#[tokio::test]
async fn a_bot_that_leaves_nothing_out_refuses_with_the_numbers_and_stores_nothing() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    launch(&api, "sim:tokens=2", 512, "refuse").await;
    for _ in 0..3 {
        api.send("ada", &long("word")).await.expect(200);
    }
    let problem = api.send("ada", &long("word")).await.expect_problem(422, "prompt_too_long");
    let limits = &problem["context"];
    near(&limits["needed"], 4 * 104 + 3 * 7);
    assert_eq!((&limits["num_ctx"], &limits["reply_budget"]), (&json!(512), &json!(128)));
    assert_eq!(api.history("ada").await.len(), 6);
    api.patch("/api/bot/ada", json!({"config": {"options": {"num_ctx": 1024}}})).await.expect(200);
    assert_eq!(api.send("ada", &long("word")).await.expect(200)["turn"]["context"]["trimmed_messages"], 0);
}

#[tokio::test]
async fn what_can_not_fit_is_refused_with_both_numbers_wherever_it_is_asked_for() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    launch(&api, "sim:tokens=2", 4096, "trim").await;
    let ask = async |num_ctx: u64| {
        let options = json!({"options": {"num_ctx": num_ctx}});
        let launch =
            json!({"bot_id": "bea", "config": {"model": "sim:tokens=2", "options": options["options"]}});
        [
            (api.submit("ada", "hello", options.clone()).await, "options.num_ctx"),
            (api.patch("/api/bot/ada", json!({"config": options})).await, "config.options.num_ctx"),
            (api.post("/api/bot/launch", launch).await, "config.options.num_ctx"),
        ]
    };
    for num_ctx in [32_769, 1_000_000_000, u64::from(u32::MAX)] {
        for (refused, field) in ask(num_ctx).await {
            let problem = refused.expect_problem(422, "context_too_large");
            assert_eq!(problem["context"], json!({"num_ctx": num_ctx, "maximum": 32_768}), "{field}");
            assert_eq!(problem["errors"][0]["field"], field);
        }
    }
    for (refused, field) in ask(10_000_000_000).await {
        assert_eq!(refused.expect_problem(400, "invalid_request")["errors"][0]["field"], field);
    }

    // Four bytes a token.
    let refused = api.submit("ada", &"x".repeat(4000), json!({"options": {"num_ctx": 1024}})).await;
    let problem = refused.expect_problem(422, "prompt_too_long");
    assert_eq!(problem["context"], json!({"num_ctx": 1024, "needed": 1004, "reply_budget": 256}));
    let chatty = json!({"model": "sim:tokens=2", "system_prompt": "x".repeat(16_000)});
    let refusals = [
        api.post("/api/bot/launch", json!({"bot_id": "bea", "config": chatty})).await,
        api.patch("/api/bot/ada", json!({"config": chatty})).await,
    ];
    for refused in refusals {
        let problem = refused.expect_problem(422, "prompt_too_long");
        assert_eq!(problem["context"], json!({"num_ctx": 4096, "needed": 4004, "reply_budget": 1024}));
        assert_eq!(problem["errors"][0]["field"], "config.system_prompt");
    }
    api.get("/api/bot/bea").await.expect_problem(404, "bot_not_found");
    assert_eq!(api.get("/api/bot/ada").await.expect(200)["config_version"], 1, "nothing was changed");
    assert_eq!(api.history("ada").await.len(), 0);
}

/// What a turn of the bot is told as system prompt; asked for by `sim:system`, which says it.
async fn system_prompt(api: &Api) -> (String, Value) {
    let model = |model: &str| json!({"config": {"model": model}});
    api.patch("/api/bot/ada", model("sim:system")).await.expect(200);
    let told = api.send("ada", "what were you told?").await.expect(200);
    api.patch("/api/bot/ada", model("sim:echo")).await.expect(200);
    (told["reply"]["content"].as_str().unwrap().to_owned(), told["turn"].clone())
}

/// Asks until the system prompt tells of the earlier conversation.
async fn summarised(api: &Api) -> (String, Value) {
    eventually("a summary in the prompt", async || {
        let told = system_prompt(api).await;
        told.0.contains("Summary of the earlier conversation").then_some(told)
    })
    .await
}

#[tokio::test]
async fn what_is_left_out_is_summarised_in_the_background_for_the_turns_after() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    let bot = launch(&api, "sim:echo", 1024, "summarise").await;
    api.patch("/api/bot/ada", json!({"config": {"system_prompt": "be brief"}})).await.expect(200);
    // Echoed, each is an exchange of 208 tokens; 768 are free for all.
    for word in ["apple", "pear", "plum"] {
        api.send("ada", &long(word)).await.expect(200);
    }
    assert_eq!(stage.sim.stats().requests, 3, "everything fits: there is nothing to sum up");
    let turn = api.send("ada", &long("fig")).await.expect(200)["turn"].clone();
    assert_eq!(turn["context"]["trimmed_messages"], 0);

    let (prompt, turn) = summarised(&api).await;
    assert!(prompt.starts_with("be brief\n\nSummary of the earlier conversation"), "{prompt}");
    // The scripted model answers the request for notes with the request itself.
    assert!(prompt.contains("Said since:\nUser: apple apple"), "{prompt}");
    let context = &turn["context"];
    assert!(context["trimmed_messages"].as_u64().unwrap() >= 2, "{context}");
    assert!(context["used"].as_u64().unwrap() >= prompt.len() as u64 / 4, "the summary counts: {context}");
    assert!(context["used"].as_u64().unwrap() <= 768, "{context}");

    // It is no message, and one serves many turns.
    stage.all_closed().await;
    let (asked, messages) = (stage.sim.stats().requests, api.history("ada").await);
    assert_eq!(messages.len() as u64, 2 * (asked - 1), "every request but one was a turn");
    let conversations = api.get("/api/chat/ada/conversations").await.expect(200);
    assert_eq!(conversations["items"][0]["message_count"], json!(messages.len()));
    for n in 1..=3 {
        api.send("ada", "and then?").await.expect(200);
        stage.all_closed().await;
        assert_eq!(stage.sim.stats().requests, asked + n, "not made again");
    }
    assert_eq!(system_prompt(&api).await.0, prompt);

    // Another path has no part in it; back on the first one it is there again.
    let main = bot["main_conversation_id"].as_str().unwrap();
    let leaf = api.history("ada").await.last().unwrap()["id"].clone();
    api.submit("ada", "let us begin anew", json!({"parent_id": null})).await.expect(202);
    assert_eq!(system_prompt(&api).await.0, "be brief");
    let back = json!({"leaf_message_id": leaf});
    api.patch(format!("/api/chat/ada/conversations/{main}"), back).await.expect(200);
    assert!(system_prompt(&api).await.0.contains("Summary of the earlier conversation"));

    // A new process makes it again, and no turn waits for that.
    deia.kill().await;
    let deia = stage.start().await;
    let api = deia.api();
    let (first, turn) = system_prompt(&api).await;
    assert_eq!((first.as_str(), &turn["state"]), ("be brief", &json!("completed")));
    assert!(turn["context"]["trimmed_messages"].as_u64().unwrap() >= 2);
    summarised(&api).await;

    // What is deleted is told nowhere any more.
    api.delete("/api/chat/ada").await.expect(200);
    assert_eq!(system_prompt(&api).await.0, "be brief");
}
