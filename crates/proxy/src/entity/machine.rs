//! The life of one entity as a state machine: events in, actions out. No I/O, no clock, no waiting,
//! so that a test can put a fault between any two steps.
//!
//! One command at a time is with the user function. What its reply changes goes to the store, and the
//! next command goes out without waiting for that; what waits is the *answer*, until every earlier
//! change of the entity is durable (`docs/promises.md`, I1, I3 and I7).
//!
//! Event sourced and value entities differ in what is loaded and written, and in the texts of their
//! failures; the machine sees neither streams nor stores.

use std::{collections::VecDeque, sync::Arc};

use protocol::{Any, cloudstate::Metadata};

use super::{
    Answer, Failure, FailureKind,
    message::{Incoming, Outgoing, Reaction, State, Write},
    text::Texts,
};
use crate::{
    journal::{EntityId, Sequence, Written},
    planted::{self, Bug},
    route::Service,
    shown,
};

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
    /// It is the entity's turn: its history begins to be read.
    LoadBegins,
    /// The store gave the state that the activation begins with; first of all, when there is one. A
    /// deleted value has a count of writes and no state.
    State(Sequence, Option<Any>),
    /// The store gave an event after that.
    Replay(Sequence, Any),
    /// The store gave all of it.
    LoadEnded,
    /// The stream is open: the transport has taken all that was said.
    Opened,
    /// The store could not be read.
    LoadFailed(String),
    /// The user function said something.
    Message(Incoming),
    /// The user function's end of the stream is over; why, in words for the log.
    StreamEnded(StreamEnd, String),
    /// The oldest write under way has an outcome.
    Written(Written),
    /// The armed timer ran out.
    TimedOut,
    /// Room is wanted: end the activation if nothing is under way.
    Passivate,
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
    /// Read the entity's history as soon as it is its turn; abandons an earlier reading.
    Load,
    /// Open a stream to the user function.
    Open,
    /// Say something on the stream.
    Send(Outgoing),
    /// Store a change.
    Write {
        /// Where the entity's history has come to.
        expected: Sequence,
        /// What happens next in it.
        write: Write,
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
pub struct Machine {
    service: Arc<Service>,
    id: Arc<EntityId>,
    texts: &'static Texts,
    in_flight_max: usize,
    phase: Phase,
    queue: VecDeque<Queued>,
    /// Answers in order, the first of which waits for the store.
    unacknowledged: VecDeque<Unacknowledged>,
    /// Writes whose outcome is not known yet, those of failed answers included.
    writes: usize,
    /// How far the history goes that the user function has seen or made.
    sequence: Sequence,
    /// The id of the last command of this activation.
    command_id: i64,
    /// What the user function said since our side of the stream ended.
    strays: usize,
    /// Whether to activate again although no command waits.
    reactivate: bool,
    stopping: bool,
}

/// As much as a user function may say after our side of the stream has ended: it has one command.
const STRAYS_MAX: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No activation.
    Passive,
    /// The history is to be read.
    Recovering(Reading),
    /// The user function is on its way to the state that the history has given.
    Opening,
    /// Commands are served; at most one is with the user function.
    Running,
    /// With a command at the user function.
    Awaiting(Ticket),
    /// Our side of the stream is over, theirs is not.
    Closing,
    /// The stream is gone; writes may still be under way.
    Settling,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// Others are read before.
    InLine,
    /// It has begun.
    Begun,
    /// The stream is there and `init` was sent.
    Opened,
}

/// What can be seen of an entity from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance {
    /// What it is doing.
    pub phase: &'static str,
    /// Commands that the user function has not got yet.
    pub queued: usize,
    /// Answers that wait for the store.
    pub in_flight: usize,
    /// The last event, or the count of writes.
    pub sequence: Sequence,
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
    /// Whether its own change is still to be stored.
    writing: bool,
}

impl Machine {
    /// An entity without an activation, which up to `in_flight_max` answers that are not durable may
    /// outrun.
    pub fn new(service: Arc<Service>, id: Arc<EntityId>, in_flight_max: usize) -> Self {
        let texts = Texts::of(service.kind);
        Self {
            service,
            id,
            texts,
            in_flight_max: in_flight_max.max(1),
            phase: Phase::Passive,
            queue: VecDeque::new(),
            unacknowledged: VecDeque::new(),
            writes: 0,
            sequence: Sequence::default(),
            command_id: 0,
            strays: 0,
            reactivate: false,
            stopping: false,
        }
    }

    /// How it is.
    pub fn glance(&self) -> Glance {
        let phase = match self.phase {
            Phase::Passive => "passive",
            Phase::Recovering(Reading::InLine) => "in line to be read",
            Phase::Recovering(_) => "recovering",
            Phase::Opening => "opening",
            Phase::Running => "running",
            Phase::Awaiting(_) => "awaiting the user function",
            Phase::Closing => "closing",
            Phase::Settling => "settling",
        };
        Glance {
            phase,
            queued: self.queue.len(),
            in_flight: self.unacknowledged.len(),
            sequence: self.sequence,
        }
    }

    /// Takes one step.
    pub fn on(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Arrived(request) => self.queue.push_back(Queued { request, retried: false }),
            Event::CallerLeft(ticket) => self.caller_left(ticket, &mut actions),
            Event::LoadBegins => self.load_begins(&mut actions),
            Event::State(sequence, state) => self.state(sequence, state, &mut actions),
            Event::Replay(sequence, event) => self.replay(sequence, event, &mut actions),
            Event::LoadEnded => self.load_ended(&mut actions),
            Event::Opened => self.opened(&mut actions),
            Event::LoadFailed(_for_the_log) => self.load_failed(&mut actions),
            Event::Message(message) => self.message(message, &mut actions),
            Event::StreamEnded(end, why) => self.stream_ended(end, &why, &mut actions),
            Event::Written(outcome) => self.written(outcome, &mut actions),
            Event::TimedOut => self.timed_out(&mut actions),
            Event::Passivate => self.passivate(&mut actions),
            Event::Stop => self.stopping = true,
        }
        self.proceed(&mut actions);
        actions
    }

    /// Does what has become possible.
    fn proceed(&mut self, actions: &mut Vec<Action>) {
        if self.phase == Phase::Settling && (self.writes == 0 || planted::is(Bug::ReadTooSoon)) {
            self.phase = Phase::Passive;
        }
        if self.phase == Phase::Passive {
            let reactivate = std::mem::take(&mut self.reactivate) && !self.stopping;
            if self.queue.is_empty() && !reactivate {
                actions.extend([Action::Disarm, Action::End]);
            } else {
                self.phase = Phase::Recovering(Reading::InLine);
                actions.push(Action::Load);
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
        if planted::is(Bug::SentTwice) && self.queue.is_empty() {
            self.queue.push_back(Queued { request: request.clone(), retried: true });
        }
        let Request { name, payload, metadata, ticket: _ } = request;
        let command = Outgoing::Command { id: self.command_id, name, payload, metadata };
        actions.extend([Action::Send(command), Action::Arm(Timer::Command)]);
    }

    fn caller_left(&mut self, ticket: Ticket, actions: &mut Vec<Action>) {
        let before = self.queue.len();
        self.queue.retain(|queued| queued.request.ticket != ticket);
        let was_last = before > 0 && self.queue.is_empty();
        if was_last && self.phase == Phase::Recovering(Reading::InLine) {
            // Nobody wants to have it read any more, and others wait behind it.
            self.abort(actions);
        }
    }

    /// The time in line does not count: how long that takes is the affair of those before.
    fn load_begins(&mut self, actions: &mut Vec<Action>) {
        if self.phase == Phase::Recovering(Reading::InLine) {
            self.phase = Phase::Recovering(Reading::Begun);
            actions.push(Action::Arm(Timer::Activation));
        }
    }

    fn state(&mut self, sequence: Sequence, state: Option<Any>, actions: &mut Vec<Action>) {
        if matches!(self.phase, Phase::Recovering(_)) {
            self.open(sequence, state, actions);
            actions.push(Action::Arm(Timer::Activation));
        }
    }

    fn replay(&mut self, sequence: Sequence, event: Any, actions: &mut Vec<Action>) {
        let Phase::Recovering(reading) = self.phase else { return };
        if reading != Reading::Opened {
            self.open(Sequence::default(), None, actions);
        }
        self.sequence = sequence;
        let message = Outgoing::Event(sequence, event);
        actions.extend([Action::Send(message), Action::Arm(Timer::Activation)]);
    }

    /// Opens the stream; `init` goes out at once, since some user functions send their headers only
    /// behind their own first message.
    fn open(&mut self, sequence: Sequence, state: Option<Any>, actions: &mut Vec<Action>) {
        self.phase = Phase::Recovering(Reading::Opened);
        self.sequence = sequence;
        self.command_id = 0;
        self.strays = 0;
        let state = state.map(|payload| State { sequence, payload });
        actions.extend([Action::Open, Action::Send(Outgoing::Init(state))]);
    }

    fn load_ended(&mut self, actions: &mut Vec<Action>) {
        let Phase::Recovering(reading) = self.phase else { return };
        if reading != Reading::Opened {
            self.open(Sequence::default(), None, actions);
        }
        self.phase = Phase::Opening;
        actions.push(Action::Arm(Timer::Activation));
    }

    fn opened(&mut self, actions: &mut Vec<Action>) {
        if self.phase == Phase::Opening {
            self.phase = Phase::Running;
            actions.push(Action::Arm(Timer::Idle));
        }
    }

    fn load_failed(&mut self, actions: &mut Vec<Action>) {
        if matches!(self.phase, Phase::Recovering(_)) {
            let text = "the entity's history cannot be read";
            let failure = Failure::new(FailureKind::Unavailable, text);
            self.fail_queue(&failure, actions);
            self.abort(actions);
        }
    }

    fn message(&mut self, message: Incoming, actions: &mut Vec<Action>) {
        match (self.phase, message) {
            (Phase::Passive | Phase::Settling, _) => {}
            (Phase::Closing, _) => {
                self.strays += 1;
                if self.strays > STRAYS_MAX {
                    actions.push(self.report("the user function goes on after the stream's end"));
                    self.abort(actions);
                }
            }
            (Phase::Awaiting(ticket), Incoming::Reply(reply))
                if reply.command_id == self.command_id =>
            {
                self.reply(ticket, reply, actions);
            }
            (_, Incoming::Reply(reply)) => {
                let detail =
                    format!("reply to command {}, which is not outstanding", reply.command_id);
                self.violation(self.texts.reply, &detail, actions);
            }
            (_, Incoming::Failure(failure)) => {
                let detail = format!("command {}: {}", failure.command_id, failure.description);
                self.violation(self.texts.failure, &detail, actions);
            }
            (_, Incoming::Nonsense(detail)) => self.violation(self.texts.message, detail, actions),
        }
    }

    fn reply(&mut self, ticket: Ticket, reply: Reaction, actions: &mut Vec<Action>) {
        let Reaction { command_id: _, then, effects, write, restart, ignored } = reply;
        self.phase = Phase::Running;
        if let Some(ignored) = ignored {
            actions.push(self.report(ignored));
        }
        let answer = Answer { effects, then };
        let early = planted::is(Bug::ReplyBeforeCommit)
            || planted::is(Bug::EffectsBeforeCommit) && !answer.effects.is_empty();
        let writing = write.is_some() && !early;
        self.unacknowledged.push_back(Unacknowledged { ticket, answer, writing });
        if let Some(mut write) = write {
            let expected = self.sequence;
            if let Write::Events(events, _) = &mut write {
                if planted::is(Bug::EventDropped) && events.len() > 1 {
                    events.pop();
                }
                if planted::is(Bug::EventDoubled) {
                    events.extend(events.last().cloned());
                }
            }
            self.sequence = write.after(expected);
            self.writes += 1;
            actions.push(Action::Write { expected, write });
        }
        self.release(actions);
        if restart {
            self.reactivate = true;
            self.half_close(actions);
        } else {
            actions.push(Action::Arm(Timer::Idle));
        }
    }

    /// Answers callers up to the first whose change is not durable.
    fn release(&mut self, actions: &mut Vec<Action>) {
        if planted::is(Bug::ReadBeforeCommit)
            && let Some(last) = self.unacknowledged.pop_back_if(|last| !last.writing)
        {
            actions.push(Action::Release(last.ticket, last.answer));
        }
        while self.unacknowledged.front().is_some_and(|first| !first.writing) {
            if let Some(Unacknowledged { ticket, answer, .. }) = self.unacknowledged.pop_front() {
                if planted::is(Bug::AnsweredTwice) {
                    actions.push(Action::Release(ticket, answer.clone()));
                }
                actions.push(Action::Release(ticket, answer));
            }
        }
    }

    fn written(&mut self, outcome: Written, actions: &mut Vec<Action>) {
        self.writes = self.writes.saturating_sub(1);
        let outcome = match outcome {
            Written::Unknown(_) if planted::is(Bug::UnknownIsDone) => Written::Committed,
            Written::Conflict if planted::is(Bug::ConflictIsDone) => Written::Committed,
            outcome => outcome,
        };
        let goes_on = matches!(outcome, Written::Unknown(_)) && planted::is(Bug::UnknownIsNothing);
        let detail = match outcome {
            Written::Committed => {
                if let Some(first) = self.unacknowledged.iter_mut().find(|u| u.writing) {
                    first.writing = false;
                }
                return self.release(actions);
            }
            Written::Conflict => "the entity's history went on elsewhere".to_owned(),
            Written::Fenced => "another owner has taken over".to_owned(),
            // The store's own words are for the log: they may tell what callers are not to know.
            Written::Refused(_) => "the store refused the write".to_owned(),
            Written::Unknown(_) => "the store's answer is not known".to_owned(),
        };
        let failure = Failure::new(FailureKind::Unavailable, detail);
        for Unacknowledged { ticket, .. } in self.unacknowledged.drain(..) {
            actions.push(Action::Release(ticket, failure.clone().into()));
        }
        self.fail_outstanding(&failure, actions);
        if matches!(self.phase, Phase::Running | Phase::Awaiting(_)) && !goes_on {
            self.half_close(actions);
        }
    }

    /// The user function broke the rules: its state is not to be trusted any more.
    fn violation(&mut self, text: &str, detail: &str, actions: &mut Vec<Action>) {
        actions.push(self.report(&format!("{text}: {detail}")));
        self.fail_outstanding(&Failure::new(FailureKind::Failed, text), actions);
        self.fail_queue(&Failure::new(FailureKind::Failed, self.texts.terminated), actions);
        self.half_close(actions);
    }

    fn stream_ended(&mut self, end: StreamEnd, why: &str, actions: &mut Vec<Action>) {
        match (self.phase, end) {
            (Phase::Passive | Phase::Settling, _) => return,
            (Phase::Closing, _) => {}
            (Phase::Awaiting(_), StreamEnd::Ended) => {
                actions.push(self.report(&format!("{}: {why}", self.texts.termination)));
                let failure = Failure::new(FailureKind::Failed, self.texts.termination);
                self.fail_outstanding(&failure, actions);
                let failure = Failure::new(FailureKind::Failed, self.texts.terminated);
                self.fail_queue(&failure, actions);
            }
            (Phase::Awaiting(_), StreamEnd::NeverReached) => {
                self.fail_outstanding(&unreachable(self.texts), actions);
                self.hand_on(&unreachable(self.texts), actions);
            }
            (_, StreamEnd::NeverReached) => self.hand_on(&unreachable(self.texts), actions),
            (_, StreamEnd::Ended) => {
                let failure = Failure::new(FailureKind::Unavailable, self.texts.termination);
                self.hand_on(&failure, actions);
            }
        }
        self.abort(actions);
    }

    /// Keeps commands that the user function has not seen for the next activation, once.
    fn hand_on(&mut self, failure: &Failure, actions: &mut Vec<Action>) {
        if planted::is(Bug::QueueLost) {
            self.queue.clear();
        }
        self.queue.retain_mut(|queued| {
            if queued.retried {
                actions.push(Action::Release(queued.request.ticket, failure.clone().into()));
                return false;
            }
            queued.retried = true;
            true
        });
    }

    fn passivate(&mut self, actions: &mut Vec<Action>) {
        if self.phase == Phase::Running && self.queue.is_empty() && self.unacknowledged.is_empty() {
            self.half_close(actions);
        }
    }

    fn timed_out(&mut self, actions: &mut Vec<Action>) {
        match self.phase {
            Phase::Passive | Phase::Settling => {}
            Phase::Recovering(reading) => {
                let why = match reading {
                    Reading::InLine | Reading::Begun => "the store did not give its history",
                    Reading::Opened => {
                        "the store or the user function did not go on with its history"
                    }
                };
                self.not_activated(why, actions);
            }
            Phase::Opening => {
                self.not_activated("the user function did not take its history", actions);
            }
            // Something still waits for the store, which has a limit of its own.
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
                let failure = Failure::new(FailureKind::Unavailable, self.texts.termination);
                self.hand_on(&failure, actions);
                self.abort(actions);
            }
            Phase::Closing => self.abort(actions),
        }
    }

    fn not_activated(&mut self, why: &str, actions: &mut Vec<Action>) {
        let text = format!("the entity was not activated in time: {why}");
        self.fail_queue(&Failure::new(FailureKind::Unavailable, text), actions);
        self.abort(actions);
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
        let text = format!("{} {:?}: {what}", self.service.name, shown::key(&self.id.key));
        Action::Report(shown::report(text))
    }
}

fn unreachable(texts: &Texts) -> Failure {
    let text = format!("{}: the user function cannot be reached", texts.termination);
    Failure::new(FailureKind::Unavailable, text)
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod random;
#[cfg(test)]
mod tests;
