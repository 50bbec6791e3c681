//! What tags, show, ps and version answer, in the words of the port.
//!
//! ollama-rs knows too few fields of a list, and needs all of them; its calls lose the HTTP status. So the requests are our
//! own. An entry of a list that has no name, or is none, is left out, and a field of another type counts as missing: one odd
//! model is no reason to do without its server.

use deia_actors::{
    domain::{model_name::MODEL_NAME_MAX, time::Timestamp},
    ports::chat_model::{LoadedModel, ModelDetails, ModelSummary},
};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;

/// Characters of anything else that a server says of itself or of a model.
const SHORT: usize = 100;
/// Capabilities of one model.
const MAX_CAPABILITIES: usize = 32;
/// The family that scripted models name.
const SIMULATED: &str = "simulated";

#[derive(Deserialize)]
pub(super) struct Tags {
    models: Option<Vec<Value>>,
}

#[derive(Deserialize)]
struct Tag {
    name: String,
    #[serde(default, deserialize_with = "lenient")]
    size: u64,
    #[serde(default, deserialize_with = "lenient")]
    digest: String,
    #[serde(default, deserialize_with = "lenient")]
    details: Details,
    #[serde(default, deserialize_with = "lenient")]
    capabilities: Vec<String>,
}

#[derive(Deserialize, Default)]
struct Details {
    #[serde(default, deserialize_with = "lenient")]
    family: String,
    #[serde(default, deserialize_with = "lenient")]
    parameter_size: String,
    #[serde(default, deserialize_with = "lenient")]
    quantization_level: String,
    #[serde(default, deserialize_with = "lenient")]
    context_length: Option<u32>,
}

/// What is of another type counts as missing.
fn lenient<'de, T: DeserializeOwned + Default, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    Value::deserialize(from).map(|value| serde_json::from_value(value).unwrap_or_default())
}

/// The entries of a list that can be read.
fn entries<T: DeserializeOwned>(list: Option<Vec<Value>>) -> impl Iterator<Item = T> {
    list.unwrap_or_default().into_iter().filter_map(|entry| serde_json::from_value(entry).ok())
}

/// Whether a listed name can be shown and asked for: not what spoils a page or a log.
fn is_name(name: &str) -> bool {
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && !is_format(c);
    !name.is_empty() && name.len() <= MODEL_NAME_MAX && name.chars().all(plain)
}

/// Marks that turn or hide the text around them.
fn is_format(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// What is shown of a word of the server.
pub(super) fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() && !is_format(*c)).take(SHORT).collect()
}

impl From<Tags> for Vec<ModelSummary> {
    fn from(tags: Tags) -> Self {
        entries(tags.models).filter(|tag: &Tag| is_name(&tag.name)).map(ModelSummary::from).collect()
    }
}

impl From<Tag> for ModelSummary {
    fn from(tag: Tag) -> Self {
        let details = tag.details;
        let family = short(&details.family);
        Self {
            name: tag.name,
            size: tag.size,
            digest: short(&tag.digest),
            simulated: family == SIMULATED,
            family,
            parameter_size: short(&details.parameter_size),
            quantization: short(&details.quantization_level),
            capabilities: shorts(tag.capabilities.iter().map(String::as_str)),
            context_length: details.context_length,
        }
    }
}

fn shorts<'a>(words: impl Iterator<Item = &'a str>) -> Vec<String> {
    words.take(MAX_CAPABILITIES).map(short).collect()
}

#[derive(Deserialize)]
pub(super) struct Ps {
    models: Option<Vec<Value>>,
}

#[derive(Deserialize)]
struct Running {
    name: String,
    #[serde(default, deserialize_with = "lenient")]
    size_vram: u64,
    /// Ollama writes nanoseconds and the server's zone.
    #[serde(default, deserialize_with = "lenient")]
    expires_at: Option<Timestamp>,
}

impl From<Ps> for Vec<LoadedModel> {
    fn from(ps: Ps) -> Self {
        entries(ps.models)
            .filter(|m: &Running| is_name(&m.name))
            .map(|m| LoadedModel {
                name: m.name,
                size_vram: m.size_vram,
                expires_at: m.expires_at.map(|at| at.to_string()),
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
        .map(|all| shorts(all.iter().filter_map(Value::as_str)))
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
    fn an_odd_entry_costs_neither_the_others_nor_more_of_itself_than_the_odd_field() {
        let tags: Tags = serde_json::from_value(json!({"models": [
            {"size": 1}, 5, null, {"name": 7, "size": 1}, {"name": "bare"},
            {"name": "odd", "size": -5, "modified_at": 3, "digest": [], "details": "x", "capabilities": "tools"},
            {"name": "half", "size": 2, "details": {"family": 1, "parameter_size": "7B", "context_length": -1}}]}))
        .unwrap();
        let models: Vec<ModelSummary> = tags.into();
        let told = models.iter().map(|m| (m.name.as_str(), m.size, m.parameter_size.as_str()));
        assert_eq!(told.collect::<Vec<_>>(), [("bare", 0, ""), ("odd", 0, ""), ("half", 2, "7B")]);
        assert!(models.iter().all(|m| m.context_length.is_none() && m.family.is_empty()));
        let ps: Ps = serde_json::from_value(json!({"models": [
            3, {"size_vram": 1}, {"name": "m", "size_vram": "much", "expires_at": 7}]}))
        .unwrap();
        let m = LoadedModel { name: "m".into(), size_vram: 0, expires_at: None };
        assert_eq!(Vec::<LoadedModel>::from(ps), [m]);
    }

    #[test]
    fn what_a_server_says_of_itself_is_short_and_plain() {
        let names = ["", "a b", "a\nb", "a\u{202e}b", "日本:latest", &"x".repeat(256), "m"];
        let listed = names.map(|name| json!({"name": name, "modified_at": "", "size": 1}));
        let mut listed = listed.to_vec();
        listed[6]["details"] = json!({"family": format!("l\u{202e}\n{}", "x".repeat(1000))});
        listed[6]["capabilities"] = json!(vec!["tools"; 1000]);
        let models: Vec<ModelSummary> =
            serde_json::from_value::<Tags>(json!({ "models": listed })).unwrap().into();
        assert_eq!(models.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(), ["日本:latest", "m"]);
        assert_eq!((models[1].family.len(), models[1].capabilities.len()), (SHORT, MAX_CAPABILITIES));
        let running = |at: &str| {
            let ps: Ps =
                serde_json::from_value(json!({"models": [{"name": "m", "expires_at": at}]})).unwrap();
            Vec::<LoadedModel>::from(ps).remove(0).expires_at
        };
        assert_eq!(running("9999-99-99"), None);
        assert_eq!(running("0001-01-01T00:00:00Z").as_deref(), Some("0001-01-01T00:00:00.000000Z"));
        assert_eq!(
            running("2026-11-21T10:00:00.123456789+01:00").as_deref(),
            Some("2026-11-21T09:00:00.123456Z")
        );
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
