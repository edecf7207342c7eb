//! Measures the proxy as a whole: callers, proxy, user function and store, each a process of its own on one
//! machine. `docs/benchmarks.md` tells what the workloads are; `cargo xtask bench` builds and runs this.

#![allow(clippy::print_stdout, reason = "a program whose output is its purpose")]
#![allow(
    clippy::cast_precision_loss,
    reason = "figures for people; none comes near what a double holds exactly"
)]

mod flags;
mod life;
mod overload;
mod recovery;
mod report;
mod stand;
mod steady;

use anyhow::{Context as _, Result, ensure};
use clap::Parser as _;
use testbed::postgres::Postgres;

use flags::{Flags, Function, Store, Workload};
use report::Report;
use stand::Bench;

/// One thread for all callers: more would take from what they call.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let flags = Flags::parse();
    let postgres = if flags.stores().contains(&Store::Postgres) {
        Some(Postgres::start_on_disk().await.context("failed to start Postgres")?)
    } else {
        None
    };
    let mut report = Report::begin(&flags);
    let mut failed = Vec::new();
    for store in flags.stores() {
        for function in flags.functions() {
            let bench = Bench::new(&flags, store, function, postgres.as_ref());
            for workload in flags.workloads() {
                if !measures(workload, function) {
                    continue;
                }
                // The next workload can be measured all the same.
                if let Err(error) = run(workload, &bench, &mut report).await {
                    let name = format!("{workload:?} on {store:?} with {function:?}");
                    println!("{name} FAILED: {error:#}");
                    failed.push(name);
                }
            }
        }
    }
    report.end(flags.json.as_deref())?;
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

/// The counter on Node is event sourced only; and what concerns the proxy alone is measured once.
fn measures(workload: Workload, function: Function) -> bool {
    use Workload::{W1, W3, W4, W9, W10};
    function == Function::Rust || matches!(workload, W1 | W3 | W4 | W9 | W10)
}

async fn run(workload: Workload, bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    match workload {
        Workload::W1 => steady::many_entities(bench, report).await,
        Workload::W3 => steady::hot_entity(bench, report).await,
        Workload::W4 => steady::reads(bench, report).await,
        Workload::W5 => steady::values(bench, report).await,
        Workload::W6 => steady::action(bench, report).await,
        Workload::W9 => steady::new_entities(bench, report).await,
        Workload::W10 => recovery::replay(bench, report).await,
        Workload::W11 => life::start_and_drain(bench, report).await,
        Workload::W12 => life::memory(bench, report).await,
        Workload::W13 => overload::three_times(bench, report).await,
    }
}
