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
use testbed::postgres::Postgres;

use crate::{
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
const UNCHECKED: (&str, &str) = ("CLOUDSTATE_PROXY_PROTOCOL_COMPATIBILITY_CHECK", "false");

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

    let mut models = Function::models(&flags.models).start().await?;
    let chosen: Vec<_> =
        obligations::MODELS.iter().copied().flatten().filter(|test| wanted(test.name)).collect();
    for setup in setups().filter(|_| !chosen.is_empty()) {
        on_models(&parts, setup, &models, &chosen, &mut report).await?;
    }

    // Carts outlive the proxy, so they need a store that does.
    let setups = || setups().filter(|setup| setup.store != Store::InMemory);
    if carts::is_wanted("go_cart", wanted) {
        for setup in setups() {
            let cart = ("go_cart", &mut models);
            carts::check(&parts, setup, cart, &[], &mut report).await?;
        }
    }
    for (name, function) in [
        ("node_cart", Function::node(&flags.node)),
        ("python_cart", Function::python(&flags.python)),
    ] {
        if !carts::is_wanted(name, wanted) {
            continue;
        }
        let mut cart = function.start().await?;
        for setup in setups() {
            let cart = (name, &mut cart);
            carts::check(&parts, setup, cart, &[UNCHECKED], &mut report).await?;
        }
    }
    Ok(report)
}

/// Everything that holds in front of the models, in one proxy's life.
async fn on_models(
    parts: &Parts,
    setup: Setup,
    models: &function::Running,
    chosen: &[&Obligation],
    report: &mut Report,
) -> Result<()> {
    let column = setup.to_string();
    let mut stand = Stand::start(parts, setup, models.address, &[]).await?;
    let channel = stand.channel().await?;
    for obligation in chosen {
        let test = Test {
            wire: Arc::clone(&stand.wire),
            channel: channel.clone(),
            proxy: stand.proxy.calls(),
            id: obligation.name.replace("::", "-"),
        };
        report.add(obligation.name, &column, &obligation.check(test).await);
    }
    drop(channel);
    report.add("proxy::leaves_in_time", &column, &stand.leave().await);
    report.add("wire::nothing_else_was_said", &column, &stand.wire.silence());
    Ok(())
}
