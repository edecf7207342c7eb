//! Carries out what an entity's state machine says: the only place where an entity waits.

use std::{collections::VecDeque, pin::Pin, sync::Arc};

use futures::{
    FutureExt as _, StreamExt as _,
    channel::mpsc,
    future::{self, BoxFuture},
};
use http::uri::PathAndQuery;
use tokio::{
    sync::oneshot,
    time::{self, Instant, Sleep},
};
use tonic::{Status, Streaming, client::Grpc};
use tracing::{debug, info};

use super::{
    Answer,
    context::Context,
    history::History,
    machine::{Action, Event, Machine, Request, StreamEnd, Ticket, Timer},
    message::{Incoming, Write},
    meter::Meter,
    outbound::{self, Outbound},
    room::Leaving,
    wire::{Address, Wire},
};
use crate::{
    budget::Taken,
    journal::{Append, EntityId, Guard, Put, Sequence, Version, Written},
    route::Service,
    user_function,
};

/// What reaches an entity from outside.
#[derive(Debug)]
pub(super) enum Inbound {
    /// A command, and where its answer goes.
    Command(Request, oneshot::Sender<Answer>),
    /// The caller has gone.
    CallerLeft(Ticket),
    /// End the activation if nothing is under way.
    Passivate(Leaving),
    /// Finish what waits, then end.
    Stop,
}

/// One entity at work.
pub(super) struct Driver {
    context: Arc<Context>,
    service: Arc<Service>,
    id: Arc<EntityId>,
    guard: Guard,
    machine: Machine,
    inbox: mpsc::UnboundedReceiver<Inbound>,
    /// Those who wait for an answer, nearly in the order in which they will get it.
    callers: VecDeque<(Ticket, oneshot::Sender<Answer>)>,
    history: History,
    /// Our side of the stream.
    outbound: Option<Outbound>,
    /// Whether the machine waits for the stream to be open.
    opening: bool,
    inbound: UserStream,
    /// Outcomes of writes, in order.
    writes: VecDeque<BoxFuture<'static, Written>>,
    timer: Deadline,
    /// Held while the entity makes room for another.
    leaving: Option<Leaving>,
    _room: Taken,
    meter: Option<Meter>,
}

/// The user function's side of the stream.
#[derive(Default)]
enum UserStream {
    #[default]
    None,
    Opening(BoxFuture<'static, Result<Streaming<Incoming>, Status>>),
    Open(Box<Streaming<Incoming>>),
}

impl Driver {
    pub(super) fn new(
        context: Arc<Context>,
        service: Arc<Service>,
        id: Arc<EntityId>,
        inbox: mpsc::UnboundedReceiver<Inbound>,
        guard: Guard,
        room: Taken,
    ) -> Self {
        let in_flight = context.limits.in_flight;
        Self {
            meter: context.metrics.entity(&service).map(Meter::new),
            machine: Machine::new(Arc::clone(&service), Arc::clone(&id), in_flight),
            context,
            service,
            id,
            guard,
            inbox,
            callers: VecDeque::new(),
            history: History::None,
            outbound: None,
            opening: false,
            inbound: UserStream::None,
            writes: VecDeque::new(),
            timer: Deadline::default(),
            leaving: None,
            _room: room,
        }
    }

    /// Runs until the machine has nothing left to do and `forget` agrees that nothing new came in.
    pub(super) async fn run(mut self, forget: impl Fn(&EntityId) -> bool + Send) {
        loop {
            let event = self.next().await;
            let now = Instant::now();
            let cause = self.meter.as_mut().map(|meter| meter.happens(&event, now));
            let actions = self.machine.on(event);
            if let (Some(meter), Some(cause)) = (&mut self.meter, cause) {
                meter.follows(cause, &actions, now);
            }
            let mut ended = false;
            for action in actions {
                ended |= action == Action::End;
                self.perform(action);
            }
            if ended && forget(&self.id) {
                return;
            }
            if self.outbound.is_some() {
                // It goes on, or begins anew.
                self.leaving = None;
            }
        }
    }

    /// The next thing that happens.
    async fn next(&mut self) -> Event {
        tokio::select! {
            biased;
            outcome = first(&mut self.writes) => Event::Written(outcome),
            event = self.inbound.next() => event,
            () = taken(self.outbound.as_ref()), if self.opening => {
                self.opening = false;
                Event::Opened
            }
            event = replay(&mut self.history, self.outbound.as_ref()) => {
                self.opening = matches!(event, Event::LoadEnded);
                event
            }
            Some(inbound) = self.inbox.next() => self.take(inbound),
            () = self.timer.elapsed() => Event::TimedOut,
        }
    }

    fn take(&mut self, inbound: Inbound) -> Event {
        match inbound {
            Inbound::Command(request, answer) => {
                self.callers.push_back((request.ticket, answer));
                Event::Arrived(request)
            }
            Inbound::CallerLeft(ticket) => {
                self.caller(ticket);
                Event::CallerLeft(ticket)
            }
            Inbound::Passivate(leaving) => {
                self.leaving = Some(leaving);
                Event::Passivate
            }
            Inbound::Stop => Event::Stop,
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Load => {
                let kind = self.service.kind;
                self.history = History::load(&self.context.journal, kind, &self.id);
            }
            Action::Open => self.open(),
            Action::Send(message) => {
                if let Some(outbound) = &self.outbound {
                    outbound.push(message);
                }
            }
            Action::Write { expected, write } => self.write(expected, write),
            Action::Release(ticket, answer) => self.release(ticket, answer),
            Action::HalfClose => {
                self.history = History::None;
                self.opening = false;
                self.outbound = None;
            }
            Action::Abort => {
                self.history = History::None;
                self.opening = false;
                self.outbound = None;
                self.inbound = UserStream::None;
            }
            Action::Arm(timer) => self.arm(timer),
            Action::Disarm => self.timer = Deadline::default(),
            Action::Report(what) => self.context.reporter.report(what),
            Action::End => {
                debug!(entity.kind = %self.id.persistence_id, entity.key = %self.id.key, "passive");
            }
        }
    }

    /// Hands an answer to its caller, or to whoever carries out what callers that left began.
    fn release(&mut self, ticket: Ticket, answer: Answer) {
        let unheard = match self.caller(ticket) {
            Some(caller) => caller.send(answer).err(),
            None => Some(answer),
        };
        if let Some(answer) = unheard {
            self.context.adopt(&self.service, answer);
        }
    }

    fn caller(&mut self, ticket: Ticket) -> Option<oneshot::Sender<Answer>> {
        let at = self.callers.iter().position(|(waiting, _)| *waiting == ticket)?;
        let caller = self.callers.remove(at).map(|(_, caller)| caller);
        if self.callers.is_empty() {
            // A burst must not keep its room for as long as the entity is open.
            self.callers = VecDeque::new();
        }
        caller
    }

    fn open(&mut self) {
        let address = Address::new(Arc::clone(&self.service), Arc::clone(&self.id));
        let path = PathAndQuery::from_static(address.path());
        let (outbound, messages) = outbound::stream();
        self.outbound = Some(outbound);
        let mut client = Grpc::new(self.context.user_function.channel())
            .max_decoding_message_size(self.context.user_function.message_size_max());
        let opening = async move {
            let unavailable = |error| Status::from_error(Box::new(error));
            client.ready().await.map_err(unavailable)?;
            let request = tonic::Request::new(messages);
            Ok(client.streaming(request, path, Wire(address)).await?.into_inner())
        };
        self.inbound = UserStream::Opening(opening.boxed());
    }

    fn write(&mut self, expected: Sequence, write: Write) {
        let (writes, guard) = (&self.context.writes, self.guard);
        let entity = EntityId::clone(&self.id);
        let written = match write {
            Write::Events(events, snapshot) => {
                writes.append(Append { entity, guard, expected, events, snapshot }).boxed()
            }
            Write::Value(value) => {
                let expected = Version(expected.0);
                writes.put(Put { entity, guard, expected, next: expected.next(), value }).boxed()
            }
        };
        self.writes.push_back(written);
    }

    fn arm(&mut self, timer: Timer) {
        let limits = &self.context.limits;
        self.timer.arm(match timer {
            Timer::Idle => self.service.passivation_timeout.unwrap_or(limits.passivation),
            Timer::Activation => limits.activation,
            Timer::Command => limits.command,
            Timer::Close => limits.close,
        });
    }
}

/// The outcome of the oldest write; for ever silent when there is none.
///
/// # Cancel safety
/// Nothing is lost when the future is dropped.
async fn first(writes: &mut VecDeque<BoxFuture<'static, Written>>) -> Written {
    let Some(oldest) = writes.front_mut() else { return future::pending().await };
    let outcome = oldest.await;
    writes.pop_front();
    outcome
}

/// The next piece of history, once the user function has taken most of what it was given: the rest
/// waits in the store rather than here.
async fn replay(history: &mut History, outbound: Option<&Outbound>) -> Event {
    if matches!(history, History::None) {
        return future::pending().await;
    }
    if let Some(outbound) = outbound {
        outbound.room().await;
    }
    history.next().await
}

async fn taken(outbound: Option<&Outbound>) {
    match outbound {
        Some(outbound) => outbound.taken().await,
        None => future::pending().await,
    }
}

impl UserStream {
    /// The next thing that the user function says; for ever silent without a stream.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    async fn next(&mut self) -> Event {
        loop {
            let ended = match self {
                Self::None => future::pending().await,
                Self::Opening(opening) => match opening.await {
                    Ok(stream) => {
                        *self = Self::Open(Box::new(stream));
                        continue;
                    }
                    Err(status) => Err(status),
                },
                Self::Open(stream) => match stream.message().await {
                    Ok(Some(message)) => return Event::Message(message),
                    Ok(None) => Ok(()),
                    Err(status) => Err(status),
                },
            };
            *self = Self::None;
            return match ended {
                Ok(()) => {
                    let why = "the user function ended the stream";
                    Event::StreamEnded(StreamEnd::Ended, why.to_owned())
                }
                Err(status) => stream_end(&status),
            };
        }
    }
}

fn stream_end(status: &Status) -> Event {
    let why = user_function::explain(status);
    info!(error = why, "stream to the user function ended");
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return Event::StreamEnded(StreamEnd::NeverReached, why);
        }
        cause = error.source();
    }
    Event::StreamEnded(StreamEnd::Ended, why)
}

/// A timer that is armed with every command and seldom runs out: it lets the sleep that it has go on
/// as long as that one does not end too late.
#[derive(Debug, Default)]
struct Deadline {
    at: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    fn arm(&mut self, after: std::time::Duration) {
        let at = Instant::now() + after;
        self.at = Some(at);
        match &mut self.sleep {
            Some(sleep) if sleep.deadline() <= at => {}
            Some(sleep) => sleep.as_mut().reset(at),
            None => self.sleep = Some(Box::pin(time::sleep_until(at))),
        }
    }

    /// Waits until the armed time; for ever when there is none.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    async fn elapsed(&mut self) {
        loop {
            let (Some(at), Some(sleep)) = (self.at, &mut self.sleep) else {
                return future::pending().await;
            };
            sleep.as_mut().await;
            if at <= Instant::now() {
                *self = Self::default();
                return;
            }
            sleep.as_mut().reset(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_deadline_runs_out_when_it_was_armed_last() {
        let start = Instant::now();
        let mut deadline = Deadline::default();
        deadline.arm(Duration::from_hours(1));
        deadline.arm(Duration::from_millis(10));
        deadline.arm(Duration::from_millis(30));
        deadline.elapsed().await;
        assert!(start.elapsed() >= Duration::from_millis(30));
        assert!(deadline.elapsed().now_or_never().is_none());
    }
}
