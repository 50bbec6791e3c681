//! An example value for a JSON schema: arguments of scripted tool calls and answers in a demanded format.
//! Pure and deterministic.

use serde_json::{Map, Value, json};

/// Nesting beyond this is answered with `null`: a schema comes from outside and may be recursive in effect.
const MAX_DEPTH: usize = 16;

/// A value that fits the usual keywords of `schema`; strings become `text`.
pub(crate) fn example(schema: &Value, text: &str) -> Value {
    at_depth(schema, text, 0)
}

fn at_depth(schema: &Value, text: &str, depth: usize) -> Value {
    if depth > MAX_DEPTH {
        return Value::Null;
    }
    if let Some(value) = schema.get("const") {
        return value.clone();
    }
    if let Some(first) = schema.get("enum").and_then(Value::as_array).and_then(|all| all.first()) {
        return first.clone();
    }
    for key in ["anyOf", "oneOf", "allOf"] {
        if let Some(first) = schema.get(key).and_then(Value::as_array).and_then(|all| all.first()) {
            return at_depth(first, text, depth + 1);
        }
    }
    match kind(schema) {
        Some("object") => object(schema, text, depth),
        Some("array") => {
            let items = schema.get("items").cloned().unwrap_or_else(|| json!({"type": "string"}));
            let least = schema.get("minItems").and_then(Value::as_u64).unwrap_or(1).clamp(1, 8);
            Value::Array((0..least).map(|_| at_depth(&items, text, depth + 1)).collect())
        }
        Some("integer") => json!(schema.get("minimum").and_then(Value::as_i64).unwrap_or(1)),
        Some("number") => json!(schema.get("minimum").and_then(Value::as_f64).unwrap_or(1.0)),
        Some("boolean") => json!(true),
        Some("null") => Value::Null,
        Some(_) => json!(text),
        None if schema.get("properties").is_some() => object(schema, text, depth),
        None => json!(text),
    }
}

/// The type; of several the first that is not `null`.
fn kind(schema: &Value) -> Option<&str> {
    match schema.get("type")? {
        Value::String(one) => Some(one),
        Value::Array(several) => several.iter().filter_map(Value::as_str).find(|t| *t != "null"),
        _ => None,
    }
}

fn object(schema: &Value, text: &str, depth: usize) -> Value {
    let mut out = Map::new();
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        for (name, property) in properties {
            out.insert(name.clone(), at_depth(property, text, depth + 1));
        }
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_gets_every_property_in_its_type() {
        let schema = json!({"type": "object", "required": ["city"], "properties": {
            "city": {"type": "string"}, "days": {"type": "integer", "minimum": 3},
            "unit": {"enum": ["celsius", "fahrenheit"]}, "tags": {"type": "array", "items": {"type": "boolean"}},
            "note": {"type": ["null", "string"]}}});
        assert_eq!(
            example(&schema, "Bonn"),
            json!({"city": "Bonn", "days": 3, "unit": "celsius", "tags": [true], "note": "Bonn"})
        );
    }

    #[test]
    fn a_schema_nested_too_deep_ends() {
        let mut schema = json!({"type": "string"});
        for _ in 0..100 {
            schema = json!({"type": "array", "items": schema});
        }
        assert!(example(&schema, "x").to_string().ends_with("null]]]]]]]]]]]]]]]]]"));
    }
}
