//! Event sourced entities.

use protocol::cloudstate::{
    Command, Metadata, client_action,
    eventsourced::{
        EventSourcedEvent, EventSourcedInit, EventSourcedReply, EventSourcedSnapshot,
        EventSourcedStreamIn, EventSourcedStreamOut, event_sourced_stream_in,
        event_sourced_stream_out,
    },
};

use super::any;
use crate::{
    models::event_sourced::{
        Effect, Emit, Fail, Forward, Persisted, Request, RequestAction, Response,
        request_action::Action,
    },
    wire::Item,
};

pub const MODEL: &str = "cloudstate.tck.model.EventSourcedTckModel";
pub const TWO: &str = "cloudstate.tck.model.EventSourcedTwo";
pub const CONFIGURED: &str = "cloudstate.tck.model.EventSourcedConfigured";

const REQUEST: &str = "cloudstate.tck.model.Request";
const RESPONSE: &str = "cloudstate.tck.model.Response";
const PERSISTED: &str = "cloudstate.tck.model.Persisted";

/// A request to the model.
pub fn request(entity: &str, actions: impl IntoIterator<Item = Action>) -> Request {
    let actions = actions.into_iter().map(|action| RequestAction { action: Some(action) });
    Request { id: entity.to_owned(), actions: actions.collect() }
}

pub fn emit(value: &str) -> Action {
    Action::Emit(Emit { value: value.to_owned() })
}

pub fn forward(entity: &str) -> Action {
    Action::Forward(Forward { id: entity.to_owned() })
}

pub fn effect(entity: &str, synchronous: bool) -> Action {
    Action::Effect(Effect { id: entity.to_owned(), synchronous })
}

pub fn fail(message: &str) -> Action {
    Action::Fail(Fail { message: message.to_owned() })
}

fn sent(message: event_sourced_stream_in::Message) -> Item {
    Item::Sent(EventSourcedStreamIn { message: Some(message) }.into())
}

/// `init` of an entity without a snapshot.
pub fn init(service: &str, entity: &str) -> Item {
    init_with(service, entity, None)
}

/// `init` of an entity of the model with a snapshot.
pub fn init_from(entity: &str, sequence: i64, value: &str) -> Item {
    let snapshot = EventSourcedSnapshot {
        snapshot_sequence: sequence,
        snapshot: Some(any(PERSISTED, &Persisted { value: value.to_owned() })),
    };
    init_with(MODEL, entity, Some(snapshot))
}

fn init_with(service: &str, entity: &str, snapshot: Option<EventSourcedSnapshot>) -> Item {
    sent(event_sourced_stream_in::Message::Init(EventSourcedInit {
        service_name: service.to_owned(),
        entity_id: entity.to_owned(),
        snapshot,
    }))
}

/// An event of the model out of the journal.
pub fn event(sequence: i64, value: &str) -> Item {
    let payload = Some(any(PERSISTED, &Persisted { value: value.to_owned() }));
    sent(event_sourced_stream_in::Message::Event(EventSourcedEvent { sequence, payload }))
}

fn command_of(id: i64, name: &str, request: &Request) -> Command {
    super::command(&request.id, id, name, any(REQUEST, request))
}

/// A command of the model.
pub fn command(id: i64, request: &Request) -> Item {
    sent(event_sourced_stream_in::Message::Command(command_of(id, "Process", request)))
}

/// A command of the model that comes with metadata.
pub fn command_with(id: i64, request: &Request, metadata: Metadata) -> Item {
    let command = Command { metadata: Some(metadata), ..command_of(id, "Process", request) };
    sent(event_sourced_stream_in::Message::Command(command))
}

/// A command of one of the other two services.
pub fn call(id: i64, entity: &str) -> Item {
    let command = command_of(id, "Call", &request(entity, []));
    sent(event_sourced_stream_in::Message::Command(command))
}

/// What the user function answers to a command.
#[derive(Clone, Debug)]
pub struct Reply(EventSourcedReply);

fn answer(command_id: i64, client_action: protocol::cloudstate::ClientAction) -> Reply {
    let client_action = Some(client_action);
    Reply(EventSourcedReply { command_id, client_action, ..EventSourcedReply::default() })
}

/// A reply with the state.
pub fn reply(command_id: i64, message: &str) -> Reply {
    let response = Response { message: message.to_owned() };
    answer(command_id, super::reply(any(RESPONSE, &response)))
}

/// A failure, of which the caller is told.
pub fn failure(command_id: i64, description: &str, restart: bool) -> Reply {
    answer(command_id, super::failure(command_id, description, restart))
}

/// A forward to the second service.
pub fn forwarded(command_id: i64, entity: &str) -> Reply {
    let forward = super::forward(TWO, any(REQUEST, &request(entity, [])));
    let action = Some(client_action::Action::Forward(forward));
    answer(command_id, protocol::cloudstate::ClientAction { action })
}

impl Reply {
    pub fn events<const N: usize>(mut self, values: [&str; N]) -> Self {
        let event = |value: &str| any(PERSISTED, &Persisted { value: value.to_owned() });
        self.0.events = values.into_iter().map(event).collect();
        self
    }

    pub fn snapshot(mut self, value: &str) -> Self {
        self.0.snapshot = Some(any(PERSISTED, &Persisted { value: value.to_owned() }));
        self
    }

    /// A side effect on the second service.
    pub fn effect(mut self, entity: &str, synchronous: bool) -> Self {
        let payload = any(REQUEST, &request(entity, []));
        self.0.side_effects.push(super::effect(TWO, payload, synchronous));
        self
    }
}

impl From<Reply> for Item {
    fn from(reply: Reply) -> Self {
        let message = Some(event_sourced_stream_out::Message::Reply(reply.0));
        Self::Answered(EventSourcedStreamOut { message }.into())
    }
}
