//! [`ChatModel`] whose answers a test writes by hand, piece by piece.

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use tokio::sync::{Mutex, mpsc};

use crate::ports::chat_model::{
    ChatBurst, ChatDone, ChatModel, ChatRequest, ChatStream, LoadedModel, ModelDetails, ModelError,
    ModelSummary, Piece, PieceKind,
};

/// Name of its one model.
pub const HAND_MODEL: &str = "by-hand";
/// Calls and bursts that may wait for the other side.
const QUEUE: usize = 1024;

/// A model server with one model and nothing to say by itself.
#[derive(Debug)]
pub struct HandModel {
    calls: mpsc::Sender<Answer>,
    waiting: Mutex<mpsc::Receiver<Answer>>,
}

/// An answer that a test writes.
#[derive(Debug)]
pub struct Answer {
    /// What was asked.
    pub request: ChatRequest,
    bursts: mpsc::Sender<Result<ChatBurst, ModelError>>,
}

impl Default for HandModel {
    fn default() -> Self {
        let (calls, waiting) = mpsc::channel(QUEUE);
        Self { calls, waiting: Mutex::new(waiting) }
    }
}

impl HandModel {
    /// The next call that nobody answers yet.
    pub async fn called(&self) -> Answer {
        loop {
            if let Some(answer) = self.waiting.lock().await.recv().await {
                return answer;
            }
        }
    }

    /// Whether nobody has called who is not answered.
    pub async fn is_quiet(&self) -> bool {
        self.waiting.lock().await.is_empty()
    }
}

impl Answer {
    /// Says something; false where nobody listens any more.
    pub async fn say(&self, text: &str) -> bool {
        let pieces = vec![Piece { kind: PieceKind::Content, text: text.into() }];
        self.bursts.send(Ok(ChatBurst { pieces, ..ChatBurst::default() })).await.is_ok()
    }

    /// Ends it well; false where nobody listens any more.
    pub async fn end(self) -> bool {
        let done = Some(ChatDone { reason: Some("stop".into()), ..ChatDone::default() });
        self.bursts.send(Ok(ChatBurst { done, ..ChatBurst::default() })).await.is_ok()
    }

    /// Resolves once nobody listens any more.
    pub async fn closed(&self) {
        self.bursts.closed().await;
    }
}

#[async_trait]
impl ChatModel for HandModel {
    async fn chat(&self, request: ChatRequest) -> Result<ChatStream, ModelError> {
        let (bursts, receiver) = mpsc::channel(QUEUE);
        let gone = |_| ModelError::Unreachable("the test is over".into());
        self.calls.try_send(Answer { request, bursts }).map_err(gone)?;
        let stream = stream::unfold(receiver, async |mut receiver| {
            // An answer that is dropped was cut off.
            let burst = receiver.recv().await.unwrap_or(Err(ModelError::Cut));
            Some((burst, receiver))
        });
        Ok(stream.boxed())
    }
    async fn models(&self) -> Result<Vec<ModelSummary>, ModelError> {
        Ok(vec![ModelSummary { name: HAND_MODEL.into(), ..ModelSummary::default() }])
    }
    async fn loaded(&self) -> Result<Vec<LoadedModel>, ModelError> {
        Ok(vec![])
    }
    async fn show(&self, model: &str) -> Result<ModelDetails, ModelError> {
        match model {
            HAND_MODEL => {
                Ok(ModelDetails { capabilities: vec![], context_length: None, raw: serde_json::Value::Null })
            }
            _ => Err(ModelError::ModelNotFound(model.into())),
        }
    }
    async fn version(&self) -> Result<String, ModelError> {
        Ok("by hand".into())
    }
}
