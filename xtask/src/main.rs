//! Every command that we run: `cargo xtask --help`.

mod bench;
mod carts;
mod chaos;
mod cluster;
mod codegen;
mod conformance;
mod digest;
mod down;
mod e2e;
mod first_calls;
mod flags;
mod fuzz;
mod golang;
mod host;
mod images;
mod install;
mod layout;
mod manifests;
mod network_hint;
mod parts;
mod planted;
mod progress;
mod run;
mod sim;
mod test;
mod tidy;
mod up;

use std::{path::Path, process::ExitCode};

use clap::Parser as _;
use flags::{Command, Flags};

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace");
    let outcome = match Flags::parse().command {
        Command::Up(flags) => up::run(&flags),
        Command::Down => down::run(),
        Command::Test => test::run(root),
        Command::Tidy => tidy::run(root),
        Command::Planted => planted::run(root, &mut test::Tally::default()),
        Command::Sim(flags) => sim::run(root, &flags, &mut test::Tally::default()),
        Command::Bench(passed) => bench::run(root, &passed.arguments),
        Command::Chaos(passed) => chaos::run(root, &passed.arguments),
        Command::Codegen => codegen::run(root),
        Command::Conformance(flags) => conformance::run(root, &flags.filters),
        Command::Fuzz(flags) => fuzz::run(root, &flags),
        Command::E2e(flags) => e2e::run(&flags),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
