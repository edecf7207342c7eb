//! Value entities.

use protocol::cloudstate::{
    ClientAction, client_action,
    valueentity::{
        ValueEntityAction, ValueEntityDelete, ValueEntityInit, ValueEntityInitState,
        ValueEntityReply, ValueEntityStreamIn, ValueEntityStreamOut, ValueEntityUpdate,
        value_entity_action, value_entity_stream_in, value_entity_stream_out,
    },
};

use super::any;
use crate::{
    models::value::{
        Delete, Effect, Fail, Forward, Persisted, Request, RequestAction, Response, Update,
        request_action::Action,
    },
    wire::Item,
};

pub const MODEL: &str = "cloudstate.tck.model.valueentity.ValueEntityTckModel";
pub const TWO: &str = "cloudstate.tck.model.valueentity.ValueEntityTwo";
pub const CONFIGURED: &str = "cloudstate.tck.model.valueentity.ValueEntityConfigured";

const REQUEST: &str = "cloudstate.tck.model.valueentity.Request";
const RESPONSE: &str = "cloudstate.tck.model.valueentity.Response";
const PERSISTED: &str = "cloudstate.tck.model.valueentity.Persisted";

/// A request to the model.
pub fn request(entity: &str, actions: impl IntoIterator<Item = Action>) -> Request {
    let actions = actions.into_iter().map(|action| RequestAction { action: Some(action) });
    Request { id: entity.to_owned(), actions: actions.collect() }
}

pub fn update(value: &str) -> Action {
    Action::Update(Update { value: value.to_owned() })
}

pub fn delete() -> Action {
    Action::Delete(Delete {})
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

fn sent(message: value_entity_stream_in::Message) -> Item {
    Item::Sent(ValueEntityStreamIn { message: Some(message) }.into())
}

/// `init` of an entity that has no value: the state is there, and empty.
pub fn init(service: &str, entity: &str) -> Item {
    init_with(service, entity, ValueEntityInitState { value: None })
}

/// `init` of an entity of the model that has this value.
pub fn init_from(entity: &str, value: &str) -> Item {
    let value = Some(any(PERSISTED, &Persisted { value: value.to_owned() }));
    init_with(MODEL, entity, ValueEntityInitState { value })
}

fn init_with(service: &str, entity: &str, state: ValueEntityInitState) -> Item {
    sent(value_entity_stream_in::Message::Init(ValueEntityInit {
        service_name: service.to_owned(),
        entity_id: entity.to_owned(),
        state: Some(state),
    }))
}

/// A command of the model.
pub fn command(id: i64, request: &Request) -> Item {
    let command = super::command(&request.id, id, "Process", any(REQUEST, request));
    sent(value_entity_stream_in::Message::Command(command))
}

/// A command of one of the other two services.
pub fn call(id: i64, entity: &str) -> Item {
    let payload = any(REQUEST, &request(entity, []));
    sent(value_entity_stream_in::Message::Command(super::command(entity, id, "Call", payload)))
}

/// What the user function answers to a command.
#[derive(Clone, Debug)]
pub struct Reply(ValueEntityReply);

fn answer(command_id: i64, client_action: ClientAction) -> Reply {
    let client_action = Some(client_action);
    Reply(ValueEntityReply { command_id, client_action, ..ValueEntityReply::default() })
}

/// A reply with the state.
pub fn reply(command_id: i64, message: &str) -> Reply {
    let response = Response { message: message.to_owned() };
    answer(command_id, super::reply(any(RESPONSE, &response)))
}

/// A failure, of which the caller is told.
pub fn failure(command_id: i64, description: &str) -> Reply {
    answer(command_id, super::failure(command_id, description, false))
}

/// A forward to the second service.
pub fn forwarded(command_id: i64, entity: &str) -> Reply {
    let forward = super::forward(TWO, any(REQUEST, &request(entity, [])));
    answer(command_id, ClientAction { action: Some(client_action::Action::Forward(forward)) })
}

impl Reply {
    pub fn update(self, value: &str) -> Self {
        let value = Some(any(PERSISTED, &Persisted { value: value.to_owned() }));
        self.state(value_entity_action::Action::Update(ValueEntityUpdate { value }))
    }

    pub fn delete(self) -> Self {
        self.state(value_entity_action::Action::Delete(ValueEntityDelete {}))
    }

    fn state(mut self, action: value_entity_action::Action) -> Self {
        self.0.state_action = Some(ValueEntityAction { action: Some(action) });
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
        let message = Some(value_entity_stream_out::Message::Reply(reply.0));
        Self::Answered(ValueEntityStreamOut { message }.into())
    }
}
