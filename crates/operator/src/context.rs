//! What every reconcile has at hand.

use std::collections::{HashMap, HashSet};
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::contract::annotation;
use api::{StatefulService, StatefulStore};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::ObjectRef;
use kube::{Client, ResourceExt};
use tokio::time::Instant;

use crate::apply::Waiting;
use crate::apply::rights::Rights;
use crate::ask::Asks;
use crate::cache::{Cache, Mark};
use crate::calls::Calls;
use crate::config::Live;
use crate::leadership::Leadership;
use crate::malformed::Malformed;
use crate::metrics::Metrics;
use crate::publish::Publisher;
use crate::readiness::Readiness;
use crate::reported::Reported;
use crate::secrets::Secrets;
use crate::server::Server;
use crate::throttle::Throttle;

/// Retries come within a second, and within double the time after each one, up to this.
const RETRY_DELAY_MAX: Duration = Duration::from_mins(5);

/// What all of the operator shares.
pub(crate) struct Shared {
    pub(crate) client: Client,
    pub(crate) calls: Calls,
    pub(crate) publisher: Publisher,
    pub(crate) live: Live,
    pub(crate) server: Server,
    /// The operator's own namespace.
    pub(crate) namespace: String,
    pub(crate) leadership: Leadership,
    pub(crate) readiness: Readiness,
    pub(crate) metrics: Metrics,
    pub(crate) failures: Failures,
    pub(crate) left_alone: LeftAlone,
    pub(crate) reported: Reported,
    pub(crate) pace: Pace,
    pub(crate) waiting: Waiting,
    pub(crate) asks: Asks,
    pub(crate) given_up: GivenUp,
    pub(crate) secrets: Secrets,
    pub(crate) throttle: Mutex<Throttle>,
}

impl Shared {
    /// Nothing is to be remembered of an object that is gone.
    pub(crate) fn forget(&self, gone: &ObjectMeta) {
        let uid = gone.uid.as_deref().unwrap_or_default();
        self.failures.forget(uid);
        self.left_alone.forget(uid);
        self.waiting.forget(uid);
        self.reported.forget(uid);
        self.asks.forget(uid);
    }
}

/// What the reconciles of one scope share.
pub(crate) struct Context {
    pub(crate) shared: Arc<Shared>,
    pub(crate) caches: Caches,
    pub(crate) malformed: Malformed,
    pub(crate) rights: Rights,
}

impl Deref for Context {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

/// What is watched. Complete before the first reconcile; what the settings have no use for is empty.
#[derive(Clone)]
pub(crate) struct Caches {
    pub(crate) services: Cache<StatefulService>,
    pub(crate) stores: Cache<StatefulStore>,
    pub(crate) deployments: Cache<Deployment>,
    pub(crate) addresses: Cache<Service>,
    pub(crate) pods: Cache<Pod>,
    pub(crate) budgets: Cache<PodDisruptionBudget>,
    pub(crate) policies: Cache<NetworkPolicy>,
    pub(crate) accounts: Cache<ServiceAccount>,
    pub(crate) roles: Cache<Role>,
    pub(crate) bindings: Cache<RoleBinding>,
    pub(crate) secrets: Cache<PartialObjectMeta<Secret>>,
    pub(crate) namespaces: Cache<PartialObjectMeta<Namespace>>,
}

impl Caches {
    /// Whether an annotation keeps us out of that namespace.
    pub(crate) fn is_opted_out(&self, namespace: &str) -> bool {
        let found = self.namespaces.get(&ObjectRef::new(namespace));
        found.is_some_and(|found| {
            found.annotations().get(annotation::WATCH).map(String::as_str)
                == Some(annotation::WATCH_DISABLED)
        })
    }

    /// The services of that namespace that name that store.
    pub(crate) fn dependents(
        &self,
        store: &str,
        namespace: Option<&str>,
    ) -> Vec<ObjectRef<StatefulService>> {
        let namespace = Mark::namespace(namespace.unwrap_or_default());
        self.services.references(&[namespace, Mark::store(store)])
    }
}

/// An object that has not failed for so long is tried no more: it went unseen.
const FAILURE_MAX: Duration = Duration::from_mins(30);

/// How often each object failed in a row, by uid.
#[derive(Debug, Default)]
pub(crate) struct Failures(Mutex<HashMap<String, Failed>>);

#[derive(Debug)]
struct Failed {
    generation: Option<i64>,
    count: u32,
    last: Instant,
}

impl Failures {
    /// Counts one more for that generation, and says how long to wait: anything up to a bound that doubles. What has
    /// failed together, as when the API server was gone, is spread over all of that time and not tried again together.
    pub(crate) fn next_delay(&self, uid: &str, generation: Option<i64>) -> Duration {
        let now = Instant::now();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.contains_key(uid) {
            all.retain(|_, failed| now.duration_since(failed.last) < FAILURE_MAX);
        }
        let first = Failed { generation, count: 0, last: now };
        let Failed { generation: failed, count, last } = all.entry(uid.to_owned()).or_insert(first);
        *last = now;
        if *failed != generation {
            (*failed, *count) = (generation, 0);
        }
        let delay = Duration::from_secs(1 << (*count).min(9)).min(RETRY_DELAY_MAX);
        *count = count.saturating_add(1);
        delay.mul_f64(spread(uid, *count))
    }

    /// How often it has failed in a row.
    pub(crate) fn count(&self, uid: &str, generation: Option<i64>) -> u32 {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = all.get(uid).filter(|failed| failed.generation == generation);
        failed.map_or(0, |failed| failed.count)
    }

    pub(crate) fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

/// Which services of namespaces that are left alone were told so, by uid and generation. Once is enough: another
/// operator that works there has its own to say about them, and both would go on for ever.
#[derive(Debug, Default)]
pub(crate) struct LeftAlone(Mutex<HashMap<String, Option<i64>>>);

impl LeftAlone {
    /// Whether this generation is still to be told.
    pub(crate) fn tell(&self, uid: &str, generation: Option<i64>) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.insert(uid.to_owned(), generation) != Some(generation)
    }

    pub(crate) fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

impl LeftAlone {
    /// Of all services there are, only those are there still.
    pub(crate) fn retain(&self, known: &HashSet<String>) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|uid, _| known.contains(uid));
    }
}

/// Namespaces in which we may not take back what a setting asked for that asks for it no more.
#[derive(Debug, Default)]
pub(crate) struct GivenUp(Mutex<HashSet<String>>);

impl GivenUp {
    /// Whether that is known of the namespace.
    pub(crate) fn contains(&self, namespace: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(namespace)
    }

    pub(crate) fn insert(&self, namespace: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(namespace.to_owned());
    }

    /// Other settings may come with other rights.
    pub(crate) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// A number from 0 to 1 that depends on the object and on how often it was asked for.
pub(crate) fn spread(uid: &str, round: u32) -> f64 {
    let bytes = uid.bytes().map(u32::from).chain([round]);
    let sum = bytes.fold(2_166_136_261_u32, |sum, byte| (sum ^ byte).wrapping_mul(16_777_619));
    f64::from(sum) / f64::from(u32::MAX)
}

/// How many writes one object may take. More means that somebody else keeps changing it back, such
/// as a second operator with other settings, and each round would start pods.
const WRITES_MAX: u32 = 20;
const WRITES_WINDOW: Duration = Duration::from_secs(10);

/// Counts the writes of each object within a window of time, by kind, namespace and name.
#[derive(Debug, Default)]
pub(crate) struct Pace(Mutex<Windows>);

#[derive(Debug, Default)]
struct Windows {
    writes: HashMap<String, (Instant, u32)>,
    /// When those that are over were forgotten last: once for each window, since it takes a look at all.
    tidied: Option<Instant>,
}

impl Pace {
    /// Whether one more write is in order.
    pub(crate) fn allows(&self, object: String, now: Instant) -> bool {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = |start: Instant| now.duration_since(start) >= WRITES_WINDOW;
        if windows.tidied.is_none_or(is_over) {
            windows.writes.retain(|_, (start, _)| !is_over(*start));
            windows.tidied = Some(now);
        }
        let (start, count) = windows.writes.entry(object).or_insert((now, 0));
        if is_over(*start) {
            (*start, *count) = (now, 0);
        }
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
    fn a_service_that_is_left_alone_is_told_so_once_for_each_generation() {
        let left_alone = LeftAlone::default();
        assert!(left_alone.tell("a", Some(1)));
        assert!(!left_alone.tell("a", Some(1)));
        assert!(left_alone.tell("a", Some(2)));
        left_alone.retain(&HashSet::from(["a".to_owned()]));
        assert!(!left_alone.tell("a", Some(2)));
        left_alone.retain(&HashSet::new());
        assert!(left_alone.tell("a", Some(2)));
        left_alone.forget("a");
        assert!(left_alone.tell("a", Some(2)));
    }

    #[test]
    fn delays_double_up_to_a_bound_and_start_over() {
        let failures = Failures::default();
        for expected in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            let expected = Duration::from_secs(expected);
            let delay = failures.next_delay("a", Some(1));
            assert!(delay <= expected, "{delay:?}");
        }
        assert!(failures.next_delay("a", Some(2)) <= Duration::from_secs(1));
        failures.next_delay("a", Some(2));
        failures.forget("a");
        assert!(failures.next_delay("a", Some(2)) <= Duration::from_secs(1));
        assert_eq!((failures.count("a", Some(2)), failures.count("a", Some(3))), (1, 0));
    }

    #[test]
    fn what_has_failed_together_is_spread_over_the_whole_time() {
        for tries in 1..5_u32 {
            let mut tenths = [0; 10];
            for number in 0..1_000 {
                let failures = Failures::default();
                let uid = format!("5d0c7a52-9d5e-4a3f-8a43-{number:012}");
                let mut delay = Duration::ZERO;
                for _ in 0..tries {
                    delay = failures.next_delay(&uid, None);
                }
                let bound = f64::from(1 << (tries - 1));
                let tenth = delay.as_secs_f64() / bound * 10.0;
                let bounds = (1..10).filter(|bound| tenth >= f64::from(*bound));
                tenths[bounds.count()] += 1;
            }
            // A hundred each, if chance were fair.
            assert!(tenths.iter().all(|count| (50..200).contains(count)), "{tries}: {tenths:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_went_unseen_is_forgotten_when_another_fails() {
        let failures = Failures::default();
        failures.next_delay("a", None);
        tokio::time::advance(FAILURE_MAX).await;
        failures.next_delay("b", None);
        assert_eq!((failures.count("a", None), failures.count("b", None)), (0, 1));
    }
}
