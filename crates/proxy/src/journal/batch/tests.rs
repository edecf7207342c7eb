//! What is sent, in what order, and what of it is told to whom; then the same in any order of events.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::journal::{Epoch, Guard, Sequence, Shard, Version};

const GUARD: Guard = Guard { shard: Shard::WHOLE, epoch: Epoch(1) };

fn entity(key: &str) -> EntityId {
    EntityId { persistence_id: "cart".to_owned(), key: key.to_owned() }
}

fn append(key: &str, expected: u64, events: usize) -> Append {
    Append {
        entity: entity(key),
        guard: GUARD,
        expected: Sequence(expected),
        events: vec![Any::default(); events],
        snapshot: None,
    }
}

fn put(key: &str, expected: u64, value: &str) -> Put {
    let value = Any { type_url: value.to_owned(), value: bytes::Bytes::new() };
    let (expected, next) = (Version(expected), Version(expected + 1));
    Put { entity: entity(key), guard: GUARD, expected, next, value: Some(value) }
}

/// What a row of actions comes to: per batch its writes as `key:expected+events`, and who got what.
type Told = (Vec<(BatchId, Vec<String>)>, Vec<(u32, Written)>);

fn told(actions: Vec<Action<Append, u32>>) -> Told {
    let (mut batches, mut released) = (Vec::new(), Vec::new());
    for action in actions {
        match action {
            Action::Write(batch, writes) => {
                let shown =
                    |w: &Append| format!("{}:{}+{}", w.entity.key, w.expected.0, w.events.len());
                batches.push((batch, writes.iter().map(shown).collect()));
            }
            Action::Release(whom, outcome) => released.push((whom, outcome)),
        }
    }
    (batches, released)
}

/// A machine with two batches in flight, of entities `x` and `y`.
fn busy() -> Batches<Append, u32> {
    let mut batches = Batches::default();
    assert_eq!(told(batches.submit(append("x", 0, 1), 91)).0, [(1, vec!["x:0+1".to_owned()])]);
    assert_eq!(told(batches.submit(append("y", 0, 1), 92)).0, [(2, vec!["y:0+1".to_owned()])]);
    batches
}

#[test]
fn an_idle_store_gets_the_first_write_at_once_and_a_busy_one_gets_the_rest_together() {
    let mut batches = busy();
    for (whom, key) in (0..).zip(["a", "b", "c"]) {
        assert_eq!(told(batches.submit(append(key, 0, 2), whom)), (vec![], vec![]));
    }
    let (sent, released) = told(batches.finished(1, vec![Written::Committed]));
    assert_eq!(sent, [(3, vec!["a:0+2".to_owned(), "b:0+2".to_owned(), "c:0+2".to_owned()])]);
    assert_eq!(released, [(91, Written::Committed)]);
}

#[test]
fn of_one_entity_one_write_is_in_flight_although_a_lane_is_free() {
    let mut batches = Batches::default();
    batches.submit(append("a", 0, 1), 0);
    assert_eq!(told(batches.submit(append("a", 1, 1), 1)), (vec![], vec![]));
    let (sent, _) = told(batches.finished(1, vec![Written::Committed]));
    assert_eq!(sent, [(2, vec!["a:1+1".to_owned()])]);
}

#[test]
fn writes_of_one_entity_that_wait_become_one_and_share_the_outcome() {
    let mut batches = busy();
    batches.submit(append("a", 4, 1), 0);
    batches.submit(append("a", 5, 3), 1);
    batches.submit(append("a", 8, 1), 2);
    let (sent, _) = told(batches.finished(1, vec![Written::Committed]));
    assert_eq!(sent, [(3, vec!["a:4+5".to_owned()])]);
    let (_, released) = told(batches.finished(3, vec![Written::Conflict]));
    assert_eq!(released, [0, 1, 2].map(|whom| (whom, Written::Conflict)));
}

#[test]
fn a_snapshot_ends_the_write_that_it_stands_in() {
    let mut batches = busy();
    let snapshot = Some(Any::default());
    batches.submit(append("a", 0, 1), 0);
    batches.submit(Append { snapshot, ..append("a", 1, 1) }, 1);
    batches.submit(append("a", 2, 1), 2);
    let (sent, _) = told(batches.finished(1, vec![Written::Committed]));
    assert_eq!(sent, [(3, vec!["a:0+2".to_owned()])]);
    let (sent, _) = told(batches.finished(3, vec![Written::Committed]));
    assert_eq!(sent, [(4, vec!["a:2+1".to_owned()])]);
}

#[test]
fn writes_of_another_owner_or_from_elsewhere_are_never_made_one() {
    let other = Guard { epoch: Epoch(2), ..GUARD };
    for second in [append("a", 7, 1), Append { guard: other, ..append("a", 1, 1) }] {
        assert!(!append("a", 0, 1).leads_to(&second), "{second:?}");
    }
    assert!(!put("a", 0, "x").leads_to(&put("a", 5, "y")));
}

#[test]
fn of_values_that_become_one_the_last_one_stays_and_every_version_is_counted() {
    let mut first = put("a", 3, "x");
    let (second, third) = (put("a", 4, "y"), Put { value: None, ..put("a", 5, "") });
    for later in [second, third] {
        assert!(first.leads_to(&later));
        first.absorb(later);
    }
    assert_eq!((first.expected, first.next, first.value), (Version(3), Version(6), None));
}

#[test]
fn what_waits_behind_a_write_that_failed_is_not_sent() {
    let lost = Written::Unknown("broke".to_owned());
    for (outcome, behind) in [
        (Written::Conflict, Written::Conflict),
        (Written::Fenced, Written::Fenced),
        (Written::Refused("full".to_owned()), Written::Refused("full".to_owned())),
        (lost, Written::Refused("behind a lost write: broke".to_owned())),
    ] {
        let mut batches = Batches::default();
        batches.submit(append("a", 0, 1), 0);
        batches.submit(append("a", 1, 1), 1);
        let (sent, released) = told(batches.finished(1, vec![outcome.clone()]));
        assert_eq!((sent, released), (vec![], vec![(0, outcome), (1, behind)]));
        let (sent, _) = told(batches.submit(append("a", 0, 1), 2));
        assert_eq!(sent.len(), 1, "the entity is not held up");
    }
}

#[test]
fn a_write_that_fails_leaves_its_neighbours_alone() {
    let mut batches = busy();
    for (whom, key) in (0..).zip(["a", "b", "c"]) {
        batches.submit(append(key, 0, 1), whom);
    }
    batches.finished(1, vec![Written::Committed]);
    let outcomes = vec![Written::Committed, Written::Conflict, Written::Committed];
    let (_, released) = told(batches.finished(3, outcomes.clone()));
    assert_eq!(released, (0..).zip(outcomes).collect::<Vec<_>>());
}

#[test]
fn an_outcome_that_the_store_leaves_out_is_unknown() {
    let mut batches = Batches::default();
    batches.submit(append("a", 0, 1), 0);
    let (_, released) = told(batches.finished(1, vec![]));
    assert!(matches!(&released[..], [(0, Written::Unknown(_))]), "{released:?}");
}

#[test]
fn a_batch_has_its_rows_and_bytes() {
    let mut batches = busy();
    for whom in 0..3 {
        batches.submit(append(&whom.to_string(), 0, 300), whom);
    }
    let (sent, _) = told(batches.finished(1, vec![Written::Committed]));
    assert_eq!(sent, [(3, vec!["0:0+300".to_owned()])]);
    let (sent, _) = told(batches.finished(2, vec![Written::Committed]));
    assert_eq!(sent, [(4, vec!["1:0+300".to_owned()])]);

    let large = |key| {
        let value = vec![0; 6 << 20].into();
        Append { events: vec![Any { value, ..Any::default() }], ..append(key, 0, 0) }
    };
    let mut batches = busy();
    batches.submit(large("a"), 0);
    batches.submit(large("b"), 1);
    let (sent, _) = told(batches.finished(1, vec![Written::Committed]));
    assert_eq!(sent, [(3, vec!["a:0+1".to_owned()])]);
}

#[test]
fn what_waits_is_bounded_in_number_and_size() {
    let mut batches = busy();
    let mut refused = 0;
    for whom in 0..u32::try_from(WAITING_MAX).unwrap() + 3 {
        let (_, released) = told(batches.submit(append(&whom.to_string(), 0, 1), whom));
        refused += released.len();
    }
    assert_eq!(refused, 3);

    let mut batches = busy();
    let value = bytes::Bytes::from(vec![0; 30 << 20]);
    for (whom, room) in (0..).zip([true, true, false]) {
        let events = vec![Any { value: value.clone(), ..Any::default() }];
        let (_, released) =
            told(batches.submit(Append { events, ..append(&whom.to_string(), 0, 0) }, whom));
        assert_eq!(released.is_empty(), room, "{released:?}");
    }
}

#[test]
fn a_silent_store_refuses_what_waits_and_takes_what_comes_later() {
    let mut batches = busy();
    batches.submit(append("x", 1, 1), 1);
    batches.submit(append("a", 0, 1), 2);
    let (sent, mut released) = told(batches.silent(1, "hm"));
    released.sort_by_key(|(whom, _)| *whom);
    let (lost, refused) = (Written::Unknown("hm".to_owned()), Written::Refused("hm".to_owned()));
    let behind = Written::Refused("behind a lost write: hm".to_owned());
    assert_eq!((sent, released), (vec![], vec![(1, behind), (2, refused), (91, lost)]));
    let (sent, _) = told(batches.submit(append("a", 0, 1), 3));
    assert_eq!(sent, [(3, vec!["a:0+1".to_owned()])]);
}

/// A store and its writers, who submit what follows their last write until one of them fails.
#[derive(Default)]
struct World {
    batches: Batches<Append, (usize, usize)>,
    in_flight: Vec<(BatchId, Vec<Append>)>,
    /// Of each entity: events submitted in this life, events that the store holds, and lives.
    entities: [(u64, u64, usize); 4],
    waiting: HashSet<(usize, usize)>,
    submitted: usize,
}

impl World {
    fn perform(&mut self, actions: Vec<Action<Append, (usize, usize)>>) {
        for action in actions {
            match action {
                Action::Write(batch, writes) => {
                    let mut entities: HashSet<_> = writes.iter().map(|w| &w.entity).collect();
                    let others = self.in_flight.iter().flat_map(|(_, writes)| writes);
                    for id in writes.iter().chain(others).map(|write| &write.entity) {
                        entities.insert(id);
                    }
                    let others: usize = self.in_flight.iter().map(|(_, writes)| writes.len()).sum();
                    assert_eq!(entities.len(), writes.len() + others, "one write of each entity");
                    assert!(writes.iter().map(|w| w.events.len()).sum::<usize>() <= ROWS_MAX);
                    self.in_flight.push((batch, writes));
                    assert!(self.in_flight.len() <= LANES);
                }
                Action::Release((entity, which), outcome) => {
                    assert!(self.waiting.remove(&(entity, which)), "released twice");
                    if outcome != Written::Committed {
                        // The writer reads again what the store holds.
                        let (submitted, held, lives) = &mut self.entities[entity];
                        if !self.waiting.iter().any(|(other, _)| *other == entity) {
                            *submitted = *held;
                            *lives += 1;
                        }
                    }
                }
            }
        }
    }

    fn submit(&mut self, entity: usize, events: usize) {
        let (submitted, ..) = &mut self.entities[entity];
        let write = append(&entity.to_string(), *submitted, events);
        *submitted += events as u64;
        self.submitted += 1;
        self.waiting.insert((entity, self.submitted));
        let actions = self.batches.submit(write, (entity, self.submitted));
        self.perform(actions);
    }

    /// The store writes what fits, except for what it refuses; answers get lost after that.
    fn finish(&mut self, which: usize, refuse: usize, lose: bool) {
        if self.in_flight.is_empty() {
            return;
        }
        let (batch, writes) = self.in_flight.remove(which % self.in_flight.len());
        let mut outcomes = Vec::new();
        for (at, write) in writes.into_iter().enumerate() {
            let entity: usize = write.entity.key.parse().unwrap();
            let (_, held, _) = &mut self.entities[entity];
            outcomes.push(if at == refuse {
                Written::Refused(String::new())
            } else if write.expected.0 == *held {
                *held += write.events.len() as u64;
                Written::Committed
            } else {
                Written::Conflict
            });
        }
        let actions = if lose {
            self.batches.silent(batch, "lost")
        } else {
            self.batches.finished(batch, outcomes)
        };
        self.perform(actions);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn everybody_is_told_once_in_any_order_of_events(
        steps in prop::collection::vec((0_u8..10, 0_usize..4, 0_usize..6), 0..200)
    ) {
        let mut world = World::default();
        for (step, entity, size) in steps {
            match step {
                0..6 => world.submit(entity, size + 1),
                6 => world.finish(entity, size, false),
                7 => world.finish(entity, usize::MAX, size == 0),
                _ => world.finish(entity, usize::MAX, false),
            }
        }
        while !world.in_flight.is_empty() {
            world.finish(0, usize::MAX, false);
        }
        prop_assert!(world.waiting.is_empty(), "never told: {:?}", world.waiting);
        prop_assert!(world.batches.chains.is_empty());
        prop_assert_eq!((world.batches.waiting, world.batches.waiting_bytes), (0, 0));
    }
}
