//! What goes over an entity's stream, the same for every kind of entity; `event_sourced` and `value`
//! say how it looks on the wire.

use protocol::{
    Any,
    cloudstate::{self, ClientAction, Metadata, SideEffect, client_action},
};

use super::{Failure, FailureKind, Reply, Then};
use crate::journal::Sequence;

/// What is said to the user function.
#[derive(Clone, Debug, PartialEq)]
pub enum Outgoing {
    /// First of all: the state that the activation begins with.
    Init(Option<State>),
    /// An event after that state.
    Event(Sequence, Any),
    /// A command.
    Command {
        /// Counts up from 1 in each activation.
        id: i64,
        /// Bare name of the method.
        name: String,
        /// The caller's message.
        payload: Any,
        /// The caller's headers.
        metadata: Option<Metadata>,
    },
}

impl Outgoing {
    /// About as many bytes as it takes.
    pub fn size(&self) -> usize {
        match self {
            Self::Init(state) => state.as_ref().map_or(0, |state| state.payload.value.len()),
            Self::Event(_, payload) | Self::Command { payload, .. } => payload.value.len(),
        }
    }
}

/// A whole state, and how many events or writes made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The last event that it contains.
    pub sequence: Sequence,
    /// As the user function gave it.
    pub payload: Any,
}

/// What the user function said.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "nearly every message is a reply")]
pub enum Incoming {
    /// An answer to a command.
    Reply(Reaction),
    /// The stream is broken.
    Failure(cloudstate::Failure),
    /// Nothing that the protocol knows, in words.
    Nonsense(&'static str),
}

/// What the user function did with a command.
#[derive(Clone, Debug, PartialEq)]
pub struct Reaction {
    /// Which command.
    pub command_id: i64,
    /// What the caller is told.
    pub then: Then,
    /// Commands for other methods.
    pub effects: Vec<SideEffect>,
    /// What is to be stored first.
    pub write: Option<Write>,
    /// Whether the user function wants to be given its state again, on a new stream.
    pub restart: bool,
    /// What of it was ignored, in words.
    pub ignored: Option<&'static str>,
}

/// A change of an entity's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// At least one event, and the state after the last of them.
    Events(Vec<Any>, Option<Any>),
    /// A new value, or none at all.
    Value(Option<Any>),
}

impl Write {
    /// Where the entity's history goes on after this.
    pub fn after(&self, sequence: Sequence) -> Sequence {
        match self {
            Self::Events(events, _) => sequence.after(events.len()),
            Self::Value(_) => sequence.after(1),
        }
    }
}

/// Whether a client action asks for a new activation.
pub(super) fn wants_restart(action: Option<&ClientAction>) -> bool {
    let action = action.and_then(|action| action.action.as_ref());
    matches!(action, Some(client_action::Action::Failure(failure)) if failure.restart)
}

/// What a client action means for the caller.
pub(super) fn then(action: Option<ClientAction>) -> Then {
    match action.and_then(|action| action.action) {
        Some(client_action::Action::Reply(reply)) => match reply.payload {
            Some(Any { type_url, value }) => {
                Then::Reply(Reply { type_url, payload: value, metadata: reply.metadata })
            }
            None => Then::Nothing,
        },
        Some(client_action::Action::Failure(failure)) => {
            Then::Fail(Failure::new(FailureKind::Failed, failure.description))
        }
        Some(client_action::Action::Forward(forward)) => Then::Forward(forward),
        None => Then::Nothing,
    }
}

/// Sequence numbers are signed on the wire and never get near the end of either range.
pub(super) fn signed(sequence: Sequence) -> i64 {
    i64::try_from(sequence.0).unwrap_or(i64::MAX)
}
