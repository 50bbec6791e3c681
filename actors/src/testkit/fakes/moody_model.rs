//! [`ChatModel`] that answers by hand ([`HandModel`]), or fails as a test likes.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;

use super::hand_model::{Answer, HandModel};
use crate::ports::chat_model::{
    ChatModel, ChatRequest, ChatStream, LoadedModel, ModelDetails, ModelError, ModelSummary, PullStream,
};

/// How it is today.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mood {
    /// Answers by hand.
    Well,
    /// Fails every call of a model, and answers everything else.
    Fails(ModelError),
    /// Can't be reached at all.
    Away,
    /// Takes everything and answers nothing.
    Hangs,
}

/// A model server with models and moods.
#[derive(Debug)]
pub struct MoodyModel {
    hand: HandModel,
    models: Vec<String>,
    state: Mutex<(Mood, usize)>,
    shows: AtomicUsize,
    context: Mutex<Option<u32>>,
    abilities: Mutex<Vec<String>>,
}

impl MoodyModel {
    /// One that is well and has these models.
    #[must_use]
    pub fn new(models: &[&str]) -> Self {
        let models = models.iter().map(|&name| name.to_owned()).collect();
        Self {
            hand: HandModel::default(),
            models,
            state: Mutex::new((Mood::Well, 0)),
            shows: AtomicUsize::new(0),
            context: Mutex::default(),
            abilities: Mutex::default(),
        }
    }

    /// Its models have so large a context; it says so where one is shown.
    pub fn has_context(&self, tokens: u32) {
        *self.context.lock() = Some(tokens);
    }

    /// Its models can do this; it says so where one is shown.
    pub fn is_able_to(&self, abilities: &[&str]) {
        *self.abilities.lock() = abilities.iter().map(|&ability| ability.to_owned()).collect();
    }

    /// Changes its mood.
    pub fn is_now(&self, mood: Mood) {
        self.state.lock().0 = mood;
    }

    /// How often a model was called.
    pub fn asked(&self) -> usize {
        self.state.lock().1
    }

    /// How often details of a model were asked for.
    pub fn shows(&self) -> usize {
        self.shows.load(Ordering::Relaxed)
    }

    /// The next call that nobody answers yet.
    pub async fn called(&self) -> Answer {
        self.hand.called().await
    }

    /// Whether nobody has called who is not answered.
    pub async fn is_quiet(&self) -> bool {
        self.hand.is_quiet().await
    }

    async fn there(&self) -> Result<(), ModelError> {
        let mood = self.state.lock().0.clone();
        match mood {
            Mood::Well | Mood::Fails(_) => Ok(()),
            Mood::Away => Err(ModelError::Unreachable("connection refused".into())),
            Mood::Hangs => std::future::pending().await,
        }
    }
}

impl MoodyModel {
    /// What is done with a model, as far as it shows: its list stays as it is.
    async fn done(&self, model: &str) -> Result<(), ModelError> {
        self.there().await?;
        let mood = self.state.lock().0.clone();
        match mood {
            Mood::Fails(error) => Err(error),
            _ if self.models.iter().any(|name| name == model) => Ok(()),
            _ => Err(ModelError::ModelNotFound(model.into())),
        }
    }
}

#[async_trait]
impl ChatModel for MoodyModel {
    async fn chat(&self, request: ChatRequest) -> Result<ChatStream, ModelError> {
        self.state.lock().1 += 1;
        self.there().await?;
        let mood = self.state.lock().0.clone();
        match mood {
            Mood::Fails(error) => Err(error),
            _ => self.hand.chat(request).await,
        }
    }
    async fn models(&self) -> Result<Vec<ModelSummary>, ModelError> {
        self.there().await?;
        let summary = |name: &String| ModelSummary { name: name.clone(), ..ModelSummary::default() };
        Ok(self.models.iter().map(summary).collect())
    }
    async fn loaded(&self) -> Result<Vec<LoadedModel>, ModelError> {
        self.there().await.map(|()| vec![])
    }
    async fn show(&self, model: &str) -> Result<ModelDetails, ModelError> {
        self.shows.fetch_add(1, Ordering::Relaxed);
        self.there().await?;
        match self.models.iter().any(|name| name == model) {
            true => {
                let context_length = *self.context.lock();
                let capabilities = self.abilities.lock().clone();
                Ok(ModelDetails { capabilities, context_length, raw: serde_json::Value::Null })
            }
            false => Err(ModelError::ModelNotFound(model.into())),
        }
    }
    async fn version(&self) -> Result<String, ModelError> {
        self.there().await.map(|()| "moody".into())
    }
    async fn pull(&self, model: &str) -> Result<PullStream, ModelError> {
        self.there().await?;
        self.hand.pull(model).await
    }
    async fn delete(&self, model: &str) -> Result<(), ModelError> {
        self.done(model).await
    }
    async fn load(&self, model: &str) -> Result<(), ModelError> {
        self.done(model).await
    }
    async fn unload(&self, model: &str) -> Result<(), ModelError> {
        self.done(model).await
    }
}
