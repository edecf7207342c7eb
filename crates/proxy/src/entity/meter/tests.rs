//! Sequences of what happens to an entity, and what is counted of each step.

use std::time::Duration;

use bytes::Bytes;
use protocol::{Any, cloudstate};

use super::*;
use crate::{
    entity::{
        Failure, FailureKind,
        machine::{Machine, Request, StreamEnd},
        message::Reaction,
    },
    journal::{EntityId, Sequence},
    metrics::Metrics,
    route::{Kind, Method, Routes, Service, Shape, Target},
};

/// An entity that is watched, on a clock that stands still unless it is moved.
struct Watched {
    machine: Machine,
    meter: Meter,
    metrics: Arc<EntityMetrics>,
    now: Instant,
}

impl Watched {
    fn new(kind: Kind) -> Self {
        let service = Arc::new(Service {
            name: "shop.Cart".to_owned(),
            kind,
            persistence_id: "cart".to_owned(),
            passivation_timeout: None,
        });
        let method = Method {
            service: Arc::clone(&service),
            name: "Add".to_owned(),
            input_type_url: String::new(),
            output_type_url: String::new(),
            target: Target::Action(Shape::Unary),
        };
        let metrics = Metrics::new(&Routes::new(vec![method], Bytes::new()));
        let metrics = metrics.entity(&service).unwrap();
        let id = EntityId { persistence_id: "cart".to_owned(), key: "a".to_owned() };
        Self {
            machine: Machine::new(service, Arc::new(id), 32),
            meter: Meter::new(Arc::clone(&metrics)),
            metrics,
            now: Instant::now(),
        }
    }

    fn on(&mut self, event: Event) {
        let cause = self.meter.happens(&event, self.now);
        let actions = self.machine.on(event);
        self.meter.follows(cause, &actions, self.now);
    }

    fn wait(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }

    fn command(&mut self, ticket: Ticket) {
        let request = Request { ticket, name: "Add".to_owned(), payload: any(3), metadata: None };
        self.on(Event::Arrived(request));
    }

    fn reply(&mut self, command_id: i64, write: Option<Write>, then: Then) {
        let reaction = Reaction {
            command_id,
            then,
            effects: Vec::new(),
            write,
            restart: false,
            ignored: None,
        };
        self.on(Event::Message(Incoming::Reply(reaction)));
    }

    /// Activated, received, stashed, unstashed, completed, failed commands, failed, passivated.
    fn counts(&self) -> [u64; 8] {
        let m = &self.metrics;
        [
            &m.activated,
            &m.received,
            &m.stashed,
            &m.unstashed,
            &m.completed,
            &m.failed_commands,
            &m.failed,
            &m.passivated,
        ]
        .map(prometheus_client::metrics::counter::Counter::get)
    }
}

fn any(size: usize) -> Any {
    Any { type_url: "t".to_owned(), value: vec![1; size].into() }
}

fn events(count: usize, snapshot: bool) -> Write {
    Write::Events(vec![any(10); count], snapshot.then(|| any(20)))
}

fn refusal() -> Then {
    Then::Fail(Failure::new(FailureKind::Failed, "no"))
}

#[tokio::test]
async fn the_life_of_an_event_sourced_entity_is_counted_step_by_step() {
    let mut cart = Watched::new(Kind::EventSourced);
    // Activated by the first command; the second has to wait for it.
    cart.command(1);
    cart.wait(20);
    cart.on(Event::LoadEnded);
    cart.on(Event::Opened);
    assert_eq!(cart.counts(), [1, 1, 0, 0, 0, 0, 0, 0]);
    cart.command(2);
    assert_eq!(cart.counts(), [1, 2, 1, 0, 0, 0, 0, 0]);
    assert_eq!((cart.metrics.active.get(), cart.metrics.waiting.get()), (1, 1));
    // Three events and a snapshot; the second command goes on.
    cart.wait(30);
    cart.reply(1, Some(events(3, true)), Then::Nothing);
    assert_eq!(cart.counts(), [1, 2, 1, 1, 0, 0, 0, 0]);
    assert_eq!(cart.metrics.waiting.get(), 0);
    assert_eq!(cart.metrics.persisted_snapshots.get(), (1, 25));
    assert_eq!(cart.metrics.persisted.get(), (0, 0), "it is not durable yet");
    cart.wait(5);
    cart.on(Event::Written(Written::Committed));
    assert_eq!(cart.counts(), [1, 2, 1, 1, 1, 0, 0, 0]);
    assert_eq!(cart.metrics.persisted.get(), (3, 45));
    // Two more events, then it idles.
    cart.reply(2, Some(events(2, false)), Then::Nothing);
    cart.on(Event::Written(Written::Committed));
    assert_eq!(cart.metrics.persisted.get(), (5, 75));
    cart.wait(1_000);
    cart.on(Event::TimedOut);
    cart.on(Event::StreamEnded(StreamEnd::Ended, String::new()));
    assert_eq!(cart.counts(), [1, 2, 1, 1, 2, 0, 0, 1]);
    assert_eq!(cart.metrics.active.get(), 0);
    // Activated again, from the snapshot and two events.
    cart.command(3);
    cart.on(Event::State(Sequence(3), Some(any(20))));
    cart.on(Event::Replay(Sequence(4), any(10)));
    cart.on(Event::Replay(Sequence(5), any(10)));
    cart.on(Event::LoadEnded);
    cart.on(Event::Opened);
    assert_eq!(cart.metrics.loaded_states.get(), (1, 25));
    assert_eq!(cart.metrics.loaded.get(), (2, 30));
    // A command that fails is done all the same.
    cart.reply(1, None, refusal());
    assert_eq!(cart.counts(), [2, 3, 1, 1, 3, 1, 0, 1]);
    // A crash under a command.
    cart.command(4);
    let crash = cloudstate::Failure { command_id: 2, ..cloudstate::Failure::default() };
    cart.on(Event::Message(Incoming::Failure(crash)));
    assert_eq!(cart.counts(), [2, 4, 1, 1, 3, 2, 1, 2]);
}

#[tokio::test]
async fn a_value_entity_counts_updates_deletions_and_loads() {
    let mut stock = Watched::new(Kind::Value);
    stock.command(1);
    stock.on(Event::State(Sequence(7), Some(any(10))));
    stock.on(Event::LoadEnded);
    stock.on(Event::Opened);
    assert_eq!(stock.metrics.loaded_states.get(), (1, 15));
    stock.reply(1, Some(Write::Value(Some(any(10)))), Then::Nothing);
    stock.on(Event::Written(Written::Committed));
    assert_eq!(stock.metrics.persisted.get(), (1, 15));
    stock.command(2);
    stock.reply(2, Some(Write::Value(None)), Then::Nothing);
    stock.on(Event::Written(Written::Committed));
    assert_eq!((stock.metrics.deleted.get(), stock.metrics.persisted.get()), (1, (1, 15)));
    assert_eq!(stock.counts(), [1, 2, 0, 0, 2, 0, 0, 0]);
}

#[tokio::test]
async fn what_the_store_refuses_is_not_counted_as_stored() {
    let mut cart = Watched::new(Kind::EventSourced);
    cart.command(1);
    cart.on(Event::LoadEnded);
    cart.on(Event::Opened);
    cart.reply(1, Some(events(1, false)), Then::Nothing);
    cart.on(Event::Written(Written::Conflict));
    assert_eq!(cart.metrics.persisted.get(), (0, 0));
    assert_eq!(cart.counts(), [1, 1, 0, 0, 1, 1, 1, 1]);
}

#[tokio::test]
async fn gauges_fall_when_an_entity_is_dropped_in_the_middle() {
    let mut cart = Watched::new(Kind::EventSourced);
    cart.command(1);
    cart.on(Event::LoadEnded);
    cart.on(Event::Opened);
    cart.command(2);
    cart.command(3);
    cart.on(Event::CallerLeft(2));
    let metrics = Arc::clone(&cart.metrics);
    assert_eq!((metrics.active.get(), metrics.waiting.get()), (1, 1));
    drop(cart);
    assert_eq!((metrics.active.get(), metrics.waiting.get()), (0, 0));
}
