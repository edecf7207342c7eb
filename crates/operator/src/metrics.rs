//! What is counted, for Prometheus; `docs/operator.md` lists it.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

/// Upper ends of the buckets, in seconds.
const TIMES: [f64; 10] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 20.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InScope {
    kind: String,
    namespace: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    kind: String,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Looked {
    kind: String,
    outcome: &'static str,
}

/// Everything that is counted; clones share it.
#[derive(Clone)]
pub(crate) struct Metrics(Arc<Shared>);

struct Shared {
    registry: Registry,
    reconciles: Family<Ended, Counter>,
    durations: Family<OfKind, Histogram, fn() -> Histogram>,
    pending: Family<OfKind, Gauge>,
    /// What is in `pending`, by kind, so that nothing is counted twice.
    waiting: Mutex<HashMap<&'static str, HashSet<String>>>,
    applies: Family<Looked, Counter>,
    watch_errors: Family<OfKind, Counter>,
    cached: Family<InScope, Gauge>,
    leads: Gauge,
    config_is_valid: Gauge,
    config_generation: Gauge,
    rollouts: Family<OfRollout, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRollout {
    state: &'static str,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("cloudstate_operator");
        let registry = &mut registry;
        let shared = Shared {
            reconciles: add(registry, "reconciles", "Objects looked at, by result"),
            durations: {
                let durations: Family<OfKind, Histogram, fn() -> Histogram> =
                    Family::new_with_constructor(|| Histogram::new(TIMES));
                let help = "From the start of a look at an object to its end";
                registry.register("reconcile_duration_seconds", help, durations.clone());
                durations
            },
            pending: add(registry, "pending", "Objects that wait to be looked at"),
            waiting: Mutex::default(),
            applies: add(
                registry,
                "applies",
                "Objects that were as wanted (skipped) or had to be written (sent)",
            ),
            watch_errors: add(
                registry,
                "watch_errors",
                "Watches that failed and were taken up again",
            ),
            cached: add(registry, "objects_cached", "Objects that are kept in memory"),
            leads: add(registry, "leader", "1 for the replica that writes"),
            config_is_valid: add(
                registry,
                "config_valid",
                "1 while what the ConfigMap says is in effect",
            ),
            config_generation: add(
                registry,
                "config_generation",
                "How often settings were taken up since the start",
            ),
            rollouts: add(
                registry,
                "rollouts",
                "Deployments whose change by settings or store is under way (running) or waits (waiting), and rollouts in a row that failed (failed)",
            ),
            registry: std::mem::take(registry),
        };
        Self(Arc::new(shared))
    }

    /// In the text format of Prometheus.
    pub(crate) fn expose(&self) -> Result<String, fmt::Error> {
        let mut body = String::new();
        text::encode(&mut body, &self.0.registry)?;
        Ok(body)
    }

    pub(crate) fn waits(&self, kind: &'static str, object: String) {
        self.with_waiting(kind, |waiting| waiting.insert(object));
    }

    pub(crate) fn begins(&self, kind: &'static str, object: &str) {
        self.with_waiting(kind, |waiting| waiting.remove(object));
    }

    /// Nothing waits any more, since another replica leads.
    pub(crate) fn forget_waiting(&self) {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.0.pending.clear();
    }

    fn with_waiting(&self, kind: &'static str, change: impl FnOnce(&mut HashSet<String>) -> bool) {
        let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = waiting.entry(kind).or_default();
        if change(waiting) {
            let count = waiting.len();
            let of_kind = OfKind { kind: kind.to_owned() };
            self.0.pending.get_or_create(&of_kind).set(count.try_into().unwrap_or(i64::MAX));
        }
    }

    pub(crate) fn ended(&self, kind: &str, result: &'static str, took: Duration) {
        let kind = kind.to_owned();
        self.0.durations.get_or_create(&OfKind { kind: kind.clone() }).observe(took.as_secs_f64());
        self.0.reconciles.get_or_create(&Ended { kind, result }).inc();
    }

    pub(crate) fn applied(&self, kind: &str, was_sent: bool) {
        let outcome = if was_sent { "sent" } else { "skipped" };
        self.0.applies.get_or_create(&Looked { kind: kind.to_owned(), outcome }).inc();
    }

    pub(crate) fn watch_failed(&self, kind: &str) {
        self.0.watch_errors.get_or_create(&OfKind { kind: kind.to_owned() }).inc();
    }

    pub(crate) fn cached(&self, namespace: &str, kind: &str, count: usize) {
        let of = InScope { kind: kind.to_owned(), namespace: namespace.to_owned() };
        self.0.cached.get_or_create(&of).set(count.try_into().unwrap_or(i64::MAX));
    }

    pub(crate) fn leads(&self, leads: bool) {
        self.0.leads.set(leads.into());
    }

    pub(crate) fn configured(&self, is_valid: bool, is_other: bool) {
        self.0.config_is_valid.set(is_valid.into());
        if is_other {
            self.0.config_generation.inc();
        }
    }

    pub(crate) fn rollouts(&self, running: usize, waiting: usize, failed: usize) {
        for (state, count) in [
            ("running", running.try_into().unwrap_or(i64::MAX)),
            ("waiting", waiting.try_into().unwrap_or(i64::MAX)),
            ("failed", failed.try_into().unwrap_or(i64::MAX)),
        ] {
            self.0.rollouts.get_or_create(&OfRollout { state }).set(count);
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

fn add<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_counted_once() {
        let metrics = Metrics::new();
        let waiting = |count: u32| {
            let line = format!("cloudstate_operator_pending{{kind=\"StatefulService\"}} {count}\n");
            assert!(metrics.expose().unwrap().contains(&line), "{}", metrics.expose().unwrap());
        };
        metrics.waits("StatefulService", "shop/cart".to_owned());
        metrics.waits("StatefulService", "shop/cart".to_owned());
        metrics.waits("StatefulService", "shop/stock".to_owned());
        waiting(2);
        metrics.begins("StatefulService", "shop/cart");
        waiting(1);
    }

    #[test]
    fn names_are_those_of_the_documentation() {
        let metrics = Metrics::new();
        metrics.applied("Deployment", true);
        metrics.configured(true, true);
        let exposed = metrics.expose().unwrap();
        for line in [
            "cloudstate_operator_applies_total{kind=\"Deployment\",outcome=\"sent\"} 1",
            "cloudstate_operator_config_valid 1",
            "cloudstate_operator_config_generation 1",
            "cloudstate_operator_leader 0",
        ] {
            assert!(exposed.contains(line), "{line} is not in\n{exposed}");
        }
    }
}
