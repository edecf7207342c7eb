//! A store in front of any other, on which everything happens that happens to stores: it is slow, refuses, loses the
//! answer before or after it has written, is given up half-way, and breaks off what it reads.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt as _, future::BoxFuture, stream, stream::BoxStream};
use protocol::Any;
use tokio::{sync::watch, time};

use super::{
    Append, EntityId, Epoch, Epochs, Error, Guard, Journal, Lease, Loaded, Owner, Position,
    Published, Put, Renewed, Shard, Store, Values, Version, Written,
};

/// What happens to a batch of writes.
#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    Slow,
    Refused,
    /// Nothing was written, and nobody says so.
    LostBefore,
    /// It was written, and nobody says so.
    LostAfter,
    /// Whoever waited has gone while the store was at it.
    GivenUp,
}

/// In turn, so that a test meets each of them.
const FAULTS: [Fault; 9] = [
    Fault::None,
    Fault::LostAfter,
    Fault::Slow,
    Fault::Refused,
    Fault::None,
    Fault::LostBefore,
    Fault::None,
    Fault::GivenUp,
    Fault::None,
];
/// Every so many readings break.
const BREAKS: usize = 3;
const MOMENT: Duration = Duration::from_millis(1);

/// See above.
pub(super) struct Faulty {
    store: Arc<dyn Store>,
    writes: AtomicUsize,
    reads: AtomicUsize,
}

impl Faulty {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, writes: AtomicUsize::new(0), reads: AtomicUsize::new(0) }
    }

    async fn write(&self, count: usize, writing: BoxFuture<'_, Vec<Written>>) -> Vec<Written> {
        let lost = || vec![Written::Unknown("the connection broke".to_owned()); count];
        match FAULTS[self.writes.fetch_add(1, Ordering::Relaxed) % FAULTS.len()] {
            Fault::None => writing.await,
            Fault::Slow => {
                time::sleep(MOMENT).await;
                writing.await
            }
            Fault::Refused => vec![Written::Refused("the disk is full".to_owned()); count],
            Fault::LostBefore => lost(),
            Fault::LostAfter => {
                writing.await;
                lost()
            }
            Fault::GivenUp => time::timeout(MOMENT / 4, writing).await.unwrap_or_else(|_| lost()),
        }
    }

    fn breaks(&self) -> Option<Error> {
        let breaks = self.reads.fetch_add(1, Ordering::Relaxed) % BREAKS == BREAKS - 1;
        breaks.then(|| Error::new("read", "the connection broke"))
    }
}

#[async_trait]
impl Journal for Faulty {
    async fn append(&self, batch: Vec<Append>) -> Vec<Written> {
        self.write(batch.len(), self.store.append(batch)).await
    }

    fn load(&self, entity: &EntityId) -> BoxStream<'static, Result<Loaded, Error>> {
        let all = self.store.load(entity);
        match self.breaks() {
            Some(error) => all.take(1).chain(stream::iter([Err(error)])).boxed(),
            None => all,
        }
    }

    fn events(
        &self,
        persistence_id: &str,
        after: &Position,
    ) -> BoxStream<'static, Result<Published, Error>> {
        let all = self.store.events(persistence_id, after);
        match self.breaks() {
            Some(error) => all.take(1).chain(stream::iter([Err(error)])).boxed(),
            None => all,
        }
    }
}

#[async_trait]
impl Values for Faulty {
    async fn put(&self, batch: Vec<Put>) -> Vec<Written> {
        self.write(batch.len(), self.store.put(batch)).await
    }

    async fn value(&self, entity: &EntityId) -> Result<(Version, Option<Any>), Error> {
        match self.breaks() {
            Some(error) => Err(error),
            None => self.store.value(entity).await,
        }
    }
}

#[async_trait]
impl Epochs for Faulty {
    async fn lease(&self, shard: Shard) -> Result<Lease, Error> {
        self.store.lease(shard).await
    }

    async fn ask(&self, shard: Shard, asker: Owner) -> Result<Lease, Error> {
        self.store.ask(shard, asker).await
    }

    async fn claim(
        &self,
        shard: Shard,
        owner: Owner,
        seen: &Lease,
    ) -> Result<Option<Epoch>, Error> {
        self.store.claim(shard, owner, seen).await
    }

    async fn renew(&self, guard: Guard) -> Result<Renewed, Error> {
        self.store.renew(guard).await
    }

    async fn release(&self, guard: Guard) -> Result<(), Error> {
        self.store.release(guard).await
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.store.changes()
    }
}
