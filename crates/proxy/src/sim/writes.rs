//! Plays the driver of batches, and a store that delays, refuses and loses them.

use std::collections::BTreeMap;

use futures::FutureExt as _;

use super::{
    entity::EntityNext,
    truth::{self, Node},
    world::{Next, SECONDS, Time, Who, World, index},
};
use crate::journal::{
    Append, Journal as _, Put, Values as _, Written,
    batch::{Action, BatchId, Batches},
};

/// As in the driver.
const WRITE_TIMEOUT: Time = 5 * SECONDS;

/// Names a write of an entity that was opened as the so-manyeth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WriteRef {
    pub(super) entity: usize,
    pub(super) opened: u64,
    pub(super) write: u64,
}

/// The writes of one life.
#[derive(Default)]
pub(super) struct Writes {
    pub(super) appends: Batches<Append, WriteRef>,
    pub(super) puts: Batches<Put, WriteRef>,
    /// Which state an entity's value is, by epoch and version: a deleted value does not say so itself.
    states: BTreeMap<(usize, u64, u64), Node>,
}

/// Writes that go out together.
#[derive(Debug)]
pub(super) enum Together {
    Events(Vec<Append>),
    Values(Vec<(Put, Node)>),
}

/// What happens to a batch.
#[derive(Debug)]
pub(super) enum BatchNext {
    /// The store gets it.
    Arrives(Kind, BatchId, Together),
    /// The store's answer is there.
    Answered(Kind, BatchId, Vec<Written>),
    /// The store has said nothing for too long.
    Silent(Kind, BatchId),
}

/// Of what a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Events,
    Values,
}

impl World {
    pub(super) fn append(&mut self, who: Who, append: Append, write: WriteRef) {
        let Some(life) = self.life(who) else { return };
        let actions = life.writes.appends.submit(append, write);
        self.perform_appends(who, actions);
    }

    pub(super) fn put(&mut self, who: Who, put: Put, state: Node, write: WriteRef) {
        let Some(life) = self.life(who) else { return };
        let key = (write.entity, put.guard.epoch.0, put.next.0);
        life.writes.states.insert(key, state);
        let actions = life.writes.puts.submit(put, write);
        self.perform_puts(who, actions);
    }

    fn perform_appends(&mut self, who: Who, actions: Vec<Action<Append, WriteRef>>) {
        for action in actions {
            match action {
                Action::Write(batch, writes) => {
                    self.send(who, Kind::Events, batch, Together::Events(writes));
                }
                Action::Release(write, outcome) => self.outcome(who, write, outcome),
            }
            if self.crashes(who) {
                return;
            }
        }
    }

    fn perform_puts(&mut self, who: Who, actions: Vec<Action<Put, WriteRef>>) {
        for action in actions {
            match action {
                Action::Write(batch, writes) => {
                    let Some(life) = self.life(who) else { return };
                    let states = &life.writes.states;
                    let known = |put: Put| {
                        let key = (index(&put.entity), put.guard.epoch.0, put.next.0);
                        let state = states.get(&key).copied().unwrap_or_default();
                        (put, state)
                    };
                    let writes = writes.into_iter().map(known).collect();
                    self.send(who, Kind::Values, batch, Together::Values(writes));
                }
                Action::Release(write, outcome) => self.outcome(who, write, outcome),
            }
            if self.crashes(who) {
                return;
            }
        }
    }

    fn send(&mut self, who: Who, kind: Kind, batch: BatchId, writes: Together) {
        let way = self.way();
        self.after(way, Next::Batch(who, BatchNext::Arrives(kind, batch, writes)));
        self.after(WRITE_TIMEOUT, Next::Batch(who, BatchNext::Silent(kind, batch)));
    }

    pub(super) fn batch(&mut self, who: Who, next: BatchNext) {
        match next {
            BatchNext::Arrives(kind, batch, writes) => self.arrives(who, kind, batch, writes),
            BatchNext::Answered(Kind::Events, batch, outcomes) => {
                let Some(life) = self.life(who) else { return };
                let actions = life.writes.appends.finished(batch, outcomes);
                self.perform_appends(who, actions);
            }
            BatchNext::Answered(Kind::Values, batch, outcomes) => {
                let Some(life) = self.life(who) else { return };
                let actions = life.writes.puts.finished(batch, outcomes);
                self.perform_puts(who, actions);
            }
            // A batch that was answered already is not known any more.
            BatchNext::Silent(Kind::Events, batch) => {
                let Some(life) = self.life(who) else { return };
                if life.writes.appends.is_in_flight(batch) {
                    let actions = life.writes.appends.silent(batch, "silence");
                    self.perform_appends(who, actions);
                }
            }
            BatchNext::Silent(Kind::Values, batch) => {
                let Some(life) = self.life(who) else { return };
                if life.writes.puts.is_in_flight(batch) {
                    let actions = life.writes.puts.silent(batch, "silence");
                    self.perform_puts(who, actions);
                }
            }
        }
    }

    /// The store gets a batch, whether or not the process is there that sent it.
    fn arrives(&mut self, who: Who, kind: Kind, batch: BatchId, writes: Together) {
        let lost = self.away || (self.chaos && self.random.chance(200));
        let in_time = !lost || (!self.away && self.random.chance(5_000));
        let mut outcomes = match writes {
            Together::Events(writes) => {
                let often = if writes.len() > 1 { 600 } else { 80 };
                writes.into_iter().map(|a| self.store_append(&a, in_time, often)).collect()
            }
            Together::Values(writes) => writes
                .into_iter()
                .map(|(put, state)| self.store_put(&put, state, in_time, 80))
                .collect::<Vec<_>>(),
        };
        if lost {
            self.counts.lost_answers += 1;
            let told = if self.random.chance(5_000) { outcomes.len() } else { 0 };
            outcomes.truncate(told);
            outcomes.fill(Written::Unknown("the connection broke".to_owned()));
        }
        let way = self.way();
        self.after(way, Next::Batch(who, BatchNext::Answered(kind, batch, outcomes)));
    }

    fn store_append(&mut self, append: &Append, written: bool, often: u64) -> Written {
        if let Some(refused) = self.refused(often) {
            return refused;
        }
        if !written {
            return Written::Unknown(String::new());
        }
        let outcome = one(self.memory.append(vec![append.clone()]));
        if outcome == Written::Committed {
            self.counts.writes += append.events.len() as u64;
            self.truth.appended(index(&append.entity), append);
        }
        outcome
    }

    fn store_put(&mut self, put: &Put, state: Node, written: bool, often: u64) -> Written {
        if let Some(refused) = self.refused(often) {
            return refused;
        }
        if !written {
            return Written::Unknown(String::new());
        }
        let outcome = one(self.memory.put(vec![put.clone()]));
        if outcome == Written::Committed {
            self.counts.writes += 1;
            let named = put.value.as_ref().is_none_or(|value| truth::node(value) == state);
            self.truth.check(named, "I2", || format!("a value of {state} is another one"));
            self.truth.put(index(&put.entity), put, state);
        }
        outcome
    }

    /// A store may say no to a write for reasons of its own.
    fn refused(&mut self, often: u64) -> Option<Written> {
        if !(self.chaos && self.random.chance(often)) {
            return None;
        }
        Some(match self.random.one_of(3) {
            0 => Written::Refused("the disk is full".to_owned()),
            1 => Written::Conflict,
            _ => Written::Fenced,
        })
    }

    /// A write of an entity has an outcome.
    fn outcome(&mut self, who: Who, write: WriteRef, outcome: Written) {
        if outcome == Written::Fenced {
            self.after(0, Next::Hint(who));
        }
        let WriteRef { entity, opened, write } = write;
        let Some(life) = self.life(who) else { return };
        let Some(open) = life.entities.get_mut(&entity).filter(|open| open.opened == opened) else {
            return;
        };
        let waiting = open.writes.iter_mut().find(|(number, _)| *number == write);
        let again = waiting.is_none_or(|(_, known)| known.replace(outcome).is_some());
        self.truth.check(!again, "I8", || format!("write {write} got two outcomes"));
        let soon = self.random.within(0, 200);
        self.after(soon, Next::Entity(who, entity, opened, EntityNext::Written));
    }
}

fn one(outcomes: impl Future<Output = Vec<Written>>) -> Written {
    let outcomes = outcomes.now_or_never().unwrap_or_default();
    outcomes.into_iter().next().unwrap_or_else(|| Written::Unknown("no outcome".to_owned()))
}
