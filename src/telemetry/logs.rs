//! The log: one line per event on standard error, as JSON or for eyes.
//!
//! A JSON line has `timestamp`, `level`, `service`, `target` and `action` (the message), then the fields of the spans
//! around the event, outermost first, then its own; of two with one name the inner wins.
//!
//! Invariants: standard output is never written to; a panic is one line without a backtrace (resolving one takes longer
//! than restarting the actor that panicked).

use std::{fmt, io, panic, panic::PanicHookInfo};

use serde_json::{Map, Value};
use tracing::{Event, Subscriber, field::Field};
use tracing_subscriber::{
    EnvFilter,
    field::Visit,
    fmt::{
        FmtContext, FormatEvent, FormattedFields,
        format::{JsonFields, Writer},
        time::{FormatTime, SystemTime},
    },
    layer::SubscriberExt,
    registry::LookupSpan,
    util::{SubscriberInitExt, TryInitError},
};

use crate::config::{Log, LogFormat};

/// Why the log can't be started.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    /// The level is not one.
    #[error("log.level: {0}")]
    Level(#[from] tracing_subscriber::filter::ParseError),
    /// The process has a subscriber already.
    #[error("the log is already set up: {0}")]
    Installed(#[from] TryInitError),
}

/// Installs the global subscriber and the panic hook of this process.
///
/// # Errors
/// The level can't be parsed, or there is a subscriber already.
pub fn install(log: &Log) -> Result<(), LogsError> {
    // The actor library opens a span per actor that names it by a bare number.
    let filter = EnvFilter::try_new(&log.level)?.add_directive("ractor=warn".parse()?);
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    match log.format {
        LogFormat::Json => {
            let lines = lines.fmt_fields(JsonFields::new()).event_format(JsonLines);
            registry.with(lines.with_ansi(false)).try_init()?;
        }
        LogFormat::Text => {
            registry.with(lines.with_ansi(io::IsTerminal::is_terminal(&io::stderr()))).try_init()?
        }
    }
    panic::set_hook(Box::new(log_panic));
    Ok(())
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let reason = panic.payload_as_str().unwrap_or("a value that is not text");
    let thread = std::thread::current();
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!(reason, place, thread = thread.name(), "panicked");
}

/// Writes an event as one JSON object.
struct JsonLines;

impl<S> FormatEvent<S, JsonFields> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        let metadata = event.metadata();
        let mut line = Map::new();
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<JsonFields>>();
            if let Some(Ok(fields)) = fields.map(|fields| serde_json::from_str::<Map<_, _>>(&fields.fields)) {
                line.extend(fields);
            }
        }
        event.record(&mut JsonVisitor(&mut line));
        let action = line.remove("message").unwrap_or_default();
        let head = [
            ("timestamp", Value::from(timestamp)),
            ("level", Value::from(metadata.level().as_str())),
            ("service", Value::from("deia")),
            ("target", Value::from(metadata.target())),
            ("action", action),
        ];
        write!(writer, "{{")?;
        for (index, (name, value)) in head.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(writer, "{comma}\"{name}\":{value}")?;
            line.remove(*name);
        }
        for (name, value) in &line {
            write!(writer, ",{}:{value}", Value::from(name.as_str()))?;
        }
        writeln!(writer, "}}")
    }
}

/// Collects the fields of an event.
struct JsonVisitor<'a>(&'a mut Map<String, Value>);

impl JsonVisitor<'_> {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().trim_start_matches("r#").to_owned(), value.into());
    }
}

impl Visit for JsonVisitor<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, value.to_string());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::sync::Arc;

    use parking_lot::Mutex;
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    fn logged(work: impl FnOnce()) -> Vec<Map<String, Value>> {
        let lines = Lines::default();
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(lines.clone())
            .with_ansi(false)
            .fmt_fields(JsonFields::new())
            .event_format(JsonLines);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
        let bytes = lines.0.lock().clone();
        String::from_utf8(bytes)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).expect(line))
            .collect()
    }

    #[test]
    fn a_line_names_the_service_the_action_and_the_fields_of_its_spans() {
        let lines = logged(|| {
            let _bot = tracing::info_span!("bot", bot.id = "BOT-001", turn = 1).entered();
            let _turn = tracing::info_span!("turn", turn = 2).entered();
            tracing::warn!(duration_ms = 1.5, note = %"say \"hi\"\n", "turn completed");
        });
        let [line] = lines.as_slice() else { panic!("one line: {lines:?}") };
        assert_eq!(line["service"], "deia");
        assert_eq!(line["level"], "WARN");
        assert_eq!(line["action"], "turn completed");
        assert_eq!(line["target"], module_path!());
        assert_eq!(line["bot.id"], "BOT-001");
        assert_eq!(line["turn"], 2, "the inner span wins");
        assert_eq!(line["duration_ms"], 1.5);
        assert_eq!(line["note"], "say \"hi\"\n");
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z'));
        assert!(!line.contains_key("message"));
    }

    #[test]
    fn a_field_can_not_forge_the_head_of_its_line() {
        let lines = logged(|| tracing::info!(level = "ERROR", service = "other", "hello"));
        assert_eq!(lines[0]["level"], "INFO");
        assert_eq!(lines[0]["service"], "deia");
    }
}
