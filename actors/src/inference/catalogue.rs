//! The models of all servers: their lists joined, and what only the details tell.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Gate, Inference, actor::PROBE_TIMEOUT, model_problem, probe};
use crate::{
    domain::{
        model::{Model, ModelPlace},
        problem::Problem,
    },
    ports::chat_model::{LoadedModel, ModelDetails, ModelError, Wait},
};

/// A list of models younger than this is not asked for again.
const FRESH: Duration = Duration::from_millis(1000);
/// Details that are asked for at a time.
const AT_A_TIME: usize = 8;
/// How long more of them are begun with, for one who wants the list.
const LEARN: Duration = Duration::from_secs(1);
/// How long details that could not be had are not asked for again, except by name.
const UNSHOWN: Duration = Duration::from_secs(60);

/// Models that are remembered as such.
const MODELS: usize = 4096;

/// What is kept of the details of a model: the rest may be megabytes, and there may be thousands of models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    /// What it can do; empty where its server does not say.
    pub capabilities: Vec<String>,
    /// Largest context in tokens.
    pub context_length: Option<u32>,
}

impl Known {
    fn of(details: &ModelDetails) -> Self {
        Self { capabilities: details.capabilities.clone(), context_length: details.context_length }
    }
}

/// Models whose details could not be had, each with when. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Unshown(Arc<Mutex<HashMap<String, Instant>>>);

impl Unshown {
    fn remember(&self, model: &str) {
        let mut failed = self.0.lock();
        failed.retain(|_, at| at.elapsed() < UNSHOWN);
        // Names may be made up by whoever asks. One that is not remembered is asked for again.
        if failed.len() < MODELS || failed.contains_key(model) {
            failed.insert(model.to_owned(), Instant::now());
        }
    }

    /// Those that did not fail lately. What is too long ago is forgotten.
    fn without(&self, models: impl Iterator<Item = String>) -> Vec<String> {
        let mut failed = self.0.lock();
        failed.retain(|_, at| at.elapsed() < UNSHOWN);
        models.filter(|model| !failed.contains_key(model)).collect()
    }

    fn has(&self, model: &str) -> bool {
        self.0.lock().get(model).is_some_and(|at| at.elapsed() < UNSHOWN)
    }
}

impl Inference {
    /// Probes servers whose lists are older than a second.
    pub async fn refresh(&self) {
        let gates = self.gates();
        let stale = gates.iter().filter(|g| g.age().is_none_or(|age| age > FRESH));
        futures_util::future::join_all(stale.map(probe)).await;
    }

    /// Everything that a server says of a model, asked for now.
    ///
    /// # Errors
    /// `model_not_found` where no server has it, `ollama_offline` where none can be asked.
    pub async fn show(&self, model: &str) -> Result<ModelDetails, Problem> {
        let gate = self.route(model, &[]).ok_or_else(|| self.no_details(model))?;
        let shown = tokio::time::timeout(PROBE_TIMEOUT, gate.spec.model.show(model)).await;
        match shown.unwrap_or(Err(ModelError::Timeout(Wait::FirstByte))) {
            Ok(details) => {
                gate.keep_details(model, Known::of(&details));
                Ok(details)
            }
            Err(error) => {
                self.unshown.remember(model);
                Err(match error {
                    ModelError::ModelNotFound(_) => self.no_such_model(model, &gate.spec.name),
                    _ => model_problem(&error, model, &gate.spec.name),
                })
            }
        }
    }

    /// What is used of the details of a model, asked for once.
    ///
    /// # Errors
    /// As [`Self::show`].
    pub async fn details(&self, model: &str) -> Result<Known, Problem> {
        match self.route(model, &[]).and_then(|gate| gate.details(model)) {
            Some(known) => Ok(known),
            None => self.show(model).await.map(|details| Known::of(&details)),
        }
    }

    /// The same for one who can do without: where they could not be had lately, they are not asked for again.
    pub async fn learnt(&self, model: &str) -> Option<Known> {
        let known = self.route(model, &[])?.details(model);
        if known.is_some() || self.unshown.has(model) {
            return known;
        }
        self.details(model).await.ok()
    }

    /// As [`Self::any_model`], having asked whether it can chat: a list need not say which models only embed.
    pub async fn any_that_chats(&self) -> Option<String> {
        let mut found = self.any_model()?;
        loop {
            self.learnt(&found).await;
            match self.any_model()? {
                same if same == found => return Some(same),
                other => found = other,
            }
        }
    }

    /// Asks for what the lists don't tell of their models, once per model, a few at a time. Those that it is not begun with in time are
    /// for the next one who comes, and those that failed for one who comes later.
    pub async fn learn(&self) {
        let unknown = self.models().into_iter().filter(|m| m.context_length.is_none()).map(|m| m.name);
        let unknown: Vec<_> = self.unshown.without(unknown);
        let begun = stream::iter(unknown).take_until(tokio::time::sleep(LEARN));
        begun.for_each_concurrent(AT_A_TIME, async |name| drop(self.details(&name).await)).await;
    }

    /// The largest context of a model, if it has been learnt.
    pub fn known_context(&self, model: &str) -> Option<u32> {
        self.route(model, &[])?.context_length(model)
    }

    /// Models over all servers, by name.
    pub fn models(&self) -> Vec<Model> {
        let mut models: HashMap<String, Model> = HashMap::new();
        for gate in self.gates().iter().filter(|g| g.is_up()) {
            let loaded = gate.loaded();
            let loaded: HashMap<_, _> = loaded.iter().map(|l| (l.name.as_str(), l)).collect();
            for m in gate.models() {
                let in_memory = loaded.get(m.name.as_str());
                let place = ModelPlace {
                    name: gate.spec.name.clone(),
                    loaded: in_memory.is_some(),
                    expires_at: in_memory.and_then(|l| l.expires_at.clone()),
                    size_vram: in_memory.map_or(0, |l| l.size_vram),
                };
                if let Some(known) = models.get_mut(&m.name) {
                    known.servers.push(place);
                    continue;
                }
                let details = gate.details(&m.name);
                let model = Model {
                    capabilities: details.as_ref().map_or(m.capabilities, |d| d.capabilities.clone()),
                    context_length: details.as_ref().and_then(|d| d.context_length).or(m.context_length),
                    name: m.name.clone(),
                    size: m.size,
                    digest: m.digest,
                    family: m.family,
                    parameter_size: m.parameter_size,
                    quantization: m.quantization,
                    simulated: m.simulated || gate.spec.simulated,
                    servers: vec![place],
                };
                models.insert(m.name, model);
            }
        }
        let mut models: Vec<_> = models.into_values().collect();
        models.sort_by(|a, b| a.name.cmp(&b.name));
        models
    }

    /// Loaded models, with their servers.
    pub fn loaded(&self) -> Vec<(String, LoadedModel)> {
        let per_gate =
            |g: &Arc<Gate>| g.loaded().into_iter().map(|l| (g.spec.name.clone(), l)).collect::<Vec<_>>();
        self.gates().iter().flat_map(per_gate).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn made_up_names_are_remembered_for_a_minute_and_not_without_end() {
        let unshown = Unshown::default();
        for n in 0..MODELS + 10 {
            unshown.remember(&n.to_string());
        }
        assert_eq!(unshown.0.lock().len(), MODELS);
        tokio::time::advance(UNSHOWN).await;
        unshown.remember("m");
        assert_eq!(unshown.0.lock().len(), 1);
    }
}
