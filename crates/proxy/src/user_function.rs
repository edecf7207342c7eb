//! The way to the user function: a few HTTP/2 connections, kept open by a task of their own, and more
//! where the user function allows fewer streams on one than are needed.
//!
//! A call takes the connection with the fewest streams. When a connection is lost the user function may come
//! back as another program, so that calls wait until discovery has agreed to go on
//! ([`UserFunction::agree`]).

mod channel;
mod connection;
mod keeper;
mod pool;

use std::{
    error::Error as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use api::Chain;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;

pub use channel::Channel;
use connection::Target;
use pool::Pool;

/// Bounds of the way to the user function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest message from the user function, in bytes: a snapshot may be larger than any command.
    pub message_size: usize,
    /// Connections that are always open: the lock inside one bounds what goes through it.
    pub connections: usize,
    /// Connections that may be open when the user function bounds the streams on each.
    pub connections_max: usize,
    /// How long opening a connection may take.
    pub connect: Duration,
    /// How often the user function is asked whether it still answers, by a connection of its own. Pings
    /// on the connections in use would cost less, but common servers (Go's, and all on the C core) end a
    /// connection that is pinged more than every five minutes while nothing else happens on it.
    pub probe_interval: Duration,
    /// How long it may take for that. What takes longer is taken for hanging, and all connections are cut.
    pub probe: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_size: 12 * 1024 * 1024,
            connections: 4,
            connections_max: 512,
            connect: Duration::from_secs(5),
            probe_interval: Duration::from_secs(5),
            probe: Duration::from_secs(10),
        }
    }
}

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

/// The address is not a host and a port.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct AddressError(#[from] http::uri::InvalidUri);

/// Whether the user function can be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Whether it can.
    pub state: LinkState,
    /// Since when that is so.
    pub since: Instant,
    /// Connections that are open.
    pub connections: usize,
    /// How often somebody was reached after a loss.
    pub reached: u64,
    /// How often opening one failed.
    pub failures: u64,
    /// What was wrong the last time.
    pub error: String,
}

/// See [`Link::state`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// A connection was lost, and there is none yet to whoever answers now.
    Lost,
    /// There is one, and what it leads to has not been agreed to.
    Unknown,
    /// Calls go through.
    Agreed,
    /// Whoever answers now is another program; no call goes through any more.
    Replaced,
}

/// A handle on the user function; clones share the connections, which end with the last of them.
#[derive(Clone, Debug)]
pub struct UserFunction {
    shared: Arc<Shared>,
    _keeper: Arc<DropGuard>,
}

/// What handles, calls and the keeper share.
#[derive(Debug)]
struct Shared {
    target: Target,
    limits: Limits,
    pool: Mutex<Pool>,
    link: watch::Sender<Link>,
    /// Told when a call finds no place.
    wanted: Notify,
}

impl UserFunction {
    /// A user function at `host:port`, and the start of attempts to reach it.
    ///
    /// # Errors
    /// [`AddressError`] when the address is not a host and port.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn new(address: &str, limits: Limits) -> Result<Self, AddressError> {
        let link = Link {
            state: LinkState::Lost,
            since: Instant::now(),
            connections: 0,
            reached: 0,
            failures: 0,
            error: "no attempt has been made yet".to_owned(),
        };
        let shared = Arc::new(Shared {
            target: Target::parse(address)?,
            limits,
            pool: Mutex::new(Pool::new(limits.connections, limits.connections_max)),
            link: watch::Sender::new(link),
            wanted: Notify::new(),
        });
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(keeper::keep(Arc::clone(&shared))));
        Ok(Self { shared, _keeper: Arc::new(stop.drop_guard()) })
    }

    /// What generated clients call through once discovery has agreed.
    pub fn channel(&self) -> Channel {
        Channel::new(self.clone(), false)
    }

    /// What discovery calls through: it asks whoever is there.
    pub fn stranger(&self) -> Channel {
        Channel::new(self.clone(), true)
    }

    /// Lets calls through to what was reached for the `reached`th time; says whether it is still there.
    pub fn agree(&self, reached: u64) -> bool {
        self.shared.link.send_if_modified(|link| {
            let unknown = link.state == LinkState::Unknown && link.reached == reached;
            if unknown {
                link.state = LinkState::Agreed;
                link.since = Instant::now();
            }
            unknown
        })
    }

    /// Lets no call through any more: what answers now is not what was discovered.
    pub fn disagree(&self) {
        self.shared.link.send_modify(|link| {
            link.state = LinkState::Replaced;
            link.since = Instant::now();
        });
    }

    /// Whether calls go through, now and later.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.shared.link.subscribe()
    }

    /// Streams that are open.
    pub fn streams(&self) -> usize {
        self.shared.pool().streams()
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        self.shared.target.address()
    }

    /// Largest message that is taken from the user function, in bytes.
    pub fn message_size_max(&self) -> usize {
        self.shared.limits.message_size
    }
}

impl Shared {
    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
