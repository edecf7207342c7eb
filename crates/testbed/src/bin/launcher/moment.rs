//! Moments on the clock that all processes of a machine share.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use rustix::time::{ClockId, clock_gettime};

/// A moment since the machine was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(Duration);

impl Moment {
    pub(crate) fn now() -> Self {
        let now = clock_gettime(ClockId::Monotonic);
        let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
        Self(Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or_default()))
    }

    /// The moment at which a log's clock said so, e.g. `2026-01-31T12:34:56.123456Z`; within a day from then.
    pub(crate) fn logged(text: &str) -> Result<Self> {
        const DAY: Duration = Duration::from_hours(24);
        let time = text.split_once('T').and_then(|(_, time)| time.strip_suffix('Z'));
        let parts = time.with_context(|| format!("{text:?} is no time"))?.split(':');
        let mut then = 0.0;
        for part in parts {
            then = then * 60.0 + part.parse::<f64>()?;
        }
        let wall = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        let passed = (wall - then).rem_euclid(DAY.as_secs_f64());
        Ok(Self(Self::now().0.saturating_sub(Duration::from_secs_f64(passed))))
    }

    /// Time from an earlier moment to this one.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// Reads `<seconds> <nanoseconds>`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let (seconds, nanos) = text.split_once(' ').context("a moment is two numbers")?;
        Ok(Self(Duration::new(seconds.parse()?, nanos.parse()?)))
    }
}

/// In milliseconds, for tables.
pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The value below which that share of the sorted values lies.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    sorted.get(rank(sorted.len(), share)).copied().unwrap_or_default()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a count of values is a small number that is not negative"
)]
fn rank(count: usize, share: f64) -> usize {
    ((count as f64 * share).ceil() as usize).max(1) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|share| rank(100, share)), [0, 49, 98, 99]);
        assert_eq!([0.5, 0.99].map(|share| rank(1, share)), [0, 0]);
        assert_eq!(rank(0, 0.5), 0);
    }

    #[test]
    fn a_logs_time_is_a_moment() {
        let moment = |text| Moment::logged(text).unwrap();
        let apart = moment("2026-01-31T12:34:56.500000Z").since(moment("2026-01-31T12:34:56.25Z"));
        assert!(
            apart.abs_diff(Duration::from_millis(250)) < Duration::from_millis(200),
            "{apart:?}"
        );
        assert!(Moment::logged("12:34").is_err());
    }

    #[test]
    fn a_moment_comes_over_a_pipe() {
        let moment = Moment::parse("12 345000000").unwrap();
        assert_eq!(moment.since(Moment::parse("12 0").unwrap()), Duration::from_millis(345));
        assert!(Moment::parse("12").is_err());
    }
}
