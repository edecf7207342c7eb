//! What every reconcile has at hand.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use api::{StatefulService, StatefulStore};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Client;
use kube::runtime::events::Recorder;
use kube::runtime::reflector::Store;
use tokio::time::Instant;

/// Retries start after a second and double up to this.
const RETRY_DELAY_MAX: Duration = Duration::from_mins(1);

pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) settings: translate::Settings,
    pub(crate) caches: Caches,
    pub(crate) recorder: Recorder,
    pub(crate) failures: Failures,
    pub(crate) pace: Pace,
}

/// What is watched. Complete before the first reconcile.
#[derive(Clone)]
pub(crate) struct Caches {
    pub(crate) services: Store<StatefulService>,
    pub(crate) stores: Store<StatefulStore>,
    pub(crate) deployments: Store<Deployment>,
    pub(crate) addresses: Store<Service>,
    pub(crate) pods: Store<Pod>,
}

/// How often each object failed in a row, by uid.
#[derive(Debug, Default)]
pub(crate) struct Failures(Mutex<HashMap<String, u32>>);

impl Failures {
    /// Counts one more, and says how long to wait.
    pub(crate) fn next_delay(&self, uid: &str) -> Duration {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(uid.to_owned()).or_default();
        let delay = Duration::from_secs(1 << (*count).min(6)).min(RETRY_DELAY_MAX);
        *count = count.saturating_add(1);
        delay
    }

    pub(crate) fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

/// How many writes one object may take. More means that somebody else keeps changing it back, such
/// as a second operator with other settings, and each round would start pods.
const WRITES_MAX: u32 = 20;
const WRITES_WINDOW: Duration = Duration::from_secs(10);

/// Counts the writes of each object within a window of time, by kind, namespace and name.
#[derive(Debug, Default)]
pub(crate) struct Pace(Mutex<HashMap<String, (Instant, u32)>>);

impl Pace {
    /// Whether one more write is in order.
    pub(crate) fn allows(&self, object: String, now: Instant) -> bool {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        windows.retain(|_, (start, _)| now.duration_since(*start) < WRITES_WINDOW);
        let (_, count) = windows.entry(object).or_insert((now, 0));
        *count += 1;
        *count <= WRITES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_bounded_for_each_object_and_window() {
        let pace = Pace::default();
        let start = Instant::now();
        let allowed = |object: &str, now| pace.allows(object.to_owned(), now);
        assert!((0..WRITES_MAX).all(|_| allowed("a", start)));
        assert!(!allowed("a", start));
        assert!(allowed("b", start));
        assert!(allowed("a", start + WRITES_WINDOW));
    }

    #[test]
    fn delays_double_up_to_a_bound_and_start_over() {
        let failures = Failures::default();
        let delays: Vec<_> = (0..8).map(|_| failures.next_delay("a").as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60]);
        failures.forget("a");
        assert_eq!(failures.next_delay("a").as_secs(), 1);
    }
}
