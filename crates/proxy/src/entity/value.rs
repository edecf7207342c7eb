//! Value entities on the wire.

use protocol::cloudstate::{
    Command,
    valueentity::{
        ValueEntityAction, ValueEntityInit, ValueEntityInitState, ValueEntityReply,
        ValueEntityStreamIn, ValueEntityStreamOut, value_entity_action,
        value_entity_stream_in as stream_in, value_entity_stream_out as stream_out,
    },
};

use super::{
    message::{Incoming, Outgoing, Reaction, Write, then, wants_restart},
    wire::Address,
};

/// The method whose streams are activations.
pub(super) const PATH: &str = "/cloudstate.valueentity.ValueEntity/handle";

pub(super) fn outgoing(to: &Address, message: Outgoing) -> ValueEntityStreamIn {
    let message = match message {
        Outgoing::Init(state) => Some(stream_in::Message::Init(ValueEntityInit {
            service_name: to.service_name().to_owned(),
            entity_id: to.entity_id().to_owned(),
            // Always there; the value in it is not.
            state: Some(ValueEntityInitState { value: state.map(|state| state.payload) }),
        })),
        // A value has no events.
        Outgoing::Event(..) => None,
        Outgoing::Command { id, name, payload, metadata } => {
            Some(stream_in::Message::Command(Command {
                entity_id: to.entity_id().to_owned(),
                id,
                name,
                payload: Some(payload),
                streamed: false,
                metadata,
            }))
        }
    };
    ValueEntityStreamIn { message }
}

pub(super) fn incoming(message: ValueEntityStreamOut) -> Incoming {
    match message.message {
        Some(stream_out::Message::Reply(reply)) => reaction(reply),
        Some(stream_out::Message::Failure(failure)) => Incoming::Failure(failure),
        None => Incoming::Nonsense("neither reply nor failure"),
    }
}

fn reaction(reply: ValueEntityReply) -> Incoming {
    let restart = wants_restart(reply.client_action.as_ref());
    let ValueEntityReply { command_id, client_action, side_effects, state_action } = reply;
    // The state action counts whatever the client action is: a restart begins with its value.
    let write = match state_action.map(|ValueEntityAction { action }| action) {
        None => None,
        Some(Some(value_entity_action::Action::Delete(_))) => Some(Write::Value(None)),
        Some(Some(value_entity_action::Action::Update(update))) => match update.value {
            Some(value) => Some(Write::Value(Some(value))),
            None => return Incoming::Nonsense("an update without a value"),
        },
        Some(None) => return Incoming::Nonsense("a state action that neither updates nor deletes"),
    };
    Incoming::Reply(Reaction {
        command_id,
        then: then(client_action),
        effects: side_effects,
        write,
        restart,
        ignored: None,
    })
}

#[cfg(test)]
mod tests {
    use protocol::{
        Any,
        cloudstate::valueentity::{ValueEntityDelete, ValueEntityUpdate},
    };
    use value_entity_action::Action;

    use super::*;
    use crate::{entity::message::State, journal::Sequence};

    fn says(action: Option<Action>) -> Incoming {
        let state_action = Some(ValueEntityAction { action });
        reaction(ValueEntityReply { state_action, ..ValueEntityReply::default() })
    }

    #[track_caller]
    fn write(incoming: Incoming) -> Option<Write> {
        let Incoming::Reply(reaction) = incoming else { panic!("{incoming:?}") };
        reaction.write
    }

    #[test]
    fn init_always_has_a_state() {
        let to = Address::of("Cart", "7");
        let state = |state| match outgoing(&to, Outgoing::Init(state)).message {
            Some(stream_in::Message::Init(init)) => init.state,
            other => panic!("{other:?}"),
        };
        assert_eq!(state(None), Some(ValueEntityInitState { value: None }));
        let stored = State { sequence: Sequence(5), payload: Any::default() };
        let value = Some(Any::default());
        assert_eq!(state(Some(stored)), Some(ValueEntityInitState { value }));
    }

    #[test]
    fn a_state_action_updates_or_deletes() {
        let value = Some(Any::default());
        let update = says(Some(Action::Update(ValueEntityUpdate { value: value.clone() })));
        assert_eq!(write(update), Some(Write::Value(value)));
        assert_eq!(
            write(says(Some(Action::Delete(ValueEntityDelete {})))),
            Some(Write::Value(None))
        );
        assert_eq!(write(reaction(ValueEntityReply::default())), None);
    }

    #[test]
    fn a_state_action_without_a_value_is_nonsense() {
        assert!(matches!(says(None), Incoming::Nonsense(_)));
        let update = says(Some(Action::Update(ValueEntityUpdate { value: None })));
        assert!(matches!(update, Incoming::Nonsense(_)));
    }
}
