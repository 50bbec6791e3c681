//! How long a model stays in memory after a turn, in the forms that Ollama takes. Pure.
//!
//! A text is read as Go's `time.ParseDuration` reads it: numbers with units, one behind the other. Below zero means for ever.

use serde_json::Value;

/// The longest that is taken, in seconds: a year. Whoever wants more wants "for ever".
const MAX_SECONDS: f64 = 365.0 * 86_400.0;
/// The longest text, in bytes.
const MAX_BYTES: usize = 64;

/// What a `keep_alive` must be.
pub(super) const RULE: &str = "must be a duration like \"5m\" or \"1h30m\" (units ns, us, ms, s, m, h) or a number of \
seconds, at most 8760h; -1 or \"-1m\" = for ever";

/// Whether Ollama takes it.
pub(super) fn is_keep_alive(value: &Value) -> bool {
    let seconds = match value {
        Value::Number(number) => number.as_f64().map(|seconds| seconds.max(0.0)),
        Value::String(text) if text.len() <= MAX_BYTES => seconds(text),
        _ => None,
    };
    seconds.is_some_and(|seconds| seconds <= MAX_SECONDS)
}

/// A duration's length in seconds, whatever its sign.
fn seconds(text: &str) -> Option<f64> {
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    if rest.is_empty() {
        return None;
    }
    if rest == "0" {
        return Some(0.0);
    }
    let mut sum = 0.0;
    while !rest.is_empty() {
        let is_number = |c: char| c.is_ascii_digit() || c == '.';
        let (number, after) = rest.split_at(rest.find(|c| !is_number(c)).unwrap_or(rest.len()));
        let (unit, next) = after.split_at(after.find(is_number).unwrap_or(after.len()));
        // As in Go, one side of the point may be empty, and not both.
        sum += number.parse::<f64>().ok()? * in_seconds(unit)?;
        rest = next;
    }
    Some(sum)
}

fn in_seconds(unit: &str) -> Option<f64> {
    Some(match unit {
        "ns" => 1e-9,
        // Two letters of Unicode look like a micro.
        "us" | "\u{B5}s" | "\u{3BC}s" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_ollama_takes_is_taken() {
        for fine in [
            json!("5m"),
            json!("1h30m"),
            json!("-1m"),
            json!("-1s"),
            json!("0"),
            json!("-0"),
            json!("+5s"),
            json!("1.5h"),
            json!(".5s"),
            json!("1.s"),
            json!("10ns"),
            json!("10us"),
            json!("10µs"),
            json!("10μs"),
            json!("500ms"),
            json!("8760h"),
            json!(0),
            json!(-1),
            json!(300),
            json!(0.5),
            json!(31_536_000),
            json!(i64::MIN),
        ] {
            assert!(is_keep_alive(&fine), "{fine}");
        }
    }

    #[test]
    fn what_ollama_refuses_is_refused_and_so_is_what_is_far_too_long() {
        for wrong in [
            json!("banana"),
            json!("5"),
            json!("-1"),
            json!("1.5"),
            json!(""),
            json!("-"),
            json!("--1m"),
            json!("m"),
            json!(".s"),
            json!("1.2.3s"),
            json!("5 m"),
            json!(" 5m"),
            json!("5m "),
            json!("1h-5m"),
            json!("5M"),
            json!("1d"),
            json!("1e3s"),
            json!("infs"),
            json!("nans"),
            json!("５m"),
            json!("8761h"),
            json!("999999999h"),
            json!("1".repeat(400) + "h"),
            json!("0".repeat(MAX_BYTES) + "s"),
            json!(31_536_001),
            json!(u64::MAX),
            json!(1e300),
            json!(true),
            json!(["5m"]),
            json!({"m": 5}),
        ] {
            assert!(!is_keep_alive(&wrong), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn numbers_with_units_add_up(parts in prop::collection::vec((0u32..1000, 0usize..6), 1..5), minus: bool) {
            let units = [("ns", 1e-9), ("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
            let mut text = if minus { "-".to_owned() } else { String::new() };
            let mut sum = 0.0;
            for (number, unit) in parts {
                let (unit, length) = units[unit];
                text.push_str(&format!("{number}{unit}"));
                sum += f64::from(number) * length;
            }
            prop_assert_eq!(seconds(&text), Some(sum));
        }

        #[test]
        fn any_text_is_judged_and_none_without_a_unit_is_taken(text in "\\PC{0,80}|[-+.0-9nsumh]{0,20}") {
            let taken = is_keep_alive(&json!(text));
            let bare = text.trim_start_matches(['+', '-']);
            prop_assert!(!taken || bare == "0" || bare.ends_with(['s', 'm', 'h']));
        }
    }
}
