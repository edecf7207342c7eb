//! Watches: each runs by itself, keeps a cache, and says which objects to look at again.
//!
//! The controllers never see a watch fail: kube puts one back-off around everything that triggers a
//! controller, so that a single watch that is forbidden would slow down all others.

use std::fmt::Debug;
use std::time::Duration;

use api::{Chain, StatefulService, StatefulStore};
use futures::StreamExt;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::reflector::store::Writer;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::warn;

use crate::client::WATCH_SECONDS;

const RETRY_DELAY_MIN: Duration = Duration::from_millis(250);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(15);

/// Something to look at again.
#[derive(Clone, Debug)]
pub(crate) enum Trigger {
    Service(ObjectRef<StatefulService>),
    Store(ObjectRef<StatefulStore>),
}

/// Where triggers go. Both queues are bounded: a watch waits when one is full.
#[derive(Clone)]
pub(crate) struct Triggers {
    pub(crate) services: mpsc::Sender<ObjectRef<StatefulService>>,
    pub(crate) stores: mpsc::Sender<ObjectRef<StatefulStore>>,
}

impl Triggers {
    async fn send(&self, trigger: Trigger) {
        // A closed queue means that the controllers are gone, and soon so are we.
        let _ = match trigger {
            Trigger::Service(service) => self.services.send(service).await.is_ok(),
            Trigger::Store(store) => self.stores.send(store).await.is_ok(),
        };
    }
}

/// What happened to a kind of objects.
pub(crate) enum Change<'a, K> {
    /// One of them is new, other than before, or gone.
    One(&'a K),
    /// All were read again: any of them may be other than before.
    All,
}

/// Starts to watch and to fill the cache behind the writer.
pub(crate) fn start<K>(
    tasks: &mut JoinSet<()>,
    api: Api<DeserializeGuard<K>>,
    labels: Option<&str>,
    writer: Writer<K>,
    triggers: Triggers,
    on_change: impl Fn(Change<'_, K>) -> Vec<Trigger> + Send + Sync + 'static,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let mut config = watcher::Config::default().timeout(WATCH_SECONDS);
    if let Some(labels) = labels {
        config = config.labels(labels);
    }
    tasks.spawn(follow(api, config, writer, triggers, on_change));
}

async fn follow<K>(
    api: Api<DeserializeGuard<K>>,
    config: watcher::Config,
    mut writer: Writer<K>,
    triggers: Triggers,
    on_change: impl Fn(Change<'_, K>) -> Vec<Trigger>,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let kind = K::kind(&());
    let mut events = Box::pin(watcher(api, config));
    let mut delay = RETRY_DELAY_MIN;
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                warn!(%kind, error = %Chain(&error), retry_in = ?delay, "watch failed");
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(RETRY_DELAY_MAX);
                continue;
            }
        };
        // A list that fails is announced like one that works.
        if !matches!(event, Event::Init) {
            delay = RETRY_DELAY_MIN;
        }
        let Some(event) = readable(event) else { continue };
        writer.apply_watcher_event(&event);
        let changed = match &event {
            Event::Apply(object) | Event::Delete(object) => on_change(Change::One(object)),
            // What is listed can be read from the cache only when the list is complete.
            Event::Init | Event::InitApply(_) => Vec::new(),
            Event::InitDone => on_change(Change::All),
        };
        for trigger in changed {
            triggers.send(trigger).await;
        }
    }
}

/// The event without what nobody reads, or nothing if its object is malformed: one such object must
/// not stop the watch of all others.
fn readable<K: Resource<DynamicType = ()>>(event: Event<DeserializeGuard<K>>) -> Option<Event<K>> {
    let unwrap = |guard: DeserializeGuard<K>| match guard.0 {
        Ok(mut object) => {
            object.managed_fields_mut().clear();
            Some(object)
        }
        Err(invalid) => {
            warn!(
                kind = %K::kind(&()),
                namespace = invalid.metadata.namespace,
                name = invalid.metadata.name,
                error = invalid.error,
                "object is malformed and left alone"
            );
            None
        }
    };
    Some(match event {
        Event::Apply(guard) => Event::Apply(unwrap(guard)?),
        Event::Delete(guard) => Event::Delete(unwrap(guard)?),
        Event::InitApply(guard) => Event::InitApply(unwrap(guard)?),
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn listed(spec: &Value) -> Option<Event<StatefulService>> {
        let object = json!({
            "apiVersion": "cloudstate.io/v1alpha1", "kind": "StatefulService",
            "metadata": { "name": "cart" }, "spec": spec,
        });
        readable(Event::InitApply(serde_json::from_value(object).unwrap()))
    }

    #[test]
    fn a_malformed_object_is_left_out_and_others_come_through() {
        assert!(listed(&json!({ "containers": [{ "image": "a" }] })).is_some());
        assert!(listed(&json!({ "containers": "none", "replicas": "three" })).is_none());
    }
}
