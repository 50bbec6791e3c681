//! Events over HTTP: one turn as `text/event-stream`, from its start or from where a reader stopped.
//!
//! The stream ends after the terminal event, when the reader was too slow (it may resume) and when the process ends.
//! Everything that is ready goes out in one write; what waits behind a slow client is merged by the reader.

mod cursor;

use std::{
    convert::Infallible,
    fmt::Write as _,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use deia_actors::{
    broadcast::reader::{Delivery, DeliveryKind, Reader},
    controller::{
        Controller,
        requests::{ResumeFrom, RunningReply, Snapshot, Subscribed},
    },
    domain::{
        event::Topic,
        ids::{EventId, TurnId},
        message::Message,
        time::Timestamp,
        turn::Turn,
    },
};
use futures_util::{Stream, StreamExt, stream::unfold};
use http::{
    HeaderName, HeaderValue, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use warp::{Reply, reply::Response};

use self::cursor::Cursor;
use super::{
    Api, SSE_HEARTBEAT,
    envelope::{Envelope, pieces, terminal_name, with_html},
    problem::Answer,
    render,
};

/// A write is not made larger than this, except by one large event.
const CHUNK: usize = 32 * 1024;
/// How long the terminal event of a turn that has ended may take to arrive before it is made from the turn.
const LATE: Duration = Duration::from_secs(1);
/// First bytes: how soon to come back after a break.
const RETRY: &str = "retry: 1000\n\n";

/// The events of a turn whose reader was attached before it began.
pub(super) fn follow(api: &Api, id: TurnId, reader: Reader, html: bool) -> Response {
    stream(Feed {
        id,
        reader,
        place: None,
        html,
        out: RETRY.to_owned(),
        ended: false,
        over: None,
        closing: api.closing.clone(),
    })
}

/// The events of a turn, from `last` (the id of the last event that the client has) or from the start.
pub(super) async fn turn(api: &Api, id: TurnId, last: Option<&str>, html: bool) -> Answer {
    let known = api.controller.turn(id).await?;
    let topic = Topic::Turn(id);
    let cursor = last.map(|last| Cursor::parse(id, last));
    let after = match &cursor {
        None => Some(ResumeFrom::default()),
        Some(Some(cursor)) => Some(cursor.resume()),
        Some(None) => None,
    };
    let mut reader = api.controller.reader();
    let mut subscribed = api.controller.subscribe(&reader, topic.clone(), after).await?;
    if subscribed.snapshot.is_none() && cursor.flatten().is_some_and(|c| c.ended) {
        let more = reader.is_behind() || reader.try_next().is_ok_and(|next| next.is_some());
        if known.state.is_terminal() && !more {
            // 204 tells a browser's EventSource not to come back.
            let mut response = Response::default();
            *response.status_mut() = StatusCode::NO_CONTENT;
            return Ok(response);
        }
        // It claims an end that it can't have seen there.
        subscribed = api.controller.subscribe(&reader, topic.clone(), None).await?;
    }
    let over = known.state.is_terminal().then(|| api.controller.clone());
    let mut feed = Feed {
        id,
        reader,
        place: None,
        html,
        out: RETRY.to_owned(),
        ended: false,
        over,
        closing: api.closing.clone(),
    };
    feed.begin(&topic, subscribed).await;
    Ok(stream(feed))
}

fn stream(feed: Feed) -> Response {
    let chunks = unfold(feed, |mut feed| async move {
        let chunk = feed.chunk().await?;
        Some((chunk, feed))
    });
    respond(chunks)
}

/// An answer of server-sent events.
pub(super) fn respond(chunks: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    let chunks = chunks.map(Ok::<_, Infallible>);
    let mut response = warp::reply::stream(Exclusive(Mutex::new(Box::pin(chunks)))).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that buffer answers make a stream useless.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

/// A stream that only its owner polls, shareable as bodies must be. Never locked: `get_mut` needs no lock.
pub(super) struct Exclusive<S>(pub(super) Mutex<Pin<Box<S>>>);

impl<S: Stream> Stream for Exclusive<S> {
    type Item = S::Item;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.get_mut().as_mut().poll_next(cx)
    }
}

/// One client's stream of one turn.
struct Feed {
    id: TurnId,
    reader: Reader,
    /// Where the client stands after what was written; none before the first event.
    place: Option<Cursor>,
    html: bool,
    /// Written and not sent.
    out: String,
    ended: bool,
    /// Set where the turn had ended before the stream began: how to get its end if no event brings it.
    over: Option<Controller>,
    closing: CancellationToken,
}

impl Feed {
    /// What comes before the events of the reader: the running text, or a snapshot.
    async fn begin(&mut self, topic: &Topic, subscribed: Subscribed) {
        let Subscribed { epoch, seq, running, snapshot, .. } = subscribed;
        let running = running.unwrap_or_default();
        let mut place = Cursor::at(self.id, epoch, seq);
        let Some(Snapshot::Turn { turn, reply }) = snapshot else {
            for piece in pieces(&running) {
                place.sent(piece.message_id, piece.kind, piece.offset + piece.text.len());
                let event = Envelope {
                    topic,
                    epoch,
                    seq,
                    id: EventId::new(),
                    event: "token",
                    time: Timestamp::now(),
                    data: &piece,
                };
                write_event(&mut self.out, "token", &place, &event.json());
            }
            self.place = Some(place);
            return;
        };
        for piece in pieces(&running) {
            place.sent(piece.message_id, piece.kind, piece.offset + piece.text.len());
        }
        let reply = self.message(reply.as_ref()).await;
        self.snapshot(topic, &place, &turn, &reply, &running);
        self.terminal(topic, &mut place, &turn, reply);
        self.place = Some(place);
    }

    async fn message(&self, message: Option<&Message>) -> Value {
        let mut value = json!(message);
        if !self.html {
            return value;
        }
        let text = message.map_or(0, |m| m.content.len());
        render::aside(text, move || {
            render::add_html(&mut value);
            value
        })
        .await
    }

    fn snapshot(
        &mut self,
        topic: &Topic,
        place: &Cursor,
        turn: &Turn,
        reply: &Value,
        running: &[RunningReply],
    ) {
        let event = Envelope {
            topic,
            epoch: place.epoch,
            seq: place.seq,
            id: EventId::new(),
            event: "snapshot",
            time: Timestamp::now(),
            data: json!({ "recovered": false, "turn": turn, "reply": reply, "running": running }),
        };
        write_event(&mut self.out, "snapshot", place, &event.json());
    }

    /// The terminal event of a turn that has ended.
    fn terminal(&mut self, topic: &Topic, place: &mut Cursor, turn: &Turn, reply: Value) {
        let Some(name) = terminal_name(turn) else { return };
        place.ended = true;
        place.offsets.clear();
        let data = match reply {
            Value::Null => json!({ "turn": turn }),
            reply => json!({ "turn": turn, "reply": reply }),
        };
        let event = Envelope {
            topic,
            epoch: place.epoch,
            seq: place.seq,
            id: EventId::new(),
            event: name,
            time: turn.ended_at.unwrap_or_else(Timestamp::now),
            data,
        };
        write_event(&mut self.out, name, place, &event.json());
        self.ended = true;
    }

    /// What to send next; none at the end.
    async fn chunk(&mut self) -> Option<Bytes> {
        if !self.out.is_empty() {
            return Some(self.take());
        }
        if self.ended {
            return None;
        }
        // What was missed may take its time; the end of the turn is the last of it.
        let late = self.over.is_some() && !self.reader.is_behind();
        let wait = if late { LATE } else { SSE_HEARTBEAT };
        tokio::select! {
            biased;
            delivery = self.reader.next() => {
                let mut next = delivery.map(Some);
                while let Ok(Some(delivery)) = &next {
                    self.write(delivery).await;
                    if self.ended || self.out.len() >= CHUNK {
                        break;
                    }
                    next = self.reader.try_next();
                }
                if let Err(lost) = next {
                    self.ended = true;
                    let _ = write!(self.out, ": {lost}, come back\n\n");
                }
                Some(self.take())
            }
            () = self.closing.cancelled() => {
                self.ended = true;
                self.out.push_str(": the service is shutting down, come back\n\n");
                Some(self.take())
            }
            () = sleep(wait) => {
                match self.over.take_if(|_| late) {
                    Some(tree) => self.make_end(&tree).await,
                    None => self.out.push_str(": alive\n\n"),
                }
                (!self.out.is_empty()).then(|| self.take())
            }
        }
    }

    fn take(&mut self) -> Bytes {
        Bytes::from(std::mem::take(&mut self.out))
    }

    /// The end of a turn that has ended, where no event brought it.
    async fn make_end(&mut self, tree: &Controller) {
        let id = self.id;
        let found = async {
            let turn = tree.turn(id).await?;
            let reply = tree.message(&turn.bot_id, turn.reply_id, None).await?.message;
            Ok::<_, deia_actors::domain::problem::Problem>((turn, reply))
        };
        match (found.await, self.place.take()) {
            (Ok((turn, reply)), Some(mut place)) => {
                let reply = self.message(Some(&reply)).await;
                self.terminal(&Topic::Turn(id), &mut place, &turn, reply);
                self.place = Some(place);
            }
            (Err(problem), _) => {
                tracing::warn!(turn.id = %id, %problem, "the end of a turn could not be read");
                self.ended = true;
            }
            (Ok(_), None) => self.ended = true,
        }
    }

    async fn write(&mut self, delivery: &Delivery) {
        let at = || Cursor::at(self.id, delivery.epoch, delivery.seq);
        let place = self.place.get_or_insert_with(at);
        (place.epoch, place.seq) = (delivery.epoch, delivery.seq);
        match &delivery.kind {
            DeliveryKind::Token { message_id, kind, end, .. } => place.sent(*message_id, *kind, *end),
            DeliveryKind::Durable(event) if event.ends.is_some() => {
                place.ended = true;
                place.offsets.clear();
                self.ended = true;
            }
            DeliveryKind::Durable(_) | DeliveryKind::QueueMoved => {}
        }
        let place = place.clone();
        if self.html
            && let Some(json) = with_html(delivery).await
        {
            write_event(&mut self.out, &delivery.name, &place, &json);
            return;
        }
        let (head, members) = delivery.envelope();
        write_event_parts(&mut self.out, &delivery.name, &place, head, &String::from_utf8_lossy(&members));
    }
}

fn write_event(out: &mut String, name: &str, place: &Cursor, json: &str) {
    write_event_parts(out, name, place, "", json);
}

/// JSON has no line breaks of its own, so one `data:` line carries it.
fn write_event_parts(out: &mut String, name: &str, place: &Cursor, head: &str, json: &str) {
    out.reserve(json.len() + 160);
    // Writing to a string can't fail.
    let _ = write!(out, "event: {name}\nid: {place}\ndata: {head}{json}\n\n");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use deia_actors::domain::ids::Epoch;

    use super::*;

    #[test]
    fn an_event_is_three_lines_and_an_empty_one() {
        let (turn, epoch) = (TurnId::new(), Epoch::new());
        let mut out = String::new();
        write_event_parts(&mut out, "token", &Cursor::at(turn, epoch, 3), "{", "\"a\":1}");
        let id = format!("{}.{}.3", turn.0.simple(), epoch.0.simple());
        assert_eq!(out, format!("event: token\nid: {id}\ndata: {{\"a\":1}}\n\n"));
    }

    #[test]
    fn text_with_line_breaks_stays_on_one_line() {
        let event = Envelope {
            topic: &Topic::Bots,
            epoch: Epoch::new(),
            seq: 1,
            id: EventId::new(),
            event: "x",
            time: Timestamp(0),
            data: json!({ "text": "a\nb\r\n\u{2028}" }),
        };
        assert!(!event.json().contains(['\n', '\r']));
    }
}
