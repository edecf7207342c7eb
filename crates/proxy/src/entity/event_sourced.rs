//! The life of one event sourced entity as a state machine: events in, actions out. No I/O, no
//! clock, no waiting, so that a test can put a fault between any two steps.
//!
//! One command at a time is with the user function. Its reply's events go to the journal, and the
//! next command goes out without waiting for them; what waits is the *reply*, until every earlier
//! event of the entity is durable (`docs/promises.md`, I1 and I3).

use std::{collections::VecDeque, sync::Arc};

use protocol::{
    Any,
    cloudstate::{
        ClientAction, Command, Metadata, client_action,
        eventsourced::{
            EventSourcedEvent, EventSourcedInit, EventSourcedReply, EventSourcedSnapshot,
            event_sourced_stream_in as stream_in, event_sourced_stream_out as stream_out,
        },
    },
};

use super::{Answer, Failure, FailureKind, Reply, Then};
use crate::journal::{Loaded, Sequence, Written};

/// Texts that callers and tests of the original rely on (`docs/protocol.md`, "Failures").
mod text {
    pub(super) const FAILURE: &str = "Unexpected entity failure";
    pub(super) const REPLY: &str = "Unexpected entity reply";
    pub(super) const MESSAGE: &str = "Unexpected entity message";
    pub(super) const TERMINATION: &str = "Unexpected entity termination";
    /// For commands that waited behind the one that went wrong.
    pub(super) const TERMINATED: &str = "Entity terminated";
}

/// Names one command among all of this proxy.
pub type Ticket = u64;

/// A command on its way to the user function.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Whose answer it is.
    pub ticket: Ticket,
    /// Bare name of the method.
    pub name: String,
    /// The caller's message.
    pub payload: Any,
    /// The caller's headers.
    pub metadata: Option<Metadata>,
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// A command came in.
    Arrived(Request),
    /// The caller does not wait any more.
    CallerLeft(Ticket),
    /// The journal gave a piece of the entity's history.
    Loaded(Loaded),
    /// The journal gave all of it.
    LoadEnded,
    /// The journal could not be read.
    LoadFailed(String),
    /// The user function said something; `None` is something that this proxy does not know.
    Message(Option<stream_out::Message>),
    /// The user function's end of the stream is over.
    StreamEnded(StreamEnd),
    /// The oldest write under way has an outcome.
    Written(Written),
    /// The armed timer ran out.
    TimedOut,
    /// The proxy is about to leave: finish what waits, then end.
    Stop,
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// There was no connection: nothing that was sent has been seen.
    NeverReached,
    /// Somewhere on the way.
    Ended,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Begin to read the entity's history; abandons an earlier reading.
    Load,
    /// Open a stream to the user function.
    Open,
    /// Say something on the stream.
    Send(stream_in::Message),
    /// Write events, and the snapshot behind them.
    Append {
        /// The last sequence number before them.
        expected: Sequence,
        /// At least one.
        events: Vec<Any>,
        /// State after the last of them.
        snapshot: Option<Any>,
    },
    /// Answer a caller; effects and forward of the answer may begin.
    Release(Ticket, Answer),
    /// End our side of the stream and let the user function end its own.
    HalfClose,
    /// Let go of stream and reading at once.
    Abort,
    /// Start this timer in place of whichever runs.
    Arm(Timer),
    /// No timer is wanted.
    Disarm,
    /// Tell developer and log of something that the user function did.
    Report(String),
    /// Nothing is left to do; the entity may be forgotten.
    End,
}

/// What is being waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// A command, before the entity is passivated.
    Idle,
    /// Progress of the activation.
    Activation,
    /// The reply to a command.
    Command,
    /// The user function's end of the stream.
    Close,
}

/// One entity.
#[derive(Debug)]
pub struct EventSourced {
    service_name: Arc<str>,
    entity_id: Arc<str>,
    in_flight_max: usize,
    phase: Phase,
    queue: VecDeque<Queued>,
    /// Replies in order, the first of which waits for the journal.
    unacknowledged: VecDeque<Unacknowledged>,
    /// Writes whose outcome is not known yet, those of failed replies included.
    appends: usize,
    /// The last event that the user function has applied.
    sequence: Sequence,
    /// The id of the last command of this activation.
    command_id: i64,
    /// Whether to activate again although no command waits.
    reactivate: bool,
    stopping: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No activation.
    Passive,
    /// The history is read; `opened` once the stream is there and `init` was sent.
    Recovering { opened: bool },
    /// Commands are served; at most one is with the user function.
    Running,
    /// With a command at the user function.
    Awaiting(Ticket),
    /// Our side of the stream is over, theirs is not.
    Closing,
    /// The stream is gone; writes may still be under way.
    Settling,
}

#[derive(Debug)]
struct Queued {
    request: Request,
    /// Whether it was handed on from an activation that ended before it was seen.
    retried: bool,
}

#[derive(Debug)]
struct Unacknowledged {
    ticket: Ticket,
    answer: Answer,
    /// Whether its own events are still to be written.
    appending: bool,
}

impl EventSourced {
    /// An entity without an activation, which up to `in_flight_max` unwritten replies may outrun.
    pub fn new(service_name: Arc<str>, entity_id: Arc<str>, in_flight_max: usize) -> Self {
        Self {
            service_name,
            entity_id,
            in_flight_max: in_flight_max.max(1),
            phase: Phase::Passive,
            queue: VecDeque::new(),
            unacknowledged: VecDeque::new(),
            appends: 0,
            sequence: Sequence::default(),
            command_id: 0,
            reactivate: false,
            stopping: false,
        }
    }

    /// Takes one step.
    pub fn on(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Arrived(request) => self.queue.push_back(Queued { request, retried: false }),
            Event::CallerLeft(ticket) => self.queue.retain(|q| q.request.ticket != ticket),
            Event::Loaded(loaded) => self.loaded(loaded, &mut actions),
            Event::LoadEnded => self.load_ended(&mut actions),
            Event::LoadFailed(detail) => self.load_failed(&detail, &mut actions),
            Event::Message(message) => self.message(message, &mut actions),
            Event::StreamEnded(end) => self.stream_ended(end, &mut actions),
            Event::Written(outcome) => self.written(outcome, &mut actions),
            Event::TimedOut => self.timed_out(&mut actions),
            Event::Stop => self.stopping = true,
        }
        self.proceed(&mut actions);
        actions
    }

    /// Does what has become possible.
    fn proceed(&mut self, actions: &mut Vec<Action>) {
        if self.phase == Phase::Settling && self.appends == 0 {
            self.phase = Phase::Passive;
        }
        if self.phase == Phase::Passive {
            let reactivate = std::mem::take(&mut self.reactivate) && !self.stopping;
            if self.queue.is_empty() && !reactivate {
                actions.extend([Action::Disarm, Action::End]);
            } else {
                self.phase = Phase::Recovering { opened: false };
                actions.extend([Action::Load, Action::Arm(Timer::Activation)]);
            }
        }
        if self.phase == Phase::Running && self.unacknowledged.len() < self.in_flight_max {
            if let Some(queued) = self.queue.pop_front() {
                self.send(queued.request, actions);
            } else if self.stopping && self.unacknowledged.is_empty() {
                self.half_close(actions);
            }
        }
    }

    fn send(&mut self, request: Request, actions: &mut Vec<Action>) {
        self.command_id += 1;
        self.phase = Phase::Awaiting(request.ticket);
        let command = Command {
            entity_id: self.entity_id.as_ref().to_owned(),
            id: self.command_id,
            name: request.name,
            payload: Some(request.payload),
            streamed: false,
            metadata: request.metadata,
        };
        let message = stream_in::Message::Command(command);
        actions.extend([Action::Send(message), Action::Arm(Timer::Command)]);
    }

    fn loaded(&mut self, loaded: Loaded, actions: &mut Vec<Action>) {
        let Phase::Recovering { opened } = self.phase else { return };
        match loaded {
            Loaded::Snapshot(sequence, snapshot) => {
                self.sequence = sequence;
                self.open(Some(snapshot), actions);
            }
            Loaded::Event(sequence, payload) => {
                if !opened {
                    self.sequence = Sequence::default();
                    self.open(None, actions);
                }
                self.sequence = sequence;
                actions.push(Action::Send(stream_in::Message::Event(EventSourcedEvent {
                    sequence: wire(sequence),
                    payload: Some(payload),
                })));
            }
        }
        actions.push(Action::Arm(Timer::Activation));
    }

    /// Opens the stream; `init` goes out at once, since some user functions send their headers only
    /// behind their own first message.
    fn open(&mut self, snapshot: Option<Any>, actions: &mut Vec<Action>) {
        self.phase = Phase::Recovering { opened: true };
        self.command_id = 0;
        let init = EventSourcedInit {
            service_name: self.service_name.as_ref().to_owned(),
            entity_id: self.entity_id.as_ref().to_owned(),
            snapshot: snapshot.map(|snapshot| EventSourcedSnapshot {
                snapshot_sequence: wire(self.sequence),
                snapshot: Some(snapshot),
            }),
        };
        actions.extend([Action::Open, Action::Send(stream_in::Message::Init(init))]);
    }

    fn load_ended(&mut self, actions: &mut Vec<Action>) {
        let Phase::Recovering { opened } = self.phase else { return };
        if !opened {
            self.sequence = Sequence::default();
            self.open(None, actions);
        }
        self.phase = Phase::Running;
        actions.push(Action::Arm(Timer::Idle));
    }

    fn load_failed(&mut self, detail: &str, actions: &mut Vec<Action>) {
        if matches!(self.phase, Phase::Recovering { .. }) {
            let failure = Failure::new(FailureKind::Unavailable, detail);
            self.fail_queue(&failure, actions);
            self.abort(actions);
        }
    }

    fn message(&mut self, message: Option<stream_out::Message>, actions: &mut Vec<Action>) {
        match (self.phase, message) {
            (Phase::Passive | Phase::Closing | Phase::Settling, _) => {}
            (Phase::Awaiting(ticket), Some(stream_out::Message::Reply(reply)))
                if reply.command_id == self.command_id =>
            {
                self.reply(ticket, reply, actions);
            }
            (_, Some(stream_out::Message::Reply(reply))) => {
                let detail =
                    format!("reply to command {}, which is not outstanding", reply.command_id);
                self.violation(text::REPLY, &detail, actions);
            }
            (_, Some(stream_out::Message::Failure(failure))) => {
                let detail = format!("command {}: {}", failure.command_id, failure.description);
                self.violation(text::FAILURE, &detail, actions);
            }
            (_, None) => self.violation(text::MESSAGE, "neither reply nor failure", actions),
        }
    }

    fn reply(&mut self, ticket: Ticket, reply: EventSourcedReply, actions: &mut Vec<Action>) {
        self.phase = Phase::Running;
        let restart = wants_restart(reply.client_action.as_ref());
        let appending = !restart && !reply.events.is_empty();
        if reply.snapshot.is_some() && reply.events.is_empty() {
            actions.push(self.report("a snapshot came without events and was ignored"));
        }
        let answer = Answer { effects: reply.side_effects, then: then(reply.client_action) };
        self.unacknowledged.push_back(Unacknowledged { ticket, answer, appending });
        if appending {
            let expected = self.sequence;
            self.sequence = expected.after(reply.events.len());
            self.appends += 1;
            let (events, snapshot) = (reply.events, reply.snapshot);
            actions.push(Action::Append { expected, events, snapshot });
        }
        self.release(actions);
        if restart {
            self.reactivate = true;
            self.half_close(actions);
        } else {
            actions.push(Action::Arm(Timer::Idle));
        }
    }

    /// Answers callers up to the first whose events are not durable.
    fn release(&mut self, actions: &mut Vec<Action>) {
        while self.unacknowledged.front().is_some_and(|first| !first.appending) {
            if let Some(Unacknowledged { ticket, answer, .. }) = self.unacknowledged.pop_front() {
                actions.push(Action::Release(ticket, answer));
            }
        }
    }

    fn written(&mut self, outcome: Written, actions: &mut Vec<Action>) {
        self.appends = self.appends.saturating_sub(1);
        let detail = match outcome {
            Written::Committed => {
                if let Some(first) = self.unacknowledged.iter_mut().find(|u| u.appending) {
                    first.appending = false;
                }
                return self.release(actions);
            }
            Written::Conflict => "another owner wrote to the entity".to_owned(),
            Written::Fenced => "another owner has taken over".to_owned(),
            Written::Refused(detail) => format!("the journal refused: {detail}"),
            Written::Unknown(detail) => format!("the journal's answer is not known: {detail}"),
        };
        let failure = Failure::new(FailureKind::Unavailable, detail);
        for Unacknowledged { ticket, .. } in self.unacknowledged.drain(..) {
            actions.push(Action::Release(ticket, failure.clone().into()));
        }
        self.fail_outstanding(&failure, actions);
        if matches!(self.phase, Phase::Running | Phase::Awaiting(_)) {
            self.half_close(actions);
        }
    }

    /// The user function broke the rules: its state is not to be trusted any more.
    fn violation(&mut self, text: &str, detail: &str, actions: &mut Vec<Action>) {
        actions.push(self.report(&format!("{text}: {detail}")));
        self.fail_outstanding(&Failure::new(FailureKind::Failed, text), actions);
        self.fail_queue(&Failure::new(FailureKind::Failed, text::TERMINATED), actions);
        self.half_close(actions);
    }

    fn stream_ended(&mut self, end: StreamEnd, actions: &mut Vec<Action>) {
        let outstanding = match self.phase {
            Phase::Passive | Phase::Settling => return,
            Phase::Awaiting(ticket) => Some(ticket),
            _ => None,
        };
        let closing = self.phase == Phase::Closing;
        match (end, outstanding) {
            (StreamEnd::Ended, Some(_)) => {
                self.fail_outstanding(
                    &Failure::new(FailureKind::Failed, text::TERMINATION),
                    actions,
                );
                self.fail_queue(&Failure::new(FailureKind::Failed, text::TERMINATED), actions);
            }
            (StreamEnd::NeverReached, Some(ticket)) => {
                let message = "the user function cannot be reached";
                actions.push(Action::Release(
                    ticket,
                    Failure::new(
                        FailureKind::Unavailable,
                        format!("{}: {message}", text::TERMINATION),
                    )
                    .into(),
                ));
            }
            (_, None) if !closing => self.hand_on(actions),
            (_, None) => {}
        }
        self.abort(actions);
    }

    /// Keeps commands that the user function has not seen for the next activation, once.
    fn hand_on(&mut self, actions: &mut Vec<Action>) {
        let failure = Failure::new(FailureKind::Unavailable, text::TERMINATION);
        self.queue.retain_mut(|queued| {
            if queued.retried {
                actions.push(Action::Release(queued.request.ticket, failure.clone().into()));
                return false;
            }
            queued.retried = true;
            true
        });
    }

    fn timed_out(&mut self, actions: &mut Vec<Action>) {
        match self.phase {
            Phase::Passive | Phase::Settling => {}
            Phase::Recovering { .. } => {
                let failure =
                    Failure::new(FailureKind::Unavailable, "the entity was not activated in time");
                self.fail_queue(&failure, actions);
                self.abort(actions);
            }
            // Something still waits for the journal, which has a limit of its own.
            Phase::Running if !self.unacknowledged.is_empty() => {
                actions.push(Action::Arm(Timer::Idle));
            }
            Phase::Running => self.half_close(actions),
            Phase::Awaiting(_) => {
                actions.push(self.report("the user function did not answer a command in time"));
                let failure = Failure::new(
                    FailureKind::DeadlineExceeded,
                    "the entity did not answer in time",
                );
                self.fail_outstanding(&failure, actions);
                self.hand_on(actions);
                self.abort(actions);
            }
            Phase::Closing => self.abort(actions),
        }
    }

    fn half_close(&mut self, actions: &mut Vec<Action>) {
        self.phase = Phase::Closing;
        actions.extend([Action::HalfClose, Action::Arm(Timer::Close)]);
    }

    fn abort(&mut self, actions: &mut Vec<Action>) {
        self.phase = Phase::Settling;
        actions.extend([Action::Abort, Action::Disarm]);
    }

    fn fail_outstanding(&mut self, failure: &Failure, actions: &mut Vec<Action>) {
        if let Phase::Awaiting(ticket) = self.phase {
            self.phase = Phase::Running;
            actions.push(Action::Release(ticket, failure.clone().into()));
        }
    }

    fn fail_queue(&mut self, failure: &Failure, actions: &mut Vec<Action>) {
        let failed = self.queue.drain(..).map(|queued| queued.request.ticket);
        actions.extend(failed.map(|ticket| Action::Release(ticket, failure.clone().into())));
    }

    fn report(&self, what: &str) -> Action {
        Action::Report(format!("{} {:?}: {what}", self.service_name, self.entity_id))
    }
}

/// Sequence numbers are signed on the wire and never get near the end of either range.
fn wire(sequence: Sequence) -> i64 {
    i64::try_from(sequence.0).unwrap_or(i64::MAX)
}

fn wants_restart(action: Option<&ClientAction>) -> bool {
    let action = action.and_then(|action| action.action.as_ref());
    matches!(action, Some(client_action::Action::Failure(failure)) if failure.restart)
}

fn then(action: Option<ClientAction>) -> Then {
    match action.and_then(|action| action.action) {
        Some(client_action::Action::Reply(reply)) => match reply.payload {
            Some(Any { type_url, value }) => {
                Then::Reply(Reply { type_url, payload: value, metadata: reply.metadata })
            }
            None => Then::Nothing,
        },
        Some(client_action::Action::Failure(failure)) => {
            Then::Fail(Failure::new(FailureKind::Failed, failure.description))
        }
        Some(client_action::Action::Forward(forward)) => Then::Forward(forward),
        None => Then::Nothing,
    }
}

#[cfg(test)]
mod random;
#[cfg(test)]
mod tests;
