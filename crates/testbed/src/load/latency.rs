//! Durations, counted in buckets that are each at most two percent wide.

use std::{fmt, time::Duration};

/// Buckets between one power of two and the next.
const FINE: u32 = 64;
const FINE_BITS: u32 = FINE.ilog2();
/// Microseconds up to 2^36, which is 19 hours.
const BUCKETS: usize = ((36 - FINE_BITS + 2) * FINE) as usize;

/// How long calls took.
#[derive(Clone)]
pub struct Latency {
    buckets: Vec<u32>,
    count: u64,
    longest: Duration,
}

impl Default for Latency {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS], count: 0, longest: Duration::ZERO }
    }
}

impl Latency {
    /// Counts one call.
    pub fn record(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.buckets[bucket(micros)] += 1;
        self.count += 1;
        self.longest = self.longest.max(took);
    }

    /// Takes the other's calls in.
    pub fn merge(&mut self, other: &Self) {
        for (own, other) in self.buckets.iter_mut().zip(&other.buckets) {
            *own += other;
        }
        self.count += other.count;
        self.longest = self.longest.max(other.longest);
    }

    /// How many calls were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest of all.
    pub fn longest(&self) -> Duration {
        self.longest
    }

    /// The time within which this many of a million calls were done; zero without any call.
    pub fn within(&self, of_a_million: u32) -> Duration {
        let wanted = (self.count * u64::from(of_a_million)).div_ceil(1_000_000).max(1);
        let mut seen = 0;
        for (at, count) in self.buckets.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= wanted {
                return Duration::from_micros(upper(at)).min(self.longest);
            }
        }
        Duration::ZERO
    }

    /// The median.
    pub fn p50(&self) -> Duration {
        self.within(500_000)
    }

    /// All but one of a hundred.
    pub fn p99(&self) -> Duration {
        self.within(990_000)
    }

    /// All but one of a thousand.
    pub fn p999(&self) -> Duration {
        self.within(999_000)
    }
}

impl fmt::Debug for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Latency")
            .field("count", &self.count)
            .field("p50", &self.p50())
            .field("p99", &self.p99())
            .field("longest", &self.longest)
            .finish_non_exhaustive()
    }
}

/// Small numbers have a bucket each; above, each power of two has [`FINE`] of them.
fn bucket(micros: u64) -> usize {
    let high = micros.max(1).ilog2();
    let at = if high <= FINE_BITS {
        micros
    } else {
        let shift = high - FINE_BITS;
        u64::from(shift * FINE) + (micros >> shift)
    };
    usize::try_from(at).unwrap_or(usize::MAX).min(BUCKETS - 1)
}

/// The largest number in a bucket.
fn upper(bucket: usize) -> u64 {
    let (bucket, fine) = (bucket as u64, u64::from(FINE));
    if bucket < 2 * fine {
        return bucket;
    }
    let shift = bucket / fine - 1;
    ((bucket - shift * fine + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_at_most_two_percent_wide() {
        for micros in (0..300_000).chain((1 << 30)..(1 << 30) + 1000) {
            let upper = upper(bucket(micros));
            assert!(
                upper >= micros && upper <= micros + micros / 50,
                "{micros} is told as {upper}"
            );
        }
    }

    #[test]
    fn shares_of_calls_are_told() {
        let mut latency = Latency::default();
        for millis in 1..=1000 {
            latency.record(Duration::from_millis(millis));
        }
        let close = |told: Duration, millis: u64| told.as_millis().abs_diff(millis.into()) <= 20;
        assert!(close(latency.p50(), 500), "{latency:?}");
        assert!(close(latency.p99(), 990), "{latency:?}");
        assert_eq!(latency.longest(), Duration::from_secs(1));
        assert_eq!(Latency::default().p99(), Duration::ZERO);
    }
}
