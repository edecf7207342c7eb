//! How fast a change that reaches many services starts their pods anew. [`Throttle`] is pure.
//!
//! A wave is one such change: of the settings, or of a store. Its rollouts start one after the other
//! and only so many at once, and none starts any more while three in a row have failed and still do.
//! One that fails leaves its place to the next, so a change that is bad for all reaches two more than
//! may run at once. Changes of a service itself never ask here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::time::Duration;

use api::StatefulService;
use api::contract::label;
use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use tokio::time::Instant;

use crate::apply::child::{is_owned_by, label_of};
use crate::apply::origin_of;
use crate::cache::Cache;
use crate::config::Rollout as Limits;
use crate::context::{Context, Shared};
use crate::status::Rollout;

/// So many rollouts of a wave that failed in a row halt it.
const FAILED_MAX: usize = 3;
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
    state: State,
}

/// What became of a rollout that has not ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Another process has begun it, and how far it is has yet to be looked at.
    TakenOver,
    Running,
    Failed {
        /// Nothing of its wave has ended well since.
        in_a_row: bool,
    },
}

impl Started {
    /// Whether it has one of the places.
    fn is_under_way(&self) -> bool {
        matches!(self.state, State::TakenOver | State::Running)
    }

    /// Whether it is one of those that halt the wave.
    fn counts(&self) -> bool {
        self.state == State::Failed { in_a_row: true }
    }
}

/// All waves at once.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    /// By service; until done.
    started: BTreeMap<String, Started>,
    waiting: BTreeSet<String>,
    last_start: Option<Instant>,
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
        if self.failed_of(wave) >= FAILED_MAX {
            self.waiting.insert(service.to_owned());
            return Answer::Halted { ask_again_in: ASK_AGAIN_MAX };
        }
        let is_early =
            self.last_start.is_some_and(|start| now.duration_since(start) < limits.interval);
        // One that is under way for an earlier wave has its place already.
        let has_place = running < usize::from(limits.max_concurrent)
            || self.started.get(service).is_some_and(Started::is_under_way);
        if is_early || !has_place || self.is_unknown(wave) {
            self.waiting.insert(service.to_owned());
            return Answer::Wait { running, ask_again_in: self.ask_again_in(limits) };
        }
        self.waiting.remove(service);
        self.last_start = Some(now);
        self.start(service, wave);
        Answer::Go
    }

    /// Another process has begun that rollout. None of its wave starts before it is known how far all of these
    /// are: what halted the wave may be found in any of them.
    pub(crate) fn take_over(&mut self, service: &str, wave: &str) {
        let started = Started { wave: wave.to_owned(), state: State::TakenOver };
        self.started.entry(service.to_owned()).or_insert(started);
    }

    /// How far the service's newest template is. `wave` is the one that it was started for, if any:
    /// another process may have started it.
    pub(crate) fn observe(&mut self, service: &str, wave: Option<&str>, progress: Progress) {
        if let Some(wave) = wave
            && progress != Progress::Done
            && !self.started.contains_key(service)
        {
            self.start(service, wave);
        }
        let under_way = self.started.get_mut(service).filter(|started| started.is_under_way());
        match (progress, under_way) {
            (Progress::Done, _) => self.ended_well(service),
            (Progress::Running, Some(started)) => started.state = State::Running,
            (Progress::Failed, Some(started)) => started.state = State::Failed { in_a_row: true },
            (_, None) => {}
        }
    }

    /// The service is gone, or changed by its user.
    pub(crate) fn forget(&mut self, service: &str) {
        self.started.remove(service);
        self.waiting.remove(service);
    }

    /// The service is as it should be, or asks for nothing now.
    pub(crate) fn waits_no_more(&mut self, service: &str) {
        self.waiting.remove(service);
    }

    /// Of the services, only those are there still.
    pub(crate) fn retain(&mut self, is_there: impl Fn(&str) -> bool) {
        self.started.retain(|service, _| is_there(service));
        self.waiting.retain(|service| is_there(service));
    }

    /// How many run.
    pub(crate) fn running(&self) -> usize {
        self.started.values().filter(|started| started.is_under_way()).count()
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The most rollouts in a row that failed in a wave and still do.
    pub(crate) fn failed(&self) -> usize {
        let mut by_wave = BTreeMap::<_, usize>::new();
        for started in self.started.values().filter(|started| started.counts()) {
            *by_wave.entry(&started.wave).or_default() += 1;
        }
        by_wave.into_values().max().unwrap_or(0)
    }

    /// How many of the wave failed in a row and still do.
    fn failed_of(&self, wave: &str) -> usize {
        self.started.values().filter(|started| started.wave == wave && started.counts()).count()
    }

    /// Whether some of the wave were taken over and have not been looked at.
    fn is_unknown(&self, wave: &str) -> bool {
        self.started
            .values()
            .any(|started| started.wave == wave && started.state == State::TakenOver)
    }

    fn start(&mut self, service: &str, wave: &str) {
        let started = Started { wave: wave.to_owned(), state: State::Running };
        self.started.insert(service.to_owned(), started);
    }

    /// One that had failed counts no more. Another one starts the count anew, but for a wave that has
    /// been halted: what was on its way then says nothing of those that failed.
    fn ended_well(&mut self, service: &str) {
        let Some(started) = self.started.remove(service) else { return };
        let wave = &started.wave;
        if !started.is_under_way() || self.failed_of(wave) >= FAILED_MAX {
            return;
        }
        for started in self.started.values_mut().filter(|started| started.wave == *wave) {
            if let State::Failed { in_a_row } = &mut started.state {
                *in_a_row = false;
            }
        }
    }

    /// The more wait, the more seldom each asks.
    fn ask_again_in(&self, limits: &Limits) -> Duration {
        let rounds = self.waiting.len() / usize::from(limits.max_concurrent).max(1) + 1;
        let rounds = u32::try_from(rounds).unwrap_or(u32::MAX);
        limits.interval.saturating_mul(rounds).clamp(ASK_AGAIN_MIN, ASK_AGAIN_MAX)
    }
}

/// What another process has begun has its place before anything else is begun, so that a wave that was halted stays so.
/// What nobody looks at would never give it back: Deployments of services that are gone, going or left alone.
pub(crate) fn take_over(ctx: &Context) {
    for deployment in ctx.caches.deployments.references(&[]) {
        // One after the other: all of them at once may be many.
        let Some(deployment) = ctx.caches.deployments.get(&deployment) else { continue };
        if !is_looked_at(ctx, &deployment) {
            continue;
        }
        let rollout = Rollout::of(&deployment);
        let is_over = rollout.is_complete() || rollout.was_complete;
        let wave = origin_of(&deployment).and_then(|origin| origin.wave).filter(|_| !is_over);
        let service = label_of(&deployment.metadata, label::STATEFUL_SERVICE);
        if let (Some(wave), Some(service)) = (wave, service) {
            let namespace = deployment.namespace().unwrap_or_default();
            let service = format!("{namespace}/{service}");
            with(ctx, |throttle| throttle.take_over(&service, &wave));
        }
    }
}

fn is_looked_at(ctx: &Context, deployment: &Deployment) -> bool {
    let namespace = deployment.namespace().unwrap_or_default();
    let Some(name) = label_of(&deployment.metadata, label::STATEFUL_SERVICE) else { return false };
    let service = ctx.caches.services.get(&ObjectRef::new(name).within(&namespace));
    let service = service.filter(|service| service.metadata.deletion_timestamp.is_none());
    let uid = service.and_then(|service| service.uid());
    uid.is_some_and(|uid| is_owned_by(&deployment.metadata, &uid))
        && !ctx.caches.is_opted_out(&namespace)
}

/// The service asks whether its pods may be started anew.
pub(crate) fn ask(ctx: &Context, service: &StatefulService, wave: &str) -> Answer {
    let limits = &ctx.live.now().rollout;
    with(ctx, |throttle| throttle.ask(&key(service), wave, limits, Instant::now()))
}

/// The service's newest template is that far; `is_held` says that another one waits.
pub(crate) fn observe(
    ctx: &Context,
    service: &StatefulService,
    wave: Option<&str>,
    progress: Progress,
    is_held: bool,
) {
    with(ctx, |throttle| {
        throttle.observe(&key(service), wave, progress);
        if !is_held {
            throttle.waits_no_more(&key(service));
        }
    });
}

/// All services of what is watched were read again, so that those that are not among them are gone.
pub(crate) fn relisted(
    shared: &Shared,
    is_watched: impl Fn(&str) -> bool,
    services: &Cache<StatefulService>,
) {
    let is_there = |service: &str| {
        let Some((namespace, name)) = service.split_once('/') else { return false };
        !is_watched(namespace) || services.has(&ObjectRef::new(name).within(namespace))
    };
    with(shared, |throttle| throttle.retain(is_there));
}

/// Only services of these namespaces are looked at from now on.
pub(crate) fn keep_watched(shared: &Shared, is_watched: impl Fn(&str) -> bool) {
    let is_there =
        |service: &str| service.split_once('/').is_some_and(|(namespace, _)| is_watched(namespace));
    with(shared, |throttle| throttle.retain(is_there));
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

    /// Starts those and lets them fail.
    fn halted(services: [&str; 3]) -> Bench {
        let mut bench = Bench::new();
        for service in services {
            assert!(bench.goes(service, "w"));
            bench.ends(service, Progress::Failed);
        }
        bench
    }

    #[test]
    fn a_wave_goes_on_when_one_that_failed_recovers() {
        let mut bench = halted(["a", "b", "c"]);
        assert!(!bench.goes("d", "w"));
        bench.ends("b", Progress::Done);
        assert!(bench.goes("d", "w"));
        // Two still fail, so that the next failure is the third again.
        bench.ends("d", Progress::Failed);
        assert!(!bench.goes("e", "w"));
    }

    #[test]
    fn a_wave_goes_on_when_one_that_failed_is_gone_or_changed_by_its_user() {
        let mut bench = halted(["a", "b", "c"]);
        bench.throttle.forget("c");
        assert!(bench.goes("d", "w"));
    }

    #[test]
    fn a_halted_wave_stays_so_when_one_that_was_on_its_way_ends_well() {
        let mut bench = Bench::new();
        assert!(bench.goes("slow", "w"));
        for service in ["a", "b", "c"] {
            assert!(bench.goes(service, "w"));
            bench.ends(service, Progress::Failed);
        }
        bench.ends("slow", Progress::Done);
        assert!(!bench.goes("d", "w"));
    }

    #[test]
    fn one_that_is_tried_again_starts_at_nothing() {
        let mut bench = halted(["a", "b", "c"]);
        for service in ["a", "b", "c"] {
            assert!(bench.goes(service, "back"));
            bench.ends(service, Progress::Done);
        }
        assert!(bench.goes("a", "w"));
    }

    #[test]
    fn a_change_that_is_bad_for_all_reaches_two_more_than_run_at_once() {
        let mut bench = Bench::new();
        let mut begun = Vec::new();
        for number in 0..30 {
            let service = number.to_string();
            if bench.goes(&service, "w") {
                begun.push(service);
            } else if let Some(next) = begun.get(bench.throttle.failed()) {
                bench.ends(&next.clone(), Progress::Failed);
            }
        }
        assert_eq!(begun.len(), usize::from(LIMITS.max_concurrent) + 2);
    }

    #[test]
    fn who_takes_over_counts_what_is_under_way() {
        let mut bench = Bench::new();
        for service in ["a", "b", "z"] {
            bench.throttle.take_over(service, "w");
        }
        bench.throttle.observe("z", Some("w"), Progress::Done);
        assert_eq!(bench.throttle.running(), 2);
        assert!(!bench.goes("c", "w"));
    }

    #[test]
    fn a_wave_that_was_halted_stays_so_for_who_takes_over() {
        let mut bench = Bench::new();
        // As many as a wave reaches that is bad for all; that they fail is seen one after the other.
        for service in ["a", "b", "c", "d"] {
            bench.throttle.take_over(service, "w");
        }
        for service in ["a", "b", "c", "d"] {
            assert!(!bench.goes("e", "w"));
            bench.ends(service, Progress::Failed);
        }
        assert!(!bench.goes("e", "w"));
    }

    #[test]
    fn a_wave_whose_first_ones_all_failed_at_once_stays_halted_for_who_takes_over() {
        let mut bench = Bench::new();
        let limits = Limits { max_concurrent: 5, ..LIMITS };
        let first = ["a", "b", "c", "d", "e"];
        for service in first {
            bench.throttle.take_over(service, "w");
        }
        for service in first {
            bench.now += limits.interval;
            let answer = bench.throttle.ask("f", "w", &limits, bench.now);
            assert_ne!(answer, Answer::Go, "before {service} is known");
            bench.ends(service, Progress::Failed);
        }
        let answer = bench.throttle.ask("f", "w", &limits, bench.now);
        assert!(matches!(answer, Answer::Halted { .. }), "{answer:?}");
        // Another wave is not held up by what is not known of this one.
        bench.throttle.take_over("g", "w");
        bench.now += limits.interval;
        assert_eq!(bench.throttle.ask("h", "back", &limits, bench.now), Answer::Go);
    }

    #[test]
    fn a_wave_goes_on_when_what_was_taken_over_is_known_to_be_well() {
        let mut bench = Bench::new();
        bench.throttle.take_over("a", "w");
        assert!(!bench.goes("c", "w"));
        bench.ends("a", Progress::Running);
        assert!(bench.goes("c", "w"));
    }

    #[test]
    fn a_rollout_that_ends_while_its_service_waits_for_another_leaves_its_place() {
        let mut bench = Bench::new();
        assert!(bench.goes("a", "w") && bench.goes("b", "w"));
        assert!(!bench.goes("c", "next"));
        bench.throttle.observe("a", Some("w"), Progress::Done);
        assert_eq!((bench.throttle.running(), bench.throttle.waiting()), (1, 1));
        bench.throttle.observe("c", None, Progress::Done);
        assert_eq!(bench.throttle.waiting(), 1, "it still waits");
        bench.throttle.waits_no_more("c");
        assert_eq!(bench.throttle.waiting(), 0);
    }

    #[test]
    fn those_that_are_found_to_be_gone_leave_their_places() {
        let mut bench = Bench::new();
        assert!(bench.goes("a", "w") && bench.goes("b", "w") && !bench.goes("c", "w"));
        bench.throttle.retain(|service| service == "b");
        assert_eq!((bench.throttle.running(), bench.throttle.waiting()), (1, 0));
    }

    #[test]
    fn one_that_is_gone_leaves_its_place() {
        let mut bench = Bench::new();
        assert!(bench.goes("a", "w") && bench.goes("b", "w"));
        bench.throttle.forget("a");
        assert!(bench.goes("c", "w"));
    }
}
