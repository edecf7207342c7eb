//! `cargo xtask e2e`: what only a real cluster can prove.
//!
//! Each scenario gets a namespace of its own and looks at the cluster as a user would, with `kubectl`
//! and `grpcurl`. What has to happen in time is awaited with a deadline, and missing it is a failure, shown with what the
//! cluster has to say about it. Only what has to happen within a second or two is done anew when it was late, for the
//! machine may pause for that long.

mod audit;
mod calls;
mod cluster;
mod crowd;
mod evidence;
mod http;
mod jvm;
mod load;
mod namespace;
mod operators;
mod processes;
mod proxy;
mod relay;
mod rights;
mod scenarios;
mod wait;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};

pub use self::cluster::Cluster;
use self::{namespace::Namespace, scenarios::Scenario};
use crate::{
    flags,
    test::{Tally, seconds},
};

/// Scenarios at a time. They mostly wait for the cluster, which has two cores.
const WORKERS: usize = 4;

/// What all scenarios together may take. Silence, leases that run out and rollouts in waves take as long as they
/// take; most of them beside the others.
/// Sidecars that are given up, or found to hang, take half a minute each by what the launcher promises.
const BUDGET: Duration = Duration::from_mins(10);

/// Longest text that is told twice, in characters.
const REASON_MAX: usize = 600;

/// What is looked at when all scenarios have run.
const RIGHTS: &str = "rights_used_by_all_scenarios_are_those_granted";

/// Brings the cluster up and runs the scenarios whose names contain one of the filters, or all.
///
/// # Errors
/// That a scenario failed, that all took too long, or that the cluster cannot be had.
pub fn run(flags: &flags::E2e) -> anyhow::Result<()> {
    choose(&flags.filters)?;
    let cluster = Cluster::prepare().context("the scenarios need the cluster")?;
    let cluster = cluster.with_silence(Duration::from_secs(flags.silence));
    run_on(&cluster, &flags.filters, &mut Tally::default())
}

/// Measures on the cluster, alone, what only a real one can tell.
///
/// # Errors
/// That something could not be measured, or that the cluster cannot be had.
pub fn measure() -> anyhow::Result<()> {
    let cluster = Cluster::prepare().context("there is nothing to measure without the cluster")?;
    cluster.remove_leftovers()?;
    let report = Report::default();
    run_all(&cluster, &scenarios::MEASUREMENTS.iter().collect::<Vec<_>>(), 1, &report);
    let (_, failed) = report.into_inner().unwrap_or_else(PoisonError::into_inner);
    ensure!(failed.is_empty(), "failed:\n{}", failed.join("\n"));
    Ok(())
}

/// Runs the scenarios, and counts them.
///
/// # Errors
/// That a scenario failed, or that all took too long.
pub fn run_on(cluster: &Cluster, filters: &[String], tally: &mut Tally) -> anyhow::Result<()> {
    let chosen = choose(filters)?;
    cluster.remove_leftovers()?;

    let begun = Instant::now();
    let (alone, together): (Vec<_>, Vec<_>) =
        chosen.into_iter().partition(|scenario| scenario.alone);
    let report = Report::default();
    run_all(cluster, &together, WORKERS, &report);
    run_all(cluster, &alone, 1, &report);
    let took = begun.elapsed();

    let (mut counted, mut failed) = report.into_inner().unwrap_or_else(PoisonError::into_inner);
    // Some of the scenarios need not use all rights.
    if filters.is_empty() {
        match cluster.rights.balance() {
            Ok(lines) => {
                println!("test e2e::{RIGHTS} ... ok");
                counted.passed += 1;
                for line in lines {
                    println!("     {line}");
                }
            }
            Err(error) => {
                println!("test e2e::{RIGHTS} ... FAILED\n     {error:#}");
                counted.failed += 1;
                failed.push(reason(RIGHTS, &error));
            }
        }
    }
    println!("took {}", seconds(took));
    println!("e2e: {} passed, {} failed", counted.passed, counted.failed);
    *tally = counted;
    ensure!(failed.is_empty(), "failed:\n{}", failed.join("\n"));
    let budget = BUDGET + cluster.longer_silence();
    ensure!(took <= budget, "all passed, and took longer than {}", seconds(budget));
    Ok(())
}

/// The scenarios whose names contain one of the filters, or all.
fn choose(filters: &[String]) -> anyhow::Result<Vec<&'static Scenario>> {
    let chosen: Vec<_> = scenarios::ALL
        .iter()
        .filter(|scenario| {
            filters.is_empty()
                || filters.iter().any(|filter| scenario.name.contains(filter.as_str()))
        })
        .collect();
    ensure!(!chosen.is_empty(), "no scenario has {} in its name", filters.join(" or "));
    Ok(chosen)
}

/// What was counted, and why which scenario failed: told once more at the end, where it is looked for.
type Report = Mutex<(Tally, Vec<String>)>;

fn reason(name: &str, error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    let first: String = text.lines().next().unwrap_or_default().chars().take(REASON_MAX).collect();
    format!("  {name}: {first}")
}

/// Runs scenarios on so many threads, each taking the next that is left.
fn run_all(cluster: &Cluster, scenarios: &[&'static Scenario], workers: usize, report: &Report) {
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(scenario) = scenarios.get(next.fetch_add(1, Ordering::Relaxed)) {
            run_one(cluster, scenario, report);
        }
    };
    thread::scope(|scope| {
        for _ in 0..workers.min(scenarios.len()) {
            scope.spawn(work);
        }
    });
}

/// Runs one scenario and prints its line, with notes or evidence below.
fn run_one(cluster: &Cluster, scenario: &'static Scenario, report: &Report) {
    let name = scenario.name;
    let begun = Instant::now();
    let mut namespace = Namespace::new(cluster, name);
    // A scenario that panics is one that failed; the others go on.
    let run = AssertUnwindSafe(|| {
        namespace.create()?;
        (scenario.run)(&mut namespace)?;
        namespace.remove()
    });
    let outcome = catch_unwind(run).unwrap_or_else(|_| bail!("panicked, see above"));
    let took = seconds(begun.elapsed());
    let evidence = match &outcome {
        Ok(()) => String::new(),
        Err(_) => evidence::collect(&namespace, begun.elapsed()),
    };
    // The lock also keeps the lines of one scenario together.
    let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
    match outcome {
        Ok(()) => {
            println!("test e2e::{name} ... ok ({took})");
            report.0.passed += 1;
        }
        Err(error) => {
            println!("test e2e::{name} ... FAILED ({took})\n     {error:#}\n{evidence}");
            report.0.failed += 1;
            report.1.push(reason(name, &error));
        }
    }
    for note in &namespace.notes {
        println!("     {note}");
    }
}
