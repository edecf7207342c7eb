//! Carries out what an entity's state machine says: the only place where an entity waits.

use std::{collections::VecDeque, pin::Pin, sync::Arc, time::Duration};

use futures::{
    FutureExt as _, StreamExt as _,
    channel::mpsc,
    future::{self, BoxFuture},
};
use http::uri::PathAndQuery;
use protocol::cloudstate::{Metadata, metadata_entry};
use tokio::{
    sync::oneshot,
    time::{self, Instant, Sleep},
};
use tonic::{Status, Streaming, client::Grpc};
use tracing::{debug, info, warn};

use super::{
    Answer,
    context::Context,
    history::History,
    large::{Large, Room},
    machine::{Action, Event, Glance, Machine, Request, StreamEnd, Ticket, Timer},
    message::{Incoming, Outgoing, Write},
    meter::Meter,
    outbound::{self, Outbound},
    room::Leaving,
    turn::Turn,
    wire::{Address, Wire},
};
use crate::{
    budget::Taken,
    journal::{Append, EntityId, Guard, Put, Sequence, Version, Written},
    route::Service,
    shown, user_function,
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
    /// Somebody wants to know how the entity is.
    Look(oneshot::Sender<View>),
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
    /// Its place among those whose history is read.
    turn: Turn,
    history: History,
    /// The state that was read, if it is large.
    large: Large,
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
    /// When something happened last.
    busy: Instant,
    /// The command that is, or was last, with the user function, for the log.
    command: Option<CommandName>,
    meter: Option<Meter>,
}

/// How an open entity is at one moment.
#[derive(Clone, Debug)]
pub struct View {
    /// Full name of its service.
    pub service: String,
    /// What it is called.
    pub id: EntityId,
    /// How long nothing has happened to it.
    pub idle: Duration,
    /// What its state machine says of itself.
    pub machine: Glance,
}

/// Logs something about an entity and the command that is, or was last, with the user function.
macro_rules! tell {
    ($level:ident, $driver:expr, $($rest:tt)+) => {{
        let command = $driver.command.as_ref();
        $level!(
            entity.kind = %$driver.id.persistence_id,
            entity.key = %shown::key(&$driver.id.key),
            command.id = command.map(|command| command.id),
            trace = command.and_then(|command| command.trace.as_deref()),
            $($rest)+
        );
    }};
}

/// What the log calls a command.
#[derive(Debug)]
struct CommandName {
    /// Its number within the activation.
    id: i64,
    /// The caller's trace, when it sent one.
    trace: Option<String>,
}

/// The `traceparent` of W3C that came with a command.
pub(super) fn trace(metadata: Option<&Metadata>) -> Option<String> {
    let entry = metadata?.entries.iter().find(|entry| entry.key == "traceparent")?;
    match entry.value.as_ref()? {
        metadata_entry::Value::StringValue(trace) => Some(trace.clone()),
        metadata_entry::Value::BytesValue(_) => None,
    }
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
            busy: Instant::now(),
            command: None,
            meter: context.metrics.entity(&service).map(Meter::new),
            machine: Machine::new(Arc::clone(&service), Arc::clone(&id), in_flight),
            context,
            service,
            id,
            guard,
            inbox,
            callers: VecDeque::new(),
            turn: Turn::None,
            history: History::None,
            large: Large::None,
            outbound: None,
            opening: false,
            inbound: UserStream::None,
            writes: VecDeque::new(),
            timer: Deadline::default(),
            leaving: None,
            _room: room,
        }
    }

    /// Runs until the machine has nothing left to do and `forget` agrees that nothing new came in; `more` takes
    /// room for a large state.
    pub(super) async fn run(
        mut self,
        forget: impl Fn(&EntityId) -> bool + Send,
        more: impl Fn(usize) -> Room + Send + Sync,
    ) {
        let mut ended = false;
        loop {
            // Again behind one who has only looked, and so was in the way of the first time.
            if ended && forget(&self.id) {
                return;
            }
            let Some(event) = self.next(&more).await else { continue };
            let now = Instant::now();
            self.busy = now;
            match &event {
                Event::StreamEnded(_, why) => {
                    tell!(info, self, error = why, "stream to the user function ended");
                }
                Event::LoadFailed(why) => tell!(warn, self, error = why, "history not read"),
                Event::TimedOut => self.tell_of_timeout(),
                Event::Written(Written::Committed) => {}
                Event::Written(outcome) => tell!(warn, self, ?outcome, "write failed"),
                _ => {}
            }
            let cause = self.meter.as_mut().map(|meter| meter.happens(&event, now));
            let actions = self.machine.on(event);
            if let (Some(meter), Some(cause)) = (&mut self.meter, cause) {
                meter.follows(cause, &actions, now);
            }
            ended = false;
            for action in actions {
                ended |= action == Action::End;
                self.perform(action);
            }
            if self.outbound.is_some() {
                // It goes on, or begins anew.
                self.leaving = None;
            }
        }
    }

    /// Logs an activation that is not over in time, and who keeps it waiting.
    fn tell_of_timeout(&self) {
        let Glance { phase, queued, sequence, .. } = self.machine.glance();
        let is_read = !matches!(self.history, History::None);
        let waits_for = match &self.outbound {
            _ if self.large.waits() => "memory for its state",
            _ if !is_read && !self.opening => return,
            Some(outbound) if !outbound.has_room() || self.opening => "the user function",
            _ => "the store",
        };
        let (limit, at) = (self.context.limits.activation, sequence.0);
        tell!(warn, self, phase, waits_for, ?limit, queued, at, "not activated in time");
    }

    /// The next thing that happens; none when the machine need not know.
    async fn next(&mut self, more: &(impl Fn(usize) -> Room + Sync)) -> Option<Event> {
        Some(tokio::select! {
            biased;
            outcome = first(&mut self.writes) => Event::Written(outcome),
            event = self.inbound.next() => {
                self.large.is_with_the_user_function();
                event
            }
            () = taken(self.outbound.as_ref()), if self.opening => {
                self.opening = false;
                Event::Opened
            }
            () = self.turn.called() => {
                let kind = self.service.kind;
                self.history = History::load(&self.context.journal, kind, &self.id);
                Event::LoadBegins
            }
            state = self.large.counted() => {
                self.turn.has_begun();
                state
            }
            event = replay(&mut self.history, self.outbound.as_ref()), if !self.large.waits() => {
                if let Some(bytes) = Large::size(&event) {
                    self.large.wait(event, more(bytes));
                    return None;
                }
                self.turn.has_begun();
                self.opening = matches!(event, Event::LoadEnded);
                if matches!(event, Event::LoadEnded | Event::LoadFailed(_)) {
                    self.turn = Turn::None;
                }
                event
            }
            Some(inbound) = self.inbox.next() => return self.take(inbound),
            () = self.timer.elapsed() => Event::TimedOut,
        })
    }

    fn take(&mut self, inbound: Inbound) -> Option<Event> {
        Some(match inbound {
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
            Inbound::Look(asker) => {
                // Whoever asked may not want to know any more.
                drop(asker.send(self.view()));
                return None;
            }
        })
    }

    fn view(&self) -> View {
        View {
            service: self.service.name.clone(),
            id: EntityId::clone(&self.id),
            idle: self.busy.elapsed(),
            machine: self.machine.glance(),
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Load => {
                self.history = History::None;
                self.large = Large::None;
                self.turn = self.context.turns.line_up();
            }
            Action::Open => self.open(),
            Action::Send(message) => {
                if let Outgoing::Command { id, name, metadata, .. } = &message {
                    self.command = Some(CommandName { id: *id, trace: trace(metadata.as_ref()) });
                    tell!(debug, self, name, "command sent");
                }
                if let Some(outbound) = &self.outbound {
                    outbound.push(message);
                }
            }
            Action::Write { expected, write } => self.write(expected, write),
            Action::Release(ticket, answer) => self.release(ticket, answer),
            Action::HalfClose => self.stop_speaking(),
            Action::Abort => {
                self.stop_speaking();
                self.inbound = UserStream::None;
            }
            Action::Arm(timer) => self.arm(timer),
            Action::Disarm => self.timer = Deadline::default(),
            Action::Report(what) => {
                tell!(warn, self, what, "the user function broke the protocol");
                self.context.reporter.hand_on(what);
            }
            Action::End => tell!(debug, self, "passive"),
        }
    }

    /// Ends the reading of the history and our side of the stream, as far as they are there.
    fn stop_speaking(&mut self) {
        self.turn = Turn::None;
        self.history = History::None;
        self.large = Large::None;
        self.opening = false;
        self.outbound = None;
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
    fn arm(&mut self, after: Duration) {
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
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::{
        budget::{self, Budget},
        entity::{caller::Handle, context},
        journal::{Epoch, Shard},
        route::Kind,
    };

    #[tokio::test]
    async fn one_who_only_looks_does_not_keep_an_entity_that_has_ended() {
        let budget = Budget::new(budget::DEFAULT);
        let (name, persistence_id) = ("Cart".to_owned(), "carts".to_owned());
        let id = EntityId { persistence_id: persistence_id.clone(), key: "7".to_owned() };
        let kind = Kind::EventSourced;
        let service = Service { name, kind, persistence_id, passivation_timeout: None };
        let (handle, inbox) = Handle::new(1);
        let guard = Guard { shard: Shard::WHOLE, epoch: Epoch(1) };
        let driver = Driver::new(
            Arc::new(context::alone(&budget).0),
            Arc::new(service),
            Arc::new(id),
            inbox,
            guard,
            budget.entities().try_take(1).unwrap(),
        );
        handle.tell(Inbound::CallerLeft(1));
        let has_looked = AtomicBool::new(false);
        // Somebody looks at the moment at which the entity would be forgotten.
        let forget = |_id: &EntityId| {
            if has_looked.swap(true, Ordering::SeqCst) {
                return true;
            }
            handle.tell(Inbound::Look(oneshot::channel().0));
            false
        };
        let ended = time::timeout(
            Duration::from_mins(1),
            driver.run(forget, |_bytes| future::pending().boxed()),
        )
        .await;
        assert!(ended.is_ok(), "the entity stays, and so does the room that it takes");
        assert_eq!(budget.entities().used(), 0);
    }

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
