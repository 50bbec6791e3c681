//! The models that one turn may use, and where they failed it.

/// What a turn would be answered by, in the order in which it would be, and what it has tried.
#[derive(Debug, Clone, Default)]
pub(crate) struct Preference {
    models: Vec<String>,
    /// A model and the server that failed with it.
    failed: Vec<(String, String)>,
}

impl Preference {
    /// The model that is wanted, then those that may take its place.
    pub fn new(model: &str, fallback: &[String]) -> Self {
        let mut models = vec![model.to_owned()];
        for other in fallback {
            if !models.contains(other) {
                models.push(other.clone());
            }
        }
        Self { models, failed: vec![] }
    }

    /// The models, the preferred one first.
    pub fn models(&self) -> &[String] {
        &self.models
    }

    /// No other model takes its place from now on.
    pub fn settle_on(&mut self, model: &str) {
        self.models.retain(|m| m == model);
    }

    /// A server failed the turn with this model: it is not asked for it again.
    pub fn failed(&mut self, model: &str, server: &str) {
        self.failed.push((model.to_owned(), server.to_owned()));
    }

    /// Servers that failed the turn with this model.
    pub fn tried(&self, model: &str) -> Vec<String> {
        self.failed.iter().filter(|(m, _)| m == model).map(|(_, server)| server.clone()).collect()
    }
}
