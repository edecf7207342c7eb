//! A user function's side of one stream: right most of the time.

use protocol::cloudstate::{self, SideEffect};

use super::{
    random::Random,
    truth::{self, Node, Truth, payload},
};
use crate::{
    entity::{
        Failure, FailureKind, Reply, Then,
        machine::Ticket,
        message::{Incoming, Outgoing, Reaction, State, Write},
    },
    route::Kind,
};

/// What a caller wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Read,
    Change,
}

/// One activation at the user function.
#[derive(Debug)]
pub(super) struct Stream {
    kind: Kind,
    entity: usize,
    /// Whether nobody is there to hear.
    deaf: bool,
    state: Node,
    /// What the store gave when it had no value: a deleted one has changes behind it.
    base: Node,
    begun: bool,
    outstanding: Option<(i64, Ticket)>,
    commands: i64,
    pub(super) half_closed: bool,
}

/// What it does next.
#[derive(Debug)]
pub(super) enum Says {
    Message(Box<Incoming>),
    /// It ends the stream.
    End,
    /// Nothing, ever.
    Nothing,
}

impl Says {
    fn message(message: Incoming) -> Self {
        Self::Message(Box::new(message))
    }
}

impl Stream {
    pub(super) fn new(kind: Kind, entity: usize, base: Node, deaf: bool) -> Self {
        Self {
            kind,
            entity,
            deaf,
            state: base,
            base,
            begun: false,
            outstanding: None,
            commands: 0,
            half_closed: false,
        }
    }

    /// Hears what the proxy says; a command makes it answer.
    pub(super) fn hear(
        &mut self,
        message: Outgoing,
        chaos: bool,
        random: &mut Random,
        truth: &mut Truth,
    ) -> Option<Says> {
        truth.check(!self.half_closed, "I3", || "something was said after the end".to_owned());
        if self.deaf {
            return None;
        }
        match message {
            Outgoing::Init(state) => self.init(state, truth),
            Outgoing::Event(sequence, event) => {
                let node = truth::node(&event);
                let (state, depth) = (self.state, truth.depth(node));
                let follows = truth.parent(node) == state && depth == sequence.0;
                truth.check(follows, "I2", || {
                    format!("event {} is change {depth}, told behind state {state}", sequence.0)
                });
                self.state = node;
            }
            Outgoing::Command { id, name, payload, .. } => {
                let ticket = truth::node(&payload) as Ticket;
                truth.sees(ticket);
                let alone = self.outstanding.is_none() && id == self.commands + 1 && self.begun;
                truth.check(alone, "I3", || format!("command {ticket} came out of turn as {id}"));
                self.commands = id;
                self.outstanding = Some((id, ticket));
                let wish = if name == "read" { Wish::Read } else { Wish::Change };
                return Some(self.answer(wish, chaos, random, truth));
            }
        }
        None
    }

    fn init(&mut self, state: Option<State>, truth: &mut Truth) {
        truth.check(!self.begun, "I3", || "a stream began twice".to_owned());
        self.begun = true;
        match state {
            Some(State { sequence, payload }) => {
                self.state = truth::node(&payload);
                let depth = truth.depth(self.state);
                truth.check(depth == sequence.0, "I5", || {
                    format!("a state of change {depth} was given as that of {}", sequence.0)
                });
            }
            None if self.kind == Kind::Value => self.state = self.base,
            None => self.state = self.entity,
        }
    }

    fn answer(&mut self, wish: Wish, chaos: bool, random: &mut Random, truth: &mut Truth) -> Says {
        let Some((command_id, ticket)) = self.outstanding else { return Says::Nothing };
        let luck = if chaos { random.within(0, 1_000) } else { 1_000 };
        let right = Reaction {
            command_id,
            then: Then::Nothing,
            effects: Vec::new(),
            write: None,
            restart: false,
            ignored: None,
        };
        match luck {
            0..6 => return Says::Nothing,
            6..12 => return Says::End,
            12..16 => return Says::message(Incoming::Failure(cloudstate::Failure::default())),
            16..18 => return Says::message(Incoming::Nonsense("odd")),
            18..22 => {
                let wrong = Reaction { command_id: command_id + 7, ..right };
                return Says::message(Incoming::Reply(wrong));
            }
            22..40 => {
                self.outstanding = None;
                let restart = luck < 30;
                let then = Then::Fail(Failure::new(FailureKind::Failed, "no"));
                return Says::message(Incoming::Reply(Reaction { then, restart, ..right }));
            }
            _ => {}
        }
        self.outstanding = None;
        let write = (wish == Wish::Change).then(|| self.change(ticket, random, truth));
        let state = self.state;
        let effect = SideEffect { payload: Some(payload(state)), ..SideEffect::default() };
        let effects = if random.chance(800) { vec![effect] } else { Vec::new() };
        let (type_url, payload) = (String::new(), truth::bytes(state));
        let then = Then::Reply(Reply { type_url, payload, metadata: None });
        Says::message(Incoming::Reply(Reaction { then, effects, write, ..right }))
    }

    fn change(&mut self, ticket: Ticket, random: &mut Random, truth: &mut Truth) -> Write {
        let count = if self.kind == Kind::Value { 1 } else { 1 + random.one_of(3) };
        let nodes = truth.react(ticket, self.state, count);
        self.state = nodes.last().copied().unwrap_or(self.state);
        if self.kind == Kind::Value {
            return Write::Value((!random.chance(1_500)).then(|| payload(self.state)));
        }
        let snapshot = random.chance(1_500).then(|| payload(self.state));
        Write::Events(nodes.into_iter().map(payload).collect(), snapshot)
    }

    /// The state that it has come to.
    pub(super) fn state(&self) -> Node {
        self.state
    }
}
