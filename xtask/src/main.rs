//! Every command that we run: `cargo xtask --help`.

mod flags;

use std::process::ExitCode;

use clap::Parser as _;
use flags::{Command, Flags};

fn main() -> ExitCode {
    let outcome = match Flags::parse().command {
        Command::Up(_flags) => Err(anyhow::anyhow!("not built yet")),
        Command::Down => Err(anyhow::anyhow!("not built yet")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
