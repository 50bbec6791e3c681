//! The built-in tools behind the port `ToolRunner`. Today one: what time it is.
//!
//! Like any tool they are offered to a model only where its bot declares them ([`current_time`] is such a declaration).

use async_trait::async_trait;
use deia_actors::ports::tool_runner::{ToolCall, ToolError, ToolRunner};
use jiff::{Timestamp, Unit, tz::TimeZone};
use serde_json::{Value, json};

/// Name of the tool that tells the time.
pub const CURRENT_TIME: &str = "current_time";
/// Longest name of a time zone, in bytes.
const ZONE_MAX: usize = 64;

/// A declaration of the tool that tells the time, for `config.tools`.
#[must_use]
pub fn current_time() -> Value {
    json!({"type": "function", "function": {
        "name": CURRENT_TIME,
        "description": "The current date and time.",
        "parameters": {"type": "object", "properties": {"timezone": {
            "type": "string", "description": "IANA name of a time zone, like Europe/Berlin. UTC where it is left out."}}}}})
}

/// The built-in tools.
#[derive(Debug, Clone, Copy, Default)]
pub struct BuiltInTools;

#[async_trait]
impl ToolRunner for BuiltInTools {
    fn knows(&self, name: &str) -> bool {
        name == CURRENT_TIME
    }

    async fn run(&self, call: &ToolCall) -> Result<String, ToolError> {
        match call.name.as_str() {
            CURRENT_TIME => time_in(&zone(&call.arguments)?, Timestamp::now()),
            _ => Err(ToolError::Unknown),
        }
    }
}

/// The zone that a model asks for. What else it writes is no reason to refuse: models add what was not asked for.
fn zone(arguments: &Value) -> Result<TimeZone, ToolError> {
    let Value::Object(arguments) = arguments else {
        return Err(ToolError::Arguments("must be an object".into()));
    };
    match arguments.get("timezone") {
        None | Some(Value::Null) => Ok(TimeZone::UTC),
        Some(Value::String(name)) if name.is_empty() || name.eq_ignore_ascii_case("utc") => Ok(TimeZone::UTC),
        Some(Value::String(name)) if name.len() <= ZONE_MAX => TimeZone::get(name).map_err(|_| {
            ToolError::Arguments("timezone must be an IANA name like Europe/Berlin, or UTC".into())
        }),
        Some(_) => Err(ToolError::Arguments("timezone must be the name of a time zone".into())),
    }
}

fn time_in(zone: &TimeZone, now: Timestamp) -> Result<String, ToolError> {
    let failed = |e: jiff::Error| ToolError::Failed(e.to_string());
    let now = now.to_zoned(zone.clone()).round(Unit::Second).map_err(failed)?;
    let told = json!({
        "time": now.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
        "timezone": zone.iana_name().unwrap_or("UTC"),
        "weekday": now.strftime("%A").to_string(),
    });
    Ok(told.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use deia_actors::testkit::conformance::tool_runner::{Subject, suite};

    use super::*;

    #[tokio::test]
    async fn the_built_in_tools_pass_the_suite() {
        suite(&Subject {
            runner: BuiltInTools,
            name: CURRENT_TIME.into(),
            arguments: json!({"timezone": "Europe/Berlin"}),
            wrong_arguments: vec![
                json!({"timezone": "Atlantis/Capital"}),
                json!({"timezone": 7}),
                json!({"timezone": "x".repeat(10_000)}),
                json!({"timezone": "../../etc/passwd"}),
                json!("now"),
            ],
        })
        .await;
    }

    #[test]
    fn the_time_is_told_in_the_zone_asked_for() {
        let moment: Timestamp = "2026-11-21T18:30:15.6Z".parse().unwrap();
        let told = |arguments: Value| time_in(&zone(&arguments).unwrap(), moment).unwrap();
        assert_eq!(
            told(json!({"timezone": "Asia/Kolkata"})),
            r#"{"time":"2026-11-22T00:00:16+05:30","timezone":"Asia/Kolkata","weekday":"Sunday"}"#
        );
        assert_eq!(
            told(json!({"extra": 1})),
            r#"{"time":"2026-11-21T18:30:16+00:00","timezone":"UTC","weekday":"Saturday"}"#
        );
    }

    #[test]
    fn its_declaration_is_one() {
        let mut errors = vec![];
        deia_actors::domain::tool::check_tools(&[current_time()], "tools", &mut errors);
        assert_eq!(errors, []);
    }
}
