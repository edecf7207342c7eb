//! Every command that we run: `cargo xtask --help`.

mod codegen;
mod e2e;
mod flags;
mod run;
mod test;
mod tidy;

use std::{path::Path, process::ExitCode};

use clap::Parser as _;
use flags::{Command, Flags};

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace");
    let outcome = match Flags::parse().command {
        Command::Up(_flags) => Err(anyhow::anyhow!("not built yet")),
        Command::Down => Err(anyhow::anyhow!("not built yet")),
        Command::Test => test::run(root),
        Command::Tidy => tidy::run(root),
        Command::Codegen => codegen::run(root),
        Command::E2e(flags) => e2e::run(root, &flags.filters, &mut test::Tally::default()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
