//! Takes back rights that nobody needs any more, some time after that may have come to be.

use std::time::Duration;

use api::Chain;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::apply::rights;
use crate::context::Context;

/// How often all is looked at: a service may have gone while nobody led, or behind a gap of a watch. Only caches are
/// read for it.
const LOOK_PERIOD: Duration = Duration::from_mins(1);
/// What changes within this time is looked at together: when many services are new, each changes what is needed.
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// Looks take no more than this part of the time.
const SHARE: u32 = 10;
/// What failed is tried again after this time, doubled each time, up to [`LOOK_PERIOD`].
const RETRY_DELAY_MIN: Duration = Duration::from_secs(1);

/// Looks until told to stop, and goes through with what it is at then.
pub(super) async fn follow(ctx: &Context, stop: &CancellationToken) {
    let each_minute = stop.run_until_cancelled(ask_for_all(ctx));
    futures::join!(each_minute, take_back(ctx, stop));
}

async fn ask_for_all(ctx: &Context) {
    let mut look = interval(LOOK_PERIOD);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        for namespace in rights::namespaces(&ctx.caches) {
            ctx.rights.look_at(namespace);
        }
    }
}

async fn take_back(ctx: &Context, stop: &CancellationToken) {
    let mut retry_delay = RETRY_DELAY_MIN;
    while let Some(due) = stop.run_until_cancelled(ctx.rights.due()).await {
        let begin = Instant::now();
        let mut again = Vec::new();
        for namespace in due {
            match rights::take_back_all(ctx, &namespace).await {
                Ok(false) => {}
                // What stands in the way may be gone soon.
                Ok(true) => again.push(namespace),
                Err(error) => {
                    warn!(namespace, error = %Chain(&error), "rights are not taken back yet");
                    again.push(namespace);
                }
            }
        }
        let mut pause = PAUSE_MIN.max(begin.elapsed() * SHARE);
        if again.is_empty() {
            retry_delay = RETRY_DELAY_MIN;
        } else {
            pause = pause.max(retry_delay);
            retry_delay = (retry_delay * 2).min(LOOK_PERIOD);
        }
        if stop.run_until_cancelled(sleep(pause)).await.is_none() {
            return;
        }
        for namespace in again {
            ctx.rights.look_at(namespace);
        }
    }
}
