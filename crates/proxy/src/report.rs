//! Tells the developer of a user function, through the protocol's `reportError` and our log, of what
//! the user function does wrong.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use protocol::cloudstate::{UserFunctionError, entity_discovery_client::EntityDiscoveryClient};
use tokio::{
    sync::mpsc,
    time::{self, Instant},
};
use tracing::{debug, warn};

use crate::{shown, user_function::UserFunction};

/// Reports that may wait; what comes on top is in the log only.
const WAITING: usize = 64;
/// Reports that are kept for whoever looks.
const KEPT: usize = 32;
/// What was told within this time is not told again, only counted: a user function that does something wrong does
/// it with every call.
const QUIET: Duration = Duration::from_secs(10);
/// How long the user function may take for one.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A handle for whoever notices something; clones share the queue.
#[derive(Clone, Debug)]
pub struct Reporter {
    queue: mpsc::Sender<String>,
    recent: Arc<Mutex<VecDeque<Recent>>>,
}

/// Something that was reported.
#[derive(Debug)]
struct Recent {
    message: String,
    /// When it was told last.
    told: Instant,
    /// When it happened last.
    at: SystemTime,
    times: u64,
}

impl Reporter {
    /// Starts to hand on reports; ends when all handles are gone.
    pub fn start(user_function: &UserFunction) -> Self {
        let (queue, mut reports) = mpsc::channel::<String>(WAITING);
        let mut client = EntityDiscoveryClient::new(user_function.stranger());
        tokio::spawn(async move {
            while let Some(message) = reports.recv().await {
                let call = client.report_error(UserFunctionError { message });
                if !matches!(time::timeout(TIMEOUT, call).await, Ok(Ok(_))) {
                    debug!("the user function did not take a report");
                }
            }
        });
        Self { queue, recent: Arc::default() }
    }

    /// Logs what happened and tells the user function, which need not listen.
    pub fn report(&self, message: String) {
        let message = shown::report(message);
        if self.is_news(&message) {
            warn!(message, "the user function broke the protocol");
            self.send(message);
        }
    }

    /// The same for what is in the log already.
    pub fn hand_on(&self, message: String) {
        let message = shown::report(message);
        if self.is_news(&message) {
            self.send(message);
        }
    }

    fn send(&self, message: String) {
        if self.queue.try_send(message).is_err() {
            debug!("a report was not handed on, since too many wait");
        }
    }

    /// Notes what happened. Says whether it has not been told just now.
    fn is_news(&self, message: &str) -> bool {
        let (now, at) = (Instant::now(), SystemTime::now());
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let known = recent.iter().position(|known| known.message == message);
        let known = known.and_then(|known| recent.remove(known));
        let (told, times) =
            known.as_ref().map_or((None, 0), |known| (Some(known.told), known.times));
        let is_news = told.is_none_or(|told| now - told >= QUIET);
        recent.truncate(KEPT - 1);
        recent.push_front(Recent {
            message: message.to_owned(),
            told: told.filter(|_| !is_news).unwrap_or(now),
            at,
            times: times + 1,
        });
        is_news
    }

    /// The last reports, the newest first.
    pub fn recent(&self) -> Vec<(SystemTime, String)> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let told = recent.iter().map(|Recent { message, at, times, .. }| {
            let often = if *times > 1 { format!(" ({times} times)") } else { String::new() };
            (*at, format!("{message}{often}"))
        });
        told.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_just_told_is_counted_and_told_again_later() {
        let (queue, mut reports) = mpsc::channel(WAITING);
        let reporter = Reporter { queue, recent: Arc::default() };
        for message in ["a", "b", "a", "a"] {
            reporter.report(message.to_owned());
        }
        let recent: Vec<_> = reporter.recent().into_iter().map(|(_, message)| message).collect();
        assert_eq!(recent, ["a (3 times)", "b"]);
        time::advance(QUIET).await;
        reporter.hand_on("a".to_owned());
        drop(reporter);
        let mut told = Vec::new();
        while let Some(message) = reports.recv().await {
            told.push(message);
        }
        assert_eq!(told, ["a", "b", "a"]);
    }

    #[tokio::test]
    async fn a_report_is_cut_to_what_somebody_reads() {
        let (queue, mut reports) = mpsc::channel(WAITING);
        let reporter = Reporter { queue, recent: Arc::default() };
        reporter.report("long ".repeat(1 << 20));
        reporter.hand_on("much ".repeat(1 << 20));
        for told in [reports.recv().await.unwrap(), reports.recv().await.unwrap()] {
            assert!(told.len() < 5_000 && told.ends_with("… (5242880 bytes)"), "{told}");
        }
        assert!(reporter.recent().iter().all(|(_, message)| message.len() < 5_000));
    }
}
