//! What the launcher did and when, by its own log: on a busy machine causes keep their order, whoever looks late.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;

const DAY: Duration = Duration::from_hours(24);

/// The lines of the log, read from front to back.
pub(crate) struct Story {
    lines: Vec<Value>,
    at: usize,
}

/// A time of some day, as clocks on walls have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment(Duration);

impl Story {
    pub(super) fn of(lines: Vec<Value>) -> Self {
        Self { lines, at: 0 }
    }

    /// Goes on to the next line that has all these fields, and says when that was.
    #[track_caller]
    pub(crate) fn then(&mut self, fields: &Value) -> Moment {
        let found = self.lines[self.at..].iter().position(|line| has(line, fields));
        let found = found.unwrap_or_else(|| {
            let rest: Vec<_> = self.lines[self.at..].iter().map(Value::to_string).collect();
            panic!(
                "no {fields} in
{}",
                rest.join(
                    "
"
                )
            )
        });
        self.at += found + 1;
        Moment::of(&self.lines[self.at - 1])
    }

    /// All lines with these fields, those before included.
    pub(crate) fn all(&self, fields: &Value) -> Vec<&Value> {
        self.lines.iter().filter(|line| has(line, fields)).collect()
    }

    /// How many processes without a parent were buried so far.
    pub(crate) fn buried(&self) -> u64 {
        let so_far = self.lines[..self.at].iter();
        let reaped = so_far.filter(|line| line["message"] == "orphans reaped");
        reaped.filter_map(|line| line["count"].as_u64()).sum()
    }

    /// The days of all lines.
    pub(crate) fn days(&self) -> BTreeSet<String> {
        let day = |line: &Value| line["timestamp"].as_str().map(|time| time[..10].to_owned());
        self.lines.iter().filter_map(day).collect()
    }
}

fn has(line: &Value, fields: &Value) -> bool {
    fields.as_object().unwrap().iter().all(|(name, value)| &line[name] == value)
}

impl Moment {
    /// `2026-01-31T12:34:56.123456Z`.
    fn of(line: &Value) -> Self {
        let (_, time) = line["timestamp"].as_str().unwrap().split_once('T').unwrap();
        let parts = time.trim_end_matches('Z').split(':').map(|part| part.parse::<f64>().unwrap());
        Self(Duration::from_secs_f64(parts.fold(0.0, |sum, part| sum * 60.0 + part)))
    }

    pub(crate) fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Self(Duration::from_nanos((since.as_nanos() % DAY.as_nanos()).try_into().unwrap()))
    }

    /// How long that was after another moment. Days make no difference.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        self.0.checked_sub(earlier.0).unwrap_or_else(|| (self.0 + DAY).saturating_sub(earlier.0))
    }
}
