//! Model servers that come and go while turns run: added, kept over a restart, deleted in the middle of an answer; and what is
//! never called.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use deia::sim::{Sim, SimConfig};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};

use crate::support::{Api, Home, Stage, eventually, numbered};

async fn sim() -> Sim {
    Sim::start(SimConfig::default()).await.expect("the model server starts")
}

async fn servers(api: &Api) -> Vec<Value> {
    api.get("/api/servers").await.expect(200)["items"].as_array().unwrap().clone()
}

async fn named(api: &Api, name: &str) -> Option<Value> {
    servers(api).await.into_iter().find(|s| s["name"] == name)
}

async fn until_up(api: &Api, name: &str) {
    eventually(&format!("{name} is up"), async || {
        named(api, name).await.filter(|s| s["state"] == "up").map(drop)
    })
    .await;
}

/// Names of the actors under `inference`.
async fn gates(api: &Api) -> Vec<String> {
    let tree = api.get("/api/tree").await.expect(200);
    let inference = tree["children"].as_array().unwrap().iter().find(|c| c["name"] == "inference").unwrap();
    inference["children"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap().into()).collect()
}

/// No real server, and no scripted one.
fn nowhere() -> Home {
    Home::new().env("DEIA_INFERENCE__SIMULATED", "off").env("DEIA_SERVER__DRAIN_S", "1")
}

#[tokio::test]
async fn a_server_that_is_added_takes_turns_at_once_and_is_there_after_a_restart() {
    let (home, sim) = (nowhere(), sim().await);
    let deia = home.start().await;
    let api = deia.api();
    api.launch("ada", "sim:echo").await;
    let added = api
        .post("/api/servers", json!({"name": "gpu-a", "url": format!("{}/", sim.url()), "slots": 3}))
        .await;
    assert_eq!(added.headers["location"], "/api/server/gpu-a");
    let added = added.expect(201);
    assert_eq!(
        (&added["name"], &added["url"], &added["slots"]["total"]),
        (&json!("gpu-a"), &json!(sim.url()), &json!(3))
    );
    assert_eq!((&added["state"], &added["version"].is_string()), (&json!("up"), &true), "{added}");
    assert_eq!(gates(&api).await, ["127.0.0.1:1", "gpu-a"]);
    let models = api.get("/api/models").await.expect(200);
    assert_eq!(models["items"][0]["servers"][0]["name"], "gpu-a");
    // The same name, the same address.
    for twice in [json!({"name": "gpu-a", "url": "http://127.0.0.1:9"}), json!({"url": sim.url()})] {
        api.post("/api/servers", twice).await.expect_problem(409, "server_exists");
    }

    deia.terminate().await;
    let deia = home.start().await;
    let api = deia.api();
    until_up(&api, "gpu-a").await;
    assert_eq!(named(&api, "gpu-a").await.unwrap()["slots"]["total"], 3);
    assert_eq!(gates(&api).await, ["127.0.0.1:1", "gpu-a"]);

    api.delete("/api/server/gpu-a").await.expect(200);
    api.delete("/api/server/gpu-a").await.expect_problem(404, "server_not_found");
    assert_eq!(gates(&api).await, ["127.0.0.1:1"]);
    deia.terminate().await;
    let deia = home.start().await;
    assert!(named(&deia.api(), "gpu-a").await.is_none(), "gone is gone");
}

#[tokio::test]
async fn deia_is_no_model_server_of_its_own_whatever_it_is_called() {
    let (home, sim) = (nowhere(), sim().await);
    let deia = home.start().await;
    let api = deia.api();
    let port = deia.url().rsplit(':').next().unwrap();
    for host in ["127.0.0.1", "localhost", "[::1]", "127.1", "[::ffff:127.0.0.1]"] {
        let own = json!({"url": format!("http://{host}:{port}")});
        let refused = api.post("/api/servers", own).await.expect_problem(400, "invalid_request");
        let reason = refused["errors"][0]["reason"].as_str().unwrap();
        assert!(reason.contains("deia's own address"), "{host}: {reason}");
    }
    api.post("/api/servers", json!({"url": format!("http://0.0.0.0:{port}")}))
        .await
        .expect_problem(400, "invalid_request");
    // Two names of one place.
    let called = sim.url().replace("127.0.0.1", "localhost");
    api.post("/api/servers", json!({"url": called})).await.expect(201);
    api.post("/api/servers", json!({"url": sim.url()})).await.expect_problem(409, "server_exists");
    let own = deia.url().to_owned();
    deia.terminate().await;
    let address = own.trim_start_matches("http://");
    let home = home.env("DEIA_SERVER__LISTEN", address).env("DEIA_INFERENCE__SERVERS", own.as_str());
    let refused = home.run(&["serve"]).await;
    assert_eq!(refused.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("other than deia itself"), "{refused:?}");
}

#[tokio::test]
async fn slots_that_are_none_are_refused_with_the_range_that_holds() {
    let deia = nowhere().start().await;
    for slots in [json!("4"), json!(1.5), json!(-1), json!(0), json!(1025), json!(1e10), json!([1])] {
        let body = json!({"url": "http://127.0.0.1:9", "slots": slots});
        let problem = deia.api().post("/api/servers", body).await.expect_problem(400, "invalid_request");
        let told = json!([{"field": "slots", "reason": "a whole number from 1 to 1024"}]);
        assert_eq!(problem["errors"], told, "{slots}");
    }
}

#[tokio::test]
async fn the_configuration_wins_over_what_was_added_under_the_same_name() {
    let (home, sim) = (nowhere(), sim().await);
    let deia = home.start().await;
    deia.api().post("/api/servers", json!({"url": sim.url(), "slots": 7})).await.expect(201);
    deia.terminate().await;
    let home = home.env("DEIA_INFERENCE__SERVERS", sim.url()).env("DEIA_INFERENCE__SLOTS", "5");
    let deia = home.start().await;
    let all = servers(&deia.api()).await;
    assert_eq!(all.len(), 1);
    assert_eq!((&all[0]["url"], &all[0]["slots"]["total"]), (&json!(sim.url()), &json!(5)));
}

#[tokio::test]
async fn a_server_that_is_deleted_ends_what_it_says_and_gives_up_who_waits_for_it() {
    let stage =
        Stage::with(&[("DEIA_INFERENCE__SLOTS", "1"), ("DEIA_INFERENCE__OFFLINE_WAIT_S", "30")]).await;
    let deia = stage.start().await;
    let api = deia.api();
    let first = stage.sim.url().replace("http://", "");
    api.launch("ada", "sim:tokens=60,hold_at=10").await;
    api.launch("bob", "sim:echo").await;
    let running = api.send_without_waiting("ada", "talk").await.expect(202);
    api.written(&running["turn"]["id"], 10).await;
    let waiting = api.send_without_waiting("bob", "hello").await.expect(202);
    let mut events =
        api.events("/api/turn/".to_owned() + waiting["turn"]["id"].as_str().unwrap() + "/events", None).await;
    // It may be one that is being drained, and the last one.
    api.post(format!("/api/server/{first}/drain"), json!({})).await.expect(200);
    api.delete(format!("/api/server/{first}")).await.expect(200);
    assert!(servers(&api).await.is_empty() && gates(&api).await.is_empty());
    stage.sim.let_go();
    let whole = api.ended(&running["turn"]["id"]).await;
    assert_eq!((&whole["state"], &whole["server"]), (&json!("completed"), &json!(first)));
    assert_eq!(api.message("ada", &whole["reply_id"]).await["content"], numbered(60));
    // Who waited waits for any server, and says until when.
    let offline = api.turn(&waiting["turn"]["id"]).await["queue"].clone();
    assert!(offline["offline_since"].is_string() && offline["gives_up_at"].is_string(), "{offline}");
    let moved = loop {
        let event = events.next().await.expect("an event");
        if event.event.as_deref() == Some("queue_moved") && event.data["data"]["gives_up_at"].is_string() {
            break event.data["data"].clone();
        }
    };
    assert_eq!(moved["gives_up_at"], offline["gives_up_at"]);
    let other = sim().await;
    let added = api.post("/api/servers", json!({"url": other.url()})).await.expect(201);
    let turn = api.ended(&waiting["turn"]["id"]).await;
    assert_eq!((&turn["state"], &turn["server"]), (&json!("completed"), &added["name"]));
}

#[tokio::test]
async fn addresses_that_are_never_called_are_refused_with_the_field() {
    let deia = nowhere().start().await;
    let api = deia.api();
    for url in [
        "",
        "file:///etc/passwd",
        "file:/etc/passwd",
        "gopher://127.0.0.1:11434",
        "http://user:s3cret@127.0.0.1:11434",
        "http://127.0.0.1:11434@169.254.169.254",
        "http://127.0.0.1:11434/#x",
        "http://127.0.0.1:11434/?x=1",
        "http://169.254.169.254/latest/meta-data",
        "http://2852039166",
        "http://0xA9FEA9FE",
        "http://0251.0376.0251.0376",
        "http://[::ffff:169.254.169.254]",
        "http://[fe80::1]",
        "http://[fd00:ec2::254]",
        "http://100.100.100.200",
        "http://0.0.0.0:11434",
        "http://[::]:11434",
        "http://224.0.0.1",
        "http://255.255.255.255",
        "http://no-such-host.invalid",
        "http://127.0.0.1:99999",
    ] {
        let problem =
            api.post("/api/servers", json!({"url": url})).await.expect_problem(400, "invalid_request");
        assert_eq!(problem["errors"][0]["field"], "url", "{url}");
        assert!(!problem.to_string().contains("s3cret"), "{problem}");
    }
    for (body, field) in [
        (json!({"url": "http://127.0.0.1:9", "slots": 0}), "slots"),
        (json!({"url": "http://127.0.0.1:9", "slots": 1025}), "slots"),
        (json!({"url": "http://127.0.0.1:9", "slots": -1}), "slots"),
        (json!({"url": "http://127.0.0.1:9", "name": ""}), "name"),
        (json!({"url": "http://127.0.0.1:9", "name": "a/b"}), "name"),
        (json!({"url": "http://127.0.0.1:9", "name": "x".repeat(51)}), "name"),
        (json!({"url": 7}), "url"),
        (json!({"url": "http://127.0.0.1:9", "nmae": "x"}), "nmae"),
    ] {
        let problem = api.post("/api/servers", body).await.expect_problem(400, "invalid_request");
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
    }
    assert_eq!(servers(&api).await.len(), 1, "none of them is there");
    // One that does not answer is no mistake: it may be started later.
    api.post("/api/servers", json!({"url": "localhost:2", "name": "later"})).await.expect(201);
    assert_eq!(named(&api, "later").await.unwrap()["state"], "down");
}

/// A server that lists a model and answers the rest as it likes.
struct Odd {
    url: String,
    /// How often it was asked to chat.
    chats: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Odd {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// `answer` gives what is said to a path; nothing = silence.
async fn odd(answer: fn(&str) -> Option<String>) -> Odd {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let chats = Arc::new(AtomicUsize::new(0));
    let counted = chats.clone();
    let task = tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let counted = counted.clone();
            tokio::spawn(async move {
                let mut request = vec![0; 64 * 1024];
                let read = socket.read(&mut request).await.unwrap_or(0);
                let text = String::from_utf8_lossy(&request[..read]).into_owned();
                let path = text.split(' ').nth(1).unwrap_or_default();
                counted.fetch_add(usize::from(path == "/api/chat"), Ordering::Relaxed);
                match answer(path) {
                    Some(said) => drop(socket.write_all(said.as_bytes()).await),
                    None => tokio::time::sleep(Duration::from_secs(60)).await,
                }
            });
        }
    });
    Odd { url, chats, task }
}

fn http(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn lies(path: &str) -> Option<String> {
    Some(match path {
        "/api/version" => http("200 OK", r#"{"version":"0.0.1"}"#),
        "/api/tags" => http(
            "200 OK",
            r#"{"models":[{"name":"simulated","model":"simulated","modified_at":"2026-01-01T00:00:00Z","size":1,"digest":"x","details":{}}]}"#,
        ),
        // In memory: so it is the first choice.
        "/api/ps" => http(
            "200 OK",
            r#"{"models":[{"name":"simulated","model":"simulated","size":1,"size_vram":1,"digest":"x","expires_at":"2099-01-01T00:00:00Z"}]}"#,
        ),
        _ => http("404 Not Found", r#"{"error":"model 'simulated' not found"}"#),
    })
}

fn sends_elsewhere(path: &str) -> Option<String> {
    (path != "/api/chat").then(|| lies(path)).flatten().or_else(|| {
        Some("HTTP/1.1 307 Temporary Redirect\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".into())
    })
}

#[tokio::test]
async fn a_server_that_hangs_babbles_or_lies_harms_nobody_when_it_is_added() {
    let stage = Stage::new().await;
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "simulated").await;
    let silent = odd(|_| None).await;
    let babbles = odd(|_| Some("\u{7f}\u{3}ELF what? \r\n\r\n".into())).await;
    let liar = odd(lies).await;
    for (name, odd) in [("silent", &silent), ("babbles", &babbles), ("liar", &liar)] {
        api.post("/api/servers", json!({"name": name, "url": odd.url, "slots": 64})).await.expect(201);
    }
    until_up(&api, "liar").await;
    let honest = stage.sim.url().replace("http://", "");
    for n in 0..8 {
        let answer = api.send("ada", &format!("hello {n}")).await.expect(200);
        assert_eq!(answer["turn"]["server"], honest);
        // The first turn finds out, and the others know.
        assert_eq!((liar.chats.load(Ordering::Relaxed), stage.sim.stats().requests), (1, n + 1));
    }
    for name in ["silent", "babbles"] {
        assert_eq!(named(&api, name).await.unwrap()["state"], "down", "{name}");
    }
}

#[tokio::test]
async fn a_server_that_lists_what_it_does_not_have_costs_one_turn_a_detour_and_no_other() {
    let (liar, honest) = (odd(lies).await, sim().await);
    let [to_liar, to_honest] = [&liar.url, &honest.url()].map(|url| url.replace("http://", ""));
    let home = Home::new().env("DEIA_SERVER__DRAIN_S", "1");
    let deia = home.env("DEIA_INFERENCE__SERVERS", format!("{},{}", liar.url, honest.url())).start().await;
    let api = deia.api();
    api.launch("ada", "simulated").await;
    until_up(&api, &to_liar).await;
    until_up(&api, &to_honest).await;
    // In memory at the liar, as it says: so the first turn begins there.
    for (n, way) in [(1, vec![&to_liar, &to_honest]), (2, vec![&to_honest]), (3, vec![&to_honest])] {
        let events = api.send_and_stream("ada", "hello").await.rest().await;
        let started = events.iter().filter(|e| e.event.as_deref() == Some("turn_started"));
        let servers: Vec<_> = started.map(|e| e.data["data"]["server"].as_str().unwrap()).collect();
        assert_eq!(servers, way, "turn {n}");
        let ends = events.iter().filter(|e| e.data["data"]["turn"]["ended_at"].is_string());
        let ends: Vec<_> = ends.map(|e| (e.event.as_deref(), &e.data["data"]["turn"]["server"])).collect();
        assert_eq!(ends, [(Some("turn_completed"), &json!(to_honest))], "turn {n}");
        // The liar was asked once, the other one once a turn.
        assert_eq!((liar.chats.load(Ordering::Relaxed), honest.stats().requests), (1, n), "turn {n}");
    }
}

#[tokio::test]
async fn a_redirect_of_a_server_is_not_followed() {
    let home = nowhere();
    let deia = home.start().await;
    let api = deia.api();
    api.launch("ada", "simulated").await;
    let odd = odd(sends_elsewhere).await;
    api.post("/api/servers", json!({"name": "odd", "url": odd.url})).await.expect(201);
    until_up(&api, "odd").await;
    let problem = api.send("ada", "hello").await.expect_problem(502, "upstream_error");
    assert!(problem["detail"].as_str().unwrap().contains("redirects are not followed"), "{problem}");
}
