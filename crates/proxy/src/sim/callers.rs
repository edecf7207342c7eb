//! Callers: each gives one command after the other, leaves some of them, and at last reads everything.

use super::{
    truth::payload,
    world::{ENTITIES, MILLIS, Next, SECONDS, Who, World},
};
use crate::{
    entity::{
        Answer, Then,
        machine::{Event, Request, Ticket},
    },
    ownership::Status,
};

/// One caller.
pub(super) struct Caller {
    /// Commands that it still gives while things go wrong.
    left: u64,
    /// Entities that it still reads when all is calm.
    reads: usize,
    waits: Option<Waits>,
}

/// A command that is not answered yet.
struct Waits {
    ticket: Ticket,
    entity: usize,
    who: Who,
    /// How deep a state had been shown to anybody when the command came.
    floor: u64,
    /// Whether an answer must come before the caller leaves.
    patient: bool,
}

impl Caller {
    /// Gives so many commands; one caller reads everything at last.
    pub(super) fn new(commands: u64, reads: bool) -> Self {
        Self { left: commands, reads: if reads { ENTITIES } else { 0 }, waits: None }
    }

    pub(super) fn is_done(&self) -> bool {
        self.left == 0 && self.reads == 0 && self.waits.is_none()
    }
}

impl World {
    /// Gives the next command.
    pub(super) fn turn(&mut self, caller: usize) {
        if self.callers[caller].waits.is_some() || self.callers[caller].is_done() {
            return;
        }
        let last = self.callers[caller].left == 0;
        if last && self.callers.iter().any(|caller| caller.left > 0) {
            return self.later(caller);
        }
        if last && self.chaos {
            self.calm();
        }
        let Some(who) = self.a_proxy() else {
            return self.after(100 * MILLIS, Next::Caller(caller));
        };
        let entity = if last {
            self.callers[caller].reads - 1
        } else {
            self.callers[caller].left -= 1;
            // Some are hot, so that writes of one entity wait behind each other.
            let of = if self.random.chance(4_000) { 2 } else { ENTITIES };
            self.random.one_of(of)
        };
        let name = if last || self.random.chance(3_500) { "read" } else { "change" };
        self.counts.commands += 1;
        let ticket = self.next_number();
        let floor = self.truth.shown(entity);
        let patient = !(self.chaos && self.random.chance(1_500));
        self.callers[caller].waits = Some(Waits { ticket, entity, who, floor, patient });
        let hurried = self.random.within(MILLIS, 100 * MILLIS);
        let patience = if patient { 60 * SECONDS } else { hurried };
        self.after(patience, Next::Leaves(caller, ticket));
        self.give(who, entity, ticket, name);
    }

    /// The owner most of the time, and somebody at all the rest of it.
    fn a_proxy(&mut self) -> Option<Who> {
        let lost = self.chaos && self.random.chance(500);
        let lives = self.slots.iter().filter_map(|slot| slot.life.as_ref());
        let ready = lives.filter(|life| lost || life.status == Some(Status::Owner));
        let ready: Vec<_> = ready.map(|life| life.who).collect();
        if ready.is_empty() {
            return None;
        }
        let which = self.random.one_of(ready.len());
        ready.get(which).copied()
    }

    fn give(&mut self, who: Who, entity: usize, ticket: Ticket, name: &str) {
        let Some(life) = self.life(who) else { return };
        if life.tenure.as_ref().is_none_or(|tenure| tenure.ending) {
            return self.told(who, ticket, None);
        }
        if !life.entities.contains_key(&entity) {
            self.open(who, entity);
        }
        if let Some(open) = self.life(who).and_then(|life| life.entities.get_mut(&entity)) {
            open.waiting.insert(ticket);
        }
        let number = usize::try_from(ticket).unwrap_or_default();
        let (name, payload) = (name.to_owned(), payload(number));
        let request = Request { ticket, name, payload, metadata: None };
        self.on(who, entity, Event::Arrived(request));
    }

    /// A caller does not wait any more.
    pub(super) fn leave(&mut self, caller: usize, ticket: Ticket) {
        let Some(waits) = &self.callers[caller].waits else { return };
        if waits.ticket != ticket {
            return;
        }
        let (entity, who, patient) = (waits.entity, waits.who, waits.patient);
        self.truth.check(!patient, "I8", || format!("command {ticket} got no answer"));
        self.callers[caller].waits = None;
        self.later(caller);
        if let Some(open) = self.life(who).and_then(|life| life.entities.get_mut(&entity))
            && open.waiting.remove(&ticket)
        {
            open.left.insert(ticket);
            self.on(who, entity, Event::CallerLeft(ticket));
        }
    }

    /// An entity gave an answer, or ended without one.
    pub(super) fn told(&mut self, who: Who, ticket: Ticket, answer: Option<&Answer>) {
        let now = self.now;
        let serves = self.life(who).is_some_and(|life| now < life.until);
        let of =
            |caller: &Caller| caller.waits.as_ref().is_some_and(|waits| waits.ticket == ticket);
        let Some(caller) = self.callers.iter().position(of) else {
            // Effects are owed even when the caller has left.
            if let Some(answer) = answer {
                self.truth.effects(ticket, answer);
            }
            return;
        };
        let Some(Waits { entity, floor, .. }) = self.callers[caller].waits.take() else { return };
        if let Some(answer) = answer
            && serves
        {
            self.truth.answered(entity, ticket, floor, answer);
            if matches!(answer.then, Then::Reply(_)) {
                self.counts.replies += 1;
                if self.callers[caller].left == 0 && !self.chaos {
                    self.callers[caller].reads = self.callers[caller].reads.min(entity);
                }
            }
        }
        self.later(caller);
    }

    /// All who wait for a proxy lose their connection.
    pub(super) fn disconnect(&mut self, gone: Who) {
        for caller in 0..self.callers.len() {
            if self.callers[caller].waits.as_ref().is_some_and(|waits| waits.who == gone) {
                self.callers[caller].waits = None;
                self.later(caller);
            }
        }
    }

    fn later(&mut self, caller: usize) {
        let slow = self.chaos && self.random.chance(2_000);
        let pause = self.random.within(0, if slow { 2 * SECONDS } else { 20 * MILLIS });
        self.after(pause, Next::Caller(caller));
    }
}
