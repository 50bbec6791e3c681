//! What every [`ChatModel`] must do: run [`suite`] on each adapter and on the fake.
//!
//! The suite asks a server that really answers; faults on the wire are the adapters' own tests. A broken obligation
//! panics with its name.

pub mod management;

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::ports::chat_model::{
    ChatBurst, ChatDone, ChatModel, ChatRequest, ModelError, PieceKind, PromptMessage, Role,
};

/// No step of the suite takes longer than this.
const PATIENCE: Duration = Duration::from_secs(60);

/// Counts the calls that a server works on.
pub type OpenCalls = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What the suite is run on.
pub struct Subject {
    /// The adapter.
    pub model: Arc<dyn ChatModel>,
    /// A model that the server has. It writes at least 8 tokens to any prompt.
    pub name: String,
    /// A model that the server has not.
    pub missing: String,
    /// The server counts tokens: it honours `num_predict`, reports counts and refuses prompts beyond `num_ctx`.
    pub counts_tokens: bool,
    /// The server lists [`Subject::name`] and shows what is loaded.
    pub lists_models: bool,
    /// A model that the registry of the server has and the server has not; none where there is no registry to ask.
    pub pullable: Option<String>,
    /// The number of calls that the server works on, where that can be seen: to prove that a dropped stream is closed.
    pub open_calls: Option<OpenCalls>,
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Collected {
    /// All content.
    pub content: String,
    /// All thinking.
    pub thinking: String,
    /// All tool calls.
    pub tool_calls: Vec<Value>,
    /// The last burst, or the error in its place.
    pub end: Result<ChatDone, ModelError>,
}

/// A request with one user message and a small context; `options` are added to those.
#[must_use]
pub fn request(model: &str, text: &str, options: &Value) -> ChatRequest {
    let mut all = json!({"num_ctx": 2048, "seed": 7, "temperature": 0});
    if let (Some(all), Some(more)) = (all.as_object_mut(), options.as_object()) {
        all.extend(more.clone());
    }
    let message = PromptMessage {
        role: Role::User,
        content: text.into(),
        images: Vec::new(),
        tool_calls: None,
        answers: None,
    };
    ChatRequest {
        model: model.to_owned(),
        messages: vec![message],
        options: all,
        think: None,
        format: None,
        tools: Vec::new(),
        keep_alive: None,
    }
}

/// Reads an answer to its end and checks the form of every burst.
///
/// # Panics
/// When the stream breaks an obligation of the port, or takes longer than a minute.
pub async fn collect(model: &dyn ChatModel, request: ChatRequest) -> Collected {
    match timeout(PATIENCE, read(model, request)).await {
        Ok(collected) => collected,
        Err(_) => panic!("no end of the answer within {PATIENCE:?}"),
    }
}

async fn read(model: &dyn ChatModel, request: ChatRequest) -> Collected {
    let mut out = Collected {
        content: String::new(),
        thinking: String::new(),
        tool_calls: Vec::new(),
        end: Err(ModelError::Cut),
    };
    let mut stream = match model.chat(request).await {
        Ok(stream) => stream,
        Err(error) => return Collected { end: Err(error), ..out },
    };
    let mut ended = false;
    while let Some(burst) = stream.next().await {
        assert!(!ended, "nothing comes after the end: {burst:?}");
        match burst {
            Ok(burst) => {
                check_form(&burst);
                for piece in burst.pieces {
                    match piece.kind {
                        PieceKind::Content => out.content.push_str(&piece.text),
                        PieceKind::Thinking => out.thinking.push_str(&piece.text),
                    }
                }
                out.tool_calls.extend(burst.tool_calls);
                if let Some(done) = burst.done {
                    (ended, out.end) = (true, Ok(done));
                }
            }
            Err(error) => (ended, out.end) = (true, Err(error)),
        }
    }
    assert!(ended, "a stream ends with a done burst or an error, not in silence");
    out
}

fn check_form(burst: &ChatBurst) {
    assert!(
        !burst.pieces.is_empty() || !burst.tool_calls.is_empty() || burst.done.is_some(),
        "a burst brings something"
    );
    assert!(burst.pieces.iter().all(|p| !p.text.is_empty()), "no piece is empty: {burst:?}");
    assert!(
        burst.pieces.windows(2).all(|two| two[0].kind != two[1].kind),
        "neighbours are joined: {burst:?}"
    );
}

/// Every obligation that can be seen from outside.
///
/// # Panics
/// When one is broken.
pub async fn suite(subject: &Subject) {
    an_answer_has_text_and_one_end(subject).await;
    the_same_request_with_a_seed_gets_the_same_answer(subject).await;
    a_missing_model_is_refused_at_the_head(subject).await;
    answers_at_the_same_time_do_not_mix(subject).await;
    a_dropped_stream_is_closed_and_does_no_harm(subject).await;
    if subject.counts_tokens {
        limits_are_honoured_and_counts_reported(subject).await;
        a_prompt_that_does_not_fit_is_refused(subject).await;
    }
    if subject.lists_models {
        models_are_listed_and_shown(subject).await;
        let management = management::Subject {
            model: subject.model.clone(),
            name: subject.name.clone(),
            missing: subject.missing.clone(),
            pullable: subject.pullable.clone(),
            open_calls: subject.open_calls.clone(),
        };
        management::suite(&management).await;
    }
}

fn short(subject: &Subject) -> ChatRequest {
    request(&subject.name, "Tell me something.", &json!({"num_predict": 8}))
}

async fn an_answer_has_text_and_one_end(subject: &Subject) {
    let answer = collect(subject.model.as_ref(), short(subject)).await;
    assert!(answer.end.is_ok(), "{answer:?}");
    assert!(!answer.content.is_empty() || !answer.thinking.is_empty(), "{answer:?}");
}

async fn the_same_request_with_a_seed_gets_the_same_answer(subject: &Subject) {
    let model = subject.model.as_ref();
    let (first, second) = (collect(model, short(subject)).await, collect(model, short(subject)).await);
    assert_eq!(first.content, second.content);
}

async fn a_missing_model_is_refused_at_the_head(subject: &Subject) {
    let refused = subject.model.chat(request(&subject.missing, "hi", &json!({}))).await;
    assert_eq!(refused.err(), Some(ModelError::ModelNotFound(subject.missing.clone())));
}

async fn answers_at_the_same_time_do_not_mix(subject: &Subject) {
    let model = subject.model.as_ref();
    let other = || request(&subject.name, "Something else entirely.", &json!({"num_predict": 8}));
    let (alone, other_alone) = (collect(model, short(subject)).await, collect(model, other()).await);
    let (same, different) = futures_util::join!(collect(model, short(subject)), collect(model, other()));
    assert!(same.end.is_ok() && different.end.is_ok(), "{same:?} {different:?}");
    assert_eq!((same.content, different.content), (alone.content, other_alone.content));
}

async fn a_dropped_stream_is_closed_and_does_no_harm(subject: &Subject) {
    let long = request(&subject.name, "Count to 1000.", &json!({"num_predict": 1000}));
    let mut stream = match subject.model.chat(long.clone()).await {
        Ok(stream) => stream,
        Err(error) => panic!("an answer was expected: {error}"),
    };
    let first = timeout(PATIENCE, stream.next()).await;
    assert!(matches!(first, Ok(Some(Ok(_)))), "{first:?}");
    drop(stream);
    // Also before the head: the request is on its way, and its future is dropped.
    let _ = timeout(Duration::from_millis(1), subject.model.chat(long)).await;
    if let Some(open) = &subject.open_calls {
        let closed = timeout(PATIENCE, async {
            while open() > 0 {
                tokio::task::yield_now().await;
            }
        });
        assert!(closed.await.is_ok(), "a dropped stream closes its connection");
    }
    an_answer_has_text_and_one_end(subject).await;
}

async fn limits_are_honoured_and_counts_reported(subject: &Subject) {
    let four = request(&subject.name, "Tell me something.", &json!({"num_predict": 4}));
    let done = match collect(subject.model.as_ref(), four).await.end {
        Ok(done) => done,
        Err(error) => panic!("an answer was expected: {error}"),
    };
    assert_eq!((done.reason.as_deref(), done.completion_tokens), (Some("length"), Some(4)));
    assert!(done.prompt_tokens.is_some_and(|n| n > 0), "{done:?}");
}

async fn a_prompt_that_does_not_fit_is_refused(subject: &Subject) {
    let long = request(&subject.name, &"word after word ".repeat(2000), &json!({"num_ctx": 256}));
    let refused = subject.model.chat(long).await.err();
    assert!(matches!(refused, Some(ModelError::ContextExceeded(_))), "{refused:?}");
}

/// A name without the tag that is implied.
fn untagged(name: &str) -> &str {
    name.strip_suffix(":latest").unwrap_or(name)
}

async fn models_are_listed_and_shown(subject: &Subject) {
    let wanted = untagged(&subject.name);
    let models = subject.model.models().await;
    let listed = models.iter().flatten().find(|m| untagged(&m.name) == wanted);
    assert!(listed.is_some_and(|m| m.size > 0 && !m.digest.is_empty() && !m.family.is_empty()), "{models:?}");
    let loaded = subject.model.loaded().await;
    let running = loaded.iter().flatten().find(|m| untagged(&m.name) == wanted);
    assert!(running.is_some_and(|m| m.expires_at.is_some()), "{loaded:?}");
    match subject.model.show(&subject.name).await {
        Ok(shown) => {
            assert!(shown.capabilities.iter().any(|c| c == "completion"), "{shown:?}");
            assert!(shown.context_length.is_some_and(|n| n >= 256), "{shown:?}");
            assert!(shown.raw.get("tensors").is_none(), "tables are left out");
        }
        Err(error) => panic!("details were expected: {error}"),
    }
    let refused = subject.model.show(&subject.missing).await.err();
    assert_eq!(refused, Some(ModelError::ModelNotFound(subject.missing.clone())));
    let version = subject.model.version().await;
    assert!(version.as_ref().is_ok_and(|v| v.contains('.')), "{version:?}");
}
