//! The port for calls, which is open while this is the place to call.
//!
//! Callers of another proxy's entities are sent away rather than refused one call after the other:
//! connections end as after a stop, new ones are not taken, and so whoever tries again comes out at the
//! owner. While the store is away there is no better place, and callers stay.

use api::contract::reason;
use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{Error, listen};
use crate::{
    config::Config,
    readiness::{Part, Readiness, Ready},
    serve::Edge,
};

/// Serves calls until `stop`; connections finish what they carry then. Those from before another proxy owned the
/// entities for a while may still do so while the port is open again.
pub(super) async fn serve(
    config: &Config,
    edge: Edge,
    readiness: &Readiness,
    stop: CancellationToken,
) -> Result<(), Error> {
    let mut leaving = FuturesUnordered::new();
    let served = 'open: loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break Ok(()),
            () = readiness.until(Part::Ownership, is_the_place) => {}
            Some(()) = leaving.next() => continue,
        }
        let listener = match listen(config.listen).await {
            Ok(listener) => listener,
            Err(error) => break Err(error),
        };
        readiness.set(Part::Edge, Ok(()));
        info!(address = %config.listen, "the port for calls is open");
        let close = stop.child_token();
        let mut serving =
            Box::pin(edge.clone().serve(listener, close.clone(), config.drain.clone()));
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = readiness.until(Part::Ownership, |ready| !is_the_place(ready)) => {
                    let away = "the port for calls is closed while another proxy owns the entities";
                    readiness.deny(Part::Edge, reason::OWNERSHIP_PENDING, away);
                    info!(address = %config.listen, "callers are sent to the next owner");
                    break;
                }
                () = &mut serving => continue 'open,
                Some(()) = leaving.next() => {}
            }
        }
        close.cancel();
        // The port is free behind this step, whatever the connections take.
        if futures::poll!(&mut serving).is_pending() {
            leaving.push(serving);
        }
    };
    while leaving.next().await.is_some() {}
    served
}

fn is_the_place(ownership: &Ready) -> bool {
    ownership.as_ref().err().is_none_or(|why| why.reason == reason::STORE_UNREACHABLE)
}
