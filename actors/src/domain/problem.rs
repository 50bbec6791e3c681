//! What went wrong, in the form that every front end shows (RFC 9457 members plus a stable code).

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Serialize};

use super::turn::Turn;

/// One wrong field of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError {
    /// The field, dotted for nested ones (`config.options.num_ctx`).
    pub field: String,
    /// Why it was refused, with the limit where there is one.
    pub reason: String,
}

/// The numbers of a context that is too small or too large, in tokens; those that are not known are left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextLimits {
    /// The context asked for.
    pub num_ctx: u32,
    /// What the prompt needs, estimated.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub needed: Option<u32>,
    /// What of the context is kept for the reply.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reply_budget: Option<u32>,
    /// The largest context of the model.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub maximum: Option<u32>,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $status:literal, $title:literal;)+) => {
        /// The stable code of a problem: its meaning, class and title. Listed in docs/ERRORS.md.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Code { $($(#[$doc])* #[serde(rename = $code)] $name,)+ }
        impl Code {
            /// Every code, for the list in the docs and its test.
            pub const ALL: &[Self] = &[$(Self::$name,)+];
            /// The code as written on the wire.
            #[must_use]
            pub fn as_str(self) -> &'static str { match self { $(Self::$name => $code,)+ } }
            /// The class of the problem, as an HTTP status.
            #[must_use]
            pub fn status(self) -> u16 { match self { $(Self::$name => $status,)+ } }
            /// A short text that is the same for every occurrence.
            #[must_use]
            pub fn title(self) -> &'static str { match self { $(Self::$name => $title,)+ } }
        }
    };
}

codes! {
    /// The body is not JSON.
    InvalidJson = "invalid_json", 400, "The body is not valid JSON";
    /// A field is unknown, missing, of the wrong type or out of range.
    InvalidRequest = "invalid_request", 400, "The request is not valid";
    /// A socket frame that is not a known JSON message.
    InvalidFrame = "invalid_frame", 400, "The frame is not valid";
    /// A query or body names a cursor of something else.
    InvalidCursor = "invalid_cursor", 400, "The cursor does not belong here";
    /// A file that is no whole, unchanged export of this bot.
    ImportInvalid = "import_invalid", 400, "The file can't be imported";
    /// Killing on purpose is switched off.
    KillNotAllowed = "kill_not_allowed", 403, "Killing bots is not allowed here";
    /// A socket from another origin.
    OriginNotAllowed = "origin_not_allowed", 403, "This origin may not connect";
    /// No such route.
    NotFound = "not_found", 404, "Nothing is here";
    /// No such bot.
    BotNotFound = "bot_not_found", 404, "No such bot";
    /// No such conversation of this bot.
    ConversationNotFound = "conversation_not_found", 404, "No such conversation";
    /// No such message of this bot.
    MessageNotFound = "message_not_found", 404, "No such message";
    /// No such turn.
    TurnNotFound = "turn_not_found", 404, "No such turn";
    /// No such topic.
    TopicNotFound = "topic_not_found", 404, "No such topic";
    /// No model server has this name.
    ServerNotFound = "server_not_found", 404, "No such model server";
    /// No such pull, or it ended long ago.
    PullNotFound = "pull_not_found", 404, "No such pull";
    /// The route exists, the method does not.
    MethodNotAllowed = "method_not_allowed", 405, "This method is not allowed here";
    /// The answer can't be given in the form asked for.
    NotAcceptable = "not_acceptable", 406, "This form is not available";
    /// The id is taken.
    BotExists = "bot_exists", 409, "A bot with this id exists";
    /// As many bots as allowed run.
    BotLimitReached = "bot_limit_reached", 409, "The limit of running bots is reached";
    /// The bot crashed too often.
    BotQuarantined = "bot_quarantined", 409, "The bot is quarantined";
    /// The bot is stopped.
    BotNotRunning = "bot_not_running", 409, "The bot is not running";
    /// Something runs that forbids this now.
    ConversationBusy = "conversation_busy", 409, "The conversation has a running turn";
    /// What an earlier bot of this id left takes nothing new.
    ConversationRetired = "conversation_retired", 409, "The conversation is an earlier bot's";
    /// The conversation may lose nothing.
    LegalHold = "legal_hold", 409, "The conversation is under legal hold";
    /// The bot's main conversation can't be deleted.
    MainConversation = "main_conversation", 409, "The main conversation stays";
    /// The idempotency key belongs to another request.
    IdempotencyKeyReused = "idempotency_key_reused", 409, "The idempotency key belongs to another request";
    /// Something of the file is stored with other content.
    ImportConflict = "import_conflict", 409, "The file contradicts what is stored";
    /// Bots use the model that is to be deleted.
    ModelInUse = "model_in_use", 409, "Bots use this model";
    /// There is a model server of this name, or at this address.
    ServerExists = "server_exists", 409, "The model server is there already";
    /// The body is larger than the limit.
    BodyTooLarge = "body_too_large", 413, "The body is too large";
    /// Not `application/json`.
    UnsupportedMediaType = "unsupported_media_type", 415, "This content type is not understood";
    /// No server has the model.
    ModelNotFound = "model_not_found", 422, "No server has this model";
    /// The registry that the model server asked has no such model.
    ModelNotInRegistry = "model_not_in_registry", 422, "The registry has no such model";
    /// `num_ctx` is above what the model can.
    ContextTooLarge = "context_too_large", 422, "The context is larger than the model's maximum";
    /// The message alone does not fit the context.
    PromptTooLong = "prompt_too_long", 422, "The message does not fit the context";
    /// The model can't do what was asked (thinking, tools, images).
    ModelCapability = "model_capability", 422, "The model can't do this";
    /// No such slash command.
    UnknownCommand = "unknown_command", 422, "No such command";
    /// A slash command with wrong arguments.
    InvalidCommand = "invalid_command", 422, "The command can't be carried out";
    /// The database does not take this content, whatever its state.
    StorageRefused = "storage_refused", 422, "The database refuses this content";
    /// Too many messages wait in this conversation.
    ConversationQueueFull = "conversation_queue_full", 429, "Too many messages wait in this conversation";
    /// Too many requests wait for this bot.
    BotBusy = "bot_busy", 429, "Too many requests wait for this bot";
    /// Too many turns wait for the model server.
    InferenceQueueFull = "inference_queue_full", 429, "Too many turns wait for the model server";
    /// As many models as allowed are being pulled to the server.
    TooManyPulls = "too_many_pulls", 429, "Too many models are being pulled to this server";
    /// A defect of deia; the log has the reason under the request id.
    Internal = "internal", 500, "An internal fault";
    /// The model server broke off or answered nonsense.
    UpstreamError = "upstream_error", 502, "The model server failed";
    /// The answer does not have the form that was asked for.
    OutputInvalid = "output_invalid", 502, "The answer does not have the form asked for";
    /// The database does not take writes.
    StorageUnavailable = "storage_unavailable", 503, "The database is not available";
    /// The index of the search has more to take in than a request waits for.
    SearchBehind = "search_behind", 503, "The index of the search is catching up";
    /// A turn waited in line for a model server as long as it may.
    InferenceQueueTimeout = "inference_queue_timeout", 503, "The turn waited too long for the model server";
    /// No model server answers.
    OllamaOffline = "ollama_offline", 503, "No model server takes this now";
    /// The bot crashed or the process ended in the middle of the answer.
    TurnInterrupted = "turn_interrupted", 503, "The turn was interrupted";
    /// The actor that should answer is restarting.
    Unavailable = "unavailable", 503, "Not available right now";
    /// The process is ending.
    ShuttingDown = "shutting_down", 503, "The service is shutting down";
    /// The model server did not answer in time.
    UpstreamTimeout = "upstream_timeout", 504, "The model server did not answer in time";
    /// The model server has no room for the model.
    ServerDiskFull = "server_disk_full", 507, "The disk of the model server is full";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A problem as answered and stored. `request_id` is added by the HTTP layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// `urn:deia:problem:<code>`.
    #[serde(rename = "type")]
    pub kind: Cow<'static, str>,
    /// The same text for every occurrence of the code.
    pub title: Cow<'static, str>,
    /// Class, as an HTTP status.
    pub status: u16,
    /// What happened here, what it means, what to do.
    pub detail: String,
    /// The stable code.
    pub code: Code,
    /// When a retry makes sense, in seconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub retry_after_s: Option<u32>,
    /// The wrong fields.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub errors: Vec<FieldError>,
    /// The numbers behind `prompt_too_long` and `context_too_large`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub context: Option<Box<ContextLimits>>,
    /// The turn that ended with this problem, in the answer to a waiting send.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub turn: Option<Box<Turn>>,
}

impl Problem {
    /// A problem of this code; `detail` is for the reader and names no secret and no content.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let retry_after_s = match code.status() {
            429 => Some(2),
            503 => Some(5),
            _ => None,
        };
        Self {
            kind: format!("urn:deia:problem:{}", code.as_str()).into(),
            title: code.title().into(),
            status: code.status(),
            detail: detail.into(),
            code,
            retry_after_s,
            errors: vec![],
            context: None,
            turn: None,
        }
    }

    /// A wrong field.
    #[must_use]
    pub fn field(field: impl Into<String>, reason: impl Into<String>) -> Self {
        let (field, reason) = (field.into(), reason.into());
        let mut problem = Self::new(Code::InvalidRequest, format!("{field}: {reason}"));
        problem.errors.push(FieldError { field, reason });
        problem
    }

    /// The same with another moment for a retry.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}
impl std::error::Error for Problem {}
