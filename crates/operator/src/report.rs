//! Writes the status when it says something new, and an event when a condition turns.

use std::fmt::Debug;

use api::condition::{find, kind, reason};
use api::contract::{self, FIELD_MANAGER};
use api::{StatefulService, StatefulServiceStatus, StatefulStore, StatefulStoreStatus};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Patch, PatchParams};
use kube::runtime::events::EventType;
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::Instant;
use tracing::info;
use translate::Warning;

use crate::apply::Applied;
use crate::context::Context;
use crate::error::Error;
use crate::planted::{self, Bug};

/// Every type of condition that we write.
const OURS: [&str; 9] = [
    kind::READY,
    kind::STATEFUL_STORE_VALID,
    kind::RESOURCES_AVAILABLE,
    kind::PROGRESSING,
    kind::STALLED,
    kind::RECONCILING,
    kind::REPLICAS_PINNED,
    kind::CONFIGURATION_DEPRECATED,
    kind::AUTOSCALING_ACTIVE,
];

/// A kind whose status we write.
pub(crate) trait Reported:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send
{
    type Status: Serialize + Clone + Default + PartialEq;

    fn status(&self) -> Option<&Self::Status>;
    fn conditions(status: &mut Self::Status) -> &mut Vec<Condition>;
}

impl Reported for StatefulService {
    type Status = StatefulServiceStatus;

    fn status(&self) -> Option<&Self::Status> {
        self.status.as_ref()
    }

    fn conditions(status: &mut Self::Status) -> &mut Vec<Condition> {
        &mut status.conditions
    }
}

impl Reported for StatefulStore {
    type Status = StatefulStoreStatus;

    fn status(&self) -> Option<&Self::Status> {
        self.status.as_ref()
    }

    fn conditions(status: &mut Self::Status) -> &mut Vec<Condition> {
        &mut status.conditions
    }
}

/// Writes the status unless it is there already, then tells what turned.
pub(crate) async fn report<K: Reported>(
    ctx: &Context,
    object: &K,
    status: K::Status,
) -> Result<(), Error> {
    let mut previous = object.status().cloned().unwrap_or_default();
    let mut current = status.clone();
    // Conditions that others keep on the object are theirs, and the order means nothing.
    K::conditions(&mut previous).retain(|each| OURS.contains(&each.type_.as_str()));
    for conditions in [K::conditions(&mut previous), K::conditions(&mut current)] {
        conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
    }
    if previous == current && !planted::is(Bug::StatusEachTime) {
        return Ok(());
    }
    write(ctx, object, &status).await?;
    let about = object.object_ref(&());
    for Turn { type_, reason, note } in
        turned(K::conditions(&mut previous), K::conditions(&mut current))
    {
        ctx.publisher.publish(&about, type_, &reason, &note).await;
    }
    Ok(())
}

/// Tells what was done to the objects.
pub(crate) async fn tell_of(ctx: &Context, service: &StatefulService, applied: &Applied) {
    let about = service.object_ref(&());
    for (reason, objects) in [
        ("Created", &applied.created),
        ("Applied", &applied.changed),
        ("Deleted", &applied.deleted),
    ] {
        if !objects.is_empty() {
            ctx.publisher.tell(&about, reason, &objects.join(", ")).await;
        }
    }
    if let Some(cause) = applied.rollout {
        let deployment = applied.deployment.name_any();
        let note = format!("Deployment {deployment:?} starts its pods anew: {cause}");
        ctx.publisher.tell(&about, "RolloutStarted", &note).await;
    }
}

/// Tells what was decided otherwise than the spec says.
pub(crate) async fn warn_of(ctx: &Context, service: &StatefulService, warnings: &[Warning]) {
    for warning in warnings {
        ctx.publisher.warn(&service.object_ref(&()), warning.reason, &warning.message).await;
    }
}

async fn write<K: Reported>(ctx: &Context, object: &K, status: &K::Status) -> Result<(), Error> {
    let (kind, name) = (K::kind(&()), object.name_any());
    let namespace = object.namespace().unwrap_or_default();
    let body = json!({
        "apiVersion": K::api_version(&()),
        "kind": kind,
        "metadata": {
            "name": name, "uid": object.uid(), "resourceVersion": object.resource_version(),
        },
        "status": status,
    });
    let api = Api::<K>::namespaced(ctx.client.clone(), &namespace);
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let patch = Patch::Apply(&body);
    let written = api.patch_status(&name, &parameters, &patch);
    match ctx.calls.write("report on", &kind, &name, written).await {
        Ok(written) => {
            ctx.reported.wrote(&written, Instant::now());
            info!(%kind, namespace, name, "reported");
            Ok(())
        }
        // Gone, or another than the one that was looked at: the watch will tell.
        Err(error) if error.refusal().is_some_and(|status| [404, 409].contains(&status.code)) => {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// One event for each thing that a person would want to hear of.
fn turned(previous: &[Condition], current: &[Condition]) -> Vec<Turn> {
    let mut turns: Vec<Turn> = Vec::new();
    // What is more precise comes first.
    let kinds = [
        kind::STATEFUL_STORE_VALID,
        kind::RESOURCES_AVAILABLE,
        kind::STALLED,
        kind::REPLICAS_PINNED,
        kind::CONFIGURATION_DEPRECATED,
        kind::READY,
    ];
    for kind in kinds {
        let Some(now) = find(current, kind) else { continue };
        let before = find(previous, kind);
        let same = |other: &Condition| other.status == now.status && other.reason == now.reason;
        let only_when_false = [kind::STATEFUL_STORE_VALID, kind::RESOURCES_AVAILABLE];
        let as_it_should_be = now.status == "True" && only_when_false.contains(&kind);
        // What was created, changed or started anew is told by itself, and that it then takes a while is
        // not worth another event.
        let is_under_way = now.reason == reason::PROGRESSING;
        if before.is_some_and(same) || now.status == "Unknown" || as_it_should_be || is_under_way {
            continue;
        }
        // Of a warning, the type is the better word than the reason.
        let (severity, word) = match kind {
            kind::REPLICAS_PINNED => (EventType::Warning, kind),
            kind::STATEFUL_STORE_VALID => (EventType::Warning, reason::STORE_INVALID),
            kind::STALLED | kind::CONFIGURATION_DEPRECATED => {
                (EventType::Warning, now.reason.as_str())
            }
            _ => (severity(now), now.reason.as_str()),
        };
        if turns.iter().all(|earlier| earlier.note != now.message) {
            let (reason, note) = (word.to_owned(), now.message.clone());
            turns.push(Turn { type_: severity, reason, note });
        }
    }
    turns
}

fn severity(condition: &Condition) -> EventType {
    let harmless =
        [reason::NO_READY_REPLICAS, contract::reason::PROXY_STARTING, contract::reason::DRAINING];
    if condition.status == "True" || harmless.contains(&condition.reason.as_str()) {
        EventType::Normal
    } else {
        EventType::Warning
    }
}

/// What is said of a condition that turned.
struct Turn {
    type_: EventType,
    reason: String,
    note: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Condition {
        Condition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            observed_generation: None,
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        }
    }

    fn reasons(previous: &[Condition], current: &[Condition]) -> Vec<String> {
        turned(previous, current).into_iter().map(|turn| turn.reason).collect()
    }

    #[test]
    fn an_event_is_sent_when_a_condition_turns_and_not_again() {
        let bad = [
            condition("Ready", "False", "StoreInvalid", "no such store"),
            condition("StatefulStoreValid", "False", "StatefulStoreNotFound", "no such store"),
        ];
        let good = [
            condition("Ready", "True", "Available", "1 of 1 pods"),
            condition("StatefulStoreValid", "True", "StoreValid", "fine"),
        ];
        assert_eq!(reasons(&[], &bad), ["StoreInvalid"]);
        assert!(reasons(&bad, &bad).is_empty());
        assert_eq!(reasons(&bad, &good), ["Available"]);
        let starting = [condition("Ready", "False", "Progressing", "0 of 1 pods")];
        assert!(reasons(&[], &starting).is_empty());
    }
}
