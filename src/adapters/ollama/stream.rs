//! An answer as it comes: bytes of one response, read under two time limits, handed over in bursts.
//!
//! The connection hands the body over one HTTP chunk at a time, so tokens that arrived together would leave one by one.
//! Therefore a burst is drained: while a chunk is ready, or is ready after the connection's task had one turn, parse
//! on; then hand over once. Nothing waits on a timer for this.

use std::time::Duration;

use bytes::Bytes;
use deia_actors::ports::chat_model::{ChatBurst, ChatStream, ModelError, Wait};
use futures_util::FutureExt;
use reqwest::Response;
use tokio::{
    task::yield_now,
    time::{Instant, timeout_at},
};

use super::{failure::broken, lines::LineReader};

/// A burst is handed over when it has taken in so many bytes, however fast more come.
const MAX_BURST: usize = 64 << 10;
/// How long the end of the body may take after the last line; later the connection is closed instead of used again.
const END_TIME: Duration = Duration::from_millis(500);

/// What one look at the connection brought.
enum Arrived {
    Bytes(Bytes),
    End,
    Broken(ModelError),
}

struct Answer {
    response: Response,
    reader: LineReader,
    /// When the next line must have come, and which limit that is.
    deadline: Instant,
    wait: Wait,
    idle: Duration,
    /// Found while there was still text to hand over.
    failed: Option<ModelError>,
    /// The body is read to its end.
    at_end: bool,
}

/// The answer in `response`, whose first line must come before `first_byte`.
pub(super) fn answer(response: Response, first_byte: Instant, idle: Duration) -> ChatStream {
    let answer = Answer {
        response,
        reader: LineReader::new(),
        deadline: first_byte,
        wait: Wait::FirstByte,
        idle,
        failed: None,
        at_end: false,
    };
    Box::pin(futures_util::stream::unfold(Some(answer), |answer| async {
        let mut answer = answer?;
        match answer.burst().await {
            Some(Ok(burst)) => Some((Ok(burst), Some(answer))),
            // Dropping the answer closes the connection.
            Some(Err(error)) => Some((Err(error), None)),
            None => None,
        }
    }))
}

impl Answer {
    async fn burst(&mut self) -> Option<Result<ChatBurst, ModelError>> {
        if let Some(error) = self.failed.take() {
            return Some(Err(error));
        }
        if self.reader.is_done() {
            self.read_end().await;
            return None;
        }
        let (mut burst, mut taken) = (ChatBurst::default(), 0);
        loop {
            let arrived = match timeout_at(self.deadline, self.response.chunk()).await {
                Ok(chunk) => arrived(chunk),
                Err(_) => return Some(Err(ModelError::Timeout(self.wait))),
            };
            let mut next = Some(arrived);
            while let Some(arrived) = next {
                if let Err(error) = self.take(arrived, &mut burst, &mut taken) {
                    if is_empty(&burst) {
                        return Some(Err(error));
                    }
                    self.failed = Some(error);
                    return Some(Ok(burst));
                }
                if self.at_end || taken >= MAX_BURST {
                    break;
                }
                next = self.ready().await;
            }
            if !is_empty(&burst) {
                return Some(Ok(burst));
            }
            // Half a line, or one without text: wait on.
        }
    }

    /// What is there without waiting, or is there once the connection's task had a turn.
    async fn ready(&mut self) -> Option<Arrived> {
        if let Some(chunk) = self.response.chunk().now_or_never() {
            return Some(arrived(chunk));
        }
        yield_now().await;
        self.response.chunk().now_or_never().map(arrived)
    }

    fn take(&mut self, arrived: Arrived, burst: &mut ChatBurst, taken: &mut usize) -> Result<(), ModelError> {
        match arrived {
            Arrived::Bytes(bytes) => {
                *taken += bytes.len();
                if self.reader.feed(&bytes, burst)? > 0 {
                    self.wait = Wait::Idle;
                    self.deadline = Instant::now() + self.idle;
                }
                Ok(())
            }
            Arrived::End => {
                self.at_end = true;
                self.reader.finish(burst)
            }
            // A whole answer stays whole, however its connection ends.
            Arrived::Broken(_) if self.reader.is_done() => {
                self.at_end = true;
                Ok(())
            }
            Arrived::Broken(error) => Err(error),
        }
    }

    /// Reads what follows the last line, so that the connection can be used again.
    async fn read_end(&mut self) {
        let deadline = Instant::now() + END_TIME;
        while !self.at_end {
            match timeout_at(deadline, self.response.chunk()).await {
                Ok(Ok(Some(_))) => {}
                _ => self.at_end = true,
            }
        }
    }
}

fn arrived(chunk: reqwest::Result<Option<Bytes>>) -> Arrived {
    match chunk {
        Ok(Some(bytes)) => Arrived::Bytes(bytes),
        Ok(None) => Arrived::End,
        Err(error) => Arrived::Broken(broken(&error)),
    }
}

fn is_empty(burst: &ChatBurst) -> bool {
    burst.pieces.is_empty() && burst.tool_calls.is_empty() && burst.done.is_none()
}
