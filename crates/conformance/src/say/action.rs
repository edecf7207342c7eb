//! Actions.

use protocol::cloudstate::{
    Failure, Metadata, Reply, SideEffect,
    action::{ActionCommand, ActionResponse, action_response},
};

use super::any;
use crate::{
    models::action::{
        self as model, Fail, Forward, OtherRequest, ProcessGroup, ProcessStep, Request, Response,
        process_step::Step,
    },
    wire::Item,
};

pub const MODEL: &str = "cloudstate.tck.model.action.ActionTckModel";
pub const TWO: &str = "cloudstate.tck.model.action.ActionTwo";

const REQUEST: &str = "cloudstate.tck.model.action.Request";
const OTHER_REQUEST: &str = "cloudstate.tck.model.action.OtherRequest";
const RESPONSE: &str = "cloudstate.tck.model.action.Response";

/// A request whose groups hold these steps.
pub fn request<const N: usize>(groups: [Vec<Step>; N]) -> Request {
    let step = |step| ProcessStep { step: Some(step) };
    let group = |steps: Vec<_>| ProcessGroup { steps: steps.into_iter().map(step).collect() };
    Request { groups: groups.map(group).into() }
}

pub fn reply(message: &str) -> Step {
    Step::Reply(model::Reply { message: message.to_owned() })
}

pub fn forward(id: &str) -> Step {
    Step::Forward(Forward { id: id.to_owned() })
}

pub fn effect(id: &str, synchronous: bool) -> Step {
    Step::Effect(model::SideEffect { id: id.to_owned(), synchronous })
}

pub fn fail(message: &str) -> Step {
    Step::Fail(Fail { message: message.to_owned() })
}

/// A whole command, as methods get it that stream nothing in.
pub fn command(name: &str, request: &Request) -> Item {
    command_with(name, request, None)
}

/// The same with metadata.
pub fn command_with(name: &str, request: &Request, metadata: Option<Metadata>) -> Item {
    let payload = Some(any(REQUEST, request));
    sent(ActionCommand { payload, metadata, ..names(MODEL, name) })
}

/// What comes first where a method streams in: names without a payload.
pub fn leading(name: &str) -> Item {
    sent(names(MODEL, name))
}

/// What comes after it: a payload without names.
pub fn following(request: &Request) -> Item {
    sent(ActionCommand { payload: Some(any(REQUEST, request)), ..ActionCommand::default() })
}

/// The command of a forward or side effect to the second service.
pub fn call(id: &str) -> Item {
    sent(ActionCommand { payload: Some(other(id)), ..names(TWO, "Call") })
}

fn names(service: &str, name: &str) -> ActionCommand {
    ActionCommand {
        service_name: service.to_owned(),
        name: name.to_owned(),
        ..ActionCommand::default()
    }
}

fn sent(command: ActionCommand) -> Item {
    Item::Sent(command.into())
}

fn other(id: &str) -> protocol::Any {
    any(OTHER_REQUEST, &OtherRequest { id: id.to_owned() })
}

/// What the user function answers.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    response: Option<action_response::Response>,
    effects: Vec<SideEffect>,
}

/// Nothing for the caller.
pub fn nothing() -> Answer {
    Answer::default()
}

/// A reply.
pub fn replied(message: &str) -> Answer {
    replied_with(message, None)
}

/// A reply with metadata.
pub fn replied_with(message: &str, metadata: Option<Metadata>) -> Answer {
    let payload = Some(any(RESPONSE, &Response { message: message.to_owned() }));
    answer(action_response::Response::Reply(Reply { payload, metadata }))
}

/// A forward to the second service.
pub fn forwarded(id: &str) -> Answer {
    answer(action_response::Response::Forward(super::forward(TWO, other(id))))
}

/// A failure.
pub fn failed(description: &str) -> Answer {
    let description = description.to_owned();
    let failure = Failure { command_id: 0, description, restart: false };
    answer(action_response::Response::Failure(failure))
}

fn answer(response: action_response::Response) -> Answer {
    Answer { response: Some(response), effects: Vec::new() }
}

impl Answer {
    /// A side effect on the second service.
    pub fn effect(mut self, id: &str, synchronous: bool) -> Self {
        self.effects.push(super::effect(TWO, other(id), synchronous));
        self
    }
}

impl From<Answer> for Item {
    fn from(answer: Answer) -> Self {
        let Answer { response, effects } = answer;
        Self::Answered(ActionResponse { response, side_effects: effects }.into())
    }
}
