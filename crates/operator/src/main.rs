//! The program `operator`: flags, runtime and exit code; the work is in the library.

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

/// Keeps the objects of every StatefulService as translated. It is configured by its environment
/// and a ConfigMap; see docs/operator.md.
#[derive(Debug, Parser)]
#[command(name = "operator", version)]
struct Flags {}

fn main() -> ExitCode {
    if let Err(error) = Flags::try_parse() {
        // Nowhere to go when the terminal is gone.
        let _ = error.print();
        return match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
            _ => ExitCode::from(api::contract::exit::USAGE),
        };
    }
    operator::run()
}
