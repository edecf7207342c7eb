//! The probes of the operator's own pod: `/livez` and `/readyz`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use http::{Request, Response, StatusCode};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// A kubelet needs one or two; more are let wait.
const CONNECTIONS_MAX: usize = 16;
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Set once everything is watched.
pub(crate) type Readiness = Arc<AtomicBool>;

pub(crate) struct Admin {
    listener: TcpListener,
    ready: Readiness,
}

impl Admin {
    pub(crate) async fn bind(address: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("failed to listen on {address}, setting admin.listen"))?;
        Ok(Self { listener, ready: Readiness::default() })
    }

    pub(crate) fn readiness(&self) -> Readiness {
        Arc::clone(&self.ready)
    }

    /// Answers until told to stop.
    pub(crate) async fn serve(self, shutdown: CancellationToken) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let slot = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Ok(slot) = Arc::clone(&slots).acquire_owned() => slot,
            };
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else {
                // Out of file descriptors, most likely: let some be given back.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let ready = Arc::clone(&self.ready);
            connections.spawn(async move {
                let service = service_fn(move |request| {
                    let answer = answer(&request, &ready);
                    async { Ok::<_, Infallible>(answer) }
                });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .serve_connection(TokioIo::new(stream), service);
                if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await {
                    debug!(%error, "probe connection broke");
                }
                drop(slot);
            });
        }
    }
}

fn answer(request: &Request<hyper::body::Incoming>, ready: &AtomicBool) -> Response<String> {
    let (status, text) = match request.uri().path() {
        "/livez" => (StatusCode::OK, "ok\n"),
        "/readyz" if ready.load(Ordering::Acquire) => (StatusCode::OK, "ok\n"),
        "/readyz" => (StatusCode::SERVICE_UNAVAILABLE, "not everything is watched yet\n"),
        _ => (StatusCode::NOT_FOUND, "ask for /livez or /readyz\n"),
    };
    let mut response = Response::new(text.to_owned());
    *response.status_mut() = status;
    response
}
