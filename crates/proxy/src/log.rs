//! The log of the process: JSON lines on standard error, as much as was asked for, which can be changed while the
//! proxy runs (`/log-level`, `docs/operator/on-call.md`).

use std::sync::{Mutex, OnceLock, PoisonError};

use tracing_subscriber::{EnvFilter, util::SubscriberInitExt as _};

/// How much can be asked for.
pub const LEVELS: [&str; 4] = ["error", "warn", "info", "debug"];

/// Like the subscriber itself, one for the process.
static LOG: OnceLock<Log> = OnceLock::new();

struct Log {
    level: Mutex<&'static str>,
    /// Gives whether the log took the filter.
    reload: Box<dyn Fn(EnvFilter) -> bool + Send + Sync>,
}

/// Starts the log; the first call counts.
pub fn start(level: &'static str) {
    let subscriber = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_writer(std::io::stderr)
        .with_env_filter(filter(level))
        .with_filter_reloading();
    let handle = subscriber.reload_handle();
    let reload = Box::new(move |filter| handle.reload(filter).is_ok());
    if LOG.set(Log { level: Mutex::new(level), reload }).is_ok() {
        subscriber.finish().init();
    }
}

/// How much is logged; nothing where somebody else keeps the log, as in tests.
pub fn level() -> Option<&'static str> {
    LOG.get().map(|log| *log.level.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Changes how much is logged, until the process ends.
///
/// # Errors
/// Says what is wrong, and what can be asked for.
pub fn set(level: &str) -> Result<&'static str, String> {
    let known = LEVELS.into_iter().find(|known| *known == level);
    let level = known.ok_or_else(|| format!("level is {level:?}: use {}", LEVELS.join(", ")))?;
    let log = LOG.get().ok_or("this process does not keep its own log")?;
    let mut kept = log.level.lock().unwrap_or_else(PoisonError::into_inner);
    if !(log.reload)(filter(level)) {
        return Err("the log has ended".to_owned());
    }
    *kept = level;
    Ok(level)
}

/// Of what libraries do only what matters: the transport's own debugging would drown ours.
fn filter(level: &'static str) -> EnvFilter {
    EnvFilter::new(if level == "debug" { "info,proxy=debug" } else { level })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_asked_for_is_told_with_what_can() {
        let said = set("loud").unwrap_err();
        assert!(said.contains("\"loud\"") && said.contains("error, warn, info, debug"), "{said}");
    }
}
