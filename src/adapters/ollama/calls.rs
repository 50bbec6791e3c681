//! What tags, show, ps and version answer, in the words of the port.
//!
//! ollama-rs gives the entry of a list; digest and details, loaded models and the version are missing in it. Its calls
//! lose the HTTP status, so the requests are our own.

use deia_actors::ports::chat_model::{LoadedModel, ModelDetails, ModelSummary};
use ollama_rs::models::LocalModel;
use serde::Deserialize;
use serde_json::Value;

/// The family that scripted models name.
const SIMULATED: &str = "simulated";

#[derive(Deserialize)]
pub(super) struct Tags {
    models: Option<Vec<Tag>>,
}

#[derive(Deserialize)]
struct Tag {
    #[serde(flatten)]
    base: LocalModel,
    digest: Option<String>,
    details: Option<Details>,
    capabilities: Option<Vec<String>>,
}

#[derive(Deserialize, Default)]
struct Details {
    family: Option<String>,
    parameter_size: Option<String>,
    quantization_level: Option<String>,
    context_length: Option<u32>,
}

impl From<Tags> for Vec<ModelSummary> {
    fn from(tags: Tags) -> Self {
        tags.models.unwrap_or_default().into_iter().map(ModelSummary::from).collect()
    }
}

impl From<Tag> for ModelSummary {
    fn from(tag: Tag) -> Self {
        let details = tag.details.unwrap_or_default();
        let family = details.family.unwrap_or_default();
        Self {
            name: tag.base.name,
            size: tag.base.size,
            digest: tag.digest.unwrap_or_default(),
            simulated: family == SIMULATED,
            family,
            parameter_size: details.parameter_size.unwrap_or_default(),
            quantization: details.quantization_level.unwrap_or_default(),
            capabilities: tag.capabilities.unwrap_or_default(),
            context_length: details.context_length,
        }
    }
}

#[derive(Deserialize)]
pub(super) struct Ps {
    models: Option<Vec<Running>>,
}

#[derive(Deserialize)]
struct Running {
    name: String,
    size_vram: Option<u64>,
    expires_at: Option<String>,
}

impl From<Ps> for Vec<LoadedModel> {
    fn from(ps: Ps) -> Self {
        ps.models
            .unwrap_or_default()
            .into_iter()
            .map(|m| LoadedModel {
                name: m.name,
                size_vram: m.size_vram.unwrap_or(0),
                expires_at: m.expires_at.filter(|at| !at.is_empty()),
            })
            .collect()
    }
}

#[derive(Deserialize)]
pub(super) struct Version {
    pub(super) version: String,
}

/// The details in what `show` answered; the tables that nobody reads are left out.
pub(super) fn details(mut raw: Value) -> ModelDetails {
    let mut context_length = None;
    if let Some(fields) = raw.as_object_mut() {
        fields.remove("tensors");
    }
    if let Some(info) = raw.get_mut("model_info").and_then(Value::as_object_mut) {
        info.retain(|key, _| !key.starts_with("tokenizer."));
        context_length = info
            .iter()
            .find(|(key, _)| key.ends_with(".context_length"))
            .and_then(|(_, n)| n.as_u64())
            .and_then(|n| u32::try_from(n).ok());
    }
    let capabilities = raw
        .get("capabilities")
        .and_then(Value::as_array)
        .map(|all| all.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        .unwrap_or_default();
    ModelDetails { capabilities, context_length, raw }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_is_read_with_and_without_details() {
        let tags: Tags = serde_json::from_value(json!({"models": [
            {"name": "tiny:latest", "model": "tiny:latest", "modified_at": "2026-11-21T09:37:12Z", "size": 503_265,
             "digest": "e884", "details": {"parent_model": "", "format": "gguf", "family": "llama", "families": null,
             "parameter_size": "123K", "quantization_level": "F32"}},
            {"name": "old", "modified_at": "", "size": 1}]}))
        .unwrap();
        let models: Vec<ModelSummary> = tags.into();
        assert_eq!((models[0].family.as_str(), models[0].parameter_size.as_str()), ("llama", "123K"));
        assert!(!models[0].simulated && models[1].digest.is_empty());
        let none: Tags = serde_json::from_value(json!({"models": null})).unwrap();
        assert_eq!(Vec::<ModelSummary>::from(none), []);
    }

    #[test]
    fn details_leave_the_tables_out() {
        let details = details(json!({"capabilities": ["completion", "tools"], "tensors": [1, 2],
            "model_info": {"llama.context_length": 8192, "tokenizer.ggml.tokens": null}}));
        assert_eq!((details.context_length, details.capabilities.len()), (Some(8192), 2));
        assert_eq!(
            details.raw,
            json!({"capabilities": ["completion", "tools"],
            "model_info": {"llama.context_length": 8192}})
        );
    }
}
