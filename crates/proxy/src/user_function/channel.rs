//! What generated clients call through.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderValue, Request, Response, header};
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::time;
use tonic::{ConnectError, Status, body::Body};

use super::{
    LinkState, Shared, UserFunction,
    connection::{Connection, Place},
};

/// How we call ourselves.
const USER_AGENT: &str = concat!("cloudstate-proxy/", env!("CARGO_PKG_VERSION"));
/// How often a call is tried again whose connection ended before anything of it was sent.
const SENDS_MAX: usize = 3;

/// A call that found no place looks again after this time, since a place that is given back tells nobody.
const PLACE_POLL: Duration = Duration::from_millis(100);

/// A way for calls; clones share everything.
#[derive(Clone, Debug)]
pub struct Channel {
    user_function: UserFunction,
    /// Whether it is enough that somebody answers, whoever that is.
    strangers: bool,
}

/// The user function's side of a call, which holds the call's place on its connection.
#[derive(Debug)]
pub struct ResponseBody {
    body: Incoming,
    _place: Place,
}

impl Channel {
    pub(super) fn new(user_function: UserFunction, strangers: bool) -> Self {
        Self { user_function, strangers }
    }

    async fn send(self, mut request: Request<Body>) -> Result<Response<ResponseBody>, Status> {
        *request.uri_mut() = self.shared().target.uri(request.uri());
        let agent = HeaderValue::from_static(USER_AGENT);
        request.headers_mut().insert(header::USER_AGENT, agent);
        for _ in 0..SENDS_MAX {
            let (mut connection, place) = self.place().await?;
            match connection.sender.try_send_request(request).await {
                Ok(response) => {
                    return Ok(response.map(|body| ResponseBody { body, _place: place }));
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(Status::from_error(Box::new(error.into_error()))),
                },
            }
        }
        Err(self.unreachable("connections end before anything can be sent on them"))
    }

    /// A connection with a place on it, after a wait if need be: for a connection under way, or for
    /// discovery to agree. The wait ends with the next attempt that fails.
    async fn place(&self) -> Result<(Connection, Place), Status> {
        if let Some(taken) = self.take() {
            return Ok(taken);
        }
        let mut link = self.shared().link.subscribe();
        let failures = link.borrow_and_update().failures;
        let waiting = async {
            loop {
                if let Some(taken) = self.take() {
                    return Ok(taken);
                }
                {
                    let now = link.borrow_and_update();
                    match now.state {
                        LinkState::Lost if now.failures > failures => {
                            return Err(self.unreachable(&now.error));
                        }
                        LinkState::Replaced if !self.strangers => {
                            return Err(self.unreachable("it describes itself in another way now"));
                        }
                        _ => {}
                    }
                }
                self.shared().wanted.notify_one();
                let _changed = time::timeout(PLACE_POLL, link.changed()).await;
            }
        };
        time::timeout(self.shared().limits.connect, waiting).await.unwrap_or_else(|_elapsed| {
            Err(self.unreachable("it takes no more streams, or does not describe itself"))
        })
    }

    fn take(&self) -> Option<(Connection, Place)> {
        let state = self.shared().link.borrow().state;
        let pool = self.shared().pool();
        match state {
            LinkState::Lost => None,
            _ if self.strangers => pool.take_fresh(),
            LinkState::Unknown | LinkState::Replaced => None,
            LinkState::Agreed => pool.take(),
        }
    }

    fn shared(&self) -> &Shared {
        &self.user_function.shared
    }

    /// Says that nothing was sent: drivers tell that apart by the kind of the cause.
    fn unreachable(&self, why: &str) -> Status {
        let address = self.user_function.address();
        let why = format!("the user function at {address} cannot be reached: {why}");
        let mut status = Status::unavailable(why.clone());
        status.set_source(Arc::new(ConnectError(why.into())));
        status
    }
}

impl tower::Service<Request<Body>> for Channel {
    type Response = Response<ResponseBody>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.clone().send(request))
    }
}

impl hyper::body::Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
