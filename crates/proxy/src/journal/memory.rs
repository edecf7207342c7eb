//! A journal in the proxy's own memory: every promise but durability.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use futures::{StreamExt as _, stream, stream::BoxStream};
use protocol::Any;

use super::{Append, Appended, EntityId, Epoch, Epochs, Error, Journal, Loaded, Sequence, Shard};

/// Events that are gone with the process.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    epochs: HashMap<Shard, Epoch>,
    histories: HashMap<EntityId, History>,
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
    async fn append(&self, append: Append) -> Appended {
        let mut state = self.lock();
        if state.epochs.get(&append.shard) != Some(&append.epoch) {
            return Appended::Fenced;
        }
        let history = state.histories.entry(append.entity).or_default();
        if history.events.len() as u64 != append.expected.0 {
            return Appended::Conflict;
        }
        let last = append.expected.after(append.events.len());
        history.events.extend(append.events);
        if let Some(snapshot) = append.snapshot {
            history.snapshot = Some((last, snapshot));
        }
        Appended::Committed
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
impl Epochs for Memory {
    async fn claim(&self, shard: Shard) -> Result<Epoch, Error> {
        let mut state = self.lock();
        let epoch = state.epochs.entry(shard).or_insert(Epoch(0));
        epoch.0 += 1;
        Ok(*epoch)
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

    fn append(epoch: Epoch, expected: u64, events: &[&str], snapshot: Option<&str>) -> Append {
        Append {
            entity: cart(),
            shard: Shard::WHOLE,
            epoch,
            expected: Sequence(expected),
            events: events.iter().map(|event| any(event)).collect(),
            snapshot: snapshot.map(any),
        }
    }

    async fn history(journal: &Memory) -> Vec<Loaded> {
        journal.load(&cart()).try_collect().await.unwrap()
    }

    #[tokio::test]
    async fn events_come_back_in_order_behind_the_newest_snapshot() {
        let journal = Memory::default();
        let epoch = journal.claim(Shard::WHOLE).await.unwrap();
        assert_eq!(
            journal.append(append(epoch, 0, &["a", "b"], Some("ab"))).await,
            Appended::Committed
        );
        assert_eq!(journal.append(append(epoch, 2, &["c"], None)).await, Appended::Committed);
        assert_eq!(
            history(&journal).await,
            [Loaded::Snapshot(Sequence(2), any("ab")), Loaded::Event(Sequence(3), any("c"))]
        );
    }

    #[tokio::test]
    async fn a_write_after_an_unexpected_sequence_is_a_conflict_and_leaves_nothing() {
        let journal = Memory::default();
        let epoch = journal.claim(Shard::WHOLE).await.unwrap();
        assert_eq!(journal.append(append(epoch, 0, &["a"], None)).await, Appended::Committed);
        for expected in [0, 2] {
            let stale = append(epoch, expected, &["x", "y"], Some("xy"));
            assert_eq!(journal.append(stale).await, Appended::Conflict);
        }
        assert_eq!(history(&journal).await, [Loaded::Event(Sequence(1), any("a"))]);
    }

    #[tokio::test]
    async fn an_old_epoch_is_fenced_before_its_sequence_is_looked_at() {
        let journal = Memory::default();
        let old = journal.claim(Shard::WHOLE).await.unwrap();
        let new = journal.claim(Shard::WHOLE).await.unwrap();
        assert_eq!(journal.append(append(old, 0, &["a"], None)).await, Appended::Fenced);
        assert_eq!(journal.append(append(new, 0, &["b"], None)).await, Appended::Committed);
        assert_eq!(history(&journal).await, [Loaded::Event(Sequence(1), any("b"))]);
    }

    #[tokio::test]
    async fn an_entity_without_events_has_an_empty_history() {
        assert_eq!(history(&Memory::default()).await, []);
    }
}
