//! What is to be done when something is gone that nothing is left to look at of.

use std::time::Duration;

use api::{Chain, StatefulStore};
use kube::{Resource, ResourceExt};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::dependents;
use crate::apply::orphans;
use crate::context::Context;
use crate::trigger::Gone;

/// How often it is looked for rights that nobody needs: a service may have gone while nobody led, or
/// behind a gap of a watch, or what followed from it has failed. Only caches are read for it.
const LOOK_PERIOD: Duration = Duration::from_mins(1);

pub(super) async fn follow(
    ctx: &Context,
    mut gone: mpsc::Receiver<Gone>,
    stop: &CancellationToken,
) {
    let mut look = interval(LOOK_PERIOD);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let next = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            next = gone.recv() => next,
            _ = look.tick() => {
                for namespace in orphans::namespaces_with_rights(&ctx.caches) {
                    take_back_rights(ctx, &namespace).await;
                }
                continue;
            }
        };
        match next {
            Some(Gone::Store(store)) => store_is_gone(ctx, &store).await,
            Some(Gone::Service { namespace }) => take_back_rights(ctx, &namespace).await,
            None => return,
        }
    }
}

async fn take_back_rights(ctx: &Context, namespace: &str) {
    if let Err(error) = orphans::take_back_rights(ctx, namespace).await {
        warn!(namespace, error = %Chain(&error), "rights are not taken back yet");
    }
}

async fn store_is_gone(ctx: &Context, store: &StatefulStore) {
    let users: Vec<_> = dependents(ctx, store).into_iter().map(|service| service.name).collect();
    if users.is_empty() {
        return;
    }
    let name = store.name_any();
    let note = format!(
        "StatefulStore {name:?} was deleted while in use by StatefulServices {}: their pods run on, and nothing of them can be changed until it is created again or they name another",
        users.join(", ")
    );
    ctx.publisher.warn(&store.object_ref(&()), "StoreInUse", &note).await;
}
