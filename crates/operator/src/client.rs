//! The way to the API server.

use std::time::Duration;

use anyhow::Context;
use kube::{Client, Config};

use crate::planted::{self, Bug};

/// Without it, connections whose packets vanish are waited on for ever. Watches end by themselves
/// before it, see [`WATCH_SECONDS`].
const READ_TIMEOUT: Duration = Duration::from_secs(20);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// After so long the API server ends a watch, and it is taken up where it was.
pub(crate) const WATCH_SECONDS: u32 = 15;

/// A client with the operator's timeouts, for an API server that is known already.
///
/// # Errors
/// When credentials or certificates cannot be used.
pub fn connect(mut config: Config) -> kube::Result<Client> {
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = (!planted::is(Bug::NoReadTimeout)).then_some(READ_TIMEOUT);
    config.reset_reader_on_write = true;
    Client::try_from(config)
}

/// A client for the API server that the process's surroundings name.
pub(crate) async fn infer() -> anyhow::Result<Client> {
    let config = Config::infer().await.context(
        "no way to the API server: set KUBECONFIG, or run in a pod with a service account",
    )?;
    Ok(connect(config)?)
}
