//! A journal in the proxy's own memory: every promise but durability.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use futures::{StreamExt as _, stream, stream::BoxStream};
use protocol::Any;
use tokio::sync::watch;

use super::{
    Append, EntityId, Epoch, Epochs, Error, Guard, Journal, Lease, Loaded, Owner, Position,
    Published, Put, Renewed, Sequence, Shard, Values, Version, Written,
};
use crate::planted::{self, Bug};

/// Events that are gone with the process.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    state: Arc<Mutex<State>>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    leases: HashMap<Shard, Lease>,
    histories: HashMap<Arc<EntityId>, History>,
    /// Every event, in the order in which they came.
    log: Vec<(Arc<EntityId>, Sequence)>,
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
        let skips = planted::is(Bug::ReplaySkipsOne)
            && history.snapshot.as_ref().is_some_and(|(snapshot, _)| *snapshot == last);
        let last = last.after(usize::from(skips));
        let event = history.events.get(usize::try_from(last.0).ok()?)?;
        Some(Loaded::Event(last.after(1), event.clone()))
    }

    /// The first event of that type among those that came after so many.
    fn published(&self, persistence_id: &str, after: u64) -> Option<Published> {
        let state = self.lock();
        let (seen, log) = (usize::try_from(after).ok()?, &state.log);
        let place = (seen..log.len()).find(|at| log[*at].0.persistence_id == persistence_id)?;
        let (entity, sequence) = &log[place];
        let history = state.histories.get(entity)?;
        let event = history.events.get(usize::try_from(sequence.0).ok()?.checked_sub(1)?)?;
        let (key, sequence) = (entity.key.clone(), *sequence);
        let position = Position { at: place as u64 + 1, key: key.clone(), sequence };
        Some(Published { position, key, sequence, event: event.clone() })
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

    fn events(
        &self,
        persistence_id: &str,
        after: &Position,
    ) -> BoxStream<'static, Result<Published, Error>> {
        let (memory, persistence_id) = (self.clone(), persistence_id.to_owned());
        stream::unfold(after.at, move |after| {
            let next = memory.published(&persistence_id, after).map(|event| {
                let after = event.position.at;
                (Ok(event), after)
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
        self.changes.send_modify(|count| *count += 1);
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
        let unseen = (lease.epoch, lease.owner, lease.beat) != (seen.epoch, seen.owner, seen.beat);
        if unseen && !planted::is(Bug::ClaimUnseen) {
            return Ok(None);
        }
        lease.epoch.0 += 1;
        self.changes.send_modify(|count| *count += 1);
        lease.owner = Some(owner);
        lease.asked_by =
            lease.asked_by.filter(|asker| *asker != owner && Some(*asker) != seen.asked_by);
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
            self.changes.send_modify(|count| *count += 1);
        }
        Ok(())
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

impl State {
    fn owns(&self, guard: Guard) -> bool {
        self.leases
            .get(&guard.shard)
            .is_some_and(|lease| lease.epoch == guard.epoch && lease.owner.is_some())
            || planted::is(Bug::EpochSkipped)
    }

    fn append(&mut self, append: Append) -> Written {
        if !self.owns(append.guard) {
            return Written::Fenced;
        }
        let known = self.histories.get_key_value(&append.entity).map(|(id, _)| Arc::clone(id));
        let entity = known.unwrap_or_else(|| Arc::new(append.entity));
        let history = self.histories.entry(Arc::clone(&entity)).or_default();
        if history.events.len() as u64 != append.expected.0 && !planted::is(Bug::SequenceSkipped) {
            return Written::Conflict;
        }
        let last = append.expected.after(append.events.len());
        let new = (append.expected.0 + 1)..=last.0;
        self.log.extend(new.map(|sequence| (Arc::clone(&entity), Sequence(sequence))));
        history.events.extend(append.events);
        if let Some(snapshot) = append.snapshot {
            let off = usize::from(planted::is(Bug::SnapshotTooFar));
            history.snapshot = Some((last.after(off), snapshot));
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
        if put.value.is_none() && planted::is(Bug::VersionForgotten) {
            *version = Version::default();
        }
        *value = put.value;
        Written::Committed
    }
}

#[cfg(test)]
mod tests {
    crate::journal::suite::tests!(|| async { (super::Memory::default(), ()) });
}
