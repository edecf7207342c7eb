//! `cargo xtask bench`: builds for speed, brings what the counter on Node needs, and hands over to the program
//! `bench` of the testbed. `docs/benchmarks.md` tells what it measures.

mod launcher;
mod operator;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use testbed::postgres;
use xshell::Shell;

use crate::{carts, digest::Digest, host, layout, progress::Progress, run::cargo};

/// Longest time for installing packages from the Node registry.
const NPM_LIMIT: Duration = Duration::from_mins(5);
/// Files of the counter on Node.
const NODE_FILES: [&str; 3] = ["counter.js", "package.json", "package-lock.json"];

/// Measures, with these arguments for the program.
///
/// # Errors
/// When something cannot be built or installed, or a workload fails.
pub fn run(root: &Path, arguments: &[String]) -> Result<()> {
    let progress = Progress::start(layout::logs())?;
    match arguments.split_first().map(|(first, rest)| (&**first, rest)) {
        Some(("launcher", rest)) => return launcher::run(root, &progress, rest),
        Some(("operator", rest)) => return operator::run(root, &progress, rest),
        _ => {}
    }
    let node = node(&progress)?;
    progress.say("building for speed");
    build(root, &["--release"])?;
    let json = figures(root)?.join("figures.json");
    let mut command = program(root, &["--release"], "bench");
    command.arg("--node").arg(node).arg("--json").arg(&json).args(arguments);
    ensure!(command.status().context("cannot run cargo")?.success(), "bench failed");
    Ok(())
}

/// Where figures are left for comparisons.
fn figures(root: &Path) -> Result<PathBuf> {
    let folder = root.join("target/bench");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    Ok(folder)
}

/// Every workload for a moment: whether it works and every reply is right, not how fast.
///
/// # Errors
/// As [`run`].
pub fn short(root: &Path) -> Result<()> {
    let progress = Progress::start(layout::logs())?;
    let node = node(&progress)?;
    build(root, &[])?;
    launcher::short(root, &progress)?;
    let mut command = program(root, &[], "bench");
    command.arg("--node").arg(node);
    ensure!(
        command
            .args(["--short", "--store", "postgres"])
            .status()
            .context("cannot run cargo")?
            .success(),
        "bench failed"
    );
    Ok(())
}

/// Builds the proxy, and the programs that drive it.
///
/// # Errors
/// When it does not compile.
pub fn build(root: &Path, profile: &[&str]) -> Result<()> {
    let build = ["build", "--locked", "--quiet", "--package", "proxy", "--package", "testbed"];
    let status = cargo(root).args(build).args(profile).status().context("cannot run cargo")?;
    ensure!(status.success(), "proxy and testbed do not compile");
    Ok(())
}

/// One of the testbed's programs, ready for its own arguments.
pub fn program(root: &Path, profile: &[&str], name: &str) -> Command {
    let mut command = cargo(root);
    command.args(["run", "--locked", "--quiet", "--package", "testbed", "--bin", name]);
    command.args(profile).arg("--");
    command
}

/// Installs Postgres.
///
/// # Errors
/// When it cannot be installed.
pub fn server(progress: &Progress) -> Result<()> {
    let path = format!("{}/postgres", postgres::PROGRAMS);
    host::ensure_packages(&Shell::new()?, progress, &[(postgres::PACKAGE, &path)])
}

/// Installs Postgres and Node, and gives the folder of the counter on Node with its packages.
fn node(progress: &Progress) -> Result<PathBuf> {
    server(progress)?;
    carts::ensure_node(&Shell::new()?, progress)?;
    let source = layout::root().join("crates/testbed/node");
    let mut digest = Digest::new();
    for file in NODE_FILES {
        let path = source.join(file);
        digest.part(file, &fs::read(&path).with_context(|| format!("read {}", path.display()))?);
    }
    let folder = layout::cache().join(format!("counter-node-{}", digest.short()));
    if folder.is_dir() {
        return Ok(folder);
    }
    progress.say("installing the Node packages of the counter");
    let partial = folder.with_extension(format!("partial-{}", std::process::id()));
    fs::create_dir_all(&partial).with_context(|| format!("create {}", partial.display()))?;
    for file in NODE_FILES {
        fs::copy(source.join(file), partial.join(file)).with_context(|| format!("copy {file}"))?;
    }
    let mut npm = Command::new("npm");
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&partial);
    progress.run("npm", npm, NPM_LIMIT)?;
    fs::rename(&partial, &folder).with_context(|| format!("rename to {}", folder.display()))?;
    Ok(folder)
}
