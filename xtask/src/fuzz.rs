//! `cargo xtask fuzz`: what nobody would send, for longer than `cargo xtask test` tries it.
//!
//! The targets are tests of the proxy whose names begin with `fuzz_`; each takes real messages and changes them, with
//! the structure of protobuf or HTTP/2 in mind. They run in the test profile, so that an overflow is found as well.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, ensure};

use crate::{flags, run::cargo, test::seconds};

/// Runs every target for as long as the flags say.
///
/// # Errors
/// That a target failed; its input is printed.
pub fn run(root: &Path, flags: &flags::Fuzz) -> anyhow::Result<()> {
    // Another seed each time finds more, and the one that found something is printed.
    let seed = flags.seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        now.as_secs()
    });
    let time = Duration::from_secs(flags.seconds);
    println!("each target for {}, from seed {seed}", seconds(time));
    let mut command = cargo(root);
    command.args(["test", "--locked", "--package", "proxy", "--lib", "--test", "fuzz"]);
    command.args(["--no-fail-fast", "--", "fuzz_", "--nocapture"]);
    command.env("FUZZ_SECONDS", flags.seconds.to_string()).env("FUZZ_SEED", seed.to_string());
    if let Some(input) = &flags.input {
        command.env("FUZZ_INPUT", input);
    }
    let status = command.status().context("cannot run cargo")?;
    ensure!(status.success(), "a target cannot stand an input: see FUZZ_INPUT above");
    Ok(())
}
