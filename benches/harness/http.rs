//! A small HTTP/1.1 client on one kept connection: one system call to ask, as few as come to read, nothing parsed that
//! is not needed. It must cost less than what it measures.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{QUESTION, TOKEN_BYTES};

pub struct Client {
    stream: TcpStream,
    address: SocketAddr,
    pub answer: Vec<u8>,
}

/// Turns of one conversation before the next one is talked in: prompts have 20 messages on average, in rounds of any
/// length.
const TURNS_EACH: usize = 20;

/// Somebody who talks with one bot.
pub struct User {
    requests: Vec<Vec<u8>>,
    pub conversations: Vec<String>,
    asked: usize,
}

impl User {
    /// The next message.
    pub fn next(&mut self) -> &[u8] {
        let at = self.asked / TURNS_EACH % self.requests.len();
        self.asked += 1;
        self.requests.get(at).unwrap()
    }
}

/// What a turn took, in milliseconds, and what came.
#[derive(Debug, Clone, Copy)]
pub struct Took {
    pub first_ms: f64,
    pub total_ms: f64,
}

pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, address, answer: Vec::with_capacity(16 << 10) }
    }

    /// A whole request as bytes, to be made once and sent often.
    pub fn request(&self, method: &str, path: &str, accept: &str, body: &str) -> Vec<u8> {
        format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nAccept: {accept}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        )
        .into_bytes()
    }

    /// Sends and reads the answer to its end; when a byte of `first` came, and the end.
    pub async fn ask(&mut self, request: &[u8], first: Option<&[u8]>) -> Took {
        let took = self.exchange(request, first).await;
        assert!(self.answer.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&self.answer));
        took
    }

    /// The same, whatever is answered.
    pub async fn exchange(&mut self, request: &[u8], first: Option<&[u8]>) -> Took {
        let start = Instant::now();
        self.answer.clear();
        self.stream.write_all(request).await.unwrap();
        let mut came = None;
        let mut seen = 0;
        let mut needed = None;
        loop {
            let read = self.stream.read_buf(&mut self.answer).await.unwrap();
            assert!(read > 0, "the connection ended: {}", String::from_utf8_lossy(&self.answer));
            if let (None, Some(first)) = (came, first) {
                if find(self.answer.get(seen..).unwrap(), first).is_some() {
                    came = Some(start.elapsed());
                }
                seen = self.answer.len().saturating_sub(first.len());
            }
            if needed.is_none() {
                needed = length(&self.answer);
            }
            match needed {
                Some(Some(all)) if self.answer.len() >= all => break,
                Some(None) if self.answer.ends_with(b"\r\n0\r\n\r\n") => break,
                _ => {}
            }
        }
        let total = start.elapsed();
        Took { first_ms: millis(came.unwrap_or(total)), total_ms: millis(total) }
    }

    /// Asks for JSON.
    pub async fn json(&mut self, method: &str, path: &str, body: Value) -> Value {
        let request = self.request(method, path, "application/json", &body.to_string());
        self.ask(&request, None).await;
        let at = find(&self.answer, b"\r\n\r\n").unwrap() + 4;
        serde_json::from_slice(self.answer.get(at..).unwrap()).unwrap()
    }

    /// Launches a bot and returns the id of its conversation.
    pub async fn launch(&mut self, id: &str, model: &str) -> String {
        let config = json!({ "model": model });
        let bot = self.json("POST", "/api/bot/launch", json!({ "bot_id": id, "config": config })).await;
        bot["main_conversation_id"].as_str().unwrap().to_owned()
    }

    /// A bot with so many conversations, and a message to each of them, ready to be sent.
    pub async fn user(&mut self, id: &str, model: &str, conversations: usize, accept: &str) -> User {
        let mut topics = vec![self.launch(id, model).await];
        while topics.len() < conversations {
            let path = format!("/api/chat/{id}/conversations");
            let made = self.json("POST", &path, json!({})).await;
            topics.push(made["id"].as_str().unwrap().to_owned());
        }
        let requests = topics.iter().map(|conversation| {
            let body = json!({ "bot_id": id, "content": QUESTION, "conversation_id": conversation });
            self.request("POST", "/api/chat/send", accept, &body.to_string())
        });
        User { requests: requests.collect(), conversations: topics, asked: 0 }
    }

    /// One turn as a stream of events; the first token is the first one that is seen.
    pub async fn stream(&mut self, request: &[u8], tokens: usize) -> Took {
        let took = self.ask(request, Some(b"event: token")).await;
        assert!(find(&self.answer, b"event: turn_completed").is_some(), "no end");
        assert!(self.says(tokens), "not {tokens} tokens: {}", String::from_utf8_lossy(&self.answer));
        took
    }

    /// One turn that waits for its answer as JSON.
    pub async fn wait(&mut self, request: &[u8], tokens: usize) -> Took {
        let took = self.ask(request, None).await;
        assert!(self.says(tokens), "not {tokens} tokens: {}", String::from_utf8_lossy(&self.answer));
        took
    }

    /// Whether the last member `content` of the answer has the length of so many tokens.
    fn says(&self, tokens: usize) -> bool {
        let needle = b"\"content\":\"";
        let at = self.answer.windows(needle.len()).rposition(|w| w == needle);
        let text = at.and_then(|at| self.answer.get(at + needle.len()..));
        let length = text.and_then(|t| t.iter().position(|&b| b == b'"'));
        length == Some(tokens * TOKEN_BYTES)
    }

    /// The same question straight to the model server, with the history that a turn of [`User`] has on average.
    pub fn direct(&self, model: &str) -> Vec<u8> {
        let said = |role: &str, content: &str| json!({ "role": role, "content": content });
        let answer = "0000 ".repeat(20);
        let history = (0..TURNS_EACH / 2).flat_map(|_| [said("user", QUESTION), said("assistant", &answer)]);
        let messages: Vec<_> = history.chain([said("user", QUESTION)]).collect();
        let body =
            json!({ "model": model, "messages": messages, "stream": true, "options": { "num_ctx": 4096 } });
        self.request("POST", "/api/chat", "application/x-ndjson", &body.to_string())
    }

    pub async fn direct_turn(&mut self, request: &[u8]) -> Took {
        let took = self.ask(request, Some(b"\"content\":\"0")).await;
        assert!(find(&self.answer, b"\"done\":true").is_some(), "no end");
        took
    }
}

/// Where the answer ends: `Some(None)` where its length is not known before its end, `None` while the head is incomplete.
fn length(answer: &[u8]) -> Option<Option<usize>> {
    let end = find(answer, b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(answer.get(..end)?).to_ascii_lowercase();
    let given = head.lines().find_map(|l| l.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    Some(given.map(|n| end + n))
}
