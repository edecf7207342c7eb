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

/// Retries start after a second and double up to this.
const RETRY_DELAY_MAX: Duration = Duration::from_mins(1);

pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) settings: translate::Settings,
    pub(crate) caches: Caches,
    pub(crate) recorder: Recorder,
    pub(crate) failures: Failures,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_bound_and_start_over() {
        let failures = Failures::default();
        let delays: Vec<_> = (0..8).map(|_| failures.next_delay("a").as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60]);
        failures.forget("a");
        assert_eq!(failures.next_delay("a").as_secs(), 1);
    }
}
