//! Whether everything is watched, for `/readyz`. It says nothing about who leads.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A watch that fails for longer makes the operator unready.
const FAILING_MAX: Duration = Duration::from_mins(1);
/// A watch that works is silent when nothing happens, one that fails does so at least this often.
const SILENCE_MAX: Duration = Duration::from_secs(45);

/// One watch.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Watched {
    /// A namespace, or `*`.
    pub(crate) scope: String,
    pub(crate) kind: String,
}

/// What is known of all watches.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readiness(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Set once it is known what is to be watched.
    is_started: bool,
    watches: BTreeMap<Watched, Health>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Health {
    is_complete: bool,
    is_forbidden: bool,
    /// The first and the last error in a row.
    failing: Option<(Instant, Instant)>,
}

impl Readiness {
    /// What will be watched is known.
    pub(crate) fn started(&self) {
        self.lock().is_started = true;
    }

    /// This is to be watched.
    pub(crate) fn expect(&self, watched: Watched) {
        self.lock().watches.entry(watched).or_default();
    }

    /// Nothing of that scope is watched any more.
    pub(crate) fn forget(&self, scope: &str) {
        self.lock().watches.retain(|watched, _| watched.scope != scope);
    }

    pub(crate) fn watch_is_complete(&self, watched: &Watched) {
        self.with(watched, |health| {
            *health = Health { is_complete: true, ..Health::default() };
        });
    }

    pub(crate) fn watch_works(&self, watched: &Watched) {
        self.with(watched, |health| health.failing = None);
    }

    pub(crate) fn watch_failed(&self, watched: &Watched, is_forbidden: bool) {
        let now = Instant::now();
        self.with(watched, |health| {
            let first = match health.failing {
                Some((first, last)) if now.duration_since(last) < SILENCE_MAX => first,
                _ => now,
            };
            health.failing = Some((first, now));
            health.is_forbidden = is_forbidden;
        });
    }

    /// Whether that kind may not be watched there any more.
    pub(crate) fn is_forbidden(&self, scope: &str, kind: &str) -> bool {
        let watched = Watched { scope: scope.to_owned(), kind: kind.to_owned() };
        let state = self.lock();
        let health = state.watches.get(&watched);
        health.is_some_and(|health| health.is_forbidden && health.failing.is_some())
    }

    /// Why not, if not.
    pub(crate) fn problem(&self) -> Option<String> {
        let state = self.lock();
        if !state.is_started {
            return Some("not everything is watched yet: no settings".to_owned());
        }
        let now = Instant::now();
        state.watches.iter().find_map(|(Watched { scope, kind }, health)| {
            // A namespace that is listed and not there yet lets nobody in.
            if health.is_forbidden && scope != "*" {
                return None;
            }
            if !health.is_complete {
                return Some(format!("not everything is watched yet: {kind} in {scope}"));
            }
            let (first, last) = health.failing?;
            let is_failing =
                now.duration_since(last) < SILENCE_MAX && last.duration_since(first) >= FAILING_MAX;
            is_failing.then(|| {
                let seconds = now.duration_since(first).as_secs();
                format!("the watch of {kind} in {scope} has failed for {seconds} s")
            })
        })
    }

    fn with(&self, watched: &Watched, change: impl FnOnce(&mut Health)) {
        // One that ends just now is forgotten already.
        if let Some(health) = self.lock().watches.get_mut(watched) {
            change(health);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn watched(scope: &str) -> Watched {
        Watched { scope: scope.to_owned(), kind: "Pod".to_owned() }
    }

    fn complete(scope: &str) -> Readiness {
        let readiness = Readiness::default();
        readiness.expect(watched(scope));
        readiness.started();
        readiness.watch_is_complete(&watched(scope));
        readiness
    }

    #[test]
    fn ready_means_that_everything_is_watched() {
        let readiness = Readiness::default();
        assert!(readiness.problem().is_some());
        readiness.expect(watched("*"));
        readiness.started();
        assert!(readiness.problem().unwrap().contains("Pod in *"));
        readiness.watch_is_complete(&watched("*"));
        assert_eq!(readiness.problem(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_fails_for_a_minute_makes_unready_until_it_works() {
        let readiness = complete("*");
        for _ in 0..3 {
            readiness.watch_failed(&watched("*"), false);
            assert_eq!(readiness.problem(), None);
            advance(Duration::from_secs(20)).await;
        }
        readiness.watch_failed(&watched("*"), false);
        assert!(readiness.problem().unwrap().contains("60 s"));
        readiness.watch_works(&watched("*"));
        assert_eq!(readiness.problem(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_watch_that_failed_once_is_taken_to_work() {
        let readiness = complete("*");
        readiness.watch_failed(&watched("*"), false);
        advance(Duration::from_mins(10)).await;
        readiness.watch_failed(&watched("*"), false);
        assert_eq!(readiness.problem(), None);
    }

    #[test]
    fn a_listed_namespace_that_lets_nobody_in_is_not_waited_for() {
        let readiness = Readiness::default();
        readiness.expect(watched("shop"));
        readiness.started();
        readiness.watch_failed(&watched("shop"), true);
        assert_eq!(readiness.problem(), None);
        readiness.forget("shop");
        assert_eq!(readiness.problem(), None);
    }
}
