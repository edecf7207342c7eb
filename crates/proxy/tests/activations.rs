//! Many entities with long histories that are all wanted at once, as after a restart.

#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, missing_docs, reason = "a test")]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use protocol::Any;
use proxy::journal::{
    Append, EntityId, Epoch, Epochs, Error, Guard, Journal, Lease, Loaded, Memory, Owner, Position,
    Published, Put, Renewed, Shard, Values, Version, Written,
};
use support::{
    call,
    counter::{Counter, item},
};
use tokio::{
    sync::{Mutex, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, transport::Channel};

const ENTITIES: usize = 400;
const EVENTS: usize = 20;
/// How long the store, which reads one history at a time, takes for one: all together four times as long as an
/// activation may take.
const READING: Duration = Duration::from_millis(10);
const ACTIVATION: Duration = Duration::from_secs(1);
/// A proxy reads as many at once, and waits for the first piece of as many.
const AT_ONCE: usize = 32;
const FETCHES: usize = 4;

/// A slow store, which counts its readers.
#[derive(Clone, Default)]
struct Slow {
    memory: Memory,
    busy: Arc<Mutex<()>>,
    readers: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

struct Reader(Arc<AtomicUsize>);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Journal for Slow {
    async fn append(&self, batch: Vec<Append>) -> Vec<Written> {
        self.memory.append(batch).await
    }

    fn load(&self, entity: &EntityId) -> BoxStream<'static, Result<Loaded, Error>> {
        let readers = self.readers.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(readers, Ordering::SeqCst);
        let (reader, busy) = (Reader(Arc::clone(&self.readers)), Arc::clone(&self.busy));
        let history = self.memory.load(entity);
        stream::once(async move {
            let _alone = busy.lock().await;
            sleep(READING).await;
        })
        .flat_map(move |()| stream::empty())
        .chain(history)
        .inspect(move |_piece| {
            let _held = &reader;
        })
        .boxed()
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
impl Values for Slow {
    async fn put(&self, batch: Vec<Put>) -> Vec<Written> {
        self.memory.put(batch).await
    }

    async fn value(&self, entity: &EntityId) -> Result<(Version, Option<Any>), Error> {
        self.memory.value(entity).await
    }
}

#[async_trait]
impl Epochs for Slow {
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

    fn changes(&self) -> watch::Receiver<u64> {
        self.memory.changes()
    }
}

/// Writes a history for each entity, as an owner before this one did.
async fn fill(store: &Memory) {
    let (shard, owner) = (Shard::WHOLE, Owner(uuid::Uuid::from_u128(1)));
    let epoch = store.claim(shard, owner, &Lease::default()).await.unwrap().unwrap();
    let guard = Guard { shard, epoch };
    let value = Bytes::copy_from_slice(&1_i64.to_be_bytes());
    let one = Any { type_url: "json.cloudstate.io/number".to_owned(), value };
    let append = |key: usize| Append {
        entity: EntityId { persistence_id: "counter".to_owned(), key: key.to_string() },
        guard,
        expected: proxy::journal::Sequence(0),
        events: vec![one.clone(); EVENTS],
        snapshot: None,
    };
    let written = store.append((0..ENTITIES).map(append).collect()).await;
    assert!(written.iter().all(|written| *written == Written::Committed));
    store.release(guard).await.unwrap();
}

#[tokio::test]
async fn histories_are_read_a_few_at_a_time_and_every_entity_gets_its_turn() {
    let store = Slow::default();
    fill(&store.memory).await;
    let (address, counter) = (support::address(), Counter::default());
    counter.listen((address, 8080).into());
    let mut config = support::config(address);
    config.entities.activation = ACTIVATION;
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    tokio::spawn(proxy::run_on(config, Some(Arc::new(store.clone())), stop));
    support::eventually("the proxy is ready", async || {
        support::get(address, "/ready").await.starts_with("HTTP/1.1 200")
    })
    .await;
    let endpoint = Channel::from_shared(format!("http://{address}:8013")).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let calls = (0..ENTITIES).map(|key| {
        tokio::spawn(call(channel.clone(), "Get", Request::new(item(&key.to_string(), 0))))
    });
    for call in calls.collect::<Vec<_>>() {
        let total = call.await.unwrap().unwrap().into_inner();
        assert_eq!(total.value, i64::try_from(EVENTS).unwrap());
    }
    let most = store.most.load(Ordering::SeqCst);
    assert!(most <= AT_ONCE, "{most} histories were read at once");
    assert!(most >= FETCHES, "{most} histories were read at once although {FETCHES} may be");
}
