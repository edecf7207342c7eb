//! The work of the replica that leads: each trigger leads to a look at one object.

mod gone;
mod service;
mod store;

use std::future::Future;
use std::sync::Arc;

use api::{Chain, StatefulService, StatefulStore};
use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use kube::runtime::controller::{Action, Config, Error as ControllerError};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::{Controller, watcher};
use kube::{Resource, ResourceExt};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::context::Context;
use crate::error::Error;
use crate::planted::{self, Bug};
use crate::trigger::{Trigger, Triggers};
use crate::watch::Cached;

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
    let config = Config::default().concurrency(concurrency);
    let services = controller(context, &context.caches.services, work.services, &config, stop)
        .run(counted(service::reconcile), retry, Arc::clone(context))
        .for_each(|result| async move { log(result) });
    let stores = controller(context, &context.caches.stores, work.stores, &config, stop)
        .run(counted(store::reconcile), retry, Arc::clone(context))
        .for_each(|result| async move { log(result) });
    let gone = gone::follow(context, work.gone, stop);
    let all = stop.run_until_cancelled(look_at_everything(context, triggers, everything));
    futures::join!(services, stores, gone, all);
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

/// A controller that looks at what the queue says, and stops in order.
fn controller<K: Cached>(
    context: &Arc<Context>,
    reader: &Store<K>,
    queue: mpsc::Receiver<ObjectRef<K>>,
    config: &Config,
    stop: &CancellationToken,
) -> Controller<K> {
    let context = Arc::clone(context);
    let queue = ReceiverStream::new(queue)
        .inspect(move |object| context.metrics.waits(kind::<K>(), object.to_string()));
    Controller::for_stream(stream::pending::<watcher::Result<K>>(), reader.clone())
        .with_config(config.clone())
        .reconcile_on(queue)
        .graceful_shutdown_on(stop.clone().cancelled_owned())
}

/// Counts and times what a reconcile does.
fn counted<K: Cached, R>(
    reconcile: impl Fn(Arc<K>, Arc<Context>) -> R + Clone + Send + Sync + 'static,
) -> impl FnMut(Arc<K>, Arc<Context>) -> BoxFuture<'static, Result<Action, Error>>
where
    R: Future<Output = Result<Action, Error>> + Send + 'static,
{
    move |object, context| {
        let reference = ObjectRef::from_obj(&*object).to_string();
        let reconciled = reconcile(object, Arc::clone(&context));
        Box::pin(async move {
            context.metrics.begins(kind::<K>(), &reference);
            let begin = Instant::now();
            let result = reconciled.await;
            let word = result.as_ref().map_or_else(Error::word, |_| "ok");
            context.metrics.ended(kind::<K>(), word, begin.elapsed());
            result
        })
    }
}

/// The kind's name as it is in metrics.
fn kind<K: Cached>() -> &'static str {
    if K::kind(&()) == StatefulService::kind(&()) { "StatefulService" } else { "StatefulStore" }
}

/// When to try again what failed.
#[expect(clippy::needless_pass_by_value, reason = "the controller's shape")]
fn retry<K: Cached>(object: Arc<K>, _: &Error, ctx: Arc<Context>) -> Action {
    if planted::is(Bug::FailureForgotten) {
        return Action::await_change();
    }
    let generation = object.meta().generation;
    Action::requeue(ctx.failures.next_delay(&object.uid().unwrap_or_default(), generation))
}

fn log<K: Cached>(result: Result<(ObjectRef<K>, Action), ControllerError<Error, watcher::Error>>) {
    match result {
        // Deleted between the trigger and the look at it.
        Ok(_) | Err(ControllerError::ObjectNotFound(_)) => {}
        Err(ControllerError::ReconcilerFailed(error @ Error::NotLeading { .. }, object)) => {
            debug!(%object, error = %Chain(&error), "reconcile is left to another");
        }
        Err(ControllerError::ReconcilerFailed(error, object)) => {
            warn!(%object, error = %Chain(&error), "reconcile failed and is tried again");
        }
        Err(error) => warn!(error = %Chain(&error), "controller stumbled"),
    }
}

/// The names by which everything here is known outside.
pub(crate) fn dependents(context: &Context, store: &StatefulStore) -> Vec<Arc<StatefulService>> {
    context.caches.dependents(&store.name_any(), store.metadata.namespace.as_deref())
}
