//! Where events live: the traits that every store implements, and what its answers mean.
//!
//! A write names the sequence number that it follows and the epoch under which its owner serves. The
//! store itself compares both in the write, so a proxy that lost its place can never get a write
//! accepted, whatever it believes (`docs/promises.md`, I2 and I4).

mod memory;

use async_trait::async_trait;
use futures::stream::BoxStream;
use protocol::Any;

pub use memory::Memory;

/// Names one entity in the journal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntityId {
    /// What the user function calls this type of entity in storage.
    pub persistence_id: String,
    /// The key out of the command.
    pub key: String,
}

/// A term of ownership: counts up with each owner, so that an old owner's writes can be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

/// The events of one reply: written all or none.
#[derive(Clone, Debug)]
pub struct Append {
    /// Whose events they are.
    pub entity: EntityId,
    /// Which shard's epoch guards the write.
    pub shard: Shard,
    /// The epoch that the writer serves under.
    pub epoch: Epoch,
    /// The last sequence number that the writer knows of; the first event follows it.
    pub expected: Sequence,
    /// At least one.
    pub events: Vec<Any>,
    /// The state after the last of the events.
    pub snapshot: Option<Any>,
}

/// What became of an [`Append`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Appended {
    /// Every event is durable.
    Committed,
    /// Nothing was written: the entity's history goes on elsewhere than expected.
    Conflict,
    /// Nothing was written: a newer epoch has begun.
    Fenced,
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

/// A store that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store did not answer as it should.
    #[error("failed to read the journal of {persistence_id}|{key}: {detail}")]
    Read {
        /// Type of entity.
        persistence_id: String,
        /// Key of the entity.
        key: String,
        /// What the store said.
        detail: String,
    },
}

/// Events of all entities.
#[async_trait]
pub trait Journal: Send + Sync + 'static {
    /// Writes the events of one reply.
    ///
    /// # Cancel safety
    /// A dropped future leaves the outcome unknown, like [`Appended::Unknown`].
    async fn append(&self, append: Append) -> Appended;

    /// Streams the newest snapshot and the events after it, never holding a whole history in memory.
    fn load(&self, entity: &EntityId) -> BoxStream<'static, Result<Loaded, Error>>;
}

/// Who owns which shard.
#[async_trait]
pub trait Epochs: Send + Sync + 'static {
    /// Begins the next epoch of a shard; every older one is fenced from here on.
    async fn claim(&self, shard: Shard) -> Result<Epoch, Error>;
}
