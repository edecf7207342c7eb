//! How the proxy is told to end: to finish what is under way and leave, or to finish it and stay until
//! somebody says when.
//!
//! The launcher has it stay while other containers of the pod come to their end: calls go elsewhere, another
//! proxy owns the entities, and whoever still looks at this one finds it there.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What becomes of the proxy once nothing is under way any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It leaves for good.
    Leave,
    /// It leaves to be started afresh, since it is to serve calls again.
    Resume,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Leave,
    Hold,
    Resume,
}

/// Takes the wishes of whoever may reach the management port; clones share them.
#[derive(Clone, Debug)]
pub struct Ending {
    /// Told by a signal, which holds whatever else was wished for.
    outside: CancellationToken,
    stop: CancellationToken,
    wish: Arc<watch::Sender<Wish>>,
}

impl Ending {
    /// One that comes with `outside` at the latest.
    pub fn new(outside: CancellationToken) -> Self {
        let stop = outside.child_token();
        Self { outside, stop, wish: Arc::new(watch::Sender::new(Wish::Leave)) }
    }

    /// Cancelled once nothing new is to be begun.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Has the proxy leave, also one that was held.
    pub fn leave(&self) {
        self.wish.send_replace(Wish::Leave);
        self.stop.cancel();
    }

    /// Has the proxy stay, although it begins nothing new. One that leaves already leaves all the same.
    pub fn hold(&self) {
        if !self.stop.is_cancelled() {
            self.wish.send_replace(Wish::Hold);
            self.stop.cancel();
        }
    }

    /// Has a proxy that is held serve again; whether it is held.
    pub fn resume(&self) -> bool {
        self.wish.send_if_modified(|wish| {
            let is_held = *wish == Wish::Hold;
            if is_held {
                *wish = Wish::Resume;
            }
            is_held
        })
    }

    /// Waits, once nothing is under way any more, for as long as the proxy is to stay.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn outcome(&self) -> Outcome {
        let mut wish = self.wish.subscribe();
        tokio::select! {
            biased;
            () = self.outside.cancelled() => Outcome::Leave,
            decided = wish.wait_for(|wish| *wish != Wish::Hold) => match decided.as_deref() {
                Ok(Wish::Resume) => Outcome::Resume,
                // An error cannot be: this handle is a sender.
                Ok(Wish::Leave | Wish::Hold) | Err(_) => Outcome::Leave,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn ending() -> (Ending, CancellationToken) {
        let outside = CancellationToken::new();
        (Ending::new(outside.clone()), outside)
    }

    fn outcome(ending: &Ending) -> Option<Outcome> {
        ending.outcome().now_or_never()
    }

    #[test]
    fn a_proxy_that_is_held_stays_until_somebody_says_when() {
        let (ending, outside) = ending();
        ending.hold();
        assert!(ending.stop().is_cancelled());
        assert_eq!(outcome(&ending), None);
        outside.cancel();
        assert_eq!(outcome(&ending), Some(Outcome::Leave));

        let (ending, _outside) = self::ending();
        ending.hold();
        ending.leave();
        assert_eq!(outcome(&ending), Some(Outcome::Leave));
    }

    #[test]
    fn what_was_held_can_serve_again_only_afresh() {
        let (ending, outside) = ending();
        assert!(!ending.resume(), "it was never held");
        ending.hold();
        assert!(ending.resume());
        assert!(!ending.resume(), "once is enough");
        assert_eq!(outcome(&ending), Some(Outcome::Resume));
        outside.cancel();
        assert_eq!(outcome(&ending), Some(Outcome::Leave), "a signal is stronger");
    }

    #[test]
    fn a_proxy_that_leaves_cannot_be_held() {
        let (ending, _outside) = ending();
        ending.leave();
        ending.hold();
        assert!(!ending.resume());
        assert_eq!(outcome(&ending), Some(Outcome::Leave));
    }
}
