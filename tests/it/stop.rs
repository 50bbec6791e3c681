//! Stop in each phase of a turn: the call to the model server is closed and the slot free, whatever the turn was doing. How
//! soon is measured by `cargo bench --bench stop`; here it is that it happens.

use deia::sim::Sim;
use reqwest::Client;
use serde_json::{Value, json};

use crate::support::{Api, Stage, eventually};

/// What `/metrics` says of a series.
async fn metric(api: &Api, series: &str) -> Option<f64> {
    let page = api.get("/metrics").await.expect(200);
    page.as_str()?.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

async fn stopped_in(api: &Api, phase: &str) -> f64 {
    let series = format!("deia_stop_latency_seconds_count{{phase=\"{phase}\"}}");
    metric(api, &series).await.expect("a histogram")
}

async fn the_server(api: &Api) -> Value {
    api.get("/api/servers").await.expect(200)["items"][0].clone()
}

/// Has a model loaded there, and deia know of it.
async fn load(sim: &Sim, api: &Api, model: &str) {
    let client = Client::builder().no_proxy().build().expect("a client");
    let asked = client.post(format!("{}/api/generate", sim.url())).json(&json!({ "model": model }));
    assert_eq!(asked.send().await.expect("an answer").status(), 200);
    let name = sim.url().replace("http://", "");
    api.post(format!("/api/server/{name}/probe"), json!({})).await.expect(200);
}

#[tokio::test]
async fn stop_closes_the_call_and_frees_the_slot_in_every_phase() {
    let stage = Stage::with(&[("DEIA_INFERENCE__SLOTS", "1")]).await;
    let deia = stage.start().await;
    let api = deia.api();
    let phases = [
        ("loading", "sim:load_ms=600000", false),
        ("prompt", "sim:first_ms=600000", false),
        ("thinking", "sim:think,gap_ms=60000", true),
        ("content", "sim:tokens=5000,gap_ms=5", true),
        ("content", "sim:stall_at=3", true),
    ];
    for (n, (phase, model, speaks)) in phases.into_iter().enumerate() {
        if phase == "prompt" {
            load(&stage.sim, &api, model).await;
        }
        let (bot, before) = (format!("b{n}"), stage.sim.stats());
        api.launch(&bot, model).await;
        let told = api.send_without_waiting(&bot, "talk").await.expect(202);
        let id = told["turn"]["id"].as_str().expect("an id");
        let asked = async || (stage.sim.stats().open == 1).then_some(());
        eventually("the model server was asked", asked).await;
        if speaks {
            api.written(&told["turn"]["id"], 1).await;
        }
        let counted = stopped_in(&api, phase).await;
        let turn = api.post(format!("/api/turn/{id}/stop"), json!({})).await.expect(200);
        assert_eq!(turn["state"], "stopped", "{phase}");
        assert_eq!(the_server(&api).await["slots"]["busy"], 0, "{phase}: free before the end is stored");
        stage.all_closed().await;
        let after = stage.sim.stats();
        assert_eq!(after.closed_early, before.closed_early + 1, "{phase}");
        assert_eq!(stopped_in(&api, phase).await, counted + 1.0, "{phase}");
        let reply = api.message(&bot, &turn["reply_id"]).await;
        assert_eq!(reply["state"], "partial");
        assert_eq!(reply["content"] == "", phase != "content", "{phase}");
    }
    // Nobody is left behind: the one slot answers the next.
    api.launch("next", "sim:echo").await;
    assert_eq!(api.send("next", "hello").await.expect(200)["reply"]["content"], "hello");
    assert_eq!(metric(&api, "deia_turns_total{state=\"stopped\"}").await, Some(5.0));
}

#[tokio::test]
async fn a_turn_that_waits_is_stopped_without_a_call_and_the_others_move_up() {
    let stage = Stage::with(&[("DEIA_INFERENCE__SLOTS", "1")]).await;
    let deia = stage.start().await;
    let api = deia.api();
    for (bot, model) in [("ada", "sim:stall_at=1"), ("bob", "sim:echo"), ("cleo", "sim:echo")] {
        api.launch(bot, model).await;
    }
    let mut ids = vec![];
    for bot in ["ada", "bob", "cleo"] {
        ids.push(api.send_without_waiting(bot, "talk").await.expect(202)["turn"]["id"].clone());
    }
    // One that waits behind another of its own conversation holds no place of the server yet.
    ids.push(api.send_without_waiting("bob", "and").await.expect(202)["turn"]["id"].clone());
    let depth = async || (the_server(&api).await["queue"]["depth"] == 2).then_some(());
    eventually("two stand in line", depth).await;
    let stop = async |id: &Value| {
        api.post(format!("/api/turn/{}/stop", id.as_str().expect("an id")), json!({})).await.expect(200)
    };
    let counted = stopped_in(&api, "queued").await;
    assert_eq!(stop(&ids[3]).await["state"], "stopped");
    assert_eq!(stop(&ids[1]).await["state"], "stopped");
    assert_eq!(stopped_in(&api, "queued").await, counted + 2.0);
    assert_eq!(the_server(&api).await["queue"]["depth"], 1);
    let name = stage.sim.url().replace("http://", "");
    assert_eq!(metric(&api, &format!("deia_inference_queue_depth{{server=\"{name}\"}}")).await, Some(1.0));
    assert_eq!(metric(&api, &format!("deia_inference_slots_busy{{server=\"{name}\"}}")).await, Some(1.0));
    assert_eq!(stage.sim.stats().requests, 1, "only the first was asked for");
    assert_eq!(stop(&ids[0]).await["state"], "stopped");
    assert_eq!(api.ended(&ids[2]).await["state"], "completed");
    stage.all_closed().await;
    assert_eq!((stage.sim.stats().requests, stage.sim.stats().closed_early), (2, 1));
}

#[tokio::test]
async fn metrics_are_there_for_prometheus() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:echo").await;
    api.send("ada", "hello").await.expect(200);
    let answer = api.get("/metrics").await;
    assert_eq!(answer.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let page = answer.expect(200);
    let page = page.as_str().expect("text");
    for line in [
        "# TYPE deia_stop_latency_seconds histogram",
        "deia_turns_total{state=\"completed\"} 1",
        "deia_turns_total{state=\"failed\"} 0",
    ] {
        assert!(page.lines().any(|l| l == line), "{line} in\n{page}");
    }
}
