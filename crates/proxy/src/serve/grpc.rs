//! Calls of the user function's methods, in all four shapes (`docs/protocol.md`).

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, stream};
use http::{HeaderMap, Request, Response, header};
use hyper::body::Incoming;
use tokio::time::{self, Instant};
use tonic::{Status, body::Body};

use super::{
    Edge, Place,
    arrivals::Messages,
    body::{Many, One},
    deadline, encoding,
    frames::{Decoder, Encoded},
    metadata, status,
    unread::Peer,
};
use crate::{
    action::Input,
    entity::{Failure, FailureKind, Reply},
    route::{Method, Shape, Target},
    router::Streamed,
};
use protocol::cloudstate::Metadata;

/// How long a stream's headers wait for what the first reply wants to put into them.
const GRACE: Duration = Duration::from_secs(1);

/// One call that has just come in.
pub(super) struct Call {
    edge: Edge,
    peer: Arc<Peer>,
    method: Arc<Method>,
    metadata: Option<Metadata>,
    /// The caller's.
    deadline: Option<Instant>,
    /// Whether the caller understands compressed replies.
    gzip: bool,
}

/// Answers a call of `method`.
pub(super) async fn answer(
    edge: Edge,
    peer: Arc<Peer>,
    method: Arc<Method>,
    request: Request<Incoming>,
) -> Response<Body> {
    let (head, body) = request.into_parts();
    let headers = &head.headers;
    let compressed = match encoding::of_request(headers) {
        Ok(compressed) => compressed,
        Err(unknown) => return unknown_encoding(&unknown),
    };
    let timeout = deadline::of(headers);
    if timeout == Some(Duration::ZERO) {
        return status::only(&status::of(late()));
    }
    let decoder = Decoder::new(compressed, edge.limits.request_size);
    let messages = Messages::new(body, decoder, Arc::clone(&edge.arrivals));
    let call = Call {
        metadata: metadata::of(headers),
        deadline: timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
        gzip: encoding::accepts_gzip(headers),
        edge,
        peer,
        method,
    };
    let answered = match call.method.target {
        Target::Entity(_) | Target::Action(Shape::Unary) => call.unary(messages).await,
        Target::Action(Shape::ClientStreaming) => call.client_streaming(messages).await,
        Target::Action(Shape::ServerStreaming) => call.server_streaming(messages).await,
        Target::Action(Shape::Streaming) => call.streaming(messages).await,
    };
    answered.unwrap_or_else(|failure| status::only(&status::of(failure)))
}

impl Call {
    async fn unary(mut self, mut messages: Messages<Incoming>) -> Result<Response<Body>, Failure> {
        let deadline = self.deadline();
        let metadata = self.metadata.take();
        let work = async {
            let (message, _room) = messages.only().await?;
            let left = deadline.saturating_duration_since(Instant::now());
            self.edge.router.unary(&self.method, message, metadata, Some(left)).await
        };
        let reply =
            time::timeout_at(deadline, work).await.unwrap_or_else(|_elapsed| Err(late()))?;
        self.one(reply)
    }

    async fn client_streaming(
        mut self,
        messages: Messages<Incoming>,
    ) -> Result<Response<Body>, Failure> {
        let _place = self.edge.place(self.deadline()).await?;
        let (metadata, left) = (self.metadata.take(), self.left());
        let work = self.edge.router.client_streaming(&self.method, many(messages), metadata, left);
        let reply = match self.deadline {
            Some(deadline) => {
                time::timeout_at(deadline, work).await.unwrap_or_else(|_elapsed| Err(late()))?
            }
            None => work.await?,
        };
        self.one(reply)
    }

    async fn server_streaming(
        self,
        mut messages: Messages<Incoming>,
    ) -> Result<Response<Body>, Failure> {
        let deadline = self.deadline();
        let place = self.edge.place(deadline).await?;
        let arrived = time::timeout_at(deadline, messages.only()).await;
        let (message, _room) = arrived.unwrap_or_else(|_elapsed| Err(late()))?;
        self.replies(Input::One(message), place).await
    }

    async fn streaming(self, messages: Messages<Incoming>) -> Result<Response<Body>, Failure> {
        let place = self.edge.place(self.deadline()).await?;
        self.replies(many(messages), place).await
    }

    /// One message for the caller.
    fn one(self, reply: Reply) -> Result<Response<Body>, Failure> {
        let message = Encoded::new(reply.payload, self.gzip, self.edge.limits.response_size)?;
        let unread = self.peer.hold(message.len())?;
        let mut response = Response::new(Body::new(One::new(message, unread)));
        self.head(reply.metadata, response.headers_mut());
        Ok(response)
    }

    /// As many as there are.
    async fn replies(mut self, input: Input, place: Place) -> Result<Response<Body>, Failure> {
        let (metadata, deadline) = (self.metadata.take(), self.deadline);
        let mut replies = self.edge.router.stream(&self.method, input, metadata, deadline);
        let coding = (self.gzip, self.edge.limits.response_size);
        // Headers must go out even when replies are long in coming, or the caller hangs.
        let (first, metadata) = match time::timeout(GRACE, replies.recv()).await {
            Ok(Some(Streamed::Reply(reply))) => {
                (Encoded::new(reply.payload, coding.0, coding.1)?, reply.metadata)
            }
            Ok(Some(Streamed::End(Err(failure)))) => return Err(failure),
            Ok(Some(Streamed::End(Ok(())))) => {
                let mut response = status::only(&Status::ok(""));
                self.head(None, response.headers_mut());
                return Ok(response);
            }
            Ok(None) => return Err(Failure::new(FailureKind::Internal, "the call broke off")),
            Err(_elapsed) => (Encoded::default(), None),
        };
        let caller = (Arc::clone(&self.peer), self.edge.router.clone());
        let body = Many::new(replies, first, coding, caller, place)?;
        let mut response = Response::new(Body::new(body));
        self.head(metadata, response.headers_mut());
        Ok(response)
    }

    fn head(&self, metadata: Option<Metadata>, headers: &mut HeaderMap) {
        headers.insert(header::CONTENT_TYPE, status::CONTENT_TYPE);
        if self.gzip {
            headers.insert(encoding::ENCODING, encoding::GZIP);
        }
        if let Some(metadata) = metadata {
            self.edge.router.report_all(metadata::put(metadata, headers));
        }
    }

    /// When a call ends that does not go on for ever: the caller may want it earlier.
    fn deadline(&self) -> Instant {
        let longest = Instant::now() + self.edge.limits.call;
        self.deadline.map_or(longest, |deadline| deadline.min(longest))
    }

    /// What the caller's deadline leaves.
    fn left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }
}

/// The caller's messages as they come.
fn many(messages: Messages<Incoming>) -> Input {
    let messages = stream::unfold(Some(messages), |messages| async {
        let mut messages = messages?;
        match messages.next().await {
            Ok(Some(message)) => Some((Ok(message), Some(messages))),
            Ok(None) => None,
            Err(failure) => Some((Err(failure), None)),
        }
    });
    Input::Many(messages.boxed())
}

pub(super) fn late() -> Failure {
    Failure::new(FailureKind::DeadlineExceeded, "no reply in time")
}

fn unknown_encoding(name: &str) -> Response<Body> {
    let text = format!("grpc-encoding {name:?} is not known here: use identity or gzip");
    let mut response = status::only(&Status::unimplemented(text));
    response.headers_mut().insert(encoding::ACCEPT_ENCODING, encoding::OURS);
    response
}
