//! What can go wrong between a client and the server.

use crate::kinds::Kind;

/// What a call asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// One object.
    Get,
    /// All objects of a kind.
    List,
    /// What happens to them.
    Watch,
    /// A new object.
    Create,
    /// Server-side apply.
    Apply,
    /// Any other patch.
    Patch,
    /// An object as a whole.
    Replace,
    /// That an object is no more.
    Delete,
    /// What this client may do: nothing is kept of it.
    Review,
}

impl Verb {
    /// Whether it changes something.
    pub fn is_write(self) -> bool {
        !matches!(self, Self::Get | Self::List | Self::Watch | Self::Review)
    }
}

/// A call as the server gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Counts the calls of a connection from zero.
    pub index: usize,
    /// What it asks for.
    pub verb: Verb,
    /// About which objects.
    pub kind: Kind,
    /// Empty for all namespaces.
    pub namespace: String,
    /// Empty where it is about all objects, or where the server chooses it.
    pub name: String,
    /// Whether it is about the status.
    pub is_status: bool,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection breaks before the server hears of it.
    Lost,
    /// It is done, and the connection breaks before the answer.
    ReplyLost,
    /// The server never hears of it, and nobody is told.
    Hangs,
    /// It is done, and no answer ever comes.
    ReplyHangs,
    /// The server says no, with this HTTP status.
    Refused(u16),
    /// The client dies before the server hears of it.
    Dies,
    /// It is done, and the client dies before the answer.
    DiesAfter,
}

/// What becomes of an event of a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It arrives.
    Once,
    /// It arrives twice.
    Twice,
    /// It arrives, and behind it the version of the object from before.
    ThenStale,
    /// It never arrives, and the watch says that its version is too old: what was missed has to be
    /// listed.
    Missed,
    /// The connection breaks instead.
    Cut,
}
