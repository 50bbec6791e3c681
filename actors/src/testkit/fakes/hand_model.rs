//! [`ChatModel`] whose answers and pulls a test writes by hand, piece by piece.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use parking_lot::Mutex as Lock;
use tokio::sync::{Mutex, mpsc};

use crate::ports::chat_model::{
    ChatBurst, ChatDone, ChatModel, ChatRequest, ChatStream, LoadedModel, ModelDetails, ModelError,
    ModelSummary, Piece, PieceKind, PullStep, PullStream,
};

/// Name of the model that it has from the start.
pub const HAND_MODEL: &str = "by-hand";
/// Calls and bursts that may wait for the other side.
const QUEUE: usize = 1024;

/// A model server with one model and nothing to say by itself.
#[derive(Debug)]
pub struct HandModel {
    calls: mpsc::Sender<Answer>,
    waiting: Mutex<mpsc::Receiver<Answer>>,
    pulls: mpsc::Sender<HandPull>,
    waiting_pulls: Mutex<mpsc::Receiver<HandPull>>,
    has: Arc<Lock<Has>>,
}

/// What it has: names, each with whether it is in memory.
#[derive(Debug)]
struct Has(Vec<(String, bool)>);

impl Has {
    fn find(&mut self, model: &str) -> Result<&mut (String, bool), ModelError> {
        let found = self.0.iter_mut().find(|(name, _)| name == model);
        found.ok_or_else(|| ModelError::ModelNotFound(model.into()))
    }
}

/// A pull that a test writes. Dropped without an end it was cut off.
#[derive(Debug)]
pub struct HandPull {
    /// The model asked for.
    pub model: String,
    steps: mpsc::Sender<Option<Result<PullStep, ModelError>>>,
    has: Arc<Lock<Has>>,
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
        let ((calls, waiting), (pulls, waiting_pulls)) = (mpsc::channel(QUEUE), mpsc::channel(QUEUE));
        Self {
            calls,
            waiting: Mutex::new(waiting),
            pulls,
            waiting_pulls: Mutex::new(waiting_pulls),
            has: Arc::new(Lock::new(Has(vec![(HAND_MODEL.into(), false)]))),
        }
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

    /// The next pull that nobody writes yet.
    pub async fn pulled(&self) -> HandPull {
        loop {
            if let Some(pull) = self.waiting_pulls.lock().await.recv().await {
                return pull;
            }
        }
    }
}

impl HandPull {
    /// Reports bytes of a layer; false where nobody listens any more.
    pub async fn report(&self, digest: &str, completed: u64, total: u64) -> bool {
        let (status, digest) = (format!("pulling {digest}"), Some(digest.into()));
        let step = PullStep { status, digest, total: Some(total), completed: Some(completed) };
        self.steps.send(Some(Ok(step))).await.is_ok()
    }

    /// Ends it well: the model is there; false where nobody listens any more.
    pub async fn end(self) -> bool {
        if self.has.lock().find(&self.model).is_err() {
            self.has.lock().0.push((self.model.clone(), false));
        }
        self.steps.send(None).await.is_ok()
    }

    /// Ends it with an error; false where nobody listens any more.
    pub async fn fail(self, error: ModelError) -> bool {
        self.steps.send(Some(Err(error))).await.is_ok()
    }

    /// Resolves once nobody listens any more.
    pub async fn closed(&self) {
        self.steps.closed().await;
    }
}

impl Answer {
    /// Says something; false where nobody listens any more.
    pub async fn say(&self, text: &str) -> bool {
        let pieces = vec![Piece { kind: PieceKind::Content, text: text.into() }];
        self.bursts.send(Ok(ChatBurst { pieces, ..ChatBurst::default() })).await.is_ok()
    }

    /// Calls a tool; false where nobody listens any more.
    pub async fn call(&self, name: &str, arguments: serde_json::Value) -> bool {
        let call = serde_json::json!({"function": {"name": name, "arguments": arguments}});
        self.bursts.send(Ok(ChatBurst { tool_calls: vec![call], ..ChatBurst::default() })).await.is_ok()
    }

    /// Ends it well; false where nobody listens any more.
    pub async fn end(self) -> bool {
        let done = Some(ChatDone { reason: Some("stop".into()), ..ChatDone::default() });
        self.bursts.send(Ok(ChatBurst { done, ..ChatBurst::default() })).await.is_ok()
    }

    /// Ends it well with such a count for its prompt and for its text; false where nobody listens any more.
    pub async fn end_counted(self, tokens: u32) -> bool {
        let done =
            ChatDone { prompt_tokens: Some(tokens), completion_tokens: Some(tokens), ..ChatDone::default() };
        self.bursts.send(Ok(ChatBurst { done: Some(done), ..ChatBurst::default() })).await.is_ok()
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
        let summary =
            |(name, _): &(String, bool)| ModelSummary { name: name.clone(), ..ModelSummary::default() };
        Ok(self.has.lock().0.iter().map(summary).collect())
    }
    async fn loaded(&self) -> Result<Vec<LoadedModel>, ModelError> {
        let in_memory = |(name, loaded): &(String, bool)| {
            loaded.then(|| LoadedModel { name: name.clone(), size_vram: 0, expires_at: None })
        };
        Ok(self.has.lock().0.iter().filter_map(in_memory).collect())
    }
    async fn show(&self, model: &str) -> Result<ModelDetails, ModelError> {
        self.has.lock().find(model)?;
        Ok(ModelDetails { capabilities: vec![], context_length: None, raw: serde_json::Value::Null })
    }
    async fn version(&self) -> Result<String, ModelError> {
        Ok("by hand".into())
    }
    async fn pull(&self, model: &str) -> Result<PullStream, ModelError> {
        let (steps, receiver) = mpsc::channel(QUEUE);
        let pull = HandPull { model: model.into(), steps, has: self.has.clone() };
        self.pulls.try_send(pull).map_err(|_| ModelError::Unreachable("the test is over".into()))?;
        let stream = stream::unfold(Some(receiver), async |receiver| {
            let mut receiver = receiver?;
            match receiver.recv().await {
                Some(Some(Ok(step))) => Some((Ok(step), Some(receiver))),
                Some(Some(Err(error))) => Some((Err(error), None)),
                Some(None) => None,
                None => Some((Err(ModelError::Cut), None)),
            }
        });
        Ok(stream.boxed())
    }
    async fn delete(&self, model: &str) -> Result<(), ModelError> {
        let mut has = self.has.lock();
        has.find(model)?;
        has.0.retain(|(name, _)| name != model);
        Ok(())
    }
    async fn load(&self, model: &str) -> Result<(), ModelError> {
        self.has.lock().find(model)?.1 = true;
        Ok(())
    }
    async fn unload(&self, model: &str) -> Result<(), ModelError> {
        self.has.lock().find(model)?.1 = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::conformance::chat_model::management::{Subject, suite};

    #[tokio::test]
    async fn the_fake_passes_the_part_of_the_suite_on_models() {
        let hand = Arc::new(HandModel::default());
        let by_hand = hand.clone();
        let writer = tokio::spawn(async move {
            // The test holds on to pulls whose reader went away, so that they are not taken for cut off.
            let mut open = vec![];
            loop {
                let pull = by_hand.pulled().await;
                if pull.model == "nope" {
                    let missing = ModelError::ModelNotFound("nope".into());
                    pull.fail(missing).await;
                } else if open.is_empty() {
                    pull.report("a", 1, 2).await;
                    open.push(pull);
                } else {
                    pull.report("a", 2, 2).await;
                    pull.end().await;
                }
            }
        });
        let subject = Subject {
            model: hand.clone(),
            name: HAND_MODEL.into(),
            missing: "nope".into(),
            pullable: Some("new".into()),
            open_calls: None,
        };
        suite(&subject).await;
        writer.abort();
    }
}
