//! `cargo xtask sim`: the proxy's state machines in simulated worlds, one for each seed.

use std::path::Path;

use anyhow::{Context as _, ensure};

use crate::{flags::Sim, run::cargo, test::Tally};

/// Seeds that `cargo xtask test` runs.
pub const SEEDS: u64 = 2_000;

/// Runs the worlds, and counts each as a test.
///
/// # Errors
/// When a promise is broken; its seed and what happened have been printed.
pub fn run(root: &Path, flags: &Sim, tally: &mut Tally) -> anyhow::Result<()> {
    let mut command = cargo(root);
    command.args(["run", "--locked", "--quiet", "-p", "proxy", "--features", "sim"]);
    if flags.release {
        command.arg("--release");
    }
    let (first, many) = match flags.seed {
        Some(seed) => (seed, flags.seeds.unwrap_or(1)),
        None => (0, flags.seeds.unwrap_or(SEEDS)),
    };
    let (first, many) = (first.to_string(), many.to_string());
    let status = command.args(["--example", "sim", "--", &first, &many]).status();
    let kept = status.context("cannot run cargo")?.success();
    if kept {
        tally.passed += 1;
    } else {
        tally.failed += 1;
    }
    ensure!(kept, "a promise of docs/promises.md is broken: the seed above breaks it again");
    Ok(())
}
