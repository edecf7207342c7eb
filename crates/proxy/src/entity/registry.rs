//! The entities that are open, and the way in to each.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use protocol::{Any, cloudstate::Metadata};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Answer, Failure, FailureKind, Limits, Outcome, Then,
    driver::{Driver, Inbound, Inbox},
    event_sourced::{Request, Ticket},
};
use crate::{
    journal::{EntityId, Guard, Store},
    report::Reporter,
    route::{Method, Target},
    user_function::UserFunction,
};

/// Parts of the table that are locked apart, so that calls seldom meet.
const PARTS: usize = 64;

/// What all entities share.
#[allow(missing_debug_implementations, reason = "a store has nothing to show")]
pub struct Context {
    /// Where events live.
    pub journal: Arc<dyn Store>,
    /// The term under which this proxy owns its entities.
    pub guard: Guard,
    /// Who runs the entities' code.
    pub user_function: UserFunction,
    /// Who hears of what the user function does wrong.
    pub reporter: Reporter,
    /// The bounds.
    pub limits: Limits,
}

/// All open entities; clones share them.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "would have to lock all of them")]
pub struct Entities {
    shared: Arc<Shared>,
}

struct Shared {
    context: Arc<Context>,
    parts: Box<[Mutex<HashMap<EntityId, Handle>>]>,
    hasher: RandomState,
    open: AtomicUsize,
    tickets: AtomicU64,
    stop: CancellationToken,
    drivers: TaskTracker,
}

/// The way in to one open entity.
#[derive(Clone)]
struct Handle {
    /// Bounded by `places`: each command holds one until it is answered or given up.
    inbox: mpsc::UnboundedSender<Inbound>,
    places: Arc<Semaphore>,
}

impl Entities {
    /// No entity is open yet.
    pub fn new(context: Context) -> Self {
        let parts = (0..PARTS).map(|_| Mutex::default()).collect();
        let shared = Shared {
            context: Arc::new(context),
            parts,
            hasher: RandomState::new(),
            open: AtomicUsize::new(0),
            tickets: AtomicU64::new(0),
            stop: CancellationToken::new(),
            drivers: TaskTracker::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Has a command carried out by the entity that it names.
    ///
    /// # Cancel safety
    /// A dropped call gives up its place in the queue; what the user function has seen already is
    /// carried out all the same.
    pub async fn call(
        &self,
        method: &Method,
        payload: bytes::Bytes,
        metadata: Option<Metadata>,
    ) -> Answer {
        let then = match self.outcome(method, payload, metadata).await {
            Ok(reply) => Then::Reply(reply),
            Err(failure) => Then::Fail(failure),
        };
        Answer { effects: Vec::new(), then }
    }

    async fn outcome(
        &self,
        method: &Method,
        payload: bytes::Bytes,
        metadata: Option<Metadata>,
    ) -> Outcome {
        let Target::Entity(key) = &method.target else {
            let text = format!("{}.{} is no entity's method", method.service.name, method.name);
            return Err(Failure::new(FailureKind::Internal, text));
        };
        let key = key.read(&payload).map_err(|error| {
            Failure::new(
                FailureKind::InvalidArgument,
                format!("{}.{}: {error}", method.service.name, method.name),
            )
        })?;
        let id = EntityId { persistence_id: method.service.persistence_id.clone(), key };
        let ticket = self.shared.tickets.fetch_add(1, Ordering::Relaxed);
        let payload = Any { type_url: method.input_type_url.clone(), value: payload };
        let request = Request { ticket, name: method.name.clone(), payload, metadata };
        let (answer, answered) = oneshot::channel();
        let handle = self.deliver(method, id, request, answer)?;
        let mut caller = Caller { handle: Some(handle), ticket };
        let outcome = answered.await;
        caller.handle = None;
        let gone = || Failure::new(FailureKind::Unavailable, "the entity ended without an answer");
        let reply = outcome.map_err(|_closed| gone())??;
        if reply.type_url != method.output_type_url {
            self.shared.context.reporter.report(format!(
                "Warning: {}.{} replied with {:?} where its output is {:?}",
                method.service.name, method.name, reply.type_url, method.output_type_url
            ));
        }
        Ok(reply)
    }

    /// Puts a command into the inbox of its entity, which is opened when it is not.
    fn deliver(
        &self,
        method: &Method,
        id: EntityId,
        request: Request,
        answer: oneshot::Sender<Outcome>,
    ) -> Result<(Handle, tokio::sync::OwnedSemaphorePermit), Failure> {
        let limits = &self.shared.context.limits;
        let mut part = self.shared.part(&id);
        let handle = match part.get(&id) {
            Some(handle) if !handle.inbox.is_closed() => handle.clone(),
            found => {
                // A driver that panicked left its entry behind.
                let reopened = found.is_some();
                if !reopened && self.shared.open.load(Ordering::Relaxed) >= limits.entities {
                    return Err(Failure::new(
                        FailureKind::ResourceExhausted,
                        format!("{} entities are open, which is the limit", limits.entities),
                    ));
                }
                let handle = self.open(method, &id);
                if part.insert(id, handle.clone()).is_none() {
                    self.shared.open.fetch_add(1, Ordering::Relaxed);
                }
                handle
            }
        };
        let Ok(place) = Arc::clone(&handle.places).try_acquire_owned() else {
            return Err(Failure::new(
                FailureKind::ResourceExhausted,
                format!("{} commands wait for this entity, which is the limit", limits.queue),
            ));
        };
        // Sent under the lock, so that commands keep the order in which they came.
        drop(handle.inbox.send(Inbound::Command(request, answer)));
        Ok((handle, place))
    }

    fn open(&self, method: &Method, id: &EntityId) -> Handle {
        let (inbox, receiver) = mpsc::unbounded_channel();
        let shared = Arc::clone(&self.shared);
        let driver = Driver::new(
            Arc::clone(&shared.context),
            Arc::clone(&method.service),
            id.clone(),
            receiver,
            shared.stop.child_token(),
        );
        self.shared.drivers.spawn(driver.run(move |id, inbox| shared.forget(id, inbox)));
        Handle { inbox, places: Arc::new(Semaphore::new(self.shared.context.limits.queue)) }
    }

    /// Lets every entity finish what waits for it and end its stream, for as long as `limit`.
    pub async fn stop(&self, limit: Duration) -> bool {
        self.shared.stop.cancel();
        self.shared.drivers.close();
        time::timeout(limit, self.shared.drivers.wait()).await.is_ok()
    }
}

impl Shared {
    fn part(&self, id: &EntityId) -> MutexGuard<'_, HashMap<EntityId, Handle>> {
        let at = usize::try_from(self.hasher.hash_one(id) % PARTS as u64).unwrap_or_default();
        self.parts[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes an entity unless something came in for it in this moment.
    fn forget(&self, id: &EntityId, inbox: &mut Inbox) -> bool {
        let mut part = self.part(id);
        if !inbox.is_empty() {
            return false;
        }
        part.remove(id);
        self.open.fetch_sub(1, Ordering::Relaxed);
        true
    }
}

/// A caller that waits; gives up its place when it is dropped.
struct Caller {
    handle: Option<(Handle, tokio::sync::OwnedSemaphorePermit)>,
    ticket: Ticket,
}

impl Drop for Caller {
    fn drop(&mut self) {
        if let Some((handle, _place)) = self.handle.take() {
            // An entity that has ended needs no word of it.
            drop(handle.inbox.send(Inbound::CallerLeft(self.ticket)));
        }
    }
}
