//! Names of models as Ollama writes them: `[host/][namespace/]model[:tag]`.
//!
//! Read where somebody asks for something to be done with a model on its server. A bot may name whatever its server
//! understands (a script of the simulator is no name of Ollama's), so configurations are not read with this.

use std::{
    fmt,
    hash::{Hash, Hasher},
    str::FromStr,
    sync::Arc,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest name, in bytes.
pub const MODEL_NAME_MAX: usize = 255;
/// Longest namespace, model or tag, in bytes.
const PART_MAX: usize = 80;
const HOST: &str = "registry.ollama.ai";
const NAMESPACE: &str = "library";
const TAG: &str = "latest";

/// The name of a model. Two names are equal where Ollama takes them for the same: what is left out is the default
/// (`registry.ollama.ai/library/…:latest`), and case does not count. Cheap to clone.
#[derive(Clone)]
pub struct ModelName {
    /// As Ollama lists it: with its tag, without a host and namespace that are the default.
    shown: Arc<str>,
    /// Whole and in lower case.
    key: Arc<str>,
}

/// Why a text is no name. It does not repeat the text, which may be of any length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidModelName {
    /// Nothing at all.
    #[error("is missing")]
    Empty,
    /// Longer than [`MODEL_NAME_MAX`].
    #[error("has at most {MODEL_NAME_MAX} bytes")]
    TooLong,
    /// Not `[host/][namespace/]model[:tag]`.
    #[error(
        "must be [host/][namespace/]model[:tag], each part at most {PART_MAX} of A-Z, a-z, 0-9, '_', '-' and single dots, beginning \
         with a letter, digit or '_', like llama3.2 or hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M"
    )]
    Form,
}

impl ModelName {
    /// Reads a name.
    ///
    /// # Errors
    /// [`InvalidModelName`] names the rule that the text breaks.
    pub fn parse(text: &str) -> Result<Self, InvalidModelName> {
        if text.is_empty() {
            return Err(InvalidModelName::Empty);
        }
        if text.len() > MODEL_NAME_MAX {
            return Err(InvalidModelName::TooLong);
        }
        let (path, tag) = match text.rsplit_once(':') {
            // Behind the last colon may also be the port of a host.
            Some((path, tag)) if !tag.contains('/') => (path, tag),
            _ => (text, TAG),
        };
        let mut parts = path.rsplit('/');
        let model = parts.next().unwrap_or_default();
        let namespace = parts.next().unwrap_or(NAMESPACE);
        let host = parts.next().unwrap_or(HOST);
        let whole = parts.next().is_none()
            && is_host(host)
            && is_part(namespace)
            && !namespace.contains('.')
            && is_part(model)
            && is_part(tag);
        if !whole {
            return Err(InvalidModelName::Form);
        }
        let is = |part: &str, default: &str| part.eq_ignore_ascii_case(default);
        let shown = match (is(host, HOST), is(namespace, NAMESPACE)) {
            (true, true) => format!("{model}:{tag}"),
            (true, false) => format!("{namespace}/{model}:{tag}"),
            (false, _) => format!("{host}/{namespace}/{model}:{tag}"),
        };
        let key = format!("{host}/{namespace}/{model}:{tag}").to_ascii_lowercase();
        Ok(Self { shown: shown.into(), key: key.into() })
    }

    /// Whether this text, from a list or a configuration, means the same model.
    #[must_use]
    pub fn is(&self, text: &str) -> bool {
        Self::parse(text).is_ok_and(|other| other == *self)
    }
}

fn is_host(text: &str) -> bool {
    match text.split_once(':') {
        None => is_part(text),
        Some((host, port)) => is_part(host) && port.parse::<u16>().is_ok(),
    }
}

fn is_part(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=PART_MAX).contains(&text.len())
        && text.bytes().next().is_some_and(plain)
        && text.bytes().all(|b| plain(b) || b == b'-' || b == b'.')
        && !text.contains("..")
}

impl PartialEq for ModelName {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}
impl Eq for ModelName {}
impl Hash for ModelName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key.hash(state);
    }
}
impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}
impl fmt::Debug for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}
impl FromStr for ModelName {
    type Err = InvalidModelName;
    fn from_str(text: &str) -> Result<Self, InvalidModelName> {
        Self::parse(text)
    }
}
impl Serialize for ModelName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.shown)
    }
}
impl<'de> Deserialize<'de> for ModelName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_form_that_ollama_takes_is_read_and_shown_as_ollama_lists_it() {
        for (text, shown) in [
            ("llama3.2", "llama3.2:latest"),
            ("qwen3:4b", "qwen3:4b"),
            ("library/qwen3:4b", "qwen3:4b"),
            ("registry.ollama.ai/library/qwen3", "qwen3:latest"),
            ("eva/mine", "eva/mine:latest"),
            (
                "hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M",
                "hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M",
            ),
            ("localhost:5000/eva/mine", "localhost:5000/eva/mine:latest"),
            ("_x-1", "_x-1:latest"),
        ] {
            assert_eq!(ModelName::parse(text).unwrap().to_string(), shown, "{text}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused_without_being_repeated() {
        for bad in [
            "../x",
            "a/../x",
            "..",
            ".x",
            "-x",
            "x..y",
            "a b",
            " a",
            "a\n",
            "a/b/c/d",
            "/x",
            "x/",
            "x:",
            ":x",
            "x:a:b",
            "x@sha256:1",
            "http://h/n/m",
            "h:x/n/m",
            "h:/n/m",
            "n.s/m",
            "é",
            "x\0",
            "a\\b",
            "%2e%2e",
        ] {
            assert_eq!(ModelName::parse(bad).err(), Some(InvalidModelName::Form), "{bad:?}");
        }
        assert_eq!(ModelName::parse("").err(), Some(InvalidModelName::Empty));
        assert_eq!(ModelName::parse(&"x".repeat(10_000)).err(), Some(InvalidModelName::TooLong));
        assert_eq!(ModelName::parse(&"x".repeat(81)).err(), Some(InvalidModelName::Form));
    }

    #[test]
    fn names_of_the_same_model_are_equal() {
        let name = ModelName::parse("llama3.2").unwrap();
        assert!(name.is("LLAMA3.2:latest") && name.is("registry.ollama.ai/library/llama3.2"));
        assert!(!name.is("llama3.2:1b") && !name.is("eva/llama3.2") && !name.is("sim:echo,x=1"));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_refused_or_reads_back_as_itself(text in "\\PC{0,40}|[a-z./:_-]{0,300}") {
            if let Ok(name) = ModelName::parse(&text) {
                prop_assert!(!text.contains("..") && !text.contains(' '));
                prop_assert!(name.is(&name.to_string()));
            }
        }
    }
}
