//! What an activation begins with, as it comes out of the store.

use std::sync::Arc;

use api::Chain;
use futures::{
    FutureExt as _, StreamExt as _,
    future::{self, BoxFuture},
    stream::BoxStream,
};
use protocol::Any;

use super::machine::Event;
use crate::{
    journal::{EntityId, Error, Loaded, Sequence, Store, Version},
    route::Kind,
};

/// A reading under way.
pub(crate) enum History {
    /// There is none.
    None,
    /// Snapshot and events, one after the other.
    Events(BoxStream<'static, Result<Loaded, Error>>),
    /// A value.
    Value(BoxFuture<'static, Result<(Version, Option<Any>), Error>>),
    /// All was given but its end.
    AtEnd,
}

impl History {
    /// Begins to read.
    pub(crate) fn load(store: &Arc<dyn Store>, kind: Kind, entity: &Arc<EntityId>) -> Self {
        if kind != Kind::Value {
            return Self::Events(store.load(entity));
        }
        let (store, entity) = (Arc::clone(store), Arc::clone(entity));
        Self::Value(async move { store.value(&entity).await }.boxed())
    }

    /// The next piece; for ever silent when nothing is read.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Event {
        let event = match self {
            Self::None => return future::pending().await,
            Self::AtEnd => None,
            Self::Events(events) => match events.next().await {
                Some(Ok(Loaded::Snapshot(sequence, state))) => {
                    return Event::State(sequence, Some(state));
                }
                Some(Ok(Loaded::Event(sequence, event))) => return Event::Replay(sequence, event),
                Some(Err(error)) => Some(error),
                None => None,
            },
            Self::Value(value) => match value.await {
                Ok((version, value)) => {
                    *self = Self::AtEnd;
                    return Event::State(Sequence(version.0), value);
                }
                Err(error) => Some(error),
            },
        };
        *self = Self::None;
        match event {
            Some(error) => Event::LoadFailed(Chain(&error).to_string()),
            None => Event::LoadEnded,
        }
    }
}
