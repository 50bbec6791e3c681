//! What a request needs a model to be able to do, and whether it is: refused before anything is stored instead of by the
//! model server in the middle of a turn. Pure.

use serde_json::Value;

use crate::domain::{
    bot::BotConfig,
    problem::{Code, FieldError, Problem},
};

/// What is needed, each with the field that needs it.
#[derive(Debug, Default)]
pub(super) struct Needs(Vec<(&'static str, String)>);

/// Ollama's name of an ability, and what it means in words.
const WORDS: [(&str, &str); 3] =
    [("thinking", "think"), ("tools", "call tools"), ("vision", "look at images")];

impl Needs {
    /// What a bot's configuration needs with every message.
    pub(super) fn of_config(config: &BotConfig) -> Self {
        let mut needs = Self::default();
        needs.thinking(config.think.as_ref(), "config.think");
        needs.tools(config);
        needs
    }

    /// What a message needs of the model of its bot.
    pub(super) fn of_message(config: &BotConfig, think: Option<&Value>, images: usize) -> Self {
        let mut needs = Self::default();
        match think {
            Some(_) => needs.thinking(think, "think"),
            None => needs.thinking(config.think.as_ref(), "config.think"),
        }
        needs.tools(config);
        if images > 0 {
            needs.0.push(("vision", "images".into()));
        }
        needs
    }

    fn thinking(&mut self, think: Option<&Value>, field: &str) {
        if matches!(think, Some(Value::Bool(true) | Value::String(_))) {
            self.0.push(("thinking", field.into()));
        }
    }

    fn tools(&mut self, config: &BotConfig) {
        if !config.tools.is_empty() {
            self.0.push(("tools", "config.tools".into()));
        }
    }

    /// True where any model will do.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Refuses what a model can't do. One whose abilities are not known, or that names none, is taken to be able to do
    /// everything: its server will say.
    ///
    /// # Errors
    /// `model_capability` with the fields.
    pub(super) fn check(self, model: &str, abilities: &[String]) -> Result<(), Problem> {
        if abilities.is_empty() {
            return Ok(());
        }
        let words = |ability| WORDS.iter().find(|(name, _)| *name == ability).map_or(ability, |(_, w)| *w);
        let missing = self.0.into_iter().filter(|(ability, _)| !abilities.iter().any(|a| a == ability));
        let errors: Vec<_> = missing
            .map(|(ability, field)| FieldError { field, reason: format!("{model} can't {}", words(ability)) })
            .collect();
        let Some(first) = errors.first() else { return Ok(()) };
        let detail = format!(
            "{}: {}. Choose a model that can; GET /api/models lists what each is able to do.",
            first.field, first.reason
        );
        Err(Problem { errors, ..Problem::new(Code::ModelCapability, detail) })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_model_cannot_do_is_named_with_its_field() {
        let config = BotConfig { tools: vec![json!({})], think: Some(json!("high")), ..BotConfig::default() };
        let able = ["completion".to_owned()];
        let fields = |needs: Needs| -> Vec<String> {
            needs
                .check("m", &able)
                .map_or_else(|p| p.errors.into_iter().map(|e| e.field).collect(), |()| vec![])
        };
        assert_eq!(fields(Needs::of_config(&config)), ["config.think", "config.tools"]);
        assert_eq!(fields(Needs::of_message(&config, Some(&json!(false)), 1)), ["config.tools", "images"]);
        assert_eq!(fields(Needs::of_message(&BotConfig::default(), Some(&json!(true)), 0)), ["think"]);
        assert!(Needs::of_message(&BotConfig::default(), None, 0).is_empty());
        assert_eq!(Needs::of_config(&config).check("m", &[]), Ok(()));
        let all = ["tools".to_owned(), "thinking".to_owned()];
        assert_eq!(Needs::of_config(&config).check("m", &all), Ok(()));
    }
}
