//! A pull as it goes on: the lines of `/api/pull`, read under limits that follow from what the server is doing.
//!
//! ollama-rs reads them with the flaws of its chat stream (head of `ollama.rs`), so they are read by hand here too.

use std::time::Duration;

use deia_actors::ports::chat_model::{ModelError, PullStep, PullStream, Wait};
use reqwest::Response;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::{
    Limits,
    failure::broken,
    lines::{MAX_LINE, place, words},
};

/// The status of the last line.
const SUCCESS: &str = "success";
/// So much of a server's words is passed on, in characters.
const MAX_WORDS: usize = 300;
/// How long a server may be silent while it computes a checksum over a whole model.
const CHECKSUM: Duration = Duration::from_secs(900);

/// How far a pull is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Asking the registry.
    Manifest,
    /// Bytes are coming; Ollama reports many times a second, also while nothing comes.
    Layers,
    /// Checksums, writing.
    Afterwards,
    /// The model is there, or the pull failed.
    Over,
}

struct Pulling {
    response: Response,
    model: String,
    limits: Limits,
    phase: Phase,
    deadline: Instant,
    /// What was received and not read yet.
    received: Vec<u8>,
    /// The begin of it has no line feed.
    searched: usize,
    at_end: bool,
}

#[derive(Deserialize)]
struct Line {
    error: Option<Value>,
    status: Option<String>,
    digest: Option<String>,
    total: Option<u64>,
    completed: Option<u64>,
}

/// The steps in `response`, the first of which must come before `first_byte`.
pub(super) fn steps(response: Response, model: &str, first_byte: Instant, limits: Limits) -> PullStream {
    let pulling = Pulling {
        response,
        model: model.to_owned(),
        limits,
        phase: Phase::Manifest,
        deadline: first_byte,
        received: Vec::new(),
        searched: 0,
        at_end: false,
    };
    Box::pin(futures_util::stream::unfold(Some(pulling), |pulling| async {
        let mut pulling = pulling?;
        if pulling.phase == Phase::Over {
            return None;
        }
        match pulling.step().await {
            Ok(step) => Some((Ok(step), Some(pulling))),
            // Dropping the response closes the connection.
            Err(error) => Some((Err(error), None)),
        }
    }))
}

impl Pulling {
    async fn step(&mut self) -> Result<PullStep, ModelError> {
        loop {
            while let Some(line) = self.line() {
                if !line.trim_ascii().is_empty() {
                    return self.read(&line);
                }
            }
            if self.at_end {
                return Err(ModelError::Cut);
            }
            if self.received.len() > MAX_LINE {
                return Err(ModelError::Protocol(format!("a line longer than {MAX_LINE} bytes")));
            }
            match timeout_at(self.deadline, self.response.chunk()).await {
                Ok(Ok(Some(bytes))) => self.received.extend_from_slice(&bytes),
                Ok(Ok(None)) => self.at_end = true,
                Ok(Err(error)) => return Err(broken(&error)),
                Err(_) if self.phase == Phase::Manifest => return Err(ModelError::Timeout(Wait::FirstByte)),
                Err(_) => return Err(ModelError::Timeout(Wait::Idle)),
            }
        }
    }

    /// The next whole line; at the end also one without a line feed.
    fn line(&mut self) -> Option<Vec<u8>> {
        let found = self.received[self.searched..].iter().position(|byte| *byte == b'\n');
        if let Some(end) = found.map(|at| self.searched + at) {
            self.searched = 0;
            return Some(self.received.drain(..=end).collect());
        }
        self.searched = self.received.len();
        (self.at_end && !self.received.is_empty()).then(|| std::mem::take(&mut self.received))
    }

    fn read(&mut self, line: &[u8]) -> Result<PullStep, ModelError> {
        let Line { error, status, digest, total, completed } = match serde_json::from_slice(line) {
            Ok(line) => line,
            // Half a line is what a cut looks like, not nonsense of the server.
            Err(_) if self.at_end => return Err(ModelError::Cut),
            Err(e) => {
                return Err(ModelError::Protocol(format!("a line that is not as expected: {}", place(&e))));
            }
        };
        if let Some(error) = error {
            return Err(condition(ModelError::Failed(words(error)), &self.model));
        }
        let status = status.unwrap_or_default();
        self.phase = match self.phase {
            _ if status == SUCCESS => Phase::Over,
            _ if total.is_some() => Phase::Layers,
            Phase::Manifest => Phase::Manifest,
            Phase::Layers | Phase::Afterwards | Phase::Over => Phase::Afterwards,
        };
        let limit = match self.phase {
            Phase::Manifest => self.limits.first_byte,
            Phase::Layers => self.limits.idle,
            Phase::Afterwards | Phase::Over => CHECKSUM,
        };
        self.deadline = Instant::now() + limit;
        Ok(PullStep { status, digest, total, completed })
    }
}

/// The condition behind the words of a failed pull. The words are all that Ollama gives: its status is 200 or 500.
pub(super) fn condition(error: ModelError, model: &str) -> ModelError {
    let ModelError::Failed(words) = error else { return error };
    let says = |text: &str| words.contains(text);
    if says("no space left on device") || says("not enough space on the disk") {
        return ModelError::DiskFull;
    }
    if says("pull model manifest") && says("file does not exist") {
        return ModelError::ModelNotFound(model.to_owned());
    }
    ModelError::Failed(words.chars().filter(|c| !c.is_control()).take(MAX_WORDS).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_failed_pull_have_their_conditions() {
        let said = |words: &str| condition(ModelError::Failed(words.into()), "m");
        assert_eq!(said("pull model manifest: file does not exist"), ModelError::ModelNotFound("m".into()));
        assert_eq!(
            said("write /root/.ollama/models/blobs/sha256-06-partial: no space left on device"),
            ModelError::DiskFull
        );
        assert_eq!(said("write C:\\x: There is not enough space on the disk."), ModelError::DiskFull);
        assert_eq!(said("max retries\nexceeded"), ModelError::Failed("max retriesexceeded".into()));
        assert_eq!(
            said("open x: file does not exist"),
            ModelError::Failed("open x: file does not exist".into())
        );
        assert_eq!(condition(ModelError::Cut, "m"), ModelError::Cut);
        assert!(matches!(said(&"x".repeat(9_000)), ModelError::Failed(words) if words.len() == MAX_WORDS));
    }
}
