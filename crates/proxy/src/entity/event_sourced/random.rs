//! The machine in a world that does anything at any time: random orders of commands, answers, broken
//! streams, lost writes and time-outs, with the promises checked at every step.

use std::collections::{HashSet, VecDeque};

use proptest::prelude::*;
use protocol::cloudstate::{self, eventsourced::EventSourcedReply};

use super::*;

/// Everything around the machine.
struct World {
    machine: EventSourced,
    /// Events that the journal really holds.
    journal: u64,
    /// Writes under way: the sequence they follow, and how many events.
    appends: VecDeque<(u64, u64)>,
    /// The next event of the reading under way.
    loading: Option<u64>,
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
    fn new() -> Self {
        Self {
            machine: EventSourced::new("S".into(), "e".into(), 3),
            journal: 0,
            appends: VecDeque::new(),
            loading: None,
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
                assert!(self.appends.is_empty(), "read while a write is under way");
                assert!(self.stream.is_none(), "two activations at once");
                self.loading = Some(1);
            }
            Action::Open => self.stream = Some(Stream::default()),
            Action::Send(message) => self.sent(message),
            Action::Append { expected, events, .. } => {
                self.appends.push_back((expected.0, events.len() as u64));
            }
            Action::Release(ticket, answer) => {
                assert!(self.waiting.remove(&ticket), "ticket {ticket} was answered twice");
                if let Then::Reply(reply) = answer.then {
                    let shown = u64::from_be_bytes(reply.payload.as_ref().try_into().unwrap());
                    assert!(
                        shown <= self.journal,
                        "a reply shows event {shown} of {}",
                        self.journal
                    );
                }
            }
            Action::HalfClose => {
                self.loading = None;
                self.stream.as_mut().expect("only an open stream is closed").half_closed = true;
            }
            Action::Abort => {
                self.loading = None;
                self.stream = None;
            }
            Action::Arm(_) => self.timer = true,
            Action::Disarm => self.timer = false,
            Action::Report(_) => {}
            Action::End => self.ended = true,
        }
    }

    fn sent(&mut self, message: stream_in::Message) {
        let stream = self.stream.as_mut().expect("sent without a stream");
        assert!(!stream.half_closed, "sent after the end");
        match message {
            stream_in::Message::Init(_) => assert_eq!(stream.applied, 0),
            stream_in::Message::Event(event) => {
                stream.applied += 1;
                assert_eq!(event.sequence, i64::try_from(stream.applied).unwrap());
            }
            stream_in::Message::Command(command) => {
                stream.commands += 1;
                assert_eq!(stream.command, None, "two commands at once");
                assert_eq!(command.id, stream.commands);
                stream.command = Some(command.id);
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

    /// A reply with so many events, right in all but its id when that is off.
    fn reply(&mut self, events: u64, restart: bool, id_off: i64) {
        let Some(stream) = self.stream.as_mut() else { return };
        let Some(id) = stream.command.take() else { return };
        stream.applied += events;
        let action = if restart {
            let failure = cloudstate::Failure { restart, ..cloudstate::Failure::default() };
            client_action::Action::Failure(failure)
        } else {
            let value = bytes::Bytes::copy_from_slice(&stream.applied.to_be_bytes());
            let payload = Some(Any { type_url: String::new(), value });
            client_action::Action::Reply(cloudstate::Reply { payload, metadata: None })
        };
        let reply = EventSourcedReply {
            command_id: id + id_off,
            client_action: Some(ClientAction { action: Some(action) }),
            events: (0..events).map(|_| Any::default()).collect(),
            ..EventSourcedReply::default()
        };
        self.on(Event::Message(Some(stream_out::Message::Reply(reply))));
    }

    /// The oldest write gets its outcome; `lost` also loses the answer to one that was written.
    fn append(&mut self, lost: bool) {
        let Some((expected, count)) = self.appends.pop_front() else { return };
        let fits = expected == self.journal;
        if fits {
            self.journal += count;
        }
        self.on(Event::Written(match (fits, lost) {
            (_, true) => Written::Unknown(String::new()),
            (true, false) => Written::Committed,
            (false, false) => Written::Conflict,
        }));
    }

    fn load(&mut self) {
        let Some(next) = self.loading else { return };
        if next <= self.journal {
            self.loading = Some(next + 1);
            self.on(Event::Loaded(Loaded::Event(Sequence(next), Any::default())));
        } else {
            self.loading = None;
            self.on(Event::LoadEnded);
        }
    }

    fn end_stream(&mut self, end: StreamEnd) {
        if self.stream.take().is_some() {
            self.on(Event::StreamEnded(end));
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
            15..19 => self.append(false),
            19 => self.append(true),
            20 => self.end_stream(StreamEnd::Ended),
            21 => self.end_stream(StreamEnd::NeverReached),
            22 => self.time_out(),
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
            self.append(false);
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
    fn promises_hold_in_any_order_of_events(choices in prop::collection::vec(0_u8..24, 0..120)) {
        let mut world = World::new();
        for choice in choices {
            world.step(choice);
        }
        world.settle();
        prop_assert!(world.waiting.is_empty(), "never answered: {:?}", world.waiting);
        prop_assert!(world.appends.is_empty());
    }
}
