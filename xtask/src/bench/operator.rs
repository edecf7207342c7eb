//! `cargo xtask bench operator`: the operator's program against the scripted API server, driven by the
//! program `operator-bench` of that crate, or in the cluster against the real one.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::{e2e, progress::Progress, run::cargo};

/// Measures the operator, with these arguments for the program; with `cluster`, that in the cluster on the real API
/// server.
///
/// # Errors
/// When something does not compile, or the operator does not get done.
pub(super) fn run(root: &Path, progress: &Progress, arguments: &[String]) -> Result<()> {
    if arguments == ["cluster"] {
        return e2e::measure();
    }
    progress.say("building for speed");
    let build =
        ["build", "--locked", "--quiet", "--release", "-p", "operator", "-p", "scripted-api"];
    let status = cargo(root).args(build).status().context("cannot run cargo")?;
    ensure!(status.success(), "the operator does not compile");
    let mut command = cargo(root);
    command.args(["run", "--locked", "--quiet", "--release", "-p", "scripted-api"]);
    command.args(["--bin", "operator-bench", "--"]).arg(root.join("target/release/operator"));
    let status = command.args(arguments).status().context("cannot run cargo")?;
    ensure!(status.success(), "bench operator failed");
    Ok(())
}
