//! Bodies of responses: a message and trailers, or a stream of messages. They hand out small pieces, so
//! that what a caller does not read stays here, where it is counted.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame};
use tokio::sync::mpsc;

use super::{connections::Unread, frames::Encoded, grpc::Place, metadata, status};
use crate::{
    entity::{Failure, FailureKind, Reply},
    router::{Router, Streamed},
};

/// Most bytes of one piece.
const PIECE: usize = 16 * 1024;
/// Trailers that metadata of later replies of a stream may make.
const TRAILERS_MAX: usize = 64;

/// One message and how the call ended.
#[derive(Debug)]
pub(super) struct One {
    message: Encoded,
    trailers: Option<HeaderMap>,
    _unread: Unread,
}

impl One {
    pub(super) fn new(message: Encoded, unread: Unread) -> Self {
        Self { message, trailers: Some(status::trailers(Ok(()))), _unread: unread }
    }
}

impl Body for One {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let data = this.message.piece(PIECE).map(Frame::data);
        Poll::Ready(data.or_else(|| this.trailers.take().map(Frame::trailers)).map(Ok))
    }
}

/// Messages as they come, and how the call ended.
#[allow(missing_debug_implementations, reason = "a router has nothing to show")]
pub(super) struct Many {
    /// None once trailers are out.
    replies: Option<mpsc::Receiver<Streamed>>,
    message: Encoded,
    later: HeaderMap,
    gzip: bool,
    limit: usize,
    router: Router,
    _place: Place,
}

impl Many {
    /// `first` is what has come already.
    pub(super) fn new(
        replies: mpsc::Receiver<Streamed>,
        first: Encoded,
        (gzip, limit): (bool, usize),
        router: Router,
        place: Place,
    ) -> Self {
        let later = HeaderMap::new();
        Self { replies: Some(replies), message: first, later, gzip, limit, router, _place: place }
    }

    /// Metadata of replies behind the first can only go into the trailers.
    fn take(&mut self, reply: Reply) -> Result<Encoded, Failure> {
        if let Some(metadata) = reply.metadata
            && self.later.len() < TRAILERS_MAX
        {
            self.router.report_all(metadata::put(metadata, &mut self.later));
        }
        Encoded::new(reply.payload, self.gzip, self.limit)
    }

    /// Cancels what is left of the call.
    fn end(&mut self, end: Result<(), Failure>) -> Frame<Bytes> {
        self.replies = None;
        let mut trailers = std::mem::take(&mut self.later);
        trailers.extend(status::trailers(end));
        Frame::trailers(trailers)
    }
}

impl Body for Many {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        loop {
            if let Some(piece) = this.message.piece(PIECE) {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            let Some(replies) = &mut this.replies else { return Poll::Ready(None) };
            let end = match ready!(replies.poll_recv(context)) {
                Some(Streamed::Reply(reply)) => match this.take(reply) {
                    Ok(message) => {
                        this.message = message;
                        continue;
                    }
                    Err(failure) => Err(failure),
                },
                Some(Streamed::End(end)) => end,
                None => Err(Failure::new(FailureKind::Internal, "the call broke off")),
            };
            return Poll::Ready(Some(Ok(this.end(end))));
        }
    }
}
