//! Room for one more open entity: when the budget is full, those that idle longest are passivated.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError, TryLockError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::FutureExt as _;
use tokio::time::{self, Instant};

use super::{Failure, FailureKind, driver::Inbound, large::Room, registry::Shared};
use crate::budget::{self, Taken};

/// How often those who wait look for entities that have become idle.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// One in so many of the open entities leaves on top of what is needed, so that a stream of new
/// entities need not look through all of them each time.
const AHEAD: usize = 64;

/// Who waits for room, and who is about to make some.
#[derive(Debug, Default)]
pub(super) struct Pressure {
    waiting: AtomicUsize,
    leaving: Leaving,
    last: Mutex<Option<Look>>,
}

/// Held by each entity that was told to leave, until it has left or does not.
#[derive(Clone, Debug, Default)]
pub(super) struct Leaving(Arc<()>);

/// A search for idle entities.
#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    in_vain: bool,
}

/// What an entity with this key costs.
pub(super) fn cost(key: &str) -> usize {
    // The name stands in the table, and in commands under way.
    budget::ENTITY + 2 * key.len()
}

impl Shared {
    /// Waits until there is room for an entity.
    pub(super) async fn room(&self, cost: usize) -> Result<Taken, Failure> {
        let entities = self.context.budget.entities();
        let full = |why| Failure::new(FailureKind::ResourceExhausted, why);
        if cost > entities.size() {
            let size = entities.size();
            return Err(full(format!(
                "the entity takes {cost} bytes of memory, the limit is {size}"
            )));
        }
        let _waiting = Waiting::new(&self.pressure.waiting, cost / budget::ENTITY);
        let taken = async {
            let mut room = pin!(entities.take(cost));
            loop {
                self.make_room();
                if let Ok(taken) = time::timeout(LOOK_AGAIN, &mut room).await {
                    return taken;
                }
            }
        };
        let limit = self.context.limits.activation;
        time::timeout(limit, taken).await.map_err(|_elapsed| {
            let (size, seconds) = (entities.size(), limit.as_secs());
            full(format!(
                "all {size} bytes of memory for entities are in use, and none of these became idle \
                 within {seconds} s"
            ))
        })
    }

    /// Takes room for a large state that was read, as soon as there is some; a state never takes more than half of
    /// what there is, since entities must fit beside it.
    pub(super) fn room_for_state(self: Arc<Self>, bytes: usize) -> Room {
        let most = self.context.budget.entities().size() / 2;
        async move { self.room(bytes.min(most)).await.map_err(|failure| failure.message) }.boxed()
    }

    /// Has as many idle entities passivated as are waited for, and some more.
    fn make_room(&self) {
        let pressure = &self.pressure;
        let mut last = match pressure.last.try_lock() {
            Ok(last) => last,
            Err(TryLockError::Poisoned(poisoned)) => PoisonError::into_inner(poisoned),
            // Somebody else looks.
            Err(TryLockError::WouldBlock) => return,
        };
        let mut wanted = pressure.waiting.load(Ordering::Relaxed);
        if let Some(last) = last.filter(|last| last.at.elapsed() < LOOK_AGAIN) {
            // Whoever takes longer than that to leave is not counted on.
            wanted = wanted.saturating_sub(Arc::strong_count(&pressure.leaving.0) - 1);
            if wanted == 0 || last.in_vain {
                return;
            }
        }
        let (mut open, mut idle) = (0, Vec::new());
        self.for_each(|id, entity| {
            open += 1;
            if entity.handle.is_idle(self.context.limits.queue) {
                idle.push((entity.used.load(Ordering::Relaxed), Arc::clone(id)));
            }
        });
        *last = Some(Look { at: Instant::now(), in_vain: idle.is_empty() });
        wanted += open / AHEAD;
        if wanted < idle.len() {
            idle.select_nth_unstable(wanted);
            idle.truncate(wanted);
        }
        for (_used, id) in idle {
            if let Some(entity) = self.part(&id).get(&id) {
                entity.handle.tell(Inbound::Passivate(pressure.leaving.clone()));
            }
        }
    }
}

/// Counts as so many entities while it lives.
struct Waiting<'a> {
    count: &'a AtomicUsize,
    entities: usize,
}

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize, entities: usize) -> Self {
        count.fetch_add(entities, Ordering::Relaxed);
        Self { count, entities }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(self.entities, Ordering::Relaxed);
    }
}
