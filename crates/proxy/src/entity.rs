//! Entities: each is a state machine without I/O, a driver that carries out what the machine says,
//! and an entry among the open [`Entities`].

mod caller;
mod context;
mod driver;
mod event_sourced;
pub(crate) mod history;
mod large;
pub mod machine;
pub mod message;
mod meter;
mod outbound;
mod registry;
mod room;
mod text;
mod turn;
mod value;
mod wire;

use std::time::Duration;

use bytes::Bytes;
use protocol::cloudstate::{Forward, Metadata, SideEffect};

pub use context::{Context, Orphan};
pub use driver::View;
pub use registry::Entities;
pub use turn::Turns;

/// What an entity answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// Names the type of the payload.
    pub type_url: String,
    /// The encoded message, byte for byte as the user function sent it.
    pub payload: Bytes,
    /// Headers for the caller.
    pub metadata: Option<Metadata>,
}

/// Why a command has no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What kind of thing went wrong; callers see it as a gRPC status code.
    pub kind: FailureKind,
    /// For the caller; tells nothing that only the log should know.
    pub message: String,
}

/// What kind of thing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The user function failed, or says that the command fails.
    Failed,
    /// The command names no entity, or is no message.
    InvalidArgument,
    /// No answer in time.
    DeadlineExceeded,
    /// A queue is full.
    ResourceExhausted,
    /// The user function or the journal is away; the command may be tried again.
    Unavailable,
    /// The user function asks for something that this proxy does not do.
    Unimplemented,
    /// The user function answered without an answer.
    Internal,
    /// Whatever this gRPC status says, with which the user function ended a call.
    Told(tonic::Code),
}

impl Failure {
    /// A failure of this kind.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

/// Reply or failure: every command that was taken gets exactly one.
pub type Outcome = Result<Reply, Failure>;

/// What an entity or an action said to a command. Whatever it says is durable when it is given.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Commands for other methods, to be carried out in this order before anything else.
    pub effects: Vec<SideEffect>,
    /// What comes then.
    pub then: Then,
}

impl Answer {
    /// Whether something is to be carried out for it, even when nobody waits for it any more.
    pub fn is_to_be_carried_out(&self) -> bool {
        !self.effects.is_empty() || matches!(self.then, Then::Forward(_))
    }
}

impl From<Failure> for Answer {
    fn from(failure: Failure) -> Self {
        Self { effects: Vec::new(), then: Then::Fail(failure) }
    }
}

/// How a command ends for its caller.
#[derive(Clone, Debug, PartialEq)]
pub enum Then {
    /// With this message.
    Reply(Reply),
    /// With whatever another method says.
    Forward(Forward),
    /// With a status.
    Fail(Failure),
    /// Without a message.
    Nothing,
}

/// The bounds that every entity lives within.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Commands that may wait for one entity.
    pub queue: usize,
    /// Replies of one entity that may wait for the journal.
    pub in_flight: usize,
    /// Entities whose history is read at once, if the memory budget has room for as many.
    pub replays: usize,
    /// Idle time after which an entity is passivated, unless its service says otherwise.
    pub passivation: Duration,
    /// From one sign of progress to the next while an entity is activated.
    pub activation: Duration,
    /// From a command to its reply.
    pub command: Duration,
    /// For one write into the journal.
    pub append: Duration,
    /// From our end of a stream to the user function's.
    pub close: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue: 1_000,
            in_flight: 32,
            replays: 32,
            passivation: Duration::from_secs(30),
            activation: Duration::from_secs(5),
            command: Duration::from_mins(1),
            append: Duration::from_secs(5),
            close: Duration::from_secs(5),
        }
    }
}
