//! The work of the replica that leads: each trigger leads to a look at one object.

mod agenda;
mod gone;
mod rights;
mod service;
mod store;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use api::{Chain, StatefulService, StatefulStore};
use futures::future::BoxFuture;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use self::agenda::{Action, Agenda};
use crate::cache::{Cache, Cached};
use crate::context::Context;
use crate::error::Error;
use crate::malformed;
use crate::planted::{self, Bug};
use crate::trigger::{Trigger, Triggers};

/// The cache is behind, and catches up.
const AGAIN_DELAY: Duration = Duration::from_millis(200);

/// Looks at everything once, then at what changes. Returns when told to stop, after what is being
/// done is done.
///
/// # Cancel safety
/// Dropped, it leaves what it was doing where it is; the next one looks at everything again.
pub(crate) async fn run(
    context: &Arc<Context>,
    triggers: &Triggers,
    concurrency: u16,
    everything: impl Fn() -> Vec<Trigger>,
    stop: &CancellationToken,
) {
    let work = triggers.connect();
    context.rights.start_over();
    let services = Controller { context, cache: &context.caches.services, concurrency };
    let services = services.run(work.services, service::reconcile, stop);
    let stores = Controller { context, cache: &context.caches.stores, concurrency };
    let stores = stores.run(work.stores, store::reconcile, stop);
    let gone = gone::follow(context, work.gone, stop);
    let all = stop.run_until_cancelled(look_at_everything(context, triggers, everything));
    let malformed = stop.run_until_cancelled(malformed::tell(context));
    let rights = rights::follow(context, stop);
    futures::join!(services, stores, gone, all, malformed, rights);
}

/// Has everything looked at now, and whenever what holds for all services is another.
async fn look_at_everything(
    context: &Context,
    triggers: &Triggers,
    everything: impl Fn() -> Vec<Trigger>,
) {
    let mut settings = context.live.subscribe();
    let mut server = context.server.subscribe();
    loop {
        settings.mark_unchanged();
        server.mark_unchanged();
        for trigger in everything() {
            triggers.send(trigger).await;
        }
        tokio::select! {
            changed = settings.changed() => if changed.is_err() { return },
            changed = server.changed() => if changed.is_err() { return },
        }
    }
}

/// Looks at the objects of one kind.
struct Controller<'a, K> {
    context: &'a Arc<Context>,
    cache: &'a Cache<K>,
    /// How many at once.
    concurrency: u16,
}

impl<K: Cached> Controller<'_, K> {
    /// Looks at what the queue says, and stops in order.
    ///
    /// # Cancel safety
    /// Dropped, it leaves what is under way at its next wait.
    async fn run<R>(
        &self,
        mut queue: mpsc::Receiver<ObjectRef<K>>,
        reconcile: impl Fn(Arc<K>, Arc<Context>) -> R + Clone + Send + Sync + 'static,
        stop: &CancellationToken,
    ) where
        R: Future<Output = Result<Action, Error>> + Send + 'static,
    {
        let mut agenda = Agenda::default();
        let mut under_way = JoinSet::new();
        loop {
            let has_place = under_way.len() < usize::from(self.concurrency).max(1);
            if has_place && let Some(object) = agenda.take(Instant::now()) {
                under_way.spawn(self.look_at(object, reconcile.clone()));
                continue;
            }
            let next_due = agenda.next_due().filter(|_| has_place);
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = under_way.join_next() => {
                    let (object, again) = finished(ended);
                    agenda.done(object, again);
                }
                next = queue.recv() => {
                    let Some(reference) = next else { break };
                    self.context.metrics.waits(kind::<K>(), reference.to_string());
                    agenda.add(key(reference), Instant::now());
                }
                () = until(next_due), if next_due.is_some() => {}
            }
        }
        while let Some(ended) = under_way.join_next().await {
            finished(ended);
        }
    }

    /// Looks at one object, counts and times that, and says when to look again.
    fn look_at<R>(
        &self,
        object: Key,
        reconcile: impl Fn(Arc<K>, Arc<Context>) -> R + Send + 'static,
    ) -> BoxFuture<'static, (Key, Option<Instant>)>
    where
        R: Future<Output = Result<Action, Error>> + Send + 'static,
    {
        let (context, cache) = (Arc::clone(self.context), self.cache.clone());
        Box::pin(async move {
            let reference = ObjectRef::<K>::new(&object.1).within(&object.0);
            context.metrics.begins(kind::<K>(), &reference.to_string());
            // Deleted between the trigger and the look at it.
            let Some(found) = cache.get(&reference) else { return (object, None) };
            let (uid, generation) = (found.uid(), found.meta().generation);
            let begin = Instant::now();
            let result = reconcile(found, Arc::clone(&context)).await;
            let word = result.as_ref().map_or_else(Error::word, |_| "ok");
            context.metrics.ended(kind::<K>(), word, begin.elapsed());
            let action = result.unwrap_or_else(|error| {
                log(&reference, &error);
                retry(&context, &uid.unwrap_or_default(), generation)
            });
            (object, action.due(Instant::now()))
        })
    }
}

/// Namespace and name.
type Key = Arc<(Box<str>, Box<str>)>;

fn key<K: Cached>(reference: ObjectRef<K>) -> Key {
    Arc::new((reference.namespace.unwrap_or_default().into(), reference.name.into()))
}

/// What came out. A panic goes on where it is heard.
fn finished<T>(ended: Result<T, JoinError>) -> T {
    ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

async fn until(due: Option<Instant>) {
    if let Some(due) = due {
        tokio::time::sleep_until(due).await;
    }
}

/// The kind's name as it is in metrics.
fn kind<K: Cached>() -> &'static str {
    if K::kind(&()) == StatefulService::kind(&()) { "StatefulService" } else { "StatefulStore" }
}

/// When to try again what failed.
fn retry(ctx: &Context, uid: &str, generation: Option<i64>) -> Action {
    if planted::is(Bug::FailureForgotten) {
        return Action::await_change();
    }
    Action::requeue(ctx.failures.next_delay(uid, generation))
}

/// What has failed so often in a row before, within up to seven seconds, is told.
const LASTING: u32 = 3;

/// Whether that is worth to be told on the object. Most of what fails goes better at the next try.
fn is_lasting<K: Resource>(ctx: &Context, object: &K, error: &Error) -> bool {
    let metadata = object.meta();
    let failed =
        ctx.failures.count(metadata.uid.as_deref().unwrap_or_default(), metadata.generation);
    failed >= LASTING && !matches!(error, Error::NotLeading { .. })
}

fn log<K: Cached>(object: &ObjectRef<K>, error: &Error) {
    if matches!(error, Error::NotLeading { .. }) {
        debug!(%object, error = %Chain(error), "reconcile is left to another");
    } else {
        warn!(%object, error = %Chain(error), "reconcile failed and is tried again");
    }
}

/// The names by which everything here is known outside.
pub(crate) fn dependents(
    context: &Context,
    store: &StatefulStore,
) -> Vec<ObjectRef<StatefulService>> {
    context.caches.dependents(&store.name_any(), store.metadata.namespace.as_deref())
}
