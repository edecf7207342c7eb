//! Our side of an entity's stream: what is said waits here until the transport takes it.
//!
//! A channel of a library would do, and hold room for dozens of messages in each of thousands of idle
//! entities; this holds none. It also tells when the transport has taken everything, which is the
//! first sign that a stream is really open.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use futures::{Stream, future};

use super::message::Outgoing;

/// As many bytes may wait before a replay does.
const ROOM: usize = 64 * 1024;
/// What a message takes beside its payload.
const MESSAGE: usize = 64;

/// What speaks on a stream, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Outbound(Arc<Mutex<Shared>>);

/// What the transport takes messages from.
#[derive(Debug)]
pub(super) struct Messages(Arc<Mutex<Shared>>);

#[derive(Debug, Default)]
struct Shared {
    waiting: VecDeque<Outgoing>,
    /// What they take.
    bytes: usize,
    /// Nothing more will be said.
    ended: bool,
    /// Nothing more will be taken.
    cut: bool,
    transport: Option<Waker>,
    speaker: Option<Waker>,
}

/// Both ends of one side of a stream.
pub(super) fn stream() -> (Outbound, Messages) {
    let shared = Arc::<Mutex<Shared>>::default();
    (Outbound(Arc::clone(&shared)), Messages(shared))
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Outbound {
    /// Says something; in vain on a stream that was cut.
    pub(super) fn push(&self, message: Outgoing) {
        let mut shared = lock(&self.0);
        if !shared.cut {
            shared.bytes += MESSAGE + message.size();
            shared.waiting.push_back(message);
        }
        wake(shared, |shared| shared.transport.take());
    }

    /// Waits until there is room for more of a replay; for ever on a stream that was cut.
    pub(super) async fn room(&self) {
        self.until(ROOM).await;
    }

    /// Whether there is room for more of a replay.
    pub(super) fn has_room(&self) -> bool {
        lock(&self.0).bytes < ROOM
    }

    /// Waits until the transport has taken all that was said; for ever on a stream that was cut.
    pub(super) async fn taken(&self) {
        self.until(1).await;
    }

    async fn until(&self, below: usize) {
        future::poll_fn(|context| {
            let mut shared = lock(&self.0);
            if shared.bytes < below && !shared.cut {
                return Poll::Ready(());
            }
            shared.speaker = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Outbound {
    fn drop(&mut self) {
        let mut shared = lock(&self.0);
        shared.ended = true;
        wake(shared, |shared| shared.transport.take());
    }
}

impl Stream for Messages {
    type Item = Outgoing;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Outgoing>> {
        let mut shared = lock(&self.0);
        if let Some(message) = shared.waiting.pop_front() {
            shared.bytes -= MESSAGE + message.size();
            if shared.waiting.is_empty() {
                // A burst must not keep its room for as long as the entity is open.
                shared.waiting = VecDeque::new();
            }
            if shared.bytes <= ROOM / 2 {
                wake(shared, |shared| shared.speaker.take());
            }
            return Poll::Ready(Some(message));
        }
        if shared.ended {
            return Poll::Ready(None);
        }
        shared.transport = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        let mut shared = lock(&self.0);
        shared.cut = true;
        shared.waiting = VecDeque::new();
        shared.bytes = 0;
    }
}

/// Wakes somebody once the lock is free again.
fn wake(mut shared: MutexGuard<'_, Shared>, whom: impl FnOnce(&mut Shared) -> Option<Waker>) {
    let waker = whom(&mut shared);
    drop(shared);
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, StreamExt as _};

    use protocol::Any;

    use super::*;
    use crate::journal::Sequence;

    fn any(size: usize) -> Any {
        Any { type_url: String::new(), value: vec![0; size].into() }
    }

    #[tokio::test]
    async fn messages_come_in_order_and_end_behind_the_last() {
        let (outbound, messages) = stream();
        outbound.push(Outgoing::Init(None));
        outbound.push(Outgoing::Init(None));
        drop(outbound);
        assert_eq!(messages.count().await, 2);
    }

    #[tokio::test]
    async fn the_speaker_learns_that_all_was_taken() {
        let (outbound, mut messages) = stream();
        assert_eq!(outbound.taken().now_or_never(), Some(()));
        outbound.push(Outgoing::Init(None));
        assert_eq!(outbound.taken().now_or_never(), None);
        let ((), taken) = tokio::join!(outbound.taken(), messages.next());
        assert_eq!(taken, Some(Outgoing::Init(None)));
    }

    #[tokio::test]
    async fn a_replay_waits_when_much_is_on_its_way() {
        let (outbound, mut messages) = stream();
        let event = || Outgoing::Event(Sequence(1), any(ROOM / 2));
        outbound.push(event());
        assert_eq!(outbound.room().now_or_never(), Some(()));
        outbound.push(event());
        assert_eq!(outbound.room().now_or_never(), None);
        messages.next().await;
        assert_eq!(outbound.room().now_or_never(), Some(()));
    }

    #[tokio::test]
    async fn who_waits_for_a_message_is_woken() {
        let (outbound, mut messages) = stream();
        let (next, ()) =
            tokio::join!(messages.next(), async { outbound.push(Outgoing::Init(None)) });
        assert_eq!(next, Some(Outgoing::Init(None)));
    }

    #[tokio::test]
    async fn a_stream_that_was_cut_takes_nothing_and_says_so_to_nobody() {
        let (outbound, messages) = stream();
        drop(messages);
        outbound.push(Outgoing::Init(None));
        assert_eq!(outbound.taken().now_or_never(), None);
    }
}
