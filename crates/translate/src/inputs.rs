//! What has to be known besides the service itself and the operator's settings.

use std::collections::BTreeMap;

use api::StatefulStore;
use api::contract::annotation;
use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;

/// What was read for one service.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// The store that `spec.datastore.name` names, if it exists.
    pub store: Option<StatefulStore>,
    /// The Deployment of this service, if there is one.
    pub deployment: Option<Observed>,
    /// Whether the cluster runs init containers that stay. Kubernetes does from 1.29 on.
    pub native_sidecars: bool,
}

/// What a Deployment that exists has to say about the next one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Its selector, which cannot be changed.
    pub selector: BTreeMap<String, String>,
    /// How many pods it was to have at first, where that was noted.
    pub initial_replicas: Option<i32>,
    /// Which protocol its pods speak among each other; nothing when they are not of our making.
    pub protocol: Option<String>,
    /// Whether pods of another protocol are still giving way to those of the newest template.
    pub is_replacing: bool,
    /// Whether something that changes pods on their way has taken from one of them what makes its sidecar an
    /// init container that stays. Without that the pod would wait for the sidecar's end for ever.
    pub is_stripped: bool,
}

impl Observed {
    /// What that Deployment has to say.
    pub fn of(deployment: &Deployment) -> Self {
        let spec = deployment.spec.as_ref();
        let template = spec.and_then(|spec| spec.template.metadata.as_ref());
        let annotations = template.and_then(|metadata| metadata.annotations.as_ref());
        Self {
            selector: spec.and_then(|spec| spec.selector.match_labels.clone()).unwrap_or_default(),
            initial_replicas: deployment
                .annotations()
                .get(annotation::INITIAL_REPLICAS)
                .and_then(|replicas| replicas.parse().ok()),
            protocol: annotations
                .and_then(|annotations| annotations.get(annotation::CLUSTER_PROTOCOL))
                .cloned(),
            is_replacing: deployment.annotations().contains_key(annotation::REPLACING)
                && !is_rolled_out(deployment),
            is_stripped: deployment.annotations().contains_key(annotation::SIDECAR_STRIPPED),
        }
    }
}

/// Whether every pod is of the newest template, and there are as many as there should be.
fn is_rolled_out(deployment: &Deployment) -> bool {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let Some(status) = &deployment.status else { return false };
    let (all, updated) = (status.replicas.unwrap_or(0), status.updated_replicas.unwrap_or(0));
    status.observed_generation >= deployment.metadata.generation
        && updated == wanted
        && all == wanted
}
