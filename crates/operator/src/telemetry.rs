//! Logs on standard error, as JSON lines or as text. `RUST_LOG` wins over the setting `log.level`.

use std::io::stderr;
use std::sync::OnceLock;

use tracing::warn;
use tracing_subscriber::layer::{Layered, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::config::{Log, LogFormat};

/// kube logs what we retry and report ourselves, and whole objects among it.
const QUIET: &str = "kube_client=off,kube_runtime=error";
const LEVEL_DEFAULT: &str = "info";

type Filtered = Layered<reload::Layer<EnvFilter, Registry>, Registry>;
type Format = Box<dyn Layer<Filtered> + Send + Sync>;

/// What can be changed while the process runs.
struct Control {
    /// Nothing when `RUST_LOG` has decided.
    filter: Option<reload::Handle<EnvFilter, Registry>>,
    format: reload::Handle<Format, Filtered>,
}

static CONTROL: OnceLock<Control> = OnceLock::new();

/// Logs with defaults until the settings are known.
pub(crate) fn install() {
    let given = EnvFilter::try_from_default_env().ok();
    let is_given = given.is_some();
    let default = || filter(LEVEL_DEFAULT).unwrap_or_default();
    let (filter, filter_handle) = reload::Layer::new(given.unwrap_or_else(default));
    let (format, format_handle) = reload::Layer::new(format(LogFormat::Json));
    tracing_subscriber::registry().with(filter).with(format).init();
    let control = Control { filter: (!is_given).then_some(filter_handle), format: format_handle };
    // There is one call, in the one program.
    let _ = CONTROL.set(control);
}

/// Logs as the settings say from now on. Of no effect where nothing was installed, as in tests.
pub(crate) fn adjust(log: &Log) {
    let Some(control) = CONTROL.get() else { return };
    let level = control.filter.as_ref().zip(filter(&log.level));
    let reloaded = level
        .map_or(Ok(()), |(handle, filter)| handle.reload(filter))
        .and_then(|()| control.format.reload(format(log.format)));
    if let Err(error) = reloaded {
        warn!(%error, "logs cannot be changed");
    }
}

/// What that level lets through, if it is one.
pub(crate) fn filter(level: &str) -> Option<EnvFilter> {
    EnvFilter::try_new(format!("{QUIET},{level}")).ok().filter(|_| !level.trim().is_empty())
}

fn format(format: LogFormat) -> Format {
    let layer = tracing_subscriber::fmt::layer().with_writer(stderr);
    match format {
        // Without spans: one that began before a change of format has no fields for the new one.
        LogFormat::Json => {
            layer.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
        LogFormat::Text => layer.with_ansi(false).boxed(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_words_of_rust_log() {
        assert!(filter("debug").is_some());
        assert!(filter("info,operator::apply=trace").is_some());
        assert!(filter("").is_none());
        assert!(filter("lou=d=er").is_none());
    }
}
