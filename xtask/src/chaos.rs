//! `cargo xtask chaos`: builds proxy and testbed, and hands over to the testbed's program `chaos`, which kills
//! processes under load. `docs/chaos.md` tells what it kills and what must hold.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::{bench, layout, progress::Progress};

/// Kills, with these arguments for the program.
///
/// # Errors
/// When something cannot be built or installed, or a promise does not hold.
pub fn run(root: &Path, arguments: &[String]) -> Result<()> {
    bench::server(&Progress::start(layout::logs())?)?;
    bench::build(root, &[])?;
    let mut command = bench::program(root, &[], "chaos");
    ensure!(
        command.args(arguments).status().context("cannot run cargo")?.success(),
        "chaos failed"
    );
    Ok(())
}

/// A few kills of each kind.
///
/// # Errors
/// As [`run`].
pub fn short(root: &Path) -> Result<()> {
    run(root, &["--kills".to_owned(), "15".to_owned()])
}
