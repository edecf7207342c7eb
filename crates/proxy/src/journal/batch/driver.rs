//! Carries out what [`Batches`] says.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::FutureExt as _;
use tokio::{
    sync::{Notify, oneshot},
    time,
};
use tracing::warn;

use super::{Action, BatchId, Batches, Write};
use crate::journal::{Append, Put, Store, Written};

/// The way of all writes to the store; clones share it. There are lanes for events, and as many for
/// values.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "a store has nothing to show")]
pub struct Batcher {
    appends: Lanes<Append>,
    puts: Lanes<Put>,
    fenced: Arc<Notify>,
}

impl Batcher {
    /// Nothing is under way to this store, which gets `limit` for each batch.
    pub fn new(store: &Arc<dyn Store>, limit: Duration) -> Self {
        let fenced = Arc::default();
        let (appends, puts) =
            (Lanes::new(store, limit, &fenced), Lanes::new(store, limit, &fenced));
        Self { appends, puts, fenced }
    }

    /// Told when the store fences a write, which means that somebody else has become the owner.
    pub fn fenced(&self) -> Arc<Notify> {
        Arc::clone(&self.fenced)
    }

    /// Submits the events of one reply, in this call; the future gives what became of them.
    ///
    /// # Cancel safety
    /// A dropped future takes nothing back.
    pub fn append(&self, append: Append) -> impl Future<Output = Written> + Send + 'static {
        self.appends.submit(append)
    }

    /// Submits a value, in this call; the future gives what became of it.
    ///
    /// # Cancel safety
    /// A dropped future takes nothing back.
    pub fn put(&self, put: Put) -> impl Future<Output = Written> + Send + 'static {
        self.puts.submit(put)
    }
}

/// What the store does with one kind of write.
trait Stored: Write + Send + 'static {
    fn write(store: &dyn Store, batch: Vec<Self>) -> impl Future<Output = Vec<Written>> + Send;
}

impl Stored for Append {
    async fn write(store: &dyn Store, batch: Vec<Self>) -> Vec<Written> {
        store.append(batch).await
    }
}

impl Stored for Put {
    async fn write(store: &dyn Store, batch: Vec<Self>) -> Vec<Written> {
        store.put(batch).await
    }
}

struct Lanes<W> {
    store: Arc<dyn Store>,
    limit: Duration,
    batches: Arc<Mutex<Batches<W, oneshot::Sender<Written>>>>,
    fenced: Arc<Notify>,
}

impl<W> Clone for Lanes<W> {
    fn clone(&self) -> Self {
        let (store, batches) = (Arc::clone(&self.store), Arc::clone(&self.batches));
        Self { store, limit: self.limit, batches, fenced: Arc::clone(&self.fenced) }
    }
}

impl<W: Stored> Lanes<W> {
    fn new(store: &Arc<dyn Store>, limit: Duration, fenced: &Arc<Notify>) -> Self {
        let (store, fenced) = (Arc::clone(store), Arc::clone(fenced));
        Self { store, limit, batches: Arc::default(), fenced }
    }

    fn submit(&self, write: W) -> impl Future<Output = Written> + Send + use<W> {
        let (answer, answered) = oneshot::channel();
        let actions = self.lock().submit(write, answer);
        self.perform(actions);
        async {
            let ended = |_closed| Written::Unknown("the proxy ends".to_owned());
            answered.await.unwrap_or_else(ended)
        }
    }

    fn perform(&self, actions: Vec<Action<W, oneshot::Sender<Written>>>) {
        for action in actions {
            match action {
                Action::Release(answer, outcome) => {
                    if outcome == Written::Fenced {
                        self.fenced.notify_one();
                    }
                    // Whoever waited may have left.
                    drop(answer.send(outcome));
                }
                Action::Write(batch, writes) => {
                    tokio::spawn(self.clone().write(batch, writes));
                }
            }
        }
    }

    async fn write(self, batch: BatchId, writes: Vec<W>) {
        // A panic in a store must not take the lane with it.
        let write = AssertUnwindSafe(W::write(&*self.store, writes)).catch_unwind();
        let actions = match time::timeout(self.limit, write).await {
            Ok(outcomes) => self.lock().finished(batch, outcomes.unwrap_or_default()),
            Err(_elapsed) => {
                let what = format!("the store did not answer within {:?}", self.limit);
                warn!(limit = ?self.limit, "the store is silent: what waits for it is refused");
                self.lock().silent(batch, &what)
            }
        };
        self.perform(actions);
    }

    fn lock(&self) -> MutexGuard<'_, Batches<W, oneshot::Sender<Written>>> {
        // The machine never panics, so a poisoned one is a whole one.
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use futures::{future, stream::BoxStream};
    use protocol::Any;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::journal::{
        EntityId, Epoch, Epochs, Error, Guard, Journal, Lease, Loaded, Memory, Owner, Position,
        Published, Renewed, Sequence, Shard, Values, Version,
    };

    /// A memory that writes when it is let, and counts the batches.
    #[derive(Default)]
    struct Gated {
        memory: Memory,
        gate: Option<Semaphore>,
        batches: AtomicUsize,
    }

    impl Gated {
        async fn pass(&self) {
            self.batches.fetch_add(1, Ordering::SeqCst);
            if let Some(gate) = &self.gate {
                gate.acquire().await.unwrap().forget();
            }
        }
    }

    #[async_trait]
    impl Journal for Gated {
        async fn append(&self, batch: Vec<Append>) -> Vec<Written> {
            assert!(batch.iter().all(|append| append.entity.key != "panic"), "as asked");
            self.pass().await;
            self.memory.append(batch).await
        }

        fn load(&self, entity: &EntityId) -> BoxStream<'static, Result<Loaded, Error>> {
            self.memory.load(entity)
        }

        fn events(
            &self,
            persistence_id: &str,
            after: &Position,
        ) -> BoxStream<'static, Result<Published, Error>> {
            self.memory.events(persistence_id, after)
        }
    }

    #[async_trait]
    impl Values for Gated {
        async fn put(&self, batch: Vec<Put>) -> Vec<Written> {
            self.pass().await;
            self.memory.put(batch).await
        }

        async fn value(&self, entity: &EntityId) -> Result<(Version, Option<Any>), Error> {
            self.memory.value(entity).await
        }
    }

    #[async_trait]
    impl Epochs for Gated {
        async fn lease(&self, shard: Shard) -> Result<Lease, Error> {
            self.memory.lease(shard).await
        }

        async fn ask(&self, shard: Shard, asker: Owner) -> Result<Lease, Error> {
            self.memory.ask(shard, asker).await
        }

        async fn claim(
            &self,
            shard: Shard,
            owner: Owner,
            seen: &Lease,
        ) -> Result<Option<Epoch>, Error> {
            self.memory.claim(shard, owner, seen).await
        }

        async fn renew(&self, guard: Guard) -> Result<Renewed, Error> {
            self.memory.renew(guard).await
        }

        async fn release(&self, guard: Guard) -> Result<(), Error> {
            self.memory.release(guard).await
        }

        fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
            self.memory.changes()
        }
    }

    fn entity(key: &str) -> EntityId {
        EntityId { persistence_id: "cart".to_owned(), key: key.to_owned() }
    }

    async fn stand(gate: Option<Semaphore>) -> (Arc<Gated>, Batcher, Guard) {
        let store = Arc::new(Gated { gate, ..Gated::default() });
        let owner = Owner(uuid::Uuid::from_u128(1));
        let epoch = store.claim(Shard::WHOLE, owner, &Lease::default()).await.unwrap().unwrap();
        let shared: Arc<dyn Store> = Arc::<Gated>::clone(&store);
        let batcher = Batcher::new(&shared, Duration::from_secs(5));
        (store, batcher, Guard { shard: Shard::WHOLE, epoch })
    }

    fn append(key: &str, guard: Guard, expected: u64) -> Append {
        let (entity, expected) = (entity(key), Sequence(expected));
        Append { entity, guard, expected, events: vec![Any::default()], snapshot: None }
    }

    #[tokio::test]
    async fn writes_that_come_while_two_batches_are_in_flight_make_one_more() {
        let (store, batcher, guard) = stand(Some(Semaphore::new(0))).await;
        let hot = (0..30).map(|at| batcher.append(append("hot", guard, at))).collect::<Vec<_>>();
        let others: Vec<_> =
            (0..30).map(|at| batcher.append(append(&at.to_string(), guard, 0))).collect();
        store.gate.as_ref().unwrap().add_permits(3);
        let written = future::join_all(hot).await.into_iter().chain(future::join_all(others).await);
        assert!(written.into_iter().all(|outcome| outcome == Written::Committed));
        assert_eq!(store.batches.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn values_of_one_entity_become_one_write_that_keeps_the_count() {
        let (store, batcher, guard) = stand(Some(Semaphore::new(0))).await;
        let puts = (0..10).map(|at| {
            let value = Any { type_url: at.to_string(), value: bytes::Bytes::new() };
            let (expected, next) = (Version(at), Version(at).next());
            batcher.put(Put { entity: entity("a"), guard, expected, next, value: Some(value) })
        });
        let puts: Vec<_> = puts.collect();
        store.gate.as_ref().unwrap().add_permits(2);
        assert!(future::join_all(puts).await.iter().all(|o| *o == Written::Committed));
        assert_eq!(store.batches.load(Ordering::SeqCst), 2);
        let (version, value) = store.value(&entity("a")).await.unwrap();
        assert_eq!((version, value.unwrap().type_url), (Version(10), "9".to_owned()));
    }

    #[tokio::test]
    async fn a_silent_store_leaves_its_batches_unknown_and_refuses_what_waits() {
        let (store, _, guard) = stand(Some(Semaphore::new(0))).await;
        let shared: Arc<dyn Store> = Arc::<Gated>::clone(&store);
        let batcher = Batcher::new(&shared, Duration::from_millis(20));
        let writes = ["a", "b", "a", "c"].map(|key| batcher.append(append(key, guard, 0)));
        let outcomes = future::join_all(writes).await;
        assert!(matches!(outcomes[0], Written::Unknown(_)), "{outcomes:?}");
        assert!(matches!(outcomes[1], Written::Unknown(_)), "{outcomes:?}");
        assert!(matches!(outcomes[2], Written::Refused(_)), "{outcomes:?}");
        assert!(matches!(outcomes[3], Written::Refused(_)), "{outcomes:?}");
    }

    #[tokio::test]
    async fn a_store_that_panics_keeps_no_lane() {
        let (_store, batcher, guard) = stand(None).await;
        for _ in 0..3 {
            let lost = batcher.append(append("panic", guard, 0)).await;
            assert!(matches!(lost, Written::Unknown(_)), "{lost:?}");
        }
        assert_eq!(batcher.append(append("a", guard, 0)).await, Written::Committed);
    }
}
