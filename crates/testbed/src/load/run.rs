//! Many callers at once: each waits for its reply before the next call (closed), or calls go out at a fixed
//! rate whatever comes back (open).

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use prost::Message as _;
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{self, Instant, MissedTickBehavior},
};

use super::{Accounts, Answer, Broken, Chance, Connection, Latency, Path, frame};
use crate::counter::{Request, Total};

/// Calls that an open load has under way at most; beyond, the generator itself would be what is measured.
const OPEN_UNDER_WAY: usize = 40_000;
/// Calls of an open load go out together, this often.
const OPEN_TICK: Duration = Duration::from_millis(1);

/// Several connections to one server.
#[derive(Clone, Debug)]
pub struct Pool(Arc<[Connection]>);

impl Pool {
    /// Opens so many connections.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub async fn open(to: SocketAddr, connections: usize) -> Result<Self> {
        let mut open = Vec::with_capacity(connections);
        for _ in 0..connections {
            let connection = Connection::open(to).await;
            open.push(connection.with_context(|| format!("failed to connect to {to}"))?);
        }
        Ok(Self(open.into()))
    }

    /// The connection of the caller with that number.
    pub fn of(&self, caller: usize) -> &Connection {
        &self.0[caller % self.0.len()]
    }
}

/// Which entities are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// Any of so many, each as likely.
    Among(usize),
    /// A new one with each call.
    Fresh,
}

/// What is called, and what is known of it so far; clones share that.
#[derive(Clone, Debug)]
pub struct Load(What);

#[derive(Clone, Debug)]
enum What {
    Entities(Arc<Entities>),
    Same(Arc<Same>),
}

/// Additions to entities, and reads of them.
#[derive(Debug)]
struct Entities {
    prefix: String,
    add: Path,
    get: Path,
    keys: Keys,
    reads_percent: usize,
    frames: Vec<Bytes>,
    accounts: Mutex<Accounts>,
}

/// One call that is always answered alike.
#[derive(Debug)]
struct Same {
    path: Path,
    frame: Bytes,
    reply: Bytes,
}

/// What came of a load.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// From the first call to the last reply.
    pub elapsed: Duration,
    /// Of calls with a good reply.
    pub latency: Latency,
    /// Calls that were refused, by their status.
    pub refused: BTreeMap<u8, u64>,
    /// Text of one refusal.
    pub refusal: Option<String>,
    /// Calls that the generator itself could not send in time.
    pub unsent: u64,
}

impl Load {
    /// Calls of `Add` and `Get` on a service of the counter. The names of its entities start with `prefix`.
    pub fn entities(service: &str, prefix: &str, keys: Keys, reads_percent: usize) -> Self {
        let entities = match keys {
            Keys::Among(entities) => entities,
            Keys::Fresh => 0,
        };
        Self(What::Entities(Arc::new(Entities {
            prefix: prefix.to_owned(),
            add: Path::new(service, "Add"),
            get: Path::new(service, "Get"),
            keys,
            reads_percent,
            frames: (0..entities).map(|entity| addition(prefix, entity)).collect(),
            accounts: Mutex::new(Accounts::new(entities)),
        })))
    }

    /// The same call each time, whose reply is known.
    pub fn same(path: Path, message: &impl prost::Message, reply: &impl prost::Message) -> Self {
        let reply = reply.encode_to_vec().into();
        Self(What::Same(Arc::new(Same { path, frame: frame(message), reply })))
    }

    /// So many callers, each of which calls again as soon as it has its reply, for so long.
    ///
    /// # Errors
    /// When a reply cannot be true, or there is none.
    pub async fn closed(&self, pool: &Pool, callers: usize, run: Duration) -> Result<Measured> {
        let end = Instant::now() + run;
        self.callers(pool, callers, move || Instant::now() < end).await
    }

    /// So many callers, and so many calls in all.
    ///
    /// # Errors
    /// As [`closed`](Self::closed).
    pub async fn some(&self, pool: &Pool, callers: usize, calls: usize) -> Result<Measured> {
        let left = Arc::new(AtomicUsize::new(calls));
        let take = move || left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
        self.callers(pool, callers, take).await
    }

    async fn callers(
        &self,
        pool: &Pool,
        callers: usize,
        again: impl Fn() -> bool + Clone + Send + 'static,
    ) -> Result<Measured> {
        let begun = Instant::now();
        let mut tasks = JoinSet::new();
        for caller in 0..callers {
            let (load, connection) = (self.clone(), pool.of(caller).clone());
            let again = again.clone();
            tasks.spawn(async move {
                let mut chance = Chance::new(caller as u64);
                let mut measured = Measured::default();
                while again() {
                    let sent = Instant::now();
                    let answer = load.call(&connection, &mut chance).await?;
                    measured.count(answer, sent.elapsed());
                }
                anyhow::Ok(measured)
            });
        }
        let mut all = Measured::default();
        while let Some(measured) = tasks.join_next().await {
            all.merge(measured??);
        }
        all.elapsed = begun.elapsed();
        Ok(all)
    }

    /// So many calls a second, for so long. A call counts from when it should have gone out.
    ///
    /// # Errors
    /// As [`closed`](Self::closed).
    pub async fn open(&self, pool: &Pool, rate: f64, run: Duration) -> Result<Measured> {
        let begun = Instant::now();
        let mut ticks = time::interval_at(begun, OPEN_TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let places = Arc::new(Semaphore::new(OPEN_UNDER_WAY));
        let (mut tasks, mut all) = (JoinSet::new(), Measured::default());
        let mut owed = 0.0;
        let mut caller = 0;
        loop {
            let due = ticks.tick().await;
            if due.duration_since(begun) >= run {
                break;
            }
            owed += rate * OPEN_TICK.as_secs_f64();
            while owed >= 1.0 {
                owed -= 1.0;
                caller += 1;
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                    all.unsent += 1;
                    continue;
                };
                let (load, connection) = (self.clone(), pool.of(caller).clone());
                tasks.spawn(async move {
                    let answer = load.call(&connection, &mut Chance::new(caller as u64)).await;
                    drop(place);
                    answer.map(|answer| (answer, due.elapsed()))
                });
            }
            while let Some(ended) = tasks.try_join_next() {
                let (answer, took) = ended??;
                all.count(answer, took);
            }
        }
        while let Some(ended) = tasks.join_next().await {
            let (answer, took) = ended??;
            all.count(answer, took);
        }
        all.elapsed = begun.elapsed();
        Ok(all)
    }

    /// Reads every entity that was called, once nothing is under way: nothing is lost, nothing doubled.
    ///
    /// # Errors
    /// When a total is not what it must be.
    pub async fn verify(&self, pool: &Pool) -> Result<usize> {
        let What::Entities(entities) = &self.0 else { return Ok(0) };
        let used: Vec<_> = entities.accounts().used().collect();
        let places = Arc::new(Semaphore::new(64));
        let mut tasks = JoinSet::new();
        for entity in used.iter().copied() {
            let place = Arc::clone(&places).acquire_owned().await?;
            let (get, connection) = (entities.get.clone(), pool.of(entity).clone());
            let frame = addition(&entities.prefix, entity);
            tasks.spawn(async move {
                let answer = connection.call(&get, frame).await;
                drop(place);
                (entity, answer)
            });
        }
        while let Some(ended) = tasks.join_next().await {
            let (entity, answer) = ended?;
            let answer = answer.with_context(|| format!("no last read of entity {entity}"))?;
            ensure!(answer.code == 0, "the last read of entity {entity} failed: {answer:?}");
            entities.accounts().ended(entity, Total::decode(answer.payload)?.value)?;
        }
        Ok(used.len())
    }

    /// One call; the answer has been checked.
    async fn call(&self, connection: &Connection, chance: &mut Chance) -> Result<Answer> {
        match &self.0 {
            What::Entities(entities) => entities.call(connection, chance).await,
            What::Same(same) => same.call(connection).await,
        }
    }
}

impl Same {
    async fn call(&self, connection: &Connection) -> Result<Answer> {
        let answer = connection.call(&self.path, self.frame.clone()).await.map_err(broken)?;
        let right = answer.code != 0 || answer.payload == self.reply;
        ensure!(right, "not what was expected: {answer:?}");
        Ok(answer)
    }
}

impl Entities {
    async fn call(&self, connection: &Connection, chance: &mut Chance) -> Result<Answer> {
        let (entity, frame) = match self.keys {
            Keys::Among(entities) => {
                let entity = chance.below(entities);
                (entity, self.frames[entity].clone())
            }
            Keys::Fresh => {
                let entity = self.accounts().push();
                (entity, addition(&self.prefix, entity))
            }
        };
        let read = chance.below(100) < self.reads_percent;
        let floor = if read { self.accounts().read(entity) } else { self.accounts().add(entity) };
        let answer = connection.call(if read { &self.get } else { &self.add }, frame).await;
        let mut accounts = self.accounts();
        match &answer {
            Ok(Answer { code: 0, payload, .. }) => {
                let total = Total::decode(payload.clone())?.value;
                if read {
                    accounts.was_read(entity, floor, total)?;
                } else {
                    accounts.added(entity, floor, total)?;
                }
            }
            Ok(_) | Err(_) if !read => accounts.lost(entity),
            Ok(_) | Err(_) => {}
        }
        answer.map_err(broken)
    }

    fn accounts(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn broken(broken: Broken) -> anyhow::Error {
    anyhow::Error::new(broken).context("a call has no answer")
}

/// Adds one to the entity with that number; reads it when `Get` is called with it.
fn addition(prefix: &str, entity: usize) -> Bytes {
    frame(&Request { id: format!("{prefix}{entity}"), amount: 1, ..Request::default() })
}

impl Measured {
    /// Good replies each second.
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    pub fn rate(&self) -> f64 {
        self.latency.count() as f64 / self.elapsed.as_secs_f64()
    }

    /// Nothing was refused.
    ///
    /// # Errors
    /// With one of the refusals.
    pub fn without_refusal(self) -> Result<Self> {
        match &self.refusal {
            Some(text) => bail!("calls were refused, by status {:?}: {text}", self.refused),
            None => Ok(self),
        }
    }

    fn count(&mut self, answer: Answer, took: Duration) {
        if answer.code == 0 {
            self.latency.record(took);
        } else {
            *self.refused.entry(answer.code).or_default() += 1;
            self.refusal.get_or_insert(answer.message);
        }
    }

    fn merge(&mut self, other: Self) {
        self.latency.merge(&other.latency);
        for (code, count) in other.refused {
            *self.refused.entry(code).or_default() += count;
        }
        self.refusal = self.refusal.take().or(other.refusal);
        self.unsent += other.unsent;
    }
}
