//! Watches: each runs by itself, keeps a cache, and says which objects to look at again.
//!
//! The controllers never see a watch fail: kube puts one back-off around everything that triggers a
//! controller, so that a single watch that is forbidden would slow down all others.

use std::fmt::Debug;
use std::time::Duration;

use api::Chain;
use futures::{Stream, StreamExt, TryStreamExt};
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::apply::former::Claims;
use crate::cache::{Cached, Filler, Former};
use crate::client::WATCH_SECONDS;
use crate::malformed::Malformed;
use crate::metrics::Metrics;
use crate::planted::{self, Bug};
use crate::readiness::{Readiness, Watched};
use crate::trigger::{Trigger, Triggers};

const RETRY_DELAY_MIN: Duration = Duration::from_millis(250);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(15);
/// What `kubectl apply` keeps for itself on an object: as large as the object, and read by nobody here.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What happened to a kind of objects.
pub(crate) enum Change<'a, K> {
    /// One of them is new, or other than before.
    Applied { before: Option<Former<K>>, now: &'a K },
    /// One of them is gone.
    Deleted(&'a K),
    /// All were read again: any of them may be other than before.
    All,
}

/// What all watches of one scope have in common.
#[derive(Clone)]
pub(crate) struct Watches {
    pub(crate) scope: String,
    pub(crate) triggers: Triggers,
    pub(crate) readiness: Readiness,
    pub(crate) metrics: Metrics,
    pub(crate) malformed: Malformed,
}

impl Watches {
    /// Starts to watch, and to fill the cache behind the writer.
    pub(crate) fn start<K: Cached + Debug>(
        &self,
        tasks: &mut JoinSet<()>,
        api: Api<DeserializeGuard<K>>,
        labels: Option<&str>,
        filler: Filler<K>,
        on_change: impl Fn(Change<'_, K>) -> Vec<Trigger> + Send + Sync + 'static,
    ) {
        let malformed = self.malformed.clone();
        let events = watcher(api, configure(labels)).try_filter_map(move |event| {
            let event = readable(event, &malformed);
            async { Ok(event) }
        });
        tasks.spawn(self.clone().follow(events, filler, on_change));
    }

    /// The same, of which only the metadata is read.
    pub(crate) fn start_metadata<K>(
        &self,
        tasks: &mut JoinSet<()>,
        api: Api<PartialObjectMeta<K>>,
        labels: Option<&str>,
        filler: Filler<PartialObjectMeta<K>>,
        on_change: impl Fn(Change<'_, PartialObjectMeta<K>>) -> Vec<Trigger> + Send + Sync + 'static,
    ) where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
        PartialObjectMeta<K>: Cached,
    {
        let events = watcher(api, configure(labels))
            .map_ok(|event| event.modify(|object| prune(object, false)));
        tasks.spawn(self.clone().follow(events, filler, on_change));
    }

    async fn follow<K>(
        self,
        events: impl Stream<Item = watcher::Result<Event<K>>> + Send,
        mut filler: Filler<K>,
        on_change: impl Fn(Change<'_, K>) -> Vec<Trigger> + Send + Sync,
    ) where
        K: Cached,
    {
        let kind = K::kind(&());
        let watched = Watched { scope: self.scope.clone(), kind: kind.clone().into_owned() };
        let cache = filler.cache();
        let mut events = std::pin::pin!(events);
        let mut delay = RETRY_DELAY_MIN;
        while let Some(event) = events.next().await {
            let event = match event {
                Ok(event) => event,
                Err(error) => {
                    warn!(%kind, scope = self.scope, error = %Chain(&error), retry_in = ?delay, "watch failed");
                    self.metrics.watch_failed(&kind);
                    self.readiness.watch_failed(&watched, is_forbidden(&error));
                    let _alone = planted::one_back_off().await;
                    tokio::time::sleep(delay).await;
                    delay = (delay * 2).min(RETRY_DELAY_MAX);
                    continue;
                }
            };
            let _ = planted::one_back_off().await;
            // A list that fails is announced like one that works.
            if !matches!(event, Event::Init) {
                delay = RETRY_DELAY_MIN;
                self.readiness.watch_works(&watched);
            }
            // As a watch may say that was taken up at a server that is behind.
            if let Event::Apply(now) = &event
                && cache.has_later(now)
                && !planted::is(Bug::StaleBelieved)
            {
                debug!(%kind, name = now.name_any(), "event is older than what is known");
                continue;
            }
            let before = filler.apply(&event);
            let changed = match &event {
                Event::Apply(now) => on_change(Change::Applied { before, now }),
                Event::Delete(object) => on_change(Change::Deleted(object)),
                // What is listed can be read from the cache only when the list is complete.
                Event::Init | Event::InitApply(_) => Vec::new(),
                Event::InitDone => {
                    self.readiness.watch_is_complete(&watched);
                    if planted::is(Bug::ListUnseen) {
                        continue;
                    }
                    on_change(Change::All)
                }
            };
            self.metrics.cached(&self.scope, &kind, cache.len());
            for trigger in changed {
                self.triggers.send(trigger).await;
            }
        }
    }
}

fn configure(labels: Option<&str>) -> watcher::Config {
    let config = watcher::Config::default().timeout(WATCH_SECONDS);
    match labels {
        Some(labels) => config.labels(labels),
        None => config,
    }
}

fn is_forbidden(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(source) | watcher::Error::WatchStartFailed(source)) =
        error
    else {
        return false;
    };
    matches!(source, kube::Error::Api(status) if status.code == 403)
}

/// Takes away what nobody reads.
fn prune(object: &mut impl Resource, is_applied: bool) {
    let metadata = object.meta_mut();
    // Mostly there is nothing to be done about who claims which field.
    let claims = metadata.managed_fields.as_deref().filter(|_| is_applied);
    if claims.is_none_or(|claims| Claims::of(claims) == Claims::Settled) {
        metadata.managed_fields = None;
    }
    if let Some(annotations) = &mut metadata.annotations {
        annotations.remove(LAST_APPLIED);
    }
}

/// The event without what nobody reads, or nothing if its object is malformed: one such object must
/// not stop the watch of all others.
fn readable<K: Cached>(
    event: Event<DeserializeGuard<K>>,
    malformed: &Malformed,
) -> Option<Event<K>> {
    let unwrap = |guard: DeserializeGuard<K>| match guard.0 {
        Ok(mut object) => {
            malformed.forget(&object);
            prune(&mut object, K::IS_APPLIED);
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
            malformed.found::<K>(&invalid);
            None
        }
    };
    Some(match event {
        Event::Apply(guard) => Event::Apply(unwrap(guard)?),
        Event::Delete(DeserializeGuard(Err(invalid))) => {
            malformed.gone::<K>(&invalid.metadata);
            return None;
        }
        Event::Delete(guard) => Event::Delete(unwrap(guard)?),
        Event::InitApply(guard) => Event::InitApply(unwrap(guard)?),
        Event::Init => {
            malformed.list_begins::<K>();
            Event::Init
        }
        Event::InitDone => {
            malformed.list_ends::<K>();
            Event::InitDone
        }
    })
}

#[cfg(test)]
mod tests {
    use api::StatefulService;
    use serde_json::{Value, json};

    use super::*;

    fn listed(spec: &Value) -> Option<Event<StatefulService>> {
        let object = json!({
            "apiVersion": "cloudstate.io/v1alpha1", "kind": "StatefulService",
            "metadata": { "name": "cart" }, "spec": spec,
        });
        readable(Event::InitApply(serde_json::from_value(object).unwrap()), &Malformed::default())
    }

    #[test]
    fn a_malformed_object_is_left_out_and_others_come_through() {
        assert!(listed(&json!({ "containers": [{ "image": "a" }] })).is_some());
        assert!(listed(&json!({ "containers": "none", "replicas": "three" })).is_none());
    }
}
