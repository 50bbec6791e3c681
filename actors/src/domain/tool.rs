//! Tools as bots declare them and as models call them. Pure.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    ids::{MessageId, TurnId},
    output_format::check_schema,
    problem::FieldError,
};

/// Tools of one bot.
pub const TOOLS_MAX: usize = 64;
/// All tools of a bot together, in bytes of JSON.
pub const TOOLS_MAX_BYTES: usize = 64 * 1024;
/// The longest name of a tool, in characters.
const NAME_MAX: usize = 64;
/// The longest id of a call that a model may give, in bytes.
const CALL_ID_MAX: usize = 128;

/// A model called a tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolCalled {
    /// The message that holds the call.
    pub message_id: MessageId,
    /// Which turn.
    pub turn_id: TurnId,
    /// Which call.
    pub call_id: String,
    /// The tool.
    pub name: String,
    /// What it was given.
    pub arguments: Value,
}

/// A tool returned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolReturned {
    /// The message that holds the result.
    pub message_id: MessageId,
    /// Which turn.
    pub turn_id: TurnId,
    /// Which call.
    pub call_id: String,
    /// What the model is told.
    pub result: String,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
    /// How long it took.
    pub took_ms: f64,
}

/// What a message of a tool says of the call that it answers; kept in its metadata under `tool`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// The call.
    pub call_id: String,
    /// The tool.
    pub name: String,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
}

impl Answered {
    /// Read from the metadata of a message.
    #[must_use]
    pub fn of(metadata: &Map<String, Value>) -> Option<Self> {
        metadata.get("tool").and_then(|tool| serde_json::from_value(tool.clone()).ok())
    }

    /// Written as metadata.
    #[must_use]
    pub fn metadata(&self) -> Map<String, Value> {
        Map::from_iter([("tool".to_owned(), serde_json::to_value(self).unwrap_or_default())])
    }
}

/// A call as a model wrote it.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// Its id: the model's, or the one it was given here.
    pub id: String,
    /// The tool.
    pub name: String,
    /// An object.
    pub arguments: Value,
}

impl Call {
    /// Reads a call; `id` is for one that has none of its own, or none that can be kept.
    #[must_use]
    pub fn read(written: &Value, id: String) -> Self {
        let function = written.get("function");
        let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
        let own = text(written.get("id"));
        let arguments = match function.and_then(|f| f.get("arguments")) {
            Some(object @ Value::Object(_)) => object.clone(),
            // Some write an object as a text.
            Some(Value::String(text)) => serde_json::from_str(text)
                .ok()
                .filter(Value::is_object)
                .unwrap_or_else(|| Value::String(text.clone())),
            Some(Value::Null) | None => json!({}),
            Some(other) => other.clone(),
        };
        let id = if (1..=CALL_ID_MAX).contains(&own.len()) { own } else { id };
        Self { id, name: text(function.and_then(|f| f.get("name"))), arguments }
    }

    /// The call as it is stored and told to models.
    #[must_use]
    pub fn written(&self) -> Value {
        json!({"id": self.id, "function": {"name": self.name, "arguments": self.arguments}})
    }
}

/// The name of a declared tool.
#[must_use]
pub fn name_of(tool: &Value) -> Option<&str> {
    tool.get("function")?.get("name")?.as_str()
}

/// Adds everything that is wrong with the tools of a bot to `errors`; `field` is where they stand.
pub fn check_tools(tools: &[Value], field: &str, errors: &mut Vec<FieldError>) {
    let mut wrong = |path: &str, reason: String| {
        errors.push(FieldError { field: format!("{field}{path}"), reason });
    };
    if tools.len() > TOOLS_MAX {
        return wrong("", format!("at most {TOOLS_MAX}"));
    }
    if tools.iter().map(|tool| tool.to_string().len()).sum::<usize>() > TOOLS_MAX_BYTES {
        return wrong("", format!("at most {TOOLS_MAX_BYTES} bytes as JSON together"));
    }
    let mut names = HashSet::new();
    for (at, tool) in tools.iter().enumerate() {
        if tool.get("type").and_then(Value::as_str) != Some("function") {
            wrong(&format!(".{at}.type"), "must be \"function\"".into());
            continue;
        }
        let Some(function) = tool.get("function").and_then(Value::as_object) else {
            wrong(&format!(".{at}.function"), "must be an object with a name".into());
            continue;
        };
        match function.get("name").and_then(Value::as_str) {
            Some(name) if !is_name(name) => {
                let rule = format!("1 to {NAME_MAX} characters of A-Z, a-z, 0-9, '_' and '-'");
                wrong(&format!(".{at}.function.name"), rule);
            }
            Some(name) if !names.insert(name) => {
                wrong(&format!(".{at}.function.name"), format!("another tool is called {name}"));
            }
            Some(_) => {}
            None => wrong(&format!(".{at}.function.name"), "is missing".into()),
        }
        if !matches!(function.get("description"), None | Some(Value::String(_))) {
            wrong(&format!(".{at}.function.description"), "must be a text".into());
        }
        let parameters = format!(".{at}.function.parameters");
        match function.get("parameters") {
            None => {}
            Some(schema) if schema.get("type").and_then(Value::as_str) == Some("object") => {
                if let Err((path, reason)) = check_schema(schema) {
                    wrong(&format!("{parameters}{path}"), reason);
                }
            }
            Some(_) => wrong(&parameters, "must be a JSON schema of type object".into()),
        }
    }
}

fn is_name(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn fields(tools: &[Value]) -> Vec<String> {
        let mut errors = vec![];
        check_tools(tools, "config.tools", &mut errors);
        errors.into_iter().map(|e| e.field).collect()
    }

    #[test]
    fn a_declaration_is_refused_where_it_is_wrong() {
        let fine = json!({"type": "function", "function": {"name": "look_up-1", "description": "x",
            "parameters": {"type": "object", "properties": {"q": {"type": "string"}}}}});
        assert_eq!(
            fields(&[fine.clone(), json!({"type": "function", "function": {"name": "bare"}})]),
            [] as [&str; 0]
        );
        let of = |function: Value| json!({"type": "function", "function": function});
        let wrong = [
            json!(3),
            json!({"type": "retrieval"}),
            json!({"type": "function"}),
            of(json!({})),
            of(json!({"name": ""})),
            of(json!({"name": "no spaces"})),
            of(json!({"name": "n".repeat(65)})),
            fine.clone(),
            fine,
            of(json!({"name": "a", "parameters": {"type": "string"}})),
            of(json!({"name": "b", "parameters": {"type": "object", "properties": {"me": {"$ref": "#"}}}})),
            of(json!({"name": "c", "description": 3})),
        ];
        let at = |n: usize, path: &str| format!("config.tools.{n}.{path}");
        assert_eq!(
            fields(&wrong),
            [
                at(0, "type"),
                at(1, "type"),
                at(2, "function"),
                at(3, "function.name"),
                at(4, "function.name"),
                at(5, "function.name"),
                at(6, "function.name"),
                at(8, "function.name"),
                at(9, "function.parameters"),
                at(10, "function.parameters.properties.me.$ref"),
                at(11, "function.description"),
            ]
        );
        let many: Vec<_> = (0..=TOOLS_MAX).map(|n| of(json!({"name": format!("t{n}")}))).collect();
        assert_eq!(fields(&many), ["config.tools"]);
    }

    #[test]
    fn a_call_is_read_in_every_form_that_models_write() {
        let read = |written: Value| Call::read(&written, "mine".into());
        let call = read(json!({"id": "c1", "function": {"index": 0, "name": "a", "arguments": {"x": 1}}}));
        assert_eq!(call, Call { id: "c1".into(), name: "a".into(), arguments: json!({"x": 1}) });
        assert_eq!(Call::read(&call.written(), String::new()), call);
        let text = read(json!({"function": {"name": "a", "arguments": "{\"x\": 1}"}}));
        assert_eq!((text.id.as_str(), &text.arguments), ("mine", &json!({"x": 1})));
        assert_eq!(read(json!({"function": {"name": "a"}})).arguments, json!({}));
        assert_eq!(read(json!(7)).name, "");
        let long = read(json!({"id": "x".repeat(500), "function": {"name": "a", "arguments": [1]}}));
        assert_eq!((long.id.as_str(), &long.arguments), ("mine", &json!([1])));
    }

    proptest! {
        #[test]
        fn any_text_as_a_name_is_judged(name in any::<String>()) {
            let _ = fields(&[json!({"type": "function", "function": {"name": name, "parameters": name}})]);
        }
    }
}
