//! How many calls may go out: enough to be fast, and few enough that the API server has room for
//! others when everything changes at once.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

const CALLS_PER_SECOND: f64 = 400.0;
const CALLS_AT_ONCE: f64 = 800.0;

/// Calls that may go out at once, and the time when that was so.
#[derive(Debug)]
pub(crate) struct Budget(Mutex<(f64, Instant)>);

impl Budget {
    pub(crate) fn new(now: Instant) -> Self {
        Self(Mutex::new((CALLS_AT_ONCE, now)))
    }

    /// Takes one call out, and says how long it has to wait for it.
    pub(crate) fn take(&self, now: Instant) -> Duration {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (calls, since) = *state;
        let gained = now.saturating_duration_since(since).as_secs_f64() * CALLS_PER_SECOND;
        let calls = (calls + gained).min(CALLS_AT_ONCE) - 1.0;
        *state = (calls, since.max(now));
        Duration::from_secs_f64((-calls).max(0.0) / CALLS_PER_SECOND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_goes_out_at_once_and_the_rest_at_the_rate() {
        let start = Instant::now();
        let budget = Budget::new(start);
        assert!((0..800).all(|_| budget.take(start).is_zero()));
        assert_eq!(budget.take(start), Duration::from_micros(2_500));
        assert_eq!(budget.take(start), Duration::from_millis(5));
        // Half a second later 200 more, less the two that were promised.
        let later = start + Duration::from_millis(500);
        assert!((0..198).all(|_| budget.take(later).is_zero()));
        assert!(!budget.take(later).is_zero());
    }
}
