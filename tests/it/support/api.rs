//! A client of the HTTP API with the few calls that most tests make.

use std::{collections::VecDeque, fmt::Display};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use reqwest::{Method, RequestBuilder, StatusCode, header::HeaderMap};
use serde_json::{Value, json};

use super::{eventually, soon};

/// A client of one service.
#[derive(Clone)]
pub struct Api {
    http: reqwest::Client,
    base: String,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// The body as JSON, or as a string where it is none.
    pub body: Value,
}

impl Answer {
    /// The body, after a look at the status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.body);
        self.body
    }

    /// The body of a problem, after a look at its status and its code.
    #[track_caller]
    pub fn expect_problem(self, status: u16, code: &str) -> Value {
        assert_eq!((self.status.as_u16(), &self.body["code"]), (status, &json!(code)), "{}", self.body);
        self.body
    }
}

impl Api {
    pub fn new(base: &str) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        Self { http, base: base.to_owned() }
    }

    /// A request that is still to be filled in and sent.
    pub fn request(&self, method: Method, path: impl Display) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }

    /// Sends a request and reads its whole answer.
    pub async fn answer(&self, request: RequestBuilder) -> Answer {
        soon("an HTTP answer", async {
            let response = request.send().await.expect("an answer");
            let (status, headers) = (response.status(), response.headers().clone());
            let text = response.text().await.expect("a body");
            let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
            Answer { status, headers, body }
        })
        .await
    }

    pub async fn get(&self, path: impl Display) -> Answer {
        self.answer(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: impl Display, body: Value) -> Answer {
        self.answer(self.request(Method::POST, path).json(&body)).await
    }

    pub async fn patch(&self, path: impl Display, body: Value) -> Answer {
        self.answer(self.request(Method::PATCH, path).json(&body)).await
    }

    pub async fn delete(&self, path: impl Display) -> Answer {
        self.answer(self.request(Method::DELETE, path)).await
    }

    /// Launches a bot with this model and answers it.
    pub async fn launch(&self, id: &str, model: &str) -> Value {
        self.post("/api/bot/launch", json!({"bot_id": id, "config": {"model": model}})).await.expect(201)
    }

    /// Sends and waits for the reply: `{turn, message, reply}`.
    pub async fn send(&self, id: &str, content: &str) -> Answer {
        self.post("/api/chat/send", json!({"bot_id": id, "content": content})).await
    }

    /// Sends without waiting: `{turn, message}`, once they are stored.
    pub async fn send_without_waiting(&self, id: &str, content: &str) -> Answer {
        self.post("/api/chat/send?wait=false", json!({"bot_id": id, "content": content})).await
    }

    /// Sends and reads the events of the turn.
    pub async fn send_and_stream(&self, id: &str, content: &str) -> ServerSentEvents {
        let request = self.request(Method::POST, "/api/chat/send").header("accept", "text/event-stream");
        ServerSentEvents::open(request.json(&json!({"bot_id": id, "content": content}))).await
    }

    /// Sends with more fields than text, in the form that `?wait=false` asks for.
    pub async fn submit(&self, id: &str, content: &str, more: Value) -> Answer {
        let mut body = json!({"bot_id": id, "content": content});
        for (name, value) in more.as_object().expect("an object") {
            body[name] = value.clone();
        }
        self.post("/api/chat/send?wait=false", body).await
    }

    /// The turn with this id, as JSON.
    pub async fn turn(&self, id: &Value) -> Value {
        self.get(format!("/api/turn/{}", id.as_str().expect("an id"))).await.expect(200)
    }

    /// The turn with this id once it has ended.
    pub async fn ended(&self, id: &Value) -> Value {
        eventually(&format!("the end of turn {id}"), async || {
            let turn = self.turn(id).await;
            let open = matches!(turn["state"].as_str(), Some("accepted" | "queued" | "generating"));
            (!open).then_some(turn)
        })
        .await
    }

    /// The turn with this id once it is in this state.
    pub async fn turn_in(&self, id: &Value, state: &str) -> Value {
        eventually(&format!("turn {id} {state}"), async || {
            let turn = self.turn(id).await;
            (turn["state"] == state).then_some(turn)
        })
        .await
    }

    /// The bot once it is in one of these states.
    pub async fn bot_in(&self, id: &str, states: &[&str]) -> Value {
        eventually(&format!("{id} in {states:?}"), async || {
            let bot = self.get(format!("/api/bot/{id}")).await.expect(200);
            states.contains(&bot["state"].as_str().unwrap_or_default()).then_some(bot)
        })
        .await
    }

    /// What a page of health says once it says 200. Health is of a moment: where the disk keeps the database waiting for most
    /// of a second, it says so.
    pub async fn well(&self, path: &str) -> Value {
        eventually(&format!("{path} is well"), async || {
            let answer = self.get(path).await;
            (answer.status == StatusCode::OK).then_some(answer.body)
        })
        .await
    }

    /// One message.
    pub async fn message(&self, bot: &str, id: &Value) -> Value {
        self.get(format!("/api/chat/{bot}/{}", id.as_str().expect("an id"))).await.expect(200)
    }

    /// The newest 200 messages of the main conversation.
    pub async fn history(&self, bot: &str) -> Vec<Value> {
        let page = self.get(format!("/api/chat/{bot}?limit=200")).await.expect(200);
        page["items"].as_array().expect("items").clone()
    }

    /// Waits until a turn has written at least so many bytes, as its event stream tells.
    pub async fn written(&self, turn: &Value, bytes: usize) -> String {
        let path = format!("/api/turn/{}/events", turn.as_str().expect("an id"));
        let mut events = self.events(path, None).await;
        let mut text = String::new();
        while text.len() < bytes {
            let event = events.next().await.expect("text before the end of the stream");
            if event.event.as_deref() == Some("token") {
                text.push_str(event.data["data"]["text"].as_str().expect("a text"));
            }
        }
        text
    }

    /// Reads the events of a path, from the start or from after `last_event_id`.
    pub async fn events(&self, path: impl Display, last_event_id: Option<&str>) -> ServerSentEvents {
        let mut request = self.request(Method::GET, path).header("accept", "text/event-stream");
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        ServerSentEvents::open(request).await
    }
}

/// One server-sent event.
#[derive(Debug, Clone)]
pub struct ServerSentEvent {
    pub id: Option<String>,
    pub event: Option<String>,
    /// Its `data` as JSON.
    pub data: Value,
}

/// A stream of server-sent events. Dropping it closes the connection.
pub struct ServerSentEvents {
    chunks: Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send + Unpin>,
    rest: Vec<u8>,
    ready: VecDeque<ServerSentEvent>,
}

impl ServerSentEvents {
    async fn open(request: RequestBuilder) -> Self {
        let response = soon("the head of a stream", request.send()).await.expect("an answer");
        let (status, kind) = (response.status(), response.headers().get("content-type").cloned());
        let is_stream = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        if status != StatusCode::OK || !is_stream {
            panic!("not a stream: {status} {:?}", response.text().await);
        }
        Self::of(response)
    }

    /// The stream of an answer that is known to be one.
    pub fn of(response: reqwest::Response) -> Self {
        Self { chunks: Box::new(response.bytes_stream()), rest: Vec::new(), ready: VecDeque::new() }
    }

    /// The next event; None at the end of the stream. Comments are skipped.
    pub async fn next(&mut self) -> Option<ServerSentEvent> {
        self.try_next().await.expect("the stream is not cut")
    }

    /// As `next`, of a stream that may be cut.
    pub async fn try_next(&mut self) -> reqwest::Result<Option<ServerSentEvent>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            let Some(chunk) = soon("the next event of a stream", self.chunks.next()).await else {
                return Ok(None);
            };
            self.rest.extend_from_slice(&chunk?);
            while let Some(end) = self.rest.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.rest.drain(..end + 2).collect();
                self.ready.extend(parse(std::str::from_utf8(&block).expect("events are UTF-8")));
            }
        }
    }

    /// Every event up to the end of the stream.
    pub async fn rest(mut self) -> Vec<ServerSentEvent> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

fn parse(block: &str) -> Option<ServerSentEvent> {
    let field = |name: &str| {
        let values = block.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        values.map(|value| value.strip_prefix(' ').unwrap_or(value).to_owned()).collect::<Vec<_>>()
    };
    let data = field("data");
    if data.is_empty() {
        return None;
    }
    let data = serde_json::from_str(&data.join("\n")).expect("the data of an event is JSON");
    Some(ServerSentEvent { id: field("id").pop(), event: field("event").pop(), data })
}
