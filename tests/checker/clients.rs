//! The clients: they carry out their steps one after another through a door that may be cut at any moment, and note what
//! they know. A step whose outcome is unknown is not repeated.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{
    log::{History, Outcome, Read, Sent, Stream, Ticks},
    plan::{Bot, Door, Step},
    shared::support::{ServerSentEvents, Socket},
};

/// A step that takes longer has an unknown outcome.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often a message with a key is sent until its outcome is known.
const TRIES: usize = 400;
/// Where a message is acknowledged as soon as it is durable.
const LATER: &str = "/api/chat/send?wait=false";
/// How soon a client comes back that finds nobody.
const AGAIN: Duration = Duration::from_millis(5);

/// What all who take part share.
pub struct Stage {
    pub url: String,
    pub bots: Vec<Bot>,
    pub ticks: Ticks,
    pub notes: Mutex<History>,
    /// False while the service is known to be away.
    pub up: watch::Sender<bool>,
    /// Steps finished so far.
    pub finished: watch::Sender<usize>,
}

impl Stage {
    /// Waits until the service is there again, as far as one knows.
    pub async fn up(&self) {
        // The sender lives in this very structure.
        let _ = self.up.subscribe().wait_for(|up| *up).await;
    }
}

/// A client that may find nobody.
pub struct Client {
    number: usize,
    stage: Arc<Stage>,
    http: reqwest::Client,
    socket: Option<Socket>,
    turn: Option<String>,
}

impl Client {
    pub fn new(number: usize, stage: Arc<Stage>) -> Self {
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().expect("a client");
        Self { number, stage, http, socket: None, turn: None }
    }

    /// Carries out its steps.
    pub async fn run(mut self, steps: Vec<Step>) {
        for (number, step) in steps.into_iter().enumerate() {
            self.stage.up().await;
            match step {
                Step::Send { bot, door, keyed } => self.send(number, bot, door, keyed).await,
                Step::Stop => self.stop().await,
                Step::Read { bot } => self.read(bot).await,
            }
            self.stage.finished.send_modify(|finished| *finished += 1);
        }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.stage.url))
    }

    async fn answer(request: RequestBuilder) -> Option<(u16, Value)> {
        let response = request.send().await.ok()?;
        let status = response.status().as_u16();
        Some((status, response.json().await.ok()?))
    }

    async fn send(&mut self, number: usize, bot: usize, door: Door, keyed: bool) {
        let bot = self.stage.bots[bot].id.clone();
        let content = format!("{bot} client {} message {number}", self.number);
        let key = keyed.then(|| content.replace(' ', "-"));
        let body = json!({"bot_id": bot, "content": content});
        let key = key.as_deref();
        let invoked = self.stage.ticks.next();
        let (mut outcome, stream) = match door {
            Door::Wait => (self.post("/api/chat/send", &body, key).await, None),
            Door::Later => (self.post(LATER, &body, key).await, None),
            Door::Socket => (self.over_the_socket(body.clone(), key).await, None),
            Door::Stream => self.stream(&body, key).await,
        };
        let mut again = None;
        if key.is_some() {
            for _ in 0..TRIES {
                if outcome != Outcome::Unknown {
                    break;
                }
                tokio::time::sleep(AGAIN).await;
                self.stage.up().await;
                outcome = self.post(LATER, &body, key).await;
            }
        }
        let finished = self.stage.ticks.next();
        if let Outcome::Ok { turn, .. } = &outcome {
            self.turn = Some(turn.clone());
            if key.is_some() {
                again = Some(self.post(LATER, &body, key).await);
            }
        }
        self.stage.notes.lock().sent.push(Sent {
            client: self.number,
            bot,
            content,
            invoked,
            finished,
            outcome,
            again,
        });
        if let Some((events, stream)) = stream {
            self.follow(events, stream).await;
        }
    }

    fn chat(&self, path: &str, body: &Value, key: Option<&str>) -> RequestBuilder {
        let request = self.request(Method::POST, path).json(body);
        match key {
            Some(key) => request.header("idempotency-key", key),
            None => request,
        }
    }

    async fn post(&self, path: &str, body: &Value, key: Option<&str>) -> Outcome {
        match Self::answer(self.chat(path, body, key)).await {
            Some((status, body)) => outcome(status, &body),
            None => Outcome::Unknown,
        }
    }

    async fn over_the_socket(&mut self, mut frame: Value, key: Option<&str>) -> Outcome {
        if self.socket.is_none() {
            self.socket = Socket::try_connect(&self.stage.url).await;
        }
        frame["type"] = json!("send");
        if let Some(key) = key {
            frame["idempotency_key"] = json!(key);
        }
        let Some(socket) = &mut self.socket else { return Outcome::Unknown };
        match socket.try_call(frame).await {
            Some(answer) if answer["type"] == "ok" => outcome(200, &answer),
            Some(answer) => {
                let problem = &answer["problem"];
                outcome(problem["status"].as_u64().and_then(|s| s.try_into().ok()).unwrap_or(500), problem)
            }
            None => {
                self.socket = None;
                Outcome::Unknown
            }
        }
    }

    /// Sends and reads the first two events: acceptance and message.
    async fn stream(
        &self,
        body: &Value,
        key: Option<&str>,
    ) -> (Outcome, Option<(Option<ServerSentEvents>, Opened)>) {
        let request = self.chat("/api/chat/send", body, key).header("accept", "text/event-stream");
        let Ok(response) = request.send().await else { return (Outcome::Unknown, None) };
        let status = response.status().as_u16();
        if status != 200 {
            let body = response.json().await.unwrap_or_default();
            return (outcome(status, &body), None);
        }
        let mut events = ServerSentEvents::of(response);
        let mut opened = Opened::default();
        loop {
            let Ok(Some(event)) = events.try_next().await else { break };
            let message = event.data["data"]["message"]["id"].as_str().map(str::to_owned);
            let turn = event.data["topic"].as_str().and_then(|topic| topic.strip_prefix("turn:"));
            let turn = turn.map(str::to_owned);
            opened.note(event.id, event.data);
            if let (Some(turn), Some(message)) = (turn, message) {
                opened.stream.turn.clone_from(&turn);
                return (Outcome::Ok { turn, message, reply: None }, Some((Some(events), opened)));
            }
        }
        // Cut before it was told the ids: it may have been accepted.
        (Outcome::Unknown, None)
    }

    /// Reads a turn's events to its end, over as many connections as it takes.
    async fn follow(&self, events: Option<ServerSentEvents>, mut opened: Opened) {
        let mut events = events;
        while !opened.ended {
            match &mut events {
                Some(open) => match open.try_next().await {
                    Ok(Some(event)) => opened.note(event.id, event.data),
                    Ok(None) | Err(_) => {
                        opened.stream.heard.push(None);
                        events = None;
                    }
                },
                None => {
                    tokio::time::sleep(AGAIN).await;
                    self.stage.up().await;
                    let path = format!("/api/turn/{}/events", opened.stream.turn);
                    let mut request = self.request(Method::GET, &path);
                    if let Some(last) = &opened.last {
                        request = request.header("last-event-id", last);
                    }
                    if let Ok(response) = request.send().await
                        && response.status() == 200
                    {
                        events = Some(ServerSentEvents::of(response));
                    }
                }
            }
        }
        self.stage.notes.lock().streams.push(opened.stream);
    }

    async fn stop(&self) {
        let Some(turn) = &self.turn else { return };
        let answer = Self::answer(self.request(Method::POST, &format!("/api/turn/{turn}/stop"))).await;
        if let Some((404, body)) = answer {
            panic!("the turn of an acknowledged message is not known: {body}");
        }
    }

    async fn read(&self, bot: usize) {
        let bot = self.stage.bots[bot].id.clone();
        let invoked = self.stage.ticks.next();
        let path = format!("/api/chat/{bot}?limit=200");
        let Some((200, page)) = Self::answer(self.request(Method::GET, &path)).await else { return };
        let ids = page["items"].as_array().expect("items").iter();
        let ids = ids.map(|item| item["id"].as_str().expect("an id").to_owned()).collect();
        let (whole, stale) = (page["has_more"] == false, page["stale"] == true);
        self.stage.notes.lock().reads.push(Read { bot, invoked, ids, whole, stale });
    }
}

/// A stream that has begun, and the place to resume it from.
#[derive(Default)]
struct Opened {
    stream: Stream,
    last: Option<String>,
    ended: bool,
}

impl Opened {
    fn note(&mut self, id: Option<String>, frame: Value) {
        self.ended |= frame["event"] != "snapshot" && frame["data"]["turn"].is_object();
        self.last = id.or(self.last.take());
        self.stream.heard.push(Some(frame));
    }
}

/// What an answer says of a message. Whoever names the turn has acknowledged it, also in a problem.
fn outcome(status: u16, body: &Value) -> Outcome {
    let id = |value: &Value| value.as_str().map(str::to_owned);
    let turn = &body["turn"];
    if let (Some(turn), Some(message)) = (id(&turn["id"]), id(&turn["message_id"])) {
        return Outcome::Ok { turn, message, reply: id(&body["reply"]["content"]) };
    }
    if (400..500).contains(&status) { Outcome::Refused } else { Outcome::Unknown }
}
