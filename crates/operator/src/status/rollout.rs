//! How far a Deployment is.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition};
use kube::ResourceExt;

/// A Deployment's spec and status, side by side.
pub(crate) struct Rollout {
    pub(crate) name: String,
    /// Whether the Deployment's controller has seen its newest spec.
    pub(crate) observed: bool,
    pub(crate) wanted: i32,
    pub(crate) replicas: i32,
    pub(crate) ready: i32,
    pub(crate) updated: i32,
    available: i32,
    pub(crate) deadline_exceeded: bool,
    /// Whether its newest template was rolled out once, whatever has become of its pods since.
    pub(crate) was_complete: bool,
    /// Why pods cannot be created.
    pub(crate) replica_failure: Option<String>,
}

impl Rollout {
    pub(crate) fn of(deployment: &Deployment) -> Self {
        let status = deployment.status.clone().unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        let find = |kind: &str, test: &dyn Fn(&DeploymentCondition) -> bool| {
            conditions.iter().find(|each| each.type_ == kind && test(each)).cloned()
        };
        let overdue = |each: &DeploymentCondition| {
            each.status == "False" && each.reason.as_deref() == Some("ProgressDeadlineExceeded")
        };
        let available =
            |each: &DeploymentCondition| each.reason.as_deref() == Some("NewReplicaSetAvailable");
        // The condition is still that of the template before while its pods end ahead of the new ones.
        let only_newest =
            status.updated_replicas.unwrap_or(0) > 0 && status.updated_replicas == status.replicas;
        let observed = status.observed_generation >= deployment.metadata.generation;
        Self {
            name: deployment.name_any(),
            observed,
            wanted: deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1),
            replicas: status.replicas.unwrap_or(0),
            ready: status.ready_replicas.unwrap_or(0),
            updated: status.updated_replicas.unwrap_or(0),
            available: status.available_replicas.unwrap_or(0),
            deadline_exceeded: find("Progressing", &overdue).is_some(),
            was_complete: observed && only_newest && find("Progressing", &available).is_some(),
            replica_failure: find("ReplicaFailure", &|each| each.status == "True")
                .map(|each| each.message.unwrap_or_default()),
        }
    }

    /// Whether every pod is of the newest template and serves, and no other pod is left.
    pub(crate) fn is_complete(&self) -> bool {
        self.observed
            && [self.replicas, self.updated, self.available].iter().all(|each| *each == self.wanted)
    }

    /// For messages: `1 of 3 pods`.
    pub(crate) fn counts(&self) -> String {
        // Pods of an older template may serve as well; what is asked for is the newest.
        let done = if self.observed { self.available.min(self.updated) } else { 0 };
        format!("{done} of {} pods", self.wanted)
    }
}
