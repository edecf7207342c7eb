//! Where events live: the traits that every store implements, and what its answers mean.
//!
//! A write names the sequence number that it follows and the epoch under which its owner serves. The
//! store itself compares both in the write, so a proxy that lost its place can never get a write
//! accepted, whatever it believes (`docs/promises.md`, I2 and I4).

pub mod batch;
#[cfg(test)]
mod faulty;
mod memory;
mod open;
pub mod postgres;
pub mod sqlite;
#[cfg(test)]
mod suite;

use async_trait::async_trait;
use futures::stream::BoxStream;
use protocol::Any;
use tokio::sync::watch;

pub use batch::Batcher;
pub use memory::Memory;
pub use open::{Settings, open};
pub use postgres::Postgres;
pub use sqlite::Sqlite;

/// Names one entity in the journal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntityId {
    /// What the user function calls this type of entity in storage.
    pub persistence_id: String,
    /// The key out of the command.
    pub key: String,
}

/// A term of ownership: counts up with each owner, so that an old owner's writes can be told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(pub u64);

/// A part of all entities that is owned as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shard(pub u32);

impl Shard {
    /// The only shard as long as one replica serves all entities.
    pub const WHOLE: Self = Self(0);
}

/// Position of an event in its entity's history: 1 is the first, 0 stands before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sequence(pub u64);

impl Sequence {
    /// The position of the last of `count` events that follow this one.
    #[must_use]
    pub fn after(self, count: usize) -> Self {
        Self(self.0 + count as u64)
    }
}

/// How often an entity's value was written: 0 stands for never. A deleted value keeps its count, so
/// that a write that was thought lost cannot bring it back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u64);

impl Version {
    /// The version that one write on top of this one makes.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// What every write carries, and the store compares: the term of ownership of its writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// Which shard's epoch guards the write.
    pub shard: Shard,
    /// The epoch that the writer serves under.
    pub epoch: Epoch,
}

/// The events of one reply: written all or none.
#[derive(Clone, Debug)]
pub struct Append {
    /// Whose events they are.
    pub entity: EntityId,
    /// Under which ownership.
    pub guard: Guard,
    /// The last sequence number that the writer knows of; the first event follows it.
    pub expected: Sequence,
    /// At least one.
    pub events: Vec<Any>,
    /// The state after the last of the events.
    pub snapshot: Option<Any>,
}

/// The new value of one entity.
#[derive(Clone, Debug)]
pub struct Put {
    /// Whose value it is.
    pub entity: EntityId,
    /// Under which ownership.
    pub guard: Guard,
    /// The version that the writer knows of.
    pub expected: Version,
    /// The version that this write makes: the one after, or a later one when the write stands for
    /// several that became one on their way.
    pub next: Version,
    /// Absent to delete the value.
    pub value: Option<Any>,
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// All of it is durable.
    Committed,
    /// Nothing was written: the entity's history goes on elsewhere than expected.
    Conflict,
    /// Nothing was written: a newer epoch has begun.
    Fenced,
    /// Nothing was written: the store refused and said why.
    Refused(String),
    /// Nobody can say whether it was written; reading again will tell.
    Unknown(String),
}

/// One piece of an entity's history, in the order in which [`Journal::load`] gives them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// First of all, when there is one: the newest state, and the last event that it contains.
    Snapshot(Sequence, Any),
    /// An event after the snapshot; positions follow each other without a gap.
    Event(Sequence, Any),
}

/// How far somebody has read the events of one type. It begins before the first event, and can be kept and given back
/// later; what `at` counts is the store's own affair.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The commit that the event came with, or the event itself.
    pub at: u64,
    /// Which entity's event it is, as the store writes that.
    pub key: String,
    /// Which one of it.
    pub sequence: Sequence,
}

/// An event among all of its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Where to go on reading behind it.
    pub position: Position,
    /// The entity's key.
    pub key: String,
    /// Its place in the entity's history.
    pub sequence: Sequence,
    /// What happened.
    pub event: Any,
}

/// A store that did not answer as it should.
#[derive(Debug, thiserror::Error)]
#[error("failed to {doing}")]
pub struct Error {
    doing: String,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl Error {
    /// What was tried, as in "failed to …", and what the store said.
    pub fn new(
        doing: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { doing: doing.into(), source: source.into() }
    }
}

/// Events of all entities.
#[async_trait]
pub trait Journal: Send + Sync + 'static {
    /// Writes the events of several replies together, and tells of each what became of it. No two
    /// are of the same entity. One that is refused takes no other with it.
    ///
    /// # Cancel safety
    /// A dropped future leaves every outcome unknown, like [`Written::Unknown`].
    async fn append(&self, batch: Vec<Append>) -> Vec<Written>;

    /// Streams the newest snapshot and the events after it, never holding a whole history in memory.
    fn load(&self, entity: &EntityId) -> BoxStream<'static, Result<Loaded, Error>>;

    /// Streams the events of one type that are behind a position, of all its entities, in an order that never
    /// changes and keeps that of each entity. It ends with what is there; an event that comes later stands behind
    /// it. One that was committed a moment ago may only come with the next reading.
    fn events(
        &self,
        persistence_id: &str,
        after: &Position,
    ) -> BoxStream<'static, Result<Published, Error>>;
}

/// The current value of each entity.
#[async_trait]
pub trait Values: Send + Sync + 'static {
    /// Writes several values together, and tells of each what became of it. No two are of the same
    /// entity. One that is refused takes no other with it.
    ///
    /// # Cancel safety
    /// A dropped future leaves every outcome unknown, like [`Written::Unknown`].
    async fn put(&self, batch: Vec<Put>) -> Vec<Written>;

    /// Reads a value and its version; no value when there never was one or it was deleted.
    async fn value(&self, entity: &EntityId) -> Result<(Version, Option<Any>), Error>;
}

/// Names one life of one proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner(pub uuid::Uuid);

/// What the store knows of a shard's ownership.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// The newest epoch; `Epoch(0)` stands before the first.
    pub epoch: Epoch,
    /// Who began it; none once it was released.
    pub owner: Option<Owner>,
    /// Counts the owner's renewals.
    pub beat: u64,
    /// Who asks the owner to release.
    pub asked_by: Option<Owner>,
}

/// What became of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewed {
    /// The epoch goes on; `asked_by` would like to be the next owner.
    Kept {
        /// Who asks.
        asked_by: Option<Owner>,
    },
    /// A newer epoch has begun.
    Fenced,
}

/// Who owns which shard. The epoch that every write is compared with lives here too.
#[async_trait]
pub trait Epochs: Send + Sync + 'static {
    /// What is known of a shard's ownership.
    async fn lease(&self, shard: Shard) -> Result<Lease, Error>;

    /// Leaves word with the owner that somebody waits; gives what is known after that.
    async fn ask(&self, shard: Shard, asker: Owner) -> Result<Lease, Error>;

    /// Begins the next epoch, unless epoch, owner or beat are not those of `seen` any more. Every
    /// older epoch is fenced from here on: when this returns, no write of it can become durable any
    /// more. Takes back the request of `owner`, and the one that `seen` tells of: it has had its turn.
    async fn claim(&self, shard: Shard, owner: Owner, seen: &Lease)
    -> Result<Option<Epoch>, Error>;

    /// Tells that the owner of this epoch lives.
    async fn renew(&self, guard: Guard) -> Result<Renewed, Error>;

    /// Gives the shard up: the epoch stays the newest one, and has no owner. Of an older epoch, nothing.
    async fn release(&self, guard: Guard) -> Result<(), Error>;

    /// Counts up when somebody may have asked for, claimed or released a shard, as soon as the store tells.
    /// A hint: it may come without reason, and it may not come at all.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// All that entities need of a store.
pub trait Store: Journal + Values + Epochs {}

impl<T: Journal + Values + Epochs> Store for T {}
