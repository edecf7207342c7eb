//! The edge towards callers: one port, on which any method of the user function answers over gRPC, and
//! with it the standard services for health and reflection.

mod arrivals;
mod body;
pub mod connections;
mod deadline;
mod encoding;
mod frames;
mod grpc;
mod health;
mod metadata;
mod reflection;
mod status;
pub mod unread;

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body};
use tracing::{Level, enabled};

use crate::{
    budget::{CALL, Share, Taken},
    config::Drain,
    entity::{Failure, FailureKind},
    metrics::Metrics,
    readiness::Readiness,
    router::Router,
};
use arrivals::Arrivals;
use body::Placed;
use health::Health;
use reflection::Reflection;
use unread::{Peer, Total};

/// Asks, behind Knative, whether this container serves.
const NETWORK_PROBE: &str = "k-network-probe";

/// Calls with a stream, which may go on for ever, may take this part of the room for calls.
const STREAMS_PART: usize = 4;

/// What the edge takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest message from a caller, in bytes.
    pub request_size: usize,
    /// Largest message to a caller, in bytes.
    pub response_size: usize,
    /// Whether the user function's descriptors are told to whoever asks.
    pub reflection: bool,
    /// Longest time for a call with one message and one reply, whatever the caller's deadline.
    pub call: Duration,
    /// Calls at once on one connection; others wait at the caller.
    pub connection_calls: u32,
    /// How old a connection gets before its caller is told to open another one; none for ever.
    pub connection_age: Option<Duration>,
}

/// Answers calls; clones share everything.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "has nothing of its own to show")]
pub struct Edge {
    router: Router,
    health: Health,
    /// None when nobody is to be told.
    reflection: Option<Arc<Reflection>>,
    metrics: Metrics,
    limits: Limits,
    streams: Arc<Semaphore>,
    unread: Arc<Total>,
    arrivals: Arc<Arrivals>,
}

impl Edge {
    /// An edge for the methods to which this router knows the way. What it says of its health is
    /// what `readiness` says; calls take their room from `calls`.
    pub fn new(
        router: Router,
        readiness: Readiness,
        metrics: Metrics,
        calls: Share,
        limits: Limits,
    ) -> Self {
        let services = router.routes().services();
        let health = Health::new(readiness, services);
        let reflection = || Arc::new(Reflection::new(router.routes().descriptors(), services));
        let reflection = limits.reflection.then(reflection);
        Self {
            router,
            health,
            reflection,
            metrics,
            limits,
            unread: Arc::new(Total::new(calls.size())),
            streams: Arc::new(Semaphore::new(calls.size() / CALL / STREAMS_PART)),
            arrivals: Arrivals::new(calls),
        }
    }

    /// Serves until `stop`, then lets what is under way finish for as long as `drain`. Streams, which
    /// might go on for ever, are ended when most of that time is over.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken, drain: Drain) {
        let router = self.router.clone();
        let end_streams = async {
            stop.cancelled().await;
            time::sleep(drain.time() * 4 / 5).await;
            router.end_streams();
            std::future::pending::<()>().await;
        };
        let (unread, Limits { connection_age: age, connection_calls: calls, .. }) =
            (Arc::clone(&self.unread), self.limits);
        let follow = self.health.clone().follow();
        // Some kilobytes, which would be copied each time that a task is made of them.
        let answer = move |request, peer| Box::pin(self.clone().answer(request, peer));
        tokio::select! {
            () = connections::serve(listener, answer, unread, stop.clone(), drain.clone(), age, calls) => {}
            () = end_streams => {}
            () = follow => {}
        }
    }

    /// Answers one request.
    async fn answer(
        self,
        request: Request<Incoming>,
        peer: Arc<Peer>,
    ) -> Result<Response<Body>, Infallible> {
        Ok(match Format::of(request.version(), request.headers()) {
            Format::Grpc => self.answer_grpc(request, peer).await,
            Format::UnknownGrpc => {
                plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, "only application/grpc and +proto")
            }
            Format::Other => match request.headers().get(NETWORK_PROBE) {
                Some(probe) if probe == "queue" => plain(StatusCode::OK, "queue"),
                Some(_) => plain(StatusCode::BAD_REQUEST, "K-Network-Probe can only be queue"),
                None => plain(StatusCode::NOT_FOUND, "this port serves gRPC over HTTP/2"),
            },
        })
    }

    async fn answer_grpc(self, request: Request<Incoming>, peer: Arc<Peer>) -> Response<Body> {
        let path = request.uri().path();
        if let Some(method) = self.router.routes().find(path) {
            let method = Arc::clone(method);
            let trace = trace(request.headers());
            let call = self.metrics.call(path).map(|metrics| metrics.begin(trace));
            let response = grpc::answer(self, peer, method, request).await;
            return match call {
                Some(call) => call.follow(response),
                None => response,
            };
        }
        let service = path.rsplit_once('/').map(|(service, _method)| service);
        match (service, &self.reflection) {
            (Some("/grpc.health.v1.Health"), _) if path.ends_with("/Watch") => {
                self.standing(self.health.clone().answer(request)).await
            }
            (Some("/grpc.health.v1.Health"), _) => {
                let answer = self.health.answer(request);
                let answer = time::timeout(self.limits.call, self.arrivals.hold(answer));
                let answer = answer.await.unwrap_or_else(|_elapsed| Err(grpc::late()));
                answer.unwrap_or_else(|failure| status::only(&status::of(failure)))
            }
            (Some("/grpc.reflection.v1.ServerReflection"), Some(reflection)) => {
                self.standing(reflection.answer(reflection::Version::V1, request)).await
            }
            (Some("/grpc.reflection.v1alpha.ServerReflection"), Some(reflection)) => {
                self.standing(reflection.answer(reflection::Version::V1Alpha, request)).await
            }
            _ => status::only(&Status::unimplemented(format!(
                "no method at {path}: this user function serves {}",
                self.router.routes().services().join(", ")
            ))),
        }
    }
}

impl Edge {
    /// Answers a call of a standard service that may go on for ever, as one of the user function's would.
    async fn standing(&self, answer: impl Future<Output = Response<Body>>) -> Response<Body> {
        match self.place(Instant::now() + self.limits.call).await {
            Ok(place) => answer.await.map(|body| Body::new(Placed::new(body, place))),
            Err(failure) => status::only(&status::of(failure)),
        }
    }

    /// Room for a call that may go on for ever. Such calls never take all of it.
    async fn place(&self, deadline: Instant) -> Result<Place, Failure> {
        let Ok(among_streams) = Arc::clone(&self.streams).try_acquire_owned() else {
            let text = "as many calls with streams are under way as memory allows";
            return Err(Failure::new(FailureKind::ResourceExhausted, text));
        };
        let room = time::timeout_at(deadline, self.arrivals.room()).await;
        let room = room.unwrap_or_else(|_elapsed| Err(grpc::late()))?;
        Ok(Place { _among_streams: among_streams, _room: room })
    }
}

/// What a call with a stream takes until it is over.
#[derive(Debug)]
struct Place {
    _among_streams: OwnedSemaphorePermit,
    _room: Taken,
}

/// How a request is meant.
enum Format {
    Grpc,
    /// gRPC with messages that are not protobuf.
    UnknownGrpc,
    Other,
}

impl Format {
    fn of(version: Version, headers: &HeaderMap) -> Self {
        let content_type = headers.get(header::CONTENT_TYPE).map_or(&[][..], HeaderValue::as_bytes);
        match content_type.strip_prefix(b"application/grpc") {
            Some([] | [b';', ..] | b"+proto") if version == Version::HTTP_2 => Self::Grpc,
            Some(suffix) if suffix.starts_with(b"+proto;") && version == Version::HTTP_2 => {
                Self::Grpc
            }
            Some([b'+', ..]) if version == Version::HTTP_2 => Self::UnknownGrpc,
            _ => Self::Other,
        }
    }
}

/// What the caller calls the call, where the log tells of calls.
fn trace(headers: &HeaderMap) -> Option<String> {
    if !enabled!(Level::DEBUG) {
        return None;
    }
    Some(headers.get("traceparent")?.to_str().ok()?.to_owned())
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::from(text)));
    *response.status_mut() = status;
    response
}
