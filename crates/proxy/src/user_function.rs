//! The way to the user function: one HTTP/2 connection, opened when it is needed and again when it
//! was lost.

use std::{error::Error as _, time::Duration};

use api::Chain;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

/// How long opening a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Each entity holds a stream; a small window bounds what one of them can make us hold.
const STREAM_WINDOW: u32 = 64 * 1024;
/// What all streams of the connection together may have under way.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// How often a connection that carries streams is asked whether it lives.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);

/// What went wrong with a call, for a person: a status' own text shows its causes as code.
pub fn explain(status: &Status) -> String {
    match status.source() {
        Some(cause) => Chain(cause).to_string(),
        None => format!("{}: {}", status.code(), status.message()),
    }
}

/// Whether an error of this type is among the causes.
pub fn caused_by<E: std::error::Error + 'static>(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<E>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// A handle on the user function; clones share the connection.
#[derive(Clone, Debug)]
pub struct UserFunction {
    channel: Channel,
    address: String,
    message_size_max: usize,
}

impl UserFunction {
    /// A user function at `host:port`; nothing is opened yet.
    ///
    /// # Errors
    /// When the address is not a host and port.
    pub fn new(address: String, message_size_max: usize) -> Result<Self, tonic::transport::Error> {
        let channel = Endpoint::from_shared(format!("http://{address}"))?
            .connect_timeout(CONNECT_TIMEOUT)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .tcp_nodelay(true)
            .connect_lazy();
        Ok(Self { channel, address, message_size_max })
    }

    /// What generated clients call through.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Largest message that is taken from the user function, in bytes.
    pub fn message_size_max(&self) -> usize {
        self.message_size_max
    }
}
