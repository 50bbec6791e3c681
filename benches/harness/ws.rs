//! A reader of sockets that looks only at what it counts: frames of a server are not masked, so a frame is its length
//! and its text.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::http::find;

const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

pub struct Socket {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Bytes at the front of the buffer that were looked at.
    done: usize,
}

/// A token as it came.
#[derive(Debug, Clone, Copy)]
pub struct Token<'a> {
    /// Bytes of text.
    pub bytes: usize,
    /// When it was published: the event's own time.
    pub time: &'a str,
}

impl Socket {
    pub async fn connect(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let ask = format!(
            "GET /ws HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(ask.as_bytes()).await.unwrap();
        let mut buffer = Vec::with_capacity(4096);
        let end = loop {
            if let Some(at) = find(&buffer, b"\r\n\r\n") {
                break at + 4;
            }
            assert!(stream.read_buf(&mut buffer).await.unwrap() > 0, "no handshake");
        };
        assert!(buffer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&buffer));
        Self { stream, buffer, done: end }
    }

    pub async fn say(&mut self, text: &str) {
        // Masked with zeros, which changes nothing; requests here are short.
        let mut frame = vec![0x81];
        match u8::try_from(text.len()) {
            Ok(short) if short < 126 => frame.push(0x80 | short),
            _ => {
                frame.push(0x80 | 126);
                frame.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(text.as_bytes());
        self.stream.write_all(&frame).await.unwrap();
    }

    /// Subscribes behind an event that was seen. What follows is read with [`Self::read`].
    pub async fn resume(&mut self, topic: &str, epoch: &str, seq: u64) {
        let after = format!(r#"{{"epoch":"{epoch}","seq":{seq}}}"#);
        self.say(&format!(r#"{{"type":"subscribe","ref":1,"topic":"{topic}","after":{after}}}"#)).await;
    }

    /// Subscribes and waits until that is confirmed; the confirmation.
    pub async fn subscribe(&mut self, topic: &str) -> String {
        self.say(&format!(r#"{{"type":"subscribe","ref":1,"topic":"{topic}"}}"#)).await;
        loop {
            let mut confirmed = None;
            let see = |text: &str| {
                if text.contains("\"subscribed\"") {
                    confirmed = Some(text.to_owned());
                }
            };
            assert!(self.read(see).await, "the socket ended before the subscription");
            if let Some(confirmed) = confirmed {
                return confirmed;
            }
        }
    }

    /// Reads once, and shows every whole frame that came. False at the end.
    pub async fn read(&mut self, mut each: impl FnMut(&str)) -> bool {
        loop {
            let (mut any, mut pings) = (false, 0);
            while let Some((from, to)) = whole(self.buffer.get(self.done..).unwrap_or_default()) {
                match self.buffer.get(self.done).map(|first| first & 0xf) {
                    Some(PING) => pings += 1,
                    Some(CLOSE) => panic!("the server closed a socket"),
                    _ => {
                        let text = self.buffer.get(self.done + from..self.done + to).unwrap();
                        each(std::str::from_utf8(text).unwrap_or_default());
                        any = true;
                    }
                }
                self.done += to;
            }
            for _ in 0..pings {
                // Pings of the server are empty.
                self.stream.write_all(&[0x80 | PONG, 0x80, 0, 0, 0, 0]).await.unwrap();
            }
            self.buffer.drain(..self.done);
            self.done = 0;
            if any {
                return true;
            }
            if self.stream.read_buf(&mut self.buffer).await.unwrap_or(0) == 0 {
                return false;
            }
        }
    }
}

/// Start and end of the text of the first frame, if all of it is there.
fn whole(bytes: &[u8]) -> Option<(usize, usize)> {
    let short = usize::from(*bytes.get(1)? & 0x7f);
    let (from, length) = match short {
        126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (10, usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?),
        short => (2, short),
    };
    (bytes.len() >= from + length).then_some((from, from + length))
}

/// A text as a server frames it.
pub fn framed(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81];
    match (u8::try_from(text.len()), u16::try_from(text.len())) {
        (Ok(short), _) if short < 126 => frame.push(short),
        (_, Ok(middle)) => {
            frame.push(126);
            frame.extend(middle.to_be_bytes());
        }
        _ => {
            frame.push(127);
            frame.extend((text.len() as u64).to_be_bytes());
        }
    }
    frame.extend(text.as_bytes());
    frame
}

/// Epoch and number of an event or a confirmation.
pub fn place(frame: &str) -> Option<(&str, u64)> {
    let (epoch, rest) = frame.split_once("\"epoch\":\"")?.1.split_once('"')?;
    let digits = rest.strip_prefix(",\"seq\":")?;
    let end = digits.find(|c: char| !c.is_ascii_digit())?;
    Some((epoch, digits.get(..end)?.parse().ok()?))
}

/// The token in a frame, if it is one.
pub fn token(frame: &str) -> Option<Token<'_>> {
    let rest = frame.split_once("\"event\":\"token\",\"time\":\"")?.1;
    let (time, rest) = rest.split_once('"')?;
    let text = rest.split_once("\"text\":\"")?.1;
    // The texts of these benches have nothing to escape.
    Some(Token { bytes: text.find('"')?, time })
}

/// Microseconds into the day of an RFC 3339 time.
pub fn micros(time: &str) -> Option<i64> {
    let (clock, fraction) = time.split_once('T')?.1.trim_end_matches('Z').split_once('.')?;
    let mut seconds = 0;
    for part in clock.split(':') {
        seconds = seconds * 60 + part.parse::<i64>().ok()?;
    }
    Some(seconds * 1_000_000 + format!("{fraction:0<6}").get(..6)?.parse::<i64>().ok()?)
}
