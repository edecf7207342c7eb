//! Plays the driver of an entity, and the stream to its user function.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use futures::FutureExt as _;

use super::{
    function::{Says, Stream},
    truth::Node,
    world::{MILLIS, Next, SECONDS, Time, Who, World},
    writes::WriteRef,
};
use crate::{
    entity::{
        history::History,
        machine::{Action, Event, Machine, StreamEnd, Ticket, Timer},
        message::{Outgoing, Write},
    },
    journal::{Append, Put, Version, Written},
};

/// One open entity.
pub(super) struct Entity {
    /// The so-manyeth that was opened.
    pub(super) opened: u64,
    machine: Machine,
    /// Commands that are not answered yet.
    pub(super) waiting: BTreeSet<Ticket>,
    /// Commands whose callers have left, and which may still be answered.
    pub(super) left: BTreeSet<Ticket>,
    /// Outcomes of writes, in order.
    pub(super) writes: VecDeque<(u64, Option<Written>)>,
    /// Its place among those that are read.
    turn: Option<u64>,
    history: Option<(u64, History)>,
    /// Of a value: which state the store gave.
    base: Node,
    opening: Option<u64>,
    stream: Option<(u64, Stream)>,
    timer: Option<u64>,
}

/// What happens to an entity; numbers tell what is still of interest.
#[derive(Debug)]
pub(super) enum EntityNext {
    Called(u64),
    Loads(u64),
    Opened(u64),
    Says(u64, Says),
    StreamEnds(u64, StreamEnd),
    TimesOut(u64),
    Written,
}

impl World {
    /// Opens an entity of the tenure that there is.
    pub(super) fn open(&mut self, who: Who, entity: usize) {
        let opened = self.next_number();
        let in_flight = [1, 2, 32][self.random.one_of(3)];
        let machine =
            Machine::new(Arc::clone(self.service(entity)), Arc::clone(self.id(entity)), in_flight);
        let open = Entity {
            opened,
            machine,
            waiting: BTreeSet::new(),
            left: BTreeSet::new(),
            writes: VecDeque::new(),
            turn: None,
            history: None,
            base: entity,
            opening: None,
            stream: None,
            timer: None,
        };
        if let Some(life) = self.life(who) {
            life.entities.insert(entity, open);
        }
    }

    /// Tells an entity something, and does what it says.
    pub(super) fn on(&mut self, who: Who, entity: usize, event: Event) {
        let Some(open) = self.life(who).and_then(|life| life.entities.get_mut(&entity)) else {
            return;
        };
        let opened = open.opened;
        let actions = open.machine.on(event);
        let mut ended = false;
        for action in actions {
            self.note(|| format!("{who:?} entity {entity} {action:?}"));
            ended |= action == Action::End;
            self.perform(who, entity, opened, action);
            if self.crashes(who) {
                return;
            }
        }
        if ended {
            if let Some(life) = self.life(who)
                && let Some(open) = life.entities.remove(&entity)
            {
                let left = open.waiting.len();
                self.truth.check(left == 0, "I8", || {
                    format!("entity {entity} ends, and {left} commands wait")
                });
            }
            self.ended_if_empty(who);
        }
    }

    pub(super) fn entity(&mut self, who: Who, entity: usize, opened: u64, next: EntityNext) {
        let Some(open) = self.life(who).and_then(|life| life.entities.get_mut(&entity)) else {
            return;
        };
        if open.opened != opened {
            return;
        }
        match next {
            EntityNext::Called(number) => {
                if open.turn == Some(number) {
                    open.turn = None;
                    self.called(who, entity, opened, number);
                }
            }
            EntityNext::Loads(number) => self.loads(who, entity, number),
            EntityNext::Opened(number) => {
                if open.opening == Some(number) {
                    open.opening = None;
                    self.on(who, entity, Event::Opened);
                }
            }
            EntityNext::Says(number, says) => {
                if open.stream.as_ref().is_some_and(|(now, _)| *now == number) {
                    match says {
                        Says::Message(message) => self.on(who, entity, Event::Message(*message)),
                        Says::End => self.stream_ends(who, entity, StreamEnd::Ended),
                        Says::Nothing => {}
                    }
                }
            }
            EntityNext::StreamEnds(number, end) => {
                if open.stream.as_ref().is_some_and(|(now, _)| *now == number) {
                    self.stream_ends(who, entity, end);
                }
            }
            EntityNext::TimesOut(number) => {
                if open.timer == Some(number) {
                    open.timer = None;
                    self.on(who, entity, Event::TimedOut);
                }
            }
            EntityNext::Written => {
                if let Some((_, Some(_))) = open.writes.front()
                    && let Some((_, Some(outcome))) = open.writes.pop_front()
                {
                    let more = matches!(open.writes.front(), Some((_, Some(_))));
                    if more {
                        self.after(0, Next::Entity(who, entity, opened, EntityNext::Written));
                    }
                    self.on(who, entity, Event::Written(outcome));
                }
            }
        }
    }

    fn stream_ends(&mut self, who: Who, entity: usize, end: StreamEnd) {
        if let Some(open) = self.life(who).and_then(|life| life.entities.get_mut(&entity)) {
            open.stream = None;
            open.opening = None;
        }
        self.on(who, entity, Event::StreamEnded(end, "the stream ended".to_owned()));
    }

    /// The user function of a slot has ended: so do all of its streams.
    pub(super) fn end_streams(&mut self, slot: usize) {
        let Some(life) = &self.slots[slot].life else { return };
        let who = life.who;
        let streams = life
            .entities
            .iter()
            .filter_map(|(entity, open)| Some((*entity, open.opened, open.stream.as_ref()?.0)));
        for (entity, opened, stream) in streams.collect::<Vec<_>>() {
            let soon = self.random.within(0, MILLIS);
            let ends = EntityNext::StreamEnds(stream, StreamEnd::Ended);
            self.after(soon, Next::Entity(who, entity, opened, ends));
        }
    }

    /// It is the entity's turn to be read.
    fn called(&mut self, who: Who, entity: usize, opened: u64, number: u64) {
        let (kind, id) = (self.service(entity).kind, Arc::clone(self.id(entity)));
        let store = Arc::clone(&self.store);
        if let Some(open) = self.life(who).and_then(|life| life.entities.get_mut(&entity)) {
            open.history = Some((number, History::load(&store, kind, &id)));
        }
        self.load_soon(who, entity, opened, number);
        self.on(who, entity, Event::LoadBegins);
    }

    fn loads(&mut self, who: Who, entity: usize, number: u64) {
        let fails = self.away || (self.chaos && self.random.chance(50));
        let Some(open) = self.life(who).and_then(|life| life.entities.get_mut(&entity)) else {
            return;
        };
        let Some((_, history)) = open.history.as_mut().filter(|(now, _)| *now == number) else {
            return;
        };
        if fails {
            open.history = None;
            return self.on(who, entity, Event::LoadFailed("the store is away".to_owned()));
        }
        let event = history.next().now_or_never();
        let Some(event) = event else { return };
        let opened = open.opened;
        match &event {
            Event::LoadEnded => {
                open.history = None;
                let opening = self.next_number();
                if let Some(life) = self.life(who)
                    && let Some(open) = life.entities.get_mut(&entity)
                {
                    open.opening = Some(opening);
                }
                let soon = self.random.within(0, MILLIS);
                self.after(soon, Next::Entity(who, entity, opened, EntityNext::Opened(opening)));
            }
            Event::LoadFailed(_) => open.history = None,
            Event::State(..) => {
                let head = self.truth.head(entity);
                if let Some(life) = self.life(who)
                    && let Some(open) = life.entities.get_mut(&entity)
                {
                    open.base = head;
                }
                self.load_soon(who, entity, opened, number);
            }
            _ => self.load_soon(who, entity, opened, number),
        }
        self.on(who, entity, event);
    }

    fn load_soon(&mut self, who: Who, entity: usize, opened: u64, number: u64) {
        let hangs = self.chaos && self.random.chance(20);
        if !hangs {
            let soon = self.random.within(0, MILLIS);
            self.after(soon, Next::Entity(who, entity, opened, EntityNext::Loads(number)));
        }
    }

    fn perform(&mut self, who: Who, entity: usize, opened: u64, action: Action) {
        let number = self.next_number();
        let (kind, id) = (self.service(entity).kind, Arc::clone(self.id(entity)));
        let chaos = self.chaos;
        let down = self.slots[who.slot].function_down;
        let guard = self.life(who).and_then(|life| Some(life.tenure.as_ref()?.guard));
        let Some(open) = self.life(who).and_then(|life| life.entities.get_mut(&entity)) else {
            return;
        };
        match action {
            Action::Load => {
                open.history = None;
                open.turn = Some(number);
                let unfinished = open.writes.len();
                self.truth.check(unfinished == 0, "I3", || {
                    format!("entity {entity} is read while {unfinished} writes are under way")
                });
                let line = if chaos && self.random.chance(300) { 4 * SECONDS } else { MILLIS };
                let line = self.random.within(0, line);
                self.after(line, Next::Entity(who, entity, opened, EntityNext::Called(number)));
            }
            Action::Open => {
                open.stream = Some((number, Stream::new(kind, entity, open.base, down)));
                if down {
                    let ends = EntityNext::StreamEnds(number, StreamEnd::NeverReached);
                    self.after(MILLIS, Next::Entity(who, entity, opened, ends));
                }
            }
            Action::Send(message) => self.say(who, entity, opened, message, chaos),
            Action::Write { expected, write } => {
                let Some(guard) = guard else { return };
                open.writes.push_back((number, None));
                let state = open.stream.as_ref().map(|(_, stream)| stream.state());
                let entity_id = id.as_ref().clone();
                let write_ref = WriteRef { entity, opened, write: number };
                match write {
                    Write::Events(events, snapshot) => {
                        let append =
                            Append { entity: entity_id, guard, expected, events, snapshot };
                        self.append(who, append, write_ref);
                    }
                    Write::Value(value) => {
                        let expected = Version(expected.0);
                        let next = expected.next();
                        let put = Put { entity: entity_id, guard, expected, next, value };
                        self.put(who, put, state.unwrap_or_default(), write_ref);
                    }
                }
            }
            Action::Release(ticket, answer) => {
                let first = open.waiting.remove(&ticket) || open.left.remove(&ticket);
                self.truth.check(first, "I8", || format!("command {ticket} was answered twice"));
                self.told(who, ticket, Some(&answer));
            }
            Action::HalfClose => {
                open.turn = None;
                open.history = None;
                open.opening = None;
                if let Some((stream_number, stream)) = &mut open.stream {
                    stream.half_closed = true;
                    let ends = EntityNext::StreamEnds(*stream_number, StreamEnd::Ended);
                    if !(chaos && self.random.chance(300)) {
                        let soon = self.random.within(0, 2 * MILLIS);
                        self.after(soon, Next::Entity(who, entity, opened, ends));
                    }
                }
            }
            Action::Abort => {
                open.turn = None;
                open.history = None;
                open.opening = None;
                open.stream = None;
            }
            Action::Arm(timer) => {
                open.timer = Some(number);
                let wait = self.limit(timer);
                self.after(wait, Next::Entity(who, entity, opened, EntityNext::TimesOut(number)));
            }
            Action::Disarm => open.timer = None,
            Action::Report(_) | Action::End => {}
        }
    }

    fn limit(&mut self, timer: Timer) -> Time {
        match timer {
            Timer::Idle => self.random.within(50 * MILLIS, 2 * SECONDS),
            Timer::Activation | Timer::Close => 5 * SECONDS,
            Timer::Command => 3 * SECONDS,
        }
    }

    /// The user function hears something, and answers after a while.
    fn say(&mut self, who: Who, entity: usize, opened: u64, message: Outgoing, chaos: bool) {
        let Some(life) = self.slots[who.slot].life.as_mut().filter(|life| life.who == who) else {
            return;
        };
        let Some(open) = life.entities.get_mut(&entity) else { return };
        let Some((number, stream)) = &mut open.stream else { return };
        let number = *number;
        if let Some(says) = stream.hear(message, chaos, &mut self.random, &mut self.truth) {
            let think = self.random.within(50, 3 * MILLIS);
            self.after(think, Next::Entity(who, entity, opened, EntityNext::Says(number, says)));
        }
    }

    /// An entity was cut: its callers get no answer.
    pub(super) fn unheard(&mut self, who: Who, entity: Entity) {
        for ticket in entity.waiting {
            self.told(who, ticket, None);
        }
    }
}
