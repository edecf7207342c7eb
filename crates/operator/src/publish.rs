//! Events: what people should hear of, on the object that it is about.

use api::Chain;
use api::contract::FIELD_MANAGER;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tracing::warn;

use crate::calls::Calls;
use crate::text::cut;

/// The API server takes no longer notes.
const NOTE_BYTES_MAX: usize = 1024;

/// Publishes events. One that is said again soon becomes a count on the first.
#[derive(Clone)]
pub(crate) struct Publisher {
    recorder: Recorder,
    calls: Calls,
}

impl Publisher {
    pub(crate) fn new(client: Client, calls: Calls) -> Self {
        let reporter = Reporter { controller: FIELD_MANAGER.to_owned(), instance: None };
        Self { recorder: Recorder::new(client, reporter), calls }
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
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(cut(note.to_owned(), NOTE_BYTES_MAX)),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        let name = about.name.as_deref().unwrap_or_default();
        let published = self.recorder.publish(&event, about);
        if let Err(error) = self.calls.write("publish", "Event", name, published).await {
            warn!(name, reason, error = %Chain(&error), "event is lost");
        }
    }
}
