//! Port: one model server that chats (Ollama, the simulator, a fake).

use std::{pin::Pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::Stream;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::domain::tool::Answered;

/// Who speaks in a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Instructions.
    System,
    /// A person.
    User,
    /// The model.
    Assistant,
    /// A tool's result.
    Tool,
}

/// One message of a prompt.
#[derive(Debug, Clone)]
pub struct PromptMessage {
    /// Who speaks.
    pub role: Role,
    /// Exact text.
    pub content: Arc<str>,
    /// Images, base64.
    pub images: Vec<Arc<str>>,
    /// Tool calls of an earlier answer, as the model wrote them.
    pub tool_calls: Option<Value>,
    /// The call that a tool's result answers.
    pub answers: Option<Answered>,
}

/// A request for one answer.
#[derive(Debug, Clone)]
pub struct ChatRequest {
    /// Name of the model.
    pub model: String,
    /// System prompt first, then the conversation, oldest first.
    pub messages: Vec<PromptMessage>,
    /// Ollama's `options`, always with `num_ctx`; a JSON object.
    pub options: Value,
    /// Ollama's `think`: true, false or a level.
    pub think: Option<Value>,
    /// Ollama's `format`: `"json"` or a schema.
    pub format: Option<Value>,
    /// Tool declarations.
    pub tools: Vec<Value>,
    /// Ollama's `keep_alive`.
    pub keep_alive: Option<Value>,
}

/// What a piece of text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PieceKind {
    /// Part of the answer.
    Content,
    /// Thinking aloud.
    Thinking,
}

/// A piece of text; never cuts a character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// What it is.
    pub kind: PieceKind,
    /// The text, not empty.
    pub text: String,
}

/// The end of an answer, as the server reported it; every count may be missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChatDone {
    /// `stop`, `length`, …
    pub reason: Option<String>,
    /// Tokens of the prompt.
    pub prompt_tokens: Option<u32>,
    /// Tokens of the answer.
    pub completion_tokens: Option<u32>,
    /// Time until the model was in memory; next to nothing where it was there.
    pub load: Option<Duration>,
}

impl ChatDone {
    /// Whether the answer was cut off at its longest length: that of `num_predict`, or what the context has room for.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.reason.as_deref() == Some("length")
    }
}

/// Everything that was ready at once: neighbouring pieces of one kind are already joined.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChatBurst {
    /// Texts in their order.
    pub pieces: Vec<Piece>,
    /// Tool calls, as the model wrote them.
    pub tool_calls: Vec<Value>,
    /// Set in the last burst of a whole answer.
    pub done: Option<ChatDone>,
}

/// An answer as it comes. Dropping it closes the connection to the server.
pub type ChatStream = Pin<Box<dyn Stream<Item = Result<ChatBurst, ModelError>> + Send>>;

/// One step of a pull, as the server reported it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PullStep {
    /// What it is doing, in its words.
    pub status: String,
    /// The layer that it is doing it with.
    pub digest: Option<String>,
    /// Bytes of that layer.
    pub total: Option<u64>,
    /// Bytes of that layer that are there, those of an earlier pull included.
    pub completed: Option<u64>,
}

/// A pull as it goes on. Dropping it closes the connection to the server, which ends the pull there.
pub type PullStream = Pin<Box<dyn Stream<Item = Result<PullStep, ModelError>> + Send>>;

/// A model that a server has.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ModelSummary {
    /// Name with tag.
    pub name: String,
    /// Bytes on disk.
    pub size: u64,
    /// Content digest.
    pub digest: String,
    /// `llama`, …
    pub family: String,
    /// `3.2B`, …
    pub parameter_size: String,
    /// `Q4_K_M`, …
    pub quantization: String,
    /// `completion`, `tools`, `thinking`, `vision`, `embedding`; empty if the server's list does not say.
    pub capabilities: Vec<String>,
    /// Largest context in tokens; none if the server's list does not say.
    pub context_length: Option<u32>,
    /// True for scripted models.
    pub simulated: bool,
}

/// A model that is in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadedModel {
    /// Name with tag.
    pub name: String,
    /// Bytes in GPU memory.
    pub size_vram: u64,
    /// When it will be unloaded, RFC 3339 as reported.
    pub expires_at: Option<String>,
}

/// Details of one model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelDetails {
    /// `completion`, `tools`, `thinking`, …
    pub capabilities: Vec<String>,
    /// Largest context in tokens.
    pub context_length: Option<u32>,
    /// Everything the server said, without the weights' tensors and tokeniser tables.
    pub raw: Value,
}

/// Which limit ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Time to the first byte, loading included.
    FirstByte,
    /// Time between two lines.
    Idle,
}

/// What can go wrong with a model server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// No connection.
    #[error("the server can't be reached: {0}")]
    Unreachable(String),
    /// The server has no such model.
    #[error("the server has no model {0}")]
    ModelNotFound(String),
    /// 503 or 429: the server's own queue is full, before the first byte.
    #[error("the server is busy: {0}")]
    Busy(String),
    /// The prompt does not fit `num_ctx` by the server's count.
    #[error("the prompt exceeds the context: {0}")]
    ContextExceeded(String),
    /// Another refusal before the first byte (a 4xx: the model can't think, a wrong option …).
    #[error("the server refused ({status}): {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The server's words.
        message: String,
    },
    /// An error of the server: 5xx, or an error line in the middle of an answer.
    #[error("the server failed: {0}")]
    Failed(String),
    /// The connection ended before the answer did.
    #[error("the answer was cut off")]
    Cut,
    /// No room for a model.
    #[error("the disk of the server is full")]
    DiskFull,
    /// Too slow.
    #[error("the server did not answer in time")]
    Timeout(Wait),
    /// Not the protocol: a line that is not JSON, or one above 1 MiB.
    #[error("the server answered nonsense: {0}")]
    Protocol(String),
}

impl ModelError {
    /// True where the same request may be tried again, provided that nothing was received yet.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Busy(_))
    }
}

/// A model server.
///
/// * `chat` MUST resolve at the response's head with an error for anything but success, and MUST
///   end its stream with exactly one `done` burst or one error, nothing after it.
/// * Pieces MUST be byte for byte what the server sent, whatever the cuts of the transport.
/// * Dropping the future or a stream MUST close the connection.
/// * `pull` MUST end its stream without an error only where the server said that the model is there; anything else is
///   exactly one error, nothing after it: `ModelNotFound` where the registry has none, `DiskFull`, `Timeout` for
///   silence. What was pulled before an error or a drop is kept by the server: pulling again goes on there.
/// * `load` MUST return only when the model is in memory. After `unload` the server needs it no more; one that answers
///   with it just now lets go of it afterwards. Neither is an error where it was so already.
/// * After `delete` the model is in no list; `ModelNotFound` where it was in none.
/// * No call retries by itself, follows redirects or uses a proxy.
#[async_trait]
pub trait ChatModel: Send + Sync + 'static {
    /// Asks for an answer.
    ///
    /// # Errors
    /// See [`ModelError`].
    async fn chat(&self, request: ChatRequest) -> Result<ChatStream, ModelError>;

    /// The models on the server.
    ///
    /// # Errors
    /// See [`ModelError`].
    async fn models(&self) -> Result<Vec<ModelSummary>, ModelError>;

    /// The models in its memory.
    ///
    /// # Errors
    /// See [`ModelError`].
    async fn loaded(&self) -> Result<Vec<LoadedModel>, ModelError>;

    /// Details of one model.
    ///
    /// # Errors
    /// See [`ModelError`]; `ModelNotFound` where there is none.
    async fn show(&self, model: &str) -> Result<ModelDetails, ModelError>;

    /// The server's version: the cheapest sign of life.
    ///
    /// # Errors
    /// See [`ModelError`].
    async fn version(&self) -> Result<String, ModelError>;

    /// Fetches a model from its registry.
    ///
    /// # Errors
    /// See [`ModelError`].
    async fn pull(&self, model: &str) -> Result<PullStream, ModelError>;

    /// Deletes a model.
    ///
    /// # Errors
    /// See [`ModelError`]; `ModelNotFound` where there is none.
    async fn delete(&self, model: &str) -> Result<(), ModelError>;

    /// Brings a model into memory, which may take minutes.
    ///
    /// # Errors
    /// See [`ModelError`]; `ModelNotFound` where there is none.
    async fn load(&self, model: &str) -> Result<(), ModelError>;

    /// Takes a model out of memory.
    ///
    /// # Errors
    /// See [`ModelError`]; `ModelNotFound` where there is none.
    async fn unload(&self, model: &str) -> Result<(), ModelError>;
}
