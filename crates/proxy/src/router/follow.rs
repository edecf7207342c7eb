//! What follows from an answer: side effects in their order, then the forward, and so on from there.

use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use protocol::{
    Any,
    cloudstate::{Forward, SideEffect},
};
use tokio::time;
use tracing::info;

use super::{
    Shared, late,
    sink::Sink,
    source::Source,
    way::{How, Way},
};
use crate::{
    action::Input,
    entity::{Answer, Failure, FailureKind, Outcome, Then},
    route::{Method, Shape, Target},
};

/// Steps by which a command may lead to others; more of them is a loop.
const STEPS_MAX: usize = 64;

impl Shared {
    /// Does what an answer asks for, until there is an outcome. `from` said it.
    pub(super) fn settle(
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
    pub(super) fn pump<'a>(
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
}

fn streams_replies(method: &Method) -> bool {
    matches!(method.target, Target::Action(Shape::ServerStreaming | Shape::Streaming))
}

/// The type that comes with a payload is not looked at: the target decides what it reads.
fn value(payload: Option<Any>) -> Bytes {
    payload.unwrap_or_default().value
}

fn closing() -> Failure {
    Failure::new(FailureKind::Unavailable, "the proxy is about to leave")
}
