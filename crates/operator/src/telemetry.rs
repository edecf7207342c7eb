//! Logs: JSON lines on standard error. `RUST_LOG` changes what is logged.

use std::io::stderr;

use tracing_subscriber::EnvFilter;

/// kube's client logs every 5xx as an error, also those that we retry and report ourselves.
const FILTER_DEFAULT: &str = "info,kube_client::client::builder=off";

pub(crate) fn install() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| FILTER_DEFAULT.into());
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_env_filter(filter)
        .with_writer(stderr)
        .init();
}
