//! The machine in a world that does anything at any time: random orders of commands, answers, broken
//! streams, lost writes and time-outs, with the promises checked at every step.

use std::collections::{HashSet, VecDeque};

use proptest::prelude::*;
use protocol::cloudstate::SideEffect;

use super::*;
use crate::{
    entity::{Reply, Then},
    route::Kind,
};

/// Everything around the machine.
struct World {
    kind: Kind,
    machine: Machine,
    /// Events, or versions of the value, that the store really holds.
    stored: u64,
    /// Writes under way: the sequence they follow, and how many events or versions.
    writes: VecDeque<(u64, u64)>,
    /// The next event of the reading under way; 0 while the entity waits for its turn.
    loading: Option<u64>,
    /// Whether the machine waits for the stream to be open.
    opening: bool,
    stream: Option<Stream>,
    timer: bool,
    tickets: u64,
    /// Callers that still wait.
    waiting: HashSet<Ticket>,
    ended: bool,
}

/// The user function's side of a stream.
#[derive(Default)]
struct Stream {
    /// Events that this activation has seen or made.
    applied: u64,
    /// The command that it has.
    command: Option<i64>,
    commands: i64,
    half_closed: bool,
}

impl World {
    fn new(kind: Kind, in_flight: usize) -> Self {
        let (name, persistence_id) = ("S".to_owned(), "s".to_owned());
        let id = EntityId { persistence_id: persistence_id.clone(), key: "e".to_owned() };
        let service = Service { name, kind, persistence_id, passivation_timeout: None };
        Self {
            kind,
            machine: Machine::new(Arc::new(service), Arc::new(id), in_flight),
            stored: 0,
            writes: VecDeque::new(),
            loading: None,
            opening: false,
            stream: None,
            timer: false,
            tickets: 0,
            waiting: HashSet::new(),
            ended: true,
        }
    }

    fn on(&mut self, event: Event) {
        for action in self.machine.on(event) {
            self.perform(action);
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Load => {
                assert!(self.writes.is_empty(), "read while a write is under way");
                assert!(self.stream.is_none(), "two activations at once");
                self.loading = Some(0);
            }
            Action::Open => self.stream = Some(Stream::default()),
            Action::Send(message) => self.sent(message),
            Action::Write { expected, write } => {
                let count = write.after(expected).0 - expected.0;
                self.writes.push_back((expected.0, count));
            }
            Action::Release(ticket, answer) => {
                assert!(self.waiting.remove(&ticket), "ticket {ticket} was answered twice");
                if let Then::Reply(reply) = answer.then {
                    let shown = number(&reply.payload);
                    assert!(shown <= self.stored, "shows change {shown} of {}", self.stored);
                }
                for effect in answer.effects {
                    let behind = number(&effect.payload.unwrap().value);
                    assert!(behind <= self.stored, "follows from {behind} of {}", self.stored);
                }
            }
            Action::HalfClose => {
                self.loading = None;
                self.opening = false;
                self.stream.as_mut().expect("only an open stream is closed").half_closed = true;
            }
            Action::Abort => {
                self.loading = None;
                self.opening = false;
                self.stream = None;
            }
            Action::Arm(_) => self.timer = true,
            Action::Disarm => self.timer = false,
            Action::Report(_) => {}
            Action::End => self.ended = true,
        }
    }

    fn sent(&mut self, message: Outgoing) {
        let stream = self.stream.as_mut().expect("sent without a stream");
        assert!(!stream.half_closed, "sent after the end");
        match message {
            Outgoing::Init(state) => {
                assert_eq!((stream.applied, stream.commands), (0, 0));
                stream.applied = state.map_or(0, |state| state.sequence.0);
            }
            Outgoing::Event(sequence, _) => {
                stream.applied += 1;
                assert_eq!(sequence.0, stream.applied);
            }
            Outgoing::Command { id, .. } => {
                stream.commands += 1;
                assert_eq!(stream.command, None, "two commands at once");
                assert_eq!(id, stream.commands);
                stream.command = Some(id);
            }
        }
    }

    fn arrive(&mut self) {
        self.tickets += 1;
        self.ended = false;
        self.waiting.insert(self.tickets);
        let (name, payload) = (String::new(), Any::default());
        self.on(Event::Arrived(Request { ticket: self.tickets, name, payload, metadata: None }));
    }

    /// A reply with so many changes, right in all but its id when that is off.
    fn reply(&mut self, changes: u64, restart: bool, id_off: i64) {
        let Some(stream) = self.stream.as_mut() else { return };
        let Some(id) = stream.command.take() else { return };
        let write = match self.kind {
            Kind::Value => (changes > 0).then_some(Write::Value(None)),
            _ if changes == 0 || restart => None,
            _ => Some(Write::Events((0..changes).map(|_| Any::default()).collect(), None)),
        };
        let before = Sequence(stream.applied);
        stream.applied = write.as_ref().map_or(before, |write| write.after(before)).0;
        let shown = bytes::Bytes::copy_from_slice(&stream.applied.to_be_bytes());
        let then = if restart {
            Then::Fail(Failure::new(FailureKind::Failed, "restart"))
        } else {
            let (type_url, payload) = (String::new(), shown.clone());
            Then::Reply(Reply { type_url, payload, metadata: None })
        };
        let payload = Some(Any { type_url: String::new(), value: shown });
        let effects = vec![SideEffect { payload, ..SideEffect::default() }];
        let command_id = id + id_off;
        let reply = Reaction { command_id, then, effects, write, restart, ignored: None };
        self.on(Event::Message(Incoming::Reply(reply)));
    }

    /// The oldest write gets its outcome; `lost` also loses the answer to one that was written.
    fn written(&mut self, lost: bool) {
        let Some((expected, count)) = self.writes.pop_front() else { return };
        let fits = expected == self.stored;
        if fits {
            self.stored += count;
        }
        self.on(Event::Written(match (fits, lost) {
            (_, true) => Written::Unknown(String::new()),
            (true, false) => Written::Committed,
            (false, false) => Written::Conflict,
        }));
    }

    fn load(&mut self) {
        let Some(next) = self.loading else {
            if std::mem::take(&mut self.opening) {
                self.on(Event::Opened);
            }
            return;
        };
        if next == 0 {
            self.loading = Some(1);
            self.on(Event::LoadBegins);
        } else if self.kind == Kind::Value && next == 1 && self.stored > 0 {
            self.loading = Some(self.stored + 1);
            self.on(Event::State(Sequence(self.stored), Some(Any::default())));
        } else if next <= self.stored {
            self.loading = Some(next + 1);
            self.on(Event::Replay(Sequence(next), Any::default()));
        } else {
            self.loading = None;
            self.opening = true;
            self.on(Event::LoadEnded);
        }
    }

    fn end_stream(&mut self, end: StreamEnd) {
        if self.stream.take().is_some() {
            self.opening = false;
            self.on(Event::StreamEnded(end, String::new()));
        }
    }

    fn time_out(&mut self) {
        if std::mem::take(&mut self.timer) {
            self.on(Event::TimedOut);
        }
    }

    fn step(&mut self, choice: u8) {
        match choice {
            0..4 => self.arrive(),
            4..8 => self.load(),
            8..13 => self.reply(u64::from(choice) % 3, false, 0),
            13 => self.reply(1, true, 0),
            14 => self.reply(1, false, 7),
            15..19 => self.written(false),
            19 => self.written(true),
            20 => self.end_stream(StreamEnd::Ended),
            21 => self.end_stream(StreamEnd::NeverReached),
            22 => self.time_out(),
            23 => self.on(Event::Passivate),
            _ => {
                if self.loading.take().is_some() {
                    self.on(Event::LoadFailed(String::new()));
                }
            }
        }
    }

    /// Everybody behaves until the entity has ended.
    fn settle(&mut self) {
        self.on(Event::Stop);
        for _ in 0..10_000 {
            if self.ended {
                return;
            }
            self.load();
            self.reply(1, false, 0);
            self.written(false);
            if self.stream.as_ref().is_some_and(|stream| stream.half_closed) {
                self.end_stream(StreamEnd::Ended);
            }
        }
        panic!("the entity never ends: {:?}", self.machine);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn promises_hold_in_any_order_of_events(
        value: bool,
        in_flight in 1_usize..4,
        choices in prop::collection::vec(0_u8..25, 0..120),
    ) {
        let mut world = World::new(if value { Kind::Value } else { Kind::EventSourced }, in_flight);
        for choice in choices {
            world.step(choice);
        }
        world.settle();
        prop_assert!(world.waiting.is_empty(), "never answered: {:?}", world.waiting);
        prop_assert!(world.writes.is_empty());
    }
}

/// The change that a reply shows, or that an effect follows from.
fn number(payload: &[u8]) -> u64 {
    u64::from_be_bytes(payload.try_into().unwrap())
}
