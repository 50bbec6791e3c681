//! The form that an answer has to have: `"json"`, or a JSON schema. What of a schema is taken, and whether a text keeps to
//! it. Pure.
//!
//! A schema comes from outside and is compiled here and on the model server, so its cost is bounded before: its size, its
//! depth, and what it comes to with every reference written out. References lead only into the schema itself, without
//! circles: a grammar, which is what a model server makes of it, has no place for them. Patterns run on an engine whose
//! time is linear in the text.

use std::collections::HashMap;

use jsonschema::PatternOptions;
use serde_json::Value;

use super::problem::FieldError;

/// The largest schema, in bytes of JSON.
pub const SCHEMA_MAX: usize = 32 * 1024;
/// The deepest schema, references followed.
const DEPTH_MAX: usize = 64;
/// The largest schema in values, references written out.
const EXPANDED_MAX: u64 = 10_000;
/// The longest answer that is checked, in bytes.
pub const CHECKED_MAX: usize = 1 << 20;
/// The largest compiled pattern, in bytes.
const PATTERN_MAX: usize = 1 << 20;
/// Steps that the check of an answer may take: the schema's size in values, references written out, for each byte of it.
const STEPS_MAX: u64 = 1_000_000_000;
/// Mistakes of an answer that are named.
const NAMED: usize = 10;
/// Bytes that its mistakes may take. The validator holds all of them at once, each branch of an `anyOf` for itself, so they
/// are looked for only where even the most of them fit.
const MISTAKES_MAX: u64 = 64 << 20;
/// Bytes of a mistake, without the path to its value.
const MISTAKE: u64 = 512;

/// Keywords whose value is data, not a schema.
const DATA: [&str; 4] = ["const", "enum", "default", "examples"];
/// Keywords whose value is an object of schemas by free names.
const NAMES: [&str; 6] =
    ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"];

/// Refuses what is neither `"json"` nor a schema that can be kept to; `field` is where it stands.
pub fn check_format(format: Option<&Value>, field: &str, errors: &mut Vec<FieldError>) {
    let wrong = match format {
        None | Some(Value::Null) => None,
        Some(Value::String(name)) if name == "json" => None,
        Some(schema @ Value::Object(_)) => check_schema(schema).err(),
        Some(_) => Some((String::new(), "must be \"json\" or a JSON schema object".to_owned())),
    };
    errors.extend(wrong.map(|(path, reason)| FieldError { field: format!("{field}{path}"), reason }));
}

/// Refuses a schema that can't be kept to: where in it (`.properties.a`), and why.
///
/// # Errors
/// The place and the reason.
pub fn check_schema(schema: &Value) -> Result<(), (String, String)> {
    if serde_json::to_string(schema).map_or(usize::MAX, |text| text.len()) > SCHEMA_MAX {
        return Err((String::new(), format!("at most {SCHEMA_MAX} bytes as JSON")));
    }
    expanded(schema)?;
    compile(schema).map(drop).map_err(|(path, reason)| (path, format!("is not a JSON schema: {reason}")))
}

/// What of a text does not keep to a format that was checked before, by its place in the JSON (`content.items.0`); nothing
/// where it does. Names no value of it. Takes its time with a long text.
#[must_use]
pub fn deviations(format: &Value, text: &str) -> Vec<FieldError> {
    let at = |path: &str, reason: String| FieldError { field: format!("content{path}"), reason };
    if text.len() > CHECKED_MAX {
        return vec![at("", format!("is longer than the {CHECKED_MAX} bytes that are checked"))];
    }
    let value: Value = match serde_json::from_str(text) {
        Ok(value) => value,
        Err(error) => {
            let place = format!("line {} column {}", error.line(), error.column());
            return vec![at("", format!("is not JSON, from {place} on"))];
        }
    };
    if !format.is_object() {
        return vec![];
    }
    let size = match expanded(format) {
        Ok(extent) => extent.size,
        Err((path, reason)) => return vec![at(&path, format!("can't be checked: {reason}"))],
    };
    if size.saturating_mul(u64::try_from(text.len()).unwrap_or(u64::MAX)) > STEPS_MAX {
        return vec![at("", "is too long to be checked against so large a schema".into())];
    }
    let validator = match compile(format) {
        Ok(validator) => validator,
        Err((path, reason)) => return vec![at(&path, format!("can't be checked: {reason}"))],
    };
    if validator.is_valid(&value) {
        return vec![];
    }
    if size.saturating_mul(mistakes(&value, 0)) > MISTAKES_MAX {
        return vec![at("", "does not keep to its schema; both are too large to say where".into())];
    }
    validator
        .iter_errors(&value)
        .take(NAMED)
        .map(|e| at(&dotted(e.instance_path().as_str()), e.masked().to_string()))
        .collect()
}

/// Bytes of one mistake at each value, under a path of so many bytes.
fn mistakes(value: &Value, path: u64) -> u64 {
    let longer = |part: usize| path.saturating_add(u64::try_from(part).unwrap_or(u64::MAX)).saturating_add(1);
    let own = path.saturating_add(MISTAKE);
    match value {
        // An index has at most as many digits as its array's length.
        Value::Array(all) => {
            let path = longer(all.len().to_string().len());
            all.iter().map(|one| mistakes(one, path)).fold(own, u64::saturating_add)
        }
        Value::Object(all) => {
            all.iter().map(|(name, one)| mistakes(one, longer(name.len()))).fold(own, u64::saturating_add)
        }
        _ => own,
    }
}

fn compile(schema: &Value) -> Result<jsonschema::Validator, (String, String)> {
    jsonschema::options()
        .offline()
        .should_validate_formats(false)
        .with_pattern_options(PatternOptions::regex().size_limit(PATTERN_MAX).dfa_size_limit(PATTERN_MAX))
        .build(schema)
        .map_err(|e| (dotted(e.instance_path().as_str()), e.to_string()))
}

/// A JSON pointer with dots, as fields are named.
fn dotted(pointer: &str) -> String {
    pointer.replace('/', ".").replace("~1", "/").replace("~0", "~")
}

/// What a schema comes to with its references written out.
#[derive(Debug, Clone, Copy)]
struct Extent {
    /// In values; a long text counts for several.
    size: u64,
    /// Levels.
    depth: usize,
}

impl Extent {
    /// One value without anything in it.
    fn of(value: &Value) -> Self {
        let long = value.as_str().map_or(0, |text| u64::try_from(text.len()).unwrap_or(u64::MAX) / MISTAKE);
        Self { size: long.saturating_add(1), depth: 0 }
    }

    /// Data: it is compared with, whatever it says.
    fn of_data(value: &Value) -> Self {
        let mut all = Self::of(value);
        match value {
            Value::Array(parts) => parts.iter().for_each(|part| all.add(Self::of_data(part))),
            Value::Object(parts) => parts.values().for_each(|part| all.add(Self::of_data(part))),
            _ => {}
        }
        Self { depth: 0, ..all }
    }

    /// With a part, one level below.
    fn add(&mut self, part: Self) {
        self.size = self.size.saturating_add(part.size);
        self.depth = self.depth.max(part.depth + 1);
    }
}

fn expanded(schema: &Value) -> Result<Extent, (String, String)> {
    Walk { root: schema, targets: HashMap::from([(String::new(), None)]) }.schema(schema, &mut Vec::new())
}

/// A walk through a schema and what it refers to.
struct Walk<'s> {
    root: &'s Value,
    /// What a reference comes to, by its pointer; none while it is walked.
    targets: HashMap<String, Option<Extent>>,
}

impl Walk<'_> {
    fn schema(&mut self, schema: &Value, path: &mut Vec<String>) -> Result<Extent, (String, String)> {
        if path.len() > DEPTH_MAX {
            return Err((here(path), too_deep()));
        }
        let mut all = Extent::of(schema);
        match schema {
            Value::Array(parts) => {
                for (at, part) in parts.iter().enumerate() {
                    path.push(at.to_string());
                    all.add(self.schema(part, path)?);
                    path.pop();
                }
            }
            Value::Object(keywords) => {
                for (keyword, value) in keywords {
                    path.push(keyword.clone());
                    all.add(match (keyword.as_str(), value) {
                        ("$ref", Value::String(to)) => self.follow(to, path)?,
                        ("$ref" | "$dynamicRef" | "$recursiveRef", _) => {
                            return Err((here(path), "only \"$ref\" with a text is taken".into()));
                        }
                        ("$id" | "id", Value::String(_)) if path.len() > 1 => {
                            return Err((here(path), "only the schema as a whole may have an id".into()));
                        }
                        (data, _) if DATA.contains(&data) => Extent::of_data(value),
                        (names, Value::Object(named)) if NAMES.contains(&names) => {
                            let mut sum = Extent::of(value);
                            for (name, schema) in named {
                                path.push(name.clone());
                                sum.add(self.schema(schema, path)?);
                                path.pop();
                            }
                            sum
                        }
                        _ => self.schema(value, path)?,
                    });
                    path.pop();
                }
            }
            _ => {}
        }
        if all.size > EXPANDED_MAX {
            return Err((here(path), "comes to too much with its references written out".into()));
        }
        Ok(all)
    }

    fn follow(&mut self, to: &str, path: &mut Vec<String>) -> Result<Extent, (String, String)> {
        let Some(pointer) = to.strip_prefix('#').filter(|p| p.is_empty() || p.starts_with('/')) else {
            return Err((here(path), "may only refer into the schema itself (\"#/…\")".into()));
        };
        match self.targets.get(pointer) {
            Some(Some(known)) if path.len() + known.depth > DEPTH_MAX => {
                return Err((here(path), too_deep()));
            }
            Some(Some(known)) => return Ok(*known),
            Some(None) => {
                return Err((
                    here(path),
                    "leads back to itself; a model server can't follow a circle".into(),
                ));
            }
            None => {}
        }
        let Some(target) = self.root.pointer(pointer) else {
            return Err((here(path), "refers to nothing in the schema".into()));
        };
        self.targets.insert(pointer.to_owned(), None);
        let extent = self.schema(target, path)?;
        self.targets.insert(pointer.to_owned(), Some(extent));
        Ok(extent)
    }
}

fn here(path: &[String]) -> String {
    path.iter().map(|part| format!(".{part}")).collect()
}

fn too_deep() -> String {
    format!("is deeper than {DEPTH_MAX}, its references followed")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn refused(schema: &Value) -> (String, String) {
        check_schema(schema).unwrap_err()
    }

    #[test]
    fn usual_schemas_are_taken() {
        for schema in [
            json!({}),
            json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}),
            json!({"$defs": {"a": {"type": "string"}}, "type": "array", "items": {"$ref": "#/$defs/a"}}),
            json!({"properties": {"$ref": {"type": "string"}, "id": {"type": "string"}, "enum": {"enum": [{"$ref": "#"}]}}}),
            json!({"type": "string", "pattern": "^[a-z]{1,20}$"}),
        ] {
            assert_eq!(check_schema(&schema), Ok(()), "{schema}");
        }
    }

    #[test]
    fn circles_and_foreign_references_are_refused_with_their_place() {
        let tree =
            json!({"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}}}});
        assert_eq!(refused(&tree).0, ".properties.children.items.$ref");
        let two = json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"items": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"});
        assert!(refused(&two).1.contains("circle"));
        for to in ["http://127.0.0.1:1/x", "file:///etc/passwd", "other.json", "#name", "#/$defs/none"] {
            assert_eq!(refused(&json!({"items": {"$ref": to}})).0, ".items.$ref", "{to}");
        }
        assert_eq!(refused(&json!({"$dynamicRef": "#x"})).0, ".$dynamicRef");
    }

    #[test]
    fn what_would_cost_too_much_is_refused() {
        let mut deep = json!({"type": "string"});
        for _ in 0..40 {
            deep = json!({"type": "array", "items": {"items": deep}});
        }
        assert!(refused(&deep).1.contains("deeper"));
        let mut defs = serde_json::Map::new();
        for n in 0..15 {
            let next = json!({"$ref": format!("#/$defs/{}", n + 1)});
            defs.insert(n.to_string(), json!({"allOf": [next, next]}));
        }
        defs.insert("15".into(), json!({"type": "string"}));
        assert!(refused(&json!({"$defs": defs, "$ref": "#/$defs/0"})).1.contains("too much"));
        assert!(refused(&json!({"description": "x".repeat(SCHEMA_MAX)})).1.contains("bytes"));
        assert!(check_schema(&json!({"pattern": "(a{1000}){1000}{1000}"})).is_err());
    }

    #[test]
    fn a_chain_of_references_is_as_deep_as_it_is_long_whoever_was_followed_first() {
        let chain = |links: usize| {
            let link = |n: usize| match n {
                0 => json!({"type": "string"}),
                n => json!({"$ref": format!("#/examples/{}", n - 1)}),
            };
            let entries: Vec<_> = (0..links).map(|n| json!({"$ref": format!("#/examples/{n}")})).collect();
            json!({"examples": (0..links).map(link).collect::<Vec<_>>(), "allOf": entries})
        };
        assert_eq!(check_schema(&chain(30)), Ok(()));
        let (path, reason) = refused(&chain(100));
        assert!(path.starts_with(".allOf.") && reason.contains("deeper"), "{path} {reason}");
    }

    #[test]
    fn the_mistakes_of_an_answer_are_counted_out_only_where_all_of_them_fit_the_memory() {
        let choices =
            |of: usize| json!({"items": {"anyOf": (0..of).map(|n| json!({"const": n})).collect::<Vec<_>>()}});
        let answer = |of: usize| format!("[{}]", vec!["-1"; of].join(","));
        assert_eq!(check_schema(&choices(1000)), Ok(()));
        let found = deviations(&choices(1000), &answer(5000));
        assert_eq!(found.len(), 1);
        assert!(found[0].reason.contains("too large to say where"), "{found:?}");
        assert_eq!(deviations(&choices(1000), &answer(5000).replace("-1", "7")), []);
        assert_eq!(deviations(&choices(20), &answer(20)).len(), NAMED);
        assert_eq!(deviations(&choices(20), "[1,-1]")[0].field, "content.1");
        let long = deviations(&choices(2000), &answer(300_000));
        assert!(long[0].reason.contains("too long to be checked"), "{long:?}");
        // A long name stands in the path of each mistake below it.
        let nested = json!({"x".repeat(100_000): vec![1; 2000]});
        let of_text = json!({"additionalProperties": {"items": {"type": "string"}}});
        assert!(deviations(&of_text, &nested.to_string())[0].reason.contains("too large to say where"));
    }

    #[test]
    fn what_is_no_schema_is_refused() {
        for schema in [
            json!({"type": "strin"}),
            json!({"properties": 3}),
            json!({"pattern": "("}),
            json!({"minimum": "1"}),
        ] {
            assert!(check_schema(&schema).is_err(), "{schema}");
        }
        // An engine without linear time would take this one.
        assert!(check_schema(&json!({"pattern": "(?=a)b"})).is_err());
    }

    #[test]
    fn an_answer_that_does_not_keep_to_its_form_is_told_where_and_without_its_values() {
        let schema = json!({"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"},
            "all": {"type": "array", "items": {"type": "string"}}}});
        assert_eq!(deviations(&schema, r#"{"n": 1, "all": ["a"]}"#), []);
        let found = deviations(&schema, r#"{"n": "secret", "all": ["a", 2]}"#);
        let fields: Vec<_> = found.iter().map(|e| e.field.as_str()).collect();
        assert_eq!(fields.len(), 2);
        assert!(fields.contains(&"content.n") && fields.contains(&"content.all.1"), "{fields:?}");
        assert!(found.iter().all(|e| !e.reason.contains("secret")), "{found:?}");
        assert_eq!(deviations(&schema, "{}").len(), 1);
        assert_eq!(deviations(&json!("json"), "[1]"), []);
        assert_eq!(deviations(&json!("json"), "hello")[0].field, "content");
        assert_eq!(deviations(&schema, "")[0].field, "content");
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let key = prop_oneof![
            Just("$ref".to_owned()),
            Just("items".to_owned()),
            Just("properties".to_owned()),
            Just("$defs".to_owned()),
            Just("allOf".to_owned()),
            Just("pattern".to_owned()),
            Just("type".to_owned()),
            "[a-c]{1}"
        ];
        let leaf = prop_oneof![
            Just(json!("#")),
            Just(json!("#/$defs/a")),
            Just(json!("string")),
            Just(json!("(a+)+$")),
            any::<i32>().prop_map(|n| json!(n)),
            any::<bool>().prop_map(|b| json!(b)),
        ];
        leaf.prop_recursive(6, 40, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                prop::collection::hash_map(key.clone(), inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_schema_is_judged_and_what_is_taken_judges_any_text(schema in any_json(), text in "[ -~]{0,40}", value in any_json()) {
            if check_schema(&schema).is_ok() {
                let _ = deviations(&schema, &text);
                let _ = deviations(&schema, &value.to_string());
            }
        }
    }
}
