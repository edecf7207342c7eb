//! Keeps what is watched as the settings say, while they change.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::context::{Caches, Shared};
use crate::left_over::{self, LeftOver};
use crate::scope::{self, Extent};
use crate::secrets::{self, Doubt};
use crate::throttle;

/// How often it is looked whether what settings asked for that are off now is gone. Only caches are read for
/// it. Less than what makes the operator unready when it may not watch that any more.
const LEFT_OVER_PERIOD: Duration = Duration::from_secs(20);

/// A scope that runs.
#[derive(Clone)]
struct Running {
    stop: CancellationToken,
    /// There once they are complete.
    caches: Arc<OnceLock<Caches>>,
}

/// Runs a scope for each extent that the settings name, until told to stop.
pub(crate) async fn run(shared: &Arc<Shared>, shutdown: &CancellationToken) -> anyhow::Result<()> {
    let mut settings = shared.live.subscribe();
    let mut tasks = JoinSet::new();
    let mut running = BTreeMap::<Extent, Running>::new();
    let mut look = interval(LEFT_OVER_PERIOD);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // What settings that are off have left from before, by the names of extents: nothing as long as it is not known,
    // and again once it is watched.
    let mut left = BTreeMap::<String, LeftOver>::new();
    let mut looks = JoinSet::new();
    let mut asked = Instant::now();
    let mut doubt = Doubt::Nothing;
    loop {
        let now = settings.borrow_and_update().clone();
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            () = secrets::ask(shared, &now, doubt) => {}
        }
        doubt = Doubt::Nothing;
        let mut wanted = Extent::all(&now, &shared.secrets);
        for extent in &mut wanted {
            let left = left.entry(extent.name().to_owned()).or_insert_with(|| {
                looks.spawn(left_over::look(Arc::clone(shared), extent.clone()));
                LeftOver::default()
            });
            extent.take_up(left, shared);
            for (former, scope) in &running {
                if let Some(caches) = scope.caches.get() {
                    extent.keep_left_over(former, caches, shared);
                }
            }
        }
        running.retain(|extent, scope| {
            let stays = wanted.contains(extent);
            if !stays {
                info!(scope = extent.name(), "is watched no more");
                scope.stop.cancel();
                shared.readiness.forget(extent.name());
            }
            stays
        });
        for extent in wanted {
            running.entry(extent).or_insert_with_key(|extent| {
                let scope = Running { stop: shutdown.child_token(), caches: Arc::default() };
                let Running { stop, caches } = scope.clone();
                tasks.spawn(scope::run(Arc::clone(shared), extent.clone(), caches, stop));
                scope
            });
        }
        for (extent, scope) in &running {
            let (accounts, rights) = extent.watches();
            if scope.caches.get().is_some()
                && let Some(left) = left.get_mut(extent.name())
            {
                // From here on its caches say what is left.
                left.accounts &= !accounts;
                left.rights &= !rights;
            }
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
            Some(looked) = looks.join_next() => {
                let (name, found) = looked?;
                left.insert(name, found);
            }
            changed = settings.changed() => {
                changed?;
                // Who turns such a setting on gives the rights for it.
                doubt = Doubt::Everything;
                let settings = settings.borrow();
                if Extent::all(&settings, &shared.secrets).iter().any(Extent::needs_more_rights) {
                    shared.given_up.clear();
                }
            }
            // A right that was missing may have been given since.
            () = after(asked, now.resync) => {
                asked = Instant::now();
                doubt = Doubt::Refusals;
            }
            // Something of a setting that is off may be left, or be gone by now.
            _ = look.tick() => {}
        }
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

/// Waits until so long after; what no clock knows never comes.
async fn after(start: Instant, pause: Duration) {
    match start.checked_add(pause) {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
