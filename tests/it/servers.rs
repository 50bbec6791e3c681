//! Several model servers, each a process of its own: what one suffers is the affair of its own turns.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{Api, Home, Signal, Stage, eventually, numbered, send_signal};

/// A simulator in a process. It dies with its handle.
struct SimProcess {
    child: Child,
    url: String,
}

impl SimProcess {
    fn start(home: &Home, models: &str) -> Self {
        let mut command = home.command(&["sim", "--listen", "127.0.0.1:0", "--models", models]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the simulator starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).expect("its first line");
        let url = line.trim().strip_prefix("listening on ").expect("its address").to_owned();
        Self { child, url }
    }

    fn name(&self) -> &str {
        self.url.strip_prefix("http://").unwrap()
    }

    fn signal(&self, signal: Signal) {
        send_signal(self.child.id(), signal);
    }
}

impl Drop for SimProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn two(models: &str) -> (Home, [SimProcess; 2]) {
    let home = Home::new();
    let sims = [(); 2].map(|()| SimProcess::start(&home, models));
    let home = home
        .env("DEIA_INFERENCE__SERVERS", format!("{},{}", sims[0].url, sims[1].url))
        .env("DEIA_SERVER__DRAIN_S", "1");
    (home, sims)
}

async fn server(api: &Api, name: &str) -> Value {
    let servers = api.get("/api/servers").await.expect(200);
    servers["items"].as_array().unwrap().iter().find(|s| s["name"] == name).unwrap().clone()
}

async fn until_it_is(api: &Api, name: &str, state: &str) {
    eventually(&format!("{name} is {state}"), async || {
        (server(api, name).await["state"] == state).then_some(())
    })
    .await;
}

/// The simulator that this turn runs on, and the other one.
fn sort<'a>(sims: &'a [SimProcess; 2], turn: &Value) -> (&'a SimProcess, &'a SimProcess) {
    let [one, two] = sims;
    if turn["server"] == one.name() { (one, two) } else { (two, one) }
}

#[tokio::test]
async fn a_server_that_is_killed_takes_only_what_it_was_saying_with_it() {
    let (home, sims) = two("sim:stall_at=10,sim:echo");
    let deia = home.env("DEIA_INFERENCE__SLOTS", "4").start().await;
    let api = deia.api();
    api.launch("ada", "sim:stall_at=10").await;
    api.launch("bob", "sim:echo").await;
    let running = api.send_without_waiting("ada", "talk").await.expect(202);
    api.written(&running["turn"]["id"], 50).await;
    let (killed, other) = sort(&sims, &api.turn(&running["turn"]["id"]).await);
    killed.signal(Signal::Kill);
    let turn = api.ended(&running["turn"]["id"]).await;
    assert_eq!((&turn["state"], &turn["error"]["code"]), (&json!("failed"), &json!("upstream_error")));
    let kept = api.message("ada", &turn["reply_id"]).await;
    assert_eq!((&kept["content"], &kept["state"]), (&json!(numbered(10)), &json!("partial")));
    // Whoever comes now is answered, whether the death is known already or not.
    for n in 0..5 {
        let answer = api.send("bob", &format!("hello {n}")).await.expect(200);
        assert_eq!(answer["turn"]["server"], other.name());
    }
    until_it_is(&api, killed.name(), "down").await;
    assert_eq!(server(&api, other.name()).await["state"], "up");
}

#[tokio::test]
async fn a_server_that_hangs_keeps_only_its_own_turns_waiting_and_is_used_again_when_it_goes_on() {
    let (home, sims) = two("sim:stall_at=10,sim:echo");
    let home = home.env("DEIA_INFERENCE__FIRST_BYTE_S", "10").env("DEIA_INFERENCE__SLOTS", "2");
    let deia = home.start().await;
    let api = deia.api();
    let bots: Vec<_> = (0..8).map(|n| format!("b{n}")).collect();
    for bot in &bots {
        api.launch(bot, "sim:echo").await;
    }
    let [frozen, other] = &sims;
    frozen.signal(Signal::Stop);
    let answers = join_all(bots.iter().map(|bot| api.send(bot, "hello"))).await;
    let (well, late): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 200);
    assert!(well.iter().all(|answer| answer.body["turn"]["server"] == other.name()));
    assert!(late.len() <= 2, "{} of eight, and it has two slots: who waits there moves on", late.len());
    for answer in late {
        let problem = answer.expect_problem(504, "upstream_timeout");
        assert_eq!(problem["turn"]["server"], frozen.name());
    }
    until_it_is(&api, frozen.name(), "down").await;
    for bot in &bots {
        assert_eq!(api.send(bot, "and now?").await.expect(200)["turn"]["server"], other.name());
    }
    frozen.signal(Signal::Continue);
    until_it_is(&api, frozen.name(), "up").await;
    other.signal(Signal::Kill);
    let again = api.send("b0", "still there?").await.expect(200);
    assert_eq!(again["turn"]["server"], frozen.name());
}

#[tokio::test]
async fn a_full_line_is_told_before_anything_is_stored_and_moves_up_visibly() {
    let stage = Stage::with(&[("DEIA_INFERENCE__SLOTS", "1"), ("DEIA_INFERENCE__QUEUE_LIMIT", "2")]).await;
    let deia = stage.start().await;
    let api = deia.api();
    for (bot, model) in
        [("ada", "sim:stall_at=2"), ("bob", "sim:echo"), ("cleo", "sim:echo"), ("dan", "sim:echo")]
    {
        api.launch(bot, model).await;
    }
    let running = api.send_without_waiting("ada", "talk").await.expect(202);
    api.written(&running["turn"]["id"], 10).await;
    let bob = api.send_without_waiting("bob", "one").await.expect(202);
    let cleo = api.send_without_waiting("cleo", "two").await.expect(202);
    assert_eq!(
        (&bob["turn"]["queue"]["position"], &cleo["turn"]["queue"]["position"]),
        (&json!(1), &json!(2))
    );
    let refused = api.send_without_waiting("dan", "three").await;
    assert!(refused.headers.contains_key("retry-after"));
    refused.expect_problem(429, "inference_queue_full");
    assert_eq!(api.history("dan").await.len(), 0);
    let mut events =
        api.events(format!("/api/turn/{}/events", cleo["turn"]["id"].as_str().unwrap()), None).await;
    let name = stage.sim.url().replace("http://", "");
    let shown = server(&api, &name).await;
    assert_eq!(
        (&shown["slots"], &shown["queue"]["depth"], &shown["queue"]["limit"], &shown["breaker"]),
        (
            &json!({"total": 1, "busy": 1}),
            &json!(2),
            &json!(2),
            &json!({"state": "closed", "retry_at": null, "reason": null})
        )
    );
    // One in the line leaves; the one behind it is told.
    let bob = bob["turn"]["id"].as_str().unwrap();
    api.post(format!("/api/turn/{bob}/stop"), json!({})).await.expect(200);
    let moved = loop {
        let event = events.next().await.expect("an event");
        if event.event.as_deref() == Some("queue_moved") {
            break event.data["data"].clone();
        }
    };
    assert_eq!((&moved["position"], &moved["server"]), (&json!(1), &json!(name)));
    assert_eq!(api.turn(&cleo["turn"]["id"]).await["queue"]["position"], 1);
    let ada = running["turn"]["id"].as_str().unwrap();
    api.post(format!("/api/turn/{ada}/stop"), json!({})).await.expect(200);
    assert_eq!(api.ended(&cleo["turn"]["id"]).await["state"], "completed");
    assert_eq!(stage.sim.stats().requests, 2, "one request for each that began");
}

#[tokio::test]
async fn a_server_is_probed_drained_and_resumed_on_demand() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    let name = stage.sim.url().replace("http://", "");
    let probed = api.post(format!("/api/server/{name}/probe"), json!({})).await.expect(200);
    assert_eq!((&probed["name"], &probed["state"]), (&json!(name), &json!("up")));
    for (order, state) in [("drain", "draining"), ("resume", "up")] {
        let server = api.post(format!("/api/server/{name}/{order}"), json!({})).await.expect(200);
        assert_eq!(server["state"], state);
    }
    api.post("/api/server/nobody/probe", json!({})).await.expect_problem(404, "server_not_found");
    api.get("/api/server/nobody/probe").await.expect_problem(405, "method_not_allowed");
}
