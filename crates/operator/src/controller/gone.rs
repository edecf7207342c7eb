//! What is to be done when something is gone that nothing is left to look at of.

use api::StatefulStore;
use kube::{Resource, ResourceExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::dependents;
use crate::context::Context;
use crate::trigger::Gone;

pub(super) async fn follow(
    ctx: &Context,
    mut gone: mpsc::Receiver<Gone>,
    stop: &CancellationToken,
) {
    while let Some(Some(next)) = stop.run_until_cancelled(gone.recv()).await {
        match next {
            Gone::Store(store) => store_is_gone(ctx, &store).await,
            Gone::Service { namespace } => ctx.rights.look_at(namespace),
        }
    }
}

async fn store_is_gone(ctx: &Context, store: &StatefulStore) {
    let users: Vec<_> = dependents(ctx, store).into_iter().map(|service| service.name).collect();
    let is_left_alone =
        store.metadata.namespace.as_deref().is_some_and(|name| ctx.caches.is_opted_out(name));
    if users.is_empty() || is_left_alone {
        return;
    }
    let name = store.name_any();
    let note = format!(
        "StatefulStore {name:?} was deleted while in use by StatefulServices {}: their pods run on, and nothing of them can be changed until it is created again or they name another",
        users.join(", ")
    );
    ctx.publisher.warn(&store.object_ref(&()), "StoreInUse", &note).await;
}
