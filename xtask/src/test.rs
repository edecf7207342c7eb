//! `cargo xtask test`: everything that must hold, in the order from cheap to dear.
//!
//! A step that fails does not hide the ones after it. The last line counts every test that ran.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use xshell::Shell;

use crate::{
    bench, chaos, conformance,
    e2e::{self, Cluster},
    flags::Sim,
    host, layout, planted,
    progress::Progress,
    run::cargo,
    sim, tidy,
};

/// Tests that ran, and how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub passed: usize,
    pub failed: usize,
}

/// How one step ended.
struct Step {
    name: &'static str,
    took: Duration,
    tally: Tally,
    outcome: anyhow::Result<()>,
}

/// Runs every step.
///
/// # Errors
/// Names the steps that failed.
pub fn run(root: &Path) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut cluster = None;
    let steps = [
        step("format", |_| check(root, &["fmt", "--all", "--check"])),
        step("lints", |_| {
            let clippy = ["clippy", "--locked", "--workspace", "--all-targets"];
            check(root, &[&clippy[..], &["--", "--deny", "warnings"]].concat())
        }),
        step("tidy", |_| tidy::run(root)),
        step("servers", |_| install_servers()),
        step("tests", |tally| cargo_test(root, tally)),
        step("sim", |tally| sim::run(root, &Sim::default(), tally)),
        step("planted", |tally| planted::run(root, tally)),
        step("bench", |_| bench::short(root)),
        step("conformance", |tally| conformance::drive(root, &[], tally)),
        step("chaos", |_| chaos::short(root)),
        step("cluster", |_| {
            cluster = Some(Cluster::prepare()?);
            Ok(())
        }),
        step("e2e", |tally| match &cluster {
            Some(cluster) => e2e::run_on(cluster, &[], tally),
            None => bail!("no scenario can run without the cluster"),
        }),
    ];
    println!("\nsummary, {} in all", seconds(begun.elapsed()));
    let mut total = Tally::default();
    let mut failed = Vec::new();
    for Step { name, took, tally, outcome } in &steps {
        let counted = match tally {
            Tally { passed: 0, failed: 0 } => String::new(),
            Tally { passed, failed } => format!("  {passed} passed, {failed} failed"),
        };
        println!("  {name:<12}{:<8}{:>8}{counted}", word(outcome), seconds(*took));
        if outcome.is_err() {
            failed.push(*name);
        }
        total.passed += tally.passed;
        total.failed += tally.failed;
    }
    println!("tests: {} passed, {} failed", total.passed, total.failed);
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

/// Runs one step between two lines that say what and how long. The tally is filled in as tests end,
/// so that it also holds for a step that breaks off.
fn step(name: &'static str, work: impl FnOnce(&mut Tally) -> anyhow::Result<()>) -> Step {
    println!("\n== {name}");
    let begun = Instant::now();
    let mut tally = Tally::default();
    let outcome = work(&mut tally);
    let took = begun.elapsed();
    if let Err(error) = &outcome {
        println!("error: {error:#}");
    }
    println!("== {name}: {} ({})", word(&outcome), seconds(took));
    Step { name, took, tally, outcome }
}

fn word(outcome: &anyhow::Result<()>) -> &'static str {
    if outcome.is_ok() { "ok" } else { "FAILED" }
}

/// Elapsed time for a person.
pub fn seconds(time: Duration) -> String {
    format!("{:.1}s", time.as_secs_f64())
}

fn check(root: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    let status = cargo(root).args(arguments).status().context("cannot run cargo")?;
    ensure!(status.success(), "cargo {} says no", arguments.join(" "));
    Ok(())
}

/// What tests run against comes from Debian's archive.
pub fn install_servers() -> anyhow::Result<()> {
    let postgres = format!("{}/postgres", testbed::postgres::PROGRAMS);
    host::ensure_packages(
        &Shell::new()?,
        &Progress::start(layout::logs())?,
        &[(testbed::postgres::PACKAGE, &postgres), ("openjdk-17-jdk-headless", "/usr/bin/javac")],
    )
}

/// Every test of the workspace, shown as it runs and counted.
fn cargo_test(root: &Path, tally: &mut Tally) -> anyhow::Result<()> {
    let mut child = cargo(root)
        .args(["test", "--locked", "--workspace", "--no-fail-fast"])
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo")?;
    let lines = BufReader::new(child.stdout.take().context("cargo has no output")?);
    for line in lines.lines() {
        let line = line.context("cannot read cargo's output")?;
        println!("{line}");
        if let Some(Tally { passed, failed }) = result_line(&line) {
            tally.passed += passed;
            tally.failed += failed;
        }
    }
    let status = child.wait().context("cannot wait for cargo")?;
    ensure!(status.success(), "tests failed, or did not compile");
    Ok(())
}

/// Reads `test result: ok. 3 passed; 0 failed; …`, with which each test program ends.
pub fn result_line(line: &str) -> Option<Tally> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |what: &str| {
        let number = counts.split("; ").find_map(|part| part.strip_suffix(what))?;
        number.trim().parse().ok()
    };
    Some(Tally { passed: count("passed")?, failed: count("failed")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_counted() {
        let line = "test result: FAILED. 12 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(result_line(line), Some(Tally { passed: 12, failed: 1 }));
        assert_eq!(result_line("test tidy::tests::x ... ok"), None);
    }

    #[test]
    fn a_step_that_breaks_off_keeps_its_count() {
        let step = step("sample", |tally| {
            tally.failed = 2;
            anyhow::bail!("broke off")
        });
        assert_eq!(step.tally, Tally { passed: 0, failed: 2 });
        assert!(step.outcome.is_err());
    }
}
