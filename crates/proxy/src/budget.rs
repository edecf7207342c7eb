//! The memory budget: what the proxy may hold for others at once, in bytes.
//!
//! It is counted, not measured: an open entity costs a fixed amount and its name, and a large state its bytes until
//! the user function has it; a call under way costs a fixed amount and its message. Code, runtime and store have their own room beside it.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The smallest budget that serves anybody.
const MIN: u64 = 4 << 20;
/// Without a word on memory from anybody.
pub const DEFAULT: u64 = 256 << 20;

/// What an open entity costs beside its name: its task, its stream and what transports keep for that.
pub const ENTITY: usize = 14 << 10;
/// What a call costs before anything of its message is here.
pub const CALL: usize = 4 << 10;

/// Counting single bytes would only cost more than it tells.
const UNIT: usize = 1 << 10;

/// The whole budget; clones share it.
#[derive(Clone, Debug)]
pub struct Budget {
    entities: Share,
    calls: Share,
}

impl Budget {
    /// Divides so many bytes: three quarters for entities, the rest for calls under way.
    pub fn new(bytes: u64) -> Self {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let calls = bytes / 4;
        Self { entities: Share::new(bytes - calls), calls: Share::new(calls) }
    }

    /// For open entities.
    pub fn entities(&self) -> &Share {
        &self.entities
    }

    /// For calls and their messages.
    pub fn calls(&self) -> &Share {
        &self.calls
    }
}

/// The half of a container's memory is the budget: the rest is for code, connections and the store.
pub fn of_limit(bytes: u64) -> u64 {
    (bytes / 2).max(MIN)
}

/// A part of the budget; clones share it.
#[derive(Clone, Debug)]
pub struct Share {
    free: Arc<Semaphore>,
    units: usize,
}

/// Room that is taken until this is dropped.
#[derive(Debug)]
pub struct Taken {
    permit: OwnedSemaphorePermit,
}

impl Share {
    fn new(bytes: usize) -> Self {
        let units = (bytes / UNIT).min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(units)), units }
    }

    /// How many bytes there are in all.
    pub fn size(&self) -> usize {
        self.units * UNIT
    }

    /// How many bytes are taken.
    pub fn used(&self) -> usize {
        (self.units - self.free.available_permits().min(self.units)) * UNIT
    }

    /// Takes room if it is there now.
    pub fn try_take(&self, bytes: usize) -> Option<Taken> {
        let permit = Arc::clone(&self.free).try_acquire_many_owned(units(bytes)).ok()?;
        Some(Taken { permit })
    }

    /// Waits for room, in line with others; for ever when there can never be as much.
    ///
    /// # Cancel safety
    /// A dropped future gives up its place in the line.
    ///
    /// # Panics
    /// Never: the semaphore is not closed.
    pub async fn take(&self, bytes: usize) -> Taken {
        let room = Arc::clone(&self.free).acquire_many_owned(units(bytes)).await;
        Taken { permit: room.expect("the semaphore is never closed") }
    }
}

impl Taken {
    /// Puts more of the same share to it.
    pub fn merge(&mut self, more: Self) {
        self.permit.merge(more.permit);
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn room_comes_back_when_it_is_dropped() {
        let budget = Budget::new(MIN);
        let share = budget.entities();
        assert_eq!((share.size(), share.used()), (3 << 20, 0));
        let mut taken = share.try_take(2 << 20).unwrap();
        assert!(share.try_take((1 << 20) + 1).is_none());
        taken.merge(share.try_take(1 << 20).unwrap());
        assert!(share.try_take(1).is_none());
        assert_eq!(share.used(), share.size());
        drop(taken);
        assert_eq!(share.used(), 0);
        assert_eq!(budget.calls().size(), 1 << 20);
    }

    #[test]
    fn who_waits_is_served_before_who_comes_later() {
        let share = Share::new(2 * UNIT);
        let taken = share.try_take(UNIT).unwrap();
        let mut waiting = Box::pin(share.take(2 * UNIT));
        assert!((&mut waiting).now_or_never().is_none());
        assert!(share.try_take(UNIT).is_none(), "the free room is for the one who waits");
        drop(taken);
        assert!(waiting.now_or_never().is_some());
    }
}
