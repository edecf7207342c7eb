//! Whose history is read: so many entities at once, and the others wait in line.
//!
//! After a restart every entity is wanted at once. All of them read together would hold a page of each in memory,
//! and share store and user function so thinly that none gets ahead in time, only to begin again.

use std::sync::Arc;

use futures::{
    FutureExt as _,
    future::{self, BoxFuture},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::budget::Budget;

/// What a reading holds of a history at once: a page out of the store, and what waits for the user function.
const READING: usize = 320 << 10;
/// One in so many bytes of the budget for entities may be held by readings.
const PART: usize = 8;
/// As many go on however small the budget is.
const MIN: usize = 2;
/// Of so many at once nothing has come yet: it may be a state of many megabytes, which counts only once it is
/// there. More would not be faster: the stores have as many connections that read.
const FETCHES: usize = 4;

/// The turns that there are; clones share them.
#[derive(Clone, Debug)]
pub struct Turns {
    places: Arc<Semaphore>,
    fetches: Arc<Semaphore>,
}

/// What is held while an entity is read.
pub(super) struct Place {
    _place: OwnedSemaphorePermit,
    /// Until the first piece of its history is there and counted.
    fetch: Option<OwnedSemaphorePermit>,
}

/// An entity's place.
#[derive(Default)]
pub(super) enum Turn {
    /// It does not want to be read, or has been.
    #[default]
    None,
    /// Others come first.
    InLine(BoxFuture<'static, Place>),
    /// It is its turn.
    Called(Place),
    /// It is read; others may be, once this is dropped.
    Taken(Place),
}

impl Turns {
    /// So many at once, if the budget has room for as many.
    pub fn new(most: usize, budget: &Budget) -> Self {
        let fit = budget.entities().size() / PART / READING;
        let places = Arc::new(Semaphore::new(most.min(fit).max(MIN)));
        Self { places, fetches: Arc::new(Semaphore::new(FETCHES)) }
    }

    /// A place behind all that wait.
    pub(super) fn line_up(&self) -> Turn {
        let (places, fetches) = (Arc::clone(&self.places), Arc::clone(&self.fetches));
        let place = async move {
            let place = places.acquire_owned().await.expect("the semaphore is never closed");
            let fetch = fetches.acquire_owned().await.expect("the semaphore is never closed");
            Place { _place: place, fetch: Some(fetch) }
        };
        let mut line = place.boxed();
        match (&mut line).now_or_never() {
            Some(place) => Turn::Called(place),
            None => Turn::InLine(line),
        }
    }
}

impl Turn {
    /// Waits until it is this entity's turn, once; for ever when it does not want one.
    ///
    /// # Cancel safety
    /// A dropped future keeps the place.
    pub(super) async fn called(&mut self) {
        if let Self::InLine(line) = self {
            *self = Self::Called(line.await);
        }
        match std::mem::take(self) {
            Self::Called(place) => *self = Self::Taken(place),
            other => {
                *self = other;
                future::pending::<()>().await;
            }
        }
    }

    /// The first piece has come, and was counted: others may wait for theirs.
    pub(super) fn has_begun(&mut self) {
        if let Self::Taken(place) = self {
            place.fetch = None;
        }
    }
}
