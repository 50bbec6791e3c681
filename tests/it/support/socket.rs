//! A client of `/ws`.

use std::collections::VecDeque;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Bytes, Message},
};

use super::soon;

/// An open socket. Frames that a helper was not looking for are kept and come out of [`Socket::next`] in their order.
pub struct Socket {
    inner: WebSocketStream<MaybeTlsStream<TcpStream>>,
    kept: VecDeque<Value>,
    close_code: Option<u16>,
    refs: u64,
}

impl Socket {
    pub async fn connect(base: &str) -> Self {
        Self::try_connect(base).await.expect("a socket")
    }

    /// As `connect`, to a service that may be away.
    pub async fn try_connect(base: &str) -> Option<Self> {
        let url = format!("{}/ws", base.replacen("http", "ws", 1));
        let (inner, _) = soon("the socket opens", connect_async(url)).await.ok()?;
        Some(Self { inner, kept: VecDeque::new(), close_code: None, refs: 0 })
    }

    /// Sends one frame.
    pub async fn send(&mut self, frame: Value) {
        self.send_text(frame.to_string()).await;
    }

    /// Sends any text, to see what it gets.
    pub async fn send_text(&mut self, text: impl Into<String>) {
        self.inner.send(Message::text(text.into())).await.expect("the socket is open");
    }

    /// Sends a binary frame.
    pub async fn send_binary(&mut self, bytes: impl Into<Bytes>) {
        self.inner.send(Message::binary(bytes)).await.expect("the socket is open");
    }

    /// The next frame; None once the socket is closed.
    pub async fn next(&mut self) -> Option<Value> {
        match self.kept.pop_front() {
            Some(frame) => Some(frame),
            None => self.receive().await,
        }
    }

    /// Sends a frame under a fresh `ref` and waits for what answers it.
    pub async fn call(&mut self, frame: Value) -> Value {
        self.try_call(frame).await.expect("an answer before the socket closes")
    }

    /// As `call`; None where the socket closes before the answer.
    pub async fn try_call(&mut self, mut frame: Value) -> Option<Value> {
        self.refs += 1;
        let reference = json!(format!("r{}", self.refs));
        frame["ref"] = reference.clone();
        self.inner.send(Message::text(frame.to_string())).await.ok()?;
        loop {
            let answer = self.receive().await?;
            if answer["ref"] == reference {
                return Some(answer);
            }
            self.kept.push_back(answer);
        }
    }

    /// Subscribes to a topic from now on; answers the `subscribed` frame.
    pub async fn subscribe(&mut self, topic: &str) -> Value {
        let answer = self.call(json!({"type": "subscribe", "topic": topic})).await;
        assert_eq!(answer["type"], "subscribed", "{answer}");
        answer
    }

    /// The frames up to and with the first event of this name.
    pub async fn until_event(&mut self, name: &str) -> Vec<Value> {
        let mut frames = Vec::new();
        loop {
            let frame =
                self.next().await.unwrap_or_else(|| panic!("{name} before the socket closes: {frames:?}"));
            let found = frame["type"] == "event" && frame["event"] == name;
            frames.push(frame);
            if found {
                return frames;
            }
        }
    }

    /// Reads to the end and answers the close code, if the server said one.
    pub async fn closed(&mut self) -> Option<u16> {
        while self.next().await.is_some() {}
        self.close_code
    }

    async fn receive(&mut self) -> Option<Value> {
        loop {
            match soon("the next frame of a socket", self.inner.next()).await {
                Some(Ok(Message::Text(text))) => {
                    return Some(
                        serde_json::from_str(&text).unwrap_or_else(|_| panic!("a frame is JSON: {text}")),
                    );
                }
                Some(Ok(Message::Close(frame))) => self.close_code = frame.map(|frame| frame.code.into()),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
    }
}
