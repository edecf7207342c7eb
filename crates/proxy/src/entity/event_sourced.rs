//! Event sourced entities on the wire.

use protocol::cloudstate::{
    Command,
    eventsourced::{
        EventSourcedEvent, EventSourcedInit, EventSourcedReply, EventSourcedSnapshot,
        EventSourcedStreamIn, EventSourcedStreamOut, event_sourced_stream_in as stream_in,
        event_sourced_stream_out as stream_out,
    },
};

use super::{
    message::{Incoming, Outgoing, Reaction, Write, signed, then, wants_restart},
    wire::Address,
};

/// The method whose streams are activations.
pub(super) const PATH: &str = "/cloudstate.eventsourced.EventSourced/handle";

pub(super) fn outgoing(to: &Address, message: Outgoing) -> EventSourcedStreamIn {
    let message = match message {
        Outgoing::Init(state) => stream_in::Message::Init(EventSourcedInit {
            service_name: to.service_name().to_owned(),
            entity_id: to.entity_id().to_owned(),
            snapshot: state.map(|state| EventSourcedSnapshot {
                snapshot_sequence: signed(state.sequence),
                snapshot: Some(state.payload),
            }),
        }),
        Outgoing::Event(sequence, payload) => stream_in::Message::Event(EventSourcedEvent {
            sequence: signed(sequence),
            payload: Some(payload),
        }),
        Outgoing::Command { id, name, payload, metadata } => stream_in::Message::Command(Command {
            entity_id: to.entity_id().to_owned(),
            id,
            name,
            payload: Some(payload),
            streamed: false,
            metadata,
        }),
    };
    EventSourcedStreamIn { message: Some(message) }
}

pub(super) fn incoming(message: EventSourcedStreamOut) -> Incoming {
    match message.message {
        Some(stream_out::Message::Reply(reply)) => Incoming::Reply(reaction(reply)),
        Some(stream_out::Message::Failure(failure)) => Incoming::Failure(failure),
        None => Incoming::Nonsense("neither reply nor failure"),
    }
}

fn reaction(reply: EventSourcedReply) -> Reaction {
    let restart = wants_restart(reply.client_action.as_ref());
    let EventSourcedReply { command_id, client_action, side_effects, events, snapshot } = reply;
    let ignored = (snapshot.is_some() && events.is_empty())
        .then_some("a snapshot came without events and was ignored");
    // Who asks to be built again has changed its state in a way that is not to last.
    let write = (!restart && !events.is_empty()).then_some(Write::Events(events, snapshot));
    Reaction {
        command_id,
        then: then(client_action),
        effects: side_effects,
        write,
        restart,
        ignored,
    }
}

#[cfg(test)]
mod tests {
    use protocol::{
        Any,
        cloudstate::{self, ClientAction, client_action},
    };

    use super::*;
    use crate::{entity::message::State, journal::Sequence};

    fn reply(restart: Option<bool>) -> EventSourcedReply {
        let failure = |restart| cloudstate::Failure { restart, ..cloudstate::Failure::default() };
        let action = restart.map(|restart| client_action::Action::Failure(failure(restart)));
        EventSourcedReply {
            command_id: 3,
            client_action: Some(ClientAction { action }),
            ..EventSourcedReply::default()
        }
    }

    #[test]
    fn init_has_a_snapshot_only_when_there_is_one() {
        let to = Address::of("Cart", "7");
        let init = |state| {
            let Some(stream_in::Message::Init(init)) = outgoing(&to, Outgoing::Init(state)).message
            else {
                panic!("no init")
            };
            init
        };
        let empty = init(None);
        assert_eq!((empty.service_name.as_str(), empty.entity_id.as_str()), ("Cart", "7"));
        assert_eq!(empty.snapshot, None);
        let state = State { sequence: Sequence(5), payload: Any::default() };
        assert_eq!(init(Some(state)).snapshot.unwrap().snapshot_sequence, 5);
    }

    #[test]
    fn events_of_a_failure_are_kept_unless_it_asks_for_a_restart() {
        let events = vec![Any::default()];
        let kept = reaction(EventSourcedReply { events: events.clone(), ..reply(Some(false)) });
        assert_eq!(kept.write, Some(Write::Events(events.clone(), None)));
        let regretted = reaction(EventSourcedReply { events, ..reply(Some(true)) });
        assert_eq!((regretted.write, regretted.restart), (None, true));
    }

    #[test]
    fn a_snapshot_without_events_is_ignored_and_told() {
        let odd = reaction(EventSourcedReply { snapshot: Some(Any::default()), ..reply(None) });
        assert_eq!(odd.write, None);
        assert!(odd.ignored.is_some());
    }

    #[test]
    fn what_the_protocol_does_not_know_is_nonsense() {
        assert!(matches!(incoming(EventSourcedStreamOut::default()), Incoming::Nonsense(_)));
    }
}
