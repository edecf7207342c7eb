//! Where the replies of a streamed call go, for as long as somebody waits for them.

use std::sync::Arc;

use tokio::{
    sync::mpsc,
    time::{self, Instant},
};
use tonic::Code;

use super::late;
use crate::{
    entity::{Failure, FailureKind, Reply},
    route::Method,
};

/// What a streamed call gives: replies, then how it ended.
#[derive(Debug)]
pub enum Streamed {
    /// One more message.
    Reply(Reply),
    /// There are no more.
    End(Result<(), Failure>),
}

/// Where the replies of a streamed call go.
pub(super) struct Sink {
    /// None when nobody wants them.
    pub(super) replies: Option<mpsc::Sender<Streamed>>,
    /// The caller's.
    pub(super) deadline: Option<Instant>,
    pub(super) origin: Arc<Method>,
}

impl Sink {
    /// Resolves when nobody waits for replies any more: the caller has left, or its time is over.
    pub(super) async fn closed(&self) -> Failure {
        let left = async {
            match &self.replies {
                Some(replies) => replies.closed().await,
                None => std::future::pending().await,
            }
        };
        let over = async {
            match self.deadline {
                Some(deadline) => time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = left => Failure::new(FailureKind::Told(Code::Cancelled), "the caller has left"),
            () = over => late(),
        }
    }

    pub(super) async fn put(&self, reply: Reply) -> Result<(), Failure> {
        let Some(replies) = &self.replies else { return Ok(()) };
        tokio::select! {
            biased;
            sent = replies.send(Streamed::Reply(reply)) => {
                // The next look at the caller tells that it has left.
                drop(sent);
                Ok(())
            }
            closed = self.closed() => Err(closed),
        }
    }

    pub(super) async fn end(&self, end: Result<(), Failure>) {
        if let Some(replies) = &self.replies {
            // A caller that has left needs no end.
            drop(replies.send(Streamed::End(end)).await);
        }
    }
}
