//! Stop: the word to a turn that it is to end, and how long the turn took to let go of what it held.

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use metrics::histogram;
use tokio_util::sync::CancellationToken;

use crate::{metrics::STOP_LATENCY, ports::chat_model::PieceKind};

/// What a turn does, as far as a stop is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It waits for its conversation or for a slot.
    Queued,
    /// The model server was asked and, as far as its last probe tells, has to load the model.
    Loading,
    /// It was asked and has the model in memory: it reads the prompt.
    Prompt,
    /// The newest piece was a thought.
    Thinking,
    /// The newest piece was of the answer.
    Content,
}

impl Phase {
    /// After the model server was asked.
    pub fn asked(loaded: bool) -> Self {
        if loaded { Self::Prompt } else { Self::Loading }
    }

    /// After a piece came.
    pub fn of(piece: PieceKind) -> Self {
        match piece {
            PieceKind::Thinking => Self::Thinking,
            PieceKind::Content => Self::Content,
        }
    }

    /// As the label of a metric.
    fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Loading => "loading",
            Self::Prompt => "prompt",
            Self::Thinking => "thinking",
            Self::Content => "content",
        }
    }
}

/// Tells a turn to end. Everybody who has a part of it may say so; the first one counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop {
    token: CancellationToken,
    at: Arc<OnceLock<Instant>>,
}

impl Stop {
    /// Asks the turn to end.
    pub fn ask(&self) {
        self.at.get_or_init(Instant::now);
        self.token.cancel();
    }

    /// Returns once it was asked to.
    pub async fn asked(&self) {
        self.token.cancelled().await;
    }

    /// The turn has let go of the slot and of the connection.
    pub fn let_go(&self, phase: Phase) {
        if let Some(at) = self.at.get() {
            histogram!(STOP_LATENCY.name, "phase" => phase.as_str()).record(at.elapsed());
        }
    }
}
