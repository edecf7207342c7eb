//! Whether calls are served, and if not, why: what each part of the proxy says of itself, put together.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use api::contract::{NotReady, reason};
use tokio::sync::watch;

/// Whether calls are served, or one part is ready; and if not, why.
pub type Ready = Result<(), NotReady>;

/// What must be ready. Of several that are not, the first one here is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The proxy is not about to leave.
    Staying,
    /// The user function is known, and can be reached.
    UserFunction,
    /// The store is there, and this proxy owns the entities in it.
    Ownership,
    /// The port for calls is open.
    Edge,
}

const PARTS: usize = 4;

/// What every part says; clones share it.
#[derive(Clone, Debug)]
pub struct Readiness {
    parts: Arc<watch::Sender<[Ready; PARTS]>>,
    /// When all became ready, or the first was no more.
    since: Arc<Mutex<SystemTime>>,
}

impl Readiness {
    /// Nothing is ready, except that nobody has told the proxy to leave.
    pub fn starting() -> Self {
        let starting = NotReady {
            reason: reason::PROXY_STARTING.to_owned(),
            message: "the proxy has just started".to_owned(),
        };
        let mut parts = [const { Ok(()) }; PARTS];
        for part in [Part::UserFunction, Part::Ownership, Part::Edge] {
            parts[part as usize] = Err(starting.clone());
        }
        let since = Arc::new(Mutex::new(SystemTime::now()));
        Self { parts: Arc::new(watch::Sender::new(parts)), since }
    }

    /// Takes a part's word on itself.
    pub fn set(&self, part: Part, ready: Ready) {
        self.parts.send_if_modified(|parts| {
            let changed = parts[part as usize] != ready;
            let before = all(parts).is_ok();
            parts[part as usize] = ready;
            if all(parts).is_ok() != before {
                *self.since.lock().unwrap_or_else(PoisonError::into_inner) = SystemTime::now();
            }
            changed
        });
    }

    /// Says that a part is not ready, with one of the reasons of `docs/conditions.md`.
    pub fn deny(&self, part: Part, reason: &str, message: impl Into<String>) {
        let (reason, message) = (reason.to_owned(), message.into());
        self.set(part, Err(NotReady { reason, message }));
    }

    /// Whether all are ready; else what the first says that is not.
    pub fn now(&self) -> Ready {
        all(&self.parts.borrow())
    }

    /// Since when it is all ready, or not.
    pub fn since(&self) -> SystemTime {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What one part says.
    pub fn of(&self, part: Part) -> Ready {
        self.parts.borrow()[part as usize].clone()
    }

    /// Waits until a part's word is like this.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn until(&self, part: Part, is: impl Fn(&Ready) -> bool) {
        // Cannot fail: this handle is a sender.
        drop(self.parts.subscribe().wait_for(|parts| is(&parts[part as usize])).await);
    }

    /// Waits until [`Self::now`] is not `known` any more, and gives what it is then.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn changed(&self, known: &Ready) -> Ready {
        let mut parts = self.parts.subscribe();
        let changed = parts.wait_for(|parts| all(parts) != *known).await;
        let changed = changed.ok().map(|parts| all(&parts));
        match changed {
            Some(ready) => ready,
            // Cannot be: this handle is a sender.
            None => std::future::pending().await,
        }
    }
}

fn all(parts: &[Ready; PARTS]) -> Ready {
    parts.iter().find(|ready| ready.is_err()).cloned().unwrap_or(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_parts_must_be_ready_and_the_first_that_is_not_is_told_of() {
        let readiness = Readiness::starting();
        let reason = || readiness.now().map_err(|why| why.reason);
        assert_eq!(reason(), Err(reason::PROXY_STARTING.to_owned()));
        readiness.set(Part::Ownership, Ok(()));
        readiness.set(Part::UserFunction, Ok(()));
        let known = readiness.now();
        let changed = tokio::spawn({
            let readiness = readiness.clone();
            async move { readiness.changed(&known).await }
        });
        readiness.set(Part::Edge, Ok(()));
        assert_eq!(changed.await.unwrap(), Ok(()));
        readiness.deny(Part::UserFunction, reason::USER_FUNCTION_UNREACHABLE, "gone");
        readiness.deny(Part::Staying, reason::DRAINING, "on its way out");
        assert_eq!(reason(), Err(reason::DRAINING.to_owned()));
        readiness.set(Part::Staying, Ok(()));
        assert_eq!(reason(), Err(reason::USER_FUNCTION_UNREACHABLE.to_owned()));
    }
}
