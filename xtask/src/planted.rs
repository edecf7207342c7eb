//! `cargo xtask planted`: bugs on purpose, each of which a test must notice.
//!
//! One build, one test for each bug of the proxy (`crates/proxy/src/planted.rs`), which the simulation
//! notices, and one that plants nothing; and the same for the operator (`crates/operator/src/planted.rs`),
//! whose bugs are noticed on the scripted API server.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::Stdio,
};

use anyhow::{Context as _, ensure};

use crate::{
    run::cargo,
    test::{Tally, result_line},
};

/// The bugs of one program.
struct Bugs {
    package: &'static str,
    /// Which of its tests plant them.
    target: &'static [&'static str],
    /// In front of the names of those tests.
    module: &'static str,
    /// As many as there are: fewer would mean that tests were not found.
    at_least: usize,
}

const ALL: [Bugs; 2] = [
    Bugs { package: "proxy", target: &["--lib"], module: "planted::tests::", at_least: 28 },
    Bugs {
        package: "operator",
        target: &["--test", "scripted"],
        module: "planted::",
        at_least: 23,
    },
];

/// Plants every bug, and prints what noticed it.
///
/// # Errors
/// When one is not noticed, or when something is noticed although nothing is planted.
pub fn run(root: &Path, tally: &mut Tally) -> anyhow::Result<()> {
    ALL.iter().try_for_each(|bugs| plant(root, bugs, tally))
}

fn plant(root: &Path, bugs: &Bugs, tally: &mut Tally) -> anyhow::Result<()> {
    let Bugs { package, target, module, at_least } = bugs;
    let mut child = cargo(root)
        .args(["test", "--locked", "--quiet", "-p", package, "--features", "planted"])
        .args(*target)
        .args(["planted::", "--", "--show-output"])
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo")?;
    let lines = BufReader::new(child.stdout.take().context("cargo has no output")?);
    let (mut test, mut caught) = (String::new(), Vec::new());
    for line in lines.lines() {
        let line = line.context("cannot read cargo's output")?;
        if let Some(name) = output_of(&line, module) {
            name.clone_into(&mut test);
        }
        if let Some(Tally { passed, failed }) = result_line(&line) {
            tally.passed += passed;
            tally.failed += failed;
        }
        match row(&line, &test) {
            Some(row) => caught.push(row),
            // Where a bug is to be noticed by a panic, that is in the row.
            None if line.contains("is not noticed") => println!("{line}"),
            None if line.contains("panicked at") && *package == "proxy" => println!("{line}"),
            None => {}
        }
    }
    caught.sort();
    println!("{:<22}{:<9}caught by", "planted", "promise");
    for line in &caught {
        println!("{line}");
    }
    println!("{}: {} bugs planted and caught", package, caught.len());
    ensure!(child.wait()?.success(), "not every planted bug is caught by the test named for it");
    ensure!(caught.len() >= *at_least, "{} bugs were planted: too few", caught.len());
    Ok(())
}

/// The test of whose output the lines behind this one are: `---- planted::tests::x stdout ----`.
fn output_of<'a>(line: &'a str, module: &str) -> Option<&'a str> {
    line.strip_prefix("---- ")?.strip_prefix(module)?.strip_suffix(" stdout ----")
}

/// One row of the table, out of `planted<TAB>bug<TAB>promise<TAB>seed<TAB>what`, or without promise and
/// seed where there are none.
fn row(line: &str, test: &str) -> Option<String> {
    let fields: Vec<_> = line.strip_prefix("planted\t")?.split('\t').collect();
    match fields[..] {
        [bug, promise, seed, what, ..] => {
            Some(format!("{bug:<22}{promise:<9}{test} (seed {seed}: {what})"))
        }
        [bug, what] => Some(format!("{bug:<22}{:<9}{test} ({what})", "")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_names_bug_promise_and_test() {
        let test =
            output_of("---- planted::tests::a_lost_one_is_caught stdout ----", "planted::tests::");
        let test = test.unwrap();
        let row = row("planted\tQueueLost\tI8\t3\t1 command waits", test).unwrap();
        assert_eq!(
            row,
            "QueueLost             I8       a_lost_one_is_caught (seed 3: 1 command waits)"
        );
    }
}
