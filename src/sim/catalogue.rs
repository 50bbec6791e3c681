//! The models that the simulator offers, which of them are loaded, and how often a script still says "busy".

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::time::Instant;

use super::{
    answer::hash,
    script::{PREFIX, Script},
    wire::stamp_of,
};

/// The most models that pull and copy may add.
const MAX_MODELS: usize = 1000;
/// The most models that count as loaded, scripts whose busy count is kept, and pulls that may be gone on with: names
/// come from outside.
const MAX_TRACKED: usize = 256;
/// The largest context of every simulated model.
pub(crate) const CONTEXT_LENGTH: u32 = 32_768;
/// The length of the vectors of `/api/embed`.
pub(crate) const EMBEDDING_LENGTH: usize = 64;

#[derive(Debug)]
struct Loaded {
    until: Instant,
    expires_at: OffsetDateTime,
    num_ctx: u64,
}

#[derive(Debug)]
struct State {
    listed: Vec<(String, OffsetDateTime)>,
    loaded: HashMap<String, Loaded>,
    busy_left: HashMap<String, u32>,
    /// How far pulls came that did not end well.
    parts: HashMap<String, u64>,
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Catalogue {
    state: Mutex<State>,
}

/// Why a name can't be played.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unplayable {
    NotFound,
    BadScript(String),
}

impl Catalogue {
    pub(crate) fn new(models: Vec<String>) -> Self {
        let now = OffsetDateTime::now_utc();
        let listed = models.into_iter().map(|name| (name, now)).collect();
        Self {
            state: Mutex::new(State {
                listed,
                loaded: HashMap::new(),
                busy_left: HashMap::new(),
                parts: HashMap::new(),
            }),
        }
    }

    /// The script behind a name: `sim:…` always, other names where they are listed.
    pub(crate) fn resolve(&self, model: &str) -> Result<Script, Unplayable> {
        if let Some(parsed) = Script::parse(model) {
            return parsed.map_err(|e| Unplayable::BadScript(format!("model '{model}': {e}")));
        }
        if self.state.lock().position(model).is_some() {
            Ok(Script::person())
        } else {
            Err(Unplayable::NotFound)
        }
    }

    /// True as often as the script asks for, then false once, and so on.
    pub(crate) fn busy(&self, model: &str, script: &Script) -> bool {
        if script.busy == 0 {
            return false;
        }
        let mut state = self.state.lock();
        if state.busy_left.len() >= MAX_TRACKED && !state.busy_left.contains_key(model) {
            state.busy_left.clear();
        }
        let left = state.busy_left.entry(model.to_owned()).or_insert(script.busy);
        if *left == 0 {
            state.busy_left.remove(model);
            return false;
        }
        *left -= 1;
        true
    }

    /// True where the model is in memory.
    pub(crate) fn is_loaded(&self, model: &str) -> bool {
        self.state.lock().loaded.get(key(model)).is_some_and(|l| l.until > Instant::now())
    }

    /// The model stays in memory for `keep` from now on; `None` unloads it.
    pub(crate) fn touch(&self, model: &str, keep: Option<Duration>, num_ctx: u64) {
        let mut state = self.state.lock();
        let Some(keep) = keep else {
            state.loaded.remove(key(model));
            return;
        };
        let now = Instant::now();
        if state.loaded.len() >= MAX_TRACKED && !state.loaded.contains_key(key(model)) {
            state.loaded.retain(|_, l| l.until > now);
            let oldest = state.loaded.iter().min_by_key(|(_, l)| l.until).map(|(name, _)| name.clone());
            if state.loaded.len() >= MAX_TRACKED
                && let Some(oldest) = oldest
            {
                state.loaded.remove(&oldest);
            }
        }
        let loaded = Loaded { until: now + keep, expires_at: OffsetDateTime::now_utc() + keep, num_ctx };
        match state.loaded.get_mut(key(model)) {
            Some(slot) => *slot = loaded,
            None => {
                state.loaded.insert(key(model).to_owned(), loaded);
            }
        }
    }

    /// How far an earlier pull of a model came; beyond all measure where the model is listed.
    pub(crate) fn part(&self, model: &str) -> u64 {
        let state = self.state.lock();
        if state.position(model).is_some() {
            return u64::MAX;
        }
        state.parts.get(key(model)).copied().unwrap_or(0)
    }

    /// So much of it is there now.
    pub(crate) fn keep_part(&self, model: &str, steps: u64) {
        let mut state = self.state.lock();
        if state.parts.len() >= MAX_TRACKED && !state.parts.contains_key(key(model)) {
            state.parts.clear();
        }
        state.parts.insert(key(model).to_owned(), steps);
    }

    /// Lists `model`; false where there is no room for more.
    pub(crate) fn add(&self, model: &str) -> bool {
        let mut state = self.state.lock();
        let now = OffsetDateTime::now_utc();
        state.parts.remove(key(model));
        match state.position(model) {
            Some(at) => state.listed[at].1 = now,
            None if state.listed.len() >= MAX_MODELS => return false,
            None => state.listed.push((model.to_owned(), now)),
        }
        true
    }

    /// Takes `model` off the list; false where it is not on it.
    pub(crate) fn remove(&self, model: &str) -> bool {
        let mut state = self.state.lock();
        let Some(at) = state.position(model) else { return false };
        state.listed.remove(at);
        state.loaded.remove(key(model));
        true
    }

    /// The answer of `/api/tags`.
    pub(crate) fn tags(&self) -> Value {
        let state = self.state.lock();
        let mut listed: Vec<_> = state.listed.iter().collect();
        listed.sort_by_key(|(_, at)| std::cmp::Reverse(at.unix_timestamp()));
        let models: Vec<Value> = listed
            .into_iter()
            .map(|(name, at)| {
                json!({"name": name, "model": name, "modified_at": stamp_of(*at), "size": size(name),
                       "digest": digest(name), "details": details()})
            })
            .collect();
        json!({ "models": models })
    }

    /// The answer of `/api/ps`.
    pub(crate) fn ps(&self) -> Value {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.loaded.retain(|_, l| l.until > now);
        let mut loaded: Vec<_> = state.loaded.iter().collect();
        loaded.sort_by(|(a, x), (b, y)| y.until.cmp(&x.until).then(a.cmp(b)));
        let models: Vec<Value> = loaded
            .into_iter()
            .map(|(name, l)| {
                json!({"name": name, "model": name, "size": size(name), "digest": digest(name), "details": details(),
                       "expires_at": stamp_of(l.expires_at), "size_vram": 0, "context_length": l.num_ctx})
            })
            .collect();
        json!({ "models": models })
    }

    /// The answer of `/api/show` for a name that resolved to `script`.
    pub(crate) fn show(&self, model: &str, script: &Script) -> Value {
        let state = self.state.lock();
        let modified = state.position(model).map_or_else(OffsetDateTime::now_utc, |at| state.listed[at].1);
        json!({
            "modelfile": format!("# A scripted model of deia sim\nFROM {model}\nTEMPLATE {{{{ .Prompt }}}}\n"),
            "template": "{{ .Prompt }}",
            "details": details(),
            "model_info": {
                "general.architecture": "simulated",
                "general.parameter_count": 0,
                "simulated.context_length": CONTEXT_LENGTH,
                "simulated.embedding_length": EMBEDDING_LENGTH,
            },
            "capabilities": capabilities(script),
            "modified_at": stamp_of(modified),
        })
    }
}

impl State {
    fn position(&self, model: &str) -> Option<usize> {
        self.listed.iter().position(|(name, _)| key(name).eq_ignore_ascii_case(key(model)))
    }
}

/// What a script can do, in Ollama's words.
pub(crate) fn capabilities(script: &Script) -> Vec<&'static str> {
    let person = script.source == super::script::Source::Person;
    let mut all = vec!["completion"];
    if script.tools > 0 || person {
        all.push("tools");
    }
    if script.think || person {
        all.push("thinking");
    }
    if script.vision {
        all.push("vision");
    }
    all
}

/// A name without the tag that is implied.
fn key(model: &str) -> &str {
    if model.starts_with(PREFIX) { model } else { model.strip_suffix(":latest").unwrap_or(model) }
}

fn details() -> Value {
    json!({"parent_model": "", "format": "script", "family": "simulated", "families": ["simulated"],
           "parameter_size": "0", "quantization_level": "none"})
}

/// A stable size that looks like a small model's.
pub(crate) fn size(model: &str) -> u64 {
    1_000_000 + hash(&[key(model)]) % 1_000_000
}

/// 64 hexadecimal digits that depend on the name only.
pub(crate) fn digest(model: &str) -> String {
    ["a", "b", "c", "d"].map(|part| format!("{:016x}", hash(&[key(model), part]))).concat()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn scripts_are_never_listed_and_other_names_must_be() {
        let catalogue = Catalogue::new(vec!["simulated".into(), "llama3.2".into()]);
        assert!(catalogue.resolve("llama3.2:latest").is_ok());
        assert!(catalogue.resolve("sim:echo").is_ok());
        assert_eq!(catalogue.resolve("nope"), Err(Unplayable::NotFound));
        assert!(matches!(catalogue.resolve("sim:nope"), Err(Unplayable::BadScript(_))));
        assert_eq!(catalogue.tags()["models"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn busy_comes_as_often_as_asked_before_every_answer() {
        let catalogue = Catalogue::new(vec![]);
        let script = catalogue.resolve("sim:busy=2").unwrap();
        let said: Vec<bool> = (0..6).map(|_| catalogue.busy("sim:busy=2", &script)).collect();
        assert_eq!(said, [true, true, false, true, true, false]);
    }

    #[test]
    fn a_model_leaves_the_memory_when_its_time_is_over() {
        let catalogue = Catalogue::new(vec!["m".into()]);
        catalogue.touch("m", Some(Duration::from_secs(5)), 2048);
        assert!(catalogue.is_loaded("m:latest"));
        assert_eq!(catalogue.ps()["models"][0]["context_length"], 2048);
        catalogue.touch("m", Some(Duration::ZERO), 2048);
        assert!(!catalogue.is_loaded("m"));
        assert_eq!(catalogue.ps()["models"].as_array().unwrap().len(), 0);
    }
}
