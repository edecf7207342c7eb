//! Drives user functions that others wrote through the proxy, and looks at the wire between them.
//!
//! `cargo xtask conformance` builds the parts and runs this; `docs/conformance.md` tells which
//! obligation is which test.

#![expect(unreachable_pub, reason = "in a program, `pub` says what a module offers to the others")]

mod caller;
mod carts;
mod function;
mod models;
mod obligations;
mod report;
mod say;
mod stand;
mod suite;
mod wire;

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Instant};

use anyhow::Result;
use clap::Parser;
use futures::{StreamExt as _, stream};
use testbed::postgres::Postgres;

use crate::{
    carts::Cart,
    function::Function,
    report::Report,
    stand::{Parts, Setup, Stand, Store},
    suite::{Obligation, Test},
};

/// Drives user functions that others wrote through the proxy.
#[derive(Debug, Parser)]
struct Flags {
    /// The proxy's program
    #[arg(long)]
    proxy: PathBuf,
    /// The program that serves the models of the Go library
    #[arg(long)]
    models: PathBuf,
    /// The folder of the cart on the Node library
    #[arg(long)]
    node: PathBuf,
    /// The folder of the cart on the Python library
    #[arg(long)]
    python: PathBuf,
    /// Run only on stores and bounds whose name contains this, such as `sqlite/1`
    #[arg(long, default_value = "")]
    on: String,
    /// Run only tests whose name contains one of these
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

/// The stores and bounds that everything is tried with.
const SETUPS: [Setup; 6] = [
    Setup { store: Store::InMemory, max_in_flight: 1 },
    Setup { store: Store::InMemory, max_in_flight: 32 },
    Setup { store: Store::Sqlite, max_in_flight: 1 },
    Setup { store: Store::Sqlite, max_in_flight: 32 },
    Setup { store: Store::Postgres, max_in_flight: 1 },
    Setup { store: Store::Postgres, max_in_flight: 32 },
];

/// These libraries say no version.
const UNCHECKED: &[(&str, &str)] = &[("CLOUDSTATE_PROXY_PROTOCOL_COMPATIBILITY_CHECK", "false")];

/// That the proxy gets ready at the beginning and goes in peace at the end.
const SERVES: &str = "proxy::serves_and_leaves";
/// That there was nothing on the wire but what tests expected.
const SILENT: &str = "wire::nothing_else_was_said";

#[tokio::main]
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "this program talks to a person")]
async fn main() -> ExitCode {
    let begun = Instant::now();
    let report = match run(&Flags::parse()).await {
        Ok(report) => report,
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let (passed, failed) = report.counts();
    println!("\n{report}\n\n{:.1} s", begun.elapsed().as_secs_f64());
    println!("conformance: {passed} passed, {failed} failed");
    if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn run(flags: &Flags) -> Result<Report> {
    let wanted = |name: &str| {
        flags.filters.is_empty() || flags.filters.iter().any(|filter| name.contains(filter))
    };
    let parts = Parts { proxy: flags.proxy.clone(), postgres: Postgres::start().await? };
    let setups = || SETUPS.into_iter().filter(|setup| setup.to_string().contains(&flags.on));
    let mut report = Report::default();
    let chosen: Vec<_> =
        obligations::MODELS.iter().copied().flatten().filter(|test| wanted(test.name)).collect();
    if !chosen.is_empty() {
        let models = Function::models(&flags.models).start().await?;
        let all = setups().map(|setup| on_models(&parts, setup, &models, &chosen));
        run_all(all, &mut report).await;
    }
    let carts = [
        Cart { name: "go_cart", function: Function::models(&flags.models), settings: &[] },
        Cart { name: "node_cart", function: Function::node(&flags.node), settings: UNCHECKED },
        Cart {
            name: "python_cart",
            function: Function::python(&flags.python),
            settings: UNCHECKED,
        },
    ];
    // Carts outlive the proxy, so they need a store that does.
    let setups = || setups().filter(|setup| setup.store != Store::InMemory);
    let wanted = carts.iter().filter(|cart| cart.is_wanted(wanted));
    let all = wanted.flat_map(|cart| setups().map(|setup| cart.check(&parts, setup)));
    run_all(all, &mut report).await;
    Ok(report)
}

/// Runs a few at a time, since each of them mostly waits.
async fn run_all(all: impl Iterator<Item = impl Future<Output = Report>>, report: &mut Report) {
    const AT_ONCE: usize = 3;
    let mut parts = stream::iter(all).buffered(AT_ONCE);
    while let Some(part) = parts.next().await {
        report.add_all(part);
    }
}

/// What holds in front of the models, with one setup.
async fn on_models(
    parts: &Parts,
    setup: Setup,
    models: &function::Running,
    chosen: &[&Obligation],
) -> Report {
    let mut report = Report::new(setup);
    let outcome = in_one_life(parts, setup, models, chosen, &mut report).await;
    report.add(SERVES, &outcome);
    report
}

/// The same, from the proxy's beginning to its end.
async fn in_one_life(
    parts: &Parts,
    setup: Setup,
    models: &function::Running,
    chosen: &[&Obligation],
    report: &mut Report,
) -> Result<()> {
    let mut stand = Stand::start(parts, setup, models.address, &[]).await?;
    let channel = stand.channel().await?;
    for obligation in chosen {
        let test = Test {
            wire: Arc::clone(&stand.wire),
            channel: channel.clone(),
            proxy: stand.proxy.calls(),
            info: stand.info.clone(),
            id: obligation.name.replace("::", "-"),
        };
        report.add(obligation.name, &obligation.check(test).await);
    }
    drop(channel);
    let left = stand.leave().await;
    report.add(SILENT, &stand.wire.silence());
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_test_is_documented_with_what_it_shows() {
        let docs = include_str!("../../../docs/conformance.md");
        let models = obligations::MODELS.iter().copied().flatten().map(|test| test.name.to_owned());
        let carts = carts::STEPS.iter().map(|step| format!("…::{step}"));
        for name in models.chain(carts).chain([SERVES.to_owned(), SILENT.to_owned()]) {
            assert!(docs.contains(&format!("`{name}`")), "docs/conformance.md lacks {name}");
        }
    }
}
