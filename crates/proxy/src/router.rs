//! Brings a command to whoever carries it out, and carries out what the answer asks for: side effects
//! in their order, then the forward (`docs/protocol.md`, "Effects and forwards").
//!
//! What an answer asks for follows from something durable, so it is done even when the caller has left:
//! it runs in a task of its own, which [`Router::stop`] waits for.

mod follow;
mod sink;
mod source;
mod way;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt as _, Stream, StreamExt as _, stream};
use protocol::cloudstate::Metadata;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinHandle,
    time::{self, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    action::{Actions, Input},
    entity::{Answer, Entities, Failure, FailureKind, Orphan, Outcome, Reply, Then},
    report::Reporter,
    route::{Method, Routes, Shape, Target},
};
use sink::Sink;
pub use sink::Streamed;
use source::Source;
use way::Way;

/// Effects that nobody waits for, at once. One more is waited for, so that it slows down whoever
/// causes them.
const BACKGROUND_MAX: usize = 1_024;
/// Answers whose callers have left, carried out at once.
const ORPHANS_MAX: usize = 64;
/// Replies that a stream may be ahead of its caller.
const AHEAD_MAX: usize = 4;

/// The way for commands; clones share everything.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "has nothing of its own to show")]
pub struct Router {
    shared: Arc<Shared>,
}

struct Shared {
    routes: Routes,
    entities: Entities,
    actions: Actions,
    reporter: Reporter,
    /// For one command that an effect or a forward leads to.
    limit: Duration,
    background: Arc<Semaphore>,
    tasks: TaskTracker,
    /// Counts how often streams were ended.
    ended: watch::Sender<u64>,
}

impl Router {
    /// Routes to these methods; a command that an effect or a forward leads to may take `limit`.
    pub fn new(
        routes: Routes,
        entities: Entities,
        actions: Actions,
        reporter: Reporter,
        limit: Duration,
    ) -> Self {
        let shared = Shared {
            routes,
            entities,
            actions,
            reporter,
            limit,
            background: Arc::new(Semaphore::new(BACKGROUND_MAX)),
            tasks: TaskTracker::new(),
            ended: watch::Sender::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Everything that can be called.
    pub fn routes(&self) -> &Routes {
        &self.shared.routes
    }

    /// Carries out what is left of commands whose callers have gone. Behind `last` no more of them come: then
    /// the task ends when those that are there have been carried out.
    pub fn adopt(
        &self,
        orphans: mpsc::Receiver<Orphan>,
        last: CancellationToken,
    ) -> JoinHandle<()> {
        let shared = Arc::downgrade(&self.shared);
        let adopted = until(orphans, last).for_each_concurrent(ORPHANS_MAX, move |orphan| {
            let shared = shared.upgrade();
            async move {
                let Some(shared) = shared else { return };
                let Orphan { service, answer } = orphan;
                let settled = Arc::clone(&shared).settle(None, service.name.clone(), answer);
                // Nobody waits for the outcome.
                drop(shared.tasks.spawn(settled).await);
            }
        });
        tokio::spawn(adopted)
    }

    /// Has a command carried out that gets one reply. `timeout` is what the caller's deadline leaves.
    ///
    /// # Cancel safety
    /// A dropped call is cancelled where that does no harm; effects and forwards of an answer that
    /// is there are carried out.
    pub async fn unary(
        &self,
        method: &Arc<Method>,
        payload: Bytes,
        metadata: Option<Metadata>,
        timeout: Option<Duration>,
    ) -> Outcome {
        let answer = self.shared.ask(method, payload, metadata, timeout).await;
        self.finish(method, answer).await
    }

    /// The same for a caller that sends any number of messages.
    pub async fn client_streaming(
        &self,
        method: &Arc<Method>,
        messages: Input,
        metadata: Option<Metadata>,
        timeout: Option<Duration>,
    ) -> Outcome {
        let shape = Shape::ClientStreaming;
        let answers = self.shared.actions.call(method, shape, messages, metadata, timeout);
        let answer = answers.single().await.unwrap_or_else(Answer::from);
        self.finish(method, answer).await
    }

    /// Has a command carried out that gets any number of replies. The call is cancelled at the user
    /// function when the receiver is dropped.
    pub fn stream(
        &self,
        method: &Arc<Method>,
        input: Input,
        metadata: Option<Metadata>,
        deadline: Option<Instant>,
    ) -> mpsc::Receiver<Streamed> {
        let timeout = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let (replies, receiver) = mpsc::channel(AHEAD_MAX);
        let shared = Arc::clone(&self.shared);
        let method = Arc::clone(method);
        self.shared.tasks.spawn(async move {
            let sink = Sink { replies: Some(replies), deadline, origin: Arc::clone(&method) };
            let source = shared.open(&method, input, metadata, timeout);
            let end = Arc::clone(&shared).pump(&method, source, &sink, &Way::default()).await;
            sink.end(end).await;
        });
        receiver
    }

    /// Tells log and developer of things that the user function did wrong.
    pub fn report_all(&self, reports: Vec<String>) {
        for report in reports {
            self.shared.reporter.report(report);
        }
    }

    /// Ends the streamed calls that there are with UNAVAILABLE: they might go on for ever.
    pub fn end_streams(&self) {
        self.shared.ended.send_modify(|times| *times += 1);
    }

    /// Waits for what is still to be carried out, for as long as `limit`; gives whether all was.
    pub async fn stop(&self, limit: Duration) -> bool {
        self.end_streams();
        self.shared.tasks.close();
        time::timeout(limit, self.shared.tasks.wait()).await.is_ok()
    }

    async fn finish(&self, method: &Arc<Method>, answer: Answer) -> Outcome {
        if !answer.is_to_be_carried_out() {
            return self.shared.conclude(Some(method), answer.then);
        }
        let shared = Arc::clone(&self.shared);
        let settled = shared.settle(Some(Arc::clone(method)), method.full_name(), answer);
        let task = self.shared.tasks.spawn(settled);
        let broke =
            |_panic| Failure::new(FailureKind::Internal, "the command could not be finished");
        task.await.unwrap_or_else(|panic| Err(broke(panic)))
    }
}

/// What comes in until `last`, and what is there then.
fn until<T>(receiver: mpsc::Receiver<T>, last: CancellationToken) -> impl Stream<Item = T> {
    stream::unfold((receiver, last), |(mut receiver, last)| async move {
        if let Some(next) = last.run_until_cancelled(receiver.recv()).await {
            return Some((next?, (receiver, last)));
        }
        receiver.close();
        Some((receiver.recv().await?, (receiver, last)))
    })
}

impl Shared {
    /// Asks whoever carries out `method`, which must give one reply.
    async fn ask(
        &self,
        method: &Arc<Method>,
        payload: Bytes,
        metadata: Option<Metadata>,
        timeout: Option<Duration>,
    ) -> Answer {
        match method.target {
            Target::Entity(_) => self.entities.call(method, payload, metadata).await,
            Target::Action(Shape::Unary) => {
                self.actions.unary(method, payload, metadata, timeout).await
            }
            Target::Action(shape) => {
                let input = Input::One(payload);
                let answers = self.actions.call(method, shape, input, metadata, timeout);
                answers.single().await.unwrap_or_else(Answer::from)
            }
        }
    }

    fn open(
        &self,
        method: &Arc<Method>,
        input: Input,
        metadata: Option<Metadata>,
        timeout: Option<Duration>,
    ) -> Source {
        match (&method.target, input) {
            (Target::Action(shape), input) => Source::Action(Box::new(
                self.actions.call(method, *shape, input, metadata, timeout),
            )),
            (Target::Entity(_), Input::One(payload)) => {
                let (entities, method) = (self.entities.clone(), Arc::clone(method));
                let call = async move { entities.call(&method, payload, metadata).await };
                Source::Entity(call.boxed())
            }
            (Target::Entity(_), Input::Many(_)) => {
                let text = "an entity takes one message";
                let failure = Failure::new(FailureKind::Internal, text);
                Source::Entity(std::future::ready(failure.into()).boxed())
            }
        }
    }

    /// What the caller of `origin` gets.
    fn conclude(&self, origin: Option<&Arc<Method>>, then: Then) -> Outcome {
        match then {
            Then::Reply(reply) => {
                if let Some(origin) = origin {
                    self.check_type(origin, &reply);
                }
                Ok(reply)
            }
            Then::Fail(failure) => Err(failure),
            Then::Nothing | Then::Forward(_) => {
                Err(Failure::new(FailureKind::Internal, "the user function sent no reply"))
            }
        }
    }

    fn check_type(&self, origin: &Method, reply: &Reply) {
        if reply.type_url != origin.output_type_url {
            self.reporter.report(format!(
                "Warning: {} replied with {:?} where its output is {:?}",
                origin.full_name(),
                reply.type_url,
                origin.output_type_url
            ));
        }
    }
}

fn late() -> Failure {
    Failure::new(FailureKind::DeadlineExceeded, "no reply in time")
}
