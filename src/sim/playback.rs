//! An answer as the body of a response: line after line at the pace of the script, with its faults.
//!
//! One line is one HTTP chunk, as from the real server. What is ready at once is handed over without a pause, and the
//! connection writes it in one go; the client's going away drops the body at any point of this.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::{
    answer::Answer,
    script::{Fault, Pace},
    stats::OpenCall,
    wire::{LineWriter, Totals},
};

/// Bytes of the line that is too long.
const LONG: usize = 10_000_000;
/// It leaves in parts of this size.
const LONG_PART: usize = 1 << 16;
/// Neither JSON nor UTF-8.
const GARBAGE: &[u8] = b"<html>\xff\xfe502 Bad Gateway</html>\n";

/// What the answer will cost, known before it is played.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    /// When the request came.
    pub(crate) at: Instant,
    /// How long the model took to load.
    pub(crate) load: Duration,
    /// The estimate of the prompt in tokens.
    pub(crate) prompt_tokens: u64,
}

/// How an answer is played.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Performance {
    pub(crate) pace: Pace,
    pub(crate) fault: Option<(u32, Fault)>,
    pub(crate) chopped: bool,
    /// Milliseconds between two parts of what is chopped.
    pub(crate) drip_ms: u64,
}

/// After so many tokens the answer waits for this.
pub(crate) type Hold = (u32, Pin<Box<WaitForCancellationFutureOwned>>);

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Token(usize),
    ToolCalls,
    Final,
    /// The last bytes are handed over; the next poll lets the connection flush, the one after cuts it.
    Cut {
        flushed: bool,
        kind: io::ErrorKind,
    },
    /// So many bytes of a line are still to come.
    Long(usize),
    Stalled,
    Over,
}

/// The body of a streamed answer.
pub(crate) struct Playback {
    answer: Answer,
    lines: LineWriter,
    how: Performance,
    start: Start,
    first_token: Instant,
    call: OpenCall,
    stage: Stage,
    /// The time of the next token, when there is a pace.
    due: Instant,
    sleep: Option<Pin<Box<Sleep>>>,
    hold: Option<Hold>,
    /// Parts of a line that was chopped.
    parts: VecDeque<Bytes>,
}

impl Playback {
    /// Plays `answer` from its first token, now.
    pub(crate) fn new(
        answer: Answer,
        lines: LineWriter,
        how: Performance,
        start: Start,
        call: OpenCall,
    ) -> Self {
        let now = Instant::now();
        let stage = Stage::Token(0);
        Self {
            answer,
            lines,
            how,
            start,
            first_token: now,
            call,
            stage,
            due: now,
            sleep: None,
            hold: None,
            parts: VecDeque::new(),
        }
    }

    /// The same with a wait in it.
    pub(crate) fn held(self, hold: Option<Hold>) -> Self {
        Self { hold, ..self }
    }

    /// The next line, or `None` where there is none now.
    fn step(&mut self) -> Option<Bytes> {
        match self.stage {
            Stage::Token(n) => {
                if let Some((at, fault)) = self.how.fault
                    && (n >= at as usize || n >= self.answer.len())
                {
                    return self.go_wrong(n, fault);
                }
                let Some((thinking, text)) = self.answer.piece(n) else {
                    self.stage =
                        if self.answer.tool_calls.is_empty() { Stage::Final } else { Stage::ToolCalls };
                    return self.step();
                };
                let line = self.lines.token(thinking, text);
                self.call.tokens(1);
                self.stage = Stage::Token(n + 1);
                if n + 1 < self.answer.len() {
                    self.due += gap(self.how.pace, n);
                }
                Some(line)
            }
            Stage::ToolCalls => {
                self.stage = Stage::Final;
                Some(self.lines.tool_calls(&self.answer.tool_calls))
            }
            Stage::Final => {
                self.stage = Stage::Over;
                self.call.end();
                let totals = totals(&self.answer, self.start, self.first_token);
                Some(self.lines.done(&totals))
            }
            Stage::Long(left) => {
                let part = left.min(LONG_PART);
                self.stage = if part == left { Stage::Stalled } else { Stage::Long(left - part) };
                Some(Bytes::from(vec![b'x'; part]))
            }
            Stage::Cut { .. } | Stage::Stalled | Stage::Over => None,
        }
    }

    fn go_wrong(&mut self, tokens: usize, fault: Fault) -> Option<Bytes> {
        match fault {
            Fault::Error => {
                self.stage = Stage::Over;
                self.call.end();
                Some(Bytes::from(format!("{{\"error\":\"{}\"}}\n", error_text(tokens))))
            }
            Fault::Garbage => {
                self.stage = Stage::Over;
                self.call.end();
                Some(Bytes::from_static(GARBAGE))
            }
            Fault::Long => {
                self.stage = Stage::Long(LONG);
                self.step()
            }
            Fault::Cut | Fault::Reset => {
                let kind = match fault {
                    Fault::Reset => io::ErrorKind::ConnectionReset,
                    _ => io::ErrorKind::ConnectionAborted,
                };
                self.stage = Stage::Cut { flushed: false, kind };
                self.call.end();
                None
            }
            Fault::Stall => {
                self.stage = Stage::Stalled;
                None
            }
        }
    }

    /// Cuts a line where it hurts: parts of 1 to 7 bytes, whatever lies between them.
    fn chop(&mut self, mut line: Bytes) {
        let mut size = 3;
        while !line.is_empty() {
            size = size % 7 + 1;
            self.parts.push_back(line.split_to(size.min(line.len())));
            size = size * 3 + line.len();
        }
    }
}

impl Body for Playback {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        loop {
            if this.how.drip_ms > 0 && !this.parts.is_empty() {
                let drip = Duration::from_millis(this.how.drip_ms);
                let sleep = this.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(drip)));
                std::task::ready!(sleep.as_mut().poll(cx));
                this.sleep = None;
            }
            if let Some(part) = this.parts.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(part))));
            }
            if let Stage::Token(n) = this.stage
                && let Some((_, let_go)) = this.hold.as_mut().filter(|(at, _)| n >= *at as usize)
            {
                std::task::ready!(let_go.as_mut().poll(cx));
                this.hold = None;
                this.due = this.due.max(Instant::now());
            }
            if this.how.pace != Pace::Fixed(0) && matches!(this.stage, Stage::Token(_)) {
                if this.sleep.is_none() && this.due > Instant::now() {
                    this.sleep = Some(Box::pin(tokio::time::sleep_until(this.due)));
                }
                if let Some(sleep) = &mut this.sleep {
                    std::task::ready!(sleep.as_mut().poll(cx));
                    this.sleep = None;
                    this.lines.stamp();
                }
            }
            match this.step() {
                Some(line) if this.how.chopped => this.chop(line),
                Some(line) => return Poll::Ready(Some(Ok(Frame::data(line)))),
                None => {}
            }
            match this.stage {
                Stage::Over if this.parts.is_empty() => return Poll::Ready(None),
                Stage::Stalled => return Poll::Pending,
                Stage::Cut { flushed: false, kind } => {
                    this.stage = Stage::Cut { flushed: true, kind };
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Stage::Cut { flushed: true, kind } => {
                    return Poll::Ready(Some(Err(io::Error::new(kind, "cut by the script"))));
                }
                _ => {}
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stage == Stage::Over && self.parts.is_empty()
    }
}

/// The words of a scripted failure after so many tokens.
pub(crate) fn error_text(tokens: usize) -> String {
    format!("an error was encountered while running the model: scripted failure after {tokens} tokens")
}

/// The figures of the last line, as of now.
pub(crate) fn totals(answer: &Answer, start: Start, first_token: Instant) -> Totals {
    let total = start.at.elapsed();
    let eval = first_token.elapsed();
    Totals {
        done_reason: answer.done_reason,
        total_ns: total.as_nanos(),
        load_ns: start.load.as_nanos(),
        prompt_tokens: start.prompt_tokens,
        prompt_ns: total.saturating_sub(eval).saturating_sub(start.load).as_nanos().max(1),
        tokens: answer.len(),
        eval_ns: eval.as_nanos().max(1),
    }
}

/// The wait after token `n`; the natural pace varies by a fixed pattern, so that two runs look alike.
fn gap(pace: Pace, n: usize) -> Duration {
    match pace {
        Pace::Fixed(ms) => Duration::from_millis(ms),
        Pace::Natural => Duration::from_millis(15 + (n as u64 * 7) % 11),
    }
}

/// How long the whole answer takes after its first token, for answers in one piece.
pub(crate) fn duration(pace: Pace, tokens: usize) -> Duration {
    match pace {
        Pace::Fixed(0) => Duration::ZERO,
        pace => (1..tokens).map(|n| gap(pace, n - 1)).sum(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::sync::Arc;

    use http_body_util::BodyExt;

    use super::*;
    use crate::sim::{answer::compose, request::Run, script::Script, stats::Counters, wire::Dialect};

    async fn frames(name: &str) -> (Vec<Bytes>, bool, Arc<Counters>) {
        let script = Script::parse(name).unwrap().unwrap();
        let run: Run<'_> =
            serde_json::from_str(r#"{"messages":[{"role":"user","content":"a b c"}]}"#).unwrap();
        let counters = Arc::new(Counters::default());
        let start = Start { at: Instant::now(), load: Duration::ZERO, prompt_tokens: 3 };
        let how = Performance {
            pace: script.pace,
            fault: script.fault,
            chopped: script.chopped,
            drip_ms: script.drip_ms,
        };
        let lines = LineWriter::new(Dialect::Chat, name);
        let mut body = Playback::new(compose(&script, &run), lines, how, start, counters.begin());
        let (mut frames, mut failed) = (Vec::new(), false);
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => frames.push(frame.into_data().unwrap()),
                Err(_) => {
                    failed = true;
                    break;
                }
            }
        }
        (frames, failed, counters)
    }

    #[tokio::test]
    async fn tokens_come_at_the_pace_of_the_script() {
        let before = Instant::now();
        let (lines, failed, counters) = frames("sim:tokens=11,gap_ms=5").await;
        assert_eq!((lines.len(), failed), (12, false));
        assert!(before.elapsed() >= Duration::from_millis(50), "{:?}", before.elapsed());
        let stats = counters.read();
        assert_eq!((stats.tokens, stats.open, stats.closed_early), (11, 0, 0));
    }

    #[tokio::test]
    async fn a_cut_fails_the_body_after_its_tokens_and_an_error_line_ends_it() {
        let (lines, failed, counters) = frames("sim:cut_at=4").await;
        assert_eq!((lines.len(), failed, counters.read().closed_early), (4, true, 0));
        let (lines, failed, _) = frames("sim:error_at=4").await;
        assert_eq!((lines.len(), failed), (5, false));
        assert!(lines[4].starts_with(b"{\"error\":\"an error was encountered"));
    }

    #[tokio::test]
    async fn chopped_frames_join_to_the_same_lines_and_cut_characters() {
        let (parts, ..) = frames("sim:utf8").await;
        assert!(parts.iter().all(|p| p.len() <= 7));
        assert!(parts.iter().any(|p| std::str::from_utf8(p).is_err()), "a character is cut somewhere");
        let text = String::from_utf8(parts.concat()).unwrap();
        assert_eq!(text.lines().count(), 21);
        assert!(text.lines().all(|l| serde_json::from_str::<serde_json::Value>(l).is_ok()));
    }

    #[tokio::test]
    async fn a_body_dropped_half_way_counts_as_closed_early() {
        let counters = Arc::new(Counters::default());
        drop(counters.begin());
        assert_eq!(counters.read().closed_early, 1);
    }
}
