//! Figures as a table for people and as JSON for comparisons.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use testbed::load::Measured;

use crate::{
    flags::{Flags, Function, Store},
    stand::{Bench, Cpu},
};

/// All figures of one run.
pub(crate) struct Report {
    machine: Value,
    short: bool,
    rows: Vec<Value>,
    /// Lines of the closing table: what was to be reached, and whether it was.
    targets: Vec<String>,
    missed: usize,
}

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Row {
    workload: &'static str,
    case: String,
    store: Store,
    function: Function,
    steady: Option<(Measured, Cpu)>,
    memory_peak: Option<u64>,
    /// What it is about, where that is no throughput.
    figures: Vec<(&'static str, f64, &'static str)>,
    targets: Vec<Target>,
}

/// What a figure is compared with.
#[derive(Clone, Copy, Debug)]
struct Target {
    what: &'static str,
    got: f64,
    bound: f64,
    at_least: bool,
}

impl Row {
    pub(crate) fn new(bench: &Bench<'_>, workload: &'static str, case: impl Into<String>) -> Self {
        Self {
            workload,
            case: case.into(),
            store: bench.store,
            function: bench.function,
            steady: None,
            memory_peak: None,
            figures: Vec::new(),
            targets: Vec::new(),
        }
    }

    /// Throughput, latency, and what they cost.
    pub(crate) fn steady(mut self, measured: Measured, cpu: Cpu, memory_peak: u64) -> Self {
        self.steady = Some((measured, cpu));
        self.memory_peak = Some(memory_peak);
        self
    }

    pub(crate) fn memory_peak(mut self, bytes: u64) -> Self {
        self.memory_peak = Some(bytes);
        self
    }

    pub(crate) fn figure(mut self, what: &'static str, value: f64, unit: &'static str) -> Self {
        self.figures.push((what, value, unit));
        self
    }

    pub(crate) fn at_least(mut self, what: &'static str, got: f64, bound: f64) -> Self {
        self.targets.push(Target { what, got, bound, at_least: true });
        self
    }

    pub(crate) fn at_most(mut self, what: &'static str, got: f64, bound: f64) -> Self {
        self.targets.push(Target { what, got, bound, at_least: false });
        self
    }

    fn name(&self) -> String {
        let store = format!("{:?}", self.store).to_lowercase();
        let function = format!("{:?}", self.function).to_lowercase();
        format!("{:<4} {:<22} {store:<9}{function:<5}", self.workload, self.case)
    }

    fn line(&self) -> String {
        let mut parts = vec![self.name()];
        if let Some((measured, cpu)) = &self.steady {
            let latency = &measured.latency;
            parts.push(format!(" {:>8.0}/s", measured.rate()));
            let times = [latency.p50(), latency.p99(), latency.p999(), latency.longest()];
            parts.extend(times.map(|time| format!(" {:>7.2}", millis(time))));
            parts.push(" |".to_owned());
            for time in [Some(cpu.callers), Some(cpu.proxy), Some(cpu.function), cpu.store] {
                parts.push(match time {
                    Some(time) => format!(" {:>5.1}", micros_each(time, latency.count())),
                    None => "     -".to_owned(),
                });
            }
        }
        if let Some(bytes) = self.memory_peak {
            parts.push(format!(" | {:>5.1} MiB", mib(bytes)));
        }
        for (what, value, unit) in &self.figures {
            parts.push(format!("  {what} {value:.2} {unit}"));
        }
        for target in &self.targets {
            let Target { what, got, bound, .. } = target;
            parts.push(format!("  [{what} {got:.2} {} {bound}: {}]", target.sign(), target.word()));
        }
        parts.concat()
    }

    fn json(&self) -> Value {
        let steady = self.steady.as_ref().map(|(measured, cpu)| {
            let latency = &measured.latency;
            let each = |time| micros_each(time, latency.count());
            json!({
                "calls": latency.count(),
                "per_second": measured.rate(),
                "latency_ms": {
                    "p50": millis(latency.p50()), "p99": millis(latency.p99()),
                    "p99.9": millis(latency.p999()), "max": millis(latency.longest()),
                },
                "cpu_us_per_call": {
                    "callers": each(cpu.callers), "proxy": each(cpu.proxy),
                    "function": each(cpu.function), "store": cpu.store.map(each),
                },
                "refused": measured.refused.values().sum::<u64>(),
                "unsent": measured.unsent,
            })
        });
        let figures = self
            .figures
            .iter()
            .map(|(what, value, unit)| json!({"what": what, "value": value, "unit": unit}));
        let targets = self.targets.iter().map(|target| {
            let Target { what, got, bound, at_least } = target;
            json!({"what": what, "got": got, "bound": bound, "at_least": at_least, "met": target.met()})
        });
        json!({
            "workload": self.workload, "case": self.case,
            "store": format!("{:?}", self.store), "function": format!("{:?}", self.function),
            "steady": steady, "proxy_memory_peak_mib": self.memory_peak.map(mib),
            "figures": figures.collect::<Vec<_>>(), "targets": targets.collect::<Vec<_>>(),
        })
    }
}

impl Target {
    fn met(&self) -> bool {
        if self.at_least { self.got >= self.bound } else { self.got <= self.bound }
    }

    fn sign(&self) -> char {
        if self.at_least { '≥' } else { '≤' }
    }

    fn word(&self) -> &'static str {
        if self.met() { "met" } else { "MISSED" }
    }
}

impl Report {
    pub(crate) fn begin(flags: &Flags) -> Self {
        println!(
            "workload, case, store, user function; good replies/s; p50 p99 p99.9 max in ms | CPU-µs per call of \
             callers, proxy, function, store | peak memory of the proxy"
        );
        Self {
            machine: machine(flags),
            short: flags.short,
            rows: Vec::new(),
            targets: Vec::new(),
            missed: 0,
        }
    }

    pub(crate) fn add(&mut self, mut row: Row) {
        if self.short {
            // So little says nothing of speed.
            row.targets.clear();
        }
        println!("{}", row.line());
        for target in &row.targets {
            let Target { what, got, bound, .. } = target;
            let (name, sign, word) = (row.name(), target.sign(), target.word());
            self.targets.push(format!("{name}  {what:<13} {sign} {bound:>7}  {got:>9.2}  {word}"));
        }
        self.missed += row.targets.iter().filter(|target| !target.met()).count();
        self.rows.push(row.json());
    }

    pub(crate) fn end(self, file: Option<&Path>) -> Result<()> {
        if !self.targets.is_empty() {
            println!(
                "\nworkload, case, store, user function; what was to be reached, and what was"
            );
            self.targets.iter().for_each(|target| println!("{target}"));
        }
        println!("{} figures, {} targets missed", self.rows.len(), self.missed);
        let Some(file) = file else { return Ok(()) };
        let text =
            serde_json::to_string_pretty(&json!({"machine": self.machine, "rows": self.rows}))?;
        fs::write(file, text).with_context(|| format!("failed to write {}", file.display()))
    }
}

fn machine(flags: &Flags) -> Value {
    let said = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let postgres = format!("{}/postgres", testbed::postgres::PROGRAMS);
    json!({
        "processor": cpu.map(|(_, name)| name),
        "processors": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "kernel": said("uname", &["-sr"]),
        "commit": said("git", &["-C", env!("CARGO_MANIFEST_DIR"), "rev-parse", "HEAD"]),
        "changed": said("git", &["-C", env!("CARGO_MANIFEST_DIR"), "status", "--porcelain", "-uno"])
            .is_some_and(|files| !files.is_empty()),
        "rustc": said("rustc", &["--version"]),
        "postgres": said(&postgres, &["--version"]),
        "node": said("node", &["--version"]),
        "seconds": flags.run().as_secs_f64(),
        "runs": flags.runs,
    })
}

pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn micros_each(time: Duration, calls: u64) -> f64 {
    time.as_secs_f64() * 1e6 / calls.max(1) as f64
}
