//! Accepting connections and serving HTTP on them, until told to stop.

use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::{net::TcpListener, sync::Semaphore, time};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tracing::{debug, warn};

/// Connections at once; further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 1_024;
/// Calls at once on one connection.
const STREAMS_MAX: u32 = 1_024;
/// How long a client may take for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a silent connection is asked whether it lives.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long it may take to say so.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Out of file descriptors, most likely; an immediate retry would spin.
const PAUSE_AFTER_ACCEPT_ERROR: Duration = Duration::from_millis(100);

/// Serves HTTP/1.1 and HTTP/2 on one port. After `stop`, connections finish what they carry, at most
/// for `drain`.
pub async fn serve<S, F>(
    listener: TcpListener,
    service: S,
    stop: CancellationToken,
    drain: Duration,
) where
    S: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
{
    let (server, graceful) = (server(), GracefulShutdown::new());
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let accept = async {
        loop {
            let place = Arc::clone(&places).acquire_owned().await;
            let stream = match listener.accept().await {
                Ok((stream, _peer)) => stream,
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
            let connection = server
                .serve_connection(TokioIo::new(stream), service_fn(service.clone()))
                .into_owned();
            let connection = graceful.watch(connection);
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    debug!(%error, "a connection broke");
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
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    server
}
