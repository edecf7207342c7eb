//! `cargo xtask bench launcher`: the launcher as it ships beside tini as Debian has it, measured by the program
//! `launcher-bench` of the testbed.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use xshell::Shell;

use super::{build, figures, program};
use crate::{host, images, progress::Progress, run::cargo};

/// The package of what the launcher is compared with, and its program.
const TINI: (&str, &str) = ("tini", "/usr/bin/tini");

/// Measures the launcher, with these arguments for the program.
///
/// # Errors
/// When something cannot be built or installed, or what is measured does not do as it should.
pub(super) fn run(root: &Path, progress: &Progress, arguments: &[String]) -> Result<()> {
    host::ensure_packages(&Shell::new()?, progress, &[TINI])?;
    progress.say("building for speed");
    build(root, &["--release"])?;
    let launcher = images::launcher(progress)?;
    let json = figures(root)?.join("launcher.json");
    let mut command = program(root, &["--release"], "launcher-bench");
    command.args(["--tini", TINI.1, "--launcher"]).arg(launcher).arg("--json").arg(json);
    let status = command.args(arguments).status().context("cannot run cargo")?;
    ensure!(status.success(), "bench launcher failed");
    Ok(())
}

/// Everything for a moment: whether it works, not how fast.
///
/// # Errors
/// As [`run`].
pub(super) fn short(root: &Path, progress: &Progress) -> Result<()> {
    host::ensure_packages(&Shell::new()?, progress, &[TINI])?;
    let debug = ["build", "--locked", "--quiet", "--package", "proxy-launcher"];
    let status = cargo(root).args(debug).status().context("cannot run cargo")?;
    ensure!(status.success(), "the launcher does not compile");
    let mut command = program(root, &[], "launcher-bench");
    command.args(["--short", "--tini", TINI.1, "--launcher"]);
    let status = command.arg(root.join("target/debug/proxy-launcher")).status();
    ensure!(status.context("cannot run cargo")?.success(), "bench launcher failed");
    Ok(())
}
