//! The way to the API server.

use std::time::Duration;

use kube::{Client, Config};

/// Without it, connections whose packets vanish are waited on for ever. Watches end by themselves
/// before it, see [`WATCH_SECONDS`].
const READ_TIMEOUT: Duration = Duration::from_secs(20);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// After so long the API server ends a watch, and it is taken up where it was.
pub(crate) const WATCH_SECONDS: u32 = 15;

pub(crate) async fn connect() -> anyhow::Result<Client> {
    let mut config = Config::infer().await?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    config.reset_reader_on_write = true;
    Ok(Client::try_from(config)?)
}
