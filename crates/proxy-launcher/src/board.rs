//! What is known of launcher and proxy: the supervisor writes it down, the admin server shows it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{cgroup::Cgroup, health::Health};

/// Ends that are remembered.
const ENDS_MAX: usize = 20;

/// Facts under a lock that is never held for longer than a look.
#[derive(Debug)]
pub struct Board {
    facts: Mutex<Facts>,
    started: Instant,
}

/// Everything that can change.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "docs/launcher.md describes each as a metric")]
pub struct Facts {
    pub is_jvm: bool,
    pub state: &'static str,
    pub pid: Option<i32>,
    pub generation: u64,
    pub proxy_answers: bool,
    pub proxy_ready: bool,
    /// None as long as it never was there.
    pub user_function: Option<bool>,
    pub user_function_changes: u64,
    pub user_function_wait: Option<Duration>,
    pub budget_left: u32,
    /// Since the launcher's start.
    pub pause_until: Option<Duration>,
    pub spawned_at: Option<Duration>,
    pub starts: u64,
    /// By the class of the end that called for each.
    pub restarts: BTreeMap<&'static str, u64>,
    pub hangs: u64,
    /// By [`crate::machine::Machine::class_of`].
    pub exits: BTreeMap<&'static str, u64>,
    /// How long proxies took from their start to their first answer.
    pub start_times: Histogram,
    pub time_to_ready: Option<Duration>,
    pub probe_failures: u64,
    /// How long the proxy took to answer, or not to.
    pub proxy_probes: Histogram,
    /// The same of the user function.
    pub user_function_probes: Histogram,
    pub in_flight: Option<u64>,
    pub drain_begun: Option<Duration>,
    pub drain_took: Option<Duration>,
    pub signals: BTreeMap<&'static str, u64>,
    pub leaders_reaped: u64,
    pub orphans_reaped: u64,
    pub warnings: usize,
    pub dumped_at: Option<Duration>,
    pub reloads: u64,
    pub reloads_refused: u64,
    pub heap_max: Option<u64>,
    pub heap_estimate: Option<u64>,
    pub memory_limit: Option<u64>,
    /// The youngest last.
    pub ends: VecDeque<PastEnd>,
}

/// An end of a proxy.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub struct PastEnd {
    /// Since the launcher's start.
    pub at: Duration,
    pub lived: Option<Duration>,
    pub class: &'static str,
    pub text: String,
}

/// Times in buckets.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Histogram {
    /// One for each of [`Histogram::BOUNDS`].
    pub counts: [u64; Self::BOUNDS.len()],
    pub count: u64,
    pub sum: f64,
}

impl Histogram {
    /// Upper bounds in seconds.
    pub const BOUNDS: [f64; 11] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];

    /// Adds a time.
    pub fn observe(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        for (count, bound) in self.counts.iter_mut().zip(Self::BOUNDS) {
            *count += u64::from(seconds <= bound);
        }
        self.count += 1;
        self.sum += seconds;
    }
}

impl Facts {
    /// Remembers an end.
    pub fn ended(&mut self, end: PastEnd) {
        *self.exits.entry(end.class).or_default() += 1;
        self.ends.push_back(end);
        if self.ends.len() > ENDS_MAX {
            self.ends.pop_front();
        }
    }

    /// The user function in a word.
    pub fn user_function_word(&self) -> &'static str {
        match self.user_function {
            None => "unknown",
            Some(true) => "there",
            Some(false) => "gone",
        }
    }
}

impl Board {
    /// An empty one; times count from `started`.
    pub fn new(facts: Facts, started: Instant) -> Self {
        Self { facts: Mutex::new(facts), started }
    }

    /// Writes something down.
    pub fn note(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.facts.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Everything as it is now.
    pub fn look(&self) -> Facts {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Time since the launcher's start.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Everything as JSON; no secret is in it.
    pub fn status(&self, health: &Health) -> Value {
        let (facts, now) = (self.look(), self.now());
        let ready = match health.ready() {
            Ok(()) => json!(true),
            Err(why) => json!({ "reason": why.reason, "message": why.message }),
        };
        let seconds_ago = |at: Duration| now.saturating_sub(at).as_secs();
        let ends = facts.ends.iter().rev().map(|end| {
            json!({
                "seconds_ago": seconds_ago(end.at),
                "lived_seconds": end.lived.map(|lived| lived.as_secs_f64()),
                "class": end.class,
                "what": end.text,
            })
        });
        let group = Cgroup::of_this_process();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "up_seconds": now.as_secs(),
            "state": facts.state,
            "ready": ready,
            "drain": health.drain.as_str(),
            "proxy": {
                "pid": facts.pid,
                "generation": facts.generation,
                "answers": facts.proxy_answers,
                "ready": facts.proxy_ready,
                "calls_under_way": facts.in_flight,
            },
            "user_function": facts.user_function_word(),
            "restarts_left": facts.budget_left,
            "memory": {
                "limit": facts.memory_limit,
                "current": group.as_ref().and_then(Cgroup::current),
                "oom_kills": group.as_ref().and_then(Cgroup::oom_kills),
            },
            "ends": ends.collect::<Value>(),
        })
    }
}
