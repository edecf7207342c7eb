//! Events: what people should hear of, on the object that it is about.

mod said;

use std::sync::Arc;

use api::Chain;
use api::contract::FIELD_MANAGER;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::events::EventType;
use kube::{Api, Client};
use serde_json::json;
use tracing::warn;

use self::said::{Said, Saying};
use crate::calls::Calls;
use crate::text::cut;

/// The API server takes no longer notes.
const NOTE_BYTES_MAX: usize = 1024;

/// Publishes events. One that is said again soon becomes a count on the first.
#[derive(Clone)]
pub(crate) struct Publisher {
    client: Client,
    calls: Calls,
    said: Arc<Said>,
}

impl Publisher {
    pub(crate) fn new(client: Client, calls: Calls) -> Self {
        Self { client, calls, said: Arc::default() }
    }

    /// Something that needs a look.
    pub(crate) async fn warn(&self, about: &ObjectReference, reason: &str, note: &str) {
        self.publish(about, EventType::Warning, reason, note).await;
    }

    /// Something that is in order.
    pub(crate) async fn tell(&self, about: &ObjectReference, reason: &str, note: &str) {
        self.publish(about, EventType::Normal, reason, note).await;
    }

    /// An event that gets lost is no reason to do the work again.
    pub(crate) async fn publish(
        &self,
        about: &ObjectReference,
        type_: EventType,
        reason: &str,
        note: &str,
    ) {
        let now = Timestamp::now();
        let note = cut(note.to_owned(), NOTE_BYTES_MAX);
        let about_name = about.name.as_deref().unwrap_or_default();
        // What an object is about in one of its versions is the same in the next one.
        let words = Said::words(&(about.uid.as_deref(), about_name, type_, reason, note.as_str()));
        let saying = self.said.say(words, now);
        let name = format!("{about_name}.{:x}", saying.first.as_nanosecond());
        let namespace = about.namespace.as_deref().unwrap_or("default");
        let api = Api::<Event>::namespaced(self.client.clone(), namespace);
        let published = async {
            if let Saying { count: Some(count), .. } = saying {
                let series = EventSeries { count, last_observed_time: MicroTime(now) };
                let patch = Patch::Merge(json!({ "series": series }));
                api.patch(&name, &PatchParams::default(), &patch).await
            } else {
                let event = event(about, &name, type_, reason, note, now);
                api.create(&PostParams::default(), &event).await
            }
        };
        if let Err(error) = self.calls.write("publish", "Event", about_name, published).await {
            // There may be nothing to count on.
            self.said.forget(words);
            warn!(name = about_name, reason, error = %Chain(&error), "event is lost");
        }
    }
}

fn event(
    about: &ObjectReference,
    name: &str,
    type_: EventType,
    reason: &str,
    note: String,
    now: Timestamp,
) -> Event {
    let type_ = match type_ {
        EventType::Normal => "Normal",
        EventType::Warning => "Warning",
    };
    Event {
        action: Some("Reconcile".to_owned()),
        event_time: Some(MicroTime(now)),
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: about.namespace.clone(),
            ..ObjectMeta::default()
        },
        note: Some(note),
        reason: Some(reason.to_owned()),
        regarding: Some(about.clone()),
        reporting_controller: Some(FIELD_MANAGER.to_owned()),
        reporting_instance: Some(FIELD_MANAGER.to_owned()),
        type_: Some(type_.to_owned()),
        ..Event::default()
    }
}
