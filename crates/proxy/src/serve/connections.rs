//! Accepting connections and serving HTTP on them, until told to stop.

use std::{
    convert::Infallible,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    time::{self, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tracing::{debug, info, warn};

use crate::entity::{Failure, FailureKind};

/// Connections at once; further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 1_024;
/// Calls at once on one connection.
const STREAMS_MAX: u32 = 1_024;
/// What a caller may send on one call, and on one connection, before we have taken it.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// What one call may have handed to the connection that is not sent yet.
const SEND_BUFFER: usize = 64 * 1024;
/// How long a client may take for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a silent connection is asked whether it lives.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long it may take to say so.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Out of file descriptors, most likely; an immediate retry would spin.
const PAUSE_AFTER_ACCEPT_ERROR: Duration = Duration::from_millis(100);
/// How long a connection with such replies may read none of them.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Who is at the other end of a connection.
#[derive(Debug)]
pub struct Peer {
    /// Bytes of replies that were not read.
    unread: AtomicUsize,
    /// Counts replies that were.
    read: AtomicU64,
    all: Arc<Total>,
}

/// Replies that nobody has read, on all connections.
#[derive(Debug)]
pub struct Total {
    bytes: AtomicUsize,
    /// Beyond it a connection gets one reply at a time.
    max: usize,
}

impl Total {
    /// Of at most so many bytes.
    pub fn new(max: usize) -> Self {
        Self { bytes: AtomicUsize::new(0), max }
    }
}

impl Peer {
    fn new(all: Arc<Total>) -> Arc<Self> {
        Arc::new(Self { unread: AtomicUsize::new(0), read: AtomicU64::new(0), all })
    }

    /// Counts a reply until it is read.
    ///
    /// # Errors
    /// When this peer does not read while replies for everybody take too much room.
    pub(super) fn hold(self: &Arc<Self>, bytes: usize) -> Result<Unread, Failure> {
        let mine = self.unread.fetch_add(bytes, Ordering::Relaxed);
        let all = self.all.bytes.fetch_add(bytes, Ordering::Relaxed);
        let unread = Unread { peer: Arc::clone(self), bytes };
        if mine > 0 && all + bytes > self.all.max {
            let text = format!("this connection has not read {mine} bytes of earlier replies");
            return Err(Failure::new(FailureKind::ResourceExhausted, text));
        }
        Ok(unread)
    }

    /// Resolves when the peer has stopped reading.
    async fn stalls(&self) {
        let mut ticks = time::interval(UNREAD_TIMEOUT);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before = None;
        loop {
            ticks.tick().await;
            let waits = self.unread.load(Ordering::Relaxed) > 0;
            let now = waits.then(|| self.read.load(Ordering::Relaxed));
            if now.is_some() && now == before {
                return;
            }
            before = now;
        }
    }
}

/// A reply that has not been read.
#[derive(Debug)]
pub(super) struct Unread {
    peer: Arc<Peer>,
    bytes: usize,
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.peer.unread.fetch_sub(self.bytes, Ordering::Relaxed);
        self.peer.all.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.peer.read.fetch_add(1, Ordering::Relaxed);
    }
}

/// Serves HTTP/1.1 and HTTP/2 on one port. After `stop`, connections finish what they carry, at most
/// for `drain`.
pub async fn serve<S, F>(
    listener: TcpListener,
    service: S,
    unread: Arc<Total>,
    stop: CancellationToken,
    drain: Duration,
) where
    S: Fn(Request<Incoming>, Arc<Peer>) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
{
    let (server, graceful) = (server(), GracefulShutdown::new());
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let accept = async {
        loop {
            let place = Arc::clone(&places).acquire_owned().await;
            let (stream, address) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(%error, "failed to accept a connection");
                    time::sleep(PAUSE_AFTER_ACCEPT_ERROR).await;
                    continue;
                }
            };
            // Replies are small and waited for.
            if let Err(error) = stream.set_nodelay(true) {
                debug!(%error, "the connection stays with delayed sending");
            }
            let peer = Peer::new(Arc::clone(&unread));
            let (service, caller) = (service.clone(), Arc::clone(&peer));
            let answer = service_fn(move |request| service(request, Arc::clone(&caller)));
            let connection = server.serve_connection(TokioIo::new(stream), answer).into_owned();
            let connection = graceful.watch(connection);
            tokio::spawn(async move {
                tokio::select! {
                    ended = connection => if let Err(error) = ended {
                        debug!(%address, %error, "a connection broke");
                    },
                    () = peer.stalls() => {
                        info!(%address, "a connection was cut, since the caller reads no replies");
                    }
                }
                drop(place);
            });
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = accept => {}
    }
    drop(listener);
    if time::timeout(drain, graceful.shutdown()).await.is_err() {
        warn!(after = ?drain, "connections were cut that still carried calls");
    }
}

fn server() -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    server
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_read_gets_no_more_once_all_replies_take_too_much_room() {
        let all = Arc::new(Total::new(1_000));
        let (idle, busy) = (Peer::new(Arc::clone(&all)), Peer::new(Arc::clone(&all)));
        let first = idle.hold(1_000).unwrap();
        let failure = idle.hold(1).unwrap_err();
        assert!(failure.message.contains("has not read 1000 bytes"), "{failure:?}");
        drop(busy.hold(1).unwrap());
        drop(busy.hold(1).unwrap());
        drop(first);
        assert_eq!(all.bytes.load(Ordering::Relaxed), 0);
        idle.hold(1).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_stalls_when_it_reads_nothing_for_long() {
        let peer = Peer::new(Arc::new(Total::new(1)));
        let long = UNREAD_TIMEOUT * 3;
        assert!(time::timeout(long, peer.stalls()).await.is_err(), "nothing is to be read");
        let reply = peer.hold(1).unwrap();
        time::timeout(long, peer.stalls()).await.unwrap();
        drop(reply);
        assert!(time::timeout(long, peer.stalls()).await.is_err(), "all was read");
    }
}
