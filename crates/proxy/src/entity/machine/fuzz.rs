//! A user function that says anything at all on an entity's stream, in a world that is otherwise in order: every
//! caller gets one answer, writes follow each other, and the entity ends.

use std::collections::{HashSet, VecDeque};

use prost::Message as _;
use protocol::cloudstate::{
    self, ClientAction, SideEffect, client_action,
    eventsourced::{EventSourcedReply, EventSourcedStreamOut, event_sourced_stream_out},
    valueentity::{
        ValueEntityAction, ValueEntityReply, ValueEntityStreamOut, ValueEntityUpdate,
        value_entity_action, value_entity_stream_out,
    },
};
use testbed::fuzz::{Shape, fuzz};

use super::*;
use crate::{
    entity::{event_sourced, value},
    route::Kind,
};

/// Commands that are sent to each entity.
const COMMANDS: Ticket = 4;

/// Everything around the machine; it does at once what it is asked to.
struct World {
    kind: Kind,
    machine: Machine,
    stored: u64,
    events: VecDeque<Event>,
    /// The command that the user function has.
    command: Option<i64>,
    open: bool,
    half_closed: bool,
    waiting: HashSet<Ticket>,
    ended: bool,
}

impl World {
    fn new(kind: Kind) -> Self {
        let (name, persistence_id) = ("S".to_owned(), "s".to_owned());
        let id = EntityId { persistence_id: persistence_id.clone(), key: "e".to_owned() };
        let service = Service { name, kind, persistence_id, passivation_timeout: None };
        Self {
            kind,
            machine: Machine::new(Arc::new(service), Arc::new(id), 2),
            stored: 0,
            events: VecDeque::new(),
            command: None,
            open: false,
            half_closed: false,
            waiting: HashSet::new(),
            ended: false,
        }
    }

    fn arrive(&mut self, ticket: Ticket) {
        self.waiting.insert(ticket);
        let (name, payload) = (String::new(), Any::default());
        self.on(Event::Arrived(Request { ticket, name, payload, metadata: None }));
    }

    /// Something happens, and what follows from it.
    fn on(&mut self, event: Event) {
        self.events.push_back(event);
        while let Some(event) = self.events.pop_front() {
            for action in self.machine.on(event) {
                self.perform(action);
            }
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Load => {
                self.events.push_back(Event::LoadBegins);
                match self.kind {
                    Kind::Value if self.stored > 0 => {
                        self.events.push_back(Event::State(Sequence(self.stored), None));
                    }
                    Kind::Value => {}
                    _ => self.events.extend(
                        (1..=self.stored)
                            .map(|number| Event::Replay(Sequence(number), Any::default())),
                    ),
                }
                self.events.extend([Event::LoadEnded, Event::Opened]);
            }
            Action::Open => (self.open, self.half_closed, self.command) = (true, false, None),
            Action::Send(Outgoing::Command { id, .. }) => {
                assert!(self.open && !self.half_closed, "a command without a stream");
                assert_eq!(self.command.replace(id), None, "two commands at once");
            }
            Action::Send(_) | Action::Arm(_) | Action::Disarm => {}
            Action::Write { expected, write } => {
                assert_eq!(expected.0, self.stored, "a write that follows nothing");
                self.stored = write.after(expected).0;
                self.events.push_back(Event::Written(Written::Committed));
            }
            Action::Release(ticket, _) => {
                assert!(self.waiting.remove(&ticket), "ticket {ticket} was answered twice");
            }
            Action::HalfClose => {
                self.half_closed = true;
                let why = String::new();
                self.events.push_back(Event::StreamEnded(StreamEnd::Ended, why));
            }
            Action::Abort => {
                self.open = false;
                self.events.retain(|event| {
                    !matches!(
                        event,
                        Event::LoadBegins
                            | Event::LoadEnded
                            | Event::Opened
                            | Event::State(..)
                            | Event::Replay(..)
                            | Event::StreamEnded(..)
                    )
                });
            }
            Action::Report(text) => assert!(!text.is_empty(), "a report without a word"),
            Action::End => self.ended = true,
        }
    }

    /// The user function says that.
    fn hear(&mut self, message: &[u8]) {
        if !self.open || self.half_closed {
            return;
        }
        let heard = match self.kind {
            Kind::Value => ValueEntityStreamOut::decode(message).map(value::incoming),
            _ => EventSourcedStreamOut::decode(message).map(event_sourced::incoming),
        };
        let heard = heard.unwrap_or(Incoming::Nonsense("a message that cannot be decoded"));
        if matches!(&heard, Incoming::Reply(reply) if Some(reply.command_id) == self.command) {
            self.command = None;
        }
        self.on(Event::Message(heard));
    }

    /// The user function behaves until the entity has ended.
    fn settle(&mut self) {
        self.on(Event::Stop);
        for _ in 0..10 * COMMANDS {
            if self.ended {
                return;
            }
            if let Some(command_id) = self.command.take() {
                let reaction = Reaction {
                    command_id,
                    then: crate::entity::Then::Nothing,
                    effects: Vec::new(),
                    write: None,
                    restart: false,
                    ignored: None,
                };
                self.on(Event::Message(Incoming::Reply(reaction)));
            }
        }
        panic!("the entity never ends: {:?}", self.machine);
    }
}

/// What is said is the answer to the first command, to nobody, and to the second command.
fn try_out(kind: Kind, message: &[u8]) {
    let mut world = World::new(kind);
    for ticket in 1..=COMMANDS {
        world.arrive(ticket);
        world.hear(message);
    }
    world.hear(message);
    world.settle();
    assert!(world.waiting.is_empty(), "never answered: {:?}", world.waiting);
}

fn any(text: &str) -> Any {
    Any { type_url: format!("type.googleapis.com/{text}"), value: text.as_bytes().to_vec().into() }
}

/// Each way to answer.
fn answers() -> Vec<(Option<ClientAction>, Vec<SideEffect>)> {
    let action = |action| Some(ClientAction { action: Some(action) });
    let reply = cloudstate::Reply { payload: Some(any("reply")), ..Default::default() };
    let forward = cloudstate::Forward {
        service_name: "S".to_owned(),
        command_name: "Do".to_owned(),
        payload: Some(any("forward")),
        ..Default::default()
    };
    let failure =
        |restart| cloudstate::Failure { command_id: 1, description: "no".to_owned(), restart };
    let effect = SideEffect {
        service_name: "S".to_owned(),
        command_name: "Do".to_owned(),
        payload: Some(any("effect")),
        synchronous: true,
        ..Default::default()
    };
    vec![
        (action(client_action::Action::Reply(reply)), vec![effect]),
        (action(client_action::Action::Forward(forward)), Vec::new()),
        (action(client_action::Action::Failure(failure(false))), Vec::new()),
        (action(client_action::Action::Failure(failure(true))), Vec::new()),
        (None, Vec::new()),
    ]
}

#[test]
fn fuzz_event_sourced_stream() {
    use event_sourced_stream_out::Message;
    let mut corpus: Vec<Vec<u8>> = Vec::new();
    for (client_action, side_effects) in answers() {
        let reply = EventSourcedReply {
            command_id: 1,
            client_action,
            side_effects,
            events: vec![any("one"), any("two")],
            snapshot: Some(any("both")),
        };
        corpus.push(EventSourcedStreamOut { message: Some(Message::Reply(reply)) }.encode_to_vec());
    }
    let failure = cloudstate::Failure { description: "no".to_owned(), ..Default::default() };
    corpus.push(EventSourcedStreamOut { message: Some(Message::Failure(failure)) }.encode_to_vec());
    fuzz("event sourced stream", Shape::Protobuf, corpus, |input| {
        try_out(Kind::EventSourced, input);
    });
}

#[test]
fn fuzz_value_entity_stream() {
    use value_entity_action::Action::{Delete, Update};
    use value_entity_stream_out::Message;
    let mut corpus: Vec<Vec<u8>> = Vec::new();
    let update = Update(ValueEntityUpdate { value: Some(any("value")) });
    for (client_action, side_effects) in answers() {
        for action in [update.clone(), Delete(cloudstate::valueentity::ValueEntityDelete {})] {
            let reply = ValueEntityReply {
                command_id: 1,
                client_action: client_action.clone(),
                side_effects: side_effects.clone(),
                state_action: Some(ValueEntityAction { action: Some(action) }),
            };
            corpus.push(
                ValueEntityStreamOut { message: Some(Message::Reply(reply)) }.encode_to_vec(),
            );
        }
    }
    fuzz("value entity stream", Shape::Protobuf, corpus, |input| try_out(Kind::Value, input));
}
