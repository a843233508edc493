//! Diagnostics: what the agent has to say about itself, through `tracing`.
//!
//! They go to standard error (access records go to standard output, so that the two can be kept apart). An event is
//! formatted where it happens and written by a thread of its own: a worker never waits for the output. The filter can
//! be changed while the agent runs.

use std::fmt::{self, Debug, Write as _};
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tracing::field::{Field, Visit};
use tracing::{Dispatch, Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{DefaultFields, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use super::line::{Line, LineFormat};
use super::sink::{Sink, SinkCounters};

/// Lines that can wait for the output before further ones are dropped.
const QUEUE: usize = 4096;

/// How long the end of the process waits for a slow output.
const FINISH: Duration = Duration::from_secs(2);

/// What is logged: a level, or levels by module, in the syntax of `tracing`'s `EnvFilter`
/// (`info`, `warn,weft::proxy=debug`).
///
/// Parsed strictly: `EnvFilter` takes a word that it does not know for the name of a module and then logs nothing but
/// that module, so that a misspelt level would silence the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter(String);

/// A filter that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "log filter {filter:?}: {reason}; use off, error, warn, info, debug or trace, or module=level, separated by commas"
)]
pub struct LogFilterError {
    filter: String,
    reason: String,
}

impl LogFilter {
    /// The filter as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn to_env_filter(&self) -> EnvFilter {
        EnvFilter::builder().parse_lossy(&self.0)
    }
}

impl Default for LogFilter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for LogFilter {
    type Err = LogFilterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = |reason: String| LogFilterError { filter: text.to_owned(), reason };
        let directives: Vec<&str> = text.split(',').map(str::trim).collect();
        for directive in &directives {
            let level = match directive.rsplit_once('=') {
                // A span's field may contain "=": only what follows the bracket is the level.
                Some((_, level)) if !level.contains(']') => level.trim(),
                _ => directive,
            };
            if level.parse::<tracing::level_filters::LevelFilter>().is_err() || level.is_empty() {
                return Err(error(format!("{level:?} is not a level")));
            }
        }
        let filter = directives.join(",");
        EnvFilter::builder().parse(&filter).map_err(|invalid| error(invalid.to_string()))?;
        Ok(Self(filter))
    }
}

/// Reads and changes the filter of a running agent. Cheap to clone.
#[derive(Clone)]
pub struct LogControl {
    handle: reload::Handle<EnvFilter, Registry>,
}

/// The filter can no longer be changed because the log has been shut down.
#[derive(Debug, thiserror::Error)]
#[error("the log has been shut down")]
pub struct LogGone;

impl LogControl {
    /// The filter in force.
    ///
    /// # Errors
    /// The log has been shut down.
    pub fn filter(&self) -> Result<String, LogGone> {
        self.handle.with_current(ToString::to_string).map_err(|_| LogGone)
    }

    /// Puts `filter` in force, for every thread, at once.
    ///
    /// # Errors
    /// The log has been shut down.
    pub fn set_filter(&self, filter: &LogFilter) -> Result<(), LogGone> {
        self.handle.reload(filter.to_env_filter()).map_err(|_| LogGone)
    }
}

/// The running log. What is queued is written when it is dropped.
pub struct Logging {
    control: LogControl,
    sink: Arc<Sink<Box<[u8]>>>,
}

impl Logging {
    /// Makes `output` (standard error, as a rule) the destination of all diagnostics of this process.
    ///
    /// # Errors
    /// The thread cannot be started, or the process has a `tracing` subscriber already.
    pub fn start(
        filter: &LogFilter,
        format: LineFormat,
        output: impl Write + Send + 'static,
        counters: SinkCounters,
    ) -> io::Result<Self> {
        let (logging, dispatch) = Self::build(filter, format, output, counters)?;
        dispatch.try_init().map_err(|error| io::Error::other(format!("setting up the log: {error}")))?;
        Ok(logging)
    }

    pub(crate) fn build(
        filter: &LogFilter,
        format: LineFormat,
        output: impl Write + Send + 'static,
        counters: SinkCounters,
    ) -> io::Result<(Self, Dispatch)> {
        let write = |line: Box<[u8]>, out: &mut Vec<u8>| out.extend_from_slice(&line);
        let sink = Arc::new(Sink::start("weft-log", QUEUE, counters, output, write)?);
        let (filter, handle) = reload::Layer::new(filter.to_env_filter());
        let lines = Lines(Arc::clone(&sink));
        let events = Events(format);
        let layer = tracing_subscriber::fmt::layer().with_ansi(false);
        // The two formats of a span's fields are different types.
        let layer = match format {
            LineFormat::Text => layer.fmt_fields(DefaultFields::new()).event_format(events).with_writer(lines).boxed(),
            LineFormat::Json => layer.fmt_fields(JsonFields::new()).event_format(events).with_writer(lines).boxed(),
        };
        let subscriber = tracing_subscriber::registry().with(filter).with(layer);
        let logging = Self { control: LogControl { handle }, sink };
        Ok((logging, Dispatch::new(subscriber)))
    }

    /// Reads and changes the filter.
    pub fn control(&self) -> LogControl {
        self.control.clone()
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        self.sink.finish(FINISH);
    }
}

/// Gives every event a writer into the sink.
struct Lines(Arc<Sink<Box<[u8]>>>);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

impl Write for &Lines {
    /// Called once for each event, with its whole line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.send(line.into());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Formats events.
struct Events(LineFormat);

impl<S, N> FormatEvent<S, N> for Events
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut head = Head::default();
        event.record(&mut head);
        let metadata = event.metadata();
        let level = level_name(metadata.level());
        let scope = head.target.as_deref().unwrap_or_else(|| metadata.target());
        let spans = self.spans(context);
        let mut out = Vec::with_capacity(256);
        let mut line = match self.0 {
            LineFormat::Text => {
                let scope = format_args!("{scope}{spans}");
                Line::begin(&mut out, self.0, SystemTime::now(), level, scope, &head.message)
            }
            LineFormat::Json => Line::begin(&mut out, self.0, SystemTime::now(), level, scope, &head.message),
        };
        event.record(&mut Fields(&mut line));
        if self.0 == LineFormat::Json && !spans.is_empty() {
            line.embedded("spans", &spans);
        }
        line.end();
        writer.write_str(std::str::from_utf8(&out).map_err(|_| fmt::Error)?)
    }
}

impl Events {
    /// The spans around an event, outermost first: `:connection{id=7}` in text, an array of objects in JSON.
    fn spans<S, N>(&self, context: &FmtContext<'_, S, N>) -> String
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
        N: for<'a> FormatFields<'a> + 'static,
    {
        let mut text = String::new();
        let Some(scope) = context.event_scope() else {
            return text;
        };
        for span in scope.from_root() {
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<N>>().map_or("", |fields| fields.as_str());
            let name = span.name();
            // Writing to a string cannot fail.
            let _ = match (self.0, fields) {
                (LineFormat::Text, "") => write!(text, ":{name}"),
                (LineFormat::Text, fields) => write!(text, ":{name}{{{fields}}}"),
                (LineFormat::Json, fields) => {
                    let comma = if text.is_empty() { "[" } else { "," };
                    let fields = if fields.is_empty() { "{}" } else { fields };
                    write!(text, "{comma}{{\"name\":\"{name}\",\"fields\":{fields}}}")
                }
            };
        }
        if self.0 == LineFormat::Json && !text.is_empty() {
            text.push(']');
        }
        text
    }
}

fn level_name(level: &Level) -> &'static str {
    match *level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// What stands before the fields of a line.
#[derive(Default)]
struct Head {
    message: String,
    /// The module of an event that came through the `log` crate, whose own target says only "log".
    target: Option<String>,
}

impl Visit for Head {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message.push_str(value),
            "log.target" => self.target = Some(value.to_owned()),
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            // Writing to a string cannot fail.
            let _ = write!(self.message, "{value:?}");
        }
    }
}

struct Fields<'l, 'o>(&'l mut Line<'o>);

impl Fields<'_, '_> {
    fn wants(field: &Field) -> bool {
        field.name() != "message" && !field.name().starts_with("log.")
    }
}

impl Visit for Fields<'_, '_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.scalar(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        if Self::wants(field) {
            self.0.scalar(field.name(), value);
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if Self::wants(field) {
            self.0.scalar(field.name(), value);
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.scalar(field.name(), value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if Self::wants(field) {
            self.0.quoted(field.name(), value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if Self::wants(field) {
            self.0.plain(field.name(), format_args!("{value:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::sink::tests::Memory;

    fn log(filter: &str, format: LineFormat, work: impl FnOnce(&LogControl)) -> String {
        let memory = Memory::default();
        let filter = filter.parse().unwrap();
        let (logging, dispatch) = Logging::build(&filter, format, memory.clone(), SinkCounters::default()).unwrap();
        let control = logging.control();
        tracing::dispatcher::with_default(&dispatch, || work(&control));
        drop(logging);
        memory.text()
    }

    #[test]
    fn text_lines_have_time_level_module_spans_message_and_fields() {
        let text = log("info", LineFormat::Text, |_| {
            let span = tracing::info_span!("connection", id = 7);
            let _entered = span.enter();
            tracing::warn!(target: "weft::test", bytes = 3, peer = %"10.0.0.1:2", name = "a b", "went away");
        });
        let (time, rest) = text.split_once('\t').unwrap();
        assert!(humantime::parse_rfc3339(time).is_ok(), "{time}");
        assert_eq!(rest, "warn\tweft::test:connection{id=7}\twent away\tbytes=3 peer=10.0.0.1:2 name=\"a b\"\n");
    }

    #[test]
    fn json_lines_are_objects_with_typed_fields_and_spans() {
        let text = log("info", LineFormat::Json, |_| {
            let span = tracing::info_span!("connection", id = 7, peer = "x");
            let _entered = span.enter();
            tracing::info!(target: "weft::test", bytes = 3, ok = true, "done \"well\"");
        });
        let mut line: serde_json::Value = serde_json::from_str(&text).unwrap();
        let time = line.as_object_mut().unwrap().remove("time").unwrap();
        assert!(humantime::parse_rfc3339(time.as_str().unwrap()).is_ok());
        assert_eq!(
            line,
            serde_json::json!({
                "level": "info", "scope": "weft::test", "message": "done \"well\"", "bytes": 3, "ok": true,
                "spans": [{"name": "connection", "fields": {"id": 7, "peer": "x"}}],
            })
        );
    }

    #[test]
    fn the_filter_changes_while_running() {
        let text = log("warn", LineFormat::Text, |control| {
            tracing::info!("first");
            assert_eq!(control.filter().unwrap(), "warn");
            control.set_filter(&"debug".parse().unwrap()).unwrap();
            tracing::debug!("second");
            control.set_filter(&"off".parse().unwrap()).unwrap();
            tracing::error!("third");
        });
        assert!(!text.contains("first") && text.contains("second") && !text.contains("third"), "{text}");
    }

    #[test]
    fn a_misspelt_level_is_refused_and_not_taken_for_a_module() {
        for filter in ["verbose", "", "info,", "weft=loud", "debugg,weft=info"] {
            let error = filter.parse::<LogFilter>().unwrap_err().to_string();
            assert!(error.contains("use off, error, warn"), "{filter}: {error}");
        }
        for filter in ["info", "OFF", "warn,weft::proxy=debug", "weft[connection{id=7}]=trace", "info, weft=debug"] {
            filter.parse::<LogFilter>().unwrap_or_else(|error| panic!("{filter}: {error}"));
        }
    }
}
