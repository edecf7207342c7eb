//! A state that is larger than what every reading may hold: it counts as long as this proxy has it.
//!
//! It comes out of the store, waits until there is room for it, goes to the user function, and is gone from here
//! once that has answered something.

use futures::{
    FutureExt as _,
    future::{self, BoxFuture},
};

use super::machine::Event;
use crate::budget::Taken;

/// A smaller one is a part of what its turn to be read stands for.
const MIN: usize = 256 << 10;

/// A future that takes room for so many bytes.
pub(super) type Room = BoxFuture<'static, Result<Taken, String>>;

/// The state of one entity, as far as it is large.
#[derive(Default)]
pub(super) enum Large {
    /// It is not, or not here.
    #[default]
    None,
    /// There is no room for it yet; it comes with that.
    Waits(BoxFuture<'static, (Event, Result<Taken, String>)>),
    /// It is on its way to the user function.
    Counted { _room: Taken },
}

impl Large {
    /// The bytes of a state that is to be counted.
    pub(super) fn size(event: &Event) -> Option<usize> {
        match event {
            Event::State(_, Some(state)) => Some(state.value.len()).filter(|size| *size >= MIN),
            _ => None,
        }
    }

    /// Keeps a state back until there is room.
    pub(super) fn wait(&mut self, state: Event, room: Room) {
        *self = Self::Waits(room.map(|taken| (state, taken)).boxed());
    }

    /// The user function has said something, and so taken what came first.
    pub(super) fn is_with_the_user_function(&mut self) {
        if matches!(self, Self::Counted { .. }) {
            *self = Self::None;
        }
    }

    /// Whether there is one for which there is no room yet.
    pub(super) fn waits(&self) -> bool {
        matches!(self, Self::Waits(_))
    }

    /// The state once it is counted, or why it never will be; for ever silent when none waits.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(super) async fn counted(&mut self) -> Event {
        let Self::Waits(waiting) = self else { return future::pending().await };
        let (state, taken) = waiting.await;
        match taken {
            Ok(room) => {
                *self = Self::Counted { _room: room };
                state
            }
            Err(why) => {
                *self = Self::None;
                Event::LoadFailed(why)
            }
        }
    }
}
