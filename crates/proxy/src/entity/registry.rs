//! The entities that are open, and the way in to each.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::channel::mpsc::{UnboundedSender, unbounded};
use protocol::{Any, cloudstate::Metadata};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::AbortHandle,
    time::{self, Instant},
};
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::{
    Answer, Failure, FailureKind, Limits,
    driver::{Driver, Inbound},
    machine::{Request, Ticket},
};
use crate::{
    journal::{Batcher, EntityId, Guard, Store},
    report::Reporter,
    route::{Method, Service, Target},
    user_function::UserFunction,
};

/// Parts of the table that are locked apart, so that calls seldom meet.
const PARTS: usize = 64;

/// What all entities share.
#[allow(missing_debug_implementations, reason = "a store has nothing to show")]
pub struct Context {
    /// Where events live.
    pub journal: Arc<dyn Store>,
    /// The way of writes there.
    pub writes: Batcher,
    /// Who runs the entities' code.
    pub user_function: UserFunction,
    /// Who hears of what the user function does wrong.
    pub reporter: Reporter,
    /// Who carries out what is left of commands whose callers have gone.
    pub orphans: mpsc::Sender<Orphan>,
    /// The bounds.
    pub limits: Limits,
}

/// What an entity said to a command whose caller has gone: its effects and its forward are owed all
/// the same, since what they follow from is durable.
#[derive(Debug)]
pub struct Orphan {
    /// Whose entity said it.
    pub service: Arc<Service>,
    /// What it said; only effects and a forward are of interest still.
    pub answer: Answer,
}

impl Context {
    /// Passes on an answer that nobody waits for, unless nothing follows from it.
    pub(super) fn adopt(&self, service: &Arc<Service>, answer: Answer) {
        if !answer.is_to_be_carried_out() {
            return;
        }
        let orphan = Orphan { service: Arc::clone(service), answer };
        if let Err(refused) = self.orphans.try_send(orphan) {
            let Orphan { service, answer } = refused.into_inner();
            warn!(
                service = service.name,
                effects = answer.effects.len(),
                "effects of a command whose caller left were dropped: too many wait"
            );
        }
    }
}

/// All open entities; clones share them.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "would have to lock all of them")]
pub struct Entities {
    shared: Arc<Shared>,
}

/// Entities whose names share a lock.
type Part = HashMap<Arc<EntityId>, Open>;

struct Shared {
    context: Arc<Context>,
    parts: Box<[Mutex<Part>]>,
    hasher: RandomState,
    open: AtomicUsize,
    tickets: AtomicU64,
    /// While this proxy owns its entities; else why it does not.
    tenure: RwLock<Result<Tenure, String>>,
    /// What `until` counts from.
    began: Instant,
    /// Until when the tenure lasts unless it is prolonged, in milliseconds.
    until: AtomicU64,
}

/// A term of ownership.
struct Tenure {
    guard: Guard,
    drivers: TaskTracker,
}

/// One open entity.
struct Open {
    handle: Handle,
    task: AbortHandle,
}

/// The way in to one open entity.
#[derive(Clone)]
struct Handle {
    /// Bounded by `places`: each command holds one until it is answered or given up.
    inbox: UnboundedSender<Inbound>,
    places: Arc<Semaphore>,
}

impl Entities {
    /// No entity is open yet, and none can be before [`Self::begin`].
    pub fn new(context: Context) -> Self {
        let parts = (0..PARTS).map(|_| Mutex::default()).collect();
        let shared = Shared {
            context: Arc::new(context),
            parts,
            hasher: RandomState::new(),
            open: AtomicUsize::new(0),
            tickets: AtomicU64::new(0),
            tenure: RwLock::new(Err("this proxy does not own its entities yet".to_owned())),
            began: Instant::now(),
            until: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Begins a term of ownership: from here on entities are opened, and write under this guard. It
    /// lasts until [`Self::end`], unless [`Self::serve_until`] bounds it.
    pub fn begin(&self, guard: Guard) {
        let tenure = Tenure { guard, drivers: TaskTracker::new() };
        self.shared.until.store(u64::MAX, Ordering::Relaxed);
        *self.shared.tenure.write().unwrap_or_else(PoisonError::into_inner) = Ok(tenure);
    }

    /// Bounds the term of ownership: after this moment nothing is told that another owner may have
    /// made untrue meanwhile, even if this process stood still and could not be told to end.
    pub fn serve_until(&self, until: Instant) {
        let until = until.saturating_duration_since(self.shared.began).as_millis();
        let until = u64::try_from(until).unwrap_or(u64::MAX);
        self.shared.until.store(until, Ordering::Relaxed);
    }

    /// Ends the term of ownership: commands are refused from here on and told why. Every entity may
    /// finish what waits for it and end its stream for as long as `limit`, and is dropped then.
    /// Gives whether all finished. No entity is open when this returns.
    pub async fn end(&self, limit: Duration, why: String) -> bool {
        let tenure = std::mem::replace(
            &mut *self.shared.tenure.write().unwrap_or_else(PoisonError::into_inner),
            Err(why),
        );
        let Ok(Tenure { drivers, .. }) = tenure else { return true };
        drivers.close();
        self.shared.for_each(|open| drop(open.handle.inbox.unbounded_send(Inbound::Stop)));
        let finished = time::timeout(limit, drivers.wait()).await.is_ok();
        if !finished {
            self.shared.for_each(|open| open.task.abort());
            drivers.wait().await;
        }
        self.shared.clear();
        finished
    }

    /// Has a command carried out by the entity that it names.
    ///
    /// # Cancel safety
    /// A dropped call gives up its place in the queue; what the user function has seen already is
    /// carried out all the same, and what follows from it goes to [`Context::orphans`].
    pub async fn call(
        &self,
        method: &Method,
        payload: Bytes,
        metadata: Option<Metadata>,
    ) -> Answer {
        let mut caller = match self.deliver(method, payload, metadata) {
            Ok(caller) => caller,
            Err(failure) => return failure.into(),
        };
        match caller.answer().await {
            Some(answer) if self.shared.serves() || answer.is_to_be_carried_out() => answer,
            Some(_) => {
                let late = "this proxy may not own its entities any more";
                Failure::new(FailureKind::Unavailable, late).into()
            }
            None => {
                let gone = "the entity ended without an answer";
                Failure::new(FailureKind::Unavailable, gone).into()
            }
        }
    }

    /// Puts a command into the inbox of its entity, which is opened when it is not.
    fn deliver(
        &self,
        method: &Method,
        payload: Bytes,
        metadata: Option<Metadata>,
    ) -> Result<Caller, Failure> {
        let (id, request) = self.request(method, payload, metadata)?;
        let limits = &self.shared.context.limits;
        let tenure = self.shared.tenure.read().unwrap_or_else(PoisonError::into_inner);
        let tenure =
            tenure.as_ref().map_err(|why| Failure::new(FailureKind::Unavailable, why.as_str()))?;
        let mut part = self.shared.part(&id);
        let handle = match part.get(&id) {
            Some(open) if !open.handle.inbox.is_closed() => open.handle.clone(),
            found => {
                // A driver that panicked left its entry behind.
                let reopened = found.is_some();
                if !reopened && self.shared.open.load(Ordering::Relaxed) >= limits.entities {
                    return Err(Failure::new(
                        FailureKind::ResourceExhausted,
                        format!("{} entities are open, which is the limit", limits.entities),
                    ));
                }
                let id = Arc::new(id);
                let open = self.open(method, Arc::clone(&id), tenure);
                let handle = open.handle.clone();
                if part.insert(id, open).is_none() {
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
        let ticket = request.ticket;
        let (answer, answered) = oneshot::channel();
        // Sent under the lock, so that commands keep the order in which they came.
        drop(handle.inbox.unbounded_send(Inbound::Command(request, answer)));
        let context = Arc::clone(&self.shared.context);
        let service = Arc::clone(&method.service);
        Ok(Caller { answered, ticket, handle, _place: place, context, service })
    }

    /// The command, and the entity that it is for.
    fn request(
        &self,
        method: &Method,
        payload: Bytes,
        metadata: Option<Metadata>,
    ) -> Result<(EntityId, Request), Failure> {
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
        Ok((id, Request { ticket, name: method.name.clone(), payload, metadata }))
    }

    fn open(&self, method: &Method, id: Arc<EntityId>, tenure: &Tenure) -> Open {
        let (inbox, receiver) = unbounded();
        let shared = Arc::clone(&self.shared);
        let driver = Driver::new(
            Arc::clone(&shared.context),
            Arc::clone(&method.service),
            id,
            receiver,
            tenure.guard,
        );
        let driver = tenure.drivers.spawn(driver.run(move |id| shared.forget(id)));
        let places = Arc::new(Semaphore::new(self.shared.context.limits.queue));
        Open { handle: Handle { inbox, places }, task: driver.abort_handle() }
    }
}

impl Shared {
    /// Whether the term of ownership has not run out.
    fn serves(&self) -> bool {
        self.began.elapsed().as_millis() < u128::from(self.until.load(Ordering::Relaxed))
    }

    fn part(&self, id: &EntityId) -> MutexGuard<'_, Part> {
        let at = usize::try_from(self.hasher.hash_one(id) % PARTS as u64).unwrap_or_default();
        self.parts[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes an entity unless something came in for it in this moment.
    fn forget(&self, id: &EntityId) -> bool {
        let mut part = self.part(id);
        if part.get(id).is_some_and(|open| !open.handle.inbox.is_empty()) {
            return false;
        }
        if part.remove(id).is_some() {
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
        true
    }

    fn for_each(&self, mut visit: impl FnMut(&Open)) {
        for part in &self.parts {
            part.lock().unwrap_or_else(PoisonError::into_inner).values().for_each(&mut visit);
        }
    }

    /// Removes what drivers that were cut have left.
    fn clear(&self) {
        for part in &self.parts {
            let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
            self.open.fetch_sub(part.len(), Ordering::Relaxed);
            part.clear();
        }
    }
}

/// A caller that waits; gives up its place when it is dropped.
struct Caller {
    answered: oneshot::Receiver<Answer>,
    ticket: Ticket,
    handle: Handle,
    _place: OwnedSemaphorePermit,
    context: Arc<Context>,
    service: Arc<Service>,
}

impl Caller {
    /// The answer; none when the entity ended without one.
    async fn answer(&mut self) -> Option<Answer> {
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
            Err(_empty) => drop(self.handle.inbox.unbounded_send(Inbound::CallerLeft(self.ticket))),
        }
    }
}
