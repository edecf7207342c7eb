//! Keeps what is watched as the settings say, while they change.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::context::Shared;
use crate::scope::{self, Extent};
use crate::throttle;

/// Runs a scope for each extent that the settings name, until told to stop.
pub(crate) async fn run(shared: &Arc<Shared>, shutdown: &CancellationToken) -> anyhow::Result<()> {
    let mut settings = shared.live.subscribe();
    let mut tasks = JoinSet::new();
    let mut running = BTreeMap::<Extent, CancellationToken>::new();
    loop {
        let wanted = Extent::all(&settings.borrow_and_update());
        running.retain(|extent, stop| {
            let stays = wanted.contains(extent);
            if !stays {
                info!(scope = extent.name(), "is watched no more");
                stop.cancel();
                shared.readiness.forget(extent.name());
            }
            stays
        });
        for extent in wanted {
            running.entry(extent).or_insert_with_key(|extent| {
                let stop = shutdown.child_token();
                tasks.spawn(scope::run(Arc::clone(shared), extent.clone(), stop.clone()));
                stop
            });
        }
        // Also what a scope that has ended only now was still at.
        throttle::keep_watched(shared, |namespace| {
            running.keys().any(|extent| extent.covers(namespace))
        });
        shared.readiness.started();
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            // Those that were told to stop end as well, and in order.
            Some(ended) = tasks.join_next() => ended??,
            changed = settings.changed() => changed?,
        }
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}
