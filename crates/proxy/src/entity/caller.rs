//! A command's way in to an entity, and the way of its answer back.

use std::sync::Arc;

use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{
    Answer, Failure, FailureKind,
    context::Context,
    driver::Inbound,
    machine::{Request, Ticket},
};
use crate::route::Service;

/// The way in to one open entity.
#[derive(Clone)]
pub(super) struct Handle {
    /// Bounded by `places`: each command holds one until it is answered or given up.
    inbox: UnboundedSender<Inbound>,
    places: Arc<Semaphore>,
}

impl Handle {
    /// An inbox for so many commands.
    pub(super) fn new(queue: usize) -> (Self, UnboundedReceiver<Inbound>) {
        let (inbox, receiver) = unbounded();
        (Self { inbox, places: Arc::new(Semaphore::new(queue)) }, receiver)
    }

    /// Leaves word with the entity; one that has ended needs none.
    pub(super) fn tell(&self, what: Inbound) {
        drop(self.inbox.unbounded_send(what));
    }

    /// Whether the entity has ended, and left nobody to look into its inbox.
    pub(super) fn is_gone(&self) -> bool {
        self.inbox.is_closed()
    }

    /// Whether nothing is in the inbox.
    pub(super) fn is_empty(&self) -> bool {
        self.inbox.is_empty()
    }

    /// How many wait for an answer, out of `queue` who may.
    pub(super) fn waiting(&self, queue: usize) -> usize {
        queue.saturating_sub(self.places.available_permits())
    }

    /// Whether nobody waits for an answer, out of `queue` who may.
    pub(super) fn is_idle(&self, queue: usize) -> bool {
        self.places.available_permits() == queue
    }

    /// Takes a place for a command and puts it into the inbox.
    pub(super) fn deliver(
        self,
        request: Request,
        context: Arc<Context>,
        service: Arc<Service>,
    ) -> Result<Caller, Failure> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            let limit = context.limits.queue;
            let text = format!("{limit} commands wait for this entity, which is the limit");
            return Err(Failure::new(FailureKind::ResourceExhausted, text));
        };
        let ticket = request.ticket;
        let (answer, answered) = oneshot::channel();
        self.tell(Inbound::Command(request, answer));
        Ok(Caller { answered, ticket, handle: self, _place: place, context, service })
    }
}

/// A caller that waits; gives up its place when it is dropped.
pub(super) struct Caller {
    answered: oneshot::Receiver<Answer>,
    ticket: Ticket,
    handle: Handle,
    _place: OwnedSemaphorePermit,
    context: Arc<Context>,
    service: Arc<Service>,
}

impl Caller {
    /// The answer; none when the entity ended without one.
    pub(super) async fn answer(&mut self) -> Option<Answer> {
        (&mut self.answered).await.ok()
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        if self.answered.is_terminated() {
            return;
        }
        self.answered.close();
        match self.answered.try_recv() {
            // It came while the caller was leaving.
            Ok(answer) => self.context.adopt(&self.service, answer),
            // An entity that has ended needs no word of it.
            Err(_empty) => self.handle.tell(Inbound::CallerLeft(self.ticket)),
        }
    }
}
