//! What goes wrong at the model server: each a code of its own, the partial kept, the bot alive.

use serde_json::{Value, json};

use deia::sim::{Sim, SimConfig};

use crate::support::{Stage, numbered};

#[tokio::test]
async fn each_fault_of_the_model_server_has_its_code_and_keeps_the_partial() {
    let stage = Stage::with(&[
        // Long enough for what does not stall.
        ("DEIA_INFERENCE__IDLE_S", "3"),
        ("DEIA_INFERENCE__FIRST_BYTE_S", "10"),
    ])
    .await;
    let deia = stage.start().await;
    let api = deia.api();
    let faults = [
        ("sim:tokens=30,error_at=10", 502, "upstream_error", 10),
        ("sim:tokens=30,cut_at=10", 502, "upstream_error", 10),
        ("sim:tokens=30,garbage", 502, "upstream_error", 3),
        ("sim:tokens=30,stall_at=10", 504, "upstream_timeout", 10),
        ("sim:tokens=30,stall_at=0", 504, "upstream_timeout", 0),
        ("no-such-model", 422, "model_not_found", 0),
    ];
    for (n, (model, status, code, tokens)) in faults.into_iter().enumerate() {
        let bot = format!("b{n}");
        api.launch(&bot, model).await;
        let answer = api.send(&bot, "talk").await;
        let problem = answer.expect_problem(status, code);
        let turn = &problem["turn"];
        assert_eq!(turn["state"], "failed", "{model}");
        let stored = api.turn(&turn["id"]).await;
        assert_eq!(stored["error"]["code"], code, "{model}");
        let kept = api.message(&bot, &turn["reply_id"]).await;
        assert_eq!(
            (&kept["content"], &kept["state"]),
            (&json!(numbered(tokens)), &json!("partial")),
            "{model}"
        );
        api.patch(format!("/api/bot/{bot}"), json!({"config": {"model": "sim:echo"}})).await.expect(200);
        assert_eq!(
            api.send(&bot, "still there?").await.expect(200)["reply"]["content"],
            "still there?",
            "{model}"
        );
        let status = api.get(format!("/api/bot/{bot}/status")).await.expect(200);
        assert_eq!((&status["restart_count"], &status["error_count"]), (&json!(0), &json!(1)), "{model}");
    }
    stage.all_closed().await;
}

#[tokio::test]
async fn a_busy_server_is_asked_again_before_the_first_byte() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:tokens=5,busy=2").await;
    assert_eq!(api.send("ada", "talk").await.expect(200)["reply"]["content"], numbered(5));
    assert_eq!(stage.sim.stats().requests, 3);
}

#[tokio::test]
async fn text_with_characters_of_every_length_is_kept_byte_by_byte() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:utf8").await;
    let events = api.send_and_stream("ada", "talk").await.rest().await;
    let mut text = String::new();
    for event in &events {
        if event.event.as_deref() == Some("token") {
            assert_eq!(event.data["data"]["offset"], text.len());
            text.push_str(event.data["data"]["text"].as_str().unwrap());
        }
    }
    assert!(text.len() > text.chars().count(), "multi-byte text");
    assert!(!text.contains('\u{fffd}'), "no character is cut");
    assert_eq!(events.last().unwrap().data["data"]["reply"]["content"], text);
}

#[tokio::test]
async fn a_turn_waits_for_a_server_that_is_away_and_fails_when_it_stays_away() {
    let stage =
        Stage::with(&[("DEIA_INFERENCE__OFFLINE_WAIT_S", "1"), ("DEIA_INFERENCE__SIMULATED", "off")]).await;
    let home = stage.home;
    let address = stage.sim.address();
    stage.sim.stop().await;
    let deia = home.start().await;
    let api = deia.api();
    let bot = api.launch("ada", "sim:echo").await;
    assert!(bot["warnings"].as_array().is_some_and(|w| !w.is_empty()), "{bot}");
    let answer = api.send("ada", "anybody?").await;
    assert!(answer.headers.contains_key("retry-after"));
    assert_eq!(answer.expect_problem(503, "ollama_offline")["turn"]["state"], "failed");
    deia.terminate().await;
    let home = home.env("DEIA_INFERENCE__OFFLINE_WAIT_S", "30");
    let deia = home.start().await;
    let api = deia.api();
    let told = api.send_without_waiting("ada", "anybody now?").await.expect(202);
    assert_eq!(told["turn"]["state"], "queued");
    assert_ne!(told["turn"]["queue"], Value::Null);
    // The very same address; nobody else takes a port that was just in use.
    let sim =
        Sim::start(SimConfig { listen: address, ..SimConfig::default() }).await.expect("the address is free");
    let turn = api.ended(&told["turn"]["id"]).await;
    assert_eq!(turn["state"], "completed", "{turn}");
    drop(sim);
}
