//! Writes the status when it says something new, and an event when a condition turns.

use std::fmt::Debug;

use api::condition::{find, kind, reason};
use api::contract::{self, FIELD_MANAGER};
use api::{Chain, StatefulService, StatefulServiceStatus, StatefulStore, StatefulStoreStatus};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Event, EventType};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tracing::{info, warn};
use translate::Warning;

use crate::context::Context;
use crate::error::{Error, call};
use crate::text::cut;

/// The API server takes no longer notes.
const NOTE_BYTES_MAX: usize = 1024;

/// A kind whose status we write.
pub(crate) trait Reported:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned
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
    let ours: Vec<String> =
        K::conditions(&mut current).iter().map(|each| each.type_.clone()).collect();
    K::conditions(&mut previous).retain(|each| ours.contains(&each.type_));
    for conditions in [K::conditions(&mut previous), K::conditions(&mut current)] {
        conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
    }
    if previous == current {
        return Ok(());
    }
    write(ctx, object, &status).await?;
    for event in turned(K::conditions(&mut previous), K::conditions(&mut current)) {
        publish(ctx, object, event).await;
    }
    Ok(())
}

/// Tells what was decided otherwise than the spec says.
pub(crate) async fn warn_of(ctx: &Context, service: &StatefulService, warnings: &[Warning]) {
    for warning in warnings {
        let event = event(EventType::Warning, warning.reason, &warning.message);
        publish(ctx, service, event).await;
    }
}

async fn write<K: Reported>(ctx: &Context, object: &K, status: &K::Status) -> Result<(), Error> {
    let (kind, name) = (K::kind(&()), object.name_any());
    let namespace = object.namespace().unwrap_or_default();
    let body = json!({
        "apiVersion": K::api_version(&()),
        "kind": kind,
        "metadata": { "name": name, "uid": object.uid() },
        "status": status,
    });
    let api = Api::<K>::namespaced(ctx.client.clone(), &namespace);
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let patch = Patch::Apply(&body);
    match call("report on", &kind, &name, api.patch_status(&name, &parameters, &patch)).await {
        Ok(_) => {
            info!(%kind, namespace, name, "reported");
            Ok(())
        }
        // Gone, or gone and come again: the watch will tell.
        Err(error) if error.refusal().is_some_and(|status| [404, 409].contains(&status.code)) => {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// One event for each thing that a person would want to hear of.
fn turned(previous: &[Condition], current: &[Condition]) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    // What is more precise comes first.
    let kinds = [
        kind::STATEFUL_STORE_VALID,
        kind::RESOURCES_AVAILABLE,
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
        if before.is_some_and(same) || now.status == "Unknown" || as_it_should_be {
            continue;
        }
        // Of a warning, the type is the better word than the reason.
        let (severity, word) = match kind {
            kind::REPLICAS_PINNED => (EventType::Warning, kind),
            kind::CONFIGURATION_DEPRECATED => (EventType::Warning, now.reason.as_str()),
            _ => (severity(now), now.reason.as_str()),
        };
        let event = event(severity, word, &now.message);
        if events.iter().all(|earlier| earlier.note != event.note) {
            events.push(event);
        }
    }
    events
}

fn severity(condition: &Condition) -> EventType {
    let harmless = [
        reason::PROGRESSING,
        reason::NO_READY_REPLICAS,
        contract::reason::PROXY_STARTING,
        contract::reason::DRAINING,
    ];
    if condition.status == "True" || harmless.contains(&condition.reason.as_str()) {
        EventType::Normal
    } else {
        EventType::Warning
    }
}

fn event(type_: EventType, reason: &str, message: &str) -> Event {
    Event {
        type_,
        reason: reason.to_owned(),
        note: Some(cut(message.to_owned(), NOTE_BYTES_MAX)),
        action: "Reconcile".to_owned(),
        secondary: None,
    }
}

async fn publish<K: Reported>(ctx: &Context, object: &K, event: Event) {
    let reference = object.object_ref(&());
    let name = object.name_any();
    let published = ctx.recorder.publish(&event, &reference);
    // An event that gets lost is no reason to do the work again.
    if let Err(error) = call("publish", "Event", &name, published).await {
        warn!(name, reason = event.reason, error = %Chain(&error), "event is lost");
    }
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
        turned(previous, current).into_iter().map(|event| event.reason).collect()
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
        assert_eq!(reasons(&[], &bad), ["StatefulStoreNotFound"]);
        assert!(reasons(&bad, &bad).is_empty());
        assert_eq!(reasons(&bad, &good), ["Available"]);
    }

    #[test]
    fn a_note_fits_into_an_event() {
        let long = condition("Ready", "False", "UserFunctionRefused", &"ä".repeat(2000));
        let events = turned(&[], &[long]);
        assert!(events[0].note.as_ref().unwrap().len() <= NOTE_BYTES_MAX);
        assert!(matches!(events[0].type_, EventType::Warning));
    }
}
