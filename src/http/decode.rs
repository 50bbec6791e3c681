//! From JSON to the types of a request, with errors that name the field, the rule and the nearest known name.

use deia_actors::domain::problem::{Code, FieldError, Problem};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::{Map, Value, error::Category};

/// Reads a JSON object.
pub(super) fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // A derived struct would also take an array, field by field.
    let starts_object = bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{');
    match serde_json::from_slice(bytes) {
        Ok(value) if starts_object => Ok(value),
        Ok(_) => Err(Problem::field("body", "must be a JSON object")),
        Err(_) if bytes.is_empty() => {
            Err(Problem::new(Code::InvalidJson, "The body is empty; send a JSON object, {} at least."))
        }
        Err(error) => Err(explain::<T>(bytes, &error, starts_object)),
    }
}

/// Reads an object that is part of a body; `field` is where it stands.
pub(super) fn from_map<T: DeserializeOwned>(map: &Map<String, Value>, field: &str) -> Result<T, Problem> {
    serde_path_to_error::deserialize(Value::Object(map.clone())).map_err(|error| {
        let path = format!("{field}.{}", error.path());
        invalid(vec![field_error(&path, &error.inner().to_string())])
    })
}

/// Reads an object that is whole in itself.
pub(super) fn from_object<T: DeserializeOwned>(map: Map<String, Value>) -> Result<T, Problem> {
    from_object_beside(map, &[])
}

/// As [`from_object`], for one that other fields were taken out of: they are known, too.
pub(super) fn from_object_beside<T: DeserializeOwned>(
    map: Map<String, Value>,
    beside: &[&str],
) -> Result<T, Problem> {
    serde_path_to_error::deserialize(Value::Object(map)).map_err(|error| {
        invalid(vec![field_error_beside(&error.path().to_string(), &error.inner().to_string(), beside)])
    })
}

/// A problem that names every wrong field, or nothing where there is none.
pub(super) fn check(errors: Vec<FieldError>) -> Result<(), Problem> {
    if errors.is_empty() { Ok(()) } else { Err(invalid(errors)) }
}

fn invalid(errors: Vec<FieldError>) -> Problem {
    let detail = errors.first().map(|e| format!("{}: {}", e.field, e.reason)).unwrap_or_default();
    Problem { errors, ..Problem::new(Code::InvalidRequest, detail) }
}

/// Reads once more, slower, to find out where it went wrong.
fn explain<T: DeserializeOwned>(bytes: &[u8], error: &serde_json::Error, starts_object: bool) -> Problem {
    if error.classify() != Category::Data {
        return Problem::new(Code::InvalidJson, format!("the body is not valid JSON: {error}"));
    }
    if !starts_object {
        return Problem::field("body", "must be a JSON object");
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    match serde_path_to_error::deserialize::<_, T>(&mut reader) {
        Ok(_) => invalid(vec![field_error("body", &error.to_string())]),
        Err(error) => invalid(vec![field_error(&error.path().to_string(), &error.inner().to_string())]),
    }
}

/// serde's words as a field and a reason.
fn field_error(path: &str, message: &str) -> FieldError {
    field_error_beside(path, message, &[])
}

/// `beside` are fields that serde does not know of.
fn field_error_beside(path: &str, message: &str, beside: &[&str]) -> FieldError {
    let message = message.split(" at line ").next().unwrap_or(message);
    // Everything else that names a place in a list writes it this way.
    let path = &path.replace('[', ".").replace(']', "");
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let parent = path.strip_suffix('.').unwrap_or(path);
    let child = |name: &str| match parent {
        "" | "." => name.to_owned(),
        _ if parent == name || parent.ends_with(&format!(".{name}")) => parent.to_owned(),
        _ => format!("{}.{name}", parent.trim_end_matches(".?")),
    };
    if let (true, Some(name)) = (message.starts_with("missing field"), quoted.first()) {
        return FieldError { field: child(name), reason: "is missing".into() };
    }
    if let (true, Some(name)) = (message.starts_with("unknown field"), quoted.first()) {
        let known = [quoted.get(1..).unwrap_or_default(), beside].concat();
        let reason = unknown(name, &known);
        return FieldError { field: child(name), reason };
    }
    let field = if matches!(parent, "" | "." | "?") { "body" } else { parent };
    FieldError { field: field.into(), reason: must_be(message) }
}

/// serde's words for a value of another type, without its names of types and what was given.
fn must_be(message: &str) -> String {
    let mistyped = message.starts_with("invalid type: ") || message.starts_with("invalid value: ");
    let Some((_, wanted)) = message.rsplit_once(", expected ").filter(|_| mistyped) else {
        return message.to_owned();
    };
    let wanted = match wanted {
        "u8" | "u16" | "u64" | "usize" => "a whole number, not negative",
        "u32" => "a whole number from 0 to 4294967295",
        "i8" | "i16" | "i32" | "i64" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "an object",
        _ if wanted.starts_with("struct ") => "an object",
        other => other,
    };
    format!("must be {wanted}")
}

/// What to say about a name that is not known.
pub(super) fn unknown(name: &str, known: &[&str]) -> String {
    match nearest(name, known) {
        Some(near) => format!("is not known; did you mean {near}?"),
        None if known.is_empty() => "is not known; nothing is expected here".into(),
        None => format!("is not known; known are {}", known.join(", ")),
    }
}

/// The known name that looks most like this one, if one does.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let name: String = name.chars().take(64).collect();
    let scored = known.iter().map(|k| (strsim::jaro_winkler(&name, k), *k));
    scored.filter(|(score, _)| *score > 0.75).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, k)| k)
}

/// An absent field is `None`, null is `Some(None)`.
pub(super) fn nullable<'de, T, D>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::<T>::deserialize(deserializer).map(Some)
}

/// An absent field is `None`, null is refused as anything else of another type.
pub(super) fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// An absent field is `None`, null is `Some(Value::Null)`.
pub(super) fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use deia_actors::domain::{bot::Options, ids::BotId};
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        #[allow(dead_code)]
        bot_id: BotId,
        #[allow(dead_code)]
        content: String,
        #[allow(dead_code)]
        options: Option<Options>,
    }

    fn refused(json: &str) -> (Code, String, String) {
        let problem = from_json::<Body>(json.as_bytes()).unwrap_err();
        let first = problem.errors.first().cloned();
        let first = first.unwrap_or(FieldError { field: String::new(), reason: problem.detail });
        (problem.code, first.field, first.reason)
    }

    #[test]
    fn what_is_not_json_is_invalid_json() {
        for bad in [
            "",
            "{",
            "nope",
            "{\"bot_id\":}",
            r#"{"bot_id":"A","content":"\ud800"}"#,
            r#"{"bot_id":"A","content":"x"} x"#,
        ] {
            assert_eq!(refused(bad).0, Code::InvalidJson, "{bad}");
        }
        let deep = format!("{{\"bot_id\":{}", "[".repeat(10_000));
        assert!(matches!(refused(&deep).0, Code::InvalidJson | Code::InvalidRequest));
    }

    #[test]
    fn what_is_not_an_object_is_refused_even_if_the_fields_would_fit() {
        for bad in [r#"["A","hi",null]"#, "5", "null", "\"x\""] {
            let (code, field, reason) = refused(bad);
            assert_eq!((code, field.as_str()), (Code::InvalidRequest, "body"), "{bad}");
            assert_eq!(reason, "must be a JSON object");
        }
    }

    #[test]
    fn a_wrong_field_is_named_with_its_reason() {
        let missing = refused(r#"{"bot_id":"A"}"#);
        assert_eq!(missing, (Code::InvalidRequest, "content".into(), "is missing".into()));
        let unknown = refused(r#"{"bot_id":"A","conten":"x"}"#);
        assert_eq!(
            unknown,
            (Code::InvalidRequest, "conten".into(), "is not known; did you mean content?".into())
        );
        let typed = refused(r#"{"bot_id":"A","content":5}"#);
        assert_eq!(typed.1, "content");
        assert_eq!(typed.2, "must be a string");
        let nested = refused(r#"{"bot_id":"A","content":"x","options":{"temperatur":1}}"#);
        assert_eq!(nested.1, "options.temperatur");
        assert_eq!(nested.2, "is not known; did you mean temperature?");
        let nested = refused(r#"{"bot_id":"A","content":"x","options":{"num_ctx":"many"}}"#);
        assert_eq!(nested.1, "options.num_ctx");
        let huge = refused(r#"{"bot_id":"A","content":"x","options":{"num_ctx":1e30}}"#);
        assert_eq!(
            (huge.1.as_str(), huge.2.as_str()),
            ("options.num_ctx", "must be a whole number from 0 to 4294967295")
        );
        let listed = refused(r#"{"bot_id":"A","content":"x","options":{"stop":["a",5]}}"#);
        assert_eq!((listed.1.as_str(), listed.2.as_str()), ("options.stop.1", "must be a string"));
        let id = refused(r#"{"bot_id":"../x","content":"x"}"#);
        assert_eq!(id.1, "bot_id");
        assert!(id.2.contains("50 characters"), "{}", id.2);
    }
}
