//! The world: its time, what happens next, and what befalls proxies, user functions and the store.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Broken, Counts,
    callers::Caller,
    entity::{Entity, EntityNext},
    owner::Tenure,
    random::Random,
    truth::Truth,
    writes::{BatchNext, Writes},
};
use crate::{
    entity::machine::Ticket,
    journal::{EntityId, Memory, Owner, Shard, Store},
    ownership::{self, Ownership},
    route::{Kind, Service},
};

/// Virtual microseconds.
pub(super) type Time = u64;

pub(super) const MILLIS: Time = 1_000;
pub(super) const SECONDS: Time = 1_000_000;

/// Event sourced ones and values take turns.
pub(super) const ENTITIES: usize = 7;
const CALLERS: usize = 9;
/// Commands of each caller while things go wrong.
const COMMANDS: u64 = 18;
/// When a world that does not come to rest counts as stuck.
const STUCK: Time = 900 * SECONDS;
/// How long everybody may wait for the lease once nothing goes wrong any more: those who were slow ask again after
/// 80 s at most, and who has it keeps it for 80 s at most.
const TURNS: Time = 200 * SECONDS;
/// Actions of ten thousand behind which the process is gone.
const CRASHES: u64 = 4;
/// What is told of a world in which a promise broke.
const TRACE_MAX: usize = 250;

/// Names one life of the proxy in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Who {
    pub(super) slot: usize,
    pub(super) life: u64,
}

/// What happens next.
#[derive(Debug)]
pub(super) enum Next {
    /// It is a caller's turn.
    Caller(usize),
    /// A caller does not wait any more.
    Leaves(usize, Ticket),
    /// The ownership machine asked to be woken.
    Wake(Who),
    /// A write was fenced.
    Hint(Who),
    /// The store is asked about the lease.
    Question(Who, u64, ownership::Action),
    /// It answers.
    Answer(Who, u64, ownership::Event),
    /// Entities had as much time to end as they get.
    Cut(Who, u64),
    /// No entity is open any more.
    AllEnded(Who, u64),
    /// Something about a batch.
    Batch(Who, BatchNext),
    /// Something about an entity that was opened as the so-manyeth.
    Entity(Who, usize, u64, EntityNext),
    /// Something befalls a proxy.
    Fate(usize),
    /// A proxy starts.
    Start(usize),
    /// A frozen one goes on.
    Thaw(usize),
    /// A user function is back.
    FunctionUp(usize),
    /// The store is away.
    StoreAway,
    /// The store is back.
    StoreBack,
}

/// A place for one proxy and its user function.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) life: Option<Life>,
    pub(super) function_down: bool,
    frozen: bool,
    /// What is due to a frozen proxy.
    held: Vec<Next>,
}

/// One life of a proxy.
pub(super) struct Life {
    pub(super) who: Who,
    pub(super) ownership: Ownership,
    /// When it is woken.
    pub(super) wake: Option<Instant>,
    pub(super) status: Option<ownership::Status>,
    /// The number of the question that the store has not answered.
    pub(super) question: Option<u64>,
    pub(super) tenure: Option<Tenure>,
    pub(super) until: Time,
    pub(super) entities: BTreeMap<usize, Entity>,
    pub(super) writes: Writes,
    pub(super) stopping: bool,
    /// Whether it has been the owner.
    pub(super) served: bool,
}

pub(super) struct World {
    seed: u64,
    pub(super) now: Time,
    base: Instant,
    pub(super) random: Random,
    /// Whether things go wrong.
    pub(super) chaos: bool,
    /// When that was over.
    calm: Time,
    queue: BinaryHeap<Reverse<(Time, u64)>>,
    due: BTreeMap<u64, Next>,
    pub(super) number: u64,
    pub(super) truth: Truth,
    pub(super) memory: Memory,
    pub(super) store: Arc<dyn Store>,
    pub(super) away: bool,
    pub(super) slots: [Slot; 2],
    pub(super) callers: Vec<Caller>,
    services: [Arc<Service>; 2],
    ids: Vec<Arc<EntityId>>,
    pub(super) counts: Counts,
    trace: Option<Vec<String>>,
}

impl World {
    pub(super) fn new(seed: u64, trace: bool) -> Self {
        let service = |name: &str, kind| {
            let (name, persistence_id) = (name.to_owned(), name.to_owned());
            Arc::new(Service { name, kind, persistence_id, passivation_timeout: None })
        };
        let services = [service("events", Kind::EventSourced), service("value", Kind::Value)];
        let id = |entity: usize| {
            let persistence_id = services[entity % 2].persistence_id.clone();
            Arc::new(EntityId { persistence_id, key: entity.to_string() })
        };
        let memory = Memory::default();
        Self {
            seed,
            now: 0,
            base: Instant::now(),
            random: Random::new(seed),
            chaos: true,
            calm: Time::MAX,
            queue: BinaryHeap::new(),
            due: BTreeMap::new(),
            number: 0,
            truth: Truth::new(ENTITIES),
            store: Arc::new(memory.clone()),
            memory,
            away: false,
            slots: [Slot::default(), Slot::default()],
            callers: (0..CALLERS).map(|caller| Caller::new(COMMANDS, caller == 0)).collect(),
            ids: (0..ENTITIES).map(id).collect(),
            services,
            counts: Counts::default(),
            trace: trace.then(Vec::new),
        }
    }

    pub(super) fn run(mut self) -> Result<Counts, Box<Broken>> {
        let random = &mut self.random;
        let (first, fate, away) = (random.within(0, 5), random.within(0, 3), random.within(0, 12));
        self.after(0, Next::Start(0));
        self.after(first * SECONDS, Next::Start(1));
        self.after(fate * SECONDS, Next::Fate(0));
        self.after((fate + 3) * SECONDS, Next::Fate(1));
        self.after(away * SECONDS, Next::StoreAway);
        for caller in 0..CALLERS {
            let wait = self.random.within(0, 100 * MILLIS);
            self.after(wait, Next::Caller(caller));
        }
        while let Some(Reverse((at, number))) = self.queue.pop() {
            self.now = at;
            self.counts.steps += 1;
            let Some(next) = self.due.remove(&number) else { continue };
            self.step(next);
            self.two_owners();
            let stuck = self.now > STUCK;
            self.truth.check(!stuck, "I8", || "the world does not come to rest".to_owned());
            if self.truth.broken.is_some() {
                break;
            }
            if self.callers.iter().all(Caller::is_done) && self.all_had_their_turn() {
                break;
            }
        }
        match self.truth.broken.take() {
            None => Ok(self.counts),
            Some((promise, what)) => {
                let mut trace = self.trace.unwrap_or_default();
                trace.drain(..trace.len().saturating_sub(TRACE_MAX));
                Err(Box::new(Broken { promise, what, seed: self.seed, trace }))
            }
        }
    }

    fn step(&mut self, next: Next) {
        let Some(next) = self.hold(next) else { return };
        self.note(|| format!("{next:?}"));
        match next {
            Next::Caller(caller) => self.turn(caller),
            Next::Leaves(caller, ticket) => self.leave(caller, ticket),
            Next::Wake(who) => self.wake(who),
            Next::Hint(who) => self.own(who, ownership::Event::Hinted),
            Next::Question(who, number, question) => self.question(who, number, &question),
            Next::Answer(who, number, answer) => self.lease_answer(who, number, answer),
            Next::Cut(who, tenure) => self.cut(who, tenure),
            Next::AllEnded(who, tenure) => self.all_ended(who, tenure),
            Next::Batch(who, next) => self.batch(who, next),
            Next::Entity(who, entity, opened, next) => self.entity(who, entity, opened, next),
            Next::Fate(slot) => self.fate(slot),
            Next::Start(slot) => self.start(slot),
            Next::Thaw(slot) => self.thaw(slot),
            Next::FunctionUp(slot) => self.slots[slot].function_down = false,
            Next::StoreAway => {
                if self.chaos {
                    self.away = true;
                    let time = self.random.within(MILLIS, 4 * SECONDS);
                    self.after(time, Next::StoreBack);
                }
            }
            Next::StoreBack => {
                self.away = false;
                let time = self.random.within(SECONDS, 20 * SECONDS);
                self.after(time, Next::StoreAway);
            }
        }
    }

    /// Keeps what is due to a frozen process for later.
    fn hold(&mut self, next: Next) -> Option<Next> {
        let slot = match &next {
            Next::Wake(who)
            | Next::Hint(who)
            | Next::Answer(who, ..)
            | Next::Cut(who, _)
            | Next::AllEnded(who, _)
            | Next::Batch(who, BatchNext::Answered(..) | BatchNext::Silent(..))
            | Next::Entity(who, ..) => who.slot,
            _ => return Some(next),
        };
        if self.slots[slot].frozen {
            self.slots[slot].held.push(next);
            return None;
        }
        Some(next)
    }

    fn fate(&mut self, slot: usize) {
        if !self.chaos {
            return;
        }
        let again = self.random.within(100 * MILLIS, 4 * SECONDS);
        self.after(again, Next::Fate(slot));
        if self.slots[slot].life.is_none() || self.slots[slot].frozen {
            return;
        }
        match self.random.within(0, 10) {
            0 => self.crash(slot),
            1 => self.stop(slot),
            2..4 => {
                self.slots[slot].frozen = true;
                let still = self.random.within(MILLIS, 6 * SECONDS);
                self.after(still, Next::Thaw(slot));
            }
            4..7 => self.function_down(slot),
            _ => {}
        }
    }

    fn function_down(&mut self, slot: usize) {
        self.slots[slot].function_down = true;
        let away = self.random.within(MILLIS, 2 * SECONDS);
        self.after(away, Next::FunctionUp(slot));
        self.end_streams(slot);
    }

    fn thaw(&mut self, slot: usize) {
        self.slots[slot].frozen = false;
        for next in std::mem::take(&mut self.slots[slot].held) {
            let order = self.random.within(0, 50);
            self.after(order, next);
        }
    }

    fn start(&mut self, slot: usize) {
        if self.slots[slot].life.is_some() {
            return;
        }
        let who = Who { slot, life: self.next_number() };
        let owner = Owner(uuid::Uuid::from_u128(u128::from(who.life)));
        self.slots[slot].life = Some(Life {
            who,
            ownership: Ownership::new(Shard::WHOLE, owner, self.instant()),
            wake: None,
            status: None,
            question: None,
            tenure: None,
            until: 0,
            entities: BTreeMap::new(),
            writes: Writes::default(),
            stopping: false,
            served: false,
        });
        self.own(who, ownership::Event::Woken);
    }

    /// The process is gone, and so is all that it knew. What it gave to the store is there still.
    pub(super) fn crash(&mut self, slot: usize) {
        self.counts.crashes += 1;
        self.note(|| format!("the proxy in {slot} crashes"));
        self.gone(slot);
    }

    /// The process has ended, and another one takes its place.
    pub(super) fn gone(&mut self, slot: usize) {
        let Some(life) = self.slots[slot].life.take() else { return };
        self.slots[slot].held.clear();
        self.slots[slot].frozen = false;
        self.disconnect(life.who);
        let down = self.random.within(10 * MILLIS, 3 * SECONDS);
        self.after(down, Next::Start(slot));
    }

    /// Whether the process is gone behind this action.
    pub(super) fn crashes(&mut self, who: Who) -> bool {
        if self.life(who).is_none() {
            return true;
        }
        let crashes = self.chaos && self.random.chance(CRASHES);
        if crashes {
            self.crash(who.slot);
        }
        crashes
    }

    /// Everything behaves from here on.
    pub(super) fn calm(&mut self) {
        self.note(|| "nothing goes wrong any more".to_owned());
        self.chaos = false;
        self.away = false;
        self.calm = self.now;
    }

    /// Whether every proxy has been the owner.
    fn all_had_their_turn(&mut self) -> bool {
        let served = |slot: &Slot| slot.life.as_ref().is_some_and(|life| life.served);
        let all = self.slots.iter().all(served);
        let late = self.now.saturating_sub(self.calm) > TURNS;
        self.truth.check(all || !late, "L1", || "a proxy waits for the lease for ever".to_owned());
        all
    }

    fn two_owners(&mut self) {
        let now = self.now;
        let serves = |slot: &Slot| {
            slot.life.as_ref().is_some_and(|life| life.tenure.is_some() && now < life.until)
        };
        let two = self.slots.iter().all(serves);
        self.truth.check(!two, "I10", || "two proxies serve at once".to_owned());
    }

    pub(super) fn life(&mut self, who: Who) -> Option<&mut Life> {
        self.slots[who.slot].life.as_mut().filter(|life| life.who == who)
    }

    pub(super) fn after(&mut self, wait: Time, next: Next) {
        let number = self.next_number();
        self.queue.push(Reverse((self.now + wait, number)));
        self.due.insert(number, next);
    }

    pub(super) fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// Now, as machines are told it.
    pub(super) fn instant(&self) -> Instant {
        self.base + Duration::from_micros(self.now)
    }

    pub(super) fn time(&self, instant: Instant) -> Time {
        let micros = instant.saturating_duration_since(self.base).as_micros();
        Time::try_from(micros).unwrap_or(Time::MAX)
    }

    pub(super) fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let (seconds, micros) = (self.now / SECONDS, self.now % SECONDS);
            trace.push(format!("{seconds:>4}.{micros:06} {}", what()));
        }
    }

    pub(super) fn service(&self, entity: usize) -> &Arc<Service> {
        &self.services[entity % 2]
    }

    pub(super) fn id(&self, entity: usize) -> &Arc<EntityId> {
        &self.ids[entity]
    }
}

/// The entity that an id names.
pub(super) fn index(id: &EntityId) -> usize {
    id.key.parse().unwrap_or_default()
}
