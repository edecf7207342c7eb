//! How fast a change that reaches many services starts their pods anew. [`Throttle`] is pure.
//!
//! A wave is one such change: of the settings, or of a store. Its rollouts start one after the other
//! and only so many at once, and none starts any more when three in a row have failed. Changes of a
//! service itself never ask here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::time::Duration;

use api::StatefulService;
use kube::ResourceExt;
use tokio::time::Instant;

use crate::config::Rollout as Limits;
use crate::context::{Context, Shared};

/// So many rollouts of a wave may fail in a row.
const FAILED_MAX: u32 = 3;
/// Nobody waits longer before asking again.
const ASK_AGAIN_MAX: Duration = Duration::from_secs(15);
const ASK_AGAIN_MIN: Duration = Duration::from_millis(100);

/// What a service gets to hear that wants to start its pods anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Go,
    /// Others are first.
    Wait {
        running: usize,
        ask_again_in: Duration,
    },
    /// Too many of this wave have failed.
    Halted {
        ask_again_in: Duration,
    },
}

/// How far a rollout is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Running,
    Done,
    Failed,
}

#[derive(Debug)]
struct Started {
    wave: String,
    has_failed: bool,
}

/// All waves at once.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    /// By service; until done.
    started: BTreeMap<String, Started>,
    waiting: BTreeSet<String>,
    last_start: Option<Instant>,
    /// Rollouts in a row that failed, by wave.
    failed: BTreeMap<String, u32>,
}

impl Throttle {
    /// A service asks whether it may start its pods anew, for that wave.
    pub(crate) fn ask(
        &mut self,
        service: &str,
        wave: &str,
        limits: &Limits,
        now: Instant,
    ) -> Answer {
        let running = self.running();
        if self.started.get(service).is_some_and(|started| started.wave == wave) {
            return Answer::Go;
        }
        if self.failed.get(wave).is_some_and(|failed| *failed >= FAILED_MAX) {
            self.waiting.insert(service.to_owned());
            return Answer::Halted { ask_again_in: ASK_AGAIN_MAX };
        }
        let is_early =
            self.last_start.is_some_and(|start| now.duration_since(start) < limits.interval);
        // One that is under way for an earlier wave has its place already.
        let has_place = running < usize::from(limits.max_concurrent)
            || self.started.get(service).is_some_and(|started| !started.has_failed);
        if is_early || !has_place {
            self.waiting.insert(service.to_owned());
            return Answer::Wait { running, ask_again_in: self.ask_again_in(limits) };
        }
        self.waiting.remove(service);
        self.last_start = Some(now);
        let started = Started { wave: wave.to_owned(), has_failed: false };
        self.started.insert(service.to_owned(), started);
        Answer::Go
    }

    /// How far the service's newest template is. `wave` is the one that it was started for, if any:
    /// another process may have started it.
    pub(crate) fn observe(&mut self, service: &str, wave: Option<&str>, progress: Progress) {
        self.waiting.remove(service);
        let wave = match (self.started.get(service), wave) {
            (Some(started), _) => started.wave.clone(),
            (None, Some(wave)) if progress != Progress::Done => {
                let started = Started { wave: wave.to_owned(), has_failed: false };
                self.started.insert(service.to_owned(), started);
                wave.to_owned()
            }
            _ => return,
        };
        match progress {
            Progress::Running => {}
            Progress::Done => {
                self.started.remove(service);
                self.failed.remove(&wave);
            }
            Progress::Failed => {
                if let Some(started) = self.started.get_mut(service)
                    && !std::mem::replace(&mut started.has_failed, true)
                {
                    *self.failed.entry(wave).or_default() += 1;
                }
            }
        }
    }

    /// The service is gone, or changed by its user.
    pub(crate) fn forget(&mut self, service: &str) {
        self.started.remove(service);
        self.waiting.remove(service);
        if self.started.is_empty() && self.waiting.is_empty() {
            self.failed.clear();
        }
    }

    /// How many run.
    pub(crate) fn running(&self) -> usize {
        self.started.values().filter(|started| !started.has_failed).count()
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The most rollouts in a row that failed in a wave.
    pub(crate) fn failed(&self) -> u32 {
        self.failed.values().copied().max().unwrap_or(0)
    }

    /// The more wait, the more seldom each asks.
    fn ask_again_in(&self, limits: &Limits) -> Duration {
        let rounds = self.waiting.len() / usize::from(limits.max_concurrent).max(1) + 1;
        let rounds = u32::try_from(rounds).unwrap_or(u32::MAX);
        limits.interval.saturating_mul(rounds).clamp(ASK_AGAIN_MIN, ASK_AGAIN_MAX)
    }
}

/// The service asks whether its pods may be started anew.
pub(crate) fn ask(ctx: &Context, service: &StatefulService, wave: &str) -> Answer {
    let limits = &ctx.live.now().rollout;
    with(ctx, |throttle| throttle.ask(&key(service), wave, limits, Instant::now()))
}

/// The service's newest template is that far.
pub(crate) fn observe(
    ctx: &Context,
    service: &StatefulService,
    wave: Option<&str>,
    progress: Progress,
) {
    with(ctx, |throttle| throttle.observe(&key(service), wave, progress));
}

/// The service is gone, or changed by its user.
pub(crate) fn forget(shared: &Shared, service: &StatefulService) {
    with(shared, |throttle| throttle.forget(&key(service)));
}

fn with<T>(shared: &Shared, act: impl FnOnce(&mut Throttle) -> T) -> T {
    let mut throttle = shared.throttle.lock().unwrap_or_else(PoisonError::into_inner);
    let result = act(&mut throttle);
    shared.metrics.rollouts(throttle.running(), throttle.waiting(), throttle.failed());
    result
}

fn key(service: &StatefulService) -> String {
    format!("{}/{}", service.namespace().unwrap_or_default(), service.name_any())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { max_concurrent: 2, interval: Duration::from_secs(2) };

    struct Bench {
        throttle: Throttle,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            Self { throttle: Throttle::default(), now: Instant::now() }
        }

        /// Asks two seconds later than the one before.
        fn goes(&mut self, service: &str, wave: &str) -> bool {
            self.now += LIMITS.interval;
            self.throttle.ask(service, wave, &LIMITS, self.now) == Answer::Go
        }

        fn ends(&mut self, service: &str, progress: Progress) {
            self.throttle.observe(service, None, progress);
        }
    }

    #[test]
    fn only_so_many_run_at_once_and_the_next_follows_one_that_is_done() {
        let mut bench = Bench::new();
        assert!(bench.goes("a", "w") && bench.goes("b", "w"));
        assert!(!bench.goes("c", "w"));
        assert_eq!((bench.throttle.running(), bench.throttle.waiting()), (2, 1));
        // To ask again is not to start again.
        assert!(bench.goes("a", "w"));
        bench.ends("a", Progress::Running);
        assert!(!bench.goes("c", "w"));
        bench.ends("a", Progress::Done);
        assert!(bench.goes("c", "w"));
        assert_eq!((bench.throttle.running(), bench.throttle.waiting()), (2, 0));
    }

    #[test]
    fn starts_are_apart() {
        let mut throttle = Throttle::default();
        let now = Instant::now();
        assert_eq!(throttle.ask("a", "w", &LIMITS, now), Answer::Go);
        let next = throttle.ask("b", "w", &LIMITS, now + Duration::from_secs(1));
        assert!(matches!(next, Answer::Wait { running: 1, .. }));
        assert_eq!(throttle.ask("b", "w", &LIMITS, now + LIMITS.interval), Answer::Go);
    }

    #[test]
    fn three_failures_in_a_row_halt_the_wave_and_no_other() {
        let mut bench = Bench::new();
        for service in ["a", "b"] {
            assert!(bench.goes(service, "w"));
            bench.ends(service, Progress::Failed);
            // It stays failed, and is counted once.
            bench.ends(service, Progress::Failed);
        }
        assert!(bench.goes("c", "w"));
        bench.ends("c", Progress::Failed);
        assert_eq!(bench.throttle.failed(), 3);
        bench.now += LIMITS.interval;
        let answer = bench.throttle.ask("d", "w", &LIMITS, bench.now);
        assert!(matches!(answer, Answer::Halted { .. }));
        assert!(bench.goes("e", "other"));
    }

    #[test]
    fn a_success_starts_the_count_anew() {
        let mut bench = Bench::new();
        for service in ["a", "b"] {
            assert!(bench.goes(service, "w"));
            bench.ends(service, Progress::Failed);
        }
        assert!(bench.goes("c", "w"));
        bench.ends("c", Progress::Done);
        assert_eq!(bench.throttle.failed(), 0);
    }

    #[test]
    fn a_wave_goes_on_when_one_that_failed_recovers() {
        let mut bench = Bench::new();
        for service in ["a", "b", "c"] {
            assert!(bench.goes(service, "w"));
            bench.ends(service, Progress::Failed);
        }
        assert!(!bench.goes("d", "w"));
        bench.ends("b", Progress::Done);
        assert!(bench.goes("d", "w"));
    }

    #[test]
    fn who_takes_over_counts_what_is_under_way() {
        let mut bench = Bench::new();
        bench.throttle.observe("a", Some("w"), Progress::Running);
        bench.throttle.observe("b", Some("w"), Progress::Running);
        bench.throttle.observe("z", Some("w"), Progress::Done);
        assert_eq!(bench.throttle.running(), 2);
        assert!(!bench.goes("c", "w"));
    }

    #[test]
    fn one_that_is_gone_leaves_its_place() {
        let mut bench = Bench::new();
        assert!(bench.goes("a", "w") && bench.goes("b", "w"));
        bench.throttle.forget("a");
        assert!(bench.goes("c", "w"));
    }
}
