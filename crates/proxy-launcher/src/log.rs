//! The launcher's own log: one line for each event on stderr, as JSON or for people. Level and form can be
//! changed while it runs.

mod sink;

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tracing::{Event, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent,
        format::{DefaultFields, Format as Formatter, Full, Json, Writer},
    },
    layer::SubscriberExt as _,
    registry::{LookupSpan, Registry},
    reload::{self, Handle},
    util::SubscriberInitExt as _,
};

use sink::Sink;

/// The form of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object.
    Json,
    /// Text.
    Text,
}

/// The log's switches; clones share them.
#[derive(Clone, Debug)]
pub struct Log {
    level: Handle<LevelFilter, Registry>,
    is_json: Arc<AtomicBool>,
    sink: Sink,
}

impl Log {
    /// Begins to log; once in a process.
    pub fn start(level: &str, format: Format) -> Self {
        let (log, subscriber) = Self::prepare(level, format);
        subscriber.init();
        log
    }

    /// A log, and what must be set up for it to log anything.
    pub(crate) fn prepare(level: &str, format: Format) -> (Self, impl Subscriber + Send + Sync) {
        let (filter, handle) = reload::Layer::new(filter(level));
        let is_json = Arc::new(AtomicBool::new(format == Format::Json));
        let lines = Lines {
            json: Formatter::default()
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .with_span_list(false),
            text: Formatter::default().with_ansi(false),
            is_json: Arc::clone(&is_json),
        };
        let sink = Sink::start(io::stderr());
        let layer = tracing_subscriber::fmt::layer()
            .fmt_fields(DefaultFields::new())
            .event_format(lines)
            .with_writer(sink.clone());
        let subscriber = tracing_subscriber::registry().with(filter).with(layer);
        (Self { level: handle, is_json, sink }, subscriber)
    }

    /// Waits a moment for what was logged to be written: for the end of the process.
    pub fn flush(&self) {
        self.sink.flush();
    }

    /// Logs from now on what is at least as grave.
    pub fn set_level(&self, level: &str) {
        // An error means that the log is gone, and then nobody misses it.
        let _ = self.level.reload(filter(level));
    }

    /// The level in force.
    pub fn level(&self) -> String {
        let level = self.level.with_current(ToString::to_string);
        level.unwrap_or_default().to_ascii_lowercase()
    }

    /// Logs in this form from now on.
    pub fn set_format(&self, format: Format) {
        self.is_json.store(format == Format::Json, Ordering::Relaxed);
    }
}

fn filter(level: &str) -> LevelFilter {
    level.parse().unwrap_or(LevelFilter::INFO)
}

struct Lines {
    json: Formatter<Json>,
    text: Formatter<Full>,
    is_json: Arc<AtomicBool>,
}

impl<S> FormatEvent<S, DefaultFields> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, DefaultFields>,
        writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if self.is_json.load(Ordering::Relaxed) {
            self.json.format_event(context, writer, event)
        } else {
            self.text.format_event(context, writer, event)
        }
    }
}
