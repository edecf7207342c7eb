//! The entities that are open, and the way in to each.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use protocol::{Any, cloudstate::Metadata};
use tokio::{
    sync::oneshot,
    task::AbortHandle,
    time::{self, Instant},
};
use tokio_util::task::TaskTracker;
use tracing::{Level, debug, enabled};

use super::{
    Answer, Failure, FailureKind, Then,
    caller::{Caller, Handle},
    context::Context,
    driver::{self, Driver, Inbound, View},
    machine::{Request, Ticket},
    room::{self, Pressure},
};
use crate::{
    budget::{Budget, Taken},
    journal::{EntityId, Epoch, Guard},
    route::{Method, Service, Target},
    shown,
};

/// Parts of the table that are locked apart, so that calls seldom meet.
const PARTS: usize = 64;

/// How long an entity may take to say how it is.
const LOOK: Duration = Duration::from_secs(1);

/// All open entities; clones share them.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "would have to lock all of them")]
pub struct Entities {
    shared: Arc<Shared>,
}

/// Entities whose names share a lock.
pub(super) type Part = HashMap<Arc<EntityId>, Open>;

pub(super) struct Shared {
    pub(super) context: Arc<Context>,
    pub(super) pressure: Pressure,
    parts: Box<[Mutex<Part>]>,
    hasher: RandomState,
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
pub(super) struct Open {
    pub(super) handle: Handle,
    task: AbortHandle,
    /// The newest command: the higher, the later it was used.
    pub(super) used: AtomicU64,
}

impl Entities {
    /// No entity is open yet, and none can be before [`Self::begin`].
    pub fn new(context: Context) -> Self {
        let parts = (0..PARTS).map(|_| Mutex::default()).collect();
        let shared = Shared {
            context: Arc::new(context),
            parts,
            hasher: RandomState::new(),
            pressure: Pressure::default(),
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

    /// The epoch of the term of ownership, while there is one.
    pub fn epoch(&self) -> Option<Epoch> {
        let tenure = self.shared.tenure.read().unwrap_or_else(PoisonError::into_inner);
        tenure.as_ref().ok().map(|tenure| tenure.guard.epoch)
    }

    /// How many entities are open.
    pub fn open_count(&self) -> usize {
        let lock = |part: &Mutex<Part>| part.lock().unwrap_or_else(PoisonError::into_inner).len();
        self.shared.parts.iter().map(lock).sum()
    }

    /// How those are that this lets through, at most so many, the most beset first. One that is busy with
    /// ending is left out.
    pub async fn look(&self, most: usize, wanted: impl Fn(&EntityId) -> bool) -> Vec<View> {
        let queue = self.shared.context.limits.queue;
        let mut found = Vec::new();
        self.shared.for_each(|id, open| {
            if wanted(id) {
                found.push((open.handle.waiting(queue), open.handle.clone()));
            }
        });
        found.sort_unstable_by_key(|(waiting, _)| std::cmp::Reverse(*waiting));
        found.truncate(most);
        let asked = found.into_iter().map(|(_, handle)| {
            let (asker, answer) = oneshot::channel();
            handle.tell(Inbound::Look(asker));
            time::timeout(LOOK, answer)
        });
        let views = futures::future::join_all(asked).await;
        views.into_iter().filter_map(|view| view.ok()?.ok()).collect()
    }

    /// What they may take.
    pub fn budget(&self) -> &Budget {
        &self.shared.context.budget
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
        self.shared.for_each(|_id, open| open.handle.tell(Inbound::Stop));
        let finished = time::timeout(limit, drivers.wait()).await.is_ok();
        if !finished {
            self.shared.for_each(|_id, open| open.task.abort());
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
        if !enabled!(Level::DEBUG) {
            return self.carry_out(method, payload, metadata).await;
        }
        let (said, trace) = (payload.clone(), driver::trace(metadata.as_ref()));
        let answer = self.carry_out(method, payload, metadata).await;
        if let Then::Fail(Failure { kind, message }) = &answer.then {
            let key = match &method.target {
                Target::Entity(key) => key.read(&said).ok(),
                Target::Action(_) => None,
            };
            debug!(
                entity.kind = method.service.persistence_id,
                entity.key = key.as_deref().map(shown::key).as_deref(),
                name = method.name,
                trace,
                ?kind,
                error = message,
                "command failed"
            );
        }
        answer
    }

    async fn carry_out(
        &self,
        method: &Method,
        payload: Bytes,
        metadata: Option<Metadata>,
    ) -> Answer {
        let mut caller = match self.deliver(method, payload, metadata).await {
            Ok(caller) => caller,
            Err(failure) => return failure.into(),
        };
        let Some(answer) = caller.answer().await else {
            let gone = "the entity ended without an answer";
            return Failure::new(FailureKind::Unavailable, gone).into();
        };
        self.shared.heard(&method.service, answer)
    }

    /// Puts a command into the inbox of its entity, once there is room to open that one.
    async fn deliver(
        &self,
        method: &Method,
        payload: Bytes,
        metadata: Option<Metadata>,
    ) -> Result<Caller, Failure> {
        let (id, request) = self.request(method, payload, metadata)?;
        let entities = self.shared.context.budget.entities();
        let mut delivery = Delivery { id, request, room: None };
        loop {
            delivery = match self.try_deliver(method, delivery)? {
                Ok(caller) => return Ok(caller),
                Err(delivery) => delivery,
            };
            let cost = room::cost(&delivery.id.key);
            delivery.room = Some(match entities.try_take(cost) {
                Some(room) => room,
                None => self.shared.room(cost).await?,
            });
        }
    }

    /// Gives the delivery back when it takes room to open its entity.
    fn try_deliver(
        &self,
        method: &Method,
        delivery: Delivery,
    ) -> Result<Result<Caller, Delivery>, Failure> {
        let tenure = self.shared.tenure.read().unwrap_or_else(PoisonError::into_inner);
        let tenure =
            tenure.as_ref().map_err(|why| Failure::new(FailureKind::Unavailable, why.as_str()))?;
        let mut part = self.shared.part(&delivery.id);
        // A driver that panicked left its entry behind.
        let open = part.get(&delivery.id).filter(|open| !open.handle.is_gone());
        let (handle, request) = match (open, delivery) {
            (Some(open), Delivery { request, .. }) => {
                open.used.store(request.ticket, Ordering::Relaxed);
                (open.handle.clone(), request)
            }
            (None, Delivery { id, request, room: Some(room) }) => {
                let id = Arc::new(id);
                let open = self.open(method, &id, tenure, room, request.ticket);
                let handle = open.handle.clone();
                part.insert(id, open);
                (handle, request)
            }
            (None, delivery) => return Ok(Err(delivery)),
        };
        // Under the lock, so that commands keep the order in which they came.
        let (context, service) = (Arc::clone(&self.shared.context), Arc::clone(&method.service));
        handle.deliver(request, context, service).map(Ok)
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

    fn open(
        &self,
        method: &Method,
        id: &Arc<EntityId>,
        tenure: &Tenure,
        room: Taken,
        ticket: Ticket,
    ) -> Open {
        let (handle, inbox) = Handle::new(self.shared.context.limits.queue);
        let shared = Arc::clone(&self.shared);
        let driver = Driver::new(
            Arc::clone(&shared.context),
            Arc::clone(&method.service),
            Arc::clone(id),
            inbox,
            tenure.guard,
            room,
        );
        let more = Arc::clone(&shared);
        let driver = driver
            .run(move |id| shared.forget(id), move |bytes| Arc::clone(&more).room_for_state(bytes));
        let driver = tenure.drivers.spawn(driver);
        Open { handle, task: driver.abort_handle(), used: AtomicU64::new(ticket) }
    }
}

/// A command on its way to its entity.
struct Delivery {
    id: EntityId,
    request: Request,
    /// For the entity, should it have to be opened.
    room: Option<Taken>,
}

impl Shared {
    /// Whether the term of ownership has not run out.
    fn serves(&self) -> bool {
        self.began.elapsed().as_millis() < u128::from(self.until.load(Ordering::Relaxed))
    }

    /// What a caller is told that gets this answer now.
    fn heard(&self, service: &Arc<Service>, answer: Answer) -> Answer {
        if self.serves() {
            return answer;
        }
        // What follows from it is owed all the same: it is durable, whoever owns the entity now.
        self.context.adopt(service, answer);
        let late = "this proxy may not own its entities any more";
        Failure::new(FailureKind::Unavailable, late).into()
    }

    pub(super) fn part(&self, id: &EntityId) -> MutexGuard<'_, Part> {
        let at = usize::try_from(self.hasher.hash_one(id) % PARTS as u64).unwrap_or_default();
        self.parts[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes an entity unless something came in for it in this moment.
    fn forget(&self, id: &EntityId) -> bool {
        let mut part = self.part(id);
        if part.get(id).is_some_and(|open| !open.handle.is_empty()) {
            return false;
        }
        part.remove(id);
        true
    }

    pub(super) fn for_each(&self, mut visit: impl FnMut(&Arc<EntityId>, &Open)) {
        for part in &self.parts {
            let part = part.lock().unwrap_or_else(PoisonError::into_inner);
            part.iter().for_each(|(id, open)| visit(id, open));
        }
    }

    /// Removes what drivers that were cut have left.
    fn clear(&self) {
        for part in &self.parts {
            part.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::cloudstate::SideEffect;

    use super::*;
    use crate::{budget, entity::context, journal::Shard, route::Kind};

    #[tokio::test]
    async fn what_follows_from_an_answer_that_comes_too_late_is_carried_out() {
        let (context, mut orphans) = context::alone(&Budget::new(budget::DEFAULT));
        let entities = Entities::new(context);
        let (name, persistence_id) = ("Cart".to_owned(), "carts".to_owned());
        let kind = Kind::EventSourced;
        let service = Arc::new(Service { name, kind, persistence_id, passivation_timeout: None });
        let answer = Answer { effects: vec![SideEffect::default()], then: Then::Nothing };
        entities.begin(Guard { shard: Shard::WHOLE, epoch: Epoch(1) });
        assert_eq!(entities.shared.heard(&service, answer.clone()), answer);
        assert!(orphans.try_recv().is_err(), "its caller sees to it");
        // As after a stop of the whole process.
        entities.serve_until(Instant::now());
        let told = entities.shared.heard(&service, answer.clone());
        assert!(told.effects.is_empty() && matches!(told.then, Then::Fail(_)), "{told:?}");
        assert_eq!(orphans.try_recv().unwrap().answer, answer);
    }
}
