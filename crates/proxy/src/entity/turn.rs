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

/// The turns that there are; clones share them.
#[derive(Clone, Debug)]
pub struct Turns(Arc<Semaphore>);

/// An entity's place.
#[derive(Default)]
pub(super) enum Turn {
    /// It does not want to be read, or has been.
    #[default]
    None,
    /// Others come first.
    InLine(BoxFuture<'static, OwnedSemaphorePermit>),
    /// It is its turn.
    Called(OwnedSemaphorePermit),
    /// It is read; others may be, once this is dropped.
    Taken { _permit: OwnedSemaphorePermit },
}

impl Turns {
    /// So many at once, if the budget has room for as many.
    pub fn new(most: usize, budget: &Budget) -> Self {
        let fit = budget.entities().size() / PART / READING;
        Self(Arc::new(Semaphore::new(most.min(fit).max(MIN))))
    }

    /// A place behind all that wait.
    pub(super) fn line_up(&self) -> Turn {
        match Arc::clone(&self.0).try_acquire_owned() {
            Ok(permit) => Turn::Called(permit),
            Err(_full) => {
                let permit = Arc::clone(&self.0).acquire_owned();
                let permit = permit.map(|permit| permit.expect("the semaphore is never closed"));
                Turn::InLine(permit.boxed())
            }
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
            Self::Called(permit) => *self = Self::Taken { _permit: permit },
            other => {
                *self = other;
                future::pending::<()>().await;
            }
        }
    }
}
