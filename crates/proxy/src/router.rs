//! Brings a command to whoever carries it out, and carries out what the answer asks for: side effects
//! in their order, then the forward (`docs/protocol.md`, "Effects and forwards").
//!
//! What an answer asks for follows from something durable, so it is done even when the caller has left:
//! it runs in a task of its own, which [`Router::stop`] waits for.

mod way;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};
use protocol::{
    Any,
    cloudstate::{Forward, Metadata, SideEffect},
};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::{self, Instant},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::Code;
use tracing::info;

use crate::{
    action::{Actions, Answers, Input},
    entity::{Answer, Entities, Failure, FailureKind, Orphan, Outcome, Reply, Then},
    report::Reporter,
    route::{Method, Routes, Shape, Target},
};
use way::{How, Way};

/// Steps by which a command may lead to others; more of them is a loop.
const STEPS_MAX: usize = 64;
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

/// What a streamed call gives: replies, then how it ended.
#[derive(Debug)]
pub enum Streamed {
    /// One more message.
    Reply(Reply),
    /// There are no more.
    End(Result<(), Failure>),
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

    /// Carries out what is left of commands whose callers have gone, until no entity can leave
    /// any more.
    pub fn adopt(&self, orphans: mpsc::Receiver<Orphan>) {
        let shared = Arc::downgrade(&self.shared);
        let adopted =
            ReceiverStream::new(orphans).for_each_concurrent(ORPHANS_MAX, move |orphan| {
                let shared = shared.upgrade();
                async move {
                    let Some(shared) = shared else { return };
                    let Orphan { service, answer } = orphan;
                    let settled = Arc::clone(&shared).settle(None, service.name.clone(), answer);
                    // Nobody waits for the outcome.
                    drop(shared.tasks.spawn(settled).await);
                }
            });
        tokio::spawn(adopted);
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

/// Where the replies of a streamed call go.
struct Sink {
    /// None when nobody wants them.
    replies: Option<mpsc::Sender<Streamed>>,
    /// The caller's.
    deadline: Option<Instant>,
    origin: Arc<Method>,
}

impl Sink {
    /// Resolves when nobody waits for replies any more: the caller has left, or its time is over.
    async fn closed(&self) -> Failure {
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

    async fn put(&self, reply: Reply) -> Result<(), Failure> {
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

    async fn end(&self, end: Result<(), Failure>) {
        if let Some(replies) = &self.replies {
            // A caller that has left needs no end.
            drop(replies.send(Streamed::End(end)).await);
        }
    }
}

/// Where answers come from.
enum Source {
    Entity(BoxFuture<'static, Answer>),
    Action(Box<Answers>),
    Ended,
}

impl Source {
    async fn next(&mut self) -> Result<Option<Answer>, Failure> {
        match self {
            Self::Action(answers) => answers.next().await,
            Self::Entity(answer) => {
                let answer = answer.await;
                *self = Self::Ended;
                Ok(Some(answer))
            }
            Self::Ended => Ok(None),
        }
    }
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

    /// Does what an answer asks for, until there is an outcome. `from` said it.
    fn settle(
        self: Arc<Self>,
        origin: Option<Arc<Method>>,
        from: String,
        answer: Answer,
    ) -> BoxFuture<'static, Outcome> {
        self.settle_on(origin, from, answer, Way::default())
    }

    fn settle_on(
        self: Arc<Self>,
        origin: Option<Arc<Method>>,
        mut from: String,
        mut answer: Answer,
        mut way: Way,
    ) -> BoxFuture<'static, Outcome> {
        async move {
            loop {
                Arc::clone(&self).effects(&from, answer.effects, &way).await;
                let forward = match answer.then {
                    Then::Forward(forward) => forward,
                    then => return self.conclude(origin.as_ref(), then),
                };
                let Forward { service_name, command_name, payload, metadata } = forward;
                way = way.and(How::Forwarded, &from);
                let target = self.target(&service_name, &command_name, &way)?;
                if streams_replies(&target) {
                    return Err(self.refuse_forward(&target, &way));
                }
                from = target.full_name();
                let ask = self.ask(&target, value(payload), metadata, None);
                answer = match time::timeout(self.limit, ask).await {
                    Ok(answer) => answer,
                    Err(_elapsed) => late().into(),
                };
            }
        }
        .boxed()
    }

    /// Passes on what a call gives, doing for each answer what it asks for before the next is
    /// looked at.
    fn pump<'a>(
        self: Arc<Self>,
        method: &'a Arc<Method>,
        mut source: Source,
        sink: &'a Sink,
        way: &'a Way,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        let mut ended = self.ended.subscribe();
        async move {
            let from = method.full_name();
            loop {
                let answer = tokio::select! {
                    biased;
                    closed = sink.closed() => return Err(closed),
                    _ = ended.changed() => return Err(closing()),
                    answer = source.next() => answer?,
                };
                let Some(answer) = answer else { return Ok(()) };
                Arc::clone(&self).effects(&from, answer.effects, way).await;
                match answer.then {
                    Then::Reply(reply) => {
                        self.check_type(&sink.origin, &reply);
                        sink.put(reply).await?;
                    }
                    Then::Fail(failure) => return Err(failure),
                    Then::Nothing => {}
                    Then::Forward(forward) => {
                        let Forward { service_name, command_name, payload, metadata } = forward;
                        let way = way.and(How::Forwarded, &from);
                        let target = self.target(&service_name, &command_name, &way)?;
                        let input = Input::One(value(payload));
                        let source = self.open(&target, input, metadata, None);
                        Arc::clone(&self).pump(&target, source, sink, &way).await?;
                    }
                }
            }
        }
        .boxed()
    }

    /// Carries out side effects one after the other, and waits for those that are synchronous.
    async fn effects(self: Arc<Self>, from: &str, effects: Vec<SideEffect>, way: &Way) {
        for effect in effects {
            let way = way.and(How::SideEffect, from);
            let synchronous = effect.synchronous;
            let mut running = Arc::clone(&self).effect(effect, way);
            if synchronous {
                running.await;
                continue;
            }
            match Arc::clone(&self.background).try_acquire_owned() {
                Ok(place) => {
                    // Begun here, so that effects reach their targets in the order of the list.
                    if futures::poll!(&mut running).is_pending() {
                        self.tasks.spawn(running.map(move |()| drop(place)));
                    }
                }
                Err(_full) => running.await,
            }
        }
    }

    /// Carries out one side effect. Its outcome concerns nobody but the log and the developer.
    fn effect(self: Arc<Self>, effect: SideEffect, way: Way) -> BoxFuture<'static, ()> {
        let SideEffect { service_name, command_name, payload, metadata, .. } = effect;
        async move {
            let Ok(target) = self.target(&service_name, &command_name, &way) else { return };
            let payload = value(payload);
            let limit = self.limit;
            let outcome = if streams_replies(&target) {
                let sink = Sink { replies: None, deadline: None, origin: Arc::clone(&target) };
                let source = self.open(&target, Input::One(payload), metadata, Some(limit));
                let pump = Arc::clone(&self).pump(&target, source, &sink, &way);
                time::timeout(limit, pump).await.unwrap_or_else(|_elapsed| Err(late()))
            } else {
                let ask = self.ask(&target, payload, metadata, Some(limit));
                let answer = time::timeout(limit, ask).await;
                let answer = answer.unwrap_or_else(|_elapsed| late().into());
                let from = target.full_name();
                let settled = Arc::clone(&self).settle_on(Some(target), from, answer, way.clone());
                settled.await.map(drop)
            };
            if let Err(failure) = outcome {
                self.effect_failed(&service_name, &command_name, &way, &failure);
            }
        }
        .boxed()
    }

    fn effect_failed(&self, service: &str, command: &str, way: &Way, failure: &Failure) {
        match failure.kind {
            // The user function's own answer, or what has been reported where it happened.
            FailureKind::Failed | FailureKind::Internal => {
                info!(service, command, error = failure.message, "a side effect failed");
            }
            _ => self.reporter.report(format!(
                "Warning: {service}.{command}, {way}, failed: {}",
                failure.message
            )),
        }
    }

    /// The method that an effect or a forward names.
    fn target(&self, service: &str, command: &str, way: &Way) -> Result<Arc<Method>, Failure> {
        if way.len() > STEPS_MAX {
            self.reporter.report(format!(
                "{service}.{command} is not carried out after {STEPS_MAX} steps, which is the limit: {way}"
            ));
            let text = "the user function passes the command on without an end";
            return Err(Failure::new(FailureKind::Internal, text));
        }
        let found = self.routes.find(&format!("/{service}/{command}"));
        found.cloned().ok_or_else(|| {
            self.reporter.report(format!(
                "{service}.{command} is not a method of this user function, which serves {}: {way}",
                self.routes.services().join(", ")
            ));
            let text = "the user function passes the command on to a method that it does not have";
            Failure::new(FailureKind::Internal, text)
        })
    }

    fn refuse_forward(&self, target: &Method, way: &Way) -> Failure {
        self.reporter.report(format!(
            "{} streams its replies where one is expected: {way}",
            target.full_name()
        ));
        let text = "the user function passes the command on to a method that streams its replies";
        Failure::new(FailureKind::Internal, text)
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

fn streams_replies(method: &Method) -> bool {
    matches!(method.target, Target::Action(Shape::ServerStreaming | Shape::Streaming))
}

/// The type that comes with a payload is not looked at: the target decides what it reads.
fn value(payload: Option<Any>) -> Bytes {
    payload.unwrap_or_default().value
}

fn late() -> Failure {
    Failure::new(FailureKind::DeadlineExceeded, "no reply in time")
}

fn closing() -> Failure {
    Failure::new(FailureKind::Unavailable, "the proxy is about to leave")
}
