//! `inference.servers`: addresses of model servers in the forms that people write.

use std::collections::HashSet;

use deia_actors::{
    domain::model::{SERVER_SLOTS_MAX, address_key, is_server_name},
    ports::server_factory::AddressRefused,
};
use reqwest::Url;
use serde_json::{Map, Value, json};

use crate::{
    config::reader::Raw,
    model_address::{host_and_port, parse_address},
};

const FIELDS: [&str; 3] = ["name", "url", "slots"];

/// One model server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelServer {
    /// Its name in the tree, the API and the metrics: given, or `host:port`.
    pub name: String,
    /// Where its API lives.
    pub url: Url,
    /// Answers that it makes at once.
    pub slots: usize,
}

impl ModelServer {
    /// The address as people write it.
    #[must_use]
    pub fn shown_url(&self) -> String {
        self.url.as_str().trim_end_matches('/').to_owned()
    }
}

/// A server whose table may have said nothing about slots.
pub(super) struct Draft {
    server: ModelServer,
    named: bool,
    slots: Option<usize>,
}

impl Draft {
    /// Fills in what the table left out.
    pub fn complete(self, slots: usize) -> ModelServer {
        ModelServer { slots: self.slots.unwrap_or(slots), ..self.server }
    }
}

/// Ollama on this machine.
pub(super) fn default() -> Vec<Draft> {
    draft(&Value::from("http://127.0.0.1:11434")).into_iter().collect()
}

/// The list as it is shown.
pub(super) fn show(drafts: &[Draft]) -> Value {
    drafts
        .iter()
        .map(|draft| {
            let url = draft.server.shown_url();
            match (draft.named, draft.slots) {
                (false, None) => Value::from(url),
                (_, slots) => json!({"name": draft.server.name, "url": url, "slots": slots}),
            }
        })
        .collect()
}

/// Reads the list; the error says what was expected.
pub(super) fn parse(raw: &Raw) -> Result<Vec<Draft>, String> {
    let Some(items) = raw.list().filter(|items| !items.is_empty()) else {
        return Err("a list of at least one URL or table {name, url, slots}".to_owned());
    };
    let drafts: Vec<Draft> = items.iter().map(draft).collect::<Result<_, _>>()?;
    let (mut names, mut urls) = (HashSet::new(), HashSet::new());
    for Draft { server, .. } in &drafts {
        if !urls.insert(address_key(server.url.as_str())) {
            return Err(format!("different servers (one is listed twice: {})", server.shown_url()));
        }
        if !names.insert(&server.name) {
            return Err(format!("servers with different names (two are called {})", server.name));
        }
    }
    Ok(drafts)
}

fn draft(item: &Value) -> Result<Draft, String> {
    match item {
        Value::String(text) => {
            let url = address(text)?;
            Ok(Draft {
                server: ModelServer { name: host_and_port(&url), url, slots: 0 },
                named: false,
                slots: None,
            })
        }
        Value::Object(table) => table_draft(table),
        _ => Err("a list of URLs or of tables {name, url, slots}".to_owned()),
    }
}

fn table_draft(table: &Map<String, Value>) -> Result<Draft, String> {
    if let Some(unknown) = table.keys().find(|key| !FIELDS.contains(&key.as_str())) {
        return Err(format!("tables {{name, url, slots}} (there is no {unknown:?} in them)"));
    }
    let url = table.get("url").and_then(Value::as_str).ok_or("tables with a url in each")?;
    let url = address(url)?;
    let slots = match table.get("slots") {
        None => None,
        Some(slots) => match slots.as_u64() {
            Some(slots) if (1..=u64::from(SERVER_SLOTS_MAX)).contains(&slots) => Some(slots as usize),
            _ => return Err(format!("tables with slots from 1 to {SERVER_SLOTS_MAX}")),
        },
    };
    let name = match table.get("name") {
        None => None,
        Some(name) => match name.as_str() {
            Some(name) if is_server_name(name) => Some(name.to_owned()),
            _ => return Err("tables with names of 1 to 50 of A-Z a-z 0-9 . : _ - (not . and ..)".to_owned()),
        },
    };
    let named = name.is_some();
    let server = ModelServer { name: name.unwrap_or_else(|| host_and_port(&url)), url, slots: 0 };
    Ok(Draft { server, named, slots })
}

/// The error says what was expected.
fn address(text: &str) -> Result<Url, String> {
    parse_address(text).map_err(|refused| match refused {
        AddressRefused::Malformed => "URLs like http://127.0.0.1:11434".to_owned(),
        refused => format!("URLs like http://127.0.0.1:11434 (one {refused})"),
    })
}
