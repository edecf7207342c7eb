//! A Deployment whose next template waits for its turn. What others change in it meanwhile is put back.
//!
//! What its present template was rendered from, such as the settings of before, is not known any more. So it
//! is kept as it was seen when the waiting began, in this process: one that starts meanwhile takes what it
//! finds for what was applied.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

/// Annotations that the controller of Deployments keeps there.
const OF_THE_CONTROLLER: &str = "deployment.kubernetes.io/";

/// Deployments as they were when they began to wait, by the uid of their service: as many as wait, and
/// shared with the cache until they change.
#[derive(Debug, Default)]
pub(crate) struct Waiting(Mutex<HashMap<String, Arc<Deployment>>>);

impl Waiting {
    /// The Deployment as it was when that began, which may be now.
    pub(super) fn since(&self, service: &str, live: &Arc<Deployment>) -> Arc<Deployment> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all.entry(service.to_owned()).or_insert_with(|| Arc::clone(live));
        if before.metadata.uid != live.metadata.uid {
            *before = Arc::clone(live);
        }
        Arc::clone(before)
    }

    /// It waits no more.
    pub(crate) fn forget(&self, service: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(service);
    }
}

/// The Deployment as it was before, with the number of pods that is wanted now.
pub(super) fn as_it_was(before: &Deployment, wanted: &Deployment) -> Deployment {
    let mut annotations = before.annotations().clone();
    annotations.retain(|key, _| !key.starts_with(OF_THE_CONTROLLER));
    let metadata = ObjectMeta {
        name: before.metadata.name.clone(),
        namespace: before.metadata.namespace.clone(),
        labels: before.metadata.labels.clone(),
        annotations: Some(annotations),
        owner_references: before.metadata.owner_references.clone(),
        ..ObjectMeta::default()
    };
    let mut spec = before.spec.clone().unwrap_or_default();
    spec.replicas = wanted.spec.as_ref().and_then(|spec| spec.replicas);
    // Nobody but a hand pauses it.
    spec.paused = None;
    Deployment { metadata, spec: Some(spec), status: None }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn deployment(value: Value) -> Deployment {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn what_others_keep_on_it_is_not_taken_over_and_the_number_of_pods_is_the_wanted_one() {
        let template =
            |image: &str| json!({ "spec": { "containers": [{ "name": "a", "image": image }] } });
        let before = deployment(json!({
            "metadata": {
                "name": "cart-deployment", "uid": "u", "resourceVersion": "7",
                "annotations": { "deployment.kubernetes.io/revision": "3", "team": "blue" },
            },
            "spec": {
                "replicas": 1, "paused": true, "selector": {}, "template": template("a:1"),
            },
            "status": { "replicas": 1 },
        }));
        let wanted = deployment(
            json!({ "spec": { "replicas": 4, "selector": {}, "template": template("a:2") } }),
        );
        let expected = deployment(json!({
            "metadata": { "name": "cart-deployment", "annotations": { "team": "blue" } },
            "spec": { "replicas": 4, "selector": {}, "template": template("a:1") },
        }));
        assert_eq!(as_it_was(&before, &wanted), expected);
    }

    #[test]
    fn what_is_remembered_is_of_one_deployment_and_of_one_wait() {
        let of = |uid: &str, version: &str| {
            let metadata = json!({ "uid": uid, "resourceVersion": version });
            Arc::new(deployment(json!({ "metadata": metadata })))
        };
        let waiting = Waiting::default();
        let version = |live: &Arc<Deployment>| waiting.since("cart", live).resource_version();
        assert_eq!(version(&of("a", "1")).as_deref(), Some("1"));
        assert_eq!(version(&of("a", "2")).as_deref(), Some("1"));
        assert_eq!(version(&of("b", "3")).as_deref(), Some("3"));
        waiting.forget("cart");
        assert_eq!(version(&of("b", "4")).as_deref(), Some("4"));
    }
}
