//! Accepting connections and serving HTTP on them, until told to stop.

use std::{
    convert::Infallible,
    future::Future,
    hash::{BuildHasher as _, RandomState},
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{self, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::body::Body;
use tracing::{debug, info, warn};

use super::unread::{Peer, Total};
use crate::config::Drain;

/// Connections at once; further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 1_024;
/// Calls at once on one connection unless something else is said: enough for any caller, and so few that what is too
/// much waits with dozens of callers, where it costs nothing, instead of being refused.
pub const CALLS_MAX: u32 = 256;
/// What a caller may send on one call, and on one connection, before we have taken it.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// What one call may have handed to the connection that is not sent yet.
const SEND_BUFFER: usize = 64 * 1024;
/// How long a client may take for the head of a request, and for the first bytes of a connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// What a client of HTTP/2 says first has so many bytes; no request of HTTP/1.1 has as few.
const FIRST_BYTES: usize = 24;
/// How often a silent connection is asked whether it lives.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long it may take to say so.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// How often it is told that there are as many connections as may be.
const TOLD_INTERVAL: Duration = Duration::from_mins(1);
/// Out of file descriptors, most likely; an immediate retry would spin.
const PAUSE_AFTER_ACCEPT_ERROR: Duration = Duration::from_millis(100);
/// By such a part of it a connection may get older or less old than is said, as those of gRPC's own servers do: what
/// came together shall not come back together.
const JITTER: f64 = 0.1;

/// Serves HTTP/1.1 and HTTP/2 on one port. After `stop`, connections finish what they carry, at most
/// for `drain`. One of this age, if there is one, is told to take its further calls elsewhere, and finishes what it
/// carries, however long that takes. A connection carries so many `calls` at once; the others wait at the caller.
pub async fn serve<S, F>(
    listener: TcpListener,
    service: S,
    unread: Arc<Total>,
    stop: CancellationToken,
    drain: Drain,
    age: Option<Duration>,
    calls: u32,
) where
    S: Fn(Request<Incoming>, Arc<Peer>) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
{
    let (server, tasks) = (server(calls), TaskTracker::new());
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let cut = CancellationToken::new();
    let _cut_the_rest = cut.clone().drop_guard();
    let accept = async {
        let mut told = None;
        loop {
            if places.available_permits() == 0
                && told.is_none_or(|told: Instant| told.elapsed() > TOLD_INTERVAL)
            {
                let most = CONNECTIONS_MAX;
                warn!(
                    most,
                    "as many connections as may be are open: further ones wait for one to end"
                );
                told = Some(Instant::now());
            }
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
            let peer = Peer::new(address, Arc::clone(&unread));
            let (service, caller) = (service.clone(), Arc::clone(&peer));
            let answer = service_fn(move |request| service(request, Arc::clone(&caller)));
            let received = Arc::new(AtomicUsize::new(0));
            let stream = Counted { stream, received: Arc::clone(&received) };
            let connection = server.serve_connection(TokioIo::new(stream), answer).into_owned();
            let (cut, stop) = (cut.clone(), stop.clone());
            tasks.spawn(async move {
                let leave = async {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = is_of_age(age) => {
                            debug!(%address, "a connection is old: its caller is told to go elsewhere");
                        }
                    }
                };
                let mut connection = pin!(connection);
                let carried = async {
                    tokio::select! {
                        // First: a call that came together with the stop is not begun.
                        biased;
                        () = leave => connection.as_mut().graceful_shutdown(),
                        ended = connection.as_mut() => return ended,
                    }
                    connection.await
                };
                tokio::select! {
                    ended = carried => if let Err(error) = ended {
                        debug!(%address, %error, "a connection broke");
                    },
                    () = peer.stalls() => {
                        info!(%address, "a connection was cut, since the caller reads no replies");
                    }
                    () = stays_silent(&received) => {
                        debug!(%address, "a connection was cut on which nothing was said");
                    }
                    () = cut.cancelled() => {}
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
    tasks.close();
    let drain = drain.time();
    if time::timeout(drain, tasks.wait()).await.is_err() {
        warn!(after = ?drain, "connections were cut that still carried calls");
    }
}

fn server(calls: u32) -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(calls)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    server
}

/// Resolves when a connection has had its time; never when nobody counts.
async fn is_of_age(age: Option<Duration>) {
    match age {
        Some(age) => time::sleep(with_jitter(age, random())).await,
        None => std::future::pending().await,
    }
}

/// As every hasher of the standard library has it for its keys.
fn random() -> u32 {
    let random = RandomState::new().hash_one(());
    u32::try_from(random >> 32).unwrap_or_default()
}

fn with_jitter(age: Duration, random: u32) -> Duration {
    let share = f64::from(random) / f64::from(u32::MAX);
    age.mul_f64(1.0 + JITTER * (2.0 * share - 1.0))
}

/// Resolves when a client has not said which protocol it speaks: no timer of the protocols runs until then.
async fn stays_silent(received: &AtomicUsize) {
    time::sleep(HEAD_TIMEOUT).await;
    if received.load(Ordering::Relaxed) >= FIRST_BYTES {
        std::future::pending::<()>().await;
    }
}

/// A connection of which it is known how many bytes came in.
struct Counted {
    stream: TcpStream,
    received: Arc<AtomicUsize>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        // Only the first bytes matter.
        if self.received.load(Ordering::Relaxed) < FIRST_BYTES {
            self.received.fetch_add(buffer.filled().len() - before, Ordering::Relaxed);
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        task::JoinHandle,
    };

    use super::*;

    const DRAIN: Duration = Duration::from_secs(3);

    /// A server that never answers, and one connection to it.
    async fn connection(stop: &CancellationToken) -> (TcpStream, JoinHandle<()>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer = |_request, _peer| std::future::pending();
        let total = Arc::new(Total::new(1));
        let server = tokio::spawn(serve(
            listener,
            answer,
            total,
            stop.clone(),
            DRAIN.into(),
            None,
            CALLS_MAX,
        ));
        (TcpStream::connect(address).await.unwrap(), server)
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_cut() {
        for first in ["", "PRI", "GET"] {
            let (mut stream, server) = connection(&CancellationToken::new()).await;
            stream.write_all(first.as_bytes()).await.unwrap();
            let begin = Instant::now();
            let read = stream.read_to_end(&mut Vec::new()).await;
            assert!(matches!(read, Ok(0) | Err(_)), "{first}: {read:?}");
            assert!(begin.elapsed() >= HEAD_TIMEOUT, "{first}: after {:?}", begin.elapsed());
            server.abort();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_finish_is_cut_when_the_time_for_it_is_over() {
        let stop = CancellationToken::new();
        let (mut stream, server) = connection(&stop).await;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        // It is taken before the stop.
        time::sleep(Duration::from_secs(1)).await;
        stop.cancel();
        let begin = Instant::now();
        let read = stream.read_to_end(&mut Vec::new()).await;
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
        server.await.unwrap();
        assert!(begin.elapsed() >= DRAIN, "after {:?}", begin.elapsed());
    }

    #[test]
    fn ages_are_spread_by_a_tenth_to_either_side() {
        let age = |random| with_jitter(Duration::from_secs(10), random).as_secs_f64();
        for (random, seconds) in [(0, 9.0), (u32::MAX / 2, 10.0), (u32::MAX, 11.0)] {
            assert!((age(random) - seconds).abs() < 0.001, "{random}: {}", age(random));
        }
    }
}
