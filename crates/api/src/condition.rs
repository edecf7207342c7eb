//! Conditions of our resources: their types, their reasons, and when a transition time moves.
//!
//! Reasons are part of the contract with users (alerts and scripts match on them), messages are not.
//! `docs/conditions.md` explains each; reasons that come out of the sidecar stand in
//! [`contract::reason`](crate::contract::reason).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// Types of conditions.
pub mod kind {
    /// Whether calls are served; what `kubectl wait` waits for.
    pub const READY: &str = "Ready";
    /// Whether the store can be used.
    pub const STATEFUL_STORE_VALID: &str = "StatefulStoreValid";
    /// Whether the Kubernetes objects of a service exist as translated.
    pub const RESOURCES_AVAILABLE: &str = "ResourcesAvailable";
    /// Whether a rollout is under way.
    pub const PROGRESSING: &str = "Progressing";
    /// Whether nothing will move before a user acts. Only there when it holds.
    pub const STALLED: &str = "Stalled";
    /// Whether the operator is not done with what it was told. Only there when it holds.
    pub const RECONCILING: &str = "Reconciling";
    /// Whether fewer replicas run than the spec asks for, on purpose. Only there when it holds.
    pub const REPLICAS_PINNED: &str = "ReplicasPinned";
    /// Whether the number of pods follows the load. Only there when `spec.autoscaling` is set.
    pub const AUTOSCALING_ACTIVE: &str = "AutoscalingActive";
    /// Whether something in the spec should be written in another way. Only there when it holds.
    pub const CONFIGURATION_DEPRECATED: &str = "ConfigurationDeprecated";
}

/// Reasons that the operator itself gives.
pub mod reason {
    /// Every replica of the current generation serves calls.
    pub const AVAILABLE: &str = "Available";
    /// Pods are on their way, and nothing is known to be wrong.
    pub const PROGRESSING: &str = "Progressing";
    /// The service is scaled to nothing.
    pub const NO_READY_REPLICAS: &str = "NoReadyReplicas";
    /// The store cannot be used; the condition `StatefulStoreValid` says why.
    pub const STORE_INVALID: &str = "StoreInvalid";
    /// The spec cannot be translated.
    pub const BAD_CONFIGURATION: &str = "BadConfiguration";

    /// The store can be used.
    pub const STORE_VALID: &str = "StoreValid";
    /// The service names no store, and so has none.
    pub const NO_STORE: &str = "NoStore";
    /// The named store does not exist in the service's namespace.
    pub const STATEFUL_STORE_NOT_FOUND: &str = "StatefulStoreNotFound";
    /// The store names no type.
    pub const UNSPECIFIED_STORE_TYPE: &str = "UnspecifiedStoreType";
    /// The store's type is not one of ours.
    pub const UNKNOWN_STORE_TYPE: &str = "UnknownStoreType";
    /// The store does not say how it is run.
    pub const UNSPECIFIED_DEPLOYMENT_TYPE: &str = "UnspecifiedDeploymentType";
    /// The store is to be run in a way that is not ours.
    pub const UNKNOWN_DEPLOYMENT_TYPE: &str = "UnknownDeploymentType";
    /// Credentials stand in plain text where a Secret could be named.
    pub const PLAINTEXT_CREDENTIALS: &str = "PlaintextCredentials";
    /// Entities of a store have one owner, so there is one pod whatever is asked for.
    pub const ONE_OWNER: &str = "OneOwner";
    /// What the spec asks for is taken in and not acted upon.
    pub const NOT_IMPLEMENTED: &str = "NotImplemented";
    /// `spec.paused` is true, so nothing is changed.
    pub const PAUSED: &str = "Paused";
    /// A store of type `Cassandra` is used without naming a keyspace in it.
    pub const MISSING_KEYSPACE: &str = "MissingKeyspace";

    /// Every object exists as translated.
    pub const APPLIED: &str = "Applied";
    /// Nothing was applied yet, since something else has to be put right first.
    pub const NOT_APPLIED: &str = "NotApplied";
    /// An object of the needed name exists and belongs to somebody else.
    pub const NOT_OWNED: &str = "NotOwned";
    /// The API server refused an object for what it says.
    pub const REJECTED: &str = "Rejected";
    /// A store is deleted, and stays until nobody names it.
    pub const STORE_IN_USE: &str = "StoreInUse";
    /// The same as [`UNKNOWN_ERROR`], of a store.
    pub const UNKNOWN_OPERATOR_ERROR: &str = "UnknownOperatorError";
    /// Calls to the API server fail, and are tried again.
    pub const UNKNOWN_ERROR: &str = "UnknownError";
    /// The operator may not do what it has to.
    pub const FORBIDDEN: &str = "Forbidden";

    /// The Deployment has not taken up its newest template yet.
    pub const NEW_REPLICA_SET: &str = "NewReplicaSet";
    /// Pods of the newest template are not all available yet.
    pub const WAITING_FOR_REPLICAS: &str = "WaitingForReplicas";
    /// The rollout is over.
    pub const COMPLETE: &str = "Complete";
    /// The rollout took longer than the Deployment's deadline.
    pub const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";
    /// The rollout waits for others of the same change, or is held back since too many of them failed.
    pub const THROTTLED_ROLLOUT: &str = "ThrottledRollout";
    /// The store has changed, and its turn has not come to reach the pods.
    pub const STATEFUL_STORE_CHANGED: &str = "StatefulStoreChanged";
    /// Pods of the newest generation are still on their way.
    pub const OBSERVED_GENERATION_OUTDATED: &str = "ObservedGenerationOutdated";
    /// No rollout can start before something else is put right.
    pub const BLOCKED: &str = "Blocked";

    /// An image cannot be pulled.
    pub const IMAGE_PULL_BACK_OFF: &str = "ImagePullBackOff";
    /// The user function starts and exits again.
    pub const CRASH_LOOP_BACK_OFF: &str = "CrashLoopBackOff";
    /// A Secret that a container needs is not there.
    pub const SECRET_NOT_FOUND: &str = "SecretNotFound";
    /// A Secret that a container needs lacks a key.
    pub const SECRET_KEY_NOT_FOUND: &str = "SecretKeyNotFound";
    /// A container cannot be created.
    pub const CREATE_CONTAINER_ERROR: &str = "CreateContainerError";
    /// The user container's own probe says no.
    pub const USER_CONTAINER_NOT_READY: &str = "UserContainerNotReady";
    /// The sidecar left without last words that we understand.
    pub const SIDECAR_CRASHED: &str = "SidecarCrashed";
    /// The sidecar is not ready and gives no reason that we understand.
    pub const SIDECAR_NOT_READY: &str = "SidecarNotReady";
    /// No node takes the pod.
    pub const UNSCHEDULABLE: &str = "Unschedulable";
    /// Pods cannot be created.
    pub const REPLICA_FAILURE: &str = "ReplicaFailure";
}

/// The three values of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// It cannot be said.
    Unknown,
}

impl Status {
    /// As it stands in the resource.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// A condition before it gets its times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// One of [`kind`].
    pub kind: &'static str,
    /// Whether it holds.
    pub status: Status,
    /// Why, in one CamelCase word.
    pub reason: String,
    /// Why, for a person: object, field, value and what to do.
    pub message: String,
}

impl Verdict {
    /// Builds a verdict.
    pub fn new(
        kind: &'static str,
        status: Status,
        reason: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self { kind, status, reason: reason.into(), message: message.into() }
    }
}

/// Turns verdicts into conditions. The transition time of each moves only when its status does.
pub fn stamp(
    previous: &[Condition],
    verdicts: &[Verdict],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let stamp_one = |verdict: &Verdict| {
        let unchanged = find(previous, verdict.kind)
            .filter(|condition| condition.status == verdict.status.as_str());
        Condition {
            type_: verdict.kind.to_owned(),
            status: verdict.status.as_str().to_owned(),
            reason: verdict.reason.clone(),
            message: verdict.message.clone(),
            observed_generation: generation,
            last_transition_time: unchanged
                .map_or(Time(now), |condition| condition.last_transition_time.clone()),
        }
    };
    verdicts.iter().map(stamp_one).collect()
}

/// The condition of that type.
pub fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn transition_time_moves_only_with_the_status() {
        let no = Verdict::new(kind::READY, Status::False, "Progressing", "0 of 1");
        let other_no =
            Verdict::new(kind::READY, Status::False, "ImagePullBackOff", "no such image");
        let yes = Verdict::new(kind::READY, Status::True, "Available", "1 of 1");

        let first = stamp(&[], &[no], Some(1), at(10));
        let second = stamp(&first, &[other_no], Some(1), at(20));
        let third = stamp(&second, &[yes], Some(2), at(30));

        assert_eq!(second[0].last_transition_time, Time(at(10)));
        assert_eq!(second[0].reason, "ImagePullBackOff");
        assert_eq!(third[0].last_transition_time, Time(at(30)));
        assert_eq!(third[0].observed_generation, Some(2));
    }
}
