//! How many calls may go out when everything changes at once.
//!
//! What an API server has to share out is seats, for calls that are under way, and it shares them fairly among those
//! who call (priority and fairness, KEP-1040). Of those, reconciles take no more than the setting `concurrency`.
//! A rate beyond that is for small API servers, which would spend all of their time on us otherwise;
//! `docs/benchmarks.md` has the figures behind it; the settings `calls` say how large it is.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Rate;

/// What a call costs the API server, in calls that write.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cost {
    /// A look at one object: nothing goes to the disks of etcd, and no watch has to hear of it.
    Read,
    Write,
}

impl Cost {
    fn calls(self) -> f64 {
        match self {
            Self::Read => 0.25,
            Self::Write => 1.0,
        }
    }
}

/// Calls that may go out, and how they grow.
#[derive(Debug)]
pub(crate) struct Budget {
    per_second: f64,
    burst: f64,
    /// Calls that may go out at once, and the time when that was so.
    left: Mutex<(f64, Instant)>,
}

impl Budget {
    pub(crate) fn new(rate: Rate, now: Instant) -> Self {
        let (per_second, burst) = (f64::from(rate.per_second), f64::from(rate.burst));
        Self { per_second, burst, left: Mutex::new((burst, now)) }
    }

    /// Takes one call out, and says how long it has to wait for it.
    pub(crate) fn take(&self, cost: Cost, now: Instant) -> Duration {
        let mut state = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let (calls, since) = *state;
        let gained = now.saturating_duration_since(since).as_secs_f64() * self.per_second;
        let calls = (calls + gained).min(self.burst) - cost.calls();
        *state = (calls, since.max(now));
        Duration::from_secs_f64((-calls).max(0.0) / self.per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_goes_out_at_once_and_the_rest_at_the_rate() {
        let start = Instant::now();
        let budget = Budget::new(Rate::default(), start);
        assert!((0..1_000).all(|_| budget.take(Cost::Write, start).is_zero()));
        assert_eq!(budget.take(Cost::Write, start), Duration::from_millis(1));
        assert_eq!(budget.take(Cost::Write, start), Duration::from_millis(2));
        // Half a second later 500 more, less the two that were promised.
        let later = start + Duration::from_millis(500);
        assert!((0..498).all(|_| budget.take(Cost::Write, later).is_zero()));
        assert!(!budget.take(Cost::Write, later).is_zero());
    }

    #[test]
    fn rate_and_burst_are_those_of_the_settings() {
        let start = Instant::now();
        let budget = Budget::new(Rate { per_second: 10, burst: 2 }, start);
        assert!((0..2).all(|_| budget.take(Cost::Write, start).is_zero()));
        assert_eq!(budget.take(Cost::Write, start), Duration::from_millis(100));
        let later = start + Duration::from_mins(1);
        assert!((0..2).all(|_| budget.take(Cost::Write, later).is_zero()));
        assert_eq!(budget.take(Cost::Write, later), Duration::from_millis(100));
    }

    #[test]
    fn four_reads_are_one_write() {
        let start = Instant::now();
        let budget = Budget::new(Rate::default(), start);
        assert!((0..4_000).all(|_| budget.take(Cost::Read, start).is_zero()));
        assert_eq!(budget.take(Cost::Read, start), Duration::from_micros(250));
        assert_eq!(budget.take(Cost::Write, start), Duration::from_micros(1_250));
    }
}
