//! The edge towards callers: one port, on which any method of the user function answers over gRPC.

pub mod connections;
mod grpc;
mod metadata;
mod reflection;

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use tonic::{Status, body::Body};

use crate::router::Router;
use reflection::Reflection;

/// What the edge takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest message from a caller, in bytes.
    pub request_size: usize,
    /// Largest message to a caller, in bytes.
    pub response_size: usize,
    /// Calls that may be under way at once.
    pub in_flight: usize,
    /// Longest time for a call, whatever the caller's deadline.
    pub call: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_size: 4 * 1024 * 1024,
            response_size: 4 * 1024 * 1024,
            in_flight: 4_096,
            call: Duration::from_mins(1),
        }
    }
}

/// Answers calls; clones share everything.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "has nothing of its own to show")]
pub struct Edge {
    router: Router,
    reflection: Option<Reflection>,
    limits: Limits,
    places: Arc<Semaphore>,
}

impl Edge {
    /// An edge for the methods to which this router knows the way.
    pub fn new(router: Router, limits: Limits) -> Self {
        let reflection = Reflection::new(router.routes());
        let places = Arc::new(Semaphore::new(limits.in_flight));
        Self { router, reflection, limits, places }
    }

    /// Answers one request.
    ///
    /// # Errors
    /// None: what goes wrong is the answer.
    pub async fn answer(self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        match Format::of(request.version(), request.headers()) {
            Format::Grpc => Ok(self.answer_grpc(request).await),
            Format::UnknownGrpc => {
                Ok(plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, "only application/grpc and +proto"))
            }
            Format::Other => Ok(plain(StatusCode::NOT_FOUND, "this port serves gRPC over HTTP/2")),
        }
    }

    async fn answer_grpc(self, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path();
        if let Some(method) = self.router.routes().find(path) {
            // Before the body is read: what cannot be served must not cost memory.
            let Ok(_place) = self.places.try_acquire() else {
                let text =
                    format!("{} calls are under way, which is the limit", self.limits.in_flight);
                return Status::resource_exhausted(text).into_http();
            };
            let method = Arc::clone(method);
            return grpc::unary(method, self.router, self.limits, request).await;
        }
        if let (Some(reflection), true) = (self.reflection, Reflection::serves(path)) {
            return reflection.answer(request).await;
        }
        Status::unimplemented(format!(
            "no method at {path}: this user function serves {}",
            self.router.routes().services().join(", ")
        ))
        .into_http()
    }
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

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::new(http_body_util::Full::from(text)));
    *response.status_mut() = status;
    response
}
