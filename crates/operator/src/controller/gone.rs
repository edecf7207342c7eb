//! What is to be done when something is gone that nothing is left to look at of.

use api::{Chain, StatefulStore};
use kube::{Resource, ResourceExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::dependents;
use crate::apply::orphans;
use crate::context::Context;
use crate::trigger::Gone;

pub(super) async fn follow(
    ctx: &Context,
    mut gone: mpsc::Receiver<Gone>,
    stop: &CancellationToken,
) {
    loop {
        let next = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            next = gone.recv() => next,
        };
        match next {
            Some(Gone::Store(store)) => store_is_gone(ctx, &store).await,
            Some(Gone::Service { namespace }) => {
                if let Err(error) = orphans::take_back_rights(ctx, &namespace).await {
                    // The next service of the namespace that is looked at tries again.
                    warn!(namespace, error = %Chain(&error), "rights are not taken back yet");
                }
            }
            None => return,
        }
    }
}

async fn store_is_gone(ctx: &Context, store: &StatefulStore) {
    let users: Vec<_> = dependents(ctx, store).iter().map(|service| service.name_any()).collect();
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
