//! Carries out what an entity's state machine says: the only place where an entity waits.

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    sync::Arc,
};

use api::Chain;
use futures::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{BoxStream, FuturesOrdered},
};
use protocol::cloudstate::eventsourced::{
    EventSourcedStreamIn, EventSourcedStreamOut, event_sourced_client::EventSourcedClient,
    event_sourced_stream_in as stream_in,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{self, Instant, Sleep},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tracing::{debug, info};

use super::{
    Answer,
    event_sourced::{Action, Event, EventSourced, Request, StreamEnd, Ticket, Timer},
    registry::Context,
};
use crate::{
    journal::{self, Append, EntityId, Guard, Loaded, Written},
    route::Service,
    user_function,
};

/// Messages that may wait for the user function's flow control; more wait in the journal.
const OUTBOUND: usize = 16;

/// What reaches an entity from outside.
#[derive(Debug)]
pub(super) enum Inbound {
    /// A command, and where its answer goes.
    Command(Request, oneshot::Sender<Answer>),
    /// The caller has gone.
    CallerLeft(Ticket),
    /// Finish what waits, then end.
    Stop,
}

/// One entity at work.
pub(super) struct Driver {
    context: Arc<Context>,
    service: Arc<Service>,
    id: EntityId,
    machine: EventSourced,
    inbox: mpsc::UnboundedReceiver<Inbound>,
    guard: Guard,
    callers: HashMap<Ticket, oneshot::Sender<Answer>>,
    history: Option<BoxStream<'static, Result<Loaded, journal::Error>>>,
    outbound: Outbound,
    inbound: UserStream,
    appends: FuturesOrdered<BoxFuture<'static, Written>>,
    timer: Option<Pin<Box<Sleep>>>,
}

/// Our side of the stream.
#[derive(Default)]
struct Outbound {
    sender: Option<mpsc::Sender<EventSourcedStreamIn>>,
    waiting: VecDeque<EventSourcedStreamIn>,
    /// Whether our side ends once nothing waits.
    ending: bool,
}

/// The user function's side of the stream.
#[derive(Default)]
enum UserStream {
    #[default]
    None,
    Opening(BoxFuture<'static, Result<Streaming<EventSourcedStreamOut>, Status>>),
    Open(Box<Streaming<EventSourcedStreamOut>>),
}

impl Driver {
    pub(super) fn new(
        context: Arc<Context>,
        service: Arc<Service>,
        id: EntityId,
        inbox: mpsc::UnboundedReceiver<Inbound>,
        guard: Guard,
    ) -> Self {
        let in_flight = context.limits.in_flight;
        let machine =
            EventSourced::new(service.name.as_str().into(), id.key.as_str().into(), in_flight);
        Self {
            context,
            service,
            id,
            machine,
            inbox,
            guard,
            callers: HashMap::new(),
            history: None,
            outbound: Outbound::default(),
            inbound: UserStream::None,
            appends: FuturesOrdered::new(),
            timer: None,
        }
    }

    /// Runs until the machine has nothing left to do and `forget` agrees that nothing new came in.
    pub(super) async fn run(mut self, forget: impl Fn(&EntityId, &mut Inbox) -> bool + Send) {
        loop {
            self.outbound.flush();
            let event = tokio::select! {
                biased;
                Some(outcome) = self.appends.next(), if !self.appends.is_empty() => Event::Written(outcome),
                event = self.inbound.next() => event,
                permit = self.outbound.ready(), if !self.outbound.waiting.is_empty() => {
                    if !permit {
                        self.outbound = Outbound::default();
                    }
                    continue;
                }
                // Replay waits for the user function rather than holding the history here.
                event = next_loaded(&mut self.history), if self.outbound.waiting.is_empty() => event,
                Some(inbound) = self.inbox.recv() => self.take(inbound),
                () = elapsed(&mut self.timer) => { self.timer = None; Event::TimedOut }
            };
            let mut ended = false;
            for action in self.machine.on(event) {
                ended |= action == Action::End;
                self.perform(action);
            }
            if ended && forget(&self.id, &mut self.inbox) {
                return;
            }
        }
    }

    fn take(&mut self, inbound: Inbound) -> Event {
        match inbound {
            Inbound::Command(request, answer) => {
                self.callers.insert(request.ticket, answer);
                Event::Arrived(request)
            }
            Inbound::CallerLeft(ticket) => {
                self.callers.remove(&ticket);
                Event::CallerLeft(ticket)
            }
            Inbound::Stop => Event::Stop,
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Load => self.history = Some(self.context.journal.load(&self.id)),
            Action::Open => self.open(),
            Action::Send(message) => self.outbound.push(message),
            Action::Append { expected, events, snapshot } => {
                let append = Append {
                    entity: self.id.clone(),
                    guard: self.guard,
                    expected,
                    events,
                    snapshot,
                };
                self.appends.push_back(self.context.writes.append(append).boxed());
            }
            Action::Release(ticket, answer) => self.release(ticket, answer),
            Action::HalfClose => {
                self.history = None;
                self.outbound.ending = true;
            }
            Action::Abort => {
                self.history = None;
                self.outbound = Outbound::default();
                self.inbound = UserStream::None;
            }
            Action::Arm(timer) => self.arm(timer),
            Action::Disarm => self.timer = None,
            Action::Report(what) => self.context.reporter.report(what),
            Action::End => {
                debug!(entity.kind = %self.id.persistence_id, entity.key = %self.id.key, "passive");
            }
        }
    }

    /// Hands an answer to its caller, or to whoever carries out what callers that left began.
    fn release(&mut self, ticket: Ticket, answer: Answer) {
        let unheard = match self.callers.remove(&ticket) {
            Some(caller) => caller.send(answer).err(),
            None => Some(answer),
        };
        if let Some(answer) = unheard {
            self.context.adopt(&self.service, answer);
        }
    }

    fn open(&mut self) {
        let (sender, receiver) = mpsc::channel(OUTBOUND);
        self.outbound = Outbound { sender: Some(sender), ..Outbound::default() };
        let mut client = EventSourcedClient::new(self.context.user_function.channel())
            .max_decoding_message_size(self.context.user_function.message_size_max());
        self.inbound = UserStream::Opening(
            async move { Ok(client.handle(ReceiverStream::new(receiver)).await?.into_inner()) }
                .boxed(),
        );
    }

    fn arm(&mut self, timer: Timer) {
        let limits = &self.context.limits;
        let after = match timer {
            Timer::Idle => self.service.passivation_timeout.unwrap_or(limits.passivation),
            Timer::Activation => limits.activation,
            Timer::Command => limits.command,
            Timer::Close => limits.close,
        };
        match &mut self.timer {
            Some(sleep) => sleep.as_mut().reset(Instant::now() + after),
            None => self.timer = Some(Box::pin(time::sleep(after))),
        }
    }
}

pub(super) type Inbox = mpsc::UnboundedReceiver<Inbound>;

impl Outbound {
    fn push(&mut self, message: stream_in::Message) {
        self.waiting.push_back(EventSourcedStreamIn { message: Some(message) });
    }

    /// Hands on what the stream takes right now, and ends our side when that was wanted.
    fn flush(&mut self) {
        while let (Some(sender), Some(message)) = (&self.sender, self.waiting.pop_front()) {
            if let Err(mpsc::error::TrySendError::Full(message)) = sender.try_send(message) {
                self.waiting.push_front(message);
                return;
            }
        }
        if self.ending {
            self.sender = None;
        }
    }

    /// Waits until the stream takes another message; false when it never will.
    async fn ready(&self) -> bool {
        match &self.sender {
            Some(sender) => sender.reserve().await.is_ok(),
            None => false,
        }
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
                Self::None => std::future::pending().await,
                Self::Opening(opening) => match opening.await {
                    Ok(stream) => {
                        *self = Self::Open(Box::new(stream));
                        continue;
                    }
                    Err(status) => Err(status),
                },
                Self::Open(stream) => match stream.message().await {
                    Ok(Some(message)) => return Event::Message(message.message),
                    Ok(None) => Ok(()),
                    Err(status) => Err(status),
                },
            };
            *self = Self::None;
            return Event::StreamEnded(
                ended.map_or_else(|status| stream_end(&status), |()| StreamEnd::Ended),
            );
        }
    }
}

fn stream_end(status: &Status) -> StreamEnd {
    info!(error = user_function::explain(status), "stream to the user function ended");
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return StreamEnd::NeverReached;
        }
        cause = error.source();
    }
    StreamEnd::Ended
}

async fn next_loaded(
    history: &mut Option<BoxStream<'static, Result<Loaded, journal::Error>>>,
) -> Event {
    let Some(stream) = history else { return std::future::pending().await };
    match stream.next().await {
        Some(Ok(loaded)) => Event::Loaded(loaded),
        Some(Err(error)) => {
            *history = None;
            Event::LoadFailed(Chain(&error).to_string())
        }
        None => {
            *history = None;
            Event::LoadEnded
        }
    }
}

async fn elapsed(timer: &mut Option<Pin<Box<Sleep>>>) {
    match timer {
        Some(sleep) => sleep.await,
        None => std::future::pending().await,
    }
}
