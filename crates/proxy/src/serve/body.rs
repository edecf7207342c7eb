//! Bodies of responses: a message and trailers, or a stream of messages. They hand out small pieces, so
//! that what a caller does not read stays here, where it is counted.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame};
use tokio::sync::mpsc;

use super::{
    Place,
    frames::Encoded,
    metadata, status,
    unread::{Peer, Unread},
};
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

/// The answer to a call that takes a place until it is over.
#[derive(Debug)]
pub(super) struct Placed {
    answer: tonic::body::Body,
    _place: Place,
}

impl Placed {
    pub(super) fn new(answer: tonic::body::Body, place: Place) -> Self {
        Self { answer, _place: place }
    }
}

impl Body for Placed {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        Pin::new(&mut self.answer).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.answer.is_end_stream()
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
    peer: Arc<Peer>,
    /// Of the message that is going out.
    unread: Option<Unread>,
    _place: Place,
}

impl Many {
    /// `first` is what has come already.
    pub(super) fn new(
        replies: mpsc::Receiver<Streamed>,
        first: Encoded,
        (gzip, limit): (bool, usize),
        (peer, router): (Arc<Peer>, Router),
        place: Place,
    ) -> Result<Self, Failure> {
        let unread = (first.len() > 0).then(|| peer.hold(first.len())).transpose()?;
        Ok(Self {
            replies: Some(replies),
            message: first,
            later: HeaderMap::new(),
            gzip,
            limit,
            router,
            peer,
            unread,
            _place: place,
        })
    }

    /// Metadata of replies behind the first can only go into the trailers.
    fn take(&mut self, reply: Reply) -> Result<(), Failure> {
        if let Some(metadata) = reply.metadata
            && self.later.len() < TRAILERS_MAX
        {
            self.router.report_all(metadata::put(metadata, &mut self.later));
        }
        self.message = Encoded::new(reply.payload, self.gzip, self.limit)?;
        self.unread = Some(self.peer.hold(self.message.len())?);
        Ok(())
    }

    /// Cancels what is left of the call.
    fn end(&mut self, end: Result<(), Failure>) -> Frame<Bytes> {
        (self.replies, self.message) = (None, Encoded::default());
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
            // Whoever asks for more has taken it all.
            this.unread = None;
            let Some(replies) = &mut this.replies else { return Poll::Ready(None) };
            let end = match ready!(replies.poll_recv(context)) {
                Some(Streamed::Reply(reply)) => match this.take(reply) {
                    Ok(()) => continue,
                    Err(failure) => Err(failure),
                },
                Some(Streamed::End(end)) => end,
                None => Err(Failure::new(FailureKind::Internal, "the call broke off")),
            };
            return Poll::Ready(Some(Ok(this.end(end))));
        }
    }
}
