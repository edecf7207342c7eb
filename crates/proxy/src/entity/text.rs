//! Texts that callers and tests of the original rely on (`docs/protocol.md`, "Failures").

use crate::route::Kind;

/// What callers are told when a user function breaks the rules.
#[derive(Debug)]
pub(super) struct Texts {
    /// It said that its stream is broken.
    pub(super) failure: &'static str,
    /// It replied to a command that nobody waits for.
    pub(super) reply: &'static str,
    /// It said something that the protocol does not know.
    pub(super) message: &'static str,
    /// It ended the stream under a command.
    pub(super) termination: &'static str,
    /// For commands that waited behind the one that went wrong.
    pub(super) terminated: &'static str,
}

static EVENT_SOURCED: Texts = Texts {
    failure: "Unexpected entity failure",
    reply: "Unexpected entity reply",
    message: "Unexpected entity message",
    termination: "Unexpected entity termination",
    terminated: "Entity terminated",
};

static VALUE: Texts = Texts {
    failure: "Unexpected Value entity failure",
    reply: "Unexpected Value entity reply",
    message: "Unexpected Value entity failure",
    termination: "Unexpected Value entity termination",
    terminated: "Value entity terminated",
};

impl Texts {
    pub(super) fn of(kind: Kind) -> &'static Self {
        match kind {
            Kind::Value => &VALUE,
            Kind::EventSourced | Kind::Action => &EVENT_SOURCED,
        }
    }
}
