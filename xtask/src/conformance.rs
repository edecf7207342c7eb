//! `cargo xtask conformance`: user functions that others wrote, driven through the proxy.
//!
//! Gets the user functions, builds proxy and driver, and runs the driver (`crates/conformance`).

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use xshell::Shell;

use crate::{
    carts,
    golang::Go,
    layout, parts,
    progress::Progress,
    run::cargo,
    test::{Tally, install_servers},
};

/// Builds proxy and driver, and runs the tests whose names contain one of the filters, or all.
///
/// # Errors
/// That a test failed, or that a part cannot be had.
pub fn run(root: &Path, filters: &[String]) -> Result<()> {
    let mut build = cargo(root);
    build.args(["build", "--locked", "--package", "proxy", "--package", "conformance"]);
    let status = build.status().context("cannot run cargo")?;
    ensure!(status.success(), "proxy or driver did not compile");
    drive(root, filters, &mut Tally::default())
}

/// Runs the tests with the programs that are there, and counts them. The tests of the workspace leave both
/// programs behind; built by themselves they would want most crates again, with other features.
///
/// # Errors
/// That a test failed, or that a part cannot be had.
pub fn drive(root: &Path, filters: &[String], tally: &mut Tally) -> Result<()> {
    let progress = Progress::start(layout::logs())?;
    let sh = Shell::new()?;
    let models = if parts::TCK_MODELS.is_built()? {
        parts::TCK_MODELS.folder()?
    } else {
        parts::TCK_MODELS.build(&progress, &Go::find(&sh, &progress)?)?
    };
    let node = carts::node(&sh, &progress)?;
    let python = carts::python(&sh, &progress)?;
    install_servers()?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let programs = target.join("debug");
    progress.say("driving the user functions through the proxy, on every store");
    let mut driver = Command::new(programs.join("conformance"));
    driver.arg("--proxy").arg(programs.join("proxy"));
    driver.arg("--models").arg(models.join("tck-models"));
    driver.arg("--node").arg(node).arg("--python").arg(python).args(filters);
    let mut child = driver.stdout(Stdio::piped()).spawn().context("cannot run the driver")?;
    let lines = BufReader::new(child.stdout.take().context("the driver has no output")?);
    for line in lines.lines() {
        let line = line.context("cannot read the driver's output")?;
        println!("{line}");
        if let Some(counted) = closing_line(&line) {
            *tally = counted;
        }
    }
    let status = child.wait().context("cannot wait for the driver")?;
    ensure!(status.success(), "some do not conform");
    Ok(())
}

/// Reads `conformance: 3 passed, 0 failed`, with which the driver ends.
fn closing_line(line: &str) -> Option<Tally> {
    let (passed, failed) = line.strip_prefix("conformance: ")?.split_once(" passed, ")?;
    let failed = failed.strip_suffix(" failed")?;
    Some(Tally { passed: passed.parse().ok()?, failed: failed.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_line_is_counted() {
        let tally = closing_line("conformance: 12 passed, 1 failed");
        assert_eq!(tally, Some(Tally { passed: 12, failed: 1 }));
        assert_eq!(closing_line("conformance: building"), None);
    }
}
