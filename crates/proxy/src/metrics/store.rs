//! A store that is timed: what goes through it is handed on as it is.

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use futures::{StreamExt as _, stream::BoxStream};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};
use protocol::Any;
use tokio::sync::watch;

use super::{Histograms, add, short_times};
use crate::journal::{
    Append, EntityId, Epoch, Epochs, Error, Guard, Journal, Lease, Loaded, Owner, Position,
    Published, Put, Renewed, Shard, Store, Values, Version, Written,
};

/// Upper ends of the buckets for sizes of batches.
const SIZES: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    operation: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    operation: &'static str,
    outcome: &'static str,
}

/// What is counted of a store.
#[derive(Clone, Debug)]
pub(super) struct Families {
    duration: Histograms<Operation>,
    errors: Family<Operation, Counter>,
    batch: Histograms<Operation>,
    writes: Family<Outcome, Counter>,
}

impl Families {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let sizes: Histograms<Operation> = Family::new_with_constructor(|| Histogram::new(SIZES));
        let name = "cloudstate_store_operation_duration_seconds";
        Self {
            duration: add(registry, name, "How long the store took", short_times()),
            errors: add(
                registry,
                "cloudstate_store_errors",
                "Operations of the store that failed",
                Family::default(),
            ),
            batch: add(
                registry,
                "cloudstate_store_batch_size",
                "Writes that went to the store together",
                sizes,
            ),
            writes: add(
                registry,
                "cloudstate_store_writes",
                "Writes by what became of them",
                Family::default(),
            ),
        }
    }

    fn of(&self, operation: &'static str) -> OperationMetrics {
        let label = Operation { operation };
        OperationMetrics {
            duration: self.duration.get_or_create_owned(&label),
            errors: self.errors.get_or_create_owned(&label),
            batch: self.batch.get_or_create_owned(&label),
            outcomes: ["committed", "conflict", "fenced", "refused", "unknown"]
                .map(|outcome| self.writes.get_or_create_owned(&Outcome { operation, outcome })),
        }
    }

    /// An operation that does not write.
    fn reading(&self, operation: &'static str) -> ReadMetrics {
        let label = Operation { operation };
        ReadMetrics {
            duration: self.duration.get_or_create_owned(&label),
            errors: self.errors.get_or_create_owned(&label),
        }
    }
}

struct OperationMetrics {
    duration: Histogram,
    errors: Counter,
    batch: Histogram,
    outcomes: [Counter; 5],
}

impl OperationMetrics {
    #[expect(clippy::cast_precision_loss, reason = "batches are small")]
    async fn of(&self, size: usize, writing: impl Future<Output = Vec<Written>>) -> Vec<Written> {
        self.batch.observe(size as f64);
        let began = Instant::now();
        let written = writing.await;
        self.duration.observe(began.elapsed().as_secs_f64());
        for outcome in &written {
            self.outcomes[match outcome {
                Written::Committed => 0,
                Written::Conflict => 1,
                Written::Fenced => 2,
                Written::Refused(_) => 3,
                Written::Unknown(_) => 4,
            }]
            .inc();
        }
        if written.iter().any(|w| matches!(w, Written::Refused(_) | Written::Unknown(_))) {
            self.errors.inc();
        }
        written
    }
}

#[derive(Clone)]
struct ReadMetrics {
    duration: Histogram,
    errors: Counter,
}

impl ReadMetrics {
    fn ended<T>(&self, began: Instant, outcome: Result<T, Error>) -> Result<T, Error> {
        self.duration.observe(began.elapsed().as_secs_f64());
        if outcome.is_err() {
            self.errors.inc();
        }
        outcome
    }
}

/// The store, timed.
#[allow(missing_debug_implementations, reason = "a store has nothing to show")]
pub struct Measured {
    store: Arc<dyn Store>,
    append: OperationMetrics,
    put: OperationMetrics,
    load: ReadMetrics,
    value: ReadMetrics,
    lease: ReadMetrics,
}

impl Measured {
    pub(super) fn new(store: Arc<dyn Store>, families: &Families) -> Self {
        Self {
            store,
            append: families.of("append"),
            put: families.of("put"),
            load: families.reading("load"),
            value: families.reading("value"),
            lease: families.reading("lease"),
        }
    }
}

#[async_trait]
impl Journal for Measured {
    async fn append(&self, batch: Vec<Append>) -> Vec<Written> {
        self.append.of(batch.len(), self.store.append(batch)).await
    }

    fn load(&self, entity: &EntityId) -> BoxStream<'static, Result<Loaded, Error>> {
        let timed = Timed { metrics: self.load.clone(), began: Instant::now() };
        let pieces = self.store.load(entity);
        pieces
            .map(move |piece| {
                if piece.is_err() {
                    timed.metrics.errors.inc();
                }
                piece
            })
            .boxed()
    }

    fn events(
        &self,
        persistence_id: &str,
        after: &Position,
    ) -> BoxStream<'static, Result<Published, Error>> {
        self.store.events(persistence_id, after)
    }
}

/// A reading; it has ended when nobody reads any more.
struct Timed {
    metrics: ReadMetrics,
    began: Instant,
}

impl Drop for Timed {
    fn drop(&mut self) {
        self.metrics.duration.observe(self.began.elapsed().as_secs_f64());
    }
}

#[async_trait]
impl Values for Measured {
    async fn put(&self, batch: Vec<Put>) -> Vec<Written> {
        self.put.of(batch.len(), self.store.put(batch)).await
    }

    async fn value(&self, entity: &EntityId) -> Result<(Version, Option<Any>), Error> {
        let began = Instant::now();
        self.value.ended(began, self.store.value(entity).await)
    }
}

#[async_trait]
impl Epochs for Measured {
    async fn lease(&self, shard: Shard) -> Result<Lease, Error> {
        let began = Instant::now();
        self.lease.ended(began, self.store.lease(shard).await)
    }

    async fn ask(&self, shard: Shard, asker: Owner) -> Result<Lease, Error> {
        let began = Instant::now();
        self.lease.ended(began, self.store.ask(shard, asker).await)
    }

    async fn claim(
        &self,
        shard: Shard,
        owner: Owner,
        seen: &Lease,
    ) -> Result<Option<Epoch>, Error> {
        let began = Instant::now();
        self.lease.ended(began, self.store.claim(shard, owner, seen).await)
    }

    async fn renew(&self, guard: Guard) -> Result<Renewed, Error> {
        let began = Instant::now();
        self.lease.ended(began, self.store.renew(guard).await)
    }

    async fn release(&self, guard: Guard) -> Result<(), Error> {
        let began = Instant::now();
        self.lease.ended(began, self.store.release(guard).await)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.store.changes()
    }
}
