//! A summary: quantiles over the last minute. Prometheus' own libraries keep samples to a given error of rank;
//! here it is buckets whose ends are 4 % apart, so that each quantile is right to 2 % of its *value*, in
//! a room of fixed size. The largest value is exact.

#![expect(clippy::cast_precision_loss, reason = "quantiles of counts are no exact numbers anyway")]

use std::{
    fmt::{self, Write},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// What is told.
const QUANTILES: [f64; 4] = [0.5, 0.95, 0.99, 1.0];
/// The window moves on in steps of this, and is as many long.
const STEP: Duration = Duration::from_secs(10);
const STEPS: usize = 6;
/// Quotient of the ends of a bucket.
const GROWTH: f64 = 1.04;
/// Upper end of the first bucket, in seconds.
const FIRST: f64 = 0.001;
/// The last bucket ends beyond a day.
const BUCKETS: usize = 480;

/// Values of the last minute, and the sum and count of all.
#[derive(Debug)]
pub(super) struct Summary {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    count: u64,
    sum: f64,
    began: Instant,
    /// The step in which something was observed last.
    step: u64,
    window: [Window; STEPS],
}

#[derive(Clone, Debug, Default)]
struct Window {
    /// Empty until something is observed.
    buckets: Vec<u32>,
    max: f64,
}

impl Default for Summary {
    fn default() -> Self {
        let window = [const { Window { buckets: Vec::new(), max: 0.0 } }; STEPS];
        let state = State { count: 0, sum: 0.0, began: Instant::now(), step: 0, window };
        Self { state: Mutex::new(state) }
    }
}

impl Summary {
    pub(super) fn observe(&self, time: Duration) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).observe(time.as_secs_f64());
    }
}

impl State {
    /// Forgets what is older than the window.
    fn turn(&mut self) {
        let now = self.began.elapsed().as_secs() / STEP.as_secs();
        for step in (self.step + 1..=now).take(STEPS) {
            self.window[at(step)] = Window::default();
        }
        self.step = now;
    }

    fn observe(&mut self, value: f64) {
        self.turn();
        self.count += 1;
        self.sum += value;
        let window = &mut self.window[at(self.step)];
        window.max = window.max.max(value);
        window.buckets.resize(BUCKETS, 0);
        window.buckets[bucket(value)] += 1;
    }

    /// Nothing of the window is no number.
    fn quantile(&mut self, quantile: f64) -> f64 {
        self.turn();
        let total: u64 = self.window.iter().flat_map(|w| &w.buckets).map(|n| u64::from(*n)).sum();
        let max = self.window.iter().map(|window| window.max).fold(0.0, f64::max);
        if total == 0 {
            return f64::NAN;
        }
        let mut below = 0;
        for bucket in 0..BUCKETS {
            let here = |window: &Window| window.buckets.get(bucket).map_or(0, |n| u64::from(*n));
            below += self.window.iter().map(here).sum::<u64>();
            if below as f64 >= quantile * total as f64 && below < total {
                return middle(bucket).min(max);
            }
        }
        max
    }
}

fn at(step: u64) -> usize {
    usize::try_from(step % STEPS as u64).unwrap_or_default()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast of floats stays in range"
)]
fn bucket(value: f64) -> usize {
    ((value / FIRST).ln() / GROWTH.ln()).ceil().clamp(0.0, (BUCKETS - 1) as f64) as usize
}

fn middle(bucket: usize) -> f64 {
    FIRST * GROWTH.powf(bucket as f64 - 0.5)
}

/// Writes the family, each summary under the name of its entity.
pub(super) fn encode(
    text: &mut String,
    name: &str,
    summaries: &[(String, Arc<Summary>)],
) -> fmt::Result {
    writeln!(text, "# HELP {name} How long activations lasted.")?;
    writeln!(text, "# TYPE {name} summary")?;
    for (entity, summary) in summaries {
        let mut state = summary.state.lock().unwrap_or_else(PoisonError::into_inner);
        let entity = entity.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        for quantile in QUANTILES {
            let value = state.quantile(quantile);
            writeln!(text, "{name}{{entity_name=\"{entity}\",quantile=\"{quantile:?}\"}} {value}")?;
        }
        writeln!(text, "{name}_sum{{entity_name=\"{entity}\"}} {}", state.sum)?;
        writeln!(text, "{name}_count{{entity_name=\"{entity}\"}} {}", state.count)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantiles(summary: &Summary) -> [f64; 4] {
        let mut state = summary.state.lock().unwrap();
        QUANTILES.map(|quantile| state.quantile(quantile))
    }

    #[tokio::test(start_paused = true)]
    async fn quantiles_are_right_to_two_percent_and_the_largest_value_is_exact() {
        let summary = Summary::default();
        for millis in 1..=1_000 {
            summary.observe(Duration::from_millis(millis));
        }
        let found = quantiles(&summary);
        for (found, expected) in found.into_iter().zip([0.5, 0.95, 0.99]) {
            assert!((found / expected - 1.0).abs() < 0.025, "{found} is not {expected}");
        }
        assert!((found[3] - 1.0).abs() < f64::EPSILON, "{found:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_minute_later_nothing_is_left_but_sum_and_count() {
        let summary = Summary::default();
        summary.observe(Duration::from_secs(3));
        tokio::time::advance(Duration::from_secs(49)).await;
        assert!((quantiles(&summary)[3] - 3.0).abs() < f64::EPSILON);
        tokio::time::advance(Duration::from_secs(11)).await;
        assert!(quantiles(&summary)[3].is_nan());
        let mut text = String::new();
        encode(&mut text, "n", &[("a".to_owned(), Arc::new(summary))]).unwrap();
        assert!(text.contains("n{entity_name=\"a\",quantile=\"0.5\"} NaN\n"), "{text}");
        assert!(
            text.ends_with("n_sum{entity_name=\"a\"} 3\nn_count{entity_name=\"a\"} 1\n"),
            "{text}"
        );
    }
}
