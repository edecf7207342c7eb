//! A journal in the proxy's own memory: every promise but durability.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use futures::{StreamExt as _, stream, stream::BoxStream};
use protocol::Any;

use super::{
    Append, EntityId, Epoch, Epochs, Error, Guard, Journal, Lease, Loaded, Owner, Put, Renewed,
    Sequence, Shard, Values, Version, Written,
};

/// Events that are gone with the process.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    leases: HashMap<Shard, Lease>,
    histories: HashMap<EntityId, History>,
    values: HashMap<EntityId, (Version, Option<Any>)>,
}

#[derive(Debug, Default)]
struct History {
    events: Vec<Any>,
    snapshot: Option<(Sequence, Any)>,
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No panic can happen between two halves of a change, so a poisoned state is a whole one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next piece of history after `last`, or the snapshot when nothing was given yet.
    fn next(&self, entity: &EntityId, last: Option<Sequence>) -> Option<Loaded> {
        let state = self.lock();
        let history = state.histories.get(entity)?;
        let last = match (last, &history.snapshot) {
            (None, Some((sequence, snapshot))) => {
                return Some(Loaded::Snapshot(*sequence, snapshot.clone()));
            }
            (last, _) => last.unwrap_or_default(),
        };
        let event = history.events.get(usize::try_from(last.0).ok()?)?;
        Some(Loaded::Event(last.after(1), event.clone()))
    }
}

#[async_trait]
impl Journal for Memory {
    async fn append(&self, batch: Vec<Append>) -> Vec<Written> {
        let mut state = self.lock();
        batch.into_iter().map(|append| state.append(append)).collect()
    }

    fn load(&self, entity: &EntityId) -> BoxStream<'static, Result<Loaded, Error>> {
        let (memory, entity) = (self.clone(), entity.clone());
        stream::unfold(None, move |last| {
            let next = memory.next(&entity, last).map(|loaded| {
                let (Loaded::Snapshot(at, _) | Loaded::Event(at, _)) = loaded;
                (Ok(loaded), Some(at))
            });
            std::future::ready(next)
        })
        .boxed()
    }
}

#[async_trait]
impl Values for Memory {
    async fn put(&self, batch: Vec<Put>) -> Vec<Written> {
        let mut state = self.lock();
        batch.into_iter().map(|put| state.put(put)).collect()
    }

    async fn value(&self, entity: &EntityId) -> Result<(Version, Option<Any>), Error> {
        Ok(self.lock().values.get(entity).cloned().unwrap_or_default())
    }
}

#[async_trait]
impl Epochs for Memory {
    async fn lease(&self, shard: Shard) -> Result<Lease, Error> {
        Ok(self.lock().leases.entry(shard).or_default().clone())
    }

    async fn ask(&self, shard: Shard, asker: Owner) -> Result<Lease, Error> {
        let mut state = self.lock();
        let lease = state.leases.entry(shard).or_default();
        lease.asked_by = Some(asker);
        Ok(lease.clone())
    }

    async fn claim(
        &self,
        shard: Shard,
        owner: Owner,
        seen: &Lease,
    ) -> Result<Option<Epoch>, Error> {
        let mut state = self.lock();
        let lease = state.leases.entry(shard).or_default();
        if (lease.epoch, lease.owner, lease.beat) != (seen.epoch, seen.owner, seen.beat) {
            return Ok(None);
        }
        lease.epoch.0 += 1;
        lease.owner = Some(owner);
        lease.asked_by = lease.asked_by.filter(|asker| *asker != owner);
        Ok(Some(lease.epoch))
    }

    async fn renew(&self, guard: Guard) -> Result<Renewed, Error> {
        let mut state = self.lock();
        Ok(match state.leases.get_mut(&guard.shard) {
            Some(lease) if lease.epoch == guard.epoch && lease.owner.is_some() => {
                lease.beat += 1;
                Renewed::Kept { asked_by: lease.asked_by }
            }
            _ => Renewed::Fenced,
        })
    }

    async fn release(&self, guard: Guard) -> Result<(), Error> {
        let mut state = self.lock();
        if let Some(lease) = state.leases.get_mut(&guard.shard)
            && lease.epoch == guard.epoch
        {
            lease.owner = None;
        }
        Ok(())
    }
}

impl State {
    fn owns(&self, guard: Guard) -> bool {
        self.leases
            .get(&guard.shard)
            .is_some_and(|lease| lease.epoch == guard.epoch && lease.owner.is_some())
    }

    fn append(&mut self, append: Append) -> Written {
        if !self.owns(append.guard) {
            return Written::Fenced;
        }
        let history = self.histories.entry(append.entity).or_default();
        if history.events.len() as u64 != append.expected.0 {
            return Written::Conflict;
        }
        let last = append.expected.after(append.events.len());
        history.events.extend(append.events);
        if let Some(snapshot) = append.snapshot {
            history.snapshot = Some((last, snapshot));
        }
        Written::Committed
    }

    fn put(&mut self, put: Put) -> Written {
        if !self.owns(put.guard) {
            return Written::Fenced;
        }
        let (version, value) = self.values.entry(put.entity).or_default();
        if *version != put.expected {
            return Written::Conflict;
        }
        *version = put.next;
        *value = put.value;
        Written::Committed
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt as _;

    use super::*;

    fn any(text: &str) -> Any {
        Any { type_url: "p.cloudstate.io/string".to_owned(), value: text.to_owned().into() }
    }

    fn cart() -> EntityId {
        EntityId { persistence_id: "cart".to_owned(), key: "7".to_owned() }
    }

    async fn claim(store: &Memory) -> Guard {
        let lease = store.lease(Shard::WHOLE).await.unwrap();
        let owner = Owner(uuid::Uuid::from_u128(u128::from(lease.epoch.0)));
        let epoch = store.claim(Shard::WHOLE, owner, &lease).await.unwrap().unwrap();
        Guard { shard: Shard::WHOLE, epoch }
    }

    async fn append(
        store: &Memory,
        guard: Guard,
        expected: u64,
        events: &[&str],
        snapshot: Option<&str>,
    ) -> Written {
        let append = Append {
            entity: cart(),
            guard,
            expected: Sequence(expected),
            events: events.iter().map(|event| any(event)).collect(),
            snapshot: snapshot.map(any),
        };
        let [written] = &store.append(vec![append]).await[..] else { panic!("one outcome") };
        written.clone()
    }

    async fn history(journal: &Memory) -> Vec<Loaded> {
        journal.load(&cart()).try_collect().await.unwrap()
    }

    #[tokio::test]
    async fn events_come_back_in_order_behind_the_newest_snapshot() {
        let journal = Memory::default();
        let guard = claim(&journal).await;
        let first = append(&journal, guard, 0, &["a", "b"], Some("ab")).await;
        assert_eq!(first, Written::Committed);
        assert_eq!(append(&journal, guard, 2, &["c"], None).await, Written::Committed);
        assert_eq!(
            history(&journal).await,
            [Loaded::Snapshot(Sequence(2), any("ab")), Loaded::Event(Sequence(3), any("c"))]
        );
    }

    #[tokio::test]
    async fn a_write_after_an_unexpected_sequence_is_a_conflict_and_leaves_nothing() {
        let journal = Memory::default();
        let guard = claim(&journal).await;
        assert_eq!(append(&journal, guard, 0, &["a"], None).await, Written::Committed);
        for expected in [0, 2] {
            let stale = append(&journal, guard, expected, &["x", "y"], Some("xy")).await;
            assert_eq!(stale, Written::Conflict);
        }
        assert_eq!(history(&journal).await, [Loaded::Event(Sequence(1), any("a"))]);
    }

    #[tokio::test]
    async fn an_old_epoch_is_fenced_before_its_sequence_is_looked_at() {
        let journal = Memory::default();
        let old = claim(&journal).await;
        let new = claim(&journal).await;
        assert_eq!(append(&journal, old, 0, &["a"], None).await, Written::Fenced);
        assert_eq!(append(&journal, new, 0, &["b"], None).await, Written::Committed);
        assert_eq!(history(&journal).await, [Loaded::Event(Sequence(1), any("b"))]);
    }

    #[tokio::test]
    async fn an_entity_without_events_has_an_empty_history() {
        assert_eq!(history(&Memory::default()).await, []);
    }
}
