//! Any message of the protocol.

use protocol::cloudstate::{
    EntitySpec, ProxyInfo, UserFunctionError,
    action::{ActionCommand, ActionResponse},
    eventsourced::{EventSourcedStreamIn, EventSourcedStreamOut, event_sourced_stream_in},
    valueentity::{ValueEntityStreamIn, ValueEntityStreamOut, value_entity_stream_in},
};

/// Any message of the protocol.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    Discover(ProxyInfo),
    Spec(EntitySpec),
    Error(UserFunctionError),
    Nothing,
    EventSourcedIn(EventSourcedStreamIn),
    EventSourcedOut(EventSourcedStreamOut),
    ValueIn(ValueEntityStreamIn),
    ValueOut(ValueEntityStreamOut),
    ActionIn(ActionCommand),
    ActionOut(ActionResponse),
}

impl Message {
    /// Whether it begins an activation of this entity.
    pub fn opens(&self, service: &str, entity: &str) -> bool {
        match self {
            Self::EventSourcedIn(EventSourcedStreamIn {
                message: Some(event_sourced_stream_in::Message::Init(init)),
            }) => init.service_name == service && init.entity_id == entity,
            Self::ValueIn(ValueEntityStreamIn {
                message: Some(value_entity_stream_in::Message::Init(init)),
            }) => init.service_name == service && init.entity_id == entity,
            _ => false,
        }
    }
}

macro_rules! from {
    ($($type:ty => $variant:ident),* $(,)?) => {
        $(impl From<$type> for Message {
            fn from(message: $type) -> Self {
                Self::$variant(message)
            }
        })*
    };
}

from! {
    ProxyInfo => Discover,
    EntitySpec => Spec,
    UserFunctionError => Error,
    EventSourcedStreamIn => EventSourcedIn,
    EventSourcedStreamOut => EventSourcedOut,
    ValueEntityStreamIn => ValueIn,
    ValueEntityStreamOut => ValueOut,
    ActionResponse => ActionOut,
}

impl From<()> for Message {
    fn from((): ()) -> Self {
        Self::Nothing
    }
}

impl From<ActionCommand> for Message {
    fn from(mut command: ActionCommand) -> Self {
        // No metadata and metadata without entries say the same.
        command.metadata.take_if(|metadata| metadata.entries.is_empty());
        Self::ActionIn(command)
    }
}
