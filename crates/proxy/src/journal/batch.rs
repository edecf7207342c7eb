//! Writes of many entities on their way to the store, as few batches as can be. A state machine:
//! no I/O, no clock; [`Batcher`] carries out what it says.
//!
//! A batch forms while the ones before it are in flight, and there is no timer: an idle store gets
//! the first write at once. What holds:
//!
//! - Of one entity, one write is in flight. The next one goes out when its outcome is known, so the
//!   order of an entity's writes is the order in which they were submitted.
//! - Writes of one entity that wait behind each other become one, when the later one goes on where
//!   the earlier one ends: they are durable together or not at all, and each gets the outcome. That is
//!   what makes a hot entity fast.
//! - A write behind one that was not committed is never sent: it was made by somebody who took the
//!   earlier one for done. It gets the earlier one's outcome, as far as that says that nothing of it
//!   was written.
//! - What waits is bounded; a write beyond that is refused. A store that is silent for too long refuses
//!   all that waits, so that nobody waits for several silences in a row.

mod driver;

use std::collections::{BTreeMap, HashMap, VecDeque, hash_map};

use protocol::Any;

use super::{Append, EntityId, Put, Written};
use crate::planted::{self, Bug};

pub use driver::Batcher;

/// Batches in flight at once.
const LANES: usize = 2;
/// Rows of one batch, unless a single write has more.
const ROWS_MAX: usize = 512;
/// Payload of one batch, unless a single write has more.
const BYTES_MAX: usize = 8 << 20;
/// Writes that may wait.
const WAITING_MAX: usize = 8_192;
/// Payload that may wait, unless nothing else does.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// A write as far as batches care.
pub trait Write: Sized {
    /// Whose it is.
    fn entity(&self) -> &EntityId;
    /// How many rows it makes.
    fn rows(&self) -> usize;
    /// How much payload it carries.
    fn bytes(&self) -> usize;
    /// Whether this write, and then `later`, can be one.
    fn leads_to(&self, later: &Self) -> bool;
    /// Takes in a write that this one [leads to](Self::leads_to).
    fn absorb(&mut self, later: Self);
}

impl Write for Append {
    fn entity(&self) -> &EntityId {
        &self.entity
    }

    fn rows(&self) -> usize {
        self.events.len()
    }

    fn bytes(&self) -> usize {
        self.events.iter().chain(&self.snapshot).map(size).sum()
    }

    /// A snapshot is of the state behind the last event, so nothing can follow it.
    fn leads_to(&self, later: &Self) -> bool {
        self.guard == later.guard
            && self.snapshot.is_none()
            && self.expected.after(self.events.len()) == later.expected
    }

    fn absorb(&mut self, later: Self) {
        let mut events = later.events;
        if planted::is(Bug::MergeTears) {
            events.pop();
        }
        if planted::is(Bug::MergeReorders) {
            std::mem::swap(&mut self.events, &mut events);
        }
        self.events.extend(events);
        self.snapshot = later.snapshot;
    }
}

impl Write for Put {
    fn entity(&self) -> &EntityId {
        &self.entity
    }

    fn rows(&self) -> usize {
        1
    }

    fn bytes(&self) -> usize {
        self.value.as_ref().map_or(0, size)
    }

    fn leads_to(&self, later: &Self) -> bool {
        self.guard == later.guard && self.next == later.expected
    }

    /// Nobody can have seen the value in between: replies wait for the whole.
    fn absorb(&mut self, later: Self) {
        if !planted::is(Bug::VersionStale) {
            self.next = later.next;
        }
        self.value = later.value;
    }
}

/// Names a batch in flight.
pub type BatchId = u64;

/// What is to be done. `T` names who waits for a write.
#[derive(Debug)]
pub enum Action<W, T> {
    /// Hand these to the store together; no two are of the same entity.
    Write(BatchId, Vec<W>),
    /// Tell somebody what became of their write.
    Release(T, Written),
}

/// Writes that wait or are in flight.
#[derive(Debug)]
pub struct Batches<W, T> {
    /// Every entity with a write that waits or is in flight.
    chains: HashMap<EntityId, Chain<W, T>>,
    /// Entities with a write that may go out now, the one that waits longest first.
    ready: VecDeque<EntityId>,
    in_flight: BTreeMap<BatchId, Vec<Sent<T>>>,
    /// How many went out so far.
    begun: BatchId,
    waiting: usize,
    waiting_bytes: usize,
}

/// The writes of one entity.
#[derive(Debug)]
struct Chain<W, T> {
    in_flight: bool,
    waiting: VecDeque<Waiting<W, T>>,
}

/// One write, or several that became one.
#[derive(Debug)]
struct Waiting<W, T> {
    write: W,
    bytes: usize,
    for_whom: Vec<T>,
}

/// What is left of a write while the store has it.
#[derive(Debug)]
struct Sent<T> {
    entity: EntityId,
    for_whom: Vec<T>,
}

impl<W, T> Default for Batches<W, T> {
    fn default() -> Self {
        Self {
            chains: HashMap::new(),
            ready: VecDeque::new(),
            in_flight: BTreeMap::new(),
            begun: 0,
            waiting: 0,
            waiting_bytes: 0,
        }
    }
}

impl<W: Write, T> Batches<W, T> {
    /// Somebody wants something written.
    pub fn submit(&mut self, write: W, for_whom: T) -> Vec<Action<W, T>> {
        let mut actions = Vec::new();
        let bytes = write.bytes();
        let too_much = self.waiting > 0 && self.waiting_bytes + bytes > WAITING_BYTES_MAX;
        // What is behind a refused write would leave a gap, so it must not be let in afterwards; and
        // it is not, since whoever submitted it ends with the refusal.
        if self.waiting >= WAITING_MAX || too_much {
            let full = "more writes wait for the store than it takes: try again later";
            actions.push(Action::Release(for_whom, Written::Refused(full.to_owned())));
            return actions;
        }
        let chain = match self.chains.entry(write.entity().clone()) {
            hash_map::Entry::Occupied(entry) => entry.into_mut(),
            hash_map::Entry::Vacant(entry) => {
                self.ready.push_back(entry.key().clone());
                entry.insert(Chain { in_flight: false, waiting: VecDeque::new() })
            }
        };
        self.waiting += 1;
        self.waiting_bytes += bytes;
        chain.push(write, bytes, for_whom);
        self.proceed(&mut actions);
        actions
    }

    /// The store told of each write of a batch what became of it, in order. One that it said nothing
    /// of may or may not be written.
    pub fn finished(&mut self, batch: BatchId, outcomes: Vec<Written>) -> Vec<Action<W, T>> {
        let mut actions = Vec::new();
        let mut outcomes = outcomes.into_iter();
        let mut first = None;
        for Sent { entity, for_whom } in self.in_flight.remove(&batch).unwrap_or_default() {
            let unknown = || Written::Unknown("the store did not say what became of it".to_owned());
            let mut outcome = outcomes.next().unwrap_or_else(unknown);
            if planted::is(Bug::OutcomeShared) {
                outcome = first.get_or_insert(outcome).clone();
            }
            release(for_whom, &outcome, &mut actions);
            self.settle(&entity, &outcome, &mut actions);
        }
        self.proceed(&mut actions);
        actions
    }

    /// Whether nothing is known of a batch yet.
    pub fn is_in_flight(&self, batch: BatchId) -> bool {
        self.in_flight.contains_key(&batch)
    }

    /// The store said nothing about a batch for longer than it may: whatever waits is refused.
    pub fn silent(&mut self, batch: BatchId, what: &str) -> Vec<Action<W, T>> {
        let mut actions = Vec::new();
        let outcome = Written::Unknown(what.to_owned());
        for Sent { entity, for_whom } in self.in_flight.remove(&batch).unwrap_or_default() {
            release(for_whom, &outcome, &mut actions);
            self.settle(&entity, &outcome, &mut actions);
        }
        let refused = Written::Refused(what.to_owned());
        for id in self.ready.drain(..) {
            for waiting in self.chains.remove(&id).into_iter().flat_map(|chain| chain.waiting) {
                release(waiting.for_whom, &refused, &mut actions);
            }
        }
        for Sent { entity, .. } in self.in_flight.values().flatten() {
            let chain = self.chains.get_mut(entity);
            for waiting in chain.into_iter().flat_map(|chain| chain.waiting.drain(..)) {
                release(waiting.for_whom, &refused, &mut actions);
            }
        }
        (self.waiting, self.waiting_bytes) = (0, 0);
        actions
    }

    /// An entity's write has an outcome: the next one may go, or none may.
    fn settle(&mut self, id: &EntityId, outcome: &Written, actions: &mut Vec<Action<W, T>>) {
        let Some(chain) = self.chains.get_mut(id) else { return };
        chain.in_flight = false;
        if *outcome != Written::Committed {
            let behind = match outcome {
                _ if planted::is(Bug::BehindFailureIsDone) => Written::Committed,
                Written::Unknown(what) => Written::Refused(format!("behind a lost write: {what}")),
                other => other.clone(),
            };
            for waiting in chain.waiting.drain(..) {
                self.waiting -= waiting.for_whom.len();
                self.waiting_bytes -= waiting.bytes;
                release(waiting.for_whom, &behind, actions);
            }
        }
        if chain.waiting.is_empty() {
            self.chains.remove(id);
        } else {
            self.ready.push_back(id.clone());
        }
    }

    /// Sends what can be sent.
    fn proceed(&mut self, actions: &mut Vec<Action<W, T>>) {
        while self.in_flight.len() < LANES && !self.ready.is_empty() {
            let (writes, sent) = self.batch();
            self.begun += 1;
            self.in_flight.insert(self.begun, sent);
            actions.push(Action::Write(self.begun, writes));
        }
    }

    fn batch(&mut self) -> (Vec<W>, Vec<Sent<T>>) {
        let (mut writes, mut sent) = (Vec::new(), Vec::new());
        let (mut rows, mut bytes) = (0, 0);
        while let Some(id) = self.ready.front() {
            // INVARIANT: an entity in `ready` has a chain, and in it a write that waits.
            let Some(chain) = self.chains.get_mut(id) else { break };
            let Some(first) = chain.waiting.front() else { break };
            rows += first.write.rows();
            bytes += first.bytes;
            if !writes.is_empty() && (rows > ROWS_MAX || bytes > BYTES_MAX) {
                break;
            }
            let (Some(entity), Some(first)) = (self.ready.pop_front(), chain.waiting.pop_front())
            else {
                break;
            };
            chain.in_flight = true;
            self.waiting -= first.for_whom.len();
            self.waiting_bytes -= first.bytes;
            writes.push(first.write);
            sent.push(Sent { entity, for_whom: first.for_whom });
        }
        (writes, sent)
    }
}

impl<W: Write, T> Chain<W, T> {
    fn push(&mut self, write: W, bytes: usize, for_whom: T) {
        if let Some(last) = self.waiting.back_mut()
            && last.write.leads_to(&write)
            && last.write.rows() + write.rows() <= ROWS_MAX
            && last.bytes + bytes <= BYTES_MAX
        {
            last.write.absorb(write);
            last.bytes += bytes;
            last.for_whom.push(for_whom);
        } else {
            self.waiting.push_back(Waiting { write, bytes, for_whom: vec![for_whom] });
        }
    }
}

fn size(payload: &Any) -> usize {
    payload.type_url.len() + payload.value.len()
}

fn release<W, T>(for_whom: Vec<T>, outcome: &Written, actions: &mut Vec<Action<W, T>>) {
    actions.extend(for_whom.into_iter().map(|whom| Action::Release(whom, outcome.clone())));
}

#[cfg(test)]
mod tests;
