//! The port for calls, which is open while this is the place to call.
//!
//! Callers of another proxy's entities are sent away rather than refused one call after the other:
//! connections end as after a stop, new ones are not taken, and so whoever tries again comes out at the
//! owner. While the store is away there is no better place, and callers stay.

use api::contract::reason;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{Error, listen};
use crate::{
    config::Config,
    readiness::{Part, Readiness, Ready},
    serve::Edge,
};

/// Serves calls until `stop`; connections finish what they carry then.
pub(super) async fn serve(
    config: &Config,
    edge: Edge,
    readiness: &Readiness,
    stop: CancellationToken,
) -> Result<(), Error> {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = readiness.until(Part::Ownership, is_the_place) => {}
        }
        let listener = listen(config.listen).await?;
        readiness.set(Part::Edge, Ok(()));
        info!(address = %config.listen, "the port for calls is open");
        let close = stop.child_token();
        let watch = async {
            tokio::select! {
                () = close.cancelled() => {}
                () = readiness.until(Part::Ownership, |ready| !is_the_place(ready)) => {
                    let away = "the port for calls is closed while another proxy owns the entities";
                    readiness.deny(Part::Edge, reason::OWNERSHIP_PENDING, away);
                    info!(address = %config.listen, "callers are sent to the next owner");
                    close.cancel();
                }
            }
        };
        let serve = edge.clone().serve(listener, close.clone(), config.drain);
        tokio::join!(watch, serve);
    }
}

fn is_the_place(ownership: &Ready) -> bool {
    ownership.as_ref().err().is_none_or(|why| why.reason == reason::STORE_UNREACHABLE)
}
