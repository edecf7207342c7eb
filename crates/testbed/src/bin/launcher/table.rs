//! Figures with their targets, as a table for people and as JSON for comparisons.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::supervised::{By, Programs};

/// A figure, and the most that the launcher's may be, if there is such.
struct Bar {
    name: &'static str,
    unit: &'static str,
    target: Option<f64>,
}

const fn bar(name: &'static str, unit: &'static str, target: f64) -> Bar {
    Bar { name, unit, target: Some(target) }
}

const BARS: [Bar; 16] = [
    bar("memory idle", "MiB", 4.0),
    bar("start added, p50", "ms", 3.0),
    bar("start added, p99", "ms", 6.0),
    bar("TERM to handler, p50", "ms", 0.3),
    bar("TERM to handler, p99", "ms", 2.0),
    bar("death to decision", "ms", 2.0),
    // Most of it is the end of the one and the start of the other.
    Bar { name: "death to next one's first word", unit: "ms", target: None },
    bar("user function up to ready, p99", "ms", 60.0),
    bar("/ready at 200/s, p99", "ms", 2.0),
    bar("/ready at 200/s, processor", "%", 2.0),
    bar("processor idle", "%", 0.1),
    bar("wake-ups idle", "/s", 10.0),
    bar("check, whole", "ms", 10.0),
    bar("program's size", "MiB", 3.0),
    bar("threads", "", 2.0),
    bar("open files", "", 20.0),
];

/// Everything that was measured.
pub(crate) struct Table {
    short: bool,
    figures: BTreeMap<(&'static str, By), Vec<f64>>,
}

impl Table {
    pub(crate) fn new(short: bool) -> Self {
        Self { short, figures: BTreeMap::new() }
    }

    /// Takes one figure of one run.
    pub(crate) fn add(&mut self, name: &'static str, by: By, value: f64) {
        self.figures.entry((name, by)).or_default().push(value);
    }

    fn median(&self, name: &'static str, by: By) -> Option<f64> {
        let mut values = self.figures.get(&(name, by))?.clone();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }

    /// Prints every figure beside its target.
    ///
    /// # Errors
    /// When a figure was not measured at all.
    pub(crate) fn print(&self, programs: &Programs) -> Result<()> {
        println!(
            "launcher: {}; tini: {}",
            programs.of(By::Launcher).display(),
            programs.of(By::Tini).display()
        );
        println!("{:<34}{:>10}{:>10}{:>10}  target", "median", "launcher", "tini", "direct");
        let mut missed = 0;
        for Bar { name, unit, target } in &BARS {
            let shown = |by| {
                self.median(name, by).map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"))
            };
            let got = self
                .median(name, By::Launcher)
                .with_context(|| format!("{name} was not measured"))?;
            // A few times in a moment say nothing of speed.
            let target = target.filter(|_| !self.short);
            let verdict = target.map_or_else(String::new, |target| {
                let word = if got <= target { "met" } else { "MISSED" };
                missed += usize::from(got > target);
                format!("≤ {target} {unit} {word}")
            });
            let [launcher, tini, direct] = [By::Launcher, By::Tini, By::Nobody].map(shown);
            println!(
                "{:<34}{launcher:>10}{tini:>10}{direct:>10}  {verdict}",
                format!("{name} {unit}")
            );
        }
        println!("{} figures, {missed} targets missed", BARS.len());
        Ok(())
    }

    /// Writes every figure of every run.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn write(&self, file: &Path) -> Result<()> {
        let rows = BARS.iter().map(|Bar { name, unit, target }| {
            let of = |by| self.figures.get(&(*name, by));
            json!({
                "what": name, "unit": unit, "target": target,
                "launcher": of(By::Launcher), "tini": of(By::Tini), "direct": of(By::Nobody),
                "median": self.median(name, By::Launcher),
            })
        });
        let text = serde_json::to_string_pretty(&rows.collect::<Vec<_>>())?;
        fs::write(file, text).with_context(|| format!("failed to write {}", file.display()))
    }
}
