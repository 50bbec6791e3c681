//! One socket, one task: events out, frames in, sends that wait, signs of life.
//!
//! Invariants: the task never waits for a turn; a topic's `subscribed` goes out before its events; a write that does not
//! get through ends the socket; at most [`OUTSTANDING`] sends wait, then nothing more is read.

use std::{
    collections::HashMap,
    pin::{Pin, pin},
    time::Duration,
};

use bytes::Bytes;
use deia_actors::{
    broadcast::reader::{Delivery, FRAME_PREFIX, Lost, Reader},
    controller::{Controller, requests::Sent},
    domain::{
        event::Topic,
        ids::TurnId,
        problem::{Code, Problem},
    },
};
use futures_util::{FutureExt, SinkExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    time::{Instant, Sleep, sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message, Utf8Bytes,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use super::frame::{ClientFrame, Ref, Refused, closing, error, ok, pong, read, subscribed, too_long};
use crate::http::{Api, envelope::with_html};

/// Sends and stops that may wait at once.
const OUTSTANDING: usize = 64;
/// Topics of one socket.
const TOPICS: usize = 1024;
/// Frames that are none, until the socket closes.
const BAD_FRAMES: u32 = 10;
/// From one ping to the next.
const PING_EVERY: Duration = Duration::from_secs(25);
/// For a sign of life after a ping.
const PONG_WITHIN: Duration = Duration::from_secs(10);
/// For a batch of frames to get into the client's connection.
const WRITE_WITHIN: Duration = Duration::from_secs(20);
/// For the state behind a topic.
const SUBSCRIBE_WITHIN: Duration = Duration::from_secs(10);
/// For the client to answer a close.
const GOODBYE: Duration = Duration::from_secs(1);
/// Bytes of one batch.
const BATCH: usize = 64 * 1024;

const GOING_AWAY: u16 = 1001;
const TOO_LONG: u16 = 1009;
const TOO_SLOW: u16 = 4008;
const NOT_KEPT: u16 = 4010;
const TOO_MANY_BAD: u16 = 4500;

/// Why a socket ends.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The client left, or can't be reached.
    Gone,
    /// The server closes.
    Close(u16, &'static str),
    /// The client is sending a frame that is not read to its end.
    Unreadable,
}

struct Socket<S> {
    api: Api,
    io: WebSocketStream<S>,
    reader: Reader,
    /// Topics, and whether their messages are wanted as HTML.
    topics: HashMap<Topic, bool>,
    waiting: FuturesUnordered<BoxFuture<'static, String>>,
    bad: u32,
    timer: Pin<Box<Sleep>>,
    /// A ping is out.
    pinged: bool,
    /// Something came since the last ping.
    heard: bool,
}

/// Serves a socket until it ends.
pub(super) async fn run<S: AsyncRead + AsyncWrite + Unpin>(api: Api, io: WebSocketStream<S>) {
    let reader = api.controller.reader();
    let mut socket = Socket {
        api,
        io,
        reader,
        topics: HashMap::new(),
        waiting: FuturesUnordered::new(),
        bad: 0,
        timer: Box::pin(sleep(PING_EVERY)),
        pinged: false,
        heard: false,
    };
    let end = match socket.serve().await {
        Ok(never) => match never {},
        Err(end) => end,
    };
    tracing::debug!(?end, "a socket ended");
    Box::pin(close(socket.io, end)).await;
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    async fn serve(&mut self) -> Result<std::convert::Infallible, End> {
        let closing = self.api.closing.clone();
        // Once for the socket's life: all sockets share the lock of this token's list.
        let mut closed = pin!(closing.cancelled());
        loop {
            // With too many answers outstanding the client has to wait: its frames stay in its connection.
            let reads = self.waiting.len() < OUTSTANDING;
            tokio::select! {
                () = &mut closed => {
                    // The tree has ended: what waits here is the last that there is to tell.
                    while let Ok(Some(delivery)) = self.reader.try_next() {
                        self.deliver(Ok(delivery)).await?;
                    }
                    return Err(End::Close(GOING_AWAY, "the service is shutting down"));
                }
                delivery = self.reader.next() => self.deliver(delivery).await?,
                // In a box: what a client says is rare and its handling large; an idle socket need not keep room for it.
                frame = self.io.next(), if reads => Box::pin(self.receive(frame)).await?,
                Some(answer) = self.waiting.next(), if !self.waiting.is_empty() => self.say(answer).await?,
                () = self.timer.as_mut() => self.tick(reads).await?,
            }
        }
    }

    /// Sends an event and everything else that is ready, with one flush.
    async fn deliver(&mut self, first: Result<Delivery, Lost>) -> Result<(), End> {
        let mut next = first.map(Some);
        let mut batch = vec![];
        let mut size = 0;
        let lost = loop {
            match next {
                Ok(Some(delivery)) => {
                    let html = self.topics.get(&*delivery.topic).copied().unwrap_or(false);
                    let frame = frame(&delivery, html).await;
                    size += frame.len();
                    batch.push(frame);
                    if size >= BATCH {
                        break None;
                    }
                    next = self.reader.try_next();
                }
                Ok(None) => break None,
                Err(lost) => break Some(lost),
            }
        };
        self.write(batch).await?;
        match lost {
            Some(Lost::TooSlow) => Err(End::Close(TOO_SLOW, "events came faster than they were read")),
            Some(Lost::NotKept) => Err(End::Close(NOT_KEPT, "missed events are not kept any more")),
            None => Ok(()),
        }
    }

    async fn write(&mut self, frames: Vec<Bytes>) -> Result<(), End> {
        let write = async {
            for frame in frames {
                let text = Utf8Bytes::try_from(frame).map_err(|_| End::Gone)?;
                self.io.feed(Message::Text(text)).await.map_err(|_| End::Gone)?;
            }
            self.io.flush().await.map_err(|_| End::Gone)
        };
        let mut write = pin!(write);
        // Nearly always there is room, and no timer is needed.
        match write.as_mut().now_or_never() {
            Some(done) => done,
            None => timeout(WRITE_WITHIN, write).await.unwrap_or(Err(End::Gone)),
        }
    }

    async fn say(&mut self, frame: String) -> Result<(), End> {
        self.write(vec![Bytes::from(frame)]).await
    }

    /// Handles what came from the client.
    async fn receive(&mut self, frame: Option<Result<Message, Error>>) -> Result<(), End> {
        self.heard = true;
        match frame {
            Some(Ok(Message::Text(text))) => match read(&text) {
                Ok(frame) => self.handle(frame).await,
                Err(refused) => self.refuse(*refused).await,
            },
            Some(Ok(Message::Binary(_))) => {
                self.refuse(Refused::frame("frames must be text; this one was binary")).await
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Ok(()),
            Some(Err(Error::Capacity(_))) => {
                self.say(error(None, &too_long().problem)).await?;
                Err(End::Unreadable)
            }
            Some(Ok(Message::Close(_)) | Err(_)) | None => Err(End::Gone),
        }
    }

    async fn refuse(&mut self, refused: Refused) -> Result<(), End> {
        let counts = refused.counts();
        self.say(error(refused.reference.as_ref(), &refused.problem)).await?;
        self.bad += u32::from(counts);
        if counts && self.bad >= BAD_FRAMES {
            return Err(End::Close(TOO_MANY_BAD, "too many frames that are none"));
        }
        Ok(())
    }

    async fn handle(&mut self, frame: ClientFrame) -> Result<(), End> {
        match frame {
            ClientFrame::Ping { reference } => self.say(pong(reference.as_ref())).await,
            ClientFrame::Send { reference, message } => {
                let controller = self.api.controller.clone();
                self.waiting.push(
                    async move {
                        let sent = controller.send(message).await;
                        answer_sent(&reference, sent)
                    }
                    .boxed(),
                );
                Ok(())
            }
            ClientFrame::Stop { reference, turn_id } => {
                self.waiting.push(stop(self.api.controller.clone(), reference, turn_id).boxed());
                Ok(())
            }
            ClientFrame::Unsubscribe { reference, topic } => {
                self.api.controller.unsubscribe(&self.reader, &topic);
                self.topics.remove(&topic);
                self.say(ok(&reference, json!({}))).await
            }
            ClientFrame::Subscribe { reference, topic, after, html } => {
                if self.topics.len() >= TOPICS && !self.topics.contains_key(&topic) {
                    let problem = Problem::field("topic", format!("at most {TOPICS} topics on one socket"));
                    return self.say(error(Some(&reference), &problem)).await;
                }
                let state = self.api.controller.subscribe(&self.reader, topic.clone(), after);
                let state = timeout(SUBSCRIBE_WITHIN, state).await.unwrap_or_else(|_| {
                    Err(Problem::new(Code::Unavailable, "the state of this topic did not come in time"))
                });
                match state {
                    Ok(state) => {
                        self.topics.insert(topic.clone(), html);
                        // Its events wait in the reader meanwhile: this task alone reads it.
                        let frame = subscribed(reference, topic, state, html).await;
                        self.say(frame).await
                    }
                    Err(problem) => {
                        self.api.controller.unsubscribe(&self.reader, &topic);
                        self.topics.remove(&topic);
                        self.say(error(Some(&reference), &problem)).await
                    }
                }
            }
        }
    }

    /// A ping, or the look whether anything came after it. `reads` = somebody listened meanwhile.
    async fn tick(&mut self, reads: bool) -> Result<(), End> {
        if self.pinged && !self.heard && reads {
            return Err(End::Gone);
        }
        let pause = if self.pinged { PING_EVERY.saturating_sub(PONG_WITHIN) } else { PONG_WITHIN };
        self.pinged = !self.pinged;
        self.timer.as_mut().reset(Instant::now() + pause);
        if !self.pinged {
            return Ok(());
        }
        self.heard = false;
        let ping = self.io.send(Message::Ping(Bytes::new()));
        timeout(WRITE_WITHIN, ping).await.ok().and_then(Result::ok).ok_or(End::Gone)
    }
}

/// The shared frame, or one of its own where messages are wanted as HTML.
async fn frame(delivery: &Delivery, html: bool) -> Bytes {
    if html
        && let Some(json) = Box::pin(with_html(delivery)).await
        && let Some(members) = json.strip_prefix('{')
    {
        return Bytes::from(format!("{FRAME_PREFIX}{members}"));
    }
    delivery.frame.clone()
}

fn answer_sent(reference: &Ref, sent: Result<Sent, Problem>) -> String {
    let sent = match sent {
        Ok(sent) => sent,
        Err(problem) => return error(Some(reference), &problem),
    };
    let replayed = sent.replayed();
    let mut answer = match sent {
        Sent::Turn(accepted) => json!({ "turn": accepted.turn, "message": accepted.message }),
        Sent::Command { message, reply, .. } => json!({ "turn": null, "message": message, "reply": reply }),
    };
    if replayed {
        answer["replayed"] = true.into();
    }
    ok(reference, answer)
}

async fn stop(controller: Controller, reference: Ref, turn: TurnId) -> String {
    match controller.stop_turn(turn).await {
        Ok(turn) => ok(&reference, json!({ "turn": turn })),
        Err(problem) => error(Some(&reference), &problem),
    }
}

/// Says why, closes, and waits a moment for the client to agree.
async fn close<S: AsyncRead + AsyncWrite + Unpin>(mut io: WebSocketStream<S>, end: End) {
    let (code, reason) = match end {
        End::Gone => {
            // Answers the client's close, if it sent one.
            let _ = timeout(GOODBYE, io.flush()).await;
            return;
        }
        End::Close(code, reason) => (code, reason),
        End::Unreadable => (TOO_LONG, "a frame was far too long"),
    };
    let goodbye = async {
        io.feed(Message::Text(closing(code, reason).into())).await?;
        io.close(Some(CloseFrame { code: CloseCode::from(code), reason: reason.into() })).await?;
        if end == End::Unreadable {
            // The rest of that frame is dropped unread, so that the client gets to read the answer.
            let mut dropped = [0; 4096];
            while io.get_mut().read(&mut dropped).await? > 0 {}
            return Ok(());
        }
        while let Some(Ok(_)) = io.next().await {}
        Ok::<_, Error>(())
    };
    let _ = timeout(GOODBYE, goodbye).await;
}
