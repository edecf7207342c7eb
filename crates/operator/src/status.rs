//! From what was found to what the status says. Pure, but for the clock that is handed in.

mod rollout;

use std::collections::BTreeMap;

use api::condition::{self, Status, Verdict, kind, reason};
use api::contract::annotation;
use api::{
    BoundStore, Chain, StatefulService, StatefulServiceStatus, StatefulStore, StatefulStoreStatus,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use translate::{Observed, Plan, Problem, Problems};

pub(crate) use self::rollout::Rollout;
use crate::apply::{Held, Refusal};
use crate::diagnose::Diagnosis;
use crate::error::Error;
use crate::origin::sidecar_image;
use crate::text::{cut, tidy};
use crate::throttle::Answer;

const MESSAGE_BYTES_MAX: usize = 4096;
const CAUSE_BYTES_MAX: usize = 1024;

/// What one reconcile found out about a service.
pub(crate) struct Facts<'a> {
    pub(crate) service: &'a StatefulService,
    pub(crate) plan: Result<&'a Plan, &'a Problems>,
    /// Why nothing is changed, if somebody said so.
    pub(crate) pause: Option<&'a Pause>,
    pub(crate) refusal: Option<&'a Refusal>,
    /// What the Deployment waits for, if it does.
    pub(crate) held: Option<&'a Held>,
    /// What has failed for a while and is tried again.
    pub(crate) failed: Option<&'a Error>,
    /// The Deployment as it is now.
    pub(crate) deployment: Option<&'a Deployment>,
    pub(crate) diagnosis: Option<&'a Diagnosis>,
}

/// Who holds everything as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pause {
    /// The spec of the service.
    Service,
    /// An annotation of its namespace.
    Namespace(String),
}

impl Pause {
    fn message(&self) -> String {
        match self {
            Self::Service => {
                "spec.paused is true, so no object is changed: set it to false to go on".to_owned()
            }
            Self::Namespace(name) => format!(
                "namespace {name:?} has the annotation {}: {}, so no object is changed: remove it to go on",
                annotation::WATCH,
                annotation::WATCH_DISABLED
            ),
        }
    }
}

/// What a store names and is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    Secret {
        secret: String,
    },
    Key {
        secret: String,
        key: String,
    },
    /// We may not look.
    Right {
        secret: String,
    },
}

/// The status of a service.
pub(crate) fn of_service(facts: &Facts<'_>, now: Timestamp) -> StatefulServiceStatus {
    let service = facts.service;
    let previous = service.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let rollout = facts.deployment.map(Rollout::of);
    let ready = ready(facts, rollout.as_ref());
    let summary = summary(&ready);
    let progressing = progressing(facts, rollout.as_ref());
    let sometimes = [
        stalled(&ready, &progressing),
        reconciling(facts, &progressing),
        pinned(facts),
        autoscaling(service),
    ];
    let always = [ready, store(facts), resources(facts), progressing];
    let verdicts: Vec<_> =
        always.into_iter().chain(sometimes.into_iter().flatten()).map(bounded).collect();
    let uid = service.uid().unwrap_or_default();
    let selector = facts
        .plan
        .map_or_else(|_| selector(facts, &uid), |plan| plan.selector().clone())
        .into_iter()
        .map(|(key, value)| format!("{key}={value}"));
    let generation = service.metadata.generation;
    StatefulServiceStatus {
        conditions: condition::stamp(previous, &verdicts, generation, now),
        observed_generation: generation,
        replicas: Some(rollout.as_ref().map_or(0, |rollout| rollout.replicas)),
        ready_replicas: Some(rollout.as_ref().map_or(0, |rollout| rollout.ready)),
        selector: Some(selector.collect::<Vec<_>>().join(",")),
        summary: Some(summary),
        store: bound(facts),
        updated_replicas: Some(rollout.as_ref().map_or(0, |rollout| rollout.updated)),
        proxy_image: facts.deployment.and_then(sidecar_image).map(str::to_owned),
        config_hash: facts
            .deployment
            .and_then(|deployment| deployment.annotations().get(annotation::APPLIED_HASH).cloned()),
    }
}

/// What selects the pods of a service that cannot be translated now.
fn selector(facts: &Facts<'_>, uid: &str) -> BTreeMap<String, String> {
    let live = facts.deployment.map(|deployment| Observed::of(deployment).selector);
    live.filter(|live| !live.is_empty()).unwrap_or_else(|| translate::selector(uid))
}

/// The store that the pods are bound to. While the plan waits, that is the one from before.
fn bound(facts: &Facts<'_>) -> Option<BoundStore> {
    let waits = facts.pause.is_some()
        || facts.refusal.is_some()
        || facts.held.is_some()
        || facts.failed.is_some();
    match facts.plan {
        Ok(plan) if !waits => plan.store().map(|binding| BoundStore {
            name: binding.name.clone(),
            kind: binding.store.kind().to_owned(),
            observed_generation: binding.generation,
        }),
        _ => {
            let before = facts.service.status.as_ref().and_then(|status| status.store.clone());
            before.filter(|_| facts.deployment.is_some())
        }
    }
}

/// What one reconcile found out about a store.
#[derive(Default)]
pub(crate) struct StoreFacts<'a> {
    pub(crate) missing: Option<&'a Missing>,
    /// What has failed for a while and is tried again.
    pub(crate) failed: Option<&'a Error>,
    /// The services that name it.
    pub(crate) dependents: &'a [String],
    /// Services that cannot be read, and so may name it.
    pub(crate) unreadable: &'a [String],
}

/// The status of a store.
pub(crate) fn of_store(
    store: &StatefulStore,
    facts: &StoreFacts<'_>,
    now: Timestamp,
) -> StatefulStoreStatus {
    let previous = store.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let both = |status, ready: &str, valid: &str, message: String| {
        vec![
            Verdict::new(kind::READY, status, ready, &message),
            Verdict::new(kind::STATEFUL_STORE_VALID, status, valid, message),
        ]
    };
    let mut verdicts = match translate::validate_store(store) {
        Err(problems) => {
            both(Status::False, reason::STORE_INVALID, problems.reason(), problems.to_string())
        }
        Ok(known) => {
            let mut verdicts = if let Some(error) = facts.failed {
                let cause = tidy(&Chain(error).to_string(), CAUSE_BYTES_MAX);
                let message = format!("{cause}; it is tried again");
                let reason = reason::UNKNOWN_OPERATOR_ERROR;
                both(Status::Unknown, reason, reason, message)
            } else if let Some((reason, message)) = facts.missing.map(missing_words) {
                both(Status::Unknown, reason, reason, message)
            } else {
                let message = format!("services can use this store of type {:?}", known.kind());
                both(Status::True, reason::AVAILABLE, reason::STORE_VALID, message)
            };
            verdicts.extend(deprecated(&known.plaintext()));
            verdicts
        }
    };
    let summary = summary(&verdicts[0]);
    verdicts.extend(held_up(store, facts));
    let verdicts: Vec<_> = verdicts.into_iter().map(bounded).collect();
    let generation = store.metadata.generation;
    StatefulStoreStatus {
        conditions: condition::stamp(previous, &verdicts, generation, now),
        observed_generation: generation,
        kind: store.spec.kind.clone(),
        dependents: Some(i32::try_from(facts.dependents.len()).unwrap_or(i32::MAX)),
        summary: Some(summary),
    }
}

/// Only there while a store is to go and services name it.
fn held_up(store: &StatefulStore, facts: &StoreFacts<'_>) -> Option<Verdict> {
    store.metadata.deletion_timestamp.as_ref()?;
    let StoreFacts { dependents, unreadable, .. } = facts;
    let mut advice = Vec::new();
    if !dependents.is_empty() {
        advice.push(format!("delete {}, or let them name another", dependents.join(", ")));
    }
    if !unreadable.is_empty() {
        let names = unreadable.join(", ");
        advice.push(format!("put right or delete {names}, which cannot be read and may name it"));
    }
    let message = format!(
        "it is deleted, and stays while StatefulServices name it, since the operator's setting protect-stores is on: {}",
        advice.join("; ")
    );
    Some(Verdict::new(kind::STALLED, Status::True, reason::STORE_IN_USE, message))
}

/// Reason and message.
fn missing_words(missing: &Missing) -> (&'static str, String) {
    let advice = "create it, or name another in spec.config; pods wait for it";
    match missing {
        Missing::Secret { secret } => (
            reason::SECRET_NOT_FOUND,
            format!("spec.config names Secret {secret:?}, which does not exist: {advice}"),
        ),
        Missing::Key { secret, key } => (
            reason::SECRET_KEY_NOT_FOUND,
            format!(
                "spec.config names key {key:?} of Secret {secret:?}, which it does not have: {advice}"
            ),
        ),
        Missing::Right { secret } => (
            reason::FORBIDDEN,
            format!(
                "the operator may not get Secret {secret:?}, though its setting validate-secrets has it look: give its service account that right, or set it to off"
            ),
        ),
    }
}

/// Credentials that everybody who may read stores can read.
fn deprecated(plaintext: &[String]) -> Option<Verdict> {
    (!plaintext.is_empty()).then(|| {
        let fields = plaintext.join(", ");
        let message = format!(
            "{fields}: in plain text; put it into a Secret, and name that in spec.config.credentialsFromSecret.name"
        );
        let kind = kind::CONFIGURATION_DEPRECATED;
        Verdict::new(kind, Status::True, reason::PLAINTEXT_CREDENTIALS, message)
    })
}

/// Only there when fewer pods run than the spec asks for.
fn pinned(facts: &Facts<'_>) -> Option<Verdict> {
    let why = facts.plan.ok()?.pinned()?;
    Some(Verdict::new(kind::REPLICAS_PINNED, Status::True, reason::ONE_OWNER, why))
}

/// Only there when the spec says how the number of pods follows the load.
fn autoscaling(service: &StatefulService) -> Option<Verdict> {
    service.spec.autoscaling.as_ref().map(|_| {
        let message = "spec.autoscaling is kept and not acted upon yet: set spec.replicas, or let an autoscaler write it through the scale subresource";
        Verdict::new(kind::AUTOSCALING_ACTIVE, Status::False, reason::NOT_IMPLEMENTED, message)
    })
}

fn ready(facts: &Facts<'_>, rollout: Option<&Rollout>) -> Verdict {
    let no =
        |reason: &str, message: String| Verdict::new(kind::READY, Status::False, reason, message);
    if let Some(pause) = facts.pause {
        let serving = rollout
            .map_or_else(String::new, |rollout| format!("; {} serve calls", rollout.counts()));
        let message = pause.message() + &serving;
        return Verdict::new(kind::READY, Status::Unknown, reason::PAUSED, message);
    }
    let plan = match facts.plan {
        Ok(plan) => plan,
        Err(problems) => {
            let only_the_store = problems.iter().all(Problem::is_about_the_store);
            let reason =
                if only_the_store { reason::STORE_INVALID } else { reason::BAD_CONFIGURATION };
            return no(reason, problems.to_string());
        }
    };
    if let Some(refusal) = facts.refusal {
        return no(refusal.reason(), refusal.to_string());
    }
    let Some(rollout) = rollout else {
        return no(reason::PROGRESSING, "the Deployment is being made".to_owned());
    };
    if plan.replicas() == 0 {
        let message = "spec.replicas is 0, so no calls are served: set it to 1 or more";
        return no(reason::NO_READY_REPLICAS, message.to_owned());
    }
    if rollout.is_complete() {
        let mut message = format!("{} serve calls", rollout.counts());
        let warnings = plan.warnings().iter().map(|warning| warning.message.as_str());
        for said in plan.pinned().into_iter().chain(warnings) {
            message += "; ";
            message += said;
        }
        return Verdict::new(kind::READY, Status::True, reason::AVAILABLE, message);
    }
    match (facts.diagnosis, &rollout.replica_failure) {
        (Some(found), _) => no(&found.reason, found.message.clone()),
        (None, Some(why)) => no(
            reason::REPLICA_FAILURE,
            format!("Deployment {:?} cannot create its pods: {why}", rollout.name),
        ),
        (None, None) => no(
            reason::PROGRESSING,
            format!("Deployment {:?}: {} are available", rollout.name, rollout.counts()),
        ),
    }
}

fn store(facts: &Facts<'_>) -> Verdict {
    let verdict = |status, reason: &str, message: String| {
        Verdict::new(kind::STATEFUL_STORE_VALID, status, reason, message)
    };
    if let Err(problems) = facts.plan
        && let Some(problems) = problems.about_the_store()
    {
        return verdict(Status::False, problems.reason(), problems.to_string());
    }
    match &facts.service.spec.datastore {
        Some(datastore) => verdict(
            Status::True,
            reason::STORE_VALID,
            format!("StatefulStore {:?} can be used", datastore.name),
        ),
        None => verdict(
            Status::True,
            reason::NO_STORE,
            "spec.datastore is not set: entities that need a store are not served".to_owned(),
        ),
    }
}

fn resources(facts: &Facts<'_>) -> Verdict {
    let verdict = |status, reason: &str, message: String| {
        Verdict::new(kind::RESOURCES_AVAILABLE, status, reason, message)
    };
    if let Some(pause) = facts.pause {
        return verdict(Status::Unknown, reason::PAUSED, pause.message());
    }
    if let Some(refusal) = facts.refusal {
        return verdict(Status::False, refusal.reason(), refusal.to_string());
    }
    if let Some(error) = facts.failed {
        let message =
            format!("{}; it is tried again", tidy(&Chain(error).to_string(), CAUSE_BYTES_MAX));
        return verdict(Status::Unknown, reason::UNKNOWN_ERROR, message);
    }
    if facts.plan.is_err() {
        let message = "objects are left as they are until the other conditions are put right";
        return verdict(Status::Unknown, reason::NOT_APPLIED, message.to_owned());
    }
    let name = facts.service.name_any();
    let deployment = translate::deployment_name(&name);
    if let Some(held) = facts.held {
        let message = format!(
            "Deployment {deployment:?} keeps its pods until its turn comes, since {}; all else is as translated",
            held.cause
        );
        return verdict(Status::True, reason::THROTTLED_ROLLOUT, message);
    }
    let message = format!("Deployment {deployment:?} and Service {name:?} are as translated");
    verdict(Status::True, reason::APPLIED, message)
}

fn progressing(facts: &Facts<'_>, rollout: Option<&Rollout>) -> Verdict {
    let verdict = |status, reason: &str, message: String| {
        Verdict::new(kind::PROGRESSING, status, reason, message)
    };
    if let Some(pause) = facts.pause {
        return verdict(Status::False, reason::PAUSED, pause.message());
    }
    if let Some(Held { cause, answer }) = facts.held {
        return match answer {
            Answer::Halted { .. } => verdict(
                Status::False,
                reason::THROTTLED_ROLLOUT,
                format!(
                    "pods are not started anew though {cause}, since three services in a row whose pods were did not come back: look for StatefulServices that are not ready, and put right them or what was changed"
                ),
            ),
            _ => verdict(
                Status::True,
                reason::THROTTLED_ROLLOUT,
                format!("pods are started anew once it is this service's turn, since {cause}"),
            ),
        };
    }
    let blocked = facts.plan.is_err() || facts.refusal.is_some();
    match rollout.filter(|_| !blocked) {
        None if blocked => verdict(
            Status::False,
            reason::BLOCKED,
            "nothing is rolled out until the other conditions are put right".to_owned(),
        ),
        None => verdict(
            Status::True,
            reason::NEW_REPLICA_SET,
            "the Deployment is being made".to_owned(),
        ),
        Some(rollout) if !rollout.observed => verdict(
            Status::True,
            reason::NEW_REPLICA_SET,
            format!("Deployment {:?} is taking up its newest template", rollout.name),
        ),
        Some(rollout) if rollout.is_complete() => verdict(
            Status::False,
            reason::COMPLETE,
            format!("Deployment {:?} is rolled out", rollout.name),
        ),
        Some(rollout) if rollout.deadline_exceeded => verdict(
            Status::False,
            reason::DEADLINE_EXCEEDED,
            format!(
                "Deployment {:?} made no progress within its deadline: {} are available; the condition Ready says why",
                rollout.name,
                rollout.counts()
            ),
        ),
        Some(rollout) => verdict(
            Status::True,
            reason::WAITING_FOR_REPLICAS,
            format!("Deployment {:?}: {} are available", rollout.name, rollout.counts()),
        ),
    }
}

/// Only there when nothing will move before a user acts.
fn stalled(ready: &Verdict, progressing: &Verdict) -> Option<Verdict> {
    // Not what a store lacks: it may be on its way.
    let reasons = [
        reason::BAD_CONFIGURATION,
        reason::NOT_OWNED,
        reason::REJECTED,
        reason::DEADLINE_EXCEEDED,
        reason::THROTTLED_ROLLOUT,
    ];
    let is_stalled = |verdict: &Verdict| {
        verdict.status == Status::False && reasons.contains(&verdict.reason.as_str())
    };
    let why = [ready, progressing].into_iter().find(|verdict| is_stalled(verdict))?;
    Some(Verdict::new(kind::STALLED, Status::True, why.reason.clone(), why.message.clone()))
}

/// Only there while pods are on their way to what was asked for.
fn reconciling(facts: &Facts<'_>, progressing: &Verdict) -> Option<Verdict> {
    if progressing.status != Status::True {
        return None;
    }
    let reason = match facts.held {
        Some(held) if held.cause.is_the_store() => reason::STATEFUL_STORE_CHANGED,
        Some(_) => reason::THROTTLED_ROLLOUT,
        None => reason::OBSERVED_GENERATION_OUTDATED,
    };
    Some(Verdict::new(kind::RECONCILING, Status::True, reason, progressing.message.clone()))
}

fn summary(ready: &Verdict) -> String {
    if ready.status == Status::True { kind::READY.to_owned() } else { ready.reason.clone() }
}

fn bounded(mut verdict: Verdict) -> Verdict {
    verdict.message = cut(verdict.message, MESSAGE_BYTES_MAX);
    verdict
}

#[cfg(test)]
mod tests;
